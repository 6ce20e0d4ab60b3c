"""The sequencer against a plain loop nest over pixels (tests/support/operations.py)."""

import random
from dataclasses import replace

import pytest

from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.rtl.axes import TapAxis, TruePixels
from hyperdrive_hdl.rtl.layouts import CONV_DESCRIPTOR
from hyperdrive_hdl.rtl.sequencer import Sequencer
from tests.support.operations import AT_LAST, operations, random_conv
from tests.support.streams import Stalls, get, put, simulate, trace


def chip(lanes, rows, cols) -> ChipConfig:
    return ChipConfig(
        lanes=lanes, tile_rows=rows, tile_cols=cols, fmm_banks=4, fmm_bank_depth=1024, wbuf_depth=27
    )


CHIPS = [chip(1, 1, 1), chip(3, 2, 1), chip(4, 1, 3)]
SHAPES = {name for name, _ in CONV_DESCRIPTOR}


def descriptor(conv, **fences) -> dict[str, int]:
    return {name: getattr(conv, name) for name in SHAPES if hasattr(conv, name)} | fences


@pytest.mark.parametrize("step", [1, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_tap_axis(step, stride):
    """Every length of an axis, pixel after pixel, twice."""
    inputs, expected = [], []
    for length in range(stride, 9 * stride, stride):
        offsets = [i * step for i in range(length)]
        present = {"step": step, "last": offsets[-1], "stride2": stride == 2}
        for _ in range(2):
            inputs.append({**present, "restart": 1, "advance": 1})
            expected.append(None)
            for at in range(0, length, stride):
                inputs.append({"restart": 0, "advance": at + stride < length})
                expected.append(
                    {
                        "previous": offsets[at - 1],
                        "at": offsets[at],
                        "following": offsets[(at + 1) % length],
                        "previous_wraps": at == 0,
                        "following_wraps": at == length - 1,
                    }
                )
    dut = TapAxis()
    seen = trace(dut, inputs, ["previous", "at", "following", "previous_wraps", "following_wraps"])
    compared = [(found, wanted) for found, wanted in zip(seen, expected, strict=True) if wanted]
    assert len(compared) == 2 * sum(range(1, 9))
    for found, wanted in compared:
        assert found == wanted


@pytest.mark.parametrize("tiles", [1, 2, 5])
def test_true_pixels(tiles):
    rng = random.Random(tiles)
    inputs, expected = [], []
    for _ in range(300):
        size = rng.randint(1, 8)
        position, pixel = rng.randint(0, 3), rng.randrange(size)
        length = rng.randint(0, min(255 * size, 5 * tiles * size))
        inputs.append({"position": position, "full": length // size, "rest": length % size, "pixel": pixel})
        expected.append(sum(1 << i for i in range(tiles) if (position * tiles + i) * size + pixel < length))
    seen = trace(TruePixels(tiles=tiles), inputs, ["true"])
    assert [s["true"] for s in seen] == expected
    assert len(set(expected)) > tiles


def run(config, layers, *, stall_seed=None) -> list[dict]:
    """Operations of some (layer, place) in turn, each with the fences and addresses that went with it."""
    dut = Sequencer(config=config)
    count = sum(len(operations(conv, place, config)) for conv, place in layers)
    found: list[dict] = []
    context: list[dict] = []
    stalls = [Stalls((stall_seed, i)) if stall_seed is not None else lambda: False for i in range(2)]

    async def feed(ctx):
        ctx.set(dut.mesh_row, layers[0][1].mesh_row)
        ctx.set(dut.mesh_col, layers[0][1].mesh_col)
        descriptors = [
            descriptor(c, need_loads=i + 1, need_stores=100 - i) for i, (c, _) in enumerate(layers)
        ]
        await put(ctx, dut.layers, descriptors, stalls[0])

    async def take(ctx):
        found.extend(await get(ctx, dut.operations, count, stalls[1]))
        for _ in range(5):
            assert not ctx.get(dut.operations.valid), "more operations than the layers have"
            assert not ctx.get(dut.active)
            await ctx.tick()

    async def watch(ctx):
        while True:
            if ctx.get(dut.operations.valid) and ctx.get(dut.operations.ready):
                names = ("need_loads", "need_stores", "scratch", "pixels")
                context.append({name: ctx.get(getattr(dut, name)) for name in names})
                assert ctx.get(dut.active)
            await ctx.tick()

    simulate(dut, feed, take, background=[watch], limit=40 * count + 1000)
    assert len(context) == count
    return [{**o, **c} for o, c in zip(found, context, strict=True)]


def compare(found, layers, config):
    expected = [
        (o, conv, i) for i, (conv, place) in enumerate(layers) for o in operations(conv, place, config)
    ]
    assert len(found) == len(expected)
    for number, (seen, (wanted, conv, layer)) in enumerate(zip(found, expected, strict=True)):
        where = f"operation {number} of layer {layer}: {conv}"
        assert set(wanted) >= set(AT_LAST) or not wanted["last"]
        for name, value in wanted.items():
            assert seen[name] == value, f"{name} of {where}"
        if wanted["first"]:
            assert (seen["need_loads"], seen["need_stores"]) == (layer + 1, 100 - layer), where
        if wanted["last"] and not wanted["layer_last"]:
            # Once only the last operation is left, the next layer's descriptor may be there.
            assert (seen["scratch"], seen["pixels"]) == (conv.scratch_base, conv.pixels), where


def random_layer(config, seed):
    rng = random.Random(f"{seed} {config}")
    return random_conv(rng, config, largest=rng.choice([1, 2, 3]))


@pytest.mark.parametrize("config", CHIPS, ids=lambda c: f"{c.lanes}x{c.tile_rows}x{c.tile_cols}")
@pytest.mark.parametrize("seed", range(12))
def test_operations_of_random_layers(config, seed):
    """Kernels, strides, groups, blocks, ragged lanes, any tiles, chips beyond the map's end."""
    layers = [random_layer(config, seed)]
    compare(run(config, layers, stall_seed=seed if seed % 2 else None), layers, config)


def test_the_random_layers_reach_the_cases_that_matter():
    cases = (
        "kernel1", "kernel3", "stride2", "groups", "in_blocks", "stored", "ragged", "one_pixel", "line",
        "outside", "one_pixel_and_blocks",
    )  # fmt: skip
    seen = dict.fromkeys(cases, 0)
    for config in CHIPS:
        for seed in range(12):
            conv, place = random_layer(config, seed)
            ends = [o for o in operations(conv, place, config) if o["last"]]
            seen["kernel1"] += not conv.kernel3
            seen["kernel3"] += conv.kernel3
            seen["stride2"] += conv.stride2
            seen["groups"] += conv.groups > 1
            seen["in_blocks"] += conv.in_blocks > 1
            seen["stored"] += any(o["restore"] for o in ends)
            seen["ragged"] += conv.last_lanes < config.lanes and conv.out_blocks > 1
            seen["one_pixel"] += conv.pixels == 1
            seen["one_pixel_and_blocks"] += conv.pixels == 1 and conv.in_blocks > 1
            seen["line"] += 1 in (conv.tile_h, conv.tile_w) and conv.pixels > 1
            seen["outside"] += all(o["rows"] == 0 or o["cols"] == 0 for o in ends)
    assert min(seen.values()) >= 2, seen


@pytest.mark.parametrize("stall_seed", [None, 1, 2])
def test_layers_follow_each_other(stall_seed):
    """Descriptors wait at the input; each layer's operations come with its own fences."""
    config = CHIPS[1]
    rng = random.Random(7)
    layers = [random_conv(rng, config, largest=2, mesh=(1, 0)) for _ in range(12)]
    compare(run(config, layers, stall_seed=stall_seed), layers, config)


@pytest.mark.parametrize("stall_seed", [None, 1, 2, 3])
def test_layers_of_one_operation_keep_their_own_fences(stall_seed):
    """The next descriptor comes while the layer's only operation waits for its fence (a chip of 1x1 maps)."""
    config = CHIPS[0]
    conv, place = random_conv(random.Random(1), config, mesh=(0, 0))
    one = {
        "tile_h": 1, "tile_w": 1, "pixels": 1, "groups": 1, "out_blocks": 1, "in_blocks": 1,
        "group_channels": 1, "in_channels": 1, "out_channels": 1, "last_channels": 1, "last_lanes": 1,
        "kernel3": 0, "stride2": 0, "in_row_stride": 1, "in_last_row": 0, "in_last_col": 0,
        "full_rows": place.height, "full_cols": place.width, "rest_rows": 0, "rest_cols": 0,
    }  # fmt: skip
    layers = [(replace(conv, **one), place)] * 60
    found = run(config, layers, stall_seed=stall_seed)
    assert len(found) == 60
    compare(found, layers, config)


def test_one_operation_per_cycle():
    """Without stalls nothing is lost between the operations of a layer."""
    config = CHIPS[2]
    conv, place = random_conv(random.Random(4), config, largest=3)
    dut = Sequencer(config=config)
    count = len(operations(conv, place, config))
    inputs = [{"layers.valid": 1, "layers.payload": descriptor(conv), "operations.ready": 1}]
    seen = trace(dut, inputs + [{"layers.valid": 0}] * (count + 6), ["operations.valid", "active"])
    valid = [s["operations.valid"] for s in seen]
    assert sum(valid) == count > 15
    start = valid.index(1)
    assert valid[start : start + count] == [1] * count
    assert start <= 3
