"""The bridge over its serial line, with ``host_link`` at the other end and streams in place of the chip."""

import random

import pytest
from amaranth.hdl import Fragment

from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.host_link import (
    COUNTER_NAMES,
    FETCH_BODY,
    OUTPUT_HEADER,
    SESSION,
    WORDS_HEADER,
    Features,
    Flags,
    Identity,
    Reply,
    Request,
    Status,
    frame,
    word_bytes,
)
from hyperdrive_hdl.rtl.board import identity_of
from hyperdrive_hdl.rtl.bridge import RESET_CYCLES, Bridge, Replies
from hyperdrive_hdl.rtl.hierarchy import ModuleLibrary
from tests.support.host_line import HostLine
from tests.support.streams import Stalls, refuses, simulate

DIVISOR = 4
CHIP = ChipConfig(name="x", lanes=2, tile_rows=1, tile_cols=1, fmm_banks=4, fmm_bank_depth=64, wbuf_depth=18)
SESSION_NUMBER = 0x1234


def identity(config: ChipConfig = CHIP, *, depth: int = 32, counters: bool = True) -> Identity:
    clock_hz = 76_000_000 if counters else 12_000_000  # where the table has a register, and where not
    return identity_of(
        config,
        clock_hz=clock_hz,
        baud=clock_hz // DIVISOR,
        program_buffer=depth,
        maps_buffer=depth // 2,
        output_buffer=depth,
        counters=counters,
    )


class Rig:
    """A bridge, the host's line, and a chip that only takes and gives words.

    ``run`` runs benches, each called with a context. What the chip took is in ``program`` and ``fm_in``; it
    gives ``fm_out`` word by word. ``open`` tells which streams move.
    """

    def __init__(self, config: ChipConfig = CHIP, *, seed: int | None = None, **options):
        self.identity = identity(config, **options)
        self.config = config
        self.dut = Bridge(config=config, divisor=DIVISOR, identity=self.identity)
        self.line = HostLine(self.dut, DIVISOR)
        self.program: list[int] = []
        self.fm_in: list[int] = []
        self.fm_out: list[int] = []
        self.given = 0  # of fm_out
        self.open = {"program", "fm_in"}  # a RESET would lose words of fm_out
        self._seed = seed

    def run(self, bench, limit: int = 400_000) -> None:
        dut = self.dut
        takers = [
            self._taker("program", dut.program, self.program),
            self._taker("fm_in", dut.fm_in, self.fm_in),
        ]
        simulate(dut, bench, background=[self.line.run, *takers, self._giver], limit=limit)

    def _taker(self, name: str, stream, words: list[int]):
        stalls = Stalls((self._seed, name)) if self._seed is not None else lambda: False

        async def take(ctx):
            while True:
                ready = name in self.open and not stalls()
                ctx.set(stream.ready, ready)
                *_, valid, word = await ctx.tick().sample(stream.valid, stream.payload)
                if valid and ready:
                    words.append(word)

        return take

    async def _giver(self, ctx):
        stream = self.dut.fm_out
        offered = False
        while True:
            offered = offered or ("fm_out" in self.open and self.given < len(self.fm_out))
            ctx.set(stream.valid, offered)
            if offered:
                ctx.set(stream.payload, self.fm_out[self.given])
            *_, ready, reset = await ctx.tick().sample(stream.ready, self.dut.chip_reset)
            self.given += offered and ready
            offered = offered and not ready and not reset

    async def status(self, ctx, kind: Request = Request.STATUS, body: bytes = b"") -> Status:
        reply, answer = await self.line.ask(ctx, kind, body)
        assert reply == Reply.STATUS
        return Status.decode(answer)

    async def reset(self, ctx, session: int = SESSION_NUMBER) -> Status:
        return await self.status(ctx, Request.RESET, SESSION.pack(session))

    async def write(self, ctx, kind: Request, offset: int, words: list[int]) -> Status:
        return await self.status(ctx, kind, self.words_body(kind, offset, words))

    def words_body(self, kind: Request, offset: int, words: list[int]) -> bytes:
        size = self.identity.program_bytes if kind == Request.PROGRAM else self.identity.map_bytes
        return WORDS_HEADER.pack(offset % (1 << 16)) + b"".join(w.to_bytes(size, "little") for w in words)

    async def fetch(self, ctx, offset: int, count: int) -> tuple[int, int, list[int]]:
        """Session, offset and words of the OUTPUT."""
        reply, answer = await self.line.ask(ctx, Request.FETCH, FETCH_BODY.pack(offset % (1 << 16), count))
        assert reply == Reply.OUTPUT
        return self.output(answer)

    def output(self, body: bytes) -> tuple[int, int, list[int]]:
        size = self.identity.map_bytes
        words = body[OUTPUT_HEADER.size :]
        assert len(words) % size == 0
        return *OUTPUT_HEADER.unpack_from(body), [
            int.from_bytes(words[i : i + size], "little") for i in range(0, len(words), size)
        ]


