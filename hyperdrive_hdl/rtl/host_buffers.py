"""Words between the frames of the host and the streams of the chip, in block RAM."""

from amaranth.hdl import C, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .registers import NO_COLLISION

OFFSET_BITS = 16  # words are counted modulo 2^16


def _check(width: int, depth: int, start: int) -> None:
    if type(width) is not int or width < 1:
        raise ValueError(f"width must be a positive integer, not {width!r}")
    if type(depth) is not int or not 2 <= depth < 1 << OFFSET_BITS or depth & (depth - 1):
        raise ValueError(f"depth must be a power of two from 2 to {1 << OFFSET_BITS - 1}, not {depth!r}")
    if type(start) is not int or not 0 <= start < 1 << OFFSET_BITS:
        raise ValueError(f"start must be an integer from 0 to {(1 << OFFSET_BITS) - 1}, not {start!r}")


class CommitBuffer(wiring.Component):
    """Queue of words that count only when their frame has turned out good.

    Words are written in any cycle and wait for nothing; the last ones can be taken back. Those for which
    there is no room, or that come while the frame before is settled, are lost and their frame with them,
    unless they are taken back.

    A frame is settled in as many cycles as it has words, each of which goes on to ``words`` two cycles after
    its own. One word per cycle, except while one is written.

    Parameters
    ----------
    width : bits of a word
    depth : words, a power of two
    most_back : words of a frame that are ever taken back
    start : what ``taken`` is at reset

    Members
    -------
    write, word : the next word of the frame
    back : the frame's last word is taken back; not together with ``write``
    overrun : words of the frame are lost
    finish, keep : the frame is over, its words count or do not; not together with ``write`` or ``back``
    taken : words that count, modulo 2^16
    free : room for words behind those
    words : stream of the words that count
    """

    def __init__(self, *, width: int, depth: int, most_back: int = 4, start: int = 0):
        _check(width, depth, start)
        if type(most_back) is not int or most_back < 0:
            raise ValueError(f"most_back must be an integer of at least 0, not {most_back!r}")
        self._width = width
        self._depth = depth
        self._most_lost = most_back + 1  # that are told apart
        self._start = start
        super().__init__(
            {
                "write": In(1),
                "word": In(width),
                "back": In(1),
                "overrun": Out(1),
                "finish": In(1),
                "keep": In(1),
                "taken": Out(OFFSET_BITS, init=start),
                "free": Out(range(depth + 1), init=depth),
                "words": Out(stream.Signature(width)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        depth, bits = self._depth, ceil_log2(self._depth)
        m.submodules.cells = cells = Memory(shape=self._width, depth=depth, init=[], attrs=NO_COLLISION)
        write_port = cells.write_port()
        read_port = cells.read_port()
        # One bit more than an address tells a full ring from an empty one.
        written = Signal(range(2 * depth), init=self._start % (2 * depth))
        read = Signal.like(written)
        lost = Signal(range(self._most_lost + 1))  # words behind those written
        settling, keeping = Signal(), Signal()
        full, settled = Signal(), Signal()
        counts = Signal()  # one more word does
        m.d.comb += [
            full.eq(written ^ read == depth),
            settled.eq(written == self.taken[: len(written)]),
            counts.eq(settling & keeping & ~settled),
            self.overrun.eq(lost != 0),
            write_port.addr.eq(written[:bits]),
            write_port.data.eq(self.word),
            write_port.en.eq(self.write & ~full & ~self.overrun & ~settling),
            read_port.addr.eq(read[:bits]),
            read_port.en.eq(~self.free[bits] & (~self.words.valid | self.words.ready) & ~write_port.en),
            self.words.payload.eq(read_port.data),
        ]
        m.d.sync += self.words.valid.eq(read_port.en | (self.words.valid & ~self.words.ready))
        with m.If(read_port.en):
            m.d.sync += read.eq(read + 1)
        with m.If(counts):
            m.d.sync += self.taken.eq(self.taken + 1)
        with m.If(counts ^ read_port.en):
            m.d.sync += self.free.eq(self.free + Mux(counts, -1, 1))

        unwrite = (self.back & ~self.overrun) | (settling & ~keeping & ~settled)
        with m.If(write_port.en | unwrite):
            m.d.sync += written.eq(written + Mux(unwrite, -1, 1))
        with m.If(self.finish):
            m.d.sync += lost.eq(0)
        with m.Elif((self.write & ~write_port.en & (lost != self._most_lost)) | (self.back & self.overrun)):
            m.d.sync += lost.eq(lost + Mux(self.back, -1, 1))
        with m.If(self.finish):
            m.d.sync += [settling.eq(1), keeping.eq(self.keep)]
        with m.Elif(settled):
            m.d.sync += settling.eq(0)
        return m


class OutputBuffer(wiring.Component):
    """Ring of words that are kept until the host says from which offset on it still needs them.

    Latency 1 from ``read`` to ``word`` and ``valid``, which stay. One word in per cycle; not ready while the
    ring is full, or in a cycle with ``read`` or ``forget``.

    Parameters
    ----------
    width : bits of a word
    depth : words, a power of two
    start : ``first`` at reset

    Members
    -------
    write : stream of words
    first : offset of the first word that is kept, modulo 2^16
    words : words that are kept
    forget, not_offset : drop the words before an offset, if it is from ``first`` to ``first + words``; its
        bits are inverted
    read, index : a word is read, counted from ``first``, at most ``words``
    valid, word : whether it was there, and the word
    """

    def __init__(self, *, width: int, depth: int, start: int = 0):
        _check(width, depth, start)
        self._width = width
        self._depth = depth
        super().__init__(
            {
                "write": In(stream.Signature(width)),
                "first": Out(OFFSET_BITS, init=start),
                "words": Out(range(depth + 1)),
                "forget": In(1),
                "not_offset": In(OFFSET_BITS),
                "read": In(1),
                "index": In(range(depth + 1)),
                "valid": Out(1),
                "word": Out(width),
            }
        )
        self._start = start

    def elaborate(self, platform) -> Module:
        m = Module()
        depth, bits = self._depth, ceil_log2(self._depth)
        m.submodules.cells = cells = Memory(shape=self._width, depth=depth, init=[], attrs=NO_COLLISION)
        write_port = cells.write_port()
        read_port = cells.read_port()
        written = Signal(bits, init=self._start % depth)
        place = Signal(bits)
        # A difference is made as a sum, and both changes of ``words`` with one adder: it takes less logic.
        not_dropped = Signal(OFFSET_BITS)  # how many words are to be dropped, inverted
        change = Signal(bits + 1)
        changed = Signal(bits + 2)
        within = Signal()
        writes = self.write.valid & self.write.ready
        m.d.comb += [
            self.write.ready.eq(~self.words[bits] & ~self.read & ~self.forget),
            write_port.addr.eq(written),
            write_port.data.eq(self.write.payload),
            write_port.en.eq(writes),
            place.eq(self.first + self.index),
            read_port.addr.eq(place),
            read_port.en.eq(self.read),
            self.word.eq(read_port.data),
            not_dropped.eq(self.first + self.not_offset),
            change.eq(Mux(self.forget, not_dropped, 0)),
            changed.eq(Cat(C(1, 1), self.words) + Cat(C(1, 1), change) >> 1),
            within.eq(changed[-1] & not_dropped[bits + 1 :].all()),
        ]
        with m.If(self.read):
            m.d.sync += self.valid.eq(self.index != self.words)
        with m.If(writes):
            m.d.sync += written.eq(written + 1)
        with m.If(writes | (self.forget & within)):
            m.d.sync += self.words.eq(changed)
        with m.If(self.forget & within):
            m.d.sync += self.first.eq(~self.not_offset)
        return m
