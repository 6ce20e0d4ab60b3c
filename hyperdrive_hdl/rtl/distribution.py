"""Data distribution units: give every tile its own pixel or a neighbour's (paper section III)."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from ..config import ChipConfig
from .layouts import words
from .registers import spread


class DataDistribution(wiring.Component):
    """A window of M x N on a grid of (M+2) x (N+2) pixels: the tiles' own, ringed by the border's.

    All tiles read the same local address. Where a filter tap leaves the tile, the address has wrapped round
    and the window moves by one tile, so tile (i, j) gets its neighbour's pixel. The ring comes from the
    border and corner memory, or is zero where the mesh ends: that is the zero padding.

    Latency 1 (``x`` is registered), one grid per cycle.

    Parameters
    ----------
    config : the chip

    Members
    -------
    pixels : own pixel of every tile
    north, south : the ring's rows, corners included, N + 2 words
    west, east : the ring's columns, M words
    up, down, left, right : where the window moves for the pixels of the next cycle
    x : pixel for every tile
    """

    def __init__(self, *, config: ChipConfig):
        self._config = config
        word = In(config.word_width)
        super().__init__(
            {
                "pixels": words(config),
                "north": word.array(config.tile_cols + 2),
                "south": word.array(config.tile_cols + 2),
                "west": word.array(config.tile_rows),
                "east": word.array(config.tile_rows),
                "up": In(1),
                "down": In(1),
                "left": In(1),
                "right": In(1),
                "x": words(config).flip(),
            }
        )

    @property
    def latency(self) -> int:
        return 1

    def elaborate(self, platform) -> Module:
        m = Module()
        rows, cols = self._config.tile_rows, self._config.tile_cols
        grid = [
            list(self.north),
            *[[self.west[i], *[self.pixels[i][j] for j in range(cols)], self.east[i]] for i in range(rows)],
            list(self.south),
        ]
        apart = self._config.tiles if self._config.memory_latency > 1 else 1  # for a high clock
        moves = spread(m, Cat(self.up, self.down, self.left, self.right), apart, name="moves")
        # Vertically first, on N + 2 columns, then horizontally: two 3:1 selections instead of one 9:1.
        for i in range(rows):
            moved = []
            for j in range(cols + 2):
                word = Signal(self._config.word_width, name=f"moved{i}_{j}")
                up, down, _, _ = moves[(i * cols + min(max(j - 1, 0), cols - 1)) % apart]
                m.d.comb += word.eq(Mux(up, grid[i][j], Mux(down, grid[i + 2][j], grid[i + 1][j])))
                moved.append(word)
            for j in range(cols):
                _, _, left, right = moves[(i * cols + j) % apart]
                m.d.sync += self.x[i][j].eq(Mux(left, moved[j], Mux(right, moved[j + 2], moved[j + 1])))
        return m
