"""What a chip team looks for in exported Verilog: its memories and special cells, where and how many."""

import re
from collections import Counter
from collections.abc import Iterable

from ..cells.leaf import Cell, ClockGate, LatchRow, LatchRows, Sram
from ..cells.macros import Technology
from ..config import ChipConfig

SRAM, LATCHES, FLIP_FLOPS, ARRAY, CLOCK_GATE, LATCH = (
    "sram", "latches", "flip-flops", "array", "clock gate", "latch row"
)  # fmt: skip


def manifest_of(
    config: ChipConfig,
    top: str,
    rtlil: str,
    cells: Iterable[Cell],
    *,
    kind: str,
    technology: Technology | None = None,
) -> dict:
    """The manifest of a chip, whose modules are ``rtlil`` and ``cells``.

    Sizes of ``memories`` are those of one instance; ``count`` is of the whole chip, ``within`` of each module
    that has some of them. ``total`` is of the whole chip; its latches are those of rows and of clock gates.
    """
    cells = list(cells)
    parts = module_parts(rtlil, top, cells)
    counts = _counts(parts, top)
    memories = [_cell_memory(cell, top, technology) for cell in cells if isinstance(cell, (Sram, LatchRows))]
    memories += _arrays(rtlil, FLIP_FLOPS if cells else ARRAY)
    special = [_special(cell, top, technology) for cell in cells if isinstance(cell, (ClockGate, LatchRow))]
    for entry in (*memories, *special):
        module = entry["module"]
        entry["count"] = counts[module]
        entry["within"] = {parent: own[module] for parent, own in sorted(parts.items()) if own[module]}
        if "bits" in entry:
            entry["total_bits"] = entry["bits"] * entry["count"]
    bits = Counter()
    for entry in memories:
        bits[entry["kind"]] += entry["total_bits"]
    own = {f"{top}_{cell.name}": cell.latches for cell in cells}
    gates = f"{top}_{ClockGate().name}"
    return {
        "chip": config.name,
        "top": top,
        "cells": kind,
        "signature": f"0x{config.signature:08x}",
        "config": config.to_dict(),
        "memories": memories,
        "special_cells": special,
        "modules": {name: counts[name] for name in sorted(counts)},
        "total": {
            "memory_bits": dict(sorted(bits.items())),
            "latches": sum(latches * counts[name] for name, latches in own.items()),
            "clock_gates": counts[gates] if cells else 0,
        },
    }


def module_parts(rtlil: str, top: str, cells: Iterable[Cell]) -> dict[str, Counter[str]]:
    """For each module, how many of which others are directly in it."""
    parts: dict[str, Counter[str]] = {}
    for module in re.split(r"^(?=module )", rtlil, flags=re.MULTILINE)[1:]:
        name = re.match(r"module \\(\S+)", module)
        if name:
            parts[name[1]] = Counter(re.findall(r"^  cell \\(\S+) ", module, re.MULTILINE))
    for cell in cells:
        parts[f"{top}_{cell.name}"] = Counter(
            {f"{top}_{part.name}": count for part, count in cell.parts.items()}
        )
    return parts


def parts_first(parts: dict[str, Counter[str]], top: str) -> list[str]:
    """All modules under ``top``, in an order that has none before what is in it."""
    found: dict[str, None] = {}

    def visit(name: str) -> None:
        if name not in found:
            for part in parts[name]:
                visit(part)
            found[name] = None

    visit(top)
    return list(found)


def _counts(parts: dict[str, Counter[str]], top: str) -> Counter[str]:
    """Of every module, in the whole chip."""
    counts: Counter[str] = Counter()

    def add(name: str, many: int) -> None:
        counts[name] += many
        for part, count in parts[name].items():
            add(part, many * count)

    add(top, 1)
    return counts


def _ports(cell: Cell) -> list[dict]:
    return [{"name": pin.name, "direction": pin.direction, "width": pin.width} for pin in cell.pins]


def _cell_memory(cell: Sram | LatchRows, top: str, technology: Technology | None) -> dict:
    entry = {"module": f"{top}_{cell.name}", "name": "cells", "depth": cell.depth}
    if isinstance(cell, LatchRows):
        size = {"kind": LATCHES, "width": cell.lanes, "bits": cell.depth * cell.lanes}
        return entry | size | {"ports": _ports(cell)}
    size = {"kind": SRAM, "width": cell.width, "bits": cell.depth * cell.width}
    entry |= size | {"mask_bits": cell.masks, "bits_per_mask_bit": cell.granularity, "ports": _ports(cell)}
    if technology and technology.macros:
        macro = technology.macro(cell)
        stacked, beside = macro.layout(cell)
        entry["macro"] = {
            "name": macro.vendor.cell,
            "depth": macro.depth,
            "width": macro.width,
            "stacked": stacked,
            "side_by_side": beside,
        }
    return entry


def _special(cell: ClockGate | LatchRow, top: str, technology: Technology | None) -> dict:
    gate = isinstance(cell, ClockGate)
    entry = {"module": f"{top}_{cell.name}", "kind": CLOCK_GATE if gate else LATCH}
    if isinstance(cell, LatchRow):
        entry["width"] = cell.lanes
    vendor = technology and (technology.clock_gate if gate else technology.latch)
    return entry | {"ports": _ports(cell), **({"cell": vendor.cell} if vendor else {})}


def _arrays(rtlil: str, kind: str) -> list[dict]:
    """Memories that the Verilog has as arrays of registers; those of one word are registers."""
    found = []
    for module in re.split(r"^(?=module )", rtlil, flags=re.MULTILINE)[1:]:
        name = re.match(r"module \\(\S+)", module)
        for width, depth, memory in re.findall(
            r"^  memory width (\d+) size (\d+) \\(\S+)$", module, re.MULTILINE
        ):
            if name and int(depth) > 1:
                found.append(
                    {
                        "module": name[1],
                        "name": memory,
                        "depth": int(depth),
                        "kind": kind,
                        "width": int(width),
                        "bits": int(width) * int(depth),
                    }
                )
    return found
