"""The mapped netlist against the RTL, module by module: equal for every input and every state.

The RTL is taken as Yosys expands it to gates of its own, before anything of the library comes in: multipliers
of different structure are more than a solver can compare. Both are cut at their registers, which have the
same names, and at the instances of other modules: what remains is two combinational circuits, whose inputs
are states and ports, and whose outputs are next states, clocks and ports. ABC proves a miter of them
constant. Cells are what their Liberty functions say (``cells.cell_models``). A clock gate before flip-flops
counts as their enable: its latch makes it one.

Modules whose parts are all equal are equal, so the chip is, from any state on that both can be in: registers
that mapping has merged, or found to be constant, are taken to be so in the RTL too, and shown to stay so.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...cells.leaf import Sram
from ...errors import ToolError
from ...tools import yosys
from ..liberty import Library
from .mapping import Netlist, read_rtl, with_register_names

_TO_GATES = """\
techmap
opt_expr
dffunmap
simplemap
opt_clean
write_json {name}.json
"""
_RTL = "read_verilog rtl.v\n{read}\n" + _TO_GATES.format(name="rtl_gates")
# A flip-flop's reset that is tied off, once its cell is opened, is one no more.
_NETLIST = """\
read_verilog netlist.v
read_verilog cells.v
read_verilog -lib memories.v
hierarchy -check -top {top}
setattr -mod -set keep_hierarchy 1 {kept}
proc
flatten
opt_expr
opt_dff -nodffe -nosdff
opt_clean
""" + _TO_GATES.format(name="netlist_gates")
_MITER = """\
design -reset
read_json pair_{index}.json
miter -equiv -flatten rtl_{index} netlist_{index} miter_{index}
hierarchy -top miter_{index}
delete t:$scopeinfo
simplemap
aigmap
opt_clean
write_aiger miter_{index}.aig
"""
# ABC is reached through Yosys' command of that name, which wants its own module back at the end.
_CARRIER = """\
module carrier (input a, output y);
  assign y = !a;
endmodule
"""
_ABC = "read_verilog carrier.v; simplemap; abc -g AND -script abc.script carrier"
_DIFFERENCE = """\
read_json pair_{index}.json
miter -equiv -make_outcmp -flatten rtl_{index} netlist_{index} miter
hierarchy -top miter
tee -q -o difference.txt sat -prove trigger 0 -show-ports miter
"""


@dataclass(frozen=True, kw_only=True)
class Equality:
    """A module's verdict; ``points`` were compared, ``differs`` names some that differ, or says what does."""

    module: str
    equal: bool
    points: int
    differs: str = ""


def check_equivalence(
    rtl: str, netlist: Netlist, library: Library, memories: Sequence[Sram], work: Path
) -> list[Equality]:
    """Compare every module of a mapped netlist with its RTL.

    Parameters
    ----------
    rtl : the Verilog that was mapped
    work : an empty folder for the tools

    Raises
    ------
    ToolError : a tool fails
    """
    (work / "rtl.v").write_text(with_register_names(rtl), encoding="utf-8")
    (work / "netlist.v").write_text(netlist.verilog, encoding="utf-8")
    (work / "cells.v").write_text(netlist.models, encoding="utf-8")
    yosys(_RTL.format(read=read_rtl(netlist.top, memories)), cwd=work, what="the RTL as gates")
    models = re.findall(r"^module (\w+)", netlist.models, re.MULTILINE)
    gates = [name for name in models if library.cells[name].clock_gate]
    kept = " ".join([*netlist.modules, *gates])
    (work / "memories.v").write_text("".join(sram.stub(netlist.top) for sram in memories), encoding="utf-8")
    script = _NETLIST.format(top=netlist.top, kept=kept)
    yosys(script, cwd=work, what="the netlist as gates")
    texts = ((work / f"{name}.json").read_text() for name in ("rtl_gates", "netlist_gates"))
    sides = [json.loads(text)["modules"] for text in texts]
    verdicts = {}
    for index, name in enumerate(netlist.modules):
        cut = _Cut(sides[0][name], sides[1][name], library)
        if cut.problem:
            verdicts[name] = Equality(module=name, equal=False, points=cut.points, differs=cut.problem)
            continue
        mine, other = cut.modules()
        pair = {"creator": "hyperdrive", "modules": {f"rtl_{index}": mine, f"netlist_{index}": other}}
        (work / f"pair_{index}.json").write_text(json.dumps(pair))
        verdicts[name] = Equality(module=name, equal=True, points=cut.points)
    indices = {name: index for index, name in enumerate(netlist.modules) if verdicts[name].equal}
    unproven = _unproven(list(indices.values()), work)
    for name, index in indices.items():
        if index in unproven:
            found = _difference(index, work)
            verdicts[name] = Equality(module=name, equal=False, points=verdicts[name].points, differs=found)
    return list(verdicts.values())


