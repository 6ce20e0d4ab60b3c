"""The sums of layers against a plain loop nest over pixels (tests/support/operations.py)."""

import random
from dataclasses import replace

import pytest

from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.perf.cycles import DESCRIPTOR_TO_SUM, SUM_TO_SUM
from hyperdrive_hdl.rtl.layouts import number_bits
from hyperdrive_hdl.rtl.sums import SumWalker
from tests.support.operations import Comparison, descriptor, random_conv, sums
from tests.support.streams import Stalls, simulate


def chip(lanes, rows, cols, **changes) -> ChipConfig:
    return ChipConfig(
        lanes=lanes, tile_rows=rows, tile_cols=cols, fmm_banks=4, fmm_bank_depth=1024, wbuf_depth=27
    ).replace(**changes)


CHIPS = [
    chip(1, 1, 1),
    chip(3, 2, 1, format="fp8_e4m3"),  # two words for a stored sum
    chip(4, 1, 3, adder_latency=3),
    chip(2, 1, 2, link_width=4, border_depth=256),
    chip(2, 2, 2, wbuf_depth=31, format="q2.9", accumulator="exact"),
]
chips = pytest.mark.parametrize(
    "config", CHIPS, ids=lambda c: f"{c.lanes}x{c.tile_rows}x{c.tile_cols}-{c.format}"
)


def run(config, layers, *, seed=None) -> tuple[list[int], dict[str, int]]:
    """Walk some (layer, place) and compare every sum; cycles in which sums were taken, and waits by reason.

    With a ``seed``, descriptors and the consumer stall, and a layer begins some time after its first sum has
    been taken. Every member is compared in every cycle.
    """
    dut = SumWalker(config=config)
    expected = sums(layers, config)
    last_of = {s.layer: i for i, s in enumerate(expected)}
    rng = random.Random(f"begin {seed}")
    feeding, taking = (Stalls((seed, i)) if seed is not None else lambda: False for i in range(2))
    cycles: list[int] = []
    shown = Comparison(dut.sums.payload)
    waits = {"walk": 0, "begin": 0, "output": 0}

    def is_first(at):
        return at == 0 or expected[at - 1].layer < expected[at].layer

    async def bench(ctx):
        ctx.set(dut.mesh_row, layers[0][1].mesh_row)
        ctx.set(dut.mesh_col, layers[0][1].mesh_col)
        offered = False
        descriptors = []  # cycles in which they were taken
        begins = []  # cycles in which layers begin
        cycle = 0
        while len(cycles) < len(expected) or begins[-1] >= cycle:
            layer = len(descriptors) - 1  # taken last
            if not offered and layer + 1 < len(layers) and not feeding():
                offered = True
            ready = not taking()
            ctx.set(dut.layers.valid, offered)
            ctx.set(dut.sums.ready, ready)
            ctx.set(dut.begun, cycle in begins)

            at = len(cycles)
            valid = at < len(expected) and expected[at].layer <= layer
            if valid and is_first(at):
                valid = cycle >= descriptors[expected[at].layer] + DESCRIPTOR_TO_SUM
            if cycles:
                valid = valid and cycle >= cycles[-1] + SUM_TO_SUM
            assert ctx.get(dut.sums.valid) == valid, f"cycle {cycle}, sum {at}"
            if valid:
                wanted = expected[at]
                shown.check(ctx, wanted.fields, f"sum {at} of {layers[wanted.layer]}")
            # A layer's walk is over when its last sum is in the output register.
            walked = layer < 0 or at > last_of[layer] or (valid and at == last_of[layer])
            begun = sum(begin < cycle for begin in begins) == layer + 1
            assert ctx.get(dut.layers.ready) == (walked and begun), f"cycle {cycle}, layer {layer}"
            assert ctx.get(dut.active) == (layer >= 0 and at <= last_of[layer])
            if layer >= 0:
                fences = (ctx.get(dut.need_loads), ctx.get(dut.need_stores))
                assert fences == (layer + 1, 100 - layer), "those of the layer taken last"
            waits["walk"] += offered and begun and not walked
            waits["begin"] += offered and walked and not begun
            waits["output"] += offered and walked and begun and valid and not ready

            if valid and ready:
                if is_first(at):
                    begins.append(cycle + (rng.choice([1, 1, 5, 60]) if seed is not None else 1))
                cycles.append(cycle)
            taken = offered and walked and begun
            if taken:
                offered = False
                descriptors.append(cycle)
            cycle += 1
            await ctx.tick()
            if taken:
                fences = {"need_loads": layer + 2, "need_stores": 99 - layer}
                ctx.set(dut.layers.taken, descriptor(layers[layer + 1][0], **fences))
        for _ in range(5):
            assert not ctx.get(dut.sums.valid), "more sums than the layers have"
            assert not ctx.get(dut.active)
            await ctx.tick()

    simulate(dut, bench, limit=100 * len(expected) + 1000)
    assert len(cycles) == len(expected)
    return cycles, waits


