"""The board's core: a compiled layer through the serial line, as a host would run it."""

import re
from itertools import pairwise

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.compiler.ir import ChipStage, FeatureMap
from hyperdrive_hdl.config import ChipConfig, MeshConfig
from hyperdrive_hdl.host_link import (
    COUNTER_NAMES,
    FETCH_BODY,
    OUTPUT_HEADER,
    SESSION,
    WORDS_HEADER,
    Flags,
    Identity,
    Reply,
    Request,
    Status,
)
from hyperdrive_hdl.isa import ErrorCode
from hyperdrive_hdl.rtl.board import BoardCore, identity_of
from hyperdrive_hdl.rtl.hierarchy import ModuleLibrary, instantiate
from hyperdrive_hdl.simulate.backend import Event
from hyperdrive_hdl.simulate.python import PysimBackend
from hyperdrive_hdl.simulate.streams import loaded_streams, stored_maps, stored_words
from hyperdrive_hdl.tools import yosys
from tests.support.chips import stimulus
from tests.support.convolution import naive_stage
from tests.support.host_line import HostLine
from tests.support.resnet import random_conv
from tests.support.stages import random_map
from tests.support.streams import simulate

DIVISOR = 4
CHIP = ChipConfig(
    name="board", lanes=2, tile_rows=1, tile_cols=1, fmm_banks=4, fmm_bank_depth=64, wbuf_depth=18
)


def core(config: ChipConfig = CHIP, clock_hz: int = 1000) -> tuple[BoardCore, Identity]:
    identity = identity_of(
        config,
        clock_hz=clock_hz,
        baud=clock_hz // DIVISOR,
        program_buffer=64,
        maps_buffer=16,
        output_buffer=8,
        counters=True,
    )
    return BoardCore(config=config, divisor=DIVISOR, identity=identity), identity


class Host:
    """Runs programs on a board, keeping to its free words; sends and fetches a few at a time."""

    def __init__(self, dut: BoardCore):
        self.line = HostLine(dut, DIVISOR)
        self.session = 0

    async def status(self, ctx, kind: Request = Request.STATUS, body: bytes = b"") -> Status:
        reply, answer = await self.line.ask(ctx, kind, body)
        assert reply == Reply.STATUS
        return Status.decode(answer)

    async def reset(self, ctx) -> Status:
        self.session += 1
        return await self.status(ctx, Request.RESET, SESSION.pack(self.session))

    async def run(self, ctx, program: np.ndarray, fm_in: np.ndarray, output_words: int) -> np.ndarray:
        outputs: list[int] = []
        status = await self.status(ctx)
        assert status.session == self.session
        assert (status.program_taken, status.maps_taken) == (0, 0)
        while len(outputs) < output_words:
            for kind, words, taken, free in (
                (Request.PROGRAM, program, status.program_taken, status.program_free),
                (Request.MAPS, fm_in, status.maps_taken, status.maps_free),
            ):
                part = words[taken : taken + min(free, 40)]
                if len(part):
                    body = WORDS_HEADER.pack(taken) + part.astype("<u2").tobytes()
                    status = await self.status(ctx, kind, body)
                    assert not status.error
            reply, body = await self.line.ask(ctx, Request.FETCH, FETCH_BODY.pack(len(outputs), 20))
            assert reply == Reply.OUTPUT
            assert OUTPUT_HEADER.unpack_from(body) == (self.session, len(outputs))
            outputs += np.frombuffer(body[OUTPUT_HEADER.size :], "<u2").tolist()
            status = await self.status(ctx)
        return np.array(outputs, np.uint16)


def one_layer(seed: int):
    rng = np.random.default_rng(seed)
    source = FeatureMap("in", 2, 3, 2)
    layer = random_conv(rng, source, "out", 3)
    stage = ChipStage("one", (source,), (layer,), (layer.output,))
    return compile_stage(stage, CHIP, MeshConfig()), stage, {"in": random_map(rng, source)}