def _unproven(indices: list[int], work: Path) -> set[int]:
    """Those whose miter ABC does not show to be 0."""
    if not indices:
        return set()
    yosys("".join(_MITER.format(index=index) for index in indices), cwd=work, what="miters")
    script = ["write_blif carrier.blif"]
    for index in indices:
        script += [f"read_aiger miter_{index}.aig", "strash", "dprove", f"write_status status_{index}"]
    script += ["read_blif carrier.blif", ""]
    (work / "abc.script").write_text("\n".join(script))
    (work / "carrier.v").write_text(_CARRIER)
    yosys(_ABC, cwd=work, what="equivalence check by ABC")
    verdicts = {index: _verdict(work / f"status_{index}") for index in indices}
    return {index for index, equal in verdicts.items() if not equal}


def _verdict(path: Path) -> bool:
    """ABC has shown that a miter is never 1."""
    answer = path.read_text() if path.is_file() else "none"
    word = answer.split()[0]
    if word not in ("snl_SAT", "snl_UNSAT"):
        raise ToolError(f"equivalence check by ABC: it answers {answer.splitlines()[0]!r} in {path.name}")
    return word == "snl_UNSAT"


def _difference(index: int, work: Path) -> str:
    """Points that differ for some input, by Yosys' own solver."""
    yosys(_DIFFERENCE.format(index=index), cwd=work, what="search for a difference")
    text = (work / "difference.txt").read_text()
    points = re.findall(r"^\s*\\cmp_(\S+)\s+0\s", text, re.MULTILINE)
    return ", ".join(points[:3]) + (f" and {len(points) - 3} more" if len(points) > 3 else "") or "a point"


