"""Border slot: all of one map's border, from the layer that makes the map to the last that reads it."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect
from amaranth.utils import ceil_log2

from ..config import ChipConfig
from ..framing import FrameKind
from ..isa import Side
from .axes import TruePixels
from .border_export import BorderExport
from .border_import import CornerForward, CornerImport, EdgeImport
from .feature_memory import SinglePortMemory
from .hierarchy import instantiate
from .layouts import ADDRESS_BITS, BorderMapLayout, border_bits, words
from .link import FrameSignature

VERTICAL, HORIZONTAL = (Side.NORTH, Side.SOUTH), (Side.EAST, Side.WEST)
CORNERS = {FrameKind.NORTH_CORNERS: Side.NORTH, FrameKind.SOUTH_CORNERS: Side.SOUTH}


def tiles_along(side: Side, config: ChipConfig) -> int:
    """Tiles at a side of the chip."""
    return config.tile_cols if side in VERTICAL else config.tile_rows


def frame_sources(side: Side) -> tuple[tuple[FrameKind, str], ...]:
    """What a slot sends to a side: kind and member of ``BorderSlot``; corners first, others wait for them."""
    name = side.name.lower()
    if side in VERTICAL:
        return ((FrameKind.EDGE, name),)
    corners = tuple((kind, f"{of.name.lower()}_corners_{name}") for kind, of in CORNERS.items())
    return (*corners, (FrameKind.EDGE, name))


class ReceivedSignature(wiring.Signature):
    """Words of a slot from one side.

    edge, north_corner, south_corner : the word is of that kind
    word : the word
    edge_good, north_good, south_good : a frame of that kind has ended and is right
    last : it is the last one of its map
    """

    def __init__(self, config: ChipConfig):
        super().__init__(
            {
                "word": Out(config.word_width),
                **{name: Out(1) for name in ("edge", "north_corner", "south_corner")},
                **{name: Out(1) for name in ("edge_good", "north_good", "south_good", "last")},
            }
        )


class BorderSlot(wiring.Component):
    """Sends a map's edges, keeps those of the neighbours, forwards corners (paper section IV-B).

    The border memory has a row of words per side: one word per tile at that side, addressed by pixel along
    the tile's side, then channel. The corner memory beside it has the channels of four pixels. A slot is
    ``active`` from ``start`` to ``release``; it is ``complete`` when everything has been sent, received and
    forwarded.

    Parameters
    ----------
    config : the chip

    Members
    -------
    neighbours : bit per ``Side``
    mesh_row, mesh_col : the chip's position
    map, start : a map whose border is exchanged begins to be made
    pixel_done, request, grant, address, read_data : as in ``BorderExport``
    release : the border is not needed any more
    active, complete : state
    from_north, from_east, from_south, from_west : received words
    north, east, south, west : frames of edges; ``north_corners_west`` and so on: of forwarded corners
    error : bit per ``Side``: what came from there does not fit the map
    true_words : words that arrive in this cycle and lie inside the map
    up, down, left, right, row, col, corner : a tap's word of the neighbours is read, see ``RingLayout``
    north_words, south_words, east_words, west_words, east_corner, west_corner : in the next cycle
    """

    def __init__(self, *, config: ChipConfig):
        self._config = config
        word = Out(config.word_width)
        sides = {side.name.lower(): side for side in Side}
        members = {f"from_{name}": In(ReceivedSignature(config)) for name in sides}
        members |= {member: Out(FrameSignature(config)) for side in Side for _, member in frame_sources(side)}
        members |= {f"{name}_words": word.array(tiles_along(side, config)) for name, side in sides.items()}
        members |= {way: In(1) for way in ("up", "down", "left", "right")}
        members |= {name: In(border_bits(config)) for name in ("row", "col", "corner")}
        super().__init__(
            {
                "neighbours": In(4),
                "mesh_row": In(8),
                "mesh_col": In(8),
                "map": In(BorderMapLayout()),
                "start": In(1),
                "pixel_done": In(1),
                "release": In(1),
                "active": Out(1),
                "complete": Out(1),
                "request": Out(1),
                "grant": In(1),
                "address": Out(ADDRESS_BITS),
                "read_data": words(config),
                "error": Out(4),
                "true_words": Out(3),
                **members,
                "east_corner": word,
                "west_corner": word,
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        map = Signal(BorderMapLayout(), reset_less=True)
        started = Signal()  # the map has been taken over; its units start
        m.d.sync += started.eq(self.start)
        with m.If(self.start):
            m.d.sync += [map.eq(self.map), self.active.eq(1)]
        with m.Elif(self.release):
            m.d.sync += self.active.eq(0)

        export = instantiate(m, platform, "export", BorderExport, config=self._config)
        m.d.comb += [
            export.map.eq(map),
            export.start.eq(started),
            export.pixel_done.eq(self.pixel_done),
            export.neighbours.eq(self.neighbours),
            self.request.eq(export.request),
            export.grant.eq(self.grant),
            self.address.eq(export.address),
        ]
        for i in range(self._config.tile_rows):
            m.d.comb += [
                export.read_data[i][j].eq(self.read_data[i][j]) for j in range(self._config.tile_cols)
            ]
        true = self._true_sides(m, map)
        done = [export.idle]
        counted: list = []
        errors: dict[Side, list] = {side: [] for side in Side}
        for side in Side:
            name = side.name.lower()
            connect(m, getattr(export, name), wiring.flipped(getattr(self, name)))
            done.append(self._edge(m, platform, side, map, started, true, counted, errors))
        for side in HORIZONTAL:
            done.append(self._corners(m, platform, side, map, started, true, counted, errors))
        m.d.comb += [
            self.complete.eq(self.active & ~started & Cat(done).all()),
            self.true_words.eq(sum(counted, start=0)),
            self.error.eq(Cat(Cat(errors[side]).any() for side in Side)),
        ]
        return m

    def _true_sides(self, m: Module, map) -> dict[Side, Signal]:
        """Whether the row or column of pixels beyond each side has true pixels, as far as that axis goes."""
        config = self._config
        true = {side: Signal(name=f"true_{side.name.lower()}") for side in Side}
        for position, tiles, full, rest, before, after in (
            (self.mesh_row, config.tile_rows, map.full_rows, map.rest_rows, Side.NORTH, Side.SOUTH),
            (self.mesh_col, config.tile_cols, map.full_cols, map.rest_cols, Side.WEST, Side.EAST),
        ):
            first = position * tiles  # tile of the mesh
            behind = first + tiles
            m.d.comb += [
                true[before].eq(first <= full),
                true[after].eq((behind < full) | ((behind == full) & rest.any())),
            ]
        return true

    def _edge(self, m: Module, platform, side: Side, map, started, true, counted: list, errors: dict):
        """The words that come from a side, their memory, and what becomes of its two ends."""
        config = self._config
        name, tiles = side.name.lower(), tiles_along(side, config)
        received = getattr(self, f"from_{name}")
        edge = instantiate(m, platform, f"{name}_edge", EdgeImport, config=config, tiles=tiles)
        memory = instantiate(
            m,
            platform,
            f"{name}_memory",
            SinglePortMemory,
            depth=config.border_depth,
            width=config.word_width,
            tiles=tiles,
        )
        along = instantiate(m, platform, f"{name}_true", TruePixels, tiles=tiles)
        vertical = side in VERTICAL
        m.d.comb += [
            edge.map.eq(map),
            edge.length.eq(map.tile_w if vertical else map.tile_h),
            edge.start.eq(started),
            edge.word_valid.eq(received.edge),
            edge.frame_good.eq(received.edge_good),
            edge.last.eq(received.last),
            along.position.eq(self.mesh_col if vertical else self.mesh_row),
            along.full.eq(map.full_cols if vertical else map.full_rows),
            along.rest.eq(map.rest_cols if vertical else map.rest_rows),
            along.pixel.eq(edge.pixel + 1),
            memory.write.eq(received.edge),
            memory.mask.eq(1 << edge.tile),
            *[memory.write_data[i].eq(received.word) for i in range(tiles)],
            *[word.eq(memory.read_data[i]) for i, word in enumerate(getattr(self, f"{name}_words"))],
        ]
        errors[side].append(edge.error)
        counted.append(received.edge & true[side] & along.true.bit_select(edge.tile, 1))

        reads = {
            Side.NORTH: self.up,
            Side.SOUTH: self.down,
            Side.WEST: self.left,
            Side.EAST: self.right,
        }[side]
        read_address = self.row if vertical else self.col
        if not vertical:
            m.d.comb += [
                memory.enable.eq(received.edge | reads),
                memory.address.eq(Mux(received.edge, edge.address, read_address)),
            ]
            return ~self.neighbours[side] | edge.done

        forward = instantiate(m, platform, f"{name}_forward", CornerForward, config=config)
        for way in ("west", "east"):
            connect(m, getattr(forward, way), wiring.flipped(getattr(self, f"{name}_corners_{way}")))
        m.d.comb += [
            forward.channels.eq(map.channels),
            forward.start.eq(started),
            forward.near.eq(edge.near),
            forward.far.eq(edge.far),
            forward.frame_good.eq(received.edge_good),
            forward.wanted.eq(
                Cat(self.neighbours[Side.WEST], self.neighbours[Side.EAST])
                & self.neighbours[side].replicate(2)
            ),
            forward.far_offset.eq(edge.far_offset),
            forward.free.eq(~received.edge),
            forward.near_word.eq(memory.read_data[0]),
            forward.far_word.eq(memory.read_data[tiles - 1]),
            memory.enable.eq(received.edge | reads | forward.read),
        ]
        with m.If(received.edge):
            m.d.comb += memory.address.eq(edge.address)
        with m.Elif(forward.read):
            m.d.comb += memory.address.eq(forward.address)
        with m.Else():
            m.d.comb += memory.address.eq(read_address)
        return ~self.neighbours[side] | (edge.done & forward.idle)

    def _corners(self, m: Module, platform, side: Side, map, started, true, counted: list, errors: dict):
        """The two corners that come from a side, in one memory."""
        config = self._config
        name = side.name.lower()
        received = getattr(self, f"from_{name}")
        memory = instantiate(
            m,
            platform,
            f"{name}_corner_memory",
            SinglePortMemory,
            depth=2 * config.border_depth,
            width=config.word_width,
            tiles=1,
        )
        imports, done = {}, []
        for of, arrives, good in (
            (Side.NORTH, received.north_corner, received.north_good),
            (Side.SOUTH, received.south_corner, received.south_good),
        ):
            expected = self.neighbours[side] & self.neighbours[of]
            corner = instantiate(m, platform, f"{name}_{of.name.lower()}_corner", CornerImport, config=config)
            m.d.comb += [
                corner.channels.eq(map.channels),
                corner.start.eq(started),
                corner.word_valid.eq(arrives),
                corner.frame_good.eq(good),
                corner.last.eq(received.last),
            ]
            imports[of] = corner
            done.append(~expected | corner.done)
            counted.append(arrives & true[side] & true[of])
            errors[side].append(corner.error)
        half = ceil_log2(config.border_depth)
        writes = received.north_corner | received.south_corner
        address = Signal(half)
        reads = (self.up | self.down) & (self.left if side is Side.WEST else self.right)
        m.d.comb += [
            address.eq(
                Mux(
                    received.north_corner,
                    imports[Side.NORTH].address,
                    Mux(received.south_corner, imports[Side.SOUTH].address, self.corner),
                )
            ),
            memory.enable.eq(writes | reads),
            memory.write.eq(writes),
            memory.mask.eq(1),
            memory.address.eq(Cat(address, Mux(writes, received.south_corner, self.down))),
            memory.write_data[0].eq(received.word),
            getattr(self, f"{name}_corner").eq(memory.read_data[0]),
        ]
        return Cat(done).all()
