"""The simulators by name."""

from pathlib import Path

from ..config import ChipConfig
from ..errors import ConfigError
from .backend import Backend

ENGINES = ("cxxrtl", "verilator", "pysim")


def make_backend(engine: str, config: ChipConfig, *, vcd: Path | None = None) -> Backend:
    """The simulator of that name for a chip; compiled ones are built here, or taken from the cache.

    Raises
    ------
    ConfigError : there is no engine of that name
    ToolError : it cannot be built on this machine
    """
    # Imported on use: the Python simulator needs no Yosys, the compiled one no Amaranth simulator.
    if engine == "cxxrtl":
        from .cxxrtl import CxxrtlBackend

        return CxxrtlBackend(config, vcd=vcd)
    if engine == "verilator":
        from .verilator import VerilatorBackend

        return VerilatorBackend(config, vcd=vcd)
    if engine == "pysim":
        from .python import PysimBackend

        return PysimBackend(config, vcd=vcd)
    raise ConfigError(f"engine must be one of {', '.join(ENGINES)}, not {engine!r}")
