"""Links against frames made and taken apart bit by bit in Python; no disturbance goes unnoticed."""

import random
from dataclasses import replace

import pytest
from amaranth.hdl import ClockDomain, DomainRenamer, Fragment, Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.sim import Simulator

from hyperdrive_hdl import framing
from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.framing import FrameKind, frame_words
from hyperdrive_hdl.isa import LinkFault
from hyperdrive_hdl.rtl.link import SOURCE_GAP, Receiver, Transmitter, WordQueue
from tests.support.formal import mutant
from tests.support.frames import Frame, beats, bits_of, checksum, read_wire
from tests.support.streams import Stalls, put, refuses, simulate

KINDS = (FrameKind.NORTH_CORNERS, FrameKind.EDGE, FrameKind.EDGE)
SLOTS = (1, 0, 1)
FORMATS = ("fp16", "fp8_e4m3")
WIDTHS = [
    (width, format)
    for format, most in zip(FORMATS, (16, 8), strict=True)
    for width in (1, 2, 4, 8, 16)
    if width <= most
]


def chip(width=16, format="fp16", clock="synchronous") -> ChipConfig:
    return ChipConfig(
        lanes=2,
        tile_rows=1,
        tile_cols=1,
        fmm_banks=4,
        fmm_bank_depth=256,
        wbuf_depth=18,
        format=format,
        link_width=width,
        link_clock=clock,
    )


class Line(wiring.Component):
    """Queues, transmitter and receiver."""

    def __init__(self, *, config: ChipConfig, heartbeat=200, timeout=3000, queues=3, kinds=None):
        kinds = kinds or {}
        self.queues = [kinds.get(WordQueue, WordQueue)(config=config) for _ in range(queues)]
        self.tx = kinds.get(Transmitter, Transmitter)(
            config=config, kinds=KINDS[:queues], slots=SLOTS[:queues], heartbeat=heartbeat
        )
        self.rx = kinds.get(Receiver, Receiver)(config=config, timeout=timeout)
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        for index, queue in enumerate(self.queues):
            m.submodules[f"queue{index}"] = queue
            wiring.connect(m, queue.frame, self.tx.frames[index])
        m.submodules.tx = self.tx
        m.submodules.rx = self.rx
        wiring.connect(m, self.tx.link, self.rx.link)
        return m


class Ears:
    """What a receiver hands out: maps from good frames, as ``(kind, slot) -> [words of a map, ...]``."""

    def __init__(self, rx: Receiver):
        self._rx = rx
        self._outputs = [
            rx.word_valid,
            rx.word,
            rx.kind,
            rx.slot,
            rx.frame_good,
            rx.last,
            rx.up,
            rx.fault,
            rx.control,
            rx.hearing,
        ]
        self.words: list[int] = []  # of the frame under way
        self.frames: list[Frame] = []
        self.up = self.fault = self.control = self.hearing = 0

    async def tick(self, ctx, *more, domain="sync"):
        """A cycle; also gives the values of ``more`` in it."""
        *_, valid, word, kind, slot, good, last, up, fault, control, hearing = (
            values := await ctx.tick(domain).sample(*more, *self._outputs)
        )
        if valid or good:
            assert not (valid and good)
            assert up
            assert not fault
        if valid:
            self.words.append(word)
        if good:
            self.frames.append(Frame(FrameKind(kind), slot, last, words=tuple(self.words)))
            self.words = []
        self.up, self.fault, self.control, self.hearing = up, fault, control, hearing
        return values[2 : 2 + len(more)]

    def maps(self) -> dict[tuple[FrameKind, int], list[list[int]]]:
        found: dict = {}
        for frame in self.frames:
            maps = found.setdefault((frame.kind, frame.slot), [[]])
            maps[-1] += frame.words
            if frame.last:
                maps.append([])
        return found


