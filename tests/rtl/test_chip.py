"""The whole chip in Amaranth's simulator, on maps of a few pixels."""

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal

from hyperdrive_hdl import isa
from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.compiler.ir import ChipStage, FeatureMap
from hyperdrive_hdl.config import MeshConfig
from hyperdrive_hdl.isa import ErrorCode, Opcode
from hyperdrive_hdl.model.layout import read_map, to_stream
from hyperdrive_hdl.rtl.chip import Chip
from hyperdrive_hdl.simulate.backend import Event
from hyperdrive_hdl.simulate.python import PysimBackend
from tests.support.chips import MINI, check_program, small_program, stimulus
from tests.support.convolution import naive_stage
from tests.support.resnet import random_conv
from tests.support.stages import random_map
from tests.support.streams import Stalls, get, put, simulate


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(3, 1, 1), (3, 2, 1), (1, 1, 2), (1, 2, 1)])
def test_one_layer(kernel, stride, groups):
    """Against the naive convolution in numpy's float16, which knows of no chip."""
    rng = np.random.default_rng(kernel * stride)
    source = FeatureMap("in", 2, 5, 3)
    layer = random_conv(rng, source, "out", 4, kernel=kernel, stride=stride, groups=groups)
    stage = ChipStage("one", (source,), (layer,), (layer.output,))
    program = compile_stage(stage, MINI, MeshConfig())
    image = {"in": random_map(rng, source, special=0.05)}
    with PysimBackend(MINI) as backend:
        done = check_program(backend, program, stage, [image])
    np.testing.assert_array_equal(done.outputs[0]["out"], naive_stage(stage, image, MINI.wbuf_depth)["out"])
    assert done.counters.layers == 1
    assert len(np.unique(done.outputs[0]["out"])) > 3


def test_results_do_not_depend_on_stalls():
    program, stage, image = small_program(1)
    runs = []
    with PysimBackend(MINI) as backend:
        for seed in (None, 1, 2, 3):
            runs.append(check_program(backend, program, stage, [image], stall_seed=seed))
    cycles = {run.counters.cycles for run in runs}
    assert len(cycles) == len(runs), "every pattern of stalls is another run"
    assert {run.counters.mac for run in runs} == {runs[0].counters.mac}


def test_a_program_for_another_chip_is_refused():
    """Error status, and nothing is loaded, computed or stored."""
    other = MINI.replace(wbuf_depth=19)
    program, _, image = small_program(2, other)
    with PysimBackend(MINI) as backend:
        backend.start(stimulus(program, [image]))
        assert backend.run(5000) is Event.ERROR
        for _ in range(30):
            assert backend.run(10) is Event.ERROR
        counters = backend.counters()
        assert ErrorCode(counters.error) is ErrorCode.CONFIG
        assert (
            counters.mac == counters.loading == counters.storing == counters.computing == counters.layers == 0
        )
        assert backend.outputs().size == 0


def test_left_over_weights_are_an_error_after_the_layers():
    program, _, image = small_program(3)
    words = program.words()
    extra = [isa.header(Opcode.WEIGHTS, 1), 3]
    with PysimBackend(MINI) as backend:
        backend.start(
            stimulus(program, [image], program=np.r_[words[:-1], np.array(extra, np.uint64), words[-1:]])
        )
        assert [backend.run(10_000) for _ in range(3)] == [Event.LAYER_DONE, Event.LAYER_DONE, Event.ERROR]
        assert ErrorCode(backend.counters().error) is ErrorCode.LEFTOVER


@pytest.mark.parametrize("seed", [None, 5])
def test_a_second_program_after_halt(seed):
    """Other layers, another number of them; layer count, fences and parameter sets begin again."""
    rng = np.random.default_rng(0)
    source = FeatureMap("in", 2, 2, 2)
    layer = random_conv(
        rng, source, "out", 2, kernel=1
    )  # one parameter set: the next program begins with the other
    stage = ChipStage("first", (source,), (layer,), (layer.output,))
    first = compile_stage(stage, MINI, MeshConfig()), stage, {"in": random_map(rng, source)}
    parts = [first, small_program(4), first]
    expected = []
    for program, stage_, image in parts:
        maps = naive_stage(stage_, image, MINI.wbuf_depth)
        expected += [to_stream(maps[s.map.map.name], s.map, MINI, 0, 0) for s in program.stores]
    stimuli = [stimulus(program, [image]) for program, _, image in parts]
    joined = stimulus(
        parts[0][0],
        [parts[0][2]],
        program=np.concatenate([s.program for s in stimuli]),
        fm_in=np.concatenate([s.fm_in for s in stimuli]),
        output_words=sum(s.output_words for s in stimuli),
        stall_seed=seed,
    )
    events = []
    with PysimBackend(MINI) as backend:
        backend.start(joined)
        while events.count(Event.HALTED) < 3 and len(events) < 10:
            events.append(backend.run(50_000))
        outputs = backend.outputs()
    halted, done = Event.HALTED, Event.LAYER_DONE
    assert events == [done, halted, done, done, halted, done, halted]
    np.testing.assert_array_equal(outputs, np.concatenate(expected))


