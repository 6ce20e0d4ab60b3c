"""Walking tiles and maps: offsets of filter taps, true pixels, and the raster order of the FM streams."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from .hierarchy import instantiate
from .layouts import ADDRESS_BITS, TRANSFER_DESCRIPTOR


class TapAxis(wiring.Component):
    """Places of the input pixels before, at and after the present one, along one axis of a tile.

    They wrap round at the tile's edges; ``previous_wraps`` and ``following_wraps`` tell that the tap
    falls into the neighbour. Steps by one or two input pixels per output pixel, without multiplying.

    Members
    -------
    base : the axis' first pixel
    step : words from a pixel to the next
    last : words from the axis' first pixel to its last
    stride2 : two input pixels per step
    restart, advance : go to the first output pixel, to the next
    previous, at, following : ``base`` and words from it
    previous_wraps, following_wraps : as above
    """

    def __init__(self):
        offset = ADDRESS_BITS
        super().__init__(
            {
                "base": In(offset),
                "step": In(offset),
                "last": In(offset),
                "stride2": In(1),
                "restart": In(1),
                "advance": In(1),
                "previous": Out(offset),
                "at": Out(offset),
                "following": Out(offset),
                "previous_wraps": Out(1),
                "following_wraps": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        last = Signal(ADDRESS_BITS)
        m.d.comb += [
            last.eq(self.base + self.last),
            self.following_wraps.eq(self.at == last),
            self.previous.eq(Mux(self.previous_wraps, last, self.at - self.step)),
            self.following.eq(Mux(self.following_wraps, self.base, self.at + self.step)),
        ]
        with m.If(self.restart):
            m.d.sync += [self.at.eq(self.base), self.previous_wraps.eq(1)]
        with m.Elif(self.advance):
            m.d.sync += [
                self.at.eq(self.at + Mux(self.stride2, self.step << 1, self.step)),
                self.previous_wraps.eq(0),
            ]
        return m


class TruePixels(wiring.Component):
    """Which tiles hold a true pixel along one axis: the map ends inside a tile, or before it.

    Where it ends is known from the cycle after; ``rest`` and ``pixel`` count at once.

    Parameters
    ----------
    tiles : tiles of the chip along the axis

    Members
    -------
    position : of the chip in the mesh, along the axis
    full, rest : whole tiles of the map over the mesh, and pixels in the next
    pixel : within the tile, counted from 1
    true : bit per tile
    """

    def __init__(self, *, tiles: int):
        self._tiles = tiles
        super().__init__(
            {"position": In(8), "full": In(8), "rest": In(8), "pixel": In(8), "true": Out(tiles)}
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        inside = self.pixel <= self.rest
        for i in range(self._tiles):
            tile = Signal(range(256 * self._tiles), name=f"tile{i}")
            whole = Signal(name=f"whole{i}", reset_less=True)
            part = Signal(name=f"part{i}", reset_less=True)
            m.d.sync += [whole.eq(tile < self.full), part.eq(tile == self.full)]
            m.d.comb += [
                tile.eq(self.position * self._tiles + i),
                self.true[i].eq(whole | (part & inside)),
            ]
        return m


class MapWalker(wiring.Component):
    """Walks a map in raster order of the chip's area, channels innermost, one word or one pixel per step.

    Parameters
    ----------
    config : the chip

    Members
    -------
    descriptor : the map; steady from ``start`` on
    mesh_row, mesh_col : the chip's position
    start : go to the first word
    advance : to the next word; with ``skip`` to the next pixel
    address, row, col : tile-local address, and the tile that holds the word
    true : it lies inside the map
    last_word : of the walk
    pixel_done : ``advance`` completes a pixel of every tile
    """

    def __init__(self, *, config: ChipConfig):
        self._config = config
        super().__init__(
            {
                "descriptor": In(TRANSFER_DESCRIPTOR),
                "mesh_row": In(8),
                "mesh_col": In(8),
                "start": In(1),
                "advance": In(1),
                "skip": In(1),
                "address": Out(ADDRESS_BITS),
                "row": Out(range(max(2, config.tile_rows))),
                "col": Out(range(max(2, config.tile_cols))),
                "true": Out(1),
                "last_word": Out(1),
                "pixel_done": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config, map = self._config, self.descriptor
        channel = Signal(16)  # these three count from 1
        y = Signal(8)
        x = Signal(8)
        row_base = Signal(ADDRESS_BITS)  # of the pixel row that all tiles in a row go through

        rows = instantiate(m, platform, "rows", TruePixels, tiles=config.tile_rows)
        cols = instantiate(m, platform, "cols", TruePixels, tiles=config.tile_cols)
        m.d.comb += [
            rows.position.eq(self.mesh_row),
            rows.full.eq(map.full_rows),
            rows.rest.eq(map.rest_rows),
            rows.pixel.eq(y),
            cols.position.eq(self.mesh_col),
            cols.full.eq(map.full_cols),
            cols.rest.eq(map.rest_cols),
            cols.pixel.eq(x),
            self.true.eq(rows.true.bit_select(self.row, 1) & cols.true.bit_select(self.col, 1)),
        ]

        end_pixel = Signal()
        end_span = Signal()  # a tile's part of a pixel row
        end_line = Signal()  # a pixel row of the chip
        end_tiles = Signal()  # a row of tiles
        m.d.comb += [
            end_pixel.eq(self.skip | (channel == map.channels)),
            end_span.eq(end_pixel & (x == map.tile_w)),
            end_line.eq(end_span & (self.col == config.tile_cols - 1)),
            end_tiles.eq(end_line & (y == map.tile_h)),
            self.last_word.eq(end_tiles & (self.row == config.tile_rows - 1)),
            self.pixel_done.eq(
                self.advance
                & end_pixel
                & (self.row == config.tile_rows - 1)
                & (self.col == config.tile_cols - 1)
            ),
        ]
        with m.If(self.start):
            m.d.sync += [channel.eq(1), x.eq(1), y.eq(1), self.row.eq(0), self.col.eq(0)]
        with m.Elif(self.advance):
            m.d.sync += channel.eq(Mux(end_pixel, 1, channel + 1))
            with m.If(end_pixel):
                m.d.sync += x.eq(Mux(end_span, 1, x + 1))
            with m.If(end_span):
                m.d.sync += self.col.eq(Mux(end_line, 0, self.col + 1))
            with m.If(end_line):
                m.d.sync += y.eq(Mux(end_tiles, 1, y + 1))
            with m.If(end_tiles):
                m.d.sync += self.row.eq(self.row + 1)
        with m.If(self.start | (self.advance & end_tiles)):
            m.d.sync += [self.address.eq(map.base), row_base.eq(map.base)]
        with m.Elif(self.advance):
            m.d.sync += self.address.eq(self.address + Mux(self.skip, map.channels, 1))
            if config.tile_cols > 1:
                next_row = row_base + map.row_stride
                with m.If(end_line):
                    m.d.sync += [self.address.eq(next_row), row_base.eq(next_row)]
                with m.Elif(end_span):
                    m.d.sync += self.address.eq(row_base)
        return m