def random_maps(rng: random.Random, config: ChipConfig, count: int) -> list[list[int]]:
    """Of lengths around the size of a frame among others."""
    full = frame_words(config)
    lengths = rng.sample(
        [1, 2, full - 1, full, full + 1, 2 * full, 2 * full + 3, rng.randint(1, 3 * full)], count
    )
    return [[rng.getrandbits(config.word_width) for _ in range(length)] for length in lengths]


async def push(ctx, queue, maps, stalls, domain="sync"):
    for words in maps:
        items = [{"word": word, "last": i == len(words) - 1} for i, word in enumerate(words)]
        await put(ctx, queue.words, items, stalls)
        while not ctx.get(queue.empty):
            await ctx.tick(domain)


def round_trip(width, format, seed, kinds=None, limit=60_000):
    config = chip(width, format)
    rng = random.Random(f"{width} {format} {seed}")
    line = Line(config=config, kinds=kinds)
    maps = [random_maps(rng, config, 2 if width == 1 else 3) for _ in line.queues]
    expected = dict(zip(zip(KINDS, SLOTS, strict=True), maps, strict=True))
    count = sum(framing.frames(len(words), config) for one in maps for words in one)
    total = sum(framing.frame_bits(len(words), config) for one in maps for words in one)
    assert count > 6
    ears = Ears(line.rx)
    wire: list[int | None] = []
    controls = [0]
    border_beats = 0
    go_stalls = Stalls((seed, "go"))

    async def listen(ctx):
        nonlocal border_beats
        ctx.set(line.tx.hearing, 1)
        quiet = 0  # cycles after the last frame
        while quiet < 1200 // width or wire[-1] is not None:
            quiet += len(ears.frames) == count
            ctx.set(line.tx.enable, ears.up)
            ctx.set(line.tx.go, rng.randrange(8) if seed and go_stalls() else 7)
            if seed and not quiet and rng.random() < 0.01:
                controls.append(rng.getrandbits(4))
                ctx.set(line.tx.control, controls[-1])
            valid, beat, border = await ears.tick(
                ctx, line.tx.link.valid, line.tx.link.data, line.tx.border_beat
            )
            wire.append(beat if valid else None)
            border_beats += border
        assert (ears.fault, ears.hearing, ears.control) == (0, 1, controls[-1])

    def pusher(index):
        stalls = Stalls((seed, index)) if seed else lambda: False

        async def bench(ctx):
            await push(ctx, line.queues[index], maps[index], stalls)

        return bench

    simulate(line, listen, *(pusher(i) for i in range(len(maps))), limit=limit)
    received = ears.maps()
    assert {key: one[:-1] for key, one in received.items()} == expected
    assert all(one[-1] == [] for one in received.values())
    sent = read_wire(wire, config)
    border = [frame for frame in sent if frame.kind != FrameKind.CONTROL]
    assert [replace(frame, sequence=0) for frame in border] == ears.frames
    assert len(border) == count
    assert border_beats * width == total == sum(len(frame.bits(config)) for frame in border)
    told = [frame.control for frame in sent if frame.kind == FrameKind.CONTROL]
    assert told[0] == 0
    return sent


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("width", "format"), WIDTHS)
def test_maps_arrive_as_they_were_sent(width, format, seed):
    """At full speed, and with stalls of the words and of the permission to send."""
    round_trip(width, format, seed)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (WordQueue, ("ended & (fifo.level <= full)", "ended")),
        (WordQueue, ("self.frame.pending.eq(ended | ", "self.frame.pending.eq(ended | (fifo.level > 2) | ")),
        (Transmitter, ("sequence.eq(sequence + 1)", "sequence.eq(sequence + border)")),
        (Transmitter, ("shift[-width:]", "shift[:width]")),
        (Transmitter, ("sending & border", "sending")),
        (Receiver, ("self.slot.eq(header.slot)", "self.slot.eq(header.last)")),
    ],
)
def test_a_wrong_link_is_noticed(kind, change):
    with pytest.raises((AssertionError, TimeoutError)):
        round_trip(8, "fp16", 1, kinds={kind: mutant(kind, change)}, limit=6000)