def random_layers(config, seed, count, *, largest=3):
    rng = random.Random(f"{seed} {config}")
    mesh = (rng.randint(0, 2), rng.randint(0, 2))
    return [random_conv(rng, config, largest=rng.randint(1, largest), mesh=mesh) for _ in range(count)]


SEEDS, LAYERS = range(3), 24


@chips
def test_sums_of_random_layers(config):
    """Kernels, strides, groups, blocks, ragged lanes, any tiles, chips beyond the map's end."""
    total = {}
    for seed in SEEDS:
        _, waits = run(config, random_layers(config, seed, LAYERS), seed=seed)
        total = {reason: total.get(reason, 0) + count for reason, count in waits.items()}
    assert min(total.values()) > 0, total


def test_the_random_layers_reach_the_cases_that_matter():
    cases = (
        "kernel1", "kernel3", "stride2", "groups", "in_blocks", "stored", "ragged", "one_pixel", "line",
        "outside", "one_pixel_and_blocks", "bypass_and_blocks",
    )  # fmt: skip
    seen = dict.fromkeys(cases, 0)
    for config in CHIPS:
        for seed in SEEDS:
            layers = random_layers(config, seed, LAYERS)
            found = sums(layers, config)
            for index, (conv, _) in enumerate(layers):
                own = [s.fields for s in found if s.layer == index]
                seen["kernel1"] += not conv.kernel3
                seen["kernel3"] += conv.kernel3
                seen["stride2"] += conv.stride2
                seen["groups"] += conv.groups > 1
                seen["in_blocks"] += conv.in_blocks > 1
                seen["stored"] += any(s["restore"] for s in own)
                seen["ragged"] += conv.last_lanes < config.lanes and conv.out_blocks > 1
                seen["one_pixel"] += conv.pixels == 1
                seen["one_pixel_and_blocks"] += conv.pixels == 1 and conv.in_blocks > 1
                seen["bypass_and_blocks"] += conv.bypass and conv.in_blocks > 1
                seen["line"] += 1 in (conv.tile_h, conv.tile_w) and conv.pixels > 1
                seen["outside"] += all(s["finish"]["rows"] == 0 or s["finish"]["cols"] == 0 for s in own)
            assert found[-1].fields["row"] > config.wbuf_depth, "the ring of rows must have gone round"
            assert found[-1].fields["block"] > 8, "and the count of blocks"
    assert min(seen.values()) >= 5, seen


def test_the_row_count_goes_round():
    """Modulo 2^16, while the position goes on."""
    config = chip(1, 1, 1, wbuf_depth=8191)
    rng = random.Random(5)
    big = {"kernel3": 1, "block_channels": 900, "last_channels": 700, "in_blocks": 3, "groups": 1}
    conv, place = random_conv(rng, config, **big, out_blocks=1, tile_h=1, tile_w=2, mesh=(0, 0))
    layers = [(conv, place)] * 4
    assert sums(layers, config)[-1].fields["row"] > 1 << 16
    run(config, layers)


def test_the_largest_spacing_stands_for_more():
    """Tiles of more pixels than a sum's number can tell apart."""
    config = chip(1, 1, 1)
    many = (1 << number_bits(config)) - 1
    for width in (many - 1, many, many + 1, 2 * many + 2):
        conv, place = random_conv(
            random.Random(width), config, kernel3=0, tile_h=1, tile_w=width, in_blocks=2, mesh=(0, 0)
        )
        run(config, [(conv, place)])
        assert sums([(conv, place)], config)[0].fields["spacing"] == min(width, many)


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_layers_of_one_sum_keep_their_own_fences(seed):
    """The next descriptor comes when the layer's only sum is out, but not before the layer begins."""
    config = CHIPS[0]
    conv, place = random_conv(random.Random(1), config, mesh=(0, 0))
    one = {
        "tile_h": 1, "tile_w": 1, "pixels": 1, "groups": 1, "out_blocks": 1, "in_blocks": 1,
        "group_channels": 1, "in_channels": 1, "out_channels": 1, "last_channels": 1, "last_lanes": 1,
        "kernel3": 0, "stride2": 0, "in_row_stride": 1, "in_last_row": 0, "in_last_col": 0,
        "full_rows": place.height, "full_cols": place.width, "rest_rows": 0, "rest_cols": 0,
    }  # fmt: skip
    run(config, [(replace(conv, **one), place)] * 40, seed=seed)


@chips
def test_a_sum_in_two_cycles(config):
    """Without stalls nothing more is lost between the sums of a layer."""
    rng = random.Random(f"fast {config}")
    layers = [random_conv(rng, config, tile_h=2, tile_w=2, mesh=(0, 0))]
    cycles, _ = run(config, layers)
    assert len(cycles) > 2
    assert cycles == list(range(cycles[0], cycles[-1] + 1, SUM_TO_SUM))
