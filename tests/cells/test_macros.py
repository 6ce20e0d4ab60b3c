"""A vendor's macros in the SRAM wrappers: the same memory as the behavioural one, and what is refused."""

import re
from pathlib import Path

import pytest

from hyperdrive_hdl.cells.leaf import ClockGate, LatchRow, LatchRows, Sram, with_parts
from hyperdrive_hdl.cells.macros import Technology
from hyperdrive_hdl.errors import ConfigError
from hyperdrive_hdl.tools import yosys
from tests.support.phases import holds

SG13G2 = Path(__file__).parents[2] / "constraints/asic/sg13g2.toml"
PDK = Path("/work/shared/pdk")

MACRO = """
[macros.{name}]
depth = {depth}
width = {width}
mask = {mask}
ports = {{ clk = "CK", {ports} }}
ties = {{ TEST = "1'b0" }}
"""
POSITIVE = 'enable = "CE", write = "WE", address = "A", write_data = "D", read_data = "Q"'
NEGATIVE = 'enable = "!CE", write = "!WE", address = "A", write_data = "D", read_data = "Q"'
# Models of macros: a bit mask; a mask of two bits, everything active low; bits to spare; no mask at all.
MODELS = """
module bits (input CK, input CE, input WE, input RE, input [0:0] A, input [1:0] M, input [1:0] D,
             input TEST, output reg [1:0] Q);
  reg [1:0] mem [0:1];
  always @(posedge CK) if (CE) begin
    if (WE) mem[A] <= D & M | mem[A] & ~M;
    if (RE) Q <= TEST ? 2'd0 : mem[A];
  end
endmodule
module pairs (input CK, input CE, input WE, input [1:0] A, input [0:0] M, input [1:0] D, input TEST,
              output reg [1:0] Q);
  reg [1:0] mem [0:3];
  always @(posedge CK) if (!CE) begin
    if (!WE) begin if (!M) mem[A] <= D; end
    else Q <= mem[A];
  end
endmodule
module threes (input CK, input CE, input WE, input RE, input [1:0] A, input [2:0] M, input [2:0] D,
               input TEST, output reg [2:0] Q);
  reg [2:0] mem [0:3];
  always @(posedge CK) if (CE) begin
    if (WE) mem[A] <= D & M | mem[A] & ~M;
    if (RE) Q <= mem[A];
  end
endmodule
module words (input CK, input CE, input WE, input [0:0] A, input [1:0] D, input TEST, output reg [1:0] Q);
  reg [1:0] mem [0:1];
  always @(posedge CK) if (CE) begin
    if (WE) mem[A] <= D; else Q <= mem[A];
  end
endmodule
"""
MACROS = {
    "bits": MACRO.format(
        name="bits", depth=2, width=2, mask='"bit"', ports=POSITIVE + ', read = "RE", mask = "M"'
    ),
    "threes": MACRO.format(
        name="threes", depth=4, width=3, mask='"bit"', ports=POSITIVE + ', read = "RE", mask = "M"'
    ),
    "pairs": MACRO.format(name="pairs", depth=4, width=2, mask=2, ports=NEGATIVE + ', mask = "!M"'),
    "words": MACRO.format(name="words", depth=2, width=2, mask='"word"', ports=POSITIVE),
}

EQUAL = """\
module top(input enable, input write, input [1:0] address, input [1:0] mask, input [3:0] write_data);
  (* gclk *) reg step;
  reg [1:0] phase = 2;
  always @(posedge step) phase <= phase + 1;
  wire clk = !phase[1];
  wire [3:0] one, other;
  macros_sram_4x4 dut (.clk(clk), .enable(enable), .write(write), .address(address), .mask(mask),
                       .write_data(write_data), .read_data(one));
  array_sram_4x4 golden (.clk(clk), .enable(enable), .write(write), .address(address), .mask(mask),
                         .write_data(write_data), .read_data(other));
  reg [3:0] low = 0, high = 0;  // words, halves of which were written
  reg known = 0;
  always @(posedge clk) if (enable) begin
    if (write) begin
      if (mask[0]) low[address] <= 1;
      if (mask[1]) high[address] <= 1;
    end
    known <= !write;  // a word that was read, until the next write
  end
  always @* begin
    if (phase == 3) assume(!enable || write || low[address] && high[address]);
    if (known) assert(one == other);
  end
endmodule
"""


