"""Borders of maps for benches: a map, the ring of pixels round a chip, and who sends, takes and makes them.

Everything is told from one chip: ``sent`` are its own edges, ``received`` those of its neighbours beside it.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.framing import FrameKind, frame_words
from hyperdrive_hdl.isa import Side

BORDER_DEPTH = 128  # of the chips here: room for the largest of the random maps
VERTICAL = (Side.NORTH, Side.SOUTH)


def chip(rows: int, cols: int, lanes: int = 2, format: str = "fp16", **changes) -> ChipConfig:
    return ChipConfig(
        lanes=lanes,
        tile_rows=rows,
        tile_cols=cols,
        fmm_banks=2,
        fmm_bank_depth=512,
        wbuf_depth=18,
        format=format,
        link_width=8,
        border_depth=BORDER_DEPTH,
    ).replace(**changes)


CHIPS = [chip(1, 1), chip(1, 2, 3, "fp8_e4m3"), chip(2, 3, 3)]


def chip_name(config: ChipConfig) -> str:
    return f"{config.tile_rows}x{config.tile_cols}-{config.format}"


@dataclass(frozen=True)
class BorderMap:
    """A map on a mesh, as one chip has it.

    The chip at ``row``, ``col`` of the mesh; ``height``, ``width`` are the true pixels over the mesh, the
    rest as in ``BorderMapLayout``.
    """

    row: int
    col: int
    base: int
    tile_h: int
    tile_w: int
    groups: int
    blocks: int
    lanes: int
    last_lanes: int
    height: int
    width: int

    @classmethod
    def random(cls, rng: random.Random, config: ChipConfig, row: int = 1, col: int = 1) -> "BorderMap":
        """Made by a layer, in one or more groups and blocks, or loaded, in one block of all channels."""
        tile_h, tile_w = rng.randint(1, 4), rng.randint(1, 4)
        if rng.random() < 0.7:
            groups, blocks, lanes = rng.randint(1, 2), rng.randint(1, 3), config.lanes
            last_lanes = rng.randint(1, lanes)
        else:
            groups = blocks = 1
            lanes = last_lanes = rng.randint(1, 9)
        return cls(
            row=row,
            col=col,
            base=rng.randint(0, 50),
            tile_h=tile_h,
            tile_w=tile_w,
            groups=groups,
            blocks=blocks,
            lanes=lanes,
            last_lanes=last_lanes,
            # It may end before this chip, in it, or in a neighbour.
            height=rng.randint(rng.choice((1, row + 1)), row + 2) * config.tile_rows * tile_h
            - rng.randrange(config.tile_rows * tile_h),
            width=rng.randint(rng.choice((1, col + 1)), col + 2) * config.tile_cols * tile_w
            - rng.randrange(config.tile_cols * tile_w),
        )

    @property
    def channels(self) -> int:
        return self.groups * ((self.blocks - 1) * self.lanes + self.last_lanes)

    @property
    def pixels(self) -> int:
        """How often a pixel of all tiles is made: once per block of channels."""
        return self.groups * self.blocks * self.tile_h * self.tile_w

    @property
    def descriptor(self) -> dict[str, int]:
        return {
            "base": self.base,
            "channels": self.channels,
            "tile_h": self.tile_h,
            "tile_w": self.tile_w,
            "groups": self.groups,
            "blocks": self.blocks,
            "lanes": self.lanes,
            "last_lanes": self.last_lanes,
            "full_rows": self.height // self.tile_h,
            "full_cols": self.width // self.tile_w,
            "rest_rows": self.height % self.tile_h,
            "rest_cols": self.width % self.tile_w,
        }

    def order(self) -> Iterator[tuple[int, int, int, int]]:
        """Words as they are made: number of the pixel, its row and column in the tile, channel."""
        number = first = 0
        for _ in range(self.groups):
            for block in range(self.blocks):
                lanes = self.last_lanes if block == self.blocks - 1 else self.lanes
                for y in range(self.tile_h):
                    for x in range(self.tile_w):
                        for lane in range(lanes):
                            yield number, y, x, first + lane
                        number += 1
                first += lanes

    def at_edge(self, y: int, x: int) -> set[Side]:
        """The edges of the tile that a pixel belongs to."""
        ends = {
            Side.NORTH: y == 0,
            Side.SOUTH: y == self.tile_h - 1,
            Side.WEST: x == 0,
            Side.EAST: x == self.tile_w - 1,
        }
        return {side for side, there in ends.items() if there}


class Surroundings:
    """A map's pixels in a chip and round it, with random words everywhere, padding included.

    Parameters
    ----------
    map, config : the map, the chip
    rng : where the words come from
    """

    def __init__(self, map: BorderMap, config: ChipConfig, rng: random.Random):
        self.map = map
        self.config = config
        self.rows = config.tile_rows * map.tile_h
        self.cols = config.tile_cols * map.tile_w
        seed = rng.getrandbits(32)
        shape = (self.rows + 2, self.cols + 2, map.channels)
        self._words = np.random.default_rng(seed).integers(0, 1 << config.word_width, shape)

    def word(self, y: int, x: int, channel: int) -> int:
        """By coordinates of the chip's pixels, from -1 on."""
        return int(self._words[y + 1, x + 1, channel])

    def true(self, y: int, x: int) -> bool:
        """The pixel lies inside the map."""
        in_rows = self.map.row * self.rows + y < self.map.height
        return in_rows and self.map.col * self.cols + x < self.map.width

    def memory(self, address: int) -> list[list[int]]:
        """Words of all tiles at an address of the feature-map memory."""
        map = self.map
        pixel, channel = divmod(address - map.base, map.channels)
        y, x = divmod(pixel, map.tile_w)
        return [
            [self.word(i * map.tile_h + y, j * map.tile_w + x, channel) for j in range(self.config.tile_cols)]
            for i in range(self.config.tile_rows)
        ]

    def reads(self, sides: set[Side]) -> list[tuple[int, int]]:
        """What has to be read for the neighbours: number of the pixel and address, in order."""
        map = self.map
        return [
            (number, map.base + (y * map.tile_w + x) * map.channels + channel)
            for number, y, x, channel in map.order()
            if map.at_edge(y, x) & sides
        ]

    def _edge(self, side: Side, beyond: int) -> list[tuple[int, int, int]]:
        """Pixels and channels along a side in the order of its frames, so far beyond the chip's edge."""
        map = self.map
        found = []
        first_row, last_row = -beyond, self.rows - 1 + beyond
        first_col, last_col = -beyond, self.cols - 1 + beyond
        for _, y, x, channel in map.order():
            if side not in map.at_edge(y, x):
                continue
            for i in range(self.config.tile_cols if side in VERTICAL else self.config.tile_rows):
                row, col = i * map.tile_h + y, i * map.tile_w + x
                at = {
                    Side.NORTH: (first_row, col),
                    Side.SOUTH: (last_row, col),
                    Side.WEST: (row, first_col),
                    Side.EAST: (row, last_col),
                }[side]
                found.append((*at, channel))
        return found

    def sent(self, side: Side) -> list[int]:
        """The words that a neighbour gets."""
        return [self.word(*place) for place in self._edge(side, 0)]

    def received(self, side: Side) -> list[int]:
        """The words that come from a neighbour; the edge opposite to ours has the same order as ours."""
        return [self.word(*place) for place in self._edge(side, 1)]

    def corner(self, vertical: Side, horizontal: Side) -> list[int]:
        """Words of the pixel beyond a corner: they come from the horizontal neighbour."""
        y = -1 if vertical is Side.NORTH else self.rows
        x = -1 if horizontal is Side.WEST else self.cols
        return [self.word(y, x, channel) for channel in range(self.map.channels)]

    def forwarded(self, vertical: Side, horizontal: Side) -> list[int]:
        """Words that come from the vertical neighbour and are a corner of the horizontal one's."""
        y = -1 if vertical is Side.NORTH else self.rows
        x = 0 if horizontal is Side.WEST else self.cols - 1
        return [self.word(y, x, channel) for channel in range(self.map.channels)]

    def true_words(self, neighbours: set[Side]) -> int:
        """Words that arrive and lie inside the map."""
        places = [place[:2] for side in neighbours for place in self._edge(side, 1)]
        ends = {Side.NORTH: -1, Side.SOUTH: self.rows, Side.WEST: -1, Side.EAST: self.cols}
        for vertical in {Side.NORTH, Side.SOUTH} & neighbours:
            for horizontal in {Side.WEST, Side.EAST} & neighbours:
                places += [(ends[vertical], ends[horizontal])] * self.map.channels
        return sum(self.true(y, x) for y, x in places)


