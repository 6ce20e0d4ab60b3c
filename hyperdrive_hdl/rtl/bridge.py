"""Bridge: the host's requests from a serial line, the chip's streams, the replies (host_link.py)."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from ..config import ChipConfig
from ..host_link import COUNTER_NAMES, Features, Identity, Reply, Request, word_bytes
from .hierarchy import instantiate
from .host_buffers import OFFSET_BITS, CommitBuffer, OutputBuffer
from .host_frames import CRC_BYTES, FRAME_BYTE, FrameReceiver, FrameTransmitter
from .layouts import ActivitySignature, StatusSignature
from .registers import delayed
from .uart import UartReceiver, UartTransmitter

RESET_CYCLES = 16
COUNTER_BITS = 32
FAST_HZ = 40_000_000

# Bytes of the requests' frames, with kind and CRC.
NO_BODY = 1 + CRC_BYTES
RESET_LENGTH = NO_BODY + 2
WORDS_LENGTH = NO_BODY + 2  # at least
FETCH_LENGTH = NO_BODY + 3

# Order in which replies go.
REPLIES = (Reply.IDENTITY, Reply.OUTPUT, Reply.COUNTERS, Reply.STATUS)

# Values in replies, with their bytes; those of STATUS in its order.
STATUS_VALUES = {
    "session": 2,
    "flags": 1,
    "error": 1,
    "place": 1,
    "layers": 2,
    "program_taken": 2,
    "program_free": 2,
    "maps_taken": 2,
    "maps_free": 2,
    "output_first": 2,
    "output_words": 2,
}
COUNTER_VALUES = dict.fromkeys(COUNTER_NAMES, COUNTER_BITS // 8)
# Where else a byte can come from: the rest of a value, a word of OUTPUT.
REST, WORD = "rest", "word"


def reply_values(identity: Identity) -> dict[str, int]:
    """Names and bytes of all values in a board's replies."""
    return STATUS_VALUES | (COUNTER_VALUES if Features.COUNTERS in identity.features else {})


