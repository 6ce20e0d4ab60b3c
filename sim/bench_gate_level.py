"""One digits image through the gates of a chip, mapped to a library: the self-checking testbench in Icarus.

    python sim/bench_gate_level.py sg13g2_stdcell_typ_1p20V_25C.lib
    python sim/bench_gate_level.py LIBRARY.lib --chip tiny -o build/gate_level

Prints what the testbench says, and how long mapping and simulation took. Ends with status 1 unless it passes.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from hyperdrive_hdl.compiler.compile import compile_model
from hyperdrive_hdl.data import digits_images, digits_model
from hyperdrive_hdl.errors import HyperdriveError
from hyperdrive_hdl.presets import load_chip
from hyperdrive_hdl.targets.asic.mapping import synthesise
from hyperdrive_hdl.targets.asic.memories import find_memories, memory_models
from hyperdrive_hdl.targets.liberty import read_library
from hyperdrive_hdl.targets.ports import ASIC
from hyperdrive_hdl.targets.testbench import export_testbench
from hyperdrive_hdl.targets.verilog import export_verilog


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("liberty", type=Path, help="standard cells")
    parser.add_argument("--chip", default="tiny", metavar="PRESET|FILE.toml")
    parser.add_argument("-o", "--output", type=Path, default=Path("build", "gate_level"), metavar="DIR")
    arguments = parser.parse_args()
    if shutil.which("iverilog") is None:
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
    started = time.monotonic()
    with console.status("simulating gates"):
        sources = [f"{bench.module}.v", *models]
        subprocess.run(["iverilog", "-g2001", "-o", "testbench", *sources], cwd=work, check=True)
        done = subprocess.run(["./testbench"], cwd=work, check=True, capture_output=True, text=True)
    print(done.stdout.strip())
    print(f"simulated in {time.monotonic() - started:.0f} s")
    sys.exit("PASS" not in done.stdout)


if __name__ == "__main__":
    main()