def test_identity_and_status():
    rig = Rig()

    async def bench(ctx):
        kind, body = await rig.line.ask(ctx, Request.IDENTIFY)
        assert kind == Reply.IDENTITY
        assert body == rig.identity.encode()
        assert Identity.decode(body) == rig.identity
        assert await rig.status(ctx) == Status(0, Flags(0), 0, 0, 0, 0, 32, 0, 16, 0, 0)
        ctx.set(rig.dut.status.busy, 1)
        ctx.set(rig.dut.status.error, 4)
        ctx.set(rig.dut.status.side, 3)
        ctx.set(rig.dut.status.fault, 5)
        ctx.set(rig.dut.status.layer, 0xABCD)
        status = await rig.reset(ctx)
        assert status == Status(SESSION_NUMBER, Flags.BUSY, 4, 0x53, 0xABCD, 0, 32, 0, 16, 0, 0)
        assert ctx.get(rig.dut.busy)
        assert ctx.get(rig.dut.error)

    rig.run(bench)
    assert rig.line.deframer.dropped == 0
    assert len(rig.line.frames) == 3


@pytest.mark.parametrize(
    ("config", "depth"),
    [
        pytest.param(CHIP, 32, marks=pytest.mark.slow),
        (CHIP.replace(format="fp8_e4m3"), 64),  # maps of one byte, the program of two
        (CHIP.replace(lanes=20), 32),  # program words of three bytes
        pytest.param(CHIP.replace(lanes=32), 16, marks=pytest.mark.slow),
        pytest.param(CHIP.replace(lanes=40, format="q3.8"), 16, marks=pytest.mark.slow),
        pytest.param(CHIP.replace(lanes=64), 16, marks=pytest.mark.slow),
    ],
    ids=lambda value: str(getattr(value, "program_width", value)),
)
def test_words_to_the_chip(config, depth):
    """Random frames, good, damaged and out of place, against a count of what was sent in order."""
    rng = random.Random(depth + config.lanes)
    rig = Rig(config, seed=depth, depth=depth)
    widths = {Request.PROGRAM: config.program_width, Request.MAPS: config.word_width}
    sent: dict[Request, list[int]] = {kind: [] for kind in widths}
    seen = dict.fromkeys(("good", "out of place", "damaged", "cut", "odd", "too many"), 0)

    async def bench(ctx):
        await rig.reset(ctx)
        plan = [(what, kind) for what in ("good", *seen) for kind in widths] * (1 if depth > 32 else 2)
        rng.shuffle(plan)
        status = await rig.status(ctx)
        for what, kind in plan:
            free = status.program_free if kind == Request.PROGRAM else status.maps_free
            count = free if what == "good" and rng.random() < 0.5 else rng.randint(min(free, 5), min(free, 8))
            if what == "too many":
                count = free + rng.choice((3, 5, 20))  # a word or two may go to the chip meanwhile
                rig.open = set()
            else:
                rig.open = set(rng.sample(["program", "fm_in"], rng.randrange(3)))
            words = [rng.randrange(1 << widths[kind]) for _ in range(count)]
            offset = len(sent[kind]) + (rng.choice((-1, 1, 256, 0x8000)) if what == "out of place" else 0)
            body = rig.words_body(kind, offset, words)
            if what == "cut":
                line = frame(kind, body)
                rig.line.send(line[: rng.randint(2, len(line) - 2)])  # the next frame's flag ends it
            elif what == "damaged":
                line = bytearray(frame(kind, body))
                line[rng.randrange(1, len(line) - 1)] ^= 0x40 if rng.random() < 0.5 else 0x01
                rig.line.send(bytes(line))
            elif what == "odd":
                size = word_bytes(widths[kind])
                extra = bytes(rng.randrange(1, size)) if size > 1 else b""
                if not extra:
                    continue
                rig.line.send(frame(kind, body + extra))
            else:
                status = await rig.status(ctx, kind, body)
                sent[kind] += words if what == "good" else []
            seen[what] += 1
            if what in ("damaged", "cut", "odd"):
                status = await rig.status(ctx)
            assert status.program_taken == len(sent[Request.PROGRAM])
            assert status.maps_taken == len(sent[Request.MAPS])
            assert status.session == SESSION_NUMBER
            room = rig.identity.program_buffer - (len(sent[Request.PROGRAM]) - len(rig.program))
            assert status.program_free <= room + 1
        rig.open = {"program", "fm_in"}
        for _ in range(2000):
            await ctx.tick()
        status = await rig.status(ctx)
        assert status.program_free == rig.identity.program_buffer
        assert status.maps_free == rig.identity.maps_buffer

    rig.run(bench, limit=2_000_000)
    assert rig.program == sent[Request.PROGRAM]
    assert rig.fm_in == sent[Request.MAPS]
    assert min(len(rig.program), len(rig.fm_in)) >= 10
    assert min(seen.values()) >= 1
    assert rig.line.deframer.dropped == 0