def technology(folder: Path, *tables: str) -> Technology:
    path = folder / "cells.toml"
    path.write_text("\n".join(tables))
    return Technology.from_toml(path)


def equal(folder: Path, macro: str, *change: str, steps: int | None = None) -> bool:
    """A wrapper of 4 words of two pairs, of two or four macros, is as the behavioural one."""
    sram = Sram(4, 4, 2)
    text = sram.verilog("macros", technology(folder, MACROS[macro]))
    assert text.count(f"  {macro} macro") == (2 if macro in ("pairs", "threes") else 4)
    if change:
        assert change[0] in text
        text = text.replace(change[0], change[1], 1)
    return holds(EQUAL, {"cells.v": MODELS + text + sram.verilog("array")}, folder, steps=steps)


@pytest.mark.parametrize("macro", MACROS)
def test_macros_are_as_the_array(macro, tmp_path):
    assert equal(tmp_path, macro)


@pytest.mark.parametrize(
    ("macro", "old", "new"),
    [
        ("bits", "mask[0]", "mask[1]"),
        ("bits", "address[1:1] == 0", "address[1:1] == 1"),
        ("bits", "from == 0", "from == 1"),
        ("threes", "2'd0, write_data[3:3]", "write_data[3:3], 2'd0"),
        ("threes", "word0[3:0]", "word0[4:1]"),
        ("pairs", "~write", "write"),
        ("pairs", "write_data[3:2]", "write_data[1:0]"),
        ("words", "(~write | mask[0])", "1'b1"),
    ],
)
def test_macros_in_the_wrong_place_are_noticed(macro, old, new, tmp_path):
    assert not equal(tmp_path, macro, old, new, steps=24)


SRAMS = [Sram(1024, 112, 7), Sram(512, 112, 7), Sram(1024, 16, 1), Sram(256, 32, 2), Sram(32, 16, 1)]


def test_sg13g2_makes_the_presets_memories():
    """Of the macros that fit, those with the fewest bits."""
    found = Technology.from_toml(SG13G2)
    found.check(SRAMS)
    made = {sram.name: (found.macro(sram).vendor.cell, found.macro(sram).layout(sram)) for sram in SRAMS}
    sixteen = "RM_IHPSG13_1P_{}x16_c2_bm_bist"
    assert made == {
        "sram_1024x112": (sixteen.format(1024), (1, 7)),
        "sram_512x112": (sixteen.format(256), (2, 7)),
        "sram_1024x16": (sixteen.format(1024), (1, 1)),
        "sram_256x32": (sixteen.format(256), (1, 2)),
        "sram_32x16": (sixteen.format(256), (1, 1)),
    }
    assert found.macro(Sram(1024, 64, 4)).vendor.cell == "RM_IHPSG13_1P_1024x64_c2_bm_bist"


@pytest.mark.skipif(not PDK.is_dir(), reason="no Liberty files at hand")
def test_pins_of_sg13g2_are_those_of_its_liberty_files():
    """Names, directions and widths; every input is driven. Else a netlist would not link."""
    found = Technology.from_toml(SG13G2)
    cells = {"sg13g2_slgcp_1": found.clock_gate, "sg13g2_dlhq_1": found.latch}
    standard = (PDK / "sg13g2_stdcell_typ_1p20V_25C.lib").read_text()
    flags = re.MULTILINE | re.DOTALL
    for name, cell in cells.items():
        text = standard[standard.index(f"cell ({name})") :].split("\n  cell (")[0]
        pins = set(
            re.findall(r'^    pin \((\w+)\) \{(?:(?!^    \}).)*?direction : "(?:in|out)put"', text, flags)
        )
        assert pins == {*cell.ports.values()}
    for name, macro in found.macros.items():
        text = (PDK / f"{name}_typ_1p20V_25C.lib").read_text()
        words, width = re.search(r"address_width : (\d+);\s*word_width : (\d+)", text).groups()
        assert (1 << int(words), int(width)) == (macro.depth, macro.width)
        pins = set(re.findall(r"^\s*(?:pin|bus) ?\((\w+)\)", text, re.MULTILINE))
        assert pins == {*macro.vendor.ports.values(), *macro.vendor.ties}
        assert macro.granularity == (1 if "A_BM" in pins else macro.width)


