"""The area of a mapped chip by what it is for, beside the paper's."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..liberty import Library
from .mapping import Netlist
from .memories import Cover

# Parts of the chip by the class of a module right below the top; everything else is control.
_BLOCKS = {
    "tile": "tiles",
    "weight_buffer": "weight buffer",
    "feature_memory": "feature memory",
    "border": "border",
    "data_distribution": "distribution",
}
# Units of arith/ by class: what they are where a TPU has them, and elsewhere in a tile.
_UNITS = {
    "float_adder": ("TPU adders", "epilogue adders"),
    "fixed_adder": ("TPU adders", "epilogue adders"),
    "exact_tpu": ("TPU adders", "TPU adders"),
    "float_multiplier": ("multipliers", "multipliers"),
    "fixed_multiplier": ("multipliers", "multipliers"),
    "exact_term": ("converters", "converters"),
    "fixed_term": ("converters", "converters"),
    "exact_rounder": ("rounders", "rounders"),
    "fixed_rounder": ("rounders", "rounders"),
}
# Registers of a tile, those between the stages of its units too, are no arithmetic.
ARITHMETIC, REGISTERS, TILE_REST = "arithmetic", "registers of tiles", "rest of tiles"
SRAM, LOGIC = "SRAM", "logic"
# Leaf modules (``cells.leaf``) outside of the tiles, whose gates are among their registers.
_CELLS = {"latch_row": "latches", "clock_gate": "clock gates"}
_ORDER = (ARITHMETIC, REGISTERS, TILE_REST, "weight buffer", "feature memory", "border", "distribution")

# The paper's section VI in mm2 of 22FDX, and the area of its NAND2 there in um2.
PAPER_MM2 = {(ARITHMETIC, ""): 0.32, ("weight buffer", ""): 0.115, ("feature memory", SRAM): 1.24}
PAPER_CORE_MM2 = 1.92
PAPER_NAND2_UM2 = 0.199


@dataclass
class Part:
    """An area in um2 and how many modules it is made of."""

    area: float = 0.0
    instances: int = 0


@dataclass(frozen=True, kw_only=True)
class Areas:
    """Area of a chip by block and part of it; ``nand2`` is the unit of gate equivalents, all in um2."""

    blocks: dict[str, dict[str, Part]]
    nand2: float

    @property
    def total(self) -> float:
        return sum(map(self.of, self.blocks))

    def of(self, block: str) -> float:
        return sum(part.area for part in self.blocks.get(block, {}).values())

    @property
    def arithmetic_mge(self) -> float:
        """Million gate equivalents of adders, multipliers, converters and rounders, without registers."""
        return self.of(ARITHMETIC) / self.nand2 / 1e6


def module_class(name: str, top: str) -> str:
    """The class in snake case that a module was made from: without the top's name and without a number."""
    return re.sub(r"_\d+$", "", name.removeprefix(f"{top}_"))


def block_areas(netlist: Netlist, library: Library, covers: Sequence[Cover]) -> Areas:
    """Add up cells, and what stands for the memories."""
    of_memory = {f"{netlist.top}_{cover.sram.name}": cover.area for cover in covers}
    blocks: dict[str, dict[str, Part]] = {}

    def add(block: str, part: str, area: float, count: int) -> None:
        found = blocks.setdefault(block, {}).setdefault(part, Part())
        found.area += area * count
        found.instances += count if area else 0

    def walk(name: str, count: int, block: str, in_tpu: bool) -> None:
        kind = module_class(name, netlist.top)
        if name in of_memory:
            add(block, SRAM, of_memory[name], count)
            return
        module = netlist.modules[name]
        areas = {True: 0.0, False: 0.0}
        for cell, number in module.cells.items():
            areas[bool(library.cells[cell].storage)] += number * (library.cells[cell].area or 0.0)
        if block == "tiles":
            unit = _UNITS[kind][not in_tpu] if kind in _UNITS else None
            add(REGISTERS, "", areas[True], count)
            add(ARITHMETIC if unit else TILE_REST, unit or "", areas[False], count)
        else:
            add(block, _CELLS.get(kind, LOGIC), sum(areas.values()), count)
        for child, number in module.children.items():
            inside = block
            if name == netlist.top:
                inside = _BLOCKS.get(module_class(child, netlist.top), "control")
            walk(child, count * number, inside, in_tpu or kind in ("tpu", "exact_tpu"))

    walk(netlist.top, 1, "control", False)
    order = [name for name in _ORDER if name in blocks] + [name for name in blocks if name not in _ORDER]
    return Areas(blocks={name: blocks[name] for name in order}, nand2=library.nand2.area or 0.0)
