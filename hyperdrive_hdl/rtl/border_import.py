"""Takes the neighbours' edges: where each word lies in the border memory, and which go on to a corner."""

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect
from amaranth.utils import bits_for

from ..config import ChipConfig
from .border_export import BlockWalker
from .hierarchy import instantiate
from .layouts import BorderMapLayout, border_bits
from .link import FrameSignature, WordQueue


class EdgeImport(wiring.Component):
    """Counts the words of one side's edge, in the order in which ``BorderExport`` sends them.

    Parameters
    ----------
    config : the chip
    tiles : of the chip along this side

    Members
    -------
    map, length : the map, and the pixels of a tile along the side; steady from ``start`` on
    start : a map is expected
    word_valid : a word arrives
    frame_good, last : the frame is right; it is the map's last
    address, tile : where the word goes
    pixel : of the tile, along the side
    near, far : the word is a corner's: first pixel and tile, last pixel and tile
    far_offset : of the last pixel, valid with and after ``far``
    done : all words are there and right
    error : a word too many, or too few
    """

    def __init__(self, *, config: ChipConfig, tiles: int):
        self._tiles = tiles
        super().__init__(
            {
                "map": In(BorderMapLayout()),
                "length": In(8),
                "start": In(1),
                "word_valid": In(1),
                "frame_good": In(1),
                "last": In(1),
                "address": Out(border_bits(config)),
                "tile": Out(range(max(2, tiles))),
                "pixel": Out(8),
                "near": Out(1),
                "far": Out(1),
                "far_offset": Out(border_bits(config)),
                "done": Out(1),
                "error": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        walker = instantiate(m, platform, "walker", BlockWalker)
        last_tile = Signal()
        m.d.comb += [
            last_tile.eq(self.tile == self._tiles - 1),
            walker.map.eq(self.map),
            walker.start.eq(self.start),
            walker.last_pixel.eq(self.pixel == self.length - 1),
            walker.advance.eq(self.word_valid & last_tile),
            self.address.eq(walker.offset),
            self.near.eq(self.word_valid & (self.pixel == 0) & (self.tile == 0)),
            self.far.eq(self.word_valid & walker.last_pixel & last_tile),
        ]
        with m.If(self.start):
            m.d.sync += [self.tile.eq(0), self.pixel.eq(0), self.far_offset.eq(0)]
            m.d.sync += [self.done.eq(0), self.error.eq(0)]
        with m.Else():
            with m.If(self.word_valid):
                m.d.sync += self.tile.eq(Mux(last_tile, 0, self.tile + 1))
            with m.If(walker.next_pixel):
                m.d.sync += self.pixel.eq(Mux(walker.last_pixel, 0, self.pixel + 1))
                with m.If(walker.first_block & ~walker.last_pixel):
                    m.d.sync += self.far_offset.eq(self.far_offset + self.map.channels)
            with m.If(self.frame_good & self.last):
                m.d.sync += self.done.eq(1)
            too_many = self.word_valid & ~walker.active
            too_few = self.frame_good & (self.last == walker.active)
            with m.If(too_many | too_few):
                m.d.sync += self.error.eq(1)
        return m


class CornerImport(wiring.Component):
    """Counts the words of one corner pixel: its channels, in order.

    Parameters
    ----------
    config : the chip

    Members
    -------
    channels : of the map; steady from ``start`` on
    start, word_valid, frame_good, last, address, done, error : as in ``EdgeImport``
    """

    def __init__(self, *, config: ChipConfig):
        self._config = config
        super().__init__(
            {
                "channels": In(16),
                "start": In(1),
                "word_valid": In(1),
                "frame_good": In(1),
                "last": In(1),
                "address": Out(border_bits(config)),
                "done": Out(1),
                "error": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        count = Signal(16)
        m.d.comb += self.address.eq(count)
        full = count == self.channels
        with m.If(self.start):
            m.d.sync += [count.eq(0), self.done.eq(0), self.error.eq(0)]
        with m.Else():
            m.d.sync += count.eq(count + self.word_valid)
            with m.If(self.frame_good & self.last):
                m.d.sync += self.done.eq(1)
            with m.If((self.word_valid & full) | (self.frame_good & (self.last != full))):
                m.d.sync += self.error.eq(1)
        return m


class CornerForward(wiring.Component):
    """Sends the two ends of a vertical neighbour's edge sideways: they are corners of the chips there.

    It reads them from the border memory when the frame that brought them has proved right and the memory is
    free.

    Parameters
    ----------
    config : the chip

    Members
    -------
    channels : of the map; steady from ``start`` on
    start : a map is expected
    near, far : a word for the chip in the west, in the east, is being written
    frame_good : what has been written is right
    wanted : bit 0: there is a chip in the west, bit 1: in the east
    far_offset : of the far words
    free : the memory is not accessed otherwise
    read, address : memory access
    near_word, far_word : from memory, the cycle after ``read``
    west, east : frames
    idle : all has been handed to the transmitters
    """

    def __init__(self, *, config: ChipConfig):
        self._config = config
        word = In(config.word_width)
        super().__init__(
            {
                "channels": In(16),
                "start": In(1),
                "near": In(1),
                "far": In(1),
                "frame_good": In(1),
                "wanted": In(2),
                "far_offset": In(border_bits(config)),
                "free": In(1),
                "read": Out(1),
                "address": Out(border_bits(config)),
                "near_word": word,
                "far_word": word,
                "west": Out(FrameSignature(config)),
                "east": Out(FrameSignature(config)),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        bits = bits_for(self._config.border_depth)
        sides = (("west", self.near, self.near_word, 0), ("east", self.far, self.far_word, self.far_offset))
        reads, idle, addresses = [], [], []
        for index, (name, arrives, word, base) in enumerate(sides):
            written = Signal(bits, name=f"{name}_written")
            right = Signal(bits, name=f"{name}_right")
            sent = Signal(bits, name=f"{name}_sent")
            reading = Signal(name=f"{name}_reading")
            last = Signal(name=f"{name}_last")
            read = Signal(name=f"{name}_read")
            queue = instantiate(m, platform, f"{name}_queue", WordQueue, config=self._config)
            connect(m, queue.frame, wiring.flipped(getattr(self, name)))
            m.d.comb += [
                read.eq(
                    self.free
                    & self.wanted[index]
                    & (sent != right)
                    & ~reading
                    & queue.words.ready
                    & ~(reads[0] if reads else 0)
                ),
                queue.words.valid.eq(reading),
                queue.words.p.word.eq(word),
                queue.words.p.last.eq(last),
            ]
            m.d.sync += [reading.eq(read), last.eq(sent == self.channels - 1)]
            with m.If(self.start):
                m.d.sync += [written.eq(0), right.eq(0), sent.eq(0)]
            with m.Else():
                m.d.sync += [written.eq(written + arrives), sent.eq(sent + read)]
                with m.If(self.frame_good):
                    m.d.sync += right.eq(written)
            reads.append(read)
            addresses.append(sent + base)
            idle.append(~self.wanted[index] | ((sent == self.channels) & ~reading & queue.empty))
        m.d.comb += [
            self.read.eq(reads[0] | reads[1]),
            self.address.eq(Array(addresses)[reads[1]]),
            self.idle.eq(idle[0] & idle[1]),
        ]
        return m