def test_halt_waits_for_the_last_layer():
    """Also where nothing is stored after it."""
    program, stage, image = small_program(7)
    kept = [p for p, step in zip(program.packets, program.steps, strict=True) if step not in program.stores]
    assert len(kept) == len(program.packets) - 1
    words = np.concatenate([program.head, *kept, program.tail])
    with PysimBackend(MINI) as backend:
        backend.start(stimulus(program, [image], program=words))
        events = [backend.run(50_000) for _ in range(3)]
        assert events == [Event.LAYER_DONE, Event.LAYER_DONE, Event.HALTED]
        output = program.layers[-1].output
        wanted = naive_stage(stage, image, MINI.wbuf_depth)[output.map.name]
        np.testing.assert_array_equal(read_map(backend.memory(), output), wanted)


def run_chip(program, image, *, fm_in_delay=0, stall_seed=None, config=MINI):
    """One program on the bare component; the output words and what the status said, cycle by cycle."""
    dut = Chip(config=config)
    feed = stimulus(program, [image])
    found: list[int] = []
    status: list[tuple[int, ...]] = []
    stalls = [Stalls((stall_seed, i)) if stall_seed is not None else lambda: False for i in range(3)]

    async def words(ctx):
        await put(ctx, dut.program, [int(w) for w in feed.program], stalls[0])

    async def load(ctx):
        await ctx.tick().repeat(max(1, fm_in_delay))
        await put(ctx, dut.fm_in, [int(w) for w in feed.fm_in], stalls[1])

    async def store(ctx):
        found.extend(await get(ctx, dut.fm_out, feed.output_words, stalls[2]))

    async def watch(ctx):
        halted = False
        while not halted:
            s = dut.status
            *_, busy, error, layer, layer_done, halted = await ctx.tick().sample(
                s.busy, s.error, s.layer, s.layer_done, s.halted
            )
            status.append((busy, error, layer, layer_done, halted))
        assert not ctx.get(dut.status.busy)

    simulate(dut, words, load, store, watch, limit=50_000)
    return np.array(found, np.uint16), status


def test_status():
    program, stage, image = small_program(6)
    found, status = run_chip(program, image, stall_seed=3)
    output = naive_stage(stage, image, MINI.wbuf_depth)["second"]
    np.testing.assert_array_equal(found, to_stream(output, program.stores[0].map, MINI, 0, 0))
    assert {error for _, error, *_ in status} == {0}
    done = [cycle for cycle, (*_, layer_done, _) in enumerate(status) if layer_done]
    assert len(done) == 2
    for cycle, (_, _, layer, _, _) in enumerate(status):
        assert layer == sum(d < cycle for d in done), "layers completed so far"
    busy = [s[0] for s in status]
    assert busy == sorted(busy), "idle, then busy until HALT"
    assert busy[-1] == 1


@pytest.mark.parametrize("delay", [0, 60, 300])
def test_layers_of_one_operation_wait_for_their_own_load(delay):
    """The next layer's fence does not count for a layer whose only operation waits (1x1 tiles)."""
    chip = MINI.replace(lanes=1, tile_cols=1)
    rng = np.random.default_rng(8)
    maps = [FeatureMap("in", 1, 1, 1)]
    layers = []
    for i in range(4):
        layers.append(random_conv(rng, maps[-1], f"layer{i}", 1, kernel=1, relu=False))
        maps.append(layers[-1].output)
    stage = ChipStage("thin", (maps[0],), tuple(layers), (maps[-1],))
    program = compile_stage(stage, chip, MeshConfig())
    assert all(layer.instruction.pixels == layer.instruction.in_channels == 1 for layer in program.layers)
    image = {"in": random_map(rng, maps[0])}
    found, _ = run_chip(program, image, fm_in_delay=delay, config=chip)
    np.testing.assert_array_equal(found, naive_stage(stage, image, chip.wbuf_depth)["layer3"].flatten())