def test_the_checksum_is_that_of_the_catalogue():
    digits = [bit for character in b"123456789" for bit in bits_of(character, 8)]
    assert checksum(digits) == 0x29B1


class Played(wiring.Component):
    """A receiver that can be reset, driven by hand."""

    def __init__(self, *, config: ChipConfig, timeout: int):
        self.rx = Receiver(config=config, timeout=timeout)
        self.restart = Signal()
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.rx = ResetInserter(self.restart)(self.rx)
        return m


def play(config: ChipConfig, wires: list[list[int | None]], timeout=3000) -> list[Ears]:
    """What a receiver makes of each of these: the beat, or none, of each cycle."""
    dut = Played(config=config, timeout=timeout)
    heard = []

    async def bench(ctx):
        for wire in wires:
            ctx.set(dut.restart, 1)
            await ctx.tick()
            ctx.set(dut.restart, 0)
            ears = Ears(dut.rx)
            for beat in [None, *wire, *[None] * 4]:
                ctx.set(dut.rx.link.valid, beat is not None)
                ctx.set(dut.rx.link.data, beat or 0)
                await ears.tick(ctx)
            heard.append(ears)

    simulate(dut, bench, limit=200_000)
    assert len(heard) == len(wires) > 0
    return heard


def run(config: ChipConfig, *frames: Frame) -> list[int | None]:
    """Frames with a gap after each."""
    wire: list[int | None] = []
    for frame in frames:
        wire += [*frame.beats(config), None]
    return wire


def some_frames(config: ChipConfig) -> tuple[Frame, Frame, Frame, Frame]:
    """CONTROL, two with words, and CONTROL, as a chip may send them; the first with number 14."""
    rng = random.Random(str(config))
    words = [rng.getrandbits(config.word_width) for _ in range(3)]
    return (
        Frame(FrameKind.CONTROL, last=1, sequence=14, control=0x31),
        Frame(FrameKind.EDGE, slot=1, sequence=15, words=tuple(words[:2])),
        Frame(FrameKind.SOUTH_CORNERS, last=1, sequence=0, words=tuple(words[2:])),
        Frame(FrameKind.CONTROL, last=0, sequence=1, control=0x35),
    )


def contents(*frames: Frame) -> list[Frame]:
    return [replace(frame, sequence=0) for frame in frames if frame.kind != FrameKind.CONTROL]


@pytest.mark.parametrize(("width", "format"), WIDTHS)
def test_any_disturbance_is_a_fault(width, format):
    """A bit flipped, a beat lost (as a gap, or without a trace) or repeated, at every place of a frame."""
    config = chip(width, format)
    first, edge, corners, _ = some_frames(config)
    bits = edge.bits(config)
    good = edge.beats(config)
    wires: list[list[int | None]] = []
    may_be_good = []  # all of the frame has come; what is wrong comes after it
    for place in range(len(bits)):
        flipped = [bit ^ (i == place) for i, bit in enumerate(bits)]
        wires.append(beats(flipped, config))
        may_be_good.append(False)
    for place in range(len(good)):
        wires += [
            good[:place] + good[place + 1 :],
            [*good[:place], None, *good[place + 1 :]],
            good[: place + 1] + good[place:],
            [*good[:place], None, *good[place:]],
        ]
        # A beat that equals the one before it might as well be the one that was lost.
        may_be_good += [False, False, place == len(good) - 1 or len(set(good[place:])) == 1, place == 0]
    wires = [[*run(config, first), *wire, None, *run(config, corners)] for wire in wires]
    heard = play(config, [run(config, *some_frames(config)), *wires])
    assert (heard[0].fault, heard[0].frames) == (LinkFault.NONE, contents(edge, corners))
    assert (heard[0].up, heard[0].control, heard[0].hearing) == (1, 0x35, 0)
    codes = set()
    for ears, good_after_all in zip(heard[1:], may_be_good, strict=True):
        if good_after_all and ears.frames == contents(edge, corners):
            continue  # a gap before the frame, which changes nothing
        assert ears.fault != LinkFault.NONE
        assert ears.frames == (contents(edge) if good_after_all else [])
        codes.add(LinkFault(ears.fault))
    assert (
        {LinkFault.FRAME, LinkFault.CHECK} <= codes <= {LinkFault.FRAME, LinkFault.CHECK, LinkFault.SEQUENCE}
    )


