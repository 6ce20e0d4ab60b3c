"""Mapping to cells, areas and equivalence, on a small design with everything an ASIC export has."""

import dataclasses
import re
from pathlib import Path

import pytest

from hyperdrive_hdl.cells.leaf import ClockGate, LatchRow, Sram
from hyperdrive_hdl.errors import ToolError, UserError
from hyperdrive_hdl.targets.asic.blocks import PAPER_MM2, block_areas
from hyperdrive_hdl.targets.asic.cells import cell_models
from hyperdrive_hdl.targets.asic.equivalence import check_equivalence, equality_lines
from hyperdrive_hdl.targets.asic.mapping import read_modules, synthesise, with_register_names
from hyperdrive_hdl.targets.asic.memories import check_macros, cover
from hyperdrive_hdl.targets.liberty import Cell, read_library, read_macros
from hyperdrive_hdl.tools import yosys

SUPPORT = Path(__file__).parents[1] / "support"
SMALL = read_library(SUPPORT / "small.lib")
PDK = Path(__file__).parents[3] / "shared" / "pdk"
SG13G2 = PDK / "sg13g2_stdcell_typ_1p20V_25C.lib"

MEMORY = Sram(64, 16, 1)
# The leaf cells, registers with an enable and with none, and an adder twice.
RTL = "".join(cell.verilog("demo") for cell in (ClockGate(), LatchRow(4), MEMORY))
RTL += """\
module demo_float_adder (input [3:0] a, input [3:0] b, output [3:0] result);
  assign result = a + b;
endmodule
module demo_tpu (input clk, input rst, input enable, input [3:0] x, output [3:0] held);
  reg [3:0] _7_ = 4'h0;
  wire [3:0] sum;
  demo_float_adder adder (.a(_7_), .b(x), .result(sum));
  always @(posedge clk) if (rst) _7_ <= 4'h0; else if (enable) _7_ <= sum;
  assign held = _7_;
endmodule
module demo_tile (input clk, input rst, input [1:0] enable, input [3:0] x, output [3:0] result);
  wire [3:0] a, b, sum;
  reg [3:0] stage = 4'h0;
  demo_tpu tpu0 (.clk(clk), .rst(rst), .enable(enable[0]), .x(x), .held(a));
  demo_tpu tpu1 (.clk(clk), .rst(rst), .enable(enable[1]), .x(x), .held(b));
  demo_float_adder adder (.a(a), .b(b), .result(sum));
  always @(posedge clk) stage <= sum;
  assign result = stage;
endmodule
module demo_weight_buffer (input clk, input scan_enable, input write, input [3:0] x, output [3:0] row);
  wire gated;
  demo_clock_gate row_gate (.clk(clk), .enable(write), .scan_enable(scan_enable), .gated(gated));
  demo_latch_row latches (.gate(gated), .write_data(x), .row(row));
endmodule
module demo_feature_memory (input clk, input write, input [5:0] address, input [3:0] x, input [3:0] result,
                            output [15:0] word);
  demo_sram_64x16 memory (.clk(clk), .enable(1'h1), .write(write), .address(address), .mask(1'h1),
                          .write_data({x, x, x, result}), .read_data(word));
endmodule
module demo (input clk, input rst, input scan_enable, input write, input [5:0] address, input [3:0] x,
             output [3:0] result, output [3:0] row, output [15:0] word);
  demo_weight_buffer weights (.clk(clk), .scan_enable(scan_enable), .write(write), .x(x), .row(row));
  demo_tile tile (.clk(clk), .rst(rst), .enable({write, x[0]}), .x(x), .result(result));
  demo_feature_memory maps (.clk(clk), .write(write), .address(address), .x(x), .result(result), .word(word));
endmodule
"""


def folder(parent: Path, name: str) -> Path:
    path = parent / name
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def netlist(tmp_path_factory):
    return synthesise(RTL, "demo", SMALL, [MEMORY], tmp_path_factory.mktemp("mapping"))


def test_everything_is_cells_of_the_library(netlist):
    modules = netlist.modules
    assert modules["demo_latch_row"].cells == {"latch": 4}
    assert modules["demo_clock_gate"].cells == {"gate_test": 1}
    assert modules["demo_clock_gate"].children == {}
    tpu = modules["demo_tpu"].cells
    assert (tpu["dff"], tpu["gate"]) == (4, 1)  # four flip-flops on one enable
    assert "gate" not in modules["demo_tile"].cells
    assert modules["demo_weight_buffer"].children == {"demo_clock_gate": 1, "demo_latch_row": 1}
    assert modules["demo_feature_memory"].children == {"demo_sram_64x16": 1}
    assert netlist.storage(SMALL) == {"flip-flops": 12, "latches": 4, "clock gates": 3}
    assert netlist.instances()["demo_float_adder"] == 3
    defined = set(re.findall(r"^module (\w+)", netlist.verilog, re.MULTILINE))
    assert defined == modules.keys()


def test_areas_by_block(netlist):
    covers = [cover(MEMORY, read_macros(SUPPORT / "small_sram.lib"), 1.0)]
    areas = block_areas(netlist, SMALL, covers)
    adder = sum(SMALL.cells[name].area * n for name, n in netlist.modules["demo_float_adder"].cells.items())
    arithmetic = areas.blocks["arithmetic"]
    assert (arithmetic["TPU adders"].area, arithmetic["TPU adders"].instances) == (2 * adder, 2)
    assert (arithmetic["epilogue adders"].area, arithmetic["epilogue adders"].instances) == (adder, 1)
    assert areas.of("registers of tiles") == 3 * 4 * 20 + 2 * 14
    assert areas.blocks["weight buffer"]["latches"].area == 4 * 12
    assert areas.blocks["weight buffer"]["clock gates"].area == 16
    assert areas.blocks["feature memory"]["SRAM"].area == 5000
    every = netlist.instances()
    cells = sum(
        every[module.name] * n * SMALL.cells[name].area
        for module in netlist.modules.values()
        for name, n in module.cells.items()
    )
    assert areas.total == cells + 5000
    assert areas.arithmetic_mge == pytest.approx(3 * adder / 4 / 1e6)
    assert PAPER_MM2["arithmetic", ""] / 0.199 == pytest.approx(1.608, abs=1e-3)


