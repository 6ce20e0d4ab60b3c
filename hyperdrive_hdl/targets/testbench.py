"""A self-checking testbench in plain Verilog for an exported chip: a network's program, inputs and outputs.

Stimulus and expectation are hexadecimal files that ``$readmemh`` reads; the expectation is the reference's.
All chip stages of the network follow each other in one stream, for each stage all images. Chips of a mesh
share the program; each has files of its own for its pixels, without words where it has none.
"""

from dataclasses import dataclass, field

import numpy as np

from ..cells.leaf import SCAN_ENABLE
from ..compiler.ir import ChipProgram, CompiledNetwork, PlacedMap
from ..config import ChipConfig
from ..model.layout import to_stream
from ..model.network import run_network
from .mesh import require_links
from .mesh_testbench import Counts, mesh_testbench_text
from .places import StoredMap, places_text
from .ports import ASIC, GENERIC, chip_ports, connections
from .verilog import mesh_name, top_name

PATIENCE = 20_000  # cycles without progress before the testbench gives up


@dataclass(frozen=True)
class Testbench:
    """The testbench's files by name, to be written beside the chip's; ``words`` is how many it compares."""

    __test__ = False  # pytest: not a class of tests

    module: str
    words: int
    files: dict[str, str] = field(repr=False)


def export_testbench(compiled: CompiledNetwork, images: np.ndarray, *, cells: str = GENERIC) -> Testbench:
    """The testbench for a series of float32 images (N, C, H, W), on the chip or mesh of ``compiled``,
    exported with these ``cells``.

    Raises
    ------
    ConfigError : several chips without links
    ModelError : the images do not suit the network
    """
    chip, mesh = compiled.chip, compiled.mesh
    require_links(chip, mesh)
    reference = run_network(
        compiled.network, images, wbuf_depth=chip.wbuf_depth, accumulator=chip.accumulator
    )
    program = _Words(chip.program_width)
    places = list(np.ndindex(mesh.rows, mesh.cols))
    fm_in = {at: _Words(chip.word_width) for at in places}
    expected = {at: _Words(chip.word_width) for at in places}
    for name, code in compiled.programs.items():
        program.add(f"stage {name}, {len(images)} images", code.words(len(images)))
        for image in range(len(images)):
            known = reference.chip_inputs[image] | reference.layers[image]
            _add_maps(fm_in, image, [step.map for step in code.loads], known, code)
            _add_maps(expected, image, [step.map for step in code.stores], known, code)
    halts = len(compiled.programs)
    tasks = places_text([_stored(code) for code in compiled.programs.values()], len(images))
    files = {"program.hex": program.text()}
    if mesh.chips > 1:
        module = f"{mesh_name(chip, mesh)}_tb"
        counts = {at: Counts(fm_in[at].count, expected[at].count) for at in places}
        text = mesh_testbench_text(
            chip,
            mesh,
            module,
            mesh_name(chip, mesh),
            program.count,
            counts,
            halts=halts,
            patience=PATIENCE,
            tasks=tasks,
            cells=cells,
        )
        for row, col in places:
            files[f"fm_in_{row}_{col}.hex"] = fm_in[row, col].text()
            files[f"expected_{row}_{col}.hex"] = expected[row, col].text()
    else:
        module = f"{top_name(chip)}_tb"
        text = _text(
            chip, module, program, fm_in[0, 0], expected[0, 0], halts=halts, tasks=tasks, cells=cells
        )
        files |= {"fm_in.hex": fm_in[0, 0].text(), "expected.hex": expected[0, 0].text()}
    words = sum(of_chip.count for of_chip in expected.values())
    return Testbench(module=module, words=words, files={f"{module}.v": text, **files})


def _stored(code: ChipProgram) -> list[StoredMap]:
    """The maps of a program's ``fm_out``, in order, of one image."""
    made_by = {layer.output.map.name: layer.conv.name for layer in code.layers}
    return [
        StoredMap(
            made_by.get(step.map.map.name, ""),
            step.map.map.name,
            *step.map.map.shape,
            code.chip.tile_rows * step.map.tile_h,
            code.chip.tile_cols * step.map.tile_w,
        )
        for step in code.stores
    ]


