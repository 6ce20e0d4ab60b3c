"""The simulators by name."""

from pathlib import Path

from ..config import ChipConfig, MeshConfig
from ..errors import ConfigError
from .backend import Backend, check_mesh

ENGINES = ("cxxrtl", "verilator", "pysim")


def make_backend(
    engine: str, config: ChipConfig, *, mesh: MeshConfig | None = None, vcd: Path | None = None
) -> Backend:
    """The simulator of that name for a chip or a mesh; compiled ones are built here, or taken from the cache.

    Raises
    ------
    ConfigError : there is no engine of that name, or the chips of a mesh have no links
    ToolError : it cannot be built on this machine
    """
    mesh = mesh or MeshConfig()
    check_mesh(config, mesh)
    # Imported on use: the Python simulator needs no Yosys, the compiled one no Amaranth simulator.
    if engine == "cxxrtl":
        from .cxxrtl import CxxrtlBackend

        return CxxrtlBackend(config, mesh=mesh, vcd=vcd)
    if engine == "verilator":
        from .verilator import VerilatorBackend

        return VerilatorBackend(config, mesh=mesh, vcd=vcd)
    if engine == "pysim":
        from .python import PysimBackend

        return PysimBackend(config, mesh=mesh, vcd=vcd)
    raise ConfigError(f"engine must be one of {', '.join(ENGINES)}, not {engine!r}")