def test_a_layer_through_the_serial_line():
    """Its words are those of the reference, after a RESET in the middle of a run before."""
    program, stage, image = one_layer(1)
    words, fm_in = program.words(), loaded_streams(program, [image])[0, 0]
    count = stored_words(program, 1)[0, 0]
    expected = naive_stage(stage, image, CHIP.wbuf_depth)["out"]
    dut, identity = core()
    host = Host(dut)
    found, counters = [], []

    async def bench(ctx):
        reply, body = await host.line.ask(ctx, Request.IDENTIFY)
        assert (reply, Identity.decode(body)) == (Reply.IDENTITY, identity)
        await host.reset(ctx)
        status = await host.status(
            ctx, Request.PROGRAM, WORDS_HEADER.pack(0) + words[:36].astype("<u2").tobytes()
        )
        assert status.program_taken == 36
        await host.status(ctx, Request.MAPS, WORDS_HEADER.pack(0) + fm_in[:5].astype("<u2").tobytes())
        status = await host.status(ctx)
        assert (status.flags, status.maps_taken, status.program_free) == (Flags.BUSY, 5, 64)
        assert ctx.get(dut.busy)
        status = await host.reset(ctx)
        assert (status.flags, status.maps_taken, status.program_taken) == (Flags(0), 0, 0)
        outputs = await host.run(ctx, words, fm_in, count)
        found.append(stored_maps(program, {(0, 0): outputs}, 1)[0]["out"])
        status = await host.status(ctx)
        assert (status.flags, status.layers, status.error) == (Flags.HALTED, 1, 0)
        reply, body = await host.line.ask(ctx, Request.COUNTERS)
        assert reply == Reply.COUNTERS
        values = np.frombuffer(body[SESSION.size :], "<u4")
        counters.append(dict(zip(COUNTER_NAMES, values.tolist(), strict=True)))

    simulate(dut, bench, background=[host.line.run], limit=400_000)
    np.testing.assert_array_equal(found, [expected])
    assert len(np.unique(expected)) > 3
    with PysimBackend(CHIP) as backend:
        backend.start(stimulus(program, [image]))
        while backend.run(10_000) is not Event.HALTED:
            pass
        reference = backend.counters()
    for seen in counters:
        assert seen["cycles"] > reference.cycles, "the line is slower than the chip"
        assert seen["loading"] >= reference.loading
        assert seen["storing"] >= reference.storing
        assert seen["cycles"] >= seen["computing"] + seen["load_exposed"] + seen["store_exposed"]
        assert min(seen[name] for name in ("computing", "loading", "storing", "load_exposed")) > 0


def test_an_error_of_the_chip_is_told_and_ends_with_reset():
    dut, _ = core()
    host = Host(dut)

    async def bench(ctx):
        await host.reset(ctx)
        assert not ctx.get(dut.error)
        await host.status(ctx, Request.PROGRAM, WORDS_HEADER.pack(0) + b"\xff\xff")
        status = await host.status(ctx)
        assert status.error == ErrorCode.CONFIG
        assert ctx.get(dut.error)
        assert (await host.reset(ctx)).error == 0
        assert not ctx.get(dut.error)

    simulate(dut, bench, background=[host.line.run], limit=40_000)


def test_lamps():
    """``alive`` has a period of 0.5 to 2 seconds."""
    dut, _ = core(clock_hz=1000)
    levels = []

    async def bench(ctx):
        for _ in range(4000):
            levels.append(ctx.get(dut.alive))
            await ctx.tick()

    simulate(dut, bench)
    rises = [at for at in range(1, 4000) if levels[at] > levels[at - 1]]
    assert len(rises) >= 2
    assert {500 <= later - sooner <= 2000 for sooner, later in pairwise(rises)} == {True}


@pytest.mark.parametrize("link_width", [0, 4])
def test_the_library_gives_the_chip_the_bridges_reset(link_width, tmp_path):
    """As a module of its own the chip has the bridge's reset, and no other; Yosys finds nothing wrong."""
    dut, _ = core(CHIP.replace(link_width=link_width))
    text = ModuleLibrary().convert(dut, "board_core")
    top = text[text.index("\nmodule \\board_core\n") :]
    cell = re.search(r"^  cell \\chip \\chip$.*?^  end$", top, re.MULTILINE | re.DOTALL)
    assert cell
    assert re.findall(r"connect \\rst (\S+)", cell[0]) == ["\\bridge__chip_reset"]
    (tmp_path / "board.il").write_text(text)
    log = yosys(
        "read_rtlil board.il; hierarchy -check -top board_core; proc; check -assert",
        cwd=tmp_path,
        what="check",
    )
    assert "Found and reported 0 problems" in log


class Counter(wiring.Component):
    """Counts; for the test of ``reset`` below."""

    def __init__(self, *, width: int):
        super().__init__({"count": Out(width)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.count.eq(self.count + 1)
        return m


class Resettable(wiring.Component):
    restart: In(1)
    count: Out(8)
    free: Out(8)

    def elaborate(self, platform):
        m = Module()
        child = instantiate(m, platform, "child", Counter, reset=self.restart, width=8)
        free = instantiate(m, platform, "free", Counter, width=8)
        m.d.comb += [self.count.eq(child.count), self.free.eq(free.count)]
        return m


def test_a_child_with_a_reset_of_its_own():
    """In Python as a submodule, in a library as an instance of the module that the other child has, too."""
    dut = Resettable()

    async def bench(ctx):
        for _ in range(5):
            await ctx.tick()
        ctx.set(dut.restart, 1)
        await ctx.tick()
        ctx.set(dut.restart, 0)
        assert (ctx.get(dut.count), ctx.get(dut.free)) == (0, 6)
        await ctx.tick()
        assert (ctx.get(dut.count), ctx.get(dut.free)) == (1, 7)

    simulate(dut, bench)
    library = ModuleLibrary()
    text = library.convert(Resettable(), "top")
    assert library.module_names == ["counter"]
    resets = re.findall(r"connect \\rst (.*)$", text[text.index("\nmodule \\top") :], re.MULTILINE)
    assert len(set(resets)) == 2
    assert "\\rst [0]" in resets or "\\rst" in resets