def test_latches_and_gates_of_sg13g2(tmp_path):
    """Yosys links them: every pin is there, and nothing is left of the behavioural bodies."""
    found = Technology.from_toml(SG13G2)
    text = "".join(cell.verilog("chip", found) for cell in with_parts([LatchRows(4, 2)]))
    (tmp_path / "cells.v").write_text(text)
    (tmp_path / "library.v").write_text(
        "module sg13g2_slgcp_1 (input CLK, input GATE, input SCE, output GCLK); endmodule\n"
        "module sg13g2_dlhq_1 (input D, input GATE, output Q); endmodule\n"
    )
    yosys(
        "read_verilog -lib library.v\nread_verilog cells.v\n"
        "hierarchy -check -top chip_latch_rows\nproc\nflatten\n"
        "select -assert-count 8 t:sg13g2_dlhq_1\nselect -assert-count 4 t:sg13g2_slgcp_1\n"
        "select -assert-none t:$dlatch\n",
        cwd=tmp_path,
        what="test",
    )
    assert "always @*" not in ClockGate().verilog("chip", found) + LatchRow(2).verilog("chip", found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("depth = 2", "depth = 3"), "macros.bits.depth must be a power of two, not 3"),
        (("depth = 2", 'depth = "2"'), "macros.bits.depth must be an integer"),
        (("depth = 2\n", ""), "macros.bits.depth must be an integer"),
        (('mask = "bit"', "mask = 3"), "macros.bits.mask must be"),
        ((', mask = "M"', ""), "macros.bits.ports: missing mask"),
        (('enable = "CE", ', ""), "macros.bits.ports: missing enable"),
        (('read = "RE"', 'reads = "RE"'), "macros.bits.ports: unknown key reads; known are clk,"),
        (('write_data = "D"', 'write_data = "!D"'), "macros.bits.ports.write_data"),
        (("TEST = \"1'b0\"", "TEST = 0"), "macros.bits.ties.TEST must be a constant"),
        (("TEST", "CE"), "'CE' is no port that is left to tie"),
        (("[macros.bits]", "[macro.bits]"), "the file: unknown key macro; known are clock_gate"),
        (("[macros.bits]", '[clock_gate]\ncell = "g"\n[macros.bits]'), "clock_gate.ports: missing clk"),
        (("[macros.bits]", '[latch]\nports = {}\n[macros.bits]'), "latch: missing cell"),
        (("[macros.bits]", '[sram]\nsram_4x4 = "bit"\n[macros.bits]'), "must name one of macros (bits), not"),
        (("depth = 2", "depth = "), "not valid TOML"),
    ],
)  # fmt: skip
def test_what_a_file_must_not_say(change, message, tmp_path):
    assert MACROS["bits"].count(change[0]) == 1
    with pytest.raises(ConfigError) as caught:
        technology(tmp_path, MACROS["bits"].replace(*change))
    assert message in str(caught.value)
    assert str(tmp_path / "cells.toml") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("macro", "sram", "chosen", "message"),
    [
        (
            "bits",
            Sram(4, 6, 2),
            'sram_8x4 = "bits"',
            "sram.sram_8x4: the chip has no such wrapper; it has sram_4x6",
        ),
        (
            "wide",
            Sram(4, 2, 2),
            'sram_4x2 = "wide"',
            "wide cannot make 4 words of 2 bits: its words of 4 bits are wider than the wrapper's 2",
        ),
        (
            "wide",
            Sram(4, 2, 2),
            "",
            "no macro for sram_4x2 (4 words of 2 bits, written 1 bits at a time): wide: its words of 4 bits",
        ),
        (
            "words",
            Sram(4, 6, 2),
            'sram_4x6 = "words"',
            "its write mask covers 2 bits at a time, which does not divide the 3 bits",
        ),
    ],
)
def test_macros_of_the_wrong_size(macro, sram, chosen, message, tmp_path):
    tables = {**MACROS, "wide": MACROS["bits"].replace("bits", "wide").replace("width = 2", "width = 4")}
    found = technology(tmp_path, tables[macro], "[sram]", chosen)
    with pytest.raises(ConfigError) as caught:
        found.check([sram])
    assert message in str(caught.value)
    assert str(tmp_path / "cells.toml") in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.toml: cannot be read: No such file"):
        Technology.from_toml(tmp_path / "nowhere.toml")
