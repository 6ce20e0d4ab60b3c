"""The whole chip in Amaranth's simulator, on maps of a few pixels."""

import numpy as np
import pytest
from amaranth.hdl import Elaboratable, ResetInserter, Signal, Value

from hyperdrive_hdl import isa
from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.compiler.ir import ChipStage, FeatureMap
from hyperdrive_hdl.config import MeshConfig
from hyperdrive_hdl.isa import ErrorCode, Opcode
from hyperdrive_hdl.latencies import ISSUE_TO_ACCESS, latencies
from hyperdrive_hdl.model.layout import read_map, to_stream
from hyperdrive_hdl.rtl.chip import Chip
from hyperdrive_hdl.rtl.hierarchy import ComponentRecord
from hyperdrive_hdl.rtl.layouts import EpilogueSlotLayout, OperationLayout
from hyperdrive_hdl.simulate.backend import Event
from hyperdrive_hdl.simulate.python import PysimBackend
from tests.support.chips import MINI, check_program, small_program, small_stage, stimulus
from tests.support.convolution import naive_stage
from tests.support.resnet import random_conv
from tests.support.stages import random_map
from tests.support.streams import Stalls, get, member, put, simulate


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
        for seed in (None, 1):
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


def test_a_second_program_after_halt():
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
        fm_in=np.concatenate([s.fm_in[0, 0] for s in stimuli]),
        output_words=sum(s.output_words[0, 0] for s in stimuli),
        stall_seed=5,
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


class Recorded(Elaboratable):
    """A chip whose ``blocks`` can be looked at by name, once it is elaborated."""

    def __init__(self, chip):
        self._chip = chip
        self.blocks = {}

    def elaborate(self, platform):
        record = ComponentRecord()
        module = self._chip.elaborate(record)
        self._chip._MustUse__used = True  # Amaranth warns of components that nothing uses
        self.blocks = dict(record.components)
        return module


def run_chip(program, image, *, fm_in_delay=0, stall_seed=None, config=MINI, watched=None, words=None):
    """One program on the bare component; the output words and what the status said, cycle by cycle.

    ``fm_in_delay`` cycles pass before the last of the input maps comes.
    ``watched`` looks at members of the chip's blocks, see ``Watch``; ``words`` replace the program's.
    """
    dut = Chip(config=config)
    recorded = Recorded(dut)
    feed = stimulus(program, [image])
    stream = feed.program if words is None else words
    found: list[int] = []
    status: list[tuple[int, ...]] = []
    stalls = [Stalls((stall_seed, i)) if stall_seed is not None else lambda: False for i in range(3)]

    last_map = feed.fm_in[0, 0].size - program.loads[-1].map.map.words

    async def fetch(ctx):
        await ctx.tick()  # so that the program does not start in the first turn
        await put(ctx, dut.program, [int(w) for w in stream], stalls[0])

    async def load(ctx):
        await put(ctx, dut.fm_in, [int(w) for w in feed.fm_in[0, 0][:last_map]], stalls[1])
        await ctx.tick().repeat(max(1, fm_in_delay))
        await put(ctx, dut.fm_in, [int(w) for w in feed.fm_in[0, 0][last_map:]], stalls[1])

    async def store(ctx):
        found.extend(await get(ctx, dut.fm_out, feed.output_words[0, 0], stalls[2]))

    async def watch(ctx):
        halted = False
        while not halted:
            s = dut.status
            *_, busy, error, layer, layer_done, halted = await ctx.tick().sample(
                s.busy, s.error, s.layer, s.layer_done, s.halted
            )
            status.append((busy, error, layer, layer_done, halted))
        assert not ctx.get(dut.status.busy)

    async def inside(ctx):
        values = []
        for name in watched.NAMES:
            block, _, path = name.partition(".")
            values.append(Value.cast(member(recorded.blocks[block], path)))
        while True:
            _, _, *sample = await ctx.tick().sample(*values)
            watched.look(dict(zip(watched.NAMES, sample, strict=True)))

    simulate(recorded, fetch, load, store, watch, background=[inside] if watched else [], limit=50_000)
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


