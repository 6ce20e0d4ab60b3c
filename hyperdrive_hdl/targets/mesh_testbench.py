"""The text of a mesh's testbench: clocks, one player per chip, and the verdict.

A player is a module that feeds one chip, compares what comes out and watches the chip's status, all on that
chip's clock. The testbench passes when all players are done.
"""

from typing import NamedTuple

import numpy as np

from ..cells.leaf import SCAN_ENABLE
from ..config import ChipConfig, MeshConfig
from ..isa import ErrorCode, LinkFault, Side
from .mesh import chip_name, mesh_ports, own_clocks
from .ports import connections

PERIOD_PS = 10_000
# Chips with clocks of their own: no two neighbours have the same period, and no two chips the same phase.
PERIOD_STEP_PS = 20
PHASE_STEP_PS = 1_370


class Counts(NamedTuple):
    """Words of one chip's files."""

    fm_in: int
    expected: int


def mesh_testbench_text(
    chip: ChipConfig,
    mesh: MeshConfig,
    module: str,
    mesh_module: str,
    program_words: int,
    counts: dict[tuple[int, ...], Counts],
    *,
    halts: int,
    patience: int,
    tasks: str,
    cells: str,
) -> str:
    """Two modules: ``module`` and the player, which has the ``tasks`` of ``places_text``."""
    player = f"{module}_player"
    places = list(np.ndindex(mesh.rows, mesh.cols))
    prefixes = [f"{chip_name(*at)}__" for at in places] if own_clocks(chip) else [""]
    ports = mesh_ports(chip, mesh, cells)
    given = ("clk", "rst", SCAN_ENABLE)
    used = [port for port in ports if port.name.rpartition("__")[2] not in given]
    pins = {port.name: "1'b0" if port.name == SCAN_ENABLE else port.name for port in ports}
    wires = "".join(f"  wire {port.bits}{port.name};\n" for port in used)
    clocks = "".join(_clock(chip, mesh, index, prefix) for index, prefix in enumerate(prefixes))
    players = "".join(
        _player(chip, player, index, at, counts[at], prefixes[index % len(prefixes)])
        for index, at in enumerate(places)
    )
    return f"""\
// {module}: runs a program on the {mesh} chips of
// {mesh_module} and compares every word of every fm_out with the reference.
// Prints PASS and the number of words, or FAIL, the chip (row, column) and its first difference.
// Start it where its .hex files are:
//   $ iverilog -g2001 -o testbench {module}.v -f hyperdrive.f
//   $ ./testbench
//   $ verilator --binary --timing -CFLAGS -std=c++20 -Wno-fatal --top-module {module} \\
//       hyperdrive.vlt {module}.v -f hyperdrive.f
//   $ obj_dir/V{module}

`timescale 1ns / 1ps

module {module};
  localparam CHIPS = {mesh.chips};
  localparam PROGRAM_WORDS = {program_words};
  localparam PATIENCE = {patience};  // cycles in which no chip moves a word or ends a sum

  reg [{chip.program_width - 1}:0] program_words [0:PROGRAM_WORDS - 1];  // each chip reads them by itself
  initial $readmemh("program.hex", program_words);

{clocks}
{wires}
  wire [31:0] checked [0:CHIPS - 1];  // words that were compared
  wire [31:0] steps [0:CHIPS - 1];  // grows while a chip does something
  wire [CHIPS - 1:0] done;
  integer at, words = 0, cycles = 0, quiet = 0;
  reg [31:0] sum, last_sum = 0;

  {mesh_module} dut (
{connections(ports, pins)}
  );
{players}
  always @(posedge {prefixes[0]}clk) begin
    cycles <= cycles + 1;
    words = 0;
    sum = 0;
    for (at = 0; at < CHIPS; at = at + 1) begin
      words = words + checked[at];
      sum = sum + steps[at];
    end
    last_sum <= sum;
    quiet <= sum == last_sum ? quiet + 1 : 0;
    if (&done) begin
      $display("PASS: %0d words equal on %0d chips, %0d cycles", words, CHIPS, cycles);
      $finish;
    end else if (quiet > PATIENCE) begin
      $display("FAIL: no progress after %0d words, in cycle %0d", words, cycles);
      $finish;
    end
  end
endmodule

{_player_module(chip, player, program_words, halts, tasks)}"""


def _clock(chip: ChipConfig, mesh: MeshConfig, index: int, prefix: str) -> str:
    """One clock and its reset."""
    row, col = divmod(index, mesh.cols)
    period, phase = PERIOD_PS, 0
    if own_clocks(chip):
        period += PERIOD_STEP_PS * ((row + 2 * col) % 3)
        phase = PHASE_STEP_PS * index % PERIOD_PS
    return f"""\
  reg {prefix}clk = 0;
  reg [3:0] {prefix}reset = 4'hf;  // for four cycles
  wire {prefix}rst = {prefix}reset[3];
  initial begin
    #{phase / 1000:.2f};
    forever #{period / 2000:.2f} {prefix}clk = ~{prefix}clk;
  end
  always @(posedge {prefix}clk) {prefix}reset <= {prefix}reset << 1;
"""


