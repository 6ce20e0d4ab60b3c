"""A technology's cells in place of behavioural bodies, from a TOML file (constraints/asic/).

The file has tables ``clock_gate`` and ``latch`` (``cell``, ``ports``), a table for each SRAM under ``macros``
(``depth``, ``width``, ``mask``, ``ports``, ``ties``), and ``sram``, which says which macro a wrapper is made
of. Wrappers that it does not name get the macro with which the fewest bits are built, then the fewest macros.
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigError
from .leaf import SCAN_ENABLE, Sram

GATE_PORTS = ("clk", "enable", SCAN_ENABLE, "gated")
LATCH_PORTS = ("gate", "write_data", "row")
NEEDED = ("clk", "enable", "write", "address", "write_data", "read_data")
OPTIONAL = ("read", "mask")
INVERTIBLE = {"clk", "enable", "write", "read", "mask", "gate"}


def layout(sram: Sram, depth: int, width: int) -> tuple[int, int]:
    """How many memories of that size make a wrapper: stacked in depth, and side by side. What they have too
    much is not used."""
    return -(-sram.depth // depth), -(-sram.width // width)


def wrong_size(sram: Sram, depth: int, width: int) -> str | None:
    """Why no wrapper is to be made of memories of that size, or None."""
    if width > sram.width:
        return f"its words of {width} bits are wider than the wrapper's {sram.width}"
    return None


@dataclass(frozen=True)
class VendorCell:
    """A cell of the library: ``ports`` by our names, with "!" before those that are active low."""

    cell: str
    ports: dict[str, str]
    ties: dict[str, str] = field(default_factory=dict)

    def instance(self, name: str, wires: dict[str, str]) -> str:
        """Verilog with two spaces before it; pins of ours that the cell does not have are left away."""
        lines = []
        for ours, port in self.ports.items():
            wire = wires[ours]
            inverted = port.startswith("!")
            plain = re.fullmatch(r"[\w\[\]:]+|\{.*\}", wire) is not None
            lines.append(
                f".{port.lstrip('!')}({f'~{wire}' if plain else f'~({wire})'})"
                if inverted
                else f".{port}({wire})"
            )
        lines += [f".{port}({value})" for port, value in self.ties.items()]
        return f"  {self.cell} {name} (\n" + ",\n".join(f"    {line}" for line in lines) + "\n  );\n"


@dataclass(frozen=True)
class Macro:
    """A single-port SRAM of the vendor's.

    depth, width : words, and bits of one
    granularity : bits per bit of the write mask; ``width`` where it has none, or one for the whole word
    """

    vendor: VendorCell
    depth: int
    width: int
    granularity: int

    def misfit(self, sram: Sram) -> str | None:
        """Why a wrapper cannot be made of it, or None."""
        if sram.granularity % self.granularity:
            return (
                f"its write mask covers {self.granularity} bits at a time, which does not divide the "
                f"{sram.granularity} bits that are written apart"
            )
        return wrong_size(sram, self.depth, self.width)

    def layout(self, sram: Sram) -> tuple[int, int]:
        """How many are stacked in depth, and side by side."""
        return layout(sram, self.depth, self.width)

    def cost(self, sram: Sram) -> tuple[int, int]:
        """Bits that are built, and macros."""
        stacked, beside = self.layout(sram)
        return stacked * beside * self.depth * self.width, stacked * beside


@dataclass(frozen=True)
class Technology:
    """What a TOML file says."""

    source: str
    clock_gate: VendorCell | None
    latch: VendorCell | None
    macros: dict[str, Macro]
    chosen: dict[str, str]  # macro, by wrapper

    @classmethod
    def from_toml(cls, path: str | Path) -> "Technology":
        """Read a file.

        Raises
        ------
        ConfigError : it cannot be read, or says something that is not understood
        """
        path = Path(path)
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from None
        read = _Reader(str(path))
        read.known(values, ("clock_gate", "latch", "macros", "sram"), "the file")
        gate = latch = None
        if "clock_gate" in values:
            gate = read.cell(values["clock_gate"], "clock_gate", GATE_PORTS, needed=GATE_PORTS)
        if "latch" in values:
            latch = read.cell(values["latch"], "latch", LATCH_PORTS, needed=LATCH_PORTS)
        tables = read.table(values.get("macros", {}), "macros")
        macros = {name: read.macro(table, name) for name, table in tables.items()}
        chosen = read.table(values.get("sram", {}), "sram")
        for wrapper, name in chosen.items():
            if not isinstance(name, str) or name not in macros:
                raise read.error(
                    f"sram.{wrapper} must name one of macros ({read.names(macros)}), not {name!r}"
                )
        return cls(str(path), gate, latch, macros, chosen)

    def check(self, srams: Sequence[Sram]) -> None:
        """Raises ``ConfigError`` where a wrapper is named that is not among these, or one has no macro."""
        wrappers = {sram.name for sram in srams}
        for name in self.chosen:
            if name not in wrappers:
                raise ConfigError(
                    f"{self.source}: sram.{name}: the chip has no such wrapper; "
                    f"it has {', '.join(sorted(wrappers))}"
                )
        if self.macros:
            for sram in srams:
                self.macro(sram)

    def macro(self, sram: Sram) -> Macro:
        """What a wrapper is made of.

        Raises
        ------
        ConfigError : the macro that is named for it, or every one there is, has the wrong size
        """
        if sram.name in self.chosen:
            name = self.chosen[sram.name]
            reason = self.macros[name].misfit(sram)
            if reason:
                raise ConfigError(
                    f"{self.source}: sram.{sram.name}: {name} cannot make {sram.depth} words of {sram.width} "
                    f"bits: {reason}"
                )
            return self.macros[name]
        fitting = [macro for macro in self.macros.values() if not macro.misfit(sram)]
        if not fitting:
            reasons = "; ".join(f"{name}: {macro.misfit(sram)}" for name, macro in self.macros.items())
            raise ConfigError(
                f"{self.source}: no macro for {sram.name} ({sram.depth} words of {sram.width} bits, written "
                f"{sram.granularity} bits at a time): {reasons}"
            )
        return min(fitting, key=lambda macro: (*macro.cost(sram), macro.vendor.cell))

    def sram_body(self, sram: Sram) -> str:
        """Verilog of a wrapper: macros side by side and stacked; bits beyond its words are not used."""
        macro = self.macro(sram)
        stacked, beside = macro.layout(sram)
        bits, own = sram.address_bits, max(1, (macro.depth - 1).bit_length())
        upper = f"address[{bits - 1}:{own}]"
        address = f"address[{own - 1}:0]" if own <= bits else f"{{{own - bits}'d0, address}}"
        text = f"  // {stacked} x {beside} macros of {macro.depth} words of {macro.width} bits.\n"
        spare = beside * macro.width - sram.width
        words = [f"word{s}[{sram.width - 1}:0]" if spare else f"word{s}" for s in range(stacked)]
        for s in range(stacked):
            text += f"  wire [{beside * macro.width - 1}:0] word{s};\n"
            for c in range(beside):
                low, high = c * macro.width, (c + 1) * macro.width - 1
                masks = [
                    f"mask[{bit // sram.granularity}]" if bit < sram.width else "1'b0"
                    for bit in range(low, high + 1, macro.granularity)
                ]
                selected = [f"({upper} == {s})"] if stacked > 1 else []
                if "mask" not in macro.vendor.ports:
                    # No write is no reason to read.
                    selected.append(f"(~write | {masks[0]})")
                data = f"write_data[{min(high, sram.width - 1)}:{low}]"
                wires = {
                    "clk": "clk",
                    "enable": " & ".join(["enable", *selected]),
                    "write": "write",
                    "read": "~write",
                    "address": address,
                    "mask": f"{{{', '.join(reversed(masks))}}}",
                    "write_data": f"{{{spare}'d0, {data}}}" if high >= sram.width else data,
                    "read_data": f"word{s}[{high}:{low}]",
                }
                text += macro.vendor.instance(f"macro{s}_{c}", wires)
        if stacked == 1:
            return f"{text}  assign read_data = {words[0]};\n"
        choice = "".join(f"from == {s} ? {words[s]} : " for s in range(stacked - 1))
        return (
            f"{text}  reg [{bits - own - 1}:0] from;\n"
            f"  always @(posedge clk) if (enable & ~write) from <= {upper};\n"
            f"  assign read_data = {choice}{words[-1]};\n"
        )


class _Reader:
    """Values of a file, and errors that say where."""

    def __init__(self, source: str):
        self._source = source

    def error(self, text: str) -> ConfigError:
        return ConfigError(f"{self._source}: {text}")

    @staticmethod
    def names(values) -> str:
        return ", ".join(values) or "none"

    def table(self, value: object, where: str) -> dict:
        if not isinstance(value, dict):
            raise self.error(f"{where} must be a table, not {value!r}")
        return value

    def known(self, value: object, names: Sequence[str], where: str) -> dict:
        table = self.table(value, where)
        unknown = [name for name in table if name not in names]
        if unknown:
            raise self.error(f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(names)}")
        return table

    def cell(self, value: object, where: str, names: Sequence[str], *, needed: Sequence[str]) -> VendorCell:
        table = self.known(value, ("cell", "ports", "ties"), where)
        if "cell" not in table:
            raise self.error(f"{where}: missing cell")
        return self.vendor(table, table["cell"], where, names, needed=needed)

    def vendor(
        self, table: dict, cell: object, where: str, names: Sequence[str], *, needed: Sequence[str]
    ) -> VendorCell:
        if not isinstance(cell, str) or not re.fullmatch(r"[A-Za-z_]\w*", cell):
            raise self.error(f"{where}: {cell!r} is no name of a cell")
        ports = self.known(table.get("ports", {}), names, f"{where}.ports")
        missing = [name for name in needed if name not in ports]
        if missing:
            raise self.error(f"{where}.ports: missing {', '.join(missing)}")
        for ours, port in ports.items():
            allowed = r"!?[A-Za-z_]\w*" if ours in INVERTIBLE else r"[A-Za-z_]\w*"
            if not isinstance(port, str) or not re.fullmatch(allowed, port):
                raise self.error(f"{where}.ports.{ours}: {port!r} is no name of a port")
        ties = self.table(table.get("ties", {}), f"{where}.ties")
        for port, constant in ties.items():
            if not re.fullmatch(r"[A-Za-z_]\w*", port) or port in {
                name.lstrip("!") for name in ports.values()
            }:
                raise self.error(f"{where}.ties: {port!r} is no port that is left to tie")
            if not isinstance(constant, str) or not re.fullmatch(
                r"\d+'(b[01]+|d\d+|h[0-9a-fA-F]+)", constant
            ):
                raise self.error(f'{where}.ties.{port} must be a constant as "1\'b0", not {constant!r}')
        return VendorCell(cell, dict(ports), dict(ties))

    def macro(self, value: object, name: str) -> Macro:
        where = f"macros.{name}"
        table = self.known(value, ("depth", "width", "mask", "ports", "ties"), where)
        sizes = []
        for size in ("depth", "width"):
            number = table.get(size)
            if type(number) is not int or not 1 <= number <= 1 << 20:
                raise self.error(f"{where}.{size} must be an integer from 1 to {1 << 20}, not {number!r}")
            sizes.append(number)
        depth, width = sizes
        if depth & (depth - 1):
            raise self.error(f"{where}.depth must be a power of two, not {depth}")
        mask = table.get("mask", "word")
        granularity = {"bit": 1, "word": width}.get(mask, mask) if isinstance(mask, (str, int)) else mask
        if type(granularity) is not int or granularity < 1 or width % granularity:
            raise self.error(
                f'{where}.mask must be "bit", "word" or a number of bits that divides {width}, not {mask!r}'
            )
        vendor = self.vendor(table, name, where, (*NEEDED, *OPTIONAL), needed=NEEDED)
        if granularity < width and "mask" not in vendor.ports:
            raise self.error(f"{where}.ports: missing mask, which is written {granularity} bits at a time")
        return Macro(vendor, depth, width, granularity)
