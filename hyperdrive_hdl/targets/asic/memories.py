"""The chip's SRAM wrappers and what covers them: macros side by side and stacked, or an area per bit."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...cells.leaf import Sram
from ...cells.macros import layout, wrong_size
from ...errors import UserError
from ..liberty import Cell
from ..manifest import SRAM

# Of the paper's chip: 1.24 mm2 of SRAM for 6,422,528 bits, at 0.199 um2 per NAND2 of 22FDX (section VI).
PAPER_NAND2_PER_BIT = 1.24e6 / 6_422_528 / 0.199
PER_BIT_SOURCE = "the paper's SRAM: 1.24 mm2 for 6,422,528 bits = 0.97 NAND2 of 22FDX (0.199 um2) per bit"
# Macros of which less than this is used do not suit: an area per bit is nearer to what will be there.
LEAST_USE = 1 / 4


@dataclass(frozen=True, kw_only=True)
class Cover:
    """What stands for a wrapper: ``stacked`` x ``beside`` of a macro, or bits. ``area`` in um2, of one
    wrapper."""

    sram: Sram
    area: float
    macro: str | None = None
    stacked: int = 0
    beside: int = 0


def find_memories(manifest: dict) -> list[Sram]:
    """The SRAM wrappers of an exported chip. Its other memories are registers and latches."""
    return [Sram(entry["depth"], entry["width"], entry["mask_bits"]) for entry in _entries(manifest)]


def _entries(manifest: dict) -> list[dict]:
    return [entry for entry in manifest["memories"] if entry["kind"] == SRAM]


def memory_models(memories: Sequence[Sram], top: str) -> str:
    """The wrappers with behavioural bodies."""
    return "\n".join(sram.verilog(top) for sram in memories)


def cover(sram: Sram, macros: Sequence[Cell], per_bit: float) -> Cover:
    """The least area of the macros that suit, else ``per_bit`` um2 for each bit."""
    bits = sram.depth * sram.width
    found = []
    for macro in macros:
        depth, width = macro.size or (0, 0)
        if wrong_size(sram, depth, width):
            continue
        stacked, beside = layout(sram, depth, width)
        if bits >= LEAST_USE * stacked * beside * depth * width:
            area = stacked * beside * (macro.area or 0.0)
            found.append(Cover(sram=sram, area=area, macro=macro.name, stacked=stacked, beside=beside))
    return min(found, key=lambda c: c.area, default=Cover(sram=sram, area=per_bit * bits))


def placed(manifest: dict, macros: Sequence[Cell]) -> list[Cover]:
    """What the wrappers of a chip exported with macros (``cells.macros``) are made of.

    Raises
    ------
    UserError : a macro of it is not among these, whose areas are known
    """
    known = {macro.name: macro for macro in macros}
    covers = []
    for sram, entry in zip(find_memories(manifest), _entries(manifest), strict=True):
        name = entry["macro"]["name"]
        if name not in known:
            raise UserError(
                f"{entry['module']} is made of macro {name}, whose area is not known: give its Liberty file "
                f"with --sram (given: {', '.join(known) or 'none'})"
            )
        stacked, beside = entry["macro"]["stacked"], entry["macro"]["side_by_side"]
        area = stacked * beside * (known[name].area or 0.0)
        covers.append(Cover(sram=sram, area=area, macro=name, stacked=stacked, beside=beside))
    return covers


def check_macros(memories: Sequence[Sram], macros: Sequence[Cell]) -> None:
    """Refuse a macro that suits no memory of the chip.

    Raises
    ------
    UserError : so it is
    """
    for macro in macros:
        if not any(cover(sram, [macro], 0.0).macro for sram in memories):
            depth, width = macro.size or (0, 0)
            sizes = ", ".join(f"{sram.depth} x {sram.width}" for sram in memories)
            raise UserError(
                f"macro {macro.name} has the wrong size: {depth} words of {width} bits; the chip's memories "
                f"are {sizes}: each has narrower words, or would use less than {LEAST_USE:.0%} of it. Leave "
                f"it away, or give a smaller one"
            )
