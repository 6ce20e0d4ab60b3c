"""Equal modules once: a library of modules that parents instantiate by name.

Amaranth writes one module per instance, so 784 equal TPUs become 784 modules and a minute of elaboration.
Components of this package place their repeated children with ``instantiate``. Simulated in Python or built
for an FPGA, that adds an ordinary submodule. Given a ``ModuleLibrary`` as the platform, the child is
converted once and every further place becomes an ``Instance`` of that module: elaboration, the RTLIL and
the C++ build grow with the number of different modules, not with K x M x N.
"""

import re
from functools import partial
from typing import Any, cast

from amaranth.back import rtlil
from amaranth.hdl import ClockSignal, Instance, Module, ResetInserter, ResetSignal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In


def instantiate(
    m: Module,
    platform: object,
    name: str,
    kind: type[wiring.Component] | partial,
    *,
    reset: Value | None = None,
    **parameters,
) -> Any:
    """Place a ``kind(**parameters)`` in ``m`` as submodule ``name`` and return its interface.

    With ``reset`` that signal is its reset, in place of the domain's: it must be high in, or right after, the
    cycles in which the domain's is.
    """
    if isinstance(kind, partial):
        merged = kind.keywords | parameters
        return instantiate(m, platform, name, cast(type, kind.func), reset=reset, **merged)
    if isinstance(platform, ModuleLibrary):
        return platform.instantiate(m, name, kind, parameters, reset)
    component = kind(**parameters)
    m.submodules[name] = component if reset is None else ResetInserter(reset)(component)
    if isinstance(platform, ComponentRecord):
        platform.components[name] = component
    return component


class ComponentRecord:
    """As ``platform``: elaborates as usual and remembers what was placed, by name, for simulators."""

    def __init__(self) -> None:
        self.components: dict[str, wiring.Component] = {}


class ModuleLibrary:
    """The different modules of a design, each as RTLIL text. Passed as ``platform`` while elaborating.

    A module is named by its class in snake case; where one class is used with several parameters, later
    ones get a number, in the order in which elaboration meets them, so that equal configurations give equal
    text.
    """

    def __init__(self) -> None:
        self._modules: dict[tuple, tuple[str, wiring.Component, bool]] = {}
        self._names: set[str] = set()
        self._texts: list[str] = []

    def convert(self, top: wiring.Component, name: str) -> str:
        """RTLIL of ``top`` as module ``name`` with every module under it, children first."""
        self._names.add(name)
        text = rtlil.convert(top, name=name, platform=self, emit_src=False)
        return "".join([*self._texts, _unchecked_reads(_plain_names(text))])

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
            connections |= {"i_clk": ClockSignal(), "i_rst": ResetSignal() if reset is None else reset}
        m.submodules[name] = Instance(module, **connections)
        return ports

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
