"""Leaf cells of an ASIC, clock gate, latch row, single-port SRAM: their ports, and Verilog-2001 for them.

What the RTL places (``rtl.hierarchy.ModuleLibrary``) are modules of these names behind the top's; here is
their text. The body of a clock gate, of a row and of an SRAM may be a vendor's cells (``macros``).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .macros import Technology

BLOCK_ROWS = 64  # rows of latches in one module, with their gates and their part of the read multiplexer
SCAN_ENABLE = "scan_enable"


class Pin(NamedTuple):
    """A port of a cell, from its side."""

    name: str
    width: int
    is_input: bool = True

    @property
    def direction(self) -> str:
        return "input" if self.is_input else "output"

    @property
    def bits(self) -> str:
        """Its range in a declaration, with a space behind."""
        return f"[{self.width - 1}:0] "


@dataclass(frozen=True)
class Cell:
    """A module written by hand. ``name`` goes behind the top's name and an underscore.

    pins : the ports; those named in ``scalars`` have no range
    parts : other cells in its body, and how many of each
    latches : in its own body
    """

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def pins(self) -> tuple[Pin, ...]:
        raise NotImplementedError

    @property
    def scalars(self) -> frozenset[str]:
        return frozenset({"clk", SCAN_ENABLE, "enable", "gated", "gate", "write", "read"})

    @property
    def parts(self) -> dict["Cell", int]:
        return {}

    @property
    def latches(self) -> int:
        return 0

    @property
    def needs_scan(self) -> bool:
        return any(pin.name == SCAN_ENABLE for pin in self.pins)

    def body(self, top: str, technology: "Technology | None") -> str:
        """What stands between the ports and ``endmodule``."""
        raise NotImplementedError

    def verilog(self, top: str, technology: "Technology | None" = None) -> str:
        """The module, with a comment above it."""
        comment = "".join(f"// {line}\n" for line in (type(self).__doc__ or "").splitlines()[0:1])
        return f"{comment}{self._head(top)}{self.body(top, technology)}endmodule\n"

    def stub(self, top: str) -> str:
        """Its ports alone, for who must only know them."""
        return f"{self._head(top)}endmodule\n"

    def _head(self, top: str) -> str:
        ports = ",\n".join(
            f"  {pin.direction} {'' if pin.name in self.scalars else pin.bits}{pin.name}" for pin in self.pins
        )
        return f"module {top}_{self.name} (\n{ports}\n);\n"


@dataclass(frozen=True)
class ClockGate(Cell):
    """Passes the pulses of clk before which enable was high; scan_enable holds it open."""

    @property
    def name(self) -> str:
        return "clock_gate"

    @property
    def pins(self) -> tuple[Pin, ...]:
        return Pin("clk", 1), Pin("enable", 1), Pin(SCAN_ENABLE, 1), Pin("gated", 1, False)

    @property
    def latches(self) -> int:
        return 1

    def body(self, top: str, technology: "Technology | None") -> str:
        if technology and technology.clock_gate:
            return technology.clock_gate.instance("cell", {pin.name: pin.name for pin in self.pins})
        # Transparent while clk is low: what enable does in the high half, and until it settles, is not seen.
        return f"""\
  reg open;
  always @* if (!clk) open = enable | {SCAN_ENABLE};
  assign gated = clk & open;
"""


@dataclass(frozen=True)
class LatchRow(Cell):
    """A row of weights in latches, transparent while gate is high."""

    lanes: int

    @property
    def name(self) -> str:
        return "latch_row"

    @property
    def pins(self) -> tuple[Pin, ...]:
        return Pin("gate", 1), Pin("write_data", self.lanes), Pin("row", self.lanes, False)

    @property
    def latches(self) -> int:
        return self.lanes

    def body(self, top: str, technology: "Technology | None") -> str:
        if technology and technology.latch:
            wires = {"gate": "gate", "write_data": "write_data[k]", "row": "row[k]"}
            instance = technology.latch.instance("cell", wires).replace("\n", "\n    ").rstrip(" ")
            return (
                f"  genvar k;\n  generate\n    for (k = 0; k < {self.lanes}; k = k + 1) begin : lane\n"
                f"    {instance}    end\n  endgenerate\n"
            )
        return f"""\
  reg [{self.lanes - 1}:0] stored;
  always @* if (gate) stored = write_data;
  assign row = stored;
