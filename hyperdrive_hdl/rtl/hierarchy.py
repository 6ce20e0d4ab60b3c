"""Equal modules once: a library of modules that parents instantiate by name.

Amaranth writes one module per instance, so 784 equal TPUs become 784 modules and a minute of elaboration.
Components of this package place their repeated children with ``instantiate``. Simulated in Python or built
for an FPGA, that adds an ordinary submodule. Given a ``ModuleLibrary`` as the platform, the child is
converted once and every further place becomes an ``Instance`` of that module: elaboration, the RTLIL and
the C++ build grow with the number of different modules, not with K x M x N.

For an ASIC a library places ``cells``, modules that are Verilog by hand: SRAMs and latches in place of
memories, and gates for the clocks of children that say when they are ``active``.
"""

import re
from functools import partial
from typing import Any, cast

from amaranth.back import rtlil
from amaranth.hdl import ClockSignal, Instance, Module, ResetInserter, ResetSignal, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from ..cells.leaf import SCAN_ENABLE, Cell, ClockGate, with_parts


def instantiate(
    m: Module,
    platform: object,
    name: str,
    kind: type[wiring.Component] | partial,
    *,
    reset: Value | None = None,
    active: Signal | None = None,
    **parameters,
) -> Any:
    """Place a ``kind(**parameters)`` in ``m`` as submodule ``name`` and return its interface.

    With ``reset`` that signal is its reset, in place of the domain's: it must be high in, or right after, the
    cycles in which the domain's is. In cycles in which ``active`` is low it needs no clock, but for a reset;
    only who ``gates_clocks`` makes use of it.
    """
    if isinstance(kind, partial):
        merged = kind.keywords | parameters
        return instantiate(m, platform, name, cast(type, kind.func), reset=reset, active=active, **merged)
    if isinstance(platform, ModuleLibrary):
        return platform.instantiate(m, name, kind, parameters, reset, active)
    component = kind(**parameters)
    m.submodules[name] = component if reset is None else ResetInserter(reset)(component)
    if isinstance(platform, ComponentRecord):
        platform.components[name] = component
    return component


def gates_clocks(platform: object) -> bool:
    """What is ``active`` for is done: worth to compute it."""
    return isinstance(platform, ModuleLibrary) and platform.gates_clocks


def cell_library(platform: object) -> "ModuleLibrary | None":
    """Who places cells where there would be a memory, if anybody does."""
    return platform if isinstance(platform, ModuleLibrary) and platform.has_cells else None


class ComponentRecord:
    """As ``platform``: elaborates as usual and remembers what was placed, by name, for simulators."""

    def __init__(self) -> None:
        self.components: dict[str, wiring.Component] = {}