class Replies(wiring.Component):
    """Gives the bytes of replies, as a table in a memory says.

    An entry of the table is a byte, or the first byte of a value whose further bytes follow: a value is
    looked at once. Replies that wait go in the order of ``REPLIES``.

    Parameters
    ----------
    identity : of the board

    Members
    -------
    ask : pulse per reply, in the order of ``REPLIES``
    content : stream of bytes for ``FrameTransmitter``; ``payload`` may change until it is taken
    values : ``reply_values``
    read, index : number of the word wanted for OUTPUT
    word, word_valid : that word, one cycle later, and whether there is one
    most_words : in an OUTPUT
    cut : OUTPUT ends before its next word
    """

    def __init__(self, *, identity: Identity):
        self._identity = identity
        layout = {name: 8 * size for name, size in reply_values(identity).items()}
        super().__init__(
            {
                "ask": In(len(REPLIES)),
                "content": Out(stream.Signature(FRAME_BYTE)),
                "values": In(data.StructLayout(layout)),
                "read": Out(1),
                "index": Out(8),
                "word": In(8 * identity.map_bytes),
                "word_valid": In(1),
                "most_words": In(8),
                "cut": In(1),
            }
        )

    def _table(self, sources: list[str]) -> tuple[data.StructLayout, list[dict], dict[Reply, int]]:
        """Its layout, its entries, and at which one each reply begins.

        low, high : a bit per source, one of them set; with ``is_literal`` the lower ones are the byte itself
        end : the frame is over
        again : the even entry at or before this one is the next
        """
        layout = data.StructLayout(
            {"low": 8, "high": len(sources) - 8, "is_literal": 1, "end": 1, "again": 1}
        )
        table: list[dict] = [{}]  # so that the words of OUTPUT begin at an even place
        starts = {}

        def entry(source: str, **more):
            selected = 1 << sources.index(source)
            table.append({"low": selected & 0xFF, "high": selected >> 8, **more})

        def literal(byte: int = 0, **more):
            table.append({"low": byte, "is_literal": 1, **more})

        def begin(reply: Reply, *values: str):
            starts[reply] = len(table)
            literal(reply)
            for name in values:
                entry(name)
                for _ in range(len(self.values[name]) // 8 - 1):
                    entry(REST)

        begin(Reply.OUTPUT, "session", "output_first")
        entry(WORD)
        if self._identity.map_bytes == 2:
            entry(REST)
        table[-1]["again"] = 1
        begin(Reply.STATUS, *STATUS_VALUES)
        literal(end=1)
        if Features.COUNTERS in self._identity.features:
            begin(Reply.COUNTERS, "session", *COUNTER_VALUES)
            literal(end=1)
        begin(Reply.IDENTITY)
        for byte in self._identity.encode():
            literal(byte)
        literal(end=1)
        table.append({})  # looked up behind the last one
        return layout, table, starts

    def elaborate(self, platform) -> Module:
        m = Module()
        rest = Signal(
            max(len(self.word), *(len(self.values[name]) for name in self.values.shape().members)) - 8
        )
        sources = {name: self.values[name] for name in self.values.shape().members}
        sources |= {REST: rest, WORD: self.word}
        layout, entries, starts = self._table(list(sources))
        m.submodules.table = table = Memory(shape=layout, depth=len(entries), init=entries)
        read_port = table.read_port()
        # Block RAM takes half a period of a fast clock to answer: a register, and a cycle more.
        late = int(self._identity.clock_hz > FAST_HZ)
        entry = data.View(layout, delayed(m, Value.cast(read_port.data), late, name="entry"))

        asked = Signal(len(REPLIES))
        active = Signal()
        looked_up = Signal()
        at = Signal(range(len(entries)))
        words = Signal()  # there may be more in this OUTPUT
        is_word, over, step = Signal(), Signal(), Signal()
        value = Signal(len(rest) + 8)
        m.d.comb += [
            read_port.addr.eq(at),
            read_port.en.eq(1),
            self.read.eq(active & ~looked_up),
            is_word.eq(entry.high[-1]),
            over.eq(entry.end | (is_word & ~(words & self.word_valid & (self.index != self.most_words)))),
            self.content.valid.eq(active & looked_up),
            self.content.p.data.eq(Mux(entry.is_literal, entry.low, value[:8])),
            self.content.p.end.eq(over),
            step.eq(self.content.valid & self.content.ready),
            value.eq(
                reduce(
                    or_,
                    (
                        Mux(select, source, 0)
                        for select, source in zip(Cat(entry.low, entry.high), sources.values(), strict=True)
                    ),
                )
            ),
        ]

        with m.If(~active):
            m.d.sync += self.index.eq(0)
            for number, reply in reversed(list(enumerate(REPLIES))):
                with m.If(asked[number]):
                    m.d.sync += [active.eq(1), at.eq(starts.get(reply, 0)), asked.eq(asked & ~(1 << number))]
                    m.d.sync += words.eq(1)
        read = delayed(m, active & ~step, late, name="read", init=0)
        m.d.sync += looked_up.eq(read & ~step)
        with m.If(step):
            m.d.sync += [
                rest.eq(value[8:]),
                at.eq(Mux(entry.again, at & ~1, at + 1)),
                self.index.eq(self.index + is_word),
                active.eq(~over),
            ]
        with m.If(self.cut):
            m.d.sync += words.eq(0)
        for number, reply in enumerate(REPLIES):
            if reply in starts:
                with m.If(self.ask[number]):
                    m.d.sync += asked[number].eq(1)
        return m


class Bridge(wiring.Component):
    """Between a serial line to a host and the streams of a chip: does what ``host_link`` asks of a board.

    A PROGRAM or MAPS frame with more words than are free is not taken; its STATUS tells.

    Parameters
    ----------
    config : the chip
    divisor : clock cycles per bit of the line
    identity : of the board; words of the buffers, bytes of words, features

    Members
    -------
    rx, tx : the line
    program, fm_in, fm_out : the chip's streams
    status, activity : the chip's
    chip_reset : while there is a reset, and for ``RESET_CYCLES`` after a RESET; what the streams do in its
        first cycle has no effect
    busy, error : lamps: a program is running; the chip has failed or, since RESET, something damaged has
        come over the line

    Raises
    ------
    ValueError : the identity is not that of a board with this chip
    """

    def __init__(self, *, config: ChipConfig, divisor: int, identity: Identity):
        for name, width in (("program_bytes", config.program_width), ("map_bytes", config.word_width)):
            if getattr(identity, name) != word_bytes(width):
                raise ValueError(
                    f"{name} must be {word_bytes(width)} for {width} bits, not {getattr(identity, name)!r}"
                )
        if identity.signature != config.signature:
            raise ValueError(f"signature must be the chip's, not {identity.signature:#x}")
        self._config = config
        self._divisor = divisor
        self._identity = identity
        super().__init__(
            {
                "rx": In(1, init=1),
                "tx": Out(1, init=1),
                "program": Out(stream.Signature(config.program_width)),
                "fm_in": Out(stream.Signature(config.word_width)),
                "fm_out": In(stream.Signature(config.word_width)),
                "status": In(StatusSignature()),
                "activity": In(ActivitySignature()),
                "chip_reset": Out(1, init=1),
                "busy": Out(1),
                "error": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config, identity = self._config, self._identity
        receiver = instantiate(m, platform, "receiver", UartReceiver, divisor=self._divisor)
        transmitter = instantiate(m, platform, "transmitter", UartTransmitter, divisor=self._divisor)
        frames = instantiate(m, platform, "frames", FrameReceiver)
        framing = instantiate(m, platform, "framing", FrameTransmitter)
        replies = instantiate(m, platform, "replies", Replies, identity=identity)
        resetting = self.chip_reset
        program, maps = (
            instantiate(
                m,
                platform,
                name,
                CommitBuffer,
                reset=resetting,
                width=width,
                depth=depth,
                most_back=most_back,
            )
            for name, width, depth, most_back in (
                (
                    "program_buffer",
                    config.program_width,
                    identity.program_buffer,
                    CRC_BYTES // identity.program_bytes,
                ),
                ("maps_buffer", config.word_width, identity.maps_buffer, CRC_BYTES // identity.map_bytes),
            )
        )
        output = instantiate(
            m,
            platform,
            "output_buffer",
            OutputBuffer,
            reset=resetting,
            width=config.word_width,
            depth=identity.output_buffer,
        )
        connect(m, receiver.bytes, frames.bytes)
        connect(m, replies.content, framing.content)
        connect(m, framing.bytes, transmitter.bytes)
        m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx)]
        connect(m, program.words, flipped(self.program))
        connect(m, maps.words, flipped(self.fm_in))
        connect(m, flipped(self.fm_out), output.write)
        session = Signal(16)
        self._take_requests(m, frames, program, maps, output, replies, session)
        self._tell(m, program, maps, output, replies, session)
        damaged = Signal()
        m.d.sync += damaged.eq((damaged | frames.bad | receiver.error) & ~resetting)
        m.d.comb += [self.busy.eq(self.status.busy), self.error.eq(damaged | self.status.error.any())]
        return m

    def _take_requests(self, m, frames, program, maps, output, replies, session) -> None:
        kind = Signal(Request)
        is_known = Signal()
        not_header = Signal(OFFSET_BITS)  # offset or session, inverted
        sizes = {program: self._identity.program_bytes, maps: self._identity.map_bytes}
        widest = max(sizes.values())
        before = Signal(8 * (widest - 1))  # bytes of a word before the one that comes; FETCH's count
        writing = Signal()
        m.d.comb += writing.eq((kind == Request.PROGRAM) | (kind == Request.MAPS))
        word = Cat(before, frames.byte)
        with m.If(frames.valid):
            with m.Switch(frames.count):
                with m.Case(1):
                    m.d.sync += [kind.eq(frames.byte), is_known.eq(~frames.byte[len(kind) :].any())]
                with m.Case(2, 3):
                    m.d.sync += not_header.eq(Cat(not_header[8:], ~frames.byte))
            with m.If(writing | (frames.count == 4)):
                m.d.sync += before.eq(word[8:])

        # At a frame's end the words made of its CRC are taken back, one per cycle; then it counts.
        steps = [frames.good]
        for number in range(CRC_BYTES // min(sizes.values())):
            step = Signal(name=f"step{number}")
            m.d.sync += step.eq(steps[-1])
            steps.append(step)
        act = steps[-1] & is_known
        short = frames.count == NO_BODY
        is_long = frames.count >= WORDS_LENGTH  # else not all of the CRC has been made into words
        asked = {reply: replies.ask[number] for number, reply in enumerate(REPLIES)}
        m.d.comb += output.not_offset.eq(not_header)
        with m.If(output.forget):  # the next frame may come while OUTPUT goes out
            m.d.sync += replies.most_words.eq(before[-8:])
        body = frames.valid & (frames.count >= 4)
        positions = {}  # of the next byte in its word, by the bytes of a word
        for size in sorted(set(sizes.values())):
            position = positions[size] = Signal(range(max(2, size)), name=f"position_{size}")
            with m.If(frames.valid & (frames.count == 1)):
                m.d.sync += position.eq(0)
            with m.Elif(body):
                m.d.sync += position.eq(Mux(position == size - 1, 0, position + 1))
        for buffer, request in ((program, Request.PROGRAM), (maps, Request.MAPS)):
            size = sizes[buffer]
            position = positions[size]
            m.d.comb += [
                buffer.write.eq(body & (position == size - 1)),
                buffer.word.eq(word[8 * (widest - size) :]),
                buffer.back.eq(Cat(steps[: CRC_BYTES // size]).any() & is_long),
                buffer.finish.eq(steps[-1] | frames.bad),
            ]
            with m.If(act & (kind == request) & is_long & (position == CRC_BYTES % size)):
                m.d.comb += [
                    asked[Reply.STATUS].eq(1),
                    buffer.keep.eq((not_header == ~buffer.taken) & ~buffer.overrun),
                ]

        reset = Signal()
        with m.If(act), m.Switch(kind):
            with m.Case(Request.IDENTIFY):
                m.d.comb += asked[Reply.IDENTITY].eq(short)
            with m.Case(Request.RESET):
                m.d.comb += [reset.eq(frames.count == RESET_LENGTH), asked[Reply.STATUS].eq(reset)]
            with m.Case(Request.FETCH):
                m.d.comb += output.forget.eq(frames.count == FETCH_LENGTH)
                m.d.comb += asked[Reply.OUTPUT].eq(output.forget)
            with m.Case(Request.STATUS):
                m.d.comb += asked[Reply.STATUS].eq(short)
            with m.Case(Request.COUNTERS):
                m.d.comb += asked[Reply.COUNTERS].eq(short)
        m.d.comb += replies.cut.eq(output.forget | reset)
        reset_left = Signal(range(RESET_CYCLES))
        with m.If(reset_left == 0):
            m.d.sync += self.chip_reset.eq(0)
        with m.Else():
            m.d.sync += reset_left.eq(reset_left - 1)
        with m.If(reset):
            m.d.sync += [session.eq(~not_header), self.chip_reset.eq(1), reset_left.eq(RESET_CYCLES - 1)]

    def _tell(self, m, program, maps, output, replies, session) -> None:
        status = self.status
        running = Signal()  # from a program's first word until its HALT
        halted = Signal()
        begins = self.program.valid & self.program.ready
        with m.If(self.chip_reset):
            m.d.sync += [running.eq(0), halted.eq(0)]
        with m.Elif(status.halted):
            m.d.sync += [running.eq(0), halted.eq(1)]
        with m.Elif(begins):
            m.d.sync += [running.eq(1), halted.eq(0)]
        values = {
            "session": session,
            "flags": Cat(status.busy, halted),
            "error": status.error,
            "place": Cat(status.side, Value.cast(0).replicate(2), status.fault),
            "layers": status.layer,
            "program_taken": program.taken,
            "program_free": program.free,
            "maps_taken": maps.taken,
            "maps_free": maps.free,
            "output_first": output.first,
            "output_words": output.words,
        }
        m.d.comb += [
            output.read.eq(replies.read),
            output.index.eq(replies.index),
            replies.word.eq(output.word),
            replies.word_valid.eq(output.valid),
        ]
        if Features.COUNTERS in self._identity.features:
            activity = self.activity
            exposed = ~activity.computing
            counted = {
                "cycles": 1,
                "computing": activity.computing,
                "loading": activity.loading,
                "storing": activity.storing,
                "load_exposed": activity.loading & exposed,
                "store_exposed": activity.storing & exposed & ~activity.loading,
            }
            for name in COUNTER_NAMES:
                counter = values[name] = Signal(COUNTER_BITS, name=f"{name}_counter")
                with m.If(self.chip_reset):
                    m.d.sync += counter.eq(0)
                with m.Elif(running | begins):
                    m.d.sync += counter.eq(counter + counted[name])
        m.d.comb += [replies.values[name].eq(value) for name, value in values.items()]