class _Side:
    """A module as gates: what is between its ports, its registers and its instances."""

    def __init__(self, module: dict):
        self.ports = module["ports"]
        self.gates: dict[str, dict] = {}
        self.registers: dict[int, dict] = {}  # by the net of their output
        self.instances: dict[str, dict] = {}
        self.names: dict[str, object] = {}  # of bits, as name[index], to nets
        self.aliases: dict[int, list[str]] = {}
        for name, cell in module["cells"].items():
            kind = cell["type"]
            if re.match(r"\$_(S?DFF|DLATCH|FF|SR|ALDFF)", kind):
                self.registers[cell["connections"]["Q"][0]] = cell
            elif kind.startswith("$"):
                self.gates[name] = cell
            else:
                self.instances[name.removeprefix("\\")] = cell
        for name, net in module["netnames"].items():
            if not net["hide_name"]:
                for at, bit in enumerate(net["bits"], net.get("offset", 0)):
                    whole = re.fullmatch(r"(.*)\[(\d+)\]", name)
                    self._name(f"{name}[{at}]" if len(net["bits"]) > 1 or not whole else name, bit)
        self._next = 1 + max(
            (bit for net in module["netnames"].values() for bit in net["bits"] if type(bit) is int), default=1
        )
        cells = module["cells"].values()
        bits = (b for cell in cells for bits in cell["connections"].values() for b in bits if type(b) is int)
        self._next = max(self._next, 1 + max(bits, default=1))

    def _name(self, name: str, bit: object) -> None:
        self.names[name] = bit
        if type(bit) is int:
            self.aliases.setdefault(bit, []).append(name)

    def new(self) -> int:
        self._next += 1
        return self._next - 1

    def gate(self, kind: str, **pins: object) -> int:
        """The output of a new gate."""
        out = self.new()
        connections = {pin: [bit] for pin, bit in pins.items()} | {"Y": [out]}
        directions = dict.fromkeys(pins, "input") | {"Y": "output"}
        self.gates[f"$added{out}"] = {
            "hide_name": 1,
            "type": kind,
            "parameters": {},
            "attributes": {},
            "port_directions": directions,
            "connections": connections,
        }
        return out

    def open_clock_gates(self, library: Library) -> None:
        """Clock gates of the library become enables of their flip-flops, or a latch and an AND."""
        cells = library.cells
        gates = {
            n: c for n, c in self.instances.items() if c["type"] in cells and cells[c["type"]].clock_gate
        }
        used = Counter(
            bit
            for cell in [*self.gates.values(), *self.instances.values(), *self.registers.values()]
            for pin, bits in cell["connections"].items()
            for bit in bits
            if pin != "C" or "DFF" not in cell["type"]
        )
        used.update(bit for port in self.ports.values() for bit in port["bits"])
        for name, gate in gates.items():
            cell = cells[gate["type"]]
            pins = {role: gate["connections"].get(cell.pin_of(role) or "", ["0"])[0] for role in _ROLES}
            enable = pins["enable"]
            if pins["test"] not in ("0", "x"):
                enable = self.gate("$_OR_", A=enable, B=pins["test"])
            del self.instances[name]
            if used[pins["out"]] > 1:  # the clock gate itself is one
                state = self.new()
                self.registers[state] = {
                    "type": "$_DLATCH_N_",
                    "connections": {"D": [enable], "E": [pins["clock"]], "Q": [state]},
                }
                self.gates[f"$gate_{name}"] = {
                    "hide_name": 1,
                    "type": "$_AND_",
                    "parameters": {},
                    "attributes": {},
                    "port_directions": {"A": "input", "B": "input", "Y": "output"},
                    "connections": {"A": [pins["clock"]], "B": [state], "Y": [pins["out"]]},
                }
                continue
            for out, register in self.registers.items():
                if register["connections"].get("C") == [pins["out"]]:
                    old = register["connections"]["D"][0]
                    register["connections"]["D"] = [self.gate("$_MUX_", A=out, B=old, S=enable)]
                    register["connections"]["C"] = [pins["clock"]]


_ROLES = ("clock", "enable", "test", "out")