def _player(
    chip: ChipConfig, module: str, index: int, at: tuple[int, ...], counts: Counts, clock_prefix: str
) -> str:
    row, col = at
    name = chip_name(row, col)
    return f"""
  wire [31:0] {name}__program_at;
  {module} #(
    .ROW({row}), .COL({col}), .FM_IN_WORDS({counts.fm_in}), .EXPECTED_WORDS({counts.expected}),
    .FM_IN_FILE("fm_in_{row}_{col}.hex"), .EXPECTED_FILE("expected_{row}_{col}.hex")
  ) player{row}_{col} (
    .clk({clock_prefix}clk), .rst({clock_prefix}rst),
    .program_at({name}__program_at), .program_word(program_words[{name}__program_at]),
    .program_valid({name}__program__valid), .program_ready({name}__program__ready),
    .program_payload({name}__program__payload),
    .fm_in_valid({name}__fm_in__valid), .fm_in_ready({name}__fm_in__ready),
    .fm_in_payload({name}__fm_in__payload),
    .fm_out_valid({name}__fm_out__valid), .fm_out_ready({name}__fm_out__ready),
    .fm_out_payload({name}__fm_out__payload),
    .error({name}__status__error), .side({name}__status__side), .fault({name}__status__fault),
    .halted({name}__status__halted), .mac({name}__activity__mac), .epilogue({name}__activity__epilogue),
    .checked(checked[{index}]), .steps(steps[{index}]), .done(done[{index}])
  );
"""


def _names(kind: type[Side] | type[LinkFault], value: str) -> str:
    """A Verilog expression for the name of an enum's value."""
    *most, last = kind
    choices = "".join(f'{value} == {member.value} ? "{member.name.lower()}" : ' for member in most)
    return f'{choices}"{last.name.lower()}"'


def _player_module(chip: ChipConfig, module: str, program_words: int, halts: int, tasks: str) -> str:
    program, word = f"[{chip.program_width - 1}:0]", f"[{chip.word_width - 1}:0]"
    return f"""\
// Feeds one chip and compares what it gives.
module {module} #(
  parameter ROW = 0, parameter COL = 0,
  parameter FM_IN_WORDS = 0, parameter EXPECTED_WORDS = 0,  // 0 where the chip has no pixel
  parameter FM_IN_FILE = "", parameter EXPECTED_FILE = ""
) (
  input clk, input rst,
  output reg [31:0] program_at, input {program} program_word,
  output program_valid, input program_ready, output {program} program_payload,
  output fm_in_valid, input fm_in_ready, output {word} fm_in_payload,
  input fm_out_valid, output fm_out_ready, input {word} fm_out_payload,
  input [2:0] error, input [1:0] side, input [2:0] fault,
  input halted, input mac, input epilogue,
  output reg [31:0] checked, output reg [31:0] steps, output reg done
);
  localparam PROGRAM_WORDS = {program_words};
  localparam HALTS = {halts};  // programs in the stream

  reg {word} fm_in_words [0:(FM_IN_WORDS > 0 ? FM_IN_WORDS - 1 : 0)];
  reg {word} expected_words [0:(EXPECTED_WORDS > 0 ? EXPECTED_WORDS - 1 : 0)];
  integer fm_in_at = 0, halts = 0, cycles = 0;

  assign program_valid = !rst && program_at < PROGRAM_WORDS;
  assign program_payload = program_valid ? program_word : {chip.program_width}'d0;
  assign fm_in_valid = !rst && fm_in_at < FM_IN_WORDS;
  assign fm_in_payload = fm_in_valid ? fm_in_words[fm_in_at] : {chip.word_width}'d0;
  assign fm_out_ready = 1'b1;

  initial begin
    program_at = 0;
    checked = 0;
    steps = 0;
    done = 0;
    if (FM_IN_WORDS > 0) $readmemh(FM_IN_FILE, fm_in_words);
    if (EXPECTED_WORDS > 0) $readmemh(EXPECTED_FILE, expected_words);
  end

{tasks}
  always @(posedge clk) begin
    cycles <= cycles + 1;
    if (!rst) begin
      if (program_valid && program_ready) program_at <= program_at + 1;
      if (fm_in_valid && fm_in_ready) fm_in_at <= fm_in_at + 1;
      if (fm_out_valid) checked <= checked + 1;
      if (halted) halts <= halts + 1;
      if (program_valid && program_ready || fm_in_valid && fm_in_ready || fm_out_valid || mac || epilogue)
        steps <= steps + 1;
      done <= halts == HALTS;

      if (error == {ErrorCode.LINK.value}) begin
        $display("FAIL: chip (%0d, %0d) reports error %0d after %0d words, in cycle %0d",
                 ROW, COL, error, checked, cycles);
        $display("  its %0s link failed, fault %0d (%0s)",
                 {_names(Side, "side")}, fault,
                 {_names(LinkFault, "fault")});
        $finish;
      end else if (error !== 0) begin
        $display("FAIL: chip (%0d, %0d) reports error %0d after %0d words, in cycle %0d",
                 ROW, COL, error, checked, cycles);
        $finish;
      end else if (fm_out_valid && checked == EXPECTED_WORDS) begin
        $display("FAIL: chip (%0d, %0d): word %h of fm_out is one too many, in cycle %0d",
                 ROW, COL, fm_out_payload, cycles);
        $finish;
      end else if (fm_out_valid && fm_out_payload !== expected_words[checked]) begin
        $display("FAIL: chip (%0d, %0d): word %0d of fm_out is %h, expected %h, in cycle %0d",
                 ROW, COL, checked, fm_out_payload, expected_words[checked], cycles);
        locate(checked);
        $finish;
      end else if (halts == HALTS && !(checked == EXPECTED_WORDS && fm_in_at == FM_IN_WORDS)) begin
        $display("FAIL: chip (%0d, %0d) halted after %0d of %0d words", ROW, COL, checked, EXPECTED_WORDS);
        $finish;
      end
    end
  end
endmodule
"""