def test_what_is_no_request_has_no_reply():
    """Unknown kinds, wrong lengths; nothing comes, nothing changes."""
    rig = Rig(counters=False)
    frames = [
        (0x00, b""),
        (0x08, b""),
        (0x0B, b"\0\0ab"),  # PROGRAM, but for a bit
        (0x81, b""),
        (0x86, b""),
        (Request.IDENTIFY, b"x"),
        (Request.STATUS, b"x"),
        (Request.STATUS, b"longer than all the counts there are"),
        (Request.RESET, b""),
        (Request.RESET, b"x"),
        (Request.RESET, b"xyz"),
        (Request.FETCH, b""),
        (Request.FETCH, b"xy"),
        (Request.FETCH, b"xyza"),
        (Request.PROGRAM, b""),
        (Request.PROGRAM, b"\0"),
        (Request.PROGRAM, b"\0\0a"),
        (Request.MAPS, b"\0"),
        (Request.COUNTERS, b""),  # a board without
    ]

    async def bench(ctx):
        before = await rig.reset(ctx)
        for kind, body in frames:
            rig.line.send(frame(kind, body))
        await rig.line.quiet(ctx)
        assert len(rig.line.frames) == 1
        assert await rig.status(ctx) == before
        assert not ctx.get(rig.dut.error)

    rig.run(bench)
    assert not rig.program
    assert not rig.fm_in


def test_words_from_the_chip():
    """FETCHes against the list of words: right ones, repeated ones, offsets outside."""
    rng = random.Random(5)
    rig = Rig()
    rig.fm_out = [rng.randrange(1 << 16) for _ in range(150)]
    depth = rig.identity.output_buffer
    plan = [
        (count, place)
        for count in (0, 1, 20, 255)
        for place in (0, 0, rng.choice((-1, depth + 1, 300, 0x8000)))
    ]
    rng.shuffle(plan)
    seen = dict.fromkeys(("some", "none", "all asked for", "full"), 0)

    async def bench(ctx):
        await rig.reset(ctx)
        first = kept = 0
        for count, place in [*plan, (255, 0), (255, 0)]:
            rig.open = {"fm_out"} if rng.random() < 0.7 else set()
            known = rig.given
            seen["full"] += known - kept == depth
            session, offset, words = await rig.fetch(ctx, kept + place if place else first, count)
            kept = kept if place else first  # what the board keeps begins there
            assert session == SESSION_NUMBER
            assert offset == kept
            assert words == rig.fm_out[kept : kept + len(words)]
            assert min(count, known - kept) <= len(words) <= min(count, depth)
            seen["none"] += not words
            seen["some"] += 0 < len(words) < count
            seen["all asked for"] += 0 < len(words) == count
            if rng.random() < 0.8:
                first = kept + len(words)
        rig.open = set()
        session, offset, words = await rig.fetch(ctx, first, 0)
        status = await rig.status(ctx)
        assert status.output_first == first == offset
        assert status.output_words == rig.given - first

    rig.run(bench, limit=2_000_000)
    assert rig.line.deframer.dropped == 0
    assert min(seen.values()) > 1, seen


def test_maps_of_one_byte():
    rig = Rig(CHIP.replace(format="fp8_e4m3"))
    rig.fm_out = [0x7E, 0x7D, 0, 0xFF, 1, 2, 3]

    async def bench(ctx):
        await rig.reset(ctx)
        rig.open = {"fm_out"}
        assert await rig.fetch(ctx, 0, 5) == (SESSION_NUMBER, 0, rig.fm_out[:5])
        assert await rig.fetch(ctx, 5, 255) == (SESSION_NUMBER, 5, rig.fm_out[5:])

    rig.run(bench)


