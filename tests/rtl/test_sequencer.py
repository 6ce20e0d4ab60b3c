"""The sequencer as a whole: sums and terms of layer after layer, and the descriptors' way in."""

import random

import pytest

from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.perf.cycles import DESCRIPTOR_TO_SUM, SUM_TO_SUM
from hyperdrive_hdl.rtl.layouts import row_bits
from hyperdrive_hdl.rtl.sequencer import Sequencer
from tests.support.operations import Comparison, Ring, descriptor, random_conv, sums
from tests.support.streams import Stalls, simulate


def chip(lanes, rows, cols, latency, **changes) -> ChipConfig:
    return ChipConfig(
        lanes=lanes,
        tile_rows=rows,
        tile_cols=cols,
        fmm_banks=4,
        fmm_bank_depth=1024,
        wbuf_depth=27,
        adder_latency=latency,
    ).replace(**changes)


CHIPS = [
    chip(1, 1, 1, 1),
    chip(1, 1, 2, 1, memory_latency=3),
    chip(3, 2, 1, 2, format="fp8_e4m3"),
    chip(4, 1, 3, 3, wbuf_depth=18, link_width=8, border_depth=256),
    chip(2, 2, 2, 4, format="q2.9"),
]
chips = pytest.mark.parametrize("config", CHIPS, ids=lambda c: f"{c.adder_latency}-{c.format}")
# The smallest layer that there is.
ONE = {
    "kernel3": 0,
    "stride2": 0,
    "tile_h": 1,
    "tile_w": 1,
    "groups": 1,
    "in_blocks": 1,
    "block_channels": 1,
    "out_blocks": 1,
}


def run(config, layers, *, seed=None, refusals=0.0) -> dict[str, int]:
    """Compare everything in every cycle: with the ring's model, and with what layers wait for.

    Operations are refused at random, apart from what ``Issue`` promises (see test_terms.py). A layer begins
    with its first operation, after the layer before has ended. Returns how often each case occurred.
    """
    dut = Sequencer(config=config)
    expected = sums(layers, config)
    last_of = {s.layer: i for i, s in enumerate(expected)}
    total = max(s.operations[-1]["row"] + 1 for s in expected)
    rows = 1 << row_bits(config.wbuf_depth)  # row counts go round
    ring = Ring(config)
    shown = Comparison(dut.operation)
    rng = random.Random(f"sequencer {seed}")
    feeding, arriving = (Stalls((seed, i)) if seed is not None else lambda: False for i in range(2))
    counts = dict.fromkeys(("taken", "walk", "begin", "early", "held", "cycles"), 0)

    async def bench(ctx):
        ctx.set(dut.mesh_row, layers[0][1].mesh_row)
        ctx.set(dut.mesh_col, layers[0][1].mesh_col)
        ctx.set(dut.restart, 1)
        await ctx.tick()
        ctx.set(dut.restart, 0)
        offered = False
        descriptors = []  # cycles in which they were taken
        begun = 0  # layers
        written = stored = cycle = 0
        sum_taken = -SUM_TO_SUM  # cycle
        while ring.active or len(ring.begun) < len(expected):
            layer = len(descriptors) - 1  # taken last
            if not offered and layer + 1 < len(layers) and not feeding():
                offered = True
            ctx.set(dut.layers.valid, offered)
            ctx.set(dut.written, written % rows)

            at = len(ring.begun)
            upcoming = expected[at] if at < len(expected) and expected[at].layer <= layer else None
            if upcoming and upcoming.fields["first"] and cycle < descriptors[layer] + DESCRIPTOR_TO_SUM:
                upcoming = None
            if cycle < sum_taken + SUM_TO_SUM:
                upcoming = None
            walked = layer < 0 or at > last_of[layer] or (at == last_of[layer] and upcoming is not None)
            next_taken = offered and walked and begun == layer + 1
            assert ctx.get(dut.layers.ready) == (walked and begun == layer + 1), f"cycle {cycle}"
            assert ctx.get(dut.active) == (ring.active or (layer >= 0 and at <= last_of[layer]))
            counts["walk"] += offered and begun == layer + 1 and not walked
            counts["begin"] += offered and walked and begun < layer + 1
            counts["early"] += next_taken and ring.active  # while the layer before goes on

            wanted = ring.operation
            where = f"cycle {cycle}, {wanted and layers[wanted['layer']]}"
            assert ctx.get(dut.valid) == (wanted is not None), where
            assert ctx.get(dut.freed) == ring.freed % rows, where
            taken = False
            if wanted:
                shown.check(ctx, wanted, where)
                eligible = ring.eligible(written, stored)
                assert ctx.get(dut.eligible) == eligible, where
                assert ctx.get(dut.starved) == (not ring.there(written)), where
                if wanted["first"]:
                    fences = (ctx.get(dut.need_loads), ctx.get(dut.need_stores))
                    assert fences == (wanted["layer"] + 1, 100 - wanted["layer"]), "its own"
                in_order = (
                    (not wanted["last"] or wanted["number"] == ring.ended)
                    and (not wanted["first"] or min(ring.left) == wanted["number"])
                    and (wanted["first"] or wanted["layer"] < begun)
                )
                counts["held"] += eligible and not in_order
                taken = eligible and in_order and rng.random() >= refusals
            first = taken and wanted["first"]
            ctx.set(dut.taken, taken)
            ctx.set(dut.begun, first)
            arrives = written < total and written - ring.freed < config.wbuf_depth and not arriving()
            sum_done = stored < ring.ended
            ctx.set(dut.arrives, arrives)
            ctx.set(dut.sum_done, sum_done)
            written += arrives
            stored += sum_done
            ring.step(taken, upcoming)
            if len(ring.begun) > at:
                sum_taken = cycle
            if next_taken:
                offered = False
                descriptors.append(cycle)
            begun += first
            counts["taken"] += taken
            cycle += 1
            await ctx.tick()
            if next_taken:
                fences = {"need_loads": layer + 2, "need_stores": 99 - layer}
                ctx.set(dut.layers.taken, descriptor(layers[layer + 1][0], **fences))
        ctx.set(dut.taken, 0)
        for _ in range(5):
            assert not ctx.get(dut.valid), "more operations than the layers have"
            assert not ctx.get(dut.active)
            await ctx.tick()
        counts["cycles"] = cycle
        assert ctx.get(dut.freed) == total % rows

    simulate(dut, bench, limit=200_000)
    assert counts["taken"] == sum(len(s.operations) for s in expected)
    return counts