@pytest.mark.parametrize(("width", "format"), WIDTHS)
def test_each_fault_has_its_name(width, format):
    config = chip(width, format)
    frames = some_frames(config)
    first, edge, corners, control = frames
    begun = run(config, first)
    beats_of_edge = edge.beats(config)
    cut = beats_of_edge[:-1]
    full = frame_words(config)
    longest = Frame(FrameKind.EDGE, sequence=15, words=(3,) * full)
    cases = [
        (run(config, *frames), LinkFault.NONE, [edge, corners]),
        (run(config, first, longest), LinkFault.NONE, [longest]),
        (run(config, first, corners, control), LinkFault.SEQUENCE, []),
        (run(config, first, edge, edge), LinkFault.SEQUENCE, [edge]),
        (run(config, first, edge, replace(corners, sequence=8)), LinkFault.SEQUENCE, [edge]),
        (run(config, *frames, replace(control, sequence=2, control=0x55)), LinkFault.EPOCH, [edge, corners]),
        (run(config, first, replace(edge, words=())), LinkFault.FRAME, []),
        (run(config, first, replace(longest, words=(1,) * (full + 1))), LinkFault.FRAME, []),
        (run(config, first, replace(edge, length=1)), LinkFault.CHECK, []),
        ([*begun, *cut, None, *run(config, corners)], LinkFault.FRAME, []),
        ([*begun, *beats_of_edge, 0, None], LinkFault.FRAME, [edge]),
        ([*begun, *cut, beats_of_edge[-1] ^ 1, None], LinkFault.CHECK, []),
    ]
    # After a fault nothing is heard any more, be it right.
    cases += [(wire + run(config, *frames), fault, good) for wire, fault, good in cases if fault]
    for ears, (_, fault, good) in zip(play(config, [wire for wire, *_ in cases]), cases, strict=True):
        assert LinkFault(ears.fault) == fault
        assert ears.frames == contents(*good)


@pytest.mark.parametrize(("width", "format"), WIDTHS)
def test_a_start_in_the_middle_of_a_frame_does_no_harm(width, format):
    """Whatever comes before the first whole CONTROL frame is nothing; the frames after it count."""
    config = chip(width, format)
    first, edge, corners, control = some_frames(config)
    before = [
        run(config, Frame(FrameKind.SOUTH_CORNERS, sequence=13, words=(7, 9)))[place:]
        for place in range(1, len(corners.beats(config)))
    ]
    before += [run(config, first)[place:] for place in range(1, len(first.beats(config)))]
    before += [[*first.beats(config)[:place], None] for place in range(1, len(first.beats(config)))]
    before += [[*beats([bit ^ (i == 30) for i, bit in enumerate(first.bits(config))], config), None]]
    before += [run(config, replace(corners, length=0)), run(config, replace(corners, length=255)), [1, None]]
    heard = play(config, [wire + run(config, first, edge, corners, control) for wire in before])
    for ears in heard:
        assert ears.fault == LinkFault.NONE
        assert ears.frames == contents(edge, corners)
    # In the middle of a frame is also where the link is busy in the very cycle in which reset ends.
    for ears in play(config, [wire[:-1] for wire in before]):
        assert (ears.up, ears.fault, ears.frames) == (0, LinkFault.NONE, [])