def test_reset():
    """Everything is emptied, chip_reset lasts its cycles, nothing is offered meanwhile."""
    rig = Rig()
    rig.fm_out = list(range(100, 140))
    lengths = [0]

    async def watch(ctx):
        while True:
            *_, reset, program, maps = await ctx.tick().sample(
                rig.dut.chip_reset, rig.dut.program.valid, rig.dut.fm_in.valid
            )
            if reset:
                lengths[-1] += 1
                assert lengths[-1] == 1 or not (program or maps)
            elif lengths[-1]:
                lengths.append(0)

    async def bench(ctx):
        await rig.reset(ctx, 1)
        rig.open = {"fm_out"}
        await rig.write(ctx, Request.PROGRAM, 0, [1, 2, 3])
        await rig.write(ctx, Request.MAPS, 0, [4, 5])
        await rig.fetch(ctx, 5, 1)
        rig.line.send(b"\x7e damage \x7e")
        status = await rig.status(ctx)
        assert (status.program_taken, status.maps_taken, status.output_first) == (3, 2, 5)
        assert (status.program_free, status.maps_free, status.output_words) == (32 - 2, 16 - 1, 32)
        assert ctx.get(rig.dut.error)
        rig.open = set()
        assert await rig.reset(ctx, 0xFEDC) == Status(0xFEDC, Flags(0), 0, 0, 0, 0, 32, 0, 16, 0, 0)
        assert not ctx.get(rig.dut.error)
        rig.open = {"program", "fm_in"}
        await rig.write(ctx, Request.PROGRAM, 0, [7])
        await rig.write(ctx, Request.MAPS, 0, [8])
        await rig.status(ctx)

    dut = rig.dut
    simulate(
        dut,
        bench,
        background=[
            rig.line.run,
            watch,
            rig._taker("program", dut.program, rig.program),
            rig._taker("fm_in", dut.fm_in, rig.fm_in),
            rig._giver,
        ],
        limit=100_000,
    )
    assert lengths == [1, RESET_CYCLES, RESET_CYCLES, 0]  # the first: from the reset at the start
    assert rig.program == [7]
    assert rig.fm_in == [8]


def test_replies_stand_for_requests_that_came_meanwhile():
    """During a long reply all kinds come, some twice: then each is answered once, in order of priority."""
    rig = Rig()
    rig.fm_out = list(range(30))

    async def bench(ctx):
        await rig.reset(ctx)
        rig.open = {"fm_out"}
        known = len(rig.line.frames)
        rig.line.send(frame(Request.IDENTIFY))
        for _ in range(10 * DIVISOR * 12):
            await ctx.tick()
        for kind in (Request.STATUS, Request.COUNTERS, Request.STATUS, Request.IDENTIFY):
            rig.line.send(frame(kind))
        rig.line.send(frame(Request.FETCH, FETCH_BODY.pack(0, 4)))
        await rig.line.quiet(ctx)
        kinds = [kind for kind, _ in rig.line.frames[known:]]
        assert kinds == [Reply.IDENTITY, Reply.IDENTITY, Reply.OUTPUT, Reply.COUNTERS, Reply.STATUS]

    rig.run(bench)
    assert rig.line.deframer.dropped == 0


def test_a_fetch_during_an_output():
    """The words of an OUTPUT are right though others are freed and overwritten while it goes."""
    rng = random.Random(2)
    rig = Rig(depth=64)
    rig.fm_out = [rng.randrange(1 << 16) for _ in range(3000)]
    answers = []

    async def bench(ctx):
        await rig.reset(ctx)
        rig.open = {"fm_out"}
        first = 0
        for _ in range(8):
            known = len(rig.line.frames)
            rig.line.send(frame(Request.FETCH, FETCH_BODY.pack(first, 60)))
            for _ in range(rng.choice((rng.randrange(200, 700), rng.randrange(3000)))):
                await ctx.tick()
            first += rng.randrange(40)
            rig.line.send(frame(Request.FETCH, FETCH_BODY.pack(first, 3)))
            await rig.line.quiet(ctx)
            bodies = [rig.output(body) for _, body in rig.line.frames[known:]]
            assert len(bodies) == 2
            for _, offset, words in bodies:
                assert words == rig.fm_out[offset : offset + len(words)]
            assert bodies[1][1:] == (first, rig.fm_out[first : first + 3])
            answers.append(len(bodies[0][2]))

    rig.run(bench, limit=2_000_000)
    assert max(answers) > 20
    assert min(answers) < 12
    assert rig.line.deframer.dropped == 0


