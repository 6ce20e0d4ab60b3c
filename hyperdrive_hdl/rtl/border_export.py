"""Sends a map's edges to the neighbours: reads them from the feature-map memory as they are made."""

from itertools import pairwise

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect

from ..config import ChipConfig
from ..isa import Side
from .hierarchy import instantiate
from .layouts import ADDRESS_BITS, BorderMapLayout, words
from .link import FrameSignature, WordQueue
from .registers import delayed


class BlockWalker(wiring.Component):
    """Words of some pixels in the order in which they are made: block of channels, pixel, channel.

    Members
    -------
    map : the map; steady from ``start`` on
    last_pixel : the present pixel is the last one of a block
    start : go to the first word
    advance, skip : to the next word, to the next pixel
    offset : of the word from the map's first
    next_pixel : ``advance`` or ``skip`` leads to another pixel
    last_channel : the word is the pixel's last in this block
    first_block, last_block : of all
    active : there are words to come
    """

    def __init__(self):
        super().__init__(
            {
                "map": In(BorderMapLayout()),
                "last_pixel": In(1),
                "start": In(1),
                "advance": In(1),
                "skip": In(1),
                "offset": Out(ADDRESS_BITS),
                "next_pixel": Out(1),
                "last_channel": Out(1),
                "first_block": Out(1),
                "last_block": Out(1),
                "active": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        map = self.map
        groups = Signal(16)  # these count down
        blocks = Signal(16)
        lanes = Signal(16)  # of this block
        lane = Signal(16)
        pixel = Signal(ADDRESS_BITS)  # offset of this pixel's first channel in this block
        channel = Signal(16)  # first of this block
        next_channel = Signal(16)
        m.d.comb += [
            lanes.eq(Mux(blocks == 0, map.last_lanes, map.lanes)),
            self.offset.eq(pixel + lane),
            self.last_channel.eq(lane == lanes - 1),
            self.next_pixel.eq(self.skip | (self.advance & self.last_channel)),
            self.last_block.eq((groups == 0) & (blocks == 0)),
            next_channel.eq(channel + lanes),
        ]
        with m.If(self.start):
            m.d.sync += [
                self.active.eq(1),
                self.first_block.eq(1),
                groups.eq(map.groups - 1),
                blocks.eq(map.blocks - 1),
                lane.eq(0),
                pixel.eq(0),
                channel.eq(0),
            ]
        with m.Elif(self.next_pixel):
            m.d.sync += [lane.eq(0), pixel.eq(pixel + map.channels)]
            with m.If(self.last_pixel):
                m.d.sync += [
                    self.first_block.eq(0),
                    self.active.eq(~self.last_block),
                    pixel.eq(next_channel),
                    channel.eq(next_channel),
                    blocks.eq(blocks - 1),
                ]
                with m.If(blocks == 0):
                    m.d.sync += [blocks.eq(map.blocks - 1), groups.eq(groups - 1)]
        with m.Elif(self.advance):
            m.d.sync += lane.eq(lane + 1)
        return m


class EdgeSerialiser(wiring.Component):
    """A row (or column) of tiles' words, one after another.

    Parameters
    ----------
    config : the chip
    tiles : words in a row

    Members
    -------
    load, row, last : take a row; ``last`` of its map
    words : one by one
    empty : a row can be taken
    """

    def __init__(self, *, config: ChipConfig, tiles: int):
        self._tiles = tiles
        super().__init__(
            {
                "load": In(1),
                "row": In(config.word_width).array(tiles),
                "last": In(1),
                "words": Out(stream.Signature(data.StructLayout({"word": config.word_width, "last": 1}))),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        row = [Signal.like(word, name=f"word{i}", reset_less=True) for i, word in enumerate(self.row)]
        left = Signal(range(self._tiles + 1))
        last = Signal()
        m.d.comb += [
            self.empty.eq(left == 0),
            self.words.valid.eq(left != 0),
            self.words.p.word.eq(row[0]),
            self.words.p.last.eq(last & (left == 1)),
        ]
        with m.If(self.load):
            m.d.sync += [word.eq(new) for word, new in zip(row, self.row, strict=True)]
            m.d.sync += [left.eq(self._tiles), last.eq(self.last)]
        with m.Elif(self.words.valid & self.words.ready):
            m.d.sync += [word.eq(following) for word, following in pairwise(row)]
            m.d.sync += left.eq(left - 1)
        return m


class BorderExport(wiring.Component):
    """Reads the pixels at the chip's edges, word by word of all tiles, and queues them for the neighbours.

    It follows the layer (or load) that makes the map: a pixel is walked when it is in memory. Reading it back
    instead of catching it on its way keeps the epilogue free of the links: nothing there ever stalls.

    Parameters
    ----------
    config : the chip

    Members
    -------
    map : steady from ``start`` on
    start : the map begins to be made
    pixel_done : another pixel of every tile is in memory, in the order of ``BlockWalker``
    neighbours : bit per ``Side``
    request, grant, address, read_data : memory access; words of all tiles ``memory_latency`` cycles after
        ``grant``
    north, east, south, west : frames for that side
    idle : everything has been handed to the transmitters
    """

    def __init__(self, *, config: ChipConfig):
        self._config = config
        super().__init__(
            {
                "map": In(BorderMapLayout()),
                "start": In(1),
                "pixel_done": In(1),
                "neighbours": In(4),
                "request": Out(1),
                "grant": In(1),
                "address": Out(ADDRESS_BITS),
                "read_data": words(config),
                **{side.name.lower(): Out(FrameSignature(config)) for side in Side},
                "idle": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config, map = self._config, self.map
        walker = instantiate(m, platform, "walker", BlockWalker)
        ahead = Signal(17)  # pixels in memory that have not been walked
        x = Signal(8)
        y = Signal(8)
        edges = Signal(4)
        ends = Signal(4)  # the last pixel along that edge
        empty = Signal(4)  # sides that can take a row
        there = Signal()
        top, bottom, left, right = y == 0, y == map.tile_h - 1, x == 0, x == map.tile_w - 1
        granted = Signal()
        m.d.comb += [
            walker.map.eq(map),
            walker.start.eq(self.start),
            walker.last_pixel.eq(bottom & right),
            there.eq(walker.active & (ahead != 0)),
            edges.eq(Cat(top, right, bottom, left) & self.neighbours),
            ends.eq(Cat(right, bottom, right, bottom)),
            self.request.eq(there & edges.any() & ~(edges & ~empty).any()),
            self.address.eq(map.base + walker.offset),
            granted.eq(self.request & self.grant),
            walker.advance.eq(granted),
            walker.skip.eq(there & ~edges.any()),
        ]
        with m.If(self.start):
            m.d.sync += [ahead.eq(self.pixel_done), x.eq(0), y.eq(0)]
        with m.Else():
            m.d.sync += ahead.eq(ahead + self.pixel_done - walker.next_pixel)
            with m.If(walker.next_pixel):
                m.d.sync += x.eq(Mux(right, 0, x + 1))
                with m.If(right):
                    m.d.sync += y.eq(Mux(bottom, 0, y + 1))

        latency = config.memory_latency
        reads = [Signal(4, name=f"read{stage}") for stage in range(1, latency + 1)]  # on their way, by side
        final = walker.last_block & walker.last_channel
        m.d.sync += [later.eq(earlier) for earlier, later in pairwise([edges & granted.replicate(4), *reads])]
        last = delayed(m, ends & final.replicate(4), latency, name="last")
        rows = {
            Side.NORTH: [self.read_data[0][j] for j in range(config.tile_cols)],
            Side.EAST: [self.read_data[i][config.tile_cols - 1] for i in range(config.tile_rows)],
            Side.SOUTH: [self.read_data[config.tile_rows - 1][j] for j in range(config.tile_cols)],
            Side.WEST: [self.read_data[i][0] for i in range(config.tile_rows)],
        }
        sent = []
        for side, row in rows.items():
            name = side.name.lower()
            serialiser = instantiate(
                m, platform, f"{name}_row", EdgeSerialiser, config=config, tiles=len(row)
            )
            queue = instantiate(m, platform, f"{name}_queue", WordQueue, config=config)
            connect(m, serialiser.words, queue.words)
            connect(m, queue.frame, wiring.flipped(getattr(self, name)))
            m.d.comb += [serialiser.row[i].eq(word) for i, word in enumerate(row)]
            m.d.comb += [
                serialiser.load.eq(reads[-1][side]),
                serialiser.last.eq(last[side]),
                empty[side].eq(serialiser.empty & ~Cat(read[side] for read in reads).any()),
            ]
            sent.append(empty[side] & queue.empty)
        m.d.comb += self.idle.eq(~walker.active & Cat(sent).all())
        return m
