"""Links between chips: words in frames with a number and a checksum, and a receiver that misses nothing.

A link has ``link_width`` wires for data and one that tells that they carry a *beat*. A frame is a run of
beats without a gap; between two frames there is at least one idle beat, so that the receiver finds its place
again at every frame. A frame has a header, ``length`` words and a checksum over both (framing.py), the most
significant bit first::

    header, from the most significant bit:  kind 2, slot 1, last 1, sequence 4, length 8

A CONTROL frame has no words; eight bits of control are in place of the length, ``hearing`` in that of
``last``. Such frames go out when one of the two has changed, and from time to time in any case, so that
silence is a fault.
Nothing is ever sent twice: a link that fails says so, and how (``isa.LinkFault``), and is dead until reset.
"""

from amaranth.hdl import Array, Cat, ClockDomain, ClockSignal, Module, Mux, ResetSignal, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.cdc import FFSynchronizer, ResetSynchronizer
from amaranth.lib.crc.catalog import CRC16_IBM_3740
from amaranth.lib.enum import Enum
from amaranth.lib.fifo import AsyncFIFOBuffered, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from ..config import SOURCE, ChipConfig
from ..framing import CHECK_BITS, HEADER_BITS, FrameKind, frame_words
from ..isa import LinkFault

HEARTBEAT = 1024  # cycles between two CONTROL frames that only show that the link lives
TIMEOUT = 8192  # cycles without a frame that make silence a fault
SOURCE_GAP = 4  # idle beats between frames to a receiver with a clock of its own, which may be the slower one
SOURCE_START = 16  # cycles after reset until that receiver has surely left its reset
SOURCE_BEATS = 16  # beats between the two clocks
SOURCE_RESET = (
    8  # cycles of the neighbour's clock until both sides of that queue are surely empty after reset
)

HEADER_LAYOUT = data.StructLayout({"length": 8, "sequence": 4, "last": 1, "slot": 1, "kind": 2})
EPOCH = slice(4, 8)  # of the control byte: changes when the neighbour has been reset


class LinkSignature(wiring.Signature):
    """A link in one direction, from the transmitter's side.

    data, valid : a beat; both come from registers
    clock : only of a source-synchronous link: rises in the middle of a beat
    """

    def __init__(self, config: ChipConfig):
        members = {"data": Out(config.link_width), "valid": Out(1)}
        if config.link_clock == SOURCE:
            members["clock"] = Out(1)
        super().__init__(members)


class FrameSignature(wiring.Signature):
    """Words for a frame, from the queue's side.

    pending : a whole frame can be sent
    length, last : its words, and whether it is the last one of its map; more words may still come until the
        transmitter begins the frame: what it sees in that cycle counts
    word, pop : the next word, and that it is taken
    """

    def __init__(self, config: ChipConfig):
        super().__init__(
            {
                "pending": Out(1),
                "length": Out(8),
                "last": Out(1),
                "word": Out(config.word_width),
                "pop": In(1),
            }
        )


