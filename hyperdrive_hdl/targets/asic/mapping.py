"""Synthesis of an exported chip to a library's cells by Yosys and ABC: each module once, hierarchy kept.

Registers that share an enable get a clock gate, latches and the chip's own clock gates the library's cells;
memories stay black boxes. Gates are mapped for area (``AREA``). Nothing is buffered or sized: that is for
place and route, which knows the wires.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from ...cells.leaf import SCAN_ENABLE, ClockGate, Sram
from ...cells.macros import VendorCell
from ...errors import ToolError
from ...tools import yosys
from ..liberty import Library
from .cells import cell_models

Progress = Callable[[str], AbstractContextManager]

# ABC: equivalent nodes merged, rewriting, structural choices; then ``amap`` maps for area. For the FP16 adder
# it gives 14 % less than ``map -a``; more rewriting (compress2rs) or ``&deepsyn`` before it gave more area.
AREA = """\
strash
&get -n
&fraig -x
&put
scorr
dc2
strash
ifraig
dch -f
amap -m
topo
"""

# Flip-flops on one enable that are worth a clock gate.
GATED_FLIPFLOPS = 4

# Registers have no value before reset in an ASIC: initial values go. What does not matter is zero, here and
# where the netlist is compared, so that both mean the same function. Enables are found before multiplexers
# are merged.
READ_RTL = """\
hierarchy -check -top {top}
{blackbox}
proc
setattr -unset init w:*
memory_collect
memory_map
setundef -undriven -zero
opt_expr
opt_dff
opt -full
alumacc
opt
techmap
opt
"""
# Few libraries have flip-flops with a synchronous reset: it becomes part of the data and, where there is an
# enable, of that; ``dfflegalize`` would give up the enable, and with it the clock gate.
_RESET = """\
(* techmap_celltype = "$_{kind}_P{reset}{value}{enable}_" *)
module {kind}_{reset}{value}{enable} (input C, input R, input E, input D, output Q);
  wire r = {r}R;
  \\$_DFFE_PP_ ff (.C(C), .E({e}E{or_r}), .D({d}), .Q(Q));
endmodule
"""
_MAP = """\
read_liberty -lib -ignore_miss_func cells.lib
read_verilog rtl.v
{read}
techmap -map resets.v
simplemap
opt_expr
opt_merge
opt_clean
dfflegalize -cell $_DFF_?_ 01 -cell $_DFF_???_ 01 -cell $_DFFE_?P_ 01 -cell $_DLATCH_?_ 01
clockgate -pos {gate} -min_net_size {gated}
dfflegalize -cell $_DFF_?_ 01 -cell $_DFF_???_ 01 -cell $_DLATCH_?_ 01
dfflibmap -liberty cells.lib
opt_expr
opt_merge
opt_clean
abc -liberty cells.lib -script area.abc
opt_clean
{ties}
check -mapped
tee -q -o stat.json stat -json -liberty cells.lib
write_verilog -noattr netlist.v
splitnets -ports
write_verilog -noattr -noexpr -simple-lhs -nohex sta.v
"""


@dataclass(frozen=True, kw_only=True)
class Module:
    """A mapped module: how many of which library cells and of which other modules it has; pieces of logic
    by itself. ``mapped`` is False for a memory."""

    name: str
    cells: dict[str, int]
    children: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Netlist:
    """A mapped design: Verilog with the ports of the RTL, and with single bits for static timing."""

    top: str
    verilog: str = field(repr=False)
    timing_verilog: str = field(repr=False)
    models: str = field(repr=False)
    log: str = field(repr=False)
    modules: dict[str, Module] = field(repr=False)

    def instances(self) -> dict[str, int]:
        """How often each module, or memory, is there in the whole design."""
        counts = {self.top: 1}
        for name in self._parents_first():
            for child, number in self.modules[name].children.items() if name in self.modules else ():
                counts[child] = counts.get(child, 0) + number * counts[name]
        return counts

    def storage(self, library: Library) -> dict[str, int]:
        """Flip-flops, latches and clock gates in the whole design."""
        kinds = {"ff": "flip-flops", "latch": "latches", "clock gate": "clock gates"}
        counts = dict.fromkeys(kinds.values(), 0)
        instances = self.instances()
        for module in self.modules.values():
            for name, number in module.cells.items():
                if kind := library.cells[name].storage:
                    counts[kinds[kind]] += number * instances[module.name]
        return counts

    def _parents_first(self) -> list[str]:
        order: list[str] = []

        def visit(name: str) -> None:
            if name not in order:
                for child in self.modules[name].children if name in self.modules else ():
                    visit(child)
                order.append(name)

        visit(self.top)
        return order[::-1]


def synthesise(rtl: str, top: str, library: Library, memories: Sequence[Sram], work: Path) -> Netlist:
    """Map Verilog.

    Parameters
    ----------
    rtl : every module of the design
    memories : wrappers, which stay black boxes
    work : an empty folder for the tools

    Raises
    ------
    ToolError : Yosys fails, or leaves something that is no cell of the library
    UserError : the library does not say what a cell does
    """
    shutil.copyfile(library.path, work / "cells.lib")
    (work / "rtl.v").write_text(with_clock_gates(with_register_names(rtl), top, library), encoding="utf-8")
    (work / "area.abc").write_text(AREA)
    (work / "resets.v").write_text(_resets())
    script = _MAP.format(
        read=read_rtl(top, memories),
        gate=_gate_ports(library),
        gated=GATED_FLIPFLOPS,
        ties=_ties(library),
    )
    log = yosys(script, cwd=work, what="mapping to cells")
    boxes = {f"{top}_{sram.name}" for sram in memories}
    modules = read_modules((work / "stat.json").read_text(), library, boxes)
    used = {name for module in modules.values() for name in module.cells}
    timing = re.sub(r"\bwire signed\b", "wire", (work / "sta.v").read_text())
    return Netlist(
        top=top,
        verilog=_without_banner((work / "netlist.v").read_text()),
        timing_verilog=_without_banner(timing),
        models=cell_models(library, used),
        log=log,
        modules=modules,
    )


def read_rtl(top: str, memories: Sequence[Sram]) -> str:
    """Yosys commands from Verilog that has been read to Yosys' own gates and registers."""
    names = " ".join(f"{top}_{sram.name}" for sram in memories)
    return READ_RTL.format(top=top, blackbox=f"blackbox {names}" if names else "")


