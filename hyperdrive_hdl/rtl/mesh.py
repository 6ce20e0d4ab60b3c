"""A mesh of equal chips, joined by their border links (paper section IV-B)."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect

from ..config import ChipConfig, MeshConfig
from ..errors import ConfigError
from .chip import Chip
from .hierarchy import instantiate
from .layouts import ActivitySignature, StatusSignature


class Mesh(wiring.Component):
    """m x n chips, each with its own streams. All get the same program.

    Parameters
    ----------
    config : of every chip
    mesh : rows and columns

    Members
    -------
    chips[row][col] : ``program``, ``fm_in``, ``fm_out``, ``status``, ``activity``, as of ``Chip``

    Raises
    ------
    ConfigError : several chips without links
    """

    def __init__(self, *, config: ChipConfig, mesh: MeshConfig):
        if mesh.chips > 1 and not config.links:
            raise ConfigError(f"a mesh of {mesh} needs chips with links: set link_width to 1, 2, 4, 8 or 16")
        self._config = config
        self._mesh = mesh
        chip = wiring.Signature(
            {
                "program": In(stream.Signature(config.program_width)),
                "fm_in": In(stream.Signature(config.word_width)),
                "fm_out": Out(stream.Signature(config.word_width)),
                "status": Out(StatusSignature()),
                "activity": Out(ActivitySignature()),
            }
        )
        super().__init__({"chips": Out(chip).array(mesh.rows, mesh.cols)})

    def elaborate(self, platform) -> Module:
        m = Module()
        rows, cols = self._mesh.rows, self._mesh.cols
        chips = [
            [instantiate(m, platform, f"chip{r}_{c}", Chip, config=self._config) for c in range(cols)]
            for r in range(rows)
        ]
        for r in range(rows):
            for c in range(cols):
                chip, outside = chips[r][c], self.chips[r][c]
                for name in ("program", "fm_in"):
                    connect(m, wiring.flipped(getattr(outside, name)), getattr(chip, name))
                connect(m, chip.fm_out, wiring.flipped(outside.fm_out))
                connect(m, chip.status, wiring.flipped(outside.status))
                connect(m, chip.activity, wiring.flipped(outside.activity))
                m.d.comb += [chip.mesh_row.eq(r), chip.mesh_col.eq(c)]
                if not self._config.links:
                    continue
                m.d.comb += chip.neighbours.eq(self._mesh.neighbours(r, c))
                if c + 1 < cols:
                    connect(m, chip.east.tx, chips[r][c + 1].west.rx)
                    connect(m, chips[r][c + 1].west.tx, chip.east.rx)
                if r + 1 < rows:
                    connect(m, chip.south.tx, chips[r + 1][c].north.rx)
                    connect(m, chips[r + 1][c].north.tx, chip.south.rx)
        return m
