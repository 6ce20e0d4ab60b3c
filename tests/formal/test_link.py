"""A link gives its receiver the words of each frame once, in order and in time, and does not fault by itself.

Frames come whenever they like, one after the other or never, with any words; control and ``hearing`` change
at any time. Nothing disturbs the link here; what it does when something does: tests/rtl/test_link.py. That a
frame goes out in time is proved for ever; what arrives, for all that can happen in so many cycles, a few
frames: the checksums keep ABC from more.
"""

import pytest
from amaranth.hdl import Assert, Assume, Const, Cover, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.framing import CHECK_BITS, HEADER_BITS, FrameKind
from hyperdrive_hdl.rtl.link import Receiver, Transmitter
from tests.support.formal import mutant, prove

MOST = 3  # words of a frame
HEARTBEAT = 12
KINDS = (FrameKind.EDGE, FrameKind.SOUTH_CORNERS)
SLOTS = (0, 1)


def chip(width: int, format: str) -> ChipConfig:
    return ChipConfig(
        lanes=2,
        tile_rows=1,
        tile_cols=1,
        fmm_banks=2,
        fmm_bank_depth=2,
        wbuf_depth=2,
        format=format,
        link_width=width,
    )


class _Sources(wiring.Component):
    """A transmitter and two sources, which offer any frame and keep it on offer until it has been taken."""

    def __init__(self, *, config: ChipConfig, tx: type = Transmitter):
        self._config = config
        self._tx = tx
        super().__init__(
            {
                "offers": In(len(KINDS)),
                "length": In(range(MOST + 1)),
                "last": In(1),
                "word": In(config.word_width),
                "enable": In(1),
                "go": In(len(KINDS)),
                "control": In(4),
                "hearing": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.tx = self.tx = tx = self._tx(
            config=self._config, kinds=KINDS, slots=SLOTS, heartbeat=HEARTBEAT
        )
        m.d.comb += [
            tx.enable.eq(self.enable),
            tx.go.eq(self.go),
            tx.control.eq(self.control),
            tx.hearing.eq(self.hearing),
        ]
        self.popped = Signal()
        self.ended = Signal()  # with a frame's last word
        self.slot = Signal()
        self.frame_last = Signal()
        m.d.sync += Assume((self.length > 0) & (self.length <= MOST))
        for index, frame in enumerate(tx.frames):
            words = Signal(range(MOST + 1), name=f"words{index}")  # still on offer
            length = Signal(range(MOST + 1), name=f"length{index}")
            last = Signal(name=f"last{index}")
            m.d.comb += [
                frame.pending.eq(words.any()),
                frame.length.eq(length),
                frame.last.eq(last),
                frame.word.eq(self.word),
            ]
            with m.If((words == 0) & self.offers[index]):
                m.d.sync += [words.eq(self.length), length.eq(self.length), last.eq(self.last)]
            with m.If(frame.pop):
                m.d.sync += words.eq(words - 1)
                m.d.comb += [
                    self.popped.eq(1),
                    self.ended.eq(words == 1),
                    self.slot.eq(index),
                    self.frame_last.eq(last),
                ]
        return m


class QuietLine(_Sources):
    """Transmitter and receiver: what the receiver hands out is what was taken from the sources, later."""

    def __init__(self, *, config: ChipConfig, tx: type = Transmitter, rx: type = Receiver, timeout: int = 40):
        self._rx = rx
        self._timeout = timeout
        super().__init__(config=config, tx=tx)

    def elaborate(self, platform):
        m = super().elaborate(platform)
        m.submodules.rx = rx = self._rx(config=self._config, timeout=self._timeout)
        wiring.connect(m, self.tx.link, rx.link)
        m.d.sync += Assume(rx.up | ~self.enable)

        def later(value, cycles):
            for stage in range(cycles):
                register = Signal.like(value, name=f"{value.name}_{stage}")
                m.d.sync += register.eq(value)
                value = register
            return value

        word = Signal.like(self.word)
        m.d.comb += word.eq(self.word)
        to_word = self._config.word_width // self._config.link_width + 3
        to_end = to_word + CHECK_BITS // self._config.link_width
        slot = later(self.slot, to_end)
        last = later(self.frame_last, to_end)
        m.d.sync += [
            Assert(rx.fault == 0, "a fault out of nothing"),
            Assert(rx.word_valid == later(self.popped, to_word), "a word is lost or comes twice"),
            Assert(~rx.word_valid | (rx.word == later(word, to_word)), "another word comes"),
            Assert(rx.frame_good == later(self.ended, to_end), "a frame ends that has not, or does not"),
            Assert(
                ~rx.frame_good | ((rx.slot == slot) & (rx.last == last) & (rx.kind == 2 * slot + 1)),
                "a frame comes as another",
            ),
            Cover(rx.frame_good & rx.slot & rx.last, "a frame has come"),
        ]
        return m


class PromptTransmitter(_Sources):
    """A frame that may go has been taken after ``bound`` cycles; the link is never quiet for long.

    Of the second source, if the first one has none. The cycles count while what there is to tell stays.
    """

    def __init__(self, *, config: ChipConfig, bound: int, tx: type = Transmitter):
        self._bound = bound
        super().__init__(config=config, tx=tx)

    def elaborate(self, platform):
        m = super().elaborate(platform)
        tx = self.tx
        told = Signal(5)
        m.d.sync += told.eq(self.control << 1 | self.hearing)
        same = told == (self.control << 1 | self.hearing)
        others: Value = Const(0)
        for index, frame in enumerate(tx.frames):
            waiting = Signal(range(self._bound + 2), name=f"waiting{index}")
            may = frame.pending & self.go[index] & self.enable & ~others & same
            others = frame.pending
            with m.If(may & ~(self.ended & (self.slot == index))):
                m.d.sync += waiting.eq(waiting + 1)
            with m.Else():
                m.d.sync += waiting.eq(0)
            m.d.sync += [
                Assert(waiting <= self._bound, "a frame has waited for too long"),
                Assert(~frame.pop | frame.pending, "a word is taken that is not there"),
            ]
        most_quiet = HEARTBEAT + 1 - (HEADER_BITS + CHECK_BITS) // self._config.link_width
        quiet = Signal(range(most_quiet + 2))
        with m.If(tx.link.valid):
            m.d.sync += quiet.eq(0)
        with m.Else():
            m.d.sync += quiet.eq(quiet + 1)
        m.d.sync += [
            Assert(~(tx.frames[0].pop & tx.frames[1].pop), "two words are taken at a time"),
            Assert(quiet <= most_quiet, "there is no heartbeat"),
            Cover(self.ended & self.slot, "a frame is taken"),
        ]
        return m


@pytest.mark.parametrize(("width", "format", "cycles"), [(16, "fp16", 12), (8, "fp8_e4m3", 24)])
def test_what_is_sent_arrives(width, format, cycles, tmp_path):
    line = QuietLine(config=chip(width, format))
    prove(line, mode="bmc", depth=cycles, directory=tmp_path).expect()
    prove(line, mode="cover", depth=26, directory=tmp_path).expect()


@pytest.mark.parametrize(
    ("kind", "change", "what"),
    [
        (Transmitter, ("sequence.eq(sequence + 1)", "sequence.eq(sequence + ~border)"), "a fault out of"),
        (Transmitter, ("words.eq(words - 1)", "words.eq(words - 1 - (words == 3))"), "a word is lost"),
        (Transmitter, ("header.last.eq(frame.last)", "header.last.eq(0)"), "a frame comes as"),
        (Receiver, ("with m.If(words == 0)", "with m.If(words <= 1)"), "a "),
        (Receiver, ("self.slot.eq(header.slot)", "self.slot.eq(header.last)"), "a frame comes as"),
        (Receiver, ("self.word.eq(shift[:word_width])", "self.word.eq(shift[1:])"), "another word"),
        (Receiver, ("word_ended & self.up", "word_ended & self.hearing & self.up"), "a word is lost"),
    ],
)
def test_a_link_that_loses_something_is_noticed(kind, change, what, tmp_path):
    kinds = {Transmitter: "tx", Receiver: "rx"}
    line = QuietLine(config=chip(8, "fp8_e4m3"), **{kinds[kind]: mutant(kind, change)})
    trace = prove(line, mode="bmc", depth=28, directory=tmp_path).expect_refuted()
    assert trace.end.startswith(f"Assertion violated: {what}")


def test_a_timeout_below_the_heartbeat_is_noticed(tmp_path):
    line = QuietLine(config=chip(8, "fp8_e4m3"), timeout=10)
    prove(line, mode="bmc", depth=25, directory=tmp_path).expect_refuted()


BOUNDS = [(16, "fp16", 11), (8, "fp8_e4m3", 16)]


@pytest.mark.parametrize(("width", "format", "bound"), BOUNDS)
def test_a_frame_goes_out_in_time(width, format, bound, tmp_path):
    """For ever; and the bound is the smallest there is."""
    config = chip(width, format)
    prove(PromptTransmitter(config=config, bound=bound), directory=tmp_path).expect()
    prove(PromptTransmitter(config=config, bound=bound), mode="cover", depth=30, directory=tmp_path).expect()
    tight = PromptTransmitter(config=config, bound=bound - 1)
    prove(tight, mode="bmc", depth=40, directory=tmp_path).expect_refuted()


@pytest.mark.parametrize(
    "change",
    [
        ("(timer == 0) | ", "(timer == 1) | "),
        ("timer.eq(self._heartbeat)", "timer.eq(self._heartbeat + 1)"),
        ("known.eq(Cat(self.control, self.hearing))", "known.eq(self.control)"),
        ("pops.eq(1 << source)", "pops.eq(1)"),
    ],
)
def test_a_transmitter_that_waits_is_noticed(change, tmp_path):
    width, format, bound = BOUNDS[0]
    top = PromptTransmitter(config=chip(width, format), bound=bound, tx=mutant(Transmitter, change))
    prove(top, mode="bmc", depth=40, directory=tmp_path).expect_refuted()