class Watch:
    """What the blocks promise each other, seen between them, in every cycle of a chip.

    - No memory access meets another one in its bank.
    - A lane is selected while its tile holds the sum that the slot is of, neither before nor after.
    - A stored partial sum is written before it is read, with nothing else since.
    - A weight row is the one that the operation named, in the cycle of its term.
    - Turns are counted from the program's start.
    """

    NAMES = (
        "fetch.started", "issue.go", "issue.mac_enable", "issue.mac_address", "issue.enable", "issue.ends",
        "sequencer.operation", "feature_memory.enable", "feature_memory.write", "feature_memory.address",
        "weight_buffer.write.valid", "weight_buffer.write.ready", "weight_buffer.write.payload",
        "weight_buffer.row", "epilogue.select", "epilogue.write", "epilogue.read",
        "epilogue.address",
    )  # fmt: skip

    def __init__(self, config):
        self._at = latencies(config)
        self._depth = config.fmm_bank_depth
        self._lanes = config.lanes
        self._turns = config.sums_in_turn
        self._start = -1  # the first cycle of the program
        self._operation = OperationLayout(config)
        self._slot = EpilogueSlotLayout(config)
        self._rows: list[int] = []
        self._going: list[dict] = [{}] * 8  # operations that went so many cycles ago, the latest first
        self._ended: list[int] = []  # cycles in which sums were held
        self._selected = 0  # sums whose slots have been selected
        self._written: dict[int, int] = {}  # partial sums, by address: cycle
        self.cycle = 0
        self.counts = dict.fromkeys(("both_ports", "restored", "terms", "slots", "partial", "bypass"), 0)

    def look(self, now: dict) -> None:
        cycle, counts = self.cycle, self.counts
        operation = self._operation.from_bits(now["sequencer.operation"])
        select, write, read = (
            self._slot.from_bits(now[f"epilogue.{name}"]) for name in ("select", "write", "read")
        )
        access, term = self._going[ISSUE_TO_ACCESS - 1], self._going[self._at.term - 1]

        assert bool(access) == now["issue.mac_enable"]
        if access and now["feature_memory.enable"]:
            assert access["address"] // self._depth != now["feature_memory.address"] // self._depth
            counts["both_ports"] += 1
        if access and access["restore"]:
            assert self._written[access["address"]] < cycle
            counts["restored"] += 1
        if write.valid:
            assert not (read.valid and read.bypass)
            assert now["feature_memory.enable"]
            assert now["feature_memory.write"]
            assert now["feature_memory.address"] == now["epilogue.address"]
            if write.partial:
                self._written[now["epilogue.address"]] = cycle
                counts["partial"] += 1
        counts["bypass"] += read.valid and read.bypass

        if term and not term["restore"]:
            assert now["issue.enable"] == (1 << self._lanes) - 1
            assert now["weight_buffer.row"] == self._rows[term["row"]]
            counts["terms"] += 1
        assert now["issue.ends"] == bool(term and term["last"])
        if now["issue.ends"]:
            self._ended.append(cycle + self._at.accumulate)
        if select.valid:
            # Which sum is held now?
            assert sum(held <= cycle for held in self._ended) == self._selected + 1
            self._selected += select.sum_last
            counts["slots"] += 1

        if now["fetch.started"]:
            self._start = cycle + 1
        if now["issue.go"] and self._turns in (1, 2, 4):  # which divide the numbers that a field can tell
            assert (cycle - self._start) % self._turns == operation.number % self._turns
        went = {n: operation[n] for n in ("address", "restore", "row", "last")} if now["issue.go"] else {}
        self._going = [went, *self._going[:-1]]
        if now["weight_buffer.write.valid"] and now["weight_buffer.write.ready"]:
            self._rows.append(now["weight_buffer.write.payload"])
        self.cycle += 1


