"""Checks a program's fences, from its instructions alone.

Units (load, convolution, store) run beside each other with any delays; each runs its instructions in order,
one after another. What must not overlap in time has to be ordered by fences or by the order within a unit.
"""

from dataclasses import dataclass

from hyperdrive_hdl import isa
from hyperdrive_hdl.model.decode import Instruction, Load, Store


@dataclass(frozen=True)
class Use:
    """What one instruction does: the addresses it reads and writes, and how it waits for the other units."""

    unit: str
    reads: frozenset[int]
    writes: frozenset[int]
    waits: dict[str, int]


def use(step: Instruction, lanes: int, words_per_sum: int = 1) -> Use:
    if isinstance(step, Load | Store):
        t = step.instruction
        words = frozenset(range(t.base, t.base + t.tile_h * t.row_stride))
        if isinstance(step, Load):
            return Use("load", frozenset(), words, {"conv": t.wait_convs, "store": t.wait_transfers})
        return Use("store", words, frozenset(), {"conv": t.wait_convs, "load": t.wait_transfers})
    out = step.pixels * step.out_channels
    reads = set(range(step.in_base, step.in_base + step.in_last_row + step.in_row_stride))
    writes = set(range(step.out_base, step.out_base + out))
    if step.bypass:
        reads |= set(range(step.bypass_base, step.bypass_base + out))
    if step.in_blocks > 1:
        words = lanes * step.pixels * words_per_sum
        writes |= set(range(step.scratch_base, step.scratch_base + words))
    waits = {"load": step.wait_loads, "store": step.wait_stores}
    return Use("conv", frozenset(reads), frozenset(writes), waits)


def unordered(steps: list[Instruction], lanes: int, words_per_sum: int = 1) -> list[tuple[int, int]]:
    """Pairs of instructions that touch the same words, one writing, and may overlap in time."""
    uses = [use(step, lanes, words_per_sum) for step in steps]
    before: list[int] = []  # of each instruction: those complete before it starts, as a bit mask
    for index, this in enumerate(uses):
        done = 0
        for unit in ("load", "conv", "store"):
            earlier = [j for j in range(index) if uses[j].unit == unit]
            left = 0 if unit == this.unit else this.waits[unit]
            waited = earlier if left == 0 else [] if left == isa.NO_WAIT else earlier[:-left]
            for j in waited:
                done |= 1 << j | before[j]
        before.append(done)
    found = []
    for i, late in enumerate(uses):
        for j, early in enumerate(uses[:i]):
            clash = late.writes & early.writes or late.writes & early.reads or late.reads & early.writes
            if clash and not before[i] >> j & 1:
                found.append((j, i))
    return found