"""


@dataclass(frozen=True)
class LatchBlock(Cell):
    """Rows of latches, a clock gate for each, and their read multiplexer."""

    rows: int
    lanes: int

    @property
    def name(self) -> str:
        return f"latch_block_{self.rows}"

    @property
    def address_bits(self) -> int:
        return max(1, (self.rows - 1).bit_length())

    @property
    def pins(self) -> tuple[Pin, ...]:
        return (
            Pin("clk", 1),
            Pin(SCAN_ENABLE, 1),
            Pin("write", 1),
            Pin("write_row", self.address_bits),
            Pin("write_data", self.lanes),
            Pin("read_row", self.address_bits),
            Pin("read_data", self.lanes, False),
        )

    @property
    def parts(self) -> dict[Cell, int]:
        return {ClockGate(): self.rows, LatchRow(self.lanes): self.rows}

    def body(self, top: str, technology: "Technology | None") -> str:
        return f"""\
  wire [{self.rows * self.lanes - 1}:0] rows;
  genvar r;
  generate
    for (r = 0; r < {self.rows}; r = r + 1) begin : row
      wire gate;
      {top}_clock_gate clock (
        .clk(clk), .enable(write & (write_row == r)), .{SCAN_ENABLE}({SCAN_ENABLE}), .gated(gate)
      );
      {top}_latch_row word (
        .gate(gate), .write_data(write_data), .row(rows[r * {self.lanes} +: {self.lanes}])
      );
    end
  endgenerate
{_multiplexer("rows", self.rows, self.lanes, "read_row", 0, "read_data")}"""


@dataclass(frozen=True)
class LatchRows(Cell):
    """The weight buffer's rows as latches: one written and one read per cycle, as an array of registers.

    In the cycle of ``write`` the row's clock gate is enabled and the data registered; in the first half of
    the next one clk opens the row, while the register holds what it is to take. So the row has its value half
    a cycle before the earliest read of it ends, which is in that next cycle: nothing has to wait for it, and
    the row is closed before the register changes again.

    Latency 1 from ``read_row`` to ``read_data``, which holds without ``read``. Blocks that are not read see
    no change of their address.
    """

    depth: int
    lanes: int

    @property
    def name(self) -> str:
        return "latch_rows"

    @property
    def address_bits(self) -> int:
        return max(1, (self.depth - 1).bit_length())

    @property
    def pins(self) -> tuple[Pin, ...]:
        return (
            Pin("clk", 1),
            Pin(SCAN_ENABLE, 1),
            Pin("write", 1),
            Pin("write_row", self.address_bits),
            Pin("write_data", self.lanes),
            Pin("read", 1),
            Pin("read_row", self.address_bits),
            Pin("read_data", self.lanes, False),
        )

    @property
    def _blocks(self) -> list[LatchBlock]:
        sizes = [min(BLOCK_ROWS, self.depth - start) for start in range(0, self.depth, BLOCK_ROWS)]
        return [LatchBlock(size, self.lanes) for size in sizes]

    @property
    def parts(self) -> dict[Cell, int]:
        return {block: self._blocks.count(block) for block in self._blocks}

    def body(self, top: str, technology: "Technology | None") -> str:
        blocks, lanes = self._blocks, self.lanes
        whole = [block for block in blocks if block.rows == BLOCK_ROWS or len(blocks) == 1]
        text = f"""\
  // Written: the row is transparent in the first half of the next cycle, from this register.
  reg [{lanes - 1}:0] data;
  always @(posedge clk) if (write) data <= write_data;

  wire [{len(blocks) * lanes - 1}:0] blocks;
"""
        if len(blocks) == 1:
            text += self._instance(top, blocks[0], "0", "  ")
        else:
            text += f"""\
  genvar b;
  generate
    for (b = 0; b < {len(whole)}; b = b + 1) begin : block
{self._instance(top, whole[0], "b", "      ")}    end
  endgenerate
