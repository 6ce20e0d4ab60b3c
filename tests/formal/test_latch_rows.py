"""The Verilog of an ASIC's cells against what it stands for, step by step of the clock.

That the latches hold the rows of the registers they replace, whatever is written and read; that enables may
do what they like until clk rises; that gated pulses are whole. What simulators show of this depends on how
they order events at an edge, and on which glitches a design happens to have.
"""

import pytest
from amaranth.back import rtlil

from hyperdrive_hdl.cells.leaf import ClockGate, LatchRows, with_parts
from hyperdrive_hdl.rtl.weight_buffer import WeightRows
from tests.support.phases import holds

# Inputs are what the registers before them give, with whatever happens on the way: they count in the last
# step before clk rises. A read of a row that is being written, or was never, is not to be used.
ROWS = """\
module top(
  input write, input [{high}:0] write_row, input [{lane}:0] write_data, input read, input [{high}:0] read_row
);
  (* gclk *) reg step;
  reg [1:0] phase = 2;
  always @(posedge step) phase <= phase + 1;
  wire clk = !phase[1];

  wire [{lane}:0] latches, registers;
  chip_latch_rows dut (
    .clk(clk), .scan_enable(1'b0), .write(write), .write_row(write_row), .write_data(write_data),
    .read(read), .read_row(read_row), .read_data(latches)
  );
  weight_rows golden (
    .clk(clk), .rst(1'b0), .write(write), .write_row(write_row), .write_data(write_data),
    .read(read), .read_row(read_row), .read_data(registers)
  );
  reg [{depth}-1:0] written = 0;
  reg known = 0;
  always @(posedge clk) begin
    if (write) written[write_row] <= 1;
    if (read) known <= 1;
  end
  always @* begin
    if (phase == 3) begin
      assume(write_row < {depth} && read_row < {depth});
      assume(!read || written[read_row] && !(write && write_row == read_row));
    end
    if (known) assert(latches == registers);
  end
endmodule
"""

# Pulses are those of clk before which enable was high, and never anything else.
GATE = """\
module top(input enable, input scan_enable);
  (* gclk *) reg step;
  reg [1:0] phase = 2;
  always @(posedge step) phase <= phase + 1;
  wire clk = !phase[1];
  wire gated;
  chip_clock_gate dut (.clk(clk), .enable(enable), .scan_enable(scan_enable), .gated(gated));
  reg open = 0;
  always @(posedge clk) open <= enable | scan_enable;
  always @* assert(gated == (clk & open));
endmodule
"""


def rows_equal(tmp_path, depth: int, lanes: int, *change: tuple[str, str], steps: int | None = None) -> bool:
    """The latches are as the registers, with pieces of their Verilog replaced."""
    cells = "".join(cell.verilog("chip") for cell in with_parts([LatchRows(depth, lanes)]))
    for old, new in change:
        assert cells.count(old) == 1, old
        cells = cells.replace(old, new)
    golden = rtlil.convert(WeightRows(depth=depth, lanes=lanes), name="weight_rows", emit_src=False)
    top = ROWS.format(depth=depth, high=max(1, (depth - 1).bit_length()) - 1, lane=lanes - 1)
    return holds(top, {"golden.il": golden, "cells.v": cells}, tmp_path, steps=steps)


@pytest.mark.parametrize(("depth", "lanes"), [(4, 2), (3, 1), (2, 3)])
def test_latches_are_as_registers(depth, lanes, tmp_path):
    assert rows_equal(tmp_path, depth, lanes)


def test_blocks_of_latches_are_as_registers(tmp_path, monkeypatch):
    """Two whole blocks, one that is not, and the multiplexer between them; of two rows instead of 64."""
    monkeypatch.setattr("hyperdrive_hdl.cells.leaf.BLOCK_ROWS", 2)
    assert rows_equal(tmp_path, 5, 1)


@pytest.mark.parametrize(
    "change",
    [
        ("if (!clk) open = enable | scan_enable", "open = enable | scan_enable"),  # enables glitch through
        ("if (!clk) open", "if (clk) open"),
        (".write_data(data)", ".write_data(write_data)"),  # the data may change while the row is open
        ("if (write) data <= write_data", "if (!write) data <= write_data"),
        ("if (gate) stored", "if (!gate) stored"),
        ("write & (write_row == r)", "write"),
        ("if (read) read_word", "if (read | write) read_word"),
        ("read_row[1] ? rows[7:4] : rows[3:0]", "read_row[1] ? rows[3:0] : rows[7:4]"),
        (".gate(gate), .write_data", ".gate(gate & !clk), .write_data"),
        # A row that opens a cycle later meets the next row's data.
        (
            ".write(write), .write_row(write_row[1:0])",
            ".write(late), .write_row(row)",
        ),
    ],
)
def test_cells_that_lose_rows_are_noticed(change, tmp_path):
    changes = [change]
    if "late" in change[1]:
        registers = (
            "reg late; reg [1:0] row; always @(posedge clk) begin late <= write; row <= write_row; end"
        )
        changes.append(("  wire [1:0] blocks;", f"  {registers}\n  wire [1:0] blocks;"))
    assert not rows_equal(tmp_path, 4, 2, *changes, steps=24)


def test_gated_pulses_are_whole(tmp_path):
    assert holds(GATE, {"cells.v": ClockGate().verilog("chip")}, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        ("if (!clk) open", "open"),
        ("clk & open", "open"),
        ("enable | scan_enable", "enable"),
        ("clk & open", "clk & open & enable"),
    ],
)
def test_a_gate_that_cuts_pulses_is_noticed(change, tmp_path):
    cell = ClockGate().verilog("chip")
    assert cell.count(change[0]) == 1
    assert not holds(GATE, {"cells.v": cell.replace(*change)}, tmp_path, steps=16)