class ModuleLibrary:
    """The different modules of a design, each as RTLIL text. Passed as ``platform`` while elaborating.

    A module is named by its class in snake case; where one class is used with several parameters, later
    ones get a number, in the order in which elaboration meets them, so that equal configurations give equal
    text.

    Parameters
    ----------
    cells : memories and clocks are an ASIC's: modules with cells below them, and the top, get an input
        ``scan_enable``, which the RTL knows nothing of
    """

    def __init__(self, *, cells: bool = False) -> None:
        self.has_cells = cells
        self._cells: dict[Cell, None] = {}
        self._gates: list[tuple[Module, Signal, Signal]] = []  # parent, active, its gated clock
        self._modules: dict[tuple, tuple[str, wiring.Component, bool]] = {}
        self._names: set[str] = set()
        self._texts: list[str] = []

    def convert(self, top: wiring.Component, name: str) -> str:
        """RTLIL of ``top`` as module ``name`` with every module under it, children first."""
        self._names.add(name)
        text = rtlil.convert(top, name=name, platform=self, emit_src=False)
        whole = "".join([*self._texts, _unchecked_reads(_plain_names(text))])
        return _scanned(whole, {cell.name for cell in self._cells if cell.needs_scan})

    @property
    def gates_clocks(self) -> bool:
        """Children that are not ``active`` get no clock."""
        return self.has_cells

    @property
    def cells(self) -> list[Cell]:
        """The cells that were placed, and what they are made of, parts first."""
        return with_parts(list(self._cells))

    def place(self, m: Module, name: str, cell: Cell, wires: dict[str, Value | Signal]) -> None:
        """A cell as submodule ``name``, its pins connected but for those of test."""
        connections = {
            f"{'i' if pin.is_input else 'o'}_{pin.name}": wires[pin.name]
            for pin in cell.pins
            if pin.name != SCAN_ENABLE
        }
        self._cells[cell] = None
        m.submodules[name] = Instance(cell.name, **connections)

    @property
    def module_names(self) -> list[str]:
        """Names of the shared modules, children before parents."""
        return [name for name, _, _ in self._modules.values()]

    def instantiate(
        self,
        m: Module,
        name: str,
        kind: type[wiring.Component],
        parameters: dict,
        reset: Value | None = None,
        active: Signal | None = None,
    ) -> Any:
        key = (kind, tuple(sorted(parameters.items())))
        if key not in self._modules:
            prototype = kind(**parameters)
            module = self._name(kind)
            text = rtlil.convert(prototype, name=module, platform=self, emit_src=False)
            clocked = re.search(r"^  wire width 1 input \d+\s+\\clk$", text, re.MULTILINE) is not None
            self._texts.append(_unchecked_reads(_plain_names(text)))
            self._modules[key] = (module, prototype, clocked)
        module, prototype, clocked = self._modules[key]
        ports = prototype.signature.create(path=(name,))
        connections = {}
        for path, member, value in prototype.signature.flatten(ports):
            direction = "i" if member.flow is In else "o"
            connections[f"{direction}_{'__'.join(map(str, path))}"] = Value.cast(value)
        if clocked:
            gated = active is not None and self.gates_clocks
            clock = self._gated_clock(m, active) if gated else ClockSignal()
            connections |= {"i_clk": clock, "i_rst": ResetSignal() if reset is None else reset}
        m.submodules[name] = Instance(module, **connections)
        return ports

    def _gated_clock(self, m: Module, active: Signal) -> Signal:
        """The clock of all children of ``m`` that are ``active`` together."""
        for parent, when, gated in self._gates:
            if parent is m and when is active:
                return gated
        gated = Signal(name=f"{active.name}_clk")
        wires = {"clk": ClockSignal(), "enable": active | ResetSignal(), "gated": gated}
        self.place(m, f"{active.name}_clock", ClockGate(), wires)
        self._gates.append((m, active, gated))
        return gated

    def _name(self, kind: type) -> str:
        base = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__).lower()
        name, count = base, 1
        while name in self._names:
            count += 1
            name = f"{base}_{count}"
        self._names.add(name)
        return name


def _plain_names(text: str) -> str:
    """Modules that Amaranth names ``parent.child`` as ``parent_child``: no escaped names in the Verilog."""
    return re.sub(
        r"^(module|  cell) (\\\S+)", lambda m: f"{m[1]} {m[2].replace('.', '_')}", text, flags=re.MULTILINE
    )


def _scanned(text: str, cells: set[str]) -> str:
    """Modules that have some of these cells below them get an input ``scan_enable`` and pass it on.

    Children come before their parents in ``text``.
    """
    if not cells:
        return text
    needing, done = set(cells), []
    for module in re.split(r"(?=^module )", text, flags=re.MULTILINE):
        name = re.match(r"module \\(\S+)", module)
        wired, places = re.subn(
            r"^  cell \\(\S+) \\\S+\n",
            lambda m: f"{m[0]}    connect \\{SCAN_ENABLE} \\{SCAN_ENABLE}\n" if m[1] in needing else m[0],
            module,
            flags=re.MULTILINE,
        )
        if name and places and wired != module:
            needing.add(name[1])
            last = max(
                int(port) for port in re.findall(r"^  wire .*(?:in|out)put (\d+) ", module, re.MULTILINE)
            )
            wired = wired.replace("\n", f"\n  wire width 1 input {last + 1} \\{SCAN_ENABLE}\n", 1)
        done.append(wired)
    return "".join(done)


def _unchecked_reads(text: str) -> str:
    """Memories with the attribute ``no_rw_check``: what a word reads as while it is written does not matter.

    Amaranth cannot say that of a port, and Yosys heeds the attribute only of ports that it makes itself.
    """
    lines, unchecked, masked, marked = text.split("\n"), set(), False, False
    for at, line in enumerate(lines):
        if line.startswith("  attribute "):
            marked |= line == "  attribute \\no_rw_check 1"
            continue
        if line.startswith("module "):
            unchecked.clear()
        elif line.startswith("  memory ") and marked:
            unchecked.add(line.rpartition("\\")[2])
        elif line.startswith("    parameter \\MEMID "):
            masked = line.rpartition("\\")[2].strip('"') in unchecked
        elif line.startswith("    parameter \\COLLISION_X_MASK ") and masked:
            start, quote, bits = line.partition("'")
            lines[at] = start + quote + "1" * len(bits)
        marked = False
    return "\n".join(lines)