"""
            if len(whole) < len(blocks):
                text += self._instance(top, blocks[-1], str(len(whole)), "  ")
        low = (BLOCK_ROWS - 1).bit_length()
        return f"""\
{text}
  wire [{lanes - 1}:0] word;
{_multiplexer("blocks", len(blocks), lanes, "read_row", low, "word")}
  reg [{lanes - 1}:0] read_word;
  always @(posedge clk) if (read) read_word <= word;
  assign read_data = read_word;
"""

    def _instance(self, top: str, block: LatchBlock, index: str, indent: str) -> str:
        low, high, bits = (BLOCK_ROWS - 1).bit_length(), self.address_bits - 1, block.address_bits
        writes, row = "write", f"read_row[{bits - 1}:0]"
        if self.depth > BLOCK_ROWS:
            writes = f"write & (write_row[{high}:{low}] == {index})"
            row = f"{row} & {{{bits}{{read_row[{high}:{low}] == {index}}}}}"
        lines = [
            f"{top}_{block.name} part{'' if index == 'b' else index} (",
            f"  .clk(clk), .{SCAN_ENABLE}({SCAN_ENABLE}),",
            f"  .write({writes}), .write_row(write_row[{bits - 1}:0]), .write_data(data),",
            f"  .read_row({row}), .read_data(blocks[{index} * {self.lanes} +: {self.lanes}])",
            ");",
        ]
        return "".join(f"{indent}{line}\n" for line in lines)


@dataclass(frozen=True)
class Sram(Cell):
    """Single-port SRAM: read or written, latency 1; read_data holds, and after a write is not to be used."""

    depth: int
    width: int
    masks: int  # write enables, each of width / masks bits

    @property
    def name(self) -> str:
        # All words of a chip are of one width: depth and width say how many mask bits there are.
        return f"sram_{self.depth}x{self.width}"

    @property
    def granularity(self) -> int:
        """Bits per mask bit."""
        return self.width // self.masks

    @property
    def address_bits(self) -> int:
        return max(1, (self.depth - 1).bit_length())

    @property
    def pins(self) -> tuple[Pin, ...]:
        return (
            Pin("clk", 1),
            Pin("enable", 1),
            Pin("write", 1),
            Pin("address", self.address_bits),
            Pin("mask", self.masks),
            Pin("write_data", self.width),
            Pin("read_data", self.width, False),
        )

    def body(self, top: str, technology: "Technology | None") -> str:
        if technology and technology.macros:
            return technology.sram_body(self)
        parts = [f"[{(i + 1) * self.granularity - 1}:{i * self.granularity}]" for i in range(self.masks)]
        writes = "".join(
            f"        if (mask[{i}]) array[address]{part} <= write_data{part};\n"
            for i, part in enumerate(parts)
        )
        return f"""\
  reg [{self.width - 1}:0] array [0:{self.depth - 1}];
  reg [{self.width - 1}:0] word;
  always @(posedge clk)
    if (enable) begin
      if (write) begin
{writes}      end else
        word <= array[address];
    end
  assign read_data = word;
"""


def _multiplexer(words: str, count: int, width: int, select: str, low: int, result: str) -> str:
    """Verilog: ``result`` is the word of ``words`` that ``select``, from bit ``low`` on, names.

    A tree, halves of what is left at every step; words beyond the last are zero.
    """
    bits = (count - 1).bit_length()
    text, padding = "", ((1 << bits) - count) * width
    now = words
    if padding:
        now = f"{words}_padded"
        text += f"  wire [{(width << bits) - 1}:0] {now} = {{{padding}'d0, {words}}};\n"
    for bit in reversed(range(bits)):
        half = width << bit
        name = f"{words}_of_{1 << bit}"
        text += (
            f"  wire [{half - 1}:0] {name} = {select}[{low + bit}] ? {now}[{2 * half - 1}:{half}] : "
            f"{now}[{half - 1}:0];\n"
        )
        now = name
    return f"{text}  assign {result} = {now};\n"


def with_parts(cells: list[Cell]) -> list[Cell]:
    """The cells and all their parts, parts first, each once."""
    found: dict[Cell, None] = {}
    for cell in cells:
        for part in with_parts(list(cell.parts)):
            found[part] = None
        found[cell] = None
    return list(found)
