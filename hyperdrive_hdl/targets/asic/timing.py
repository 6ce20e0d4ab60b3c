"""The longest path of a mapped chip: by OpenSTA where it is on PATH, else by ABC, of a tile alone."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ...errors import ToolError
from ...tools import run, yosys
from ..liberty import Library
from .blocks import module_class
from .mapping import Netlist

OPENSTA = "OpenSTA, the whole chip, memories as black boxes, no wires, nothing buffered"
ABC = "ABC stime, the gates between a tile's registers, no wires, nothing buffered"

_STA = """\
read_liberty cells.lib
read_verilog sta.v
link_design {top}
create_clock -name clk -period {period} [get_ports clk]
report_checks -path_delay max -digits 4
puts "hyperdrive worst slack [worst_slack -max]"
exit
"""
_PERIOD = 1000.0  # ns; the path is what is left of it
# The tile's gates between ports: storage cells become ports too.
_FLAT = """\
read_liberty -lib -ignore_miss_func cells.lib
read_verilog sta.v
hierarchy -top {tile}
flatten -noscopeinfo
opt_clean
expose -evert {storage}
opt_clean
write_verilog -noattr -noexpr -simple-lhs -nohex tile.v
"""
_STIME = """\
write_blif carrier.blif
read_lib -w cells.lib
read_verilog -m tile.v
topo
stime -d
read_blif carrier.blif
"""
_CARRIER = "module carrier (input a, output y);\n  assign y = !a;\nendmodule\n"
_ABC = "read_verilog carrier.v; simplemap; abc -g AND -script abc.script carrier"


@dataclass(frozen=True)
class Timing:
    """The longest path in ns, who measured it and what of; ``log`` is the tool's."""

    longest_path_ns: float
    timer: str
    log: str = ""


def longest_path(netlist: Netlist, library: Library, work: Path) -> Timing:
    """Measure the longest path.

    Raises
    ------
    ToolError : a tool fails, or says nothing
    """
    shutil.copyfile(library.path, work / "cells.lib")
    (work / "sta.v").write_text(netlist.timing_verilog, encoding="utf-8")
    if shutil.which("sta"):
        (work / "sta.tcl").write_text(_STA.format(top=netlist.top, period=_PERIOD))
        log = run(["sta", "-no_splash", "-exit", "sta.tcl"], cwd=work, what="static timing")
        slack = re.search(r"hyperdrive worst slack (-?[\d.]+)", log)
        if not slack:
            raise ToolError(f"static timing: OpenSTA reports no path:\n{log[-1000:]}")
        return Timing(round(_PERIOD - float(slack[1]), 3), OPENSTA, log)
    tile = next(name for name in netlist.modules if module_class(name, netlist.top) == "tile")
    used = {cell for module in netlist.modules.values() for cell in module.cells}
    storage = sorted(cell for cell in used if library.cells[cell].storage)
    selection = " ".join(f"t:{cell}" for cell in storage) + " %u" * (len(storage) - 1)
    yosys(_FLAT.format(tile=tile, storage=selection), cwd=work, what="a tile for timing")
    (work / "abc.script").write_text(_STIME)
    (work / "carrier.v").write_text(_CARRIER)
    yosys(
        "read_verilog carrier.v; simplemap; abc -g AND -script abc.script carrier",
        cwd=work,
        what="ABC's timing",
    )
    # ABC's dump: name, inputs, outputs, gates, area, delay in ps.
    found = work / "stats.txt"
    words = found.read_text().split() if found.is_file() else []
    if len(words) < 6 or not words[5].isdecimal():
        raise ToolError("ABC's timing: it reports no delay; its Liberty reader may lack timing of some cells")
    return Timing(int(words[5]) / 1000, ABC)