def bits(sides: set[Side]) -> int:
    return sum(1 << side for side in sides)


def frames(words: list[int], config: ChipConfig) -> list[tuple[list[int], bool]]:
    """The frames of a map's words: all but the last one are full."""
    full = frame_words(config)
    starts = range(0, len(words), full)
    return [(words[i : i + full], i + full >= len(words)) for i in starts]


def sources(neighbours: set[Side]) -> dict[tuple[Side, FrameKind], str]:
    """The frames that a slot sends: where, of which kind, and the name of its member."""
    names = {(side, FrameKind.EDGE): side.name.lower() for side in neighbours}
    corners = {Side.NORTH: FrameKind.NORTH_CORNERS, Side.SOUTH: FrameKind.SOUTH_CORNERS}
    for vertical, kind in corners.items():
        for horizontal in (Side.WEST, Side.EAST):
            if {vertical, horizontal} <= neighbours:
                names[horizontal, kind] = f"{vertical.name.lower()}_corners_{horizontal.name.lower()}"
    return names


def to_send(around: Surroundings, neighbours: set[Side]) -> dict[tuple[Side, FrameKind], list[int]]:
    """The words for each neighbour."""
    return _words(neighbours, around.sent, around.forwarded)


def to_receive(around: Surroundings, neighbours: set[Side]) -> dict[tuple[Side, FrameKind], list[int]]:
    """The words from each neighbour."""
    return _words(neighbours, around.received, around.corner)