def test_silence():
    """Too many cycles without a frame are a fault, some fewer are none; before the first frame nothing is."""
    config = chip()
    timeout = 50
    first, _, _, control = some_frames(config)
    later = replace(control, sequence=15)
    wires = [
        [None] * (3 * timeout) + run(config, first),
        run(config, first) + [None] * (timeout - 4) + run(config, later),
        run(config, first) + [None] * (timeout + 4) + run(config, later),
        run(config, first) + [None] * (timeout + 8),
    ]
    heard = play(config, wires, timeout=timeout)
    assert [ears.fault for ears in heard] == [0, 0, LinkFault.SILENCE, LinkFault.SILENCE]
    assert [ears.control for ears in heard] == [0x31, 0x35, 0x31, 0x31]


@pytest.mark.parametrize("clock", ["synchronous", "source"])
def test_heartbeats(clock):
    """An idle link carries a CONTROL frame from time to time, and at once when there is something to tell."""
    config = chip(8, clock=clock)
    heartbeat = 100
    line = Line(config=config, heartbeat=heartbeat, queues=1)
    begins: list[int] = []
    wire: list[int | None] = []

    async def bench(ctx):
        for cycle in range(620):
            if cycle == 350:
                ctx.set(line.tx.control, 0x02)
            if cycle == 360:
                ctx.set(line.tx.hearing, 1)
            *_, valid, beat = await ctx.tick().sample(line.tx.link.valid, line.tx.link.data)
            if valid and (not wire or wire[-1] is None):
                begins.append(cycle)
            wire.append(beat if valid else None)
        assert ctx.get(line.rx.fault) == 0

    simulate(line, bench)
    frames = read_wire(wire, config)
    start = begins[0]
    assert start <= 20
    period = heartbeat + 1
    expected = [start + i * period for i in range(4) if start + i * period < 350]
    expected += [352, 362, 362 + period, 362 + 2 * period]
    assert begins == expected
    late = len(expected) - 4
    assert [(f.control, f.last) for f in frames] == [(0, 0)] * late + [(0x02, 0)] + [(0x02, 1)] * 3


def test_control_goes_first_then_the_sources_in_turn():
    config = chip(16)
    line = Line(config=config)
    ears = Ears(line.rx)

    async def bench(ctx):
        for index, queue in enumerate(line.queues):
            await put(ctx, queue.words, [{"word": 10 * index + i, "last": i == 2} for i in range(3)])
        for _ in range(20):  # permission without enable, enable without permission
            ctx.set(line.tx.go, 7 if ears.up else 0)
            await ears.tick(ctx)
        ctx.set(line.tx.go, 0)
        ctx.set(line.tx.enable, 1)
        for _ in range(20):
            await ears.tick(ctx)
        assert not ears.frames
        ctx.set(line.tx.go, 0b110)
        for _ in range(20):
            await ears.tick(ctx)
        ctx.set(line.tx.go, 0b111)
        for _ in range(20):
            await ears.tick(ctx)

    simulate(line, bench)
    assert [(f.kind, f.slot, f.words) for f in ears.frames] == [
        (FrameKind.EDGE, 0, (10, 11, 12)),
        (FrameKind.EDGE, 1, (20, 21, 22)),
        (FrameKind.NORTH_CORNERS, 1, (0, 1, 2)),
    ]