class _Cut:
    """Two modules cut alike: circuits without registers and instances, with equal ports."""

    def __init__(self, rtl: dict, netlist: dict, library: Library):
        self._rtl, self._netlist = _Side(rtl), _Side(netlist)
        self._netlist.open_clock_gates(library)
        self.problem = ""
        self._ports: list[tuple[str, str, list, list]] = []  # name, direction, bits of either side
        self._substitutes: dict[int, object] = {}  # in the RTL: registers that the netlist has as one
        self._module_ports()
        self._instance_ports()
        self._register_ports()

    @property
    def points(self) -> int:
        """Bits that are compared."""
        return sum(len(bits) for _, direction, bits, _ in self._ports if direction == "output")

    def modules(self) -> tuple[dict, dict]:
        """Both circuits for Yosys' JSON."""
        return (
            _module(self._rtl, [(n, d, a) for n, d, a, _ in self._ports], self._substitutes),
            _module(self._netlist, [(n, d, b) for n, d, _, b in self._ports], {}),
        )

    def _differs(self, what: str) -> None:
        self.problem = self.problem or what

    def _module_ports(self) -> None:
        mine, others = self._rtl.ports, self._netlist.ports
        if {n: (p["direction"], len(p["bits"])) for n, p in mine.items()} != {
            n: (p["direction"], len(p["bits"])) for n, p in others.items()
        }:
            return self._differs("its ports")
        for name, port in mine.items():
            self._ports.append((name, port["direction"], port["bits"], others[name]["bits"]))

    def _instance_ports(self) -> None:
        mine, others = self._rtl.instances, self._netlist.instances
        if {n: c["type"] for n, c in mine.items()} != {n: c["type"] for n, c in others.items()}:
            return self._differs("the modules in it")
        for name, cell in mine.items():
            directions = cell["port_directions"]
            for pin, direction in directions.items():
                bits = cell["connections"].get(pin, [])
                other = others[name]["connections"].get(pin, [])
                width = max(len(bits), len(other))
                flipped = "input" if direction == "output" else "output"
                sides = ((self._rtl, bits), (self._netlist, other))
                if flipped == "input":  # what nothing reads has no net
                    bits, other = (
                        [bit if type(bit) is int else side.new() for bit in found or [None] * width]
                        for side, found in sides
                    )
                else:
                    bits, other = (found or ["0"] * width for _, found in sides)
                if len(bits) != len(other):
                    return self._differs(f"the width of {name}.{pin}")
                if width:
                    self._ports.append((f"{name}.{pin}", flipped, bits, other))

    def _register_ports(self) -> None:
        mine, others = self._rtl, self._netlist
        pairs: dict[int, list[int]] = {}
        open_mine, taken = [], set()
        for net in mine.registers:
            targets = [others.names[name] for name in mine.aliases.get(net, ()) if name in others.names]
            kept = [bit for bit in targets if bit in others.registers]
            constant = [bit for bit in targets if bit in ("0", "1")]
            if kept:
                pairs.setdefault(kept[0], []).append(net)
                taken.add(kept[0])
            elif constant:
                self._substitutes[net] = constant[0]
                data = mine.registers[net]["connections"]["D"]
                self._ports.append((f"next {self._label(net)}", "output", data, [constant[0]]))
            else:
                open_mine.append(net)
        open_others = [net for net in others.registers if net not in taken]
        if len(open_mine) == len(open_others) == 1:  # a cell's own latch has a name of its own
            pairs[open_others[0]] = open_mine
            open_mine, open_others = [], []
        # States that only one side has: what depends on them differs, and what does not is equal.
        for net in open_mine:
            self._ports.append((f"RTL state {net}", "input", [net], [others.new()]))
        for net in open_others:
            self._ports.append((f"netlist state {net}", "input", [mine.new()], [net]))
        for other, nets in pairs.items():
            first = nets[0]
            self._ports.append((f"state {self._label(first)}", "input", [first], [other]))
            for net in nets:
                if net != first:
                    self._substitutes[net] = first
                self._compare(net, mine.registers[net], others.registers[other])

    def _compare(self, net: int, register: dict, other: dict) -> None:
        """Everything that decides a register's next state: data, and clock or enable."""
        label = self._label(net)
        kinds = [re.sub(r"(?<=\$_DLATCH_)[NP]", "", cell["type"]) for cell in (register, other)]
        if kinds[0] != kinds[1]:
            return self._differs(f"the kind of register {label}: {kinds[0]} and {kinds[1]}")
        for pin in sorted(register["connections"].keys() - {"Q"}):
            bits = []
            for side, cell in ((self._rtl, register), (self._netlist, other)):
                bit = cell["connections"][pin][0]
                low = pin == "E" and cell["type"].startswith("$_DLATCH_N")
                bits.append(side.gate("$_NOT_", A=bit) if low else bit)
            name = "next" if pin == "D" else pin
            self._ports.append((f"{name} {label}", "output", [bits[0]], [bits[1]]))

    def _label(self, net: int) -> str:
        return min(self._rtl.aliases.get(net, [f"without a name, net {net}"]), key=len)


def _module(side: _Side, ports: list[tuple[str, str, list]], substitutes: dict[int, object]) -> dict:
    """A module in Yosys' JSON. A bit may be an input once: further ones are made equal to it by the miter."""

    def bits(found: list) -> list:
        return [_constant(substitutes.get(bit, bit)) for bit in found]

    cells = {
        name: cell | {"connections": {pin: bits(found) for pin, found in cell["connections"].items()}}
        for name, cell in side.gates.items()
    }
    named = {
        _port_name(name): {"direction": direction, "bits": bits(found) if direction == "output" else found}
        for name, direction, found in ports
    }
    return {"attributes": {}, "ports": named, "cells": cells, "netnames": {}}


def _constant(bit: object) -> object:
    return "0" if bit in ("x", "z") else bit


def _port_name(name: str) -> str:
    return re.sub(r"\s+", ":", name)


def equality_lines(found: list[Equality]) -> Iterator[str]:
    """What differs, a line per module."""
    for module in found:
        if not module.equal:
            yield f"{module.module}: the netlist differs from the RTL in {module.differs}"