class WordQueue(wiring.Component):
    """Collects the words of a map into frames; n words make ceil(n / F) frames, whenever they come.

    A frame is pending when there are F words or the map's last one. One word in and one out per cycle; there
    is room for two frames, so that one is collected while the other is sent. Nothing may follow a map's last
    word until the queue is ``empty``.

    Parameters
    ----------
    config : the chip

    Members
    -------
    words : ``word``, and ``last`` with the final one of a map
    frame : to the transmitter
    empty : every word has been taken
    """

    def __init__(self, *, config: ChipConfig):
        self._config = config
        layout = data.StructLayout({"word": config.word_width, "last": 1})
        super().__init__(
            {
                "words": In(stream.Signature(layout)),
                "frame": Out(FrameSignature(config)),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        full = frame_words(self._config)
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=self._config.word_width, depth=2 * full)
        ended = Signal()  # the map's last word is in the queue
        m.d.comb += [
            fifo.w_data.eq(self.words.p.word),
            fifo.w_en.eq(self.words.valid),
            self.words.ready.eq(fifo.w_rdy),
            self.frame.pending.eq(ended | (fifo.level >= full)),
            self.frame.length.eq(Mux(fifo.level >= full, full, fifo.level)),
            self.frame.last.eq(ended & (fifo.level <= full)),
            self.frame.word.eq(fifo.r_data),
            fifo.r_en.eq(self.frame.pop),
            self.empty.eq(fifo.level == 0),
        ]
        with m.If(self.frame.pop & (fifo.level == 1)):
            m.d.sync += ended.eq(0)
        with m.If(self.words.valid & self.words.ready & self.words.p.last):
            m.d.sync += ended.eq(1)
        return m


class Transmitter(wiring.Component):
    """Sends frames: CONTROL before all others, then the first source that has one and may.

    A beat per cycle. Two frames are one idle beat apart, or ``SOURCE_GAP`` on a source-synchronous link; even
    full frames without end then leave time for a receiver whose clock is slower by 0.7 % x ``link_width``.
    The first beat is on the link two cycles after a frame is pending.

    Parameters
    ----------
    config : the chip
    kinds, slots : of each source, the first one has priority
    heartbeat : cycles from one CONTROL frame until the next one is due

    Members
    -------
    frames : from the sources
    enable : frames with words may begin; ``go``: the same of each source
    control, hearing : go out in CONTROL frames
    link : to the neighbour
    border_beat : the link carries a beat of a frame with words
    """

    def __init__(
        self,
        *,
        config: ChipConfig,
        kinds: tuple[FrameKind, ...],
        slots: tuple[int, ...],
        heartbeat: int = HEARTBEAT,
    ):
        if not kinds or FrameKind.CONTROL in kinds:
            raise ValueError(f"kinds must be of frames with words, at least one, not {kinds!r}")
        if len(slots) != len(kinds) or not set(slots) <= {0, 1}:
            raise ValueError(f"slots must be {len(kinds)} times 0 or 1, not {slots!r}")
        self._config = config
        self._kinds = kinds
        self._slots = slots
        self._heartbeat = heartbeat
        super().__init__(
            {
                "frames": In(FrameSignature(config)).array(len(kinds)),
                "enable": In(1),
                "go": In(len(kinds)),
                "control": In(8),
                "hearing": In(1),
                "link": Out(LinkSignature(config)),
                "border_beat": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        width, word_width = self._config.link_width, self._config.word_width
        source_clock = self._config.link_clock == SOURCE
        m.submodules.crc = crc = CRC16_IBM_3740(data_width=width).create()

        header = Signal(HEADER_LAYOUT)  # of the frame that begins
        begin = Signal()
        border = Signal()  # the frame has words
        source = Signal(range(max(2, len(self._kinds))))  # that they come from
        words = Signal(8)  # still to be taken
        shift = Signal(HEADER_BITS)  # header or word, the next beat uppermost
        left = Signal(range(HEADER_BITS))  # beats of it, or of the checksum, after the present one
        gap = Signal(range(SOURCE_START), init=SOURCE_START - 1 if source_clock else 0)
        sequence = Signal(4)

        # What the neighbour knows; at first, nothing.
        known = Signal(9)
        timer = Signal(range(self._heartbeat + 1))
        due = Signal()
        m.d.comb += due.eq((timer == 0) | (known != Cat(self.control, self.hearing)))
        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)

        beat = Signal(width)
        starting = Signal()  # the frame's first beat
        sending = Signal()
        checking = Signal()
        m.d.sync += starting.eq(begin)
        m.d.comb += [
            header.sequence.eq(sequence),
            crc.start.eq(starting),
            crc.valid.eq(sending),
            crc.data.eq(beat),
            # The checksum, taken up into itself, moves to the left and leaves zeros.
            beat.eq(Mux(checking, crc.crc[-width:], shift[-width:])),
        ]
        word = Array(frame.word for frame in self.frames)[source]
        pops = Signal(len(self._kinds))
        m.d.comb += [frame.pop.eq(pop) for frame, pop in zip(self.frames, pops, strict=True)]

        with m.FSM():
            with m.State("IDLE"):
                with m.If(gap != 0):
                    m.d.sync += gap.eq(gap - 1)
                with m.Elif(due):
                    m.d.comb += [
                        begin.eq(1),
                        header.kind.eq(FrameKind.CONTROL),
                        header.last.eq(self.hearing),
                        header.length.eq(self.control),
                    ]
                    m.d.sync += [
                        known.eq(Cat(self.control, self.hearing)),
                        timer.eq(self._heartbeat),
                        border.eq(0),
                        words.eq(0),
                    ]
                for index, frame in enumerate(self.frames):
                    with m.Elif(self.enable & self.go[index] & frame.pending):
                        m.d.comb += [
                            begin.eq(1),
                            header.kind.eq(self._kinds[index]),
                            header.slot.eq(self._slots[index]),
                            header.last.eq(frame.last),
                            header.length.eq(frame.length),
                        ]
                        m.d.sync += [border.eq(1), words.eq(frame.length), source.eq(index)]
                with m.If(begin):
                    m.d.sync += [
                        sequence.eq(sequence + 1),
                        shift.eq(header),
                        left.eq(HEADER_BITS // width - 1),
                    ]
                    m.next = "SEND"

            with m.State("SEND"):
                m.d.comb += sending.eq(1)
                m.d.sync += [shift.eq(shift << width), left.eq(left - 1)]
                with m.If(left == 0):
                    with m.If(words == 0):
                        m.d.sync += left.eq(CHECK_BITS // width - 1)
                        m.next = "CHECK"
                    with m.Else():
                        m.d.comb += pops.eq(1 << source)
                        m.d.sync += [
                            words.eq(words - 1),
                            shift.eq(word << (HEADER_BITS - word_width)),
                            left.eq(word_width // width - 1),
                        ]

            with m.State("CHECK"):
                m.d.comb += [sending.eq(1), checking.eq(1)]
                m.d.sync += left.eq(left - 1)
                with m.If(left == 0):
                    m.d.sync += gap.eq(SOURCE_GAP - 1 if source_clock else 0)
                    m.next = "IDLE"

        m.d.sync += [self.link.valid.eq(sending), self.border_beat.eq(sending & border)]
        with m.If(sending):
            m.d.sync += self.link.data.eq(beat)
        if source_clock:
            m.d.comb += self.link.clock.eq(~ClockSignal())
        return m


class Phase(Enum, shape=2):
    """What the receiver expects of the next beat."""

    IDLE = 0
    HEADER = 1
    WORDS = 2
    CHECK = 3


class Receiver(wiring.Component):
    """Takes frames apart, hands out their words as they arrive, and judges each frame at its end.

    It takes no part in anything until it has seen a whole CONTROL frame, and so may begin in the middle of
    whatever is on the link. From then on (``up``) every deviation is a fault, and nothing is handed out after
    one. Words come before their checksum is known: only ``frame_good`` makes them valid.

    Latency: ``word_valid`` two cycles after the word's last beat is on the link, ``frame_good`` two after the
    checksum's; more on a source-synchronous link, whose beats pass a queue between the clocks.

    Parameters
    ----------
    config : the chip
    timeout : cycles without a frame that make a fault

    Members
    -------
    link : from the neighbour
    word_valid, word : the next word of a frame
    kind, slot : of the frame; valid with ``word_valid`` and ``frame_good``
    frame_good : pulse, a frame with words has ended and is right; ``last``: it is the last of its map
    up : the neighbour has been heard
    control, hearing : what it told last
    fault : ``isa.LinkFault``, kept until reset
    """

    def __init__(self, *, config: ChipConfig, timeout: int = TIMEOUT):
        self._config = config
        self._timeout = timeout
        super().__init__(
            {
                "link": In(LinkSignature(config)),
                "word_valid": Out(1),
                "word": Out(config.word_width),
                "kind": Out(2),
                "slot": Out(1),
                "frame_good": Out(1),
                "last": Out(1),
                "up": Out(1),
                "control": Out(8),
                "hearing": Out(1),
                "fault": Out(3),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        valid, beat, first, overflow = self._beats(m)
        width, word_width = self._config.link_width, self._config.word_width
        m.submodules.crc = crc = CRC16_IBM_3740(data_width=width).create()

        fault = Signal(LinkFault)  # found in this cycle
        header = Signal(HEADER_LAYOUT)
        shift = Signal(HEADER_BITS)
        collected = Signal(HEADER_LAYOUT)  # with the present beat
        words = Signal(8)  # of the frame, after the present one
        word_ended = Signal()
        frame_ended = Signal()
        m.d.comb += [
            collected.eq(Cat(beat, shift)[:HEADER_BITS]),
            crc.start.eq(valid & first),
            crc.valid.eq(valid),
            crc.data.eq(beat),
        ]

        # The first beat of a frame begins a header, whatever was expected.
        expected = Signal(Phase)
        expected_left = Signal(range(HEADER_BITS))  # beats of the phase after the present one
        phase = Signal(Phase)
        left = Signal.like(expected_left)
        m.d.comb += [phase.eq(expected), left.eq(expected_left)]
        with m.If(first):
            m.d.comb += [phase.eq(Phase.HEADER), left.eq(HEADER_BITS // width - 1)]

        m.d.sync += [word_ended.eq(0), frame_ended.eq(0)]
        with m.If(valid):
            m.d.sync += [shift.eq(collected), expected.eq(phase), expected_left.eq(left - 1)]
            with m.If(Mux(first, expected != Phase.IDLE, expected == Phase.IDLE)):
                m.d.comb += fault.eq(LinkFault.FRAME)
            with m.If(left == 0), m.Switch(phase):
                with m.Case(Phase.HEADER):
                    m.d.sync += [header.eq(collected), words.eq(collected.length - 1)]
                    with m.If(collected.kind == FrameKind.CONTROL):
                        m.d.sync += [expected.eq(Phase.CHECK), expected_left.eq(CHECK_BITS // width - 1)]
                    with m.Elif((collected.length == 0) | (collected.length > frame_words(self._config))):
                        m.d.sync += expected.eq(Phase.IDLE)
                        m.d.comb += fault.eq(LinkFault.FRAME)
                    with m.Else():
                        m.d.sync += [expected.eq(Phase.WORDS), expected_left.eq(word_width // width - 1)]
                with m.Case(Phase.WORDS):
                    m.d.sync += [
                        word_ended.eq(1),
                        words.eq(words - 1),
                        expected_left.eq(word_width // width - 1),
                    ]
                    with m.If(words == 0):
                        m.d.sync += [expected.eq(Phase.CHECK), expected_left.eq(CHECK_BITS // width - 1)]
                with m.Case(Phase.CHECK):
                    m.d.sync += [frame_ended.eq(1), expected.eq(Phase.IDLE)]

        # A frame is judged in the cycle after its last beat, which may have the first one of the next frame.
        is_control = header.kind == FrameKind.CONTROL
        sequence = Signal(4)  # of the next frame
        timer = Signal(range(self._timeout + 1))
        right = Signal()
        with m.If(frame_ended):
            with m.If(~crc.match_detected):
                m.d.comb += fault.eq(LinkFault.CHECK)
            with m.Elif(~self.up):
                m.d.comb += right.eq(is_control)
            with m.Elif(header.sequence != sequence):
                m.d.comb += fault.eq(LinkFault.SEQUENCE)
            with m.Elif(is_control & (header.length[EPOCH] != self.control[EPOCH])):
                m.d.comb += fault.eq(LinkFault.EPOCH)
            with m.Else():
                m.d.comb += right.eq(1)

        m.d.sync += timer.eq(timer + 1)
        with m.If(timer == self._timeout):
            m.d.sync += timer.eq(timer)
            m.d.comb += fault.eq(LinkFault.SILENCE)
        with m.If(overflow):
            m.d.comb += fault.eq(LinkFault.FRAME)

        works = Signal()  # nothing is heard after a fault
        m.d.comb += works.eq(self.fault == LinkFault.NONE)
        with m.If(right & works):
            m.d.sync += [self.up.eq(1), sequence.eq(header.sequence + 1), timer.eq(0)]
            with m.If(is_control):
                m.d.sync += [self.control.eq(header.length), self.hearing.eq(header.last)]
        with m.If(self.up & works):
            m.d.sync += self.fault.eq(fault)
        m.d.comb += [
            self.word_valid.eq(word_ended & self.up & works),
            self.word.eq(shift[:word_width]),
            self.kind.eq(header.kind),
            self.slot.eq(header.slot),
            self.last.eq(header.last),
            self.frame_good.eq(right & works & ~is_control),
        ]
        return m

    def _beats(self, m: Module) -> tuple[Signal, Signal, Signal, Signal]:
        """From the wires: a beat has come, its data, it is a frame's first one; and that some were lost."""
        link = self.link
        valid = Signal(name="beat_valid")
        beat = Signal(self._config.link_width)
        first = Signal()
        overflow = Signal()
        # As if there had been a beat before reset: what then goes on is no frame's beginning.
        in_frame = Signal(init=1)
        if self._config.link_clock != SOURCE:
            m.d.sync += [
                in_frame.eq(link.valid),
                valid.eq(link.valid),
                beat.eq(link.data),
                first.eq(link.valid & ~in_frame),
            ]
            return valid, beat, first, overflow

        m.domains.link = ClockDomain(local=True)
        m.submodules.reset = ResetSynchronizer(
            ResetSignal(allow_reset_less=True), domain="link", stages=SOURCE_RESET
        )
        m.submodules.fifo = fifo = AsyncFIFOBuffered(
            width=self._config.link_width + 1, depth=SOURCE_BEATS + 1, r_domain="sync", w_domain="link"
        )
        lost = Signal()
        m.submodules.overflow = FFSynchronizer(lost, overflow)
        m.d.link += in_frame.eq(link.valid)
        with m.If(link.valid & ~fifo.w_rdy):
            m.d.link += lost.eq(1)
        m.d.comb += [
            ClockSignal("link").eq(link.clock),
            fifo.w_en.eq(link.valid),
            fifo.w_data.eq(Cat(link.data, ~in_frame)),
            fifo.r_en.eq(1),
            valid.eq(fifo.r_rdy),
            Cat(beat, first).eq(Mux(fifo.r_rdy, fifo.r_data, 0)),
        ]
        return valid, beat, first, overflow
