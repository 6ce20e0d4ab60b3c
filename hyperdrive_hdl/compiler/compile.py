"""From a network to the programs of a chip: the compiler's one entry point."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..config import ChipConfig, MeshConfig
from ..errors import ModelError
from .emit import compile_stage
from .ir import ChipProgram, CompiledNetwork, Network
from .pipeline import import_network


def compile_network(
    network: Network, chip: ChipConfig, mesh: MeshConfig | None = None, *, observe: bool = False
) -> CompiledNetwork:
    """Programs for every chip stage of ``network``; with ``observe`` they store every layer's output.

    Raises
    ------
    ModelError : the network was imported for another number format, or a stage does not fit the chip; the
        layer, the value and the limit are named
    """
    if network.format != chip.format:
        raise ModelError(
            f"network {network.name!r} was imported for format {network.format}, chip {chip.name!r} has "
            f"{chip.format}: import it for that format"
        )
    mesh = mesh or MeshConfig()
    programs = {
        stage.name: compile_stage(stage, chip, mesh, observe=observe) for stage in network.chip_stages
    }
    notes = (*network.notes, *idle_chips(programs.values(), chip, mesh))
    return CompiledNetwork(network=network, chip=chip, mesh=mesh, programs=programs, notes=notes)


def idle_chips(programs: Iterable[ChipProgram], chip: ChipConfig, mesh: MeshConfig) -> list[str]:
    """What to tell of chips that have no pixel of any map, if there are some."""
    maps = [m for p in programs for m in (*(t.map for t in p.loads), *(layer.output for layer in p.layers))]
    rows = max((-(-m.map.height // (chip.tile_rows * m.tile_h)) for m in maps), default=mesh.rows)
    cols = max((-(-m.map.width // (chip.tile_cols * m.tile_w)) for m in maps), default=mesh.cols)
    if (rows, cols) == (mesh.rows, mesh.cols):
        return []
    idle = [at for at in np.ndindex(mesh.rows, mesh.cols) if at[0] >= rows or at[1] >= cols]
    named = ", ".join(f"({row}, {col})" for row, col in idle[:8]) + (", ..." if len(idle) > 8 else "")
    return [
        f"{len(idle)} of the {mesh.chips} chips of mesh {mesh} have no pixel of any map: {named}; a mesh of "
        f"{MeshConfig(rows=rows, cols=cols)} gives the same result"
    ]


def compile_model(
    path: str | Path, chip: ChipConfig, mesh: MeshConfig | None = None, *, observe: bool = False
) -> CompiledNetwork:
    """``compile_network`` of an ONNX file.

    Raises
    ------
    ModelError : the file or the network cannot be used, or does not fit the chip
    """
    return compile_network(import_network(path, chip.format), chip, mesh, observe=observe)