@chips
def test_layers_follow_each_other(config):
    """Each layer's operations with its own fences; the next descriptor is taken while a layer goes on."""
    total: dict[str, int] = {}
    for seed in range(2):
        rng = random.Random(f"{seed} {config}")
        mesh = (rng.randint(0, 2), rng.randint(0, 2))
        layers = [random_conv(rng, config, largest=rng.randint(1, 2), mesh=mesh) for _ in range(7)]
        for name, count in run(config, layers, seed=seed, refusals=rng.choice([0, 0.5])).items():
            total[name] = total.get(name, 0) + count
    if config.sums_in_turn == 1:
        assert total.pop("held") == 0
    assert min(total.values()) > 0, total


@chips
@pytest.mark.parametrize("seed", [None, 1])
def test_layers_of_one_operation_keep_their_own_fences(config, seed):
    """The next descriptor does not come while the layer's only operation waits for its fence."""
    layers = [random_conv(random.Random(1), config, mesh=(0, 0), **ONE) for _ in range(30)]
    counts = run(config, layers, seed=seed, refusals=0 if seed is None else 0.8)
    assert counts["taken"] == 30
    assert counts["begin"] > 30 or seed is None


@chips
def test_the_first_operation_after_a_descriptor(config):
    """As fast as it can be: the sum, the ring, the operation, each in a turn of its place or after it."""
    turns = config.sums_in_turn
    counts = run(config, [random_conv(random.Random(1), config, **ONE)])
    sum_taken = -(-(DESCRIPTOR_TO_SUM - (turns > 1)) // turns) * turns
    assert counts["cycles"] == sum_taken + 2 * turns + 1 + (turns > 1)  # it is told a cycle later