def test_halted_and_counters():
    """From a program's first word to its HALT, and again from the next one's on."""
    rig = Rig()
    activity = dict.fromkeys(("computing", "loading", "storing"), 0)
    counted = dict.fromkeys(COUNTER_NAMES, 0)
    rng = random.Random(3)
    moving = False

    async def counters(ctx) -> dict[str, int]:
        kind, body = await rig.line.ask(ctx, Request.COUNTERS)
        assert kind == Reply.COUNTERS
        assert SESSION.unpack_from(body) == (SESSION_NUMBER,)
        numbers = body[SESSION.size :]
        assert len(numbers) == 4 * len(COUNTER_NAMES)
        return {
            name: int.from_bytes(numbers[4 * i : 4 * i + 4], "little") for i, name in enumerate(COUNTER_NAMES)
        }

    async def chip(ctx):
        """Random activity; counts what should be counted, by the definition in ``Counters``."""
        nonlocal moving
        while True:
            for name in activity:
                activity[name] = rng.random() < 0.4
                ctx.set(getattr(rig.dut.activity, name), activity[name])
            *_, valid, ready, halted = await ctx.tick().sample(
                rig.dut.program.valid, rig.dut.program.ready, rig.dut.status.halted
            )
            moving |= bool(valid and ready)
            if moving:
                counted["cycles"] += 1
                for name, value in activity.items():
                    counted[name] += value
                counted["load_exposed"] += activity["loading"] and not activity["computing"]
                counted["store_exposed"] += activity["storing"] and not (
                    activity["computing"] or activity["loading"]
                )
            if halted:
                moving = False

    async def halt(ctx):
        ctx.set(rig.dut.status.halted, 1)
        await ctx.tick()
        ctx.set(rig.dut.status.halted, 0)

    async def bench(ctx):
        await rig.reset(ctx)
        assert set((await counters(ctx)).values()) == {0}
        for program in range(3):
            status = await rig.write(ctx, Request.PROGRAM, program, [5])
            assert status.flags == Flags(0)
            running = await counters(ctx)
            assert running["cycles"] > 0
            for _ in range(rng.randrange(3000, 12_000)):
                await ctx.tick()
            await halt(ctx)
            for _ in range(20):
                await ctx.tick()
            assert (await rig.status(ctx)).flags == Flags.HALTED
            assert await counters(ctx) == counted
        assert counted["cycles"] > 10_000, "two bytes"
        assert all(counted.values())
        status = await rig.reset(ctx)
        assert status.flags == Flags(0)
        assert set((await counters(ctx)).values()) == {0}

    dut = rig.dut
    simulate(
        dut,
        bench,
        background=[rig.line.run, chip, rig._taker("program", dut.program, rig.program)],
        limit=400_000,
    )


def test_halt_with_its_own_word():
    """HALT is told in the cycle in which its word is taken; that word begins no program."""
    rig = Rig()

    async def chip(ctx):
        while True:
            ctx.set(rig.dut.status.halted, ctx.get(rig.dut.program.valid) and ctx.get(rig.dut.program.p) == 9)
            await ctx.tick()

    async def bench(ctx):
        await rig.reset(ctx)
        assert (await rig.write(ctx, Request.PROGRAM, 0, [1, 2, 9])).program_taken == 3
        assert (await rig.status(ctx)).flags == Flags.HALTED
        await rig.write(ctx, Request.PROGRAM, 3, [1])
        assert (await rig.status(ctx)).flags == Flags(0)

    dut = rig.dut
    simulate(
        dut,
        bench,
        background=[rig.line.run, chip, rig._taker("program", dut.program, rig.program)],
        limit=40_000,
    )
    assert rig.program == [1, 2, 9, 1]


def test_identities_that_are_refused():
    good = identity()
    for change in ({"program_bytes": 3}, {"map_bytes": 1}, {"signature": 5}):
        refuses(
            Bridge,
            f"{next(iter(change))} must be",
            config=CHIP,
            divisor=4,
            identity=Identity(**(vars(good) | change)),
        )


@pytest.mark.parametrize("counters", [False, True])
def test_every_reply_is_in_the_table(counters):
    """Elaborated under a module library, too; without COUNTERS there is nothing of them."""
    text = ModuleLibrary().convert(
        Bridge(config=CHIP, divisor=12, identity=identity(counters=counters)), "bridge"
    )
    assert ("cycles_counter" in text) == counters
    for module in ("commit_buffer", "output_buffer", "replies", "frame_receiver", "uart_receiver"):
        assert f"\nmodule \\{module}\n" in text
    Fragment.get(Replies(identity=identity(counters=counters)), None)
    assert Features.COUNTERS in identity(counters=True).features