def test_the_netlist_equals_the_rtl(netlist, tmp_path):
    found = check_equivalence(RTL, netlist, SMALL, [MEMORY], tmp_path)
    assert [module.module for module in found] == list(netlist.modules)
    assert list(equality_lines(found)) == []
    assert all(module.equal and module.points for module in found)


CHANGES = [
    ("demo_float_adder", r"\bxor2 ", "nand2 "),  # another cell
    ("demo_latch_row", r"\.D\(write_data\[0\]\)", ".D(write_data[1])"),  # another net
    ("demo_clock_gate", r"\.SE\(scan_enable\)", ".SE(1'h0)"),  # the test pin
    ("demo_tpu", r"\.E\(\w+\)", ".E(1'h1)"),  # a register that is always clocked
    ("demo_tile", r"\.enable\(enable\[0\]\)", ".enable(enable[1])"),  # a port of a module
    ("demo_feature_memory", r"\.write_data\(\{ x, ", ".write_data({ result, "),  # a port of a memory
    ("demo_weight_buffer", r"\.enable\(write\)", ".enable(scan_enable)"),  # which row is written
]


def test_changes_are_found(netlist, tmp_path):
    """Each in the module that it was made in, and in no other."""
    text = netlist.verilog
    for module, old, new in CHANGES:
        start = text.index(f"module {module}(")
        end = text.index("endmodule", start)
        wrong, count = re.subn(old, new, text[start:end], count=1)
        assert count == 1
        text = text[:start] + wrong + text[end:]
    changed = dataclasses.replace(netlist, verilog=text, models=cell_models(SMALL, SMALL.cells))
    found = check_equivalence(RTL, changed, SMALL, [MEMORY], tmp_path)
    assert {entry.module for entry in found if not entry.equal} == {module for module, _, _ in CHANGES}
    assert {entry.module for entry in found if entry.equal} == {"demo"}
    lines = list(equality_lines(found))
    assert len(lines) == len(CHANGES)
    assert all(": the netlist differs from the RTL in " in line for line in lines)


def test_models_are_what_yosys_reads_from_liberty(tmp_path):
    """Every gate of the libraries at hand, the functions in both readers' words: proven equal."""
    for path in (SUPPORT / "small.lib", SG13G2):
        if not path.is_file():
            continue
        library = read_library(path)
        gates = [
            cell.name
            for cell in library.cells.values()
            if not cell.storage
            and cell.outputs
            and cell.inputs
            and all(pin.function and not pin.three_state for pin in cell.outputs)
        ]
        assert len(gates) > 8
        work = folder(tmp_path, library.name)
        (work / "cells.lib").write_text(path.read_text())
        (work / "cells.v").write_text(cell_models(library, gates))
        script = ["read_liberty -ignore_miss_func -ignore_miss_data_latch cells.lib"]
        script += [f"rename {name} liberty_{name}" for name in gates]
        script += ["read_verilog cells.v", "proc"]
        for name in gates:
            script += [f"miter -equiv -flatten liberty_{name} {name} miter_{name}"]
            script += [f"sat -verify -prove trigger 0 miter_{name}"]
        yosys("\n".join(script), cwd=work, what="comparing the readers")


def test_what_cannot_be_mapped():
    stat = '{"modules": {"\\\\a": {"num_cells_by_type": {"$_AND_": 3, "nand2": 1}}}}'
    with pytest.raises(ToolError, match=r"module a is left with \$_AND_"):
        read_modules(stat, SMALL, set())
    gate = dataclasses.replace(SMALL.cells["gate"], clock_gate=None)
    library = dataclasses.replace(SMALL, cells={"gate": gate})
    with pytest.raises(UserError, match="pin GCK has no function"):
        cell_models(library, ["gate"])


def test_names_of_registers():
    text = "module a;\n  reg [1:0] _3_;\n  wire _4_;\n  assign _4_ = _3_[0];\nendmodule\n"
    assert "reg [1:0] unnamed_3;" in with_register_names(text)
    assert "assign _4_ = unnamed_3[0];" in with_register_names(text)


def macro(name: str, depth: int, width: int, area: float) -> Cell:
    return Cell(name=name, area=area, pins={}, size=(depth, width))


def test_memories_are_covered():
    memory = Sram(1024, 112, 7)
    narrow, wide = macro("narrow", 1024, 16, 80.0), macro("wide", 512, 64, 150.0)
    assert cover(memory, [narrow], 1.0).area == 7 * 80
    found = cover(memory, [narrow, wide], 1.0)
    assert (found.macro, found.stacked, found.beside, found.area) == ("narrow", 1, 7, 560)
    found = cover(memory, [macro("wide", 512, 64, 100.0), narrow], 1.0)
    assert (found.macro, found.stacked, found.beside, found.area) == ("wide", 2, 2, 400)
    for others in ([], [macro("wider", 1024, 128, 1.0)], [macro("deep", 8192, 16, 1.0)]):
        found = cover(memory, others, 2.0)
        assert (found.macro, found.area) == (None, 2 * 1024 * 112)
    check_macros([memory], [narrow, wide])
    with pytest.raises(UserError, match="macro huge has the wrong size: 8192 words of 256 bits"):
        check_macros([memory], [narrow, macro("huge", 8192, 256, 1.0)])