def _resets() -> str:
    """Verilog for Yosys' techmap of flip-flops with a synchronous reset and an enable."""
    return "".join(
        _RESET.format(
            kind=kind,
            reset=reset,
            value=value,
            enable=enable,
            r="!" if reset == "N" else "",
            e="!" if enable == "N" else "",
            or_r=" || r" if kind == "SDFFE" else "",  # otherwise the enable goes first
            d="D || r" if value else "D && !r",
        )
        for kind in ("SDFFE", "SDFFCE")
        for reset in "NP"
        for value in (0, 1)
        for enable in "NP"
    )


def with_register_names(rtl: str) -> str:
    """Registers without a name of their own, ``_12_``, as ``unnamed_12``: Yosys drops names of that form, and
    by its name a register is found again in the netlist."""

    def rename(module: re.Match) -> str:
        names = set(re.findall(r"^  reg (?:\[\d+:\d+\] )?_(\d+)_\b", module[0], re.MULTILINE))
        return re.sub(r"\b_(\d+)_\b", lambda m: f"unnamed_{m[1]}" if m[1] in names else m[0], module[0])

    return re.sub(r"^module .*?^endmodule\n", rename, rtl, flags=re.MULTILINE | re.DOTALL)


def with_clock_gates(rtl: str, top: str, library: Library) -> str:
    """The design's own clock gates made of the library's."""
    cell = library.clock_gate_with_test
    roles = {"clk": "clock", "enable": "enable", SCAN_ENABLE: "test", "gated": "out"}
    ports = {ours: pin for ours, role in roles.items() if (pin := cell.pin_of(role))}
    wires = {ours: ours for ours in ports}
    if SCAN_ENABLE not in ports:
        wires["enable"] = f"enable | {SCAN_ENABLE}"
    body = VendorCell(cell.name, ports).instance("cell", wires)
    module = rf"(^module {top}_{ClockGate().name}\b.*?\);\n).*?(?=^endmodule$)"
    return re.sub(module, lambda found: found[1] + body, rtl, flags=re.MULTILINE | re.DOTALL)


def _gate_ports(library: Library) -> str:
    """The library's clock gate for Yosys' pass of that name."""
    cell = library.clock_gate
    test = cell.pin_of("test")
    ports = ":".join(str(cell.pin_of(role)) for role in ("enable", "clock", "out"))
    return f"{cell.name} {ports}" + (f" -tie_lo {test}" if test else "")


def _ties(library: Library) -> str:
    """Constants from the library's tie cells, where it has them."""
    options = ""
    for value, option in ((1, "-hicell"), (0, "-locell")):
        cell = library.tie(value)
        if cell:
            options += f" {option} {cell.name} {cell.outputs[0].name}"
    return f"hilomap -singleton{options}" if options else ""


def _without_banner(text: str) -> str:
    return re.sub(r"\A/\* Generated by Yosys.*?\*/\n", "", text, flags=re.DOTALL)


def read_modules(stat_json: str, library: Library, memories: set[str]) -> dict[str, Module]:
    """Modules of Yosys' ``stat -json``.

    Raises
    ------
    ToolError : a cell that is neither the library's nor a module
    """
    found = json.loads(stat_json[stat_json.index("{") :])["modules"]
    stats = {name.removeprefix("\\"): stat for name, stat in found.items()}
    modules = {}
    for name, stat in stats.items():
        counts = dict(_types(stat))
        cells = {cell: count for cell, count in counts.items() if cell in library.cells}
        children = {cell: count for cell, count in counts.items() if cell not in library.cells}
        strange = sorted(children.keys() - stats.keys() - memories)
        if strange:
            raise ToolError(
                f"mapping to cells: module {name} is left with {', '.join(strange)}, which {library.path} "
                f"does not have; give a library with more kinds of cells"
            )
        modules[name] = Module(name=name, cells=cells, children=children)
    return modules


def _types(stat: dict) -> Iterator[tuple[str, int]]:
    for key in ("num_cells_by_type", "num_submodules_by_type"):
        for name, count in stat.get(key, {}).items():
            yield name.removeprefix("\\"), int(count)