class TwoClocks:
    """A source-synchronous line whose two ends have clocks of their own."""

    def __init__(self, config: ChipConfig, *, west: int, east: int, phase: int = 0):
        self.line = line = Line(config=config, heartbeat=300, timeout=4000, queues=1)
        self.west_domain, self.east_domain = ClockDomain("west"), ClockDomain("east")
        m = Module()
        m.domains += [self.west_domain, self.east_domain]
        m.submodules.queue = DomainRenamer("west")(line.queues[0])
        m.submodules.tx = DomainRenamer("west")(line.tx)
        m.submodules.rx = DomainRenamer("east")(line.rx)
        wiring.connect(m, line.queues[0].frame, line.tx.frames[0])
        wiring.connect(m, line.tx.link, line.rx.link)
        self.simulator = Simulator(Fragment.get(m, None))
        self.simulator.add_clock(west * 1e-12, domain="west")
        self.simulator.add_clock(east * 1e-12, phase=phase * 1e-12, domain="east")
        self.ears = Ears(line.rx)

    def run(self, maps: list[list[int]], *, until: int, restarts: tuple[int, ...] = (), limit=20_000) -> None:
        """Send maps without a pause; end when so many frames have come, or with a fault."""
        line, ears = self.line, self.ears
        over = False

        async def west(ctx):
            ctx.set(line.tx.enable, 1)
            ctx.set(line.tx.go, 1)
            for words in maps:
                for index, word in enumerate(words):
                    ctx.set(line.queues[0].words.payload, {"word": word, "last": index == len(words) - 1})
                    ctx.set(line.queues[0].words.valid, 1)
                    taken = False
                    while not taken:
                        *_, taken = await ctx.tick("west").sample(line.queues[0].words.ready)
                ctx.set(line.queues[0].words.valid, 0)
                await ctx.tick("west")
                while not ctx.get(line.queues[0].empty):
                    await ctx.tick("west")

        async def east(ctx):
            nonlocal over
            for cycle in range(limit):
                if cycle in restarts:
                    ears.frames, ears.words = [], []
                ctx.set(self.east_domain.rst, cycle in restarts)
                await ears.tick(ctx, domain="east")
                if len(ears.frames) >= until or ears.fault:
                    break
            over = True

        self.simulator.add_testbench(west, background=True)
        self.simulator.add_testbench(east)
        self.simulator.run()
        assert over


@pytest.mark.parametrize("width", [1, 8, 16])
@pytest.mark.parametrize("phase", [1000, 4900])
@pytest.mark.parametrize("slower", [-0.9, 0.0, 0.9])
def test_clocks_of_their_own(width, phase, slower):
    """The receiver's clock is slower or faster by nearly as much as the gap between frames allows."""
    config = chip(width, clock="source")
    full = frame_words(config)
    beats_per_frame = framing.frame_bits(full, config) // width
    rng = random.Random(f"{width} {phase} {slower}")
    count = 4 if width == 1 else 20
    words = [rng.getrandbits(16) for _ in range(count * full - 1)]
    east = round(10_000 * (1 + slower * SOURCE_GAP / beats_per_frame))
    clocks = TwoClocks(config, west=10_000, east=east, phase=phase)
    clocks.run([words], until=count)
    assert clocks.ears.fault == 0
    assert clocks.ears.maps() == {(KINDS[0], SLOTS[0]): [words, []]}


def test_a_much_faster_neighbour_is_a_fault():
    config = chip(16, clock="source")
    clocks = TwoClocks(config, west=10_000, east=22_000, phase=300)
    clocks.run([[7] * 400], until=13)
    assert clocks.ears.fault == LinkFault.FRAME


@pytest.mark.parametrize("restart", range(60, 180, 17))
def test_a_reset_of_the_receiver_alone(restart):
    """It comes back with a later CONTROL frame, and what it then hands out are whole frames again."""
    config = chip(8, clock="source")
    clocks = TwoClocks(config, west=10_000, east=10_090, phase=restart * 37)
    sent = list(range(1, 1024))
    clocks.run([sent], until=12, restarts=(restart, restart + 1))
    assert clocks.ears.fault == 0
    received = [word for frame in clocks.ears.frames for word in frame.words]
    full = frame_words(config)
    assert len(received) == 12 * full
    assert received == sent[received[0] - 1 :][: len(received)]
    assert received[0] % full == 1


def test_parameters():
    config = chip()
    refuses(Transmitter, "kinds must be", config=config, kinds=(), slots=())
    refuses(Transmitter, "kinds must be", config=config, kinds=(FrameKind.CONTROL,), slots=(0,))
    refuses(Transmitter, "slots must be 1 times", config=config, kinds=(FrameKind.EDGE,), slots=(0, 1))
    refuses(Transmitter, "slots must be 1 times", config=config, kinds=(FrameKind.EDGE,), slots=(2,))