@pytest.mark.parametrize(("row", "col"), [(0, 1), (1, 0), (1, 1), (2, 2)])
def test_a_chip_elsewhere_in_the_mesh_loads_and_stores_its_own_pixels(row, col):
    """A 1x1 layer needs no neighbours: a chip of a mesh computes its part alone, padding stays zero."""
    rng = np.random.default_rng(row * 3 + col)
    mesh = MeshConfig(rows=3, cols=3)
    source = FeatureMap("in", 2, 5, 11)
    layer = random_conv(rng, source, "out", 3, kernel=1, relu=False)
    stage = ChipStage("part", (source,), (layer,), (layer.output,))
    program = compile_stage(stage, MINI, mesh)
    image = {"in": random_map(rng, source)}
    output = naive_stage(stage, image, MINI.wbuf_depth)["out"]
    wanted = to_stream(output, program.stores[0].map, MINI, row, col)
    with PysimBackend(MINI) as backend:
        backend.start(
            stimulus(
                program,
                [image],
                fm_in=to_stream(image["in"], program.loads[0].map, MINI, row, col),
                output_words=wanted.size,
                mesh_row=row,
                mesh_col=col,
            )
        )
        assert backend.run(20_000) is Event.LAYER_DONE
        placed = program.layers[0].output
        memory = backend.memory()[:, :, placed.base : placed.base + placed.words_per_tile]
        true = np.zeros((3 * MINI.tile_rows * placed.tile_h, 3 * MINI.tile_cols * placed.tile_w), bool)
        true[: output.shape[1], : output.shape[2]] = True
        high, wide = MINI.tile_rows * placed.tile_h, MINI.tile_cols * placed.tile_w
        own = true[row * high : (row + 1) * high, col * wide : (col + 1) * wide]
        tiles = memory.reshape(MINI.tile_rows, MINI.tile_cols, placed.tile_h, placed.tile_w, 3)
        pixels = tiles.transpose(0, 2, 1, 3, 4).reshape(high, wide, 3)
        assert not pixels[~own].any(), "pixels outside the map are zero"
        assert backend.run(20_000) is Event.HALTED
        np.testing.assert_array_equal(backend.outputs(), wanted)
    assert wanted.size > 0 or not own.any()


@pytest.mark.parametrize("cycles", [75, 110, 171])
def test_a_reset_in_the_middle_of_a_layer_leaves_nothing_behind(cycles):
    """No half a sum, instruction or weight row: after it, the program runs as on a fresh chip."""
    program, stage, image = small_program(14)
    feed = stimulus(program, [image])
    reset = Signal()
    dut = Chip(config=MINI)
    m = ResetInserter(reset)(dut)
    found: list[int] = []
    computing = []

    async def bench(ctx):
        for attempt_cycles in (cycles, 10_000):
            at = {"program": 0, "fm_in": 0}
            words = {"program": feed.program, "fm_in": feed.fm_in}
            found.clear()
            ctx.set(dut.fm_out.ready, 1)
            for _ in range(attempt_cycles):
                for name, position in at.items():
                    stream = getattr(dut, name)
                    ctx.set(stream.valid, position < len(words[name]))
                    ctx.set(stream.payload, int(words[name][min(position, len(words[name]) - 1)]))
                for name in at:
                    stream = getattr(dut, name)
                    at[name] += ctx.get(stream.valid) & ctx.get(stream.ready)
                if ctx.get(dut.fm_out.valid):
                    found.append(ctx.get(dut.fm_out.payload))
                halted = ctx.get(dut.status.halted)
                computing.append(ctx.get(dut.activity.mac))
                await ctx.tick()
                if halted:
                    break
            if attempt_cycles == cycles:
                assert computing[-1], "the reset comes while a sum is made"
                ctx.set(reset, 1)
                await ctx.tick()
                ctx.set(reset, 0)
                assert not ctx.get(dut.status.busy)

    simulate(m, bench, limit=12_000)
    output = naive_stage(stage, image, MINI.wbuf_depth)["second"]
    np.testing.assert_array_equal(
        np.array(found, np.uint16), to_stream(output, program.stores[0].map, MINI, 0, 0)
    )