def _words(neighbours: set[Side], edge: Callable, corner: Callable) -> dict:
    vertical = {FrameKind.NORTH_CORNERS: Side.NORTH, FrameKind.SOUTH_CORNERS: Side.SOUTH}
    return {
        (side, kind): edge(side) if kind is FrameKind.EDGE else corner(vertical[kind], side)
        for side, kind in sources(neighbours)
    }


class FrameSink:
    """Takes the frames of one source as a transmitter does: length and last first, then the words.

    Parameters
    ----------
    frame : ``FrameSignature``
    stalls : whether to wait in a cycle
    """

    def __init__(self, frame, config: ChipConfig, stalls: Callable[[], bool]):
        self._frame = frame
        self._stalls = stalls
        self._full = frame_words(config)
        self.frames: list[tuple[list[int], bool]] = []

    @property
    def words(self) -> list[int]:
        return [word for words, _ in self.frames for word in words]

    async def run(self, ctx) -> None:
        frame = self._frame
        offered = False
        while True:
            stall = self._stalls()
            *_, pending, length, last = await ctx.tick().sample(frame.pending, frame.length, frame.last)
            assert pending or not offered, "a frame is withdrawn"
            offered = pending and stall
            if not pending or stall:
                continue
            assert 1 <= length <= self._full
            words: list[int] = []
            self.frames.append((words, bool(last)))
            for _ in range(length):
                while self._stalls():
                    await ctx.tick()
                ctx.set(frame.pop, 1)
                *_, word = await ctx.tick().sample(frame.word)
                ctx.set(frame.pop, 0)
                words.append(word)


class Maker:
    """Makes a map's pixels and gives access to the memory they are in, at random times.

    Parameters
    ----------
    dut : has ``pixel_done``, ``request``, ``grant``, ``address``, ``read_data``
    around : the map
    sides : that need its edges
    pixels, grants : whether to wait with a pixel, with a grant
    rng : for what is read when nobody has asked
    """

    def __init__(self, dut, around: Surroundings, sides: set[Side], pixels, grants, rng: random.Random):
        self._dut = dut
        self._around = around
        self._expected = around.reads(sides)
        self._pixels = pixels
        self._grants = grants
        self._rng = rng
        self.made = 0
        self.read = 0

    @property
    def done(self) -> bool:
        """All pixels are made, and all words read that have to be."""
        return self.made == self._around.map.pixels and self.read == len(self._expected)

    async def cycle(self, ctx, *more):
        """A cycle; also gives the values of ``more`` in it. Checks what is read, and that it is there."""
        dut, config = self._dut, self._around.config
        makes = self.made < self._around.map.pixels and not self._pixels()
        grant = not self._grants()
        ctx.set(dut.pixel_done, makes)
        ctx.set(dut.grant, grant)
        *_, request, address = values = await ctx.tick().sample(*more, dut.request, dut.address)
        words = [
            [self._rng.getrandbits(config.word_width) for _ in range(config.tile_cols)]
            for _ in range(config.tile_rows)
        ]
        if request:
            assert self.read < len(self._expected), "a word is read that nobody needs"
            pixel, expected = self._expected[self.read]
            assert address == expected
            assert pixel < self.made, "a pixel is read before it is made"
            if grant:
                words = self._around.memory(address)
                self.read += 1
        for i, row in enumerate(words):
            for j, word in enumerate(row):
                ctx.set(dut.read_data[i][j], word)
        self.made += makes
        return values[2 : 2 + len(more)]