VARIANTS = [  # and the height of the maps: with 1, a tile has one pixel
    (MINI, 2),
    (MINI.replace(adder_latency=2), 1),
    (MINI.replace(adder_latency=2), 2),
    (MINI.replace(adder_latency=3, format="fp8_e4m3"), 2),
    (MINI.replace(adder_latency=4, format="q2.9", lanes=1), 1),
    (MINI.replace(adder_latency=2, format="q2.9", accumulator="exact"), 2),
]


@pytest.mark.parametrize(
    ("config", "height"),
    VARIANTS,
    ids=[f"{c.accumulator}{c.adder_latency}-{c.format}-{h}" for c, h in VARIANTS],
)
def test_the_blocks_together(config, height):
    """Formats, accumulators and latencies: the results by other people's arithmetic, and ``Watch``."""
    rng = np.random.default_rng(11)
    format = config.number_format
    stage = small_stage(rng, height=height, format=format)
    program = compile_stage(stage, config, MeshConfig())
    image = {"in": random_map(rng, stage.inputs[0], special=0.02, format=format)}
    watch = Watch(config)
    found, _ = run_chip(program, image, config=config, watched=watch)
    wanted = naive_stage(stage, image, config.wbuf_depth, config.format, config.accumulator)["second"]
    np.testing.assert_array_equal(found, to_stream(wanted, program.stores[0].map, config, 0, 0))
    alternating = max(layer.instruction.interleave for layer in program.layers)
    assert alternating == (min(config.sums_in_turn, -(-3 // config.lanes)) if height == 1 else 1)
    if height == 1:  # hardly any work at a time
        del watch.counts["both_ports"]
    assert min(watch.counts.values()) > 0, watch.counts


@pytest.mark.parametrize("pixels", [1, 2])
@pytest.mark.parametrize("delay", [0, 300])
def test_small_layers_wait_for_their_own_load(pixels, delay):
    """The next layer's fence does not count for a layer of an operation or two that waits."""
    chip = MINI.replace(lanes=1, tile_cols=1, wbuf_depth=64)
    rng = np.random.default_rng(8)
    first, second = FeatureMap("first", 60, pixels, 1), FeatureMap("second", 1, pixels, 1)
    # Of a layer with more of them, some still issue when the next descriptor comes; then the one that waits.
    layers = [random_conv(rng, first, "layer0", 1, kernel=1, relu=False)]
    for i in range(1, 5):
        bypass = second if i == 1 else None
        layers.append(
            random_conv(rng, layers[-1].output, f"layer{i}", 1, kernel=1, relu=False, bypass=bypass)
        )
    stage = ChipStage("thin", (first, second), tuple(layers), (layers[-1].output,))
    program = compile_stage(stage, chip, MeshConfig())
    convs = [layer.instruction for layer in program.layers]
    assert [conv.in_channels for conv in convs] == [60, 1, 1, 1, 1]
    assert (convs[0].wait_loads, convs[1].wait_loads) == (1, 0)
    # The layers behind it, which need no load, do not wait.
    packets = {id(step): packet.copy() for step, packet in zip(program.steps, program.packets, strict=True)}
    for layer in program.layers[2:]:
        packets[id(layer)][2] = isa.NO_WAIT | isa.NO_WAIT << 4
    words = np.concatenate([program.head, *packets.values(), program.tail])
    image = {"first": random_map(rng, first), "second": random_map(rng, second)}
    found, _ = run_chip(program, image, fm_in_delay=delay, config=chip, words=words)
    np.testing.assert_array_equal(found, naive_stage(stage, image, chip.wbuf_depth)["layer4"].flatten())


@pytest.mark.parametrize(("row", "col"), [(0, 1), (1, 1), (2, 2)])
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


@pytest.mark.parametrize("cycles", [75, 171])
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
            words = {"program": feed.program, "fm_in": feed.fm_in[0, 0]}
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