class _Words:
    """A file of words, with comments that say what they are."""

    def __init__(self, width: int):
        self.width = width
        self.count = 0
        self._lines: list[str] = []

    def add(self, what: str, words: np.ndarray) -> None:
        digits = -(-self.width // 4)
        self._lines.append(f"// from {self.count}: {what}")
        self._lines += [f"{int(word):0{digits}x}" for word in words]
        self.count += len(words)

    def text(self) -> str:
        return "\n".join([*self._lines, ""])


def _add_maps(
    words: dict[tuple[int, ...], _Words],
    image: int,
    maps: list[PlacedMap],
    known: dict[str, np.ndarray],
    code: ChipProgram,
) -> None:
    """Each chip's part of the maps."""
    for placed in maps:
        sizes = "x".join(map(str, placed.map.shape))
        what = f"image {image}, map {placed.map.name} ({sizes}), pixel by pixel, channels innermost"
        for row, col in words:
            stream = to_stream(known[placed.map.name], placed, code.chip, row, col)
            words[row, col].add(what, stream)


def _text(
    chip: ChipConfig,
    module: str,
    program: _Words,
    fm_in: _Words,
    expected: _Words,
    *,
    halts: int,
    tasks: str,
    cells: str,
) -> str:
    top = top_name(chip)
    # A chip by itself: nothing comes from its links.
    links = connections([port for port in chip_ports(chip) if port.is_link or port.name == "neighbours"], {})
    links = links and f",\n{links}"
    scan = f",\n    .{SCAN_ENABLE}(1'b0)" if cells == ASIC else ""
    return f"""\
// {module}: runs a program on {top} and compares every word of fm_out with the reference.
// Prints PASS and the number of words, or FAIL and the first difference. Start it where its .hex files are:
//   $ iverilog -g2001 -o testbench {module}.v -f hyperdrive.f && ./testbench
//   $ verilator --binary --timing -CFLAGS -std=c++20 -Wno-fatal --top-module {module} \\
//       hyperdrive.vlt {module}.v -f hyperdrive.f
//   $ obj_dir/V{module}

`timescale 1ns / 1ps

module {module};
  localparam PROGRAM_WORDS = {program.count};
  localparam FM_IN_WORDS = {fm_in.count};
  localparam EXPECTED_WORDS = {expected.count};
  localparam HALTS = {halts};  // programs in the stream
  localparam PATIENCE = {PATIENCE};  // cycles without a word moving or a layer ending
  localparam ROW = 0, COL = 0;  // the chip's position

  reg clk = 0;
  reg rst = 1;
  reg [{program.width - 1}:0] program_words [0:PROGRAM_WORDS - 1];
  reg [{fm_in.width - 1}:0] fm_in_words [0:FM_IN_WORDS - 1];
  reg [{expected.width - 1}:0] expected_words [0:EXPECTED_WORDS - 1];
  integer program_at = 0, fm_in_at = 0, checked = 0, halts = 0, cycles = 0, quiet = 0;

  wire program_valid = !rst && program_at < PROGRAM_WORDS;
  wire program_ready;
  wire fm_in_valid = !rst && fm_in_at < FM_IN_WORDS;
  wire fm_in_ready;
  wire fm_out_valid;
  wire [{expected.width - 1}:0] fm_out_word;
  wire [2:0] error;
  wire layer_done, halted, mac, epilogue;

  {top} dut (
    .clk(clk), .rst(rst), .mesh_row(8'd0), .mesh_col(8'd0),
    .program__valid(program_valid), .program__ready(program_ready),
    .program__payload(program_valid ? program_words[program_at] : {program.width}'d0),
    .fm_in__valid(fm_in_valid), .fm_in__ready(fm_in_ready),
    .fm_in__payload(fm_in_valid ? fm_in_words[fm_in_at] : {fm_in.width}'d0),
    .fm_out__valid(fm_out_valid), .fm_out__ready(1'b1), .fm_out__payload(fm_out_word),
    .status__busy(), .status__error(error), .status__layer(), .status__layer_done(layer_done),
    .status__halted(halted), .status__side(), .status__fault(),
    .activity__computing(), .activity__loading(), .activity__storing(),
    .activity__mac(mac), .activity__starved(), .activity__epilogue(epilogue),
    .activity__border_words(), .activity__link_beats(){links}{scan}
  );

  initial begin
    $readmemh("program.hex", program_words);
    $readmemh("fm_in.hex", fm_in_words);
    $readmemh("expected.hex", expected_words);
  end

  always #5 clk = ~clk;

{tasks}
  always @(posedge clk) begin
    cycles <= cycles + 1;
    if (cycles == 3) rst <= 0;
    if (!rst) begin
      if (program_valid && program_ready) program_at <= program_at + 1;
      if (fm_in_valid && fm_in_ready) fm_in_at <= fm_in_at + 1;
      if (halted) halts <= halts + 1;
      if (program_valid && program_ready || fm_in_valid && fm_in_ready || fm_out_valid || mac || epilogue)
        quiet <= 0;
      else
        quiet <= quiet + 1;

      if (error !== 0) begin
        $display("FAIL: the chip reports error %0d after %0d words, in cycle %0d", error, checked, cycles);
        $finish;
      end else if (fm_out_valid && checked == EXPECTED_WORDS) begin
        $display("FAIL: word %h of fm_out is one too many, in cycle %0d", fm_out_word, cycles);
        $finish;
      end else if (fm_out_valid && fm_out_word !== expected_words[checked]) begin
        $display("FAIL: word %0d of fm_out is %h, expected %h, in cycle %0d",
                 checked, fm_out_word, expected_words[checked], cycles);
        locate(checked);
        $finish;
      end else if (halts == HALTS) begin
        if (checked == EXPECTED_WORDS && fm_in_at == FM_IN_WORDS)
          $display("PASS: %0d words equal, %0d cycles", checked, cycles);
        else
          $display("FAIL: halted after %0d of %0d words", checked, EXPECTED_WORDS);
        $finish;
      end else if (quiet > PATIENCE) begin
        $display("FAIL: no progress after %0d words, in cycle %0d", checked, cycles);
        $finish;
      end
      if (fm_out_valid) checked <= checked + 1;
    end
  end
endmodule
"""
