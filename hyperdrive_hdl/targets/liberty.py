"""Liberty files: what an ASIC library's cells are, what they compute, how large they are.

Of a library the mapping needs a NAND2 (the unit of area), a flip-flop, a latch, a clock gate and tie cells;
of a memory macro its area and size. Timing tables are left to the timers.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..errors import UserError

# A statement: name (arguments) [{], name : value, or a closing brace. Arguments hold quoted tables.
_STATEMENT = re.compile(
    r"""[\s;]*(?:
    (?P<name>[\w$.\[\]:]*[\w$.\]])\s*(?:
        \((?P<arguments>(?:[^()"]+|"[^"]*")*)\)\s*(?P<open>\{)?
        | :\s*(?P<value>"[^"]*"|[^;{}\n]*)
    ) | (?P<close>\}) )""",
    re.VERBOSE,
)
_COMMENT = re.compile(r"/\*.*?\*/|\\[ \t]*\r?\n|//[^\n]*", re.DOTALL)


@dataclass
class Group:
    """A Liberty group: ``kind (arguments) { attributes, groups }``, as it stands in the file."""

    kind: str
    arguments: tuple[str, ...] = ()
    attributes: dict[str, str] = field(default_factory=dict)
    groups: list["Group"] = field(default_factory=list)

    def of_kind(self, *kinds: str) -> Iterator["Group"]:
        """The groups inside of these kinds."""
        return (group for group in self.groups if group.kind in kinds)


def parse_liberty(text: str) -> Group:
    """The ``library`` group of a Liberty file's text.

    Raises
    ------
    ValueError : not Liberty; the message has the line
    """
    # Comments go, their lines stay, for messages.
    text = _COMMENT.sub(lambda found: "\n" * found[0].count("\n"), text)
    root = Group("")
    open_ = [root]
    at = 0
    while found := _STATEMENT.match(text, at):
        at = found.end()
        if found["close"]:
            if len(open_) == 1:
                raise ValueError(f"line {_line(text, at)}: a brace closes nothing")
            open_.pop()
        elif found["open"]:
            group = Group(found["name"], _arguments(found["arguments"]))
            open_[-1].groups.append(group)
            open_.append(group)
        elif found["value"] is not None:
            open_[-1].attributes[found["name"]] = _unquoted(found["value"])
        else:
            open_[-1].attributes[found["name"]] = ", ".join(_arguments(found["arguments"]))
        if len(open_) == 1 and not found["close"]:
            raise ValueError(f"line {_line(text, at)}: {found['name']!r} instead of a group")
    rest = text[at:].lstrip(" \t\r\n;")
    if rest:
        raise ValueError(f"line {_line(text, len(text) - len(rest))}: cannot be read: {rest[:40]!r}")
    if len(open_) > 1:
        group = open_[-1]
        raise ValueError(f"the file ends within {group.kind} ({', '.join(group.arguments)})")
    libraries = list(root.of_kind("library"))
    if len(libraries) != 1:
        raise ValueError(f"{len(libraries)} library groups instead of one")
    return libraries[0]


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _arguments(text: str) -> tuple[str, ...]:
    if '"' not in text:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    quoted = re.findall(r'"([^"]*)"|([^\s,"]+)', text)
    return tuple((inside or bare).strip() for inside, bare in quoted)


def _unquoted(text: str) -> str:
    return text.strip().strip('"').strip()


@dataclass(frozen=True)
class Function:
    """A Liberty expression: ``!``, ``'``, ``^``, ``*`` or ``&`` or a space, ``+`` or ``|``, 0, 1, names.

    Raises
    ------
    ValueError : it is none
    """

    text: str

    def __post_init__(self) -> None:
        self.verilog  # noqa: B018 - checks the text

    @cached_property
    def verilog(self) -> str:
        """The same in Verilog."""
        return _Expression(self.text).verilog()

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names in it, in order of appearance."""
        return tuple(dict.fromkeys(re.findall(r"[A-Za-z_]\w*", self.text)))

    def value(self, **inputs: int) -> int:
        """Its value for these inputs, 0 or 1."""
        # Of Verilog's expression: its operators mean the same in Python, on single bits with ~ masked.
        text = self.verilog.replace("1'b", "")
        return eval(text, {"__builtins__": {}}, dict(inputs)) & 1  # a grammar of names and operators only

    def equals(self, other: "Function", names: dict[str, str]) -> bool:
        """The same function, its inputs being called ``names[input]`` in the other."""
        if set(names) != set(self.inputs) or set(names.values()) != set(other.inputs):
            return False
        for bits in itertools.product((0, 1), repeat=len(names)):
            mine = dict(zip(names, bits, strict=True))
            if self.value(**mine) != other.value(**{names[name]: bit for name, bit in mine.items()}):
                return False
        return True


class _Expression:
    """A parser of one expression, from the operator that binds least to the one that binds most."""

    def __init__(self, text: str):
        self._text = text
        self._tokens = re.findall(r"[A-Za-z_]\w*|[01!'^*&+|()]|\S", text)
        self._at = 0

    def verilog(self) -> str:
        result = self._or()
        if self._at != len(self._tokens):
            raise ValueError(f"{self._text!r} is no Liberty expression")
        return result

    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _or(self) -> str:
        result = self._and()
        while self._next() in ("+", "|"):
            self._at += 1
            result = f"({result} | {self._and()})"
        return result

    def _and(self) -> str:
        result = self._xor()
        while (token := self._next()) and token not in ("+", "|", ")"):
            self._at += token in ("*", "&")  # no operator stands for AND as well
            result = f"({result} & {self._xor()})"
        return result

    def _xor(self) -> str:
        result = self._not()
        while self._next() == "^":
            self._at += 1
            result = f"({result} ^ {self._not()})"
        return result

    def _not(self) -> str:
        token = self._next()
        self._at += 1
        if token == "!":
            result = f"(~{self._not()})"
        elif token == "(":
            result = self._or()
            if self._next() != ")":
                raise ValueError(f"{self._text!r} lacks a parenthesis")
            self._at += 1
        elif token in ("0", "1"):
            result = f"1'b{token}"
        elif re.fullmatch(r"[A-Za-z_]\w*", token):
            result = token
        else:
            raise ValueError(f"{self._text!r} is no Liberty expression")
        while self._next() == "'":
            self._at += 1
            result = f"(~{result})"
        return result


@dataclass(frozen=True, kw_only=True)
class Pin:
    """A pin; ``capacitance`` in the library's unit, ``role`` clock, enable, test or out of a clock gate."""

    name: str
    direction: str
    width: int = 1
    capacitance: float = 0.0
    function: Function | None = None
    three_state: bool = False
    role: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sequential:
    """An ``ff`` or ``latch`` group: names of the state and its inverse, expressions of its attributes."""

    kind: str
    state: str
    inverse: str
    expressions: dict[str, Function]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell; ``area`` in um2. ``size`` is that of a memory: words and bits."""

    name: str
    area: float | None
    pins: dict[str, Pin]
    sequential: Sequential | None = None
    clock_gate: str | None = None  # clock_gating_integrated_cell
    size: tuple[int, int] | None = None
    dont_use: bool = False

    @property
    def inputs(self) -> list[Pin]:
        return [pin for pin in self.pins.values() if pin.direction == "input"]

    @property
    def outputs(self) -> list[Pin]:
        return [pin for pin in self.pins.values() if pin.direction == "output"]

    @property
    def storage(self) -> str | None:
        """What it keeps a state as: ``ff``, ``latch``, ``clock gate``; None if it keeps none."""
        if self.clock_gate:
            return "clock gate"
        return self.sequential.kind if self.sequential else None

    def pin_of(self, role: str) -> str | None:
        """The pin with that role in a clock gate."""
        return next((pin.name for pin in self.pins.values() if pin.role == role), None)


_GATE_ROLES = {
    "clock_gate_clock_pin": "clock",
    "clock_gate_enable_pin": "enable",
    "clock_gate_test_pin": "test",
    "clock_gate_out_pin": "out",
}


@dataclass(frozen=True)
class Library:
    """Standard cells by name, of a file.

    ``femtofarads`` is what a unit of capacitance is.
    """

    name: str
    path: Path
    cells: dict[str, Cell]
    femtofarads: float = 1000.0

    @cached_property
    def nand2(self) -> Cell:
        """The smallest NAND of two inputs, drive 1: the unit of area."""
        nand = Function("!(A*B)")
        found = [
            cell
            for cell in self._usable()
            if not cell.storage
            and len(cell.outputs) == 1
            and (function := cell.outputs[0].function) is not None
            and len(function.inputs) == len(cell.inputs) == 2
            and function.equals(nand, dict(zip(function.inputs, "AB", strict=True)))
        ]
        return self._smallest(found, "NAND2, the unit of area")

    @cached_property
    def flipflop(self) -> Cell:
        """The smallest one with a rising clock."""
        return self._smallest(
            [cell for cell in self._usable() if _clocked(cell, "ff", "clocked_on")], "flip-flop"
        )

    @cached_property
    def latch(self) -> Cell:
        """The smallest one that is open while its enable is high, without set and reset."""
        found = [
            cell
            for cell in self._usable()
            if _clocked(cell, "latch", "enable")
            and cell.sequential
            and not {"clear", "preset"} & cell.sequential.expressions.keys()
        ]
        return self._smallest(found, "latch that is open while its enable is high")

    @cached_property
    def clock_gate(self) -> Cell:
        """The smallest for a rising clock, without a test pin if possible; these are often ``dont_use``."""
        return self._smallest(self._gates(test=False) or self._gates(test=True), _CLOCK_GATE)

    @cached_property
    def clock_gate_with_test(self) -> Cell:
        """The same with a test pin if there is one."""
        return self._smallest(self._gates(test=True) or self._gates(test=False), _CLOCK_GATE)

    def tie(self, value: int) -> Cell | None:
        """The smallest cell that drives a constant; None if there is none."""
        found = [
            cell
            for cell in self.cells.values()
            if cell.area is not None
            and not cell.inputs
            and len(cell.outputs) == 1
            and (function := cell.outputs[0].function) is not None
            and function.verilog == f"1'b{value}"
        ]
        return min(found, key=_size, default=None)

    def require(self) -> None:
        """What no mapping can do without.

        Raises
        ------
        UserError : it is missing
        """
        for needed in ("nand2", "flipflop", "latch", "clock_gate"):
            getattr(self, needed)

    def _usable(self) -> list[Cell]:
        return [cell for cell in self.cells.values() if cell.area and not cell.dont_use]

    def _gates(self, *, test: bool) -> list[Cell]:
        return [
            cell
            for cell in self.cells.values()
            if cell.area
            and (cell.clock_gate or "").startswith("latch_posedge")
            and all(map(cell.pin_of, ("clock", "enable", "out")))
            and bool(cell.pin_of("test")) == test
        ]

    def _smallest(self, cells: list[Cell], what: str) -> Cell:
        if not cells:
            raise UserError(f"{self.path}: library {self.name!r} has no {what}; give one with --liberty")
        return min(cells, key=_size)


_CLOCK_GATE = "clock gate (clock_gating_integrated_cell latch_posedge with its pins marked)"


def _size(cell: Cell) -> tuple[float, str]:
    return cell.area or 0.0, cell.name


def _clocked(cell: Cell, kind: str, attribute: str) -> bool:
    """A simple storage cell, its clock or enable being an input that is not inverted."""
    if cell.sequential is None or cell.sequential.kind != kind or cell.clock_gate:
        return False
    clock = cell.sequential.expressions.get(attribute)
    return clock is not None and clock.verilog in cell.pins


def read_library(path: str | Path) -> Library:
    """Standard cells of a Liberty file.

    Raises
    ------
    UserError : it cannot be read, is not Liberty, or lacks what every mapping needs
    """
    path = Path(path)
    group = _read(path)
    with_area = [_cell(path, cell) for cell in group.of_kind("cell")]
    library = Library(group.arguments[0] if group.arguments else path.stem, path, _by_name(with_area))
    library = Library(library.name, path, library.cells, _femtofarads(path, group))
    library.require()
    return library


def read_macros(path: str | Path) -> list[Cell]:
    """Memory macros of a Liberty file.

    Raises
    ------
    UserError : it cannot be read, is not Liberty, or holds no memory with an area and a size
    """
    path = Path(path)
    group = _read(path)
    types = {
        kind.arguments[0]: int(kind.attributes["bit_width"])
        for kind in group.of_kind("type")
        if kind.arguments and kind.attributes.get("bit_width", "").isdecimal()
    }
    cells = [_cell(path, cell, types) for cell in group.of_kind("cell")]
    macros = [cell for cell in cells if cell.size]
    if not macros:
        raise UserError(
            f"{path}: holds no memory macro (a cell with a memory group that gives address_width and "
            f"word_width); standard cells go with --liberty"
        )
    for macro in macros:
        if not macro.area:
            raise UserError(f"{path}: macro {macro.name} has no area; its Liberty must say how large it is")
    return macros


def _read(path: Path) -> Group:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not Liberty but a binary file; if it is packed, unpack it first") from None
    try:
        return parse_liberty(text)
    except ValueError as error:
        raise UserError(f"{path}: not Liberty: {error}") from None


def _femtofarads(path: Path, group: Group) -> float:
    scale, _, unit = group.attributes.get("capacitive_load_unit", "1, pf").partition(",")
    factors = {"ff": 1.0, "pf": 1000.0}
    if unit.strip().lower() not in factors:
        raise UserError(f"{path}: capacitive_load_unit must be in ff or pf, not {unit.strip()!r}")
    return _number(path, "library", "capacitive_load_unit", scale) * factors[unit.strip().lower()]


def _by_name(cells: list[Cell]) -> dict[str, Cell]:
    return {cell.name: cell for cell in cells}


def _cell(path: Path, group: Group, types: dict[str, int] | None = None) -> Cell:
    name = group.arguments[0] if group.arguments else "without a name"
    values = group.attributes
    sequential = None
    for storage in group.of_kind("ff", "latch"):
        state, inverse, *_ = (*storage.arguments, "", "")
        expressions = {
            key: _function(path, name, text)
            for key, text in storage.attributes.items()
            if key in ("clocked_on", "next_state", "clear", "preset", "data_in", "enable")
        }
        sequential = Sequential(kind=storage.kind, state=state, inverse=inverse, expressions=expressions)
    size = None
    for memory in group.of_kind("memory"):
        widths = [memory.attributes.get(key, "") for key in ("address_width", "word_width")]
        if not all(width.isdecimal() for width in widths):
            raise UserError(f"{path}: the memory group of {name} lacks address_width or word_width")
        size = (1 << int(widths[0]), int(widths[1]))
    pins = [_pin(path, name, pin, types or {}) for pin in group.of_kind("pin", "bus")]
    return Cell(
        name=name,
        area=_number(path, name, "area", values["area"]) if "area" in values else None,
        pins={pin.name: pin for pin in pins},
        sequential=sequential,
        clock_gate=values.get("clock_gating_integrated_cell"),
        size=size,
        dont_use=values.get("dont_use", "").lower() == "true",
    )


def _pin(path: Path, cell: str, group: Group, types: dict[str, int]) -> Pin:
    values = group.attributes
    name = group.arguments[0] if group.arguments else ""
    function = values.get("function")
    roles = [role for key, role in _GATE_ROLES.items() if values.get(key, "").lower() == "true"]
    return Pin(
        name=name,
        direction=values.get("direction", ""),
        width=types.get(values.get("bus_type", ""), 1),
        capacitance=_number(path, cell, "capacitance", values.get("capacitance", "0")),
        function=_function(path, cell, function) if function else None,
        three_state="three_state" in values,
        role=roles[0] if roles else None,
    )


def _function(path: Path, cell: str, text: str) -> Function:
    try:
        return Function(text)
    except ValueError as error:
        raise UserError(f"{path}: cell {cell}: {error}") from None


def _number(path: Path, cell: str, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{path}: {name} of {cell} must be a number, not {text!r}") from None
