"""Fences: which earlier instructions each instruction has to wait for (isa.py, relative counts).

Load, convolution and store units run beside each other, each in order. Two instructions of different units
that touch the same words, at least one of them writing, must not overlap in time: the later one waits.
The body of a program is streamed once per image, so what follows the last instruction is the first one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ..isa import NO_WAIT

MOST_OUTSTANDING = NO_WAIT - 1

Segment = tuple[int, int]  # first address, and the one after the last


class Unit(Enum):
    LOAD = "load"
    CONV = "conv"
    STORE = "store"


@dataclass(frozen=True)
class Access:
    """What one instruction reads and writes of a tile's memory, and the unit that runs it."""

    unit: Unit
    reads: tuple[Segment, ...] = ()
    writes: tuple[Segment, ...] = ()

    def conflicts(self, other: "Access") -> bool:
        """Whether the two must not run at the same time."""
        return (
            _overlap(self.writes, other.writes)
            or _overlap(self.writes, other.reads)
            or _overlap(self.reads, other.writes)
        )

    def touches(self, other: "Access") -> bool:
        """Whether the two share a word."""
        return _overlap(self.reads + self.writes, other.reads + other.writes)


def _overlap(some: tuple[Segment, ...], others: tuple[Segment, ...]) -> bool:
    return any(max(a, b) < min(c, d) for a, c in some for b, d in others)


def waits(body: Sequence[Access]) -> list[dict[Unit, int]]:
    """Fences of every instruction of a body that is streamed again and again, by the unit waited for.

    Of each other unit, the latest instruction that touches the same words counts: a unit runs in order,
    so all its earlier ones are complete by then. One body back is enough, since it holds a copy of each.
    """
    twice = [*body, *body]
    found = []
    for index, access in enumerate(body, start=len(body)):
        fences = {}
        for unit in Unit:
            if unit is access.unit:
                continue
            later = 0  # instructions of that unit after the one looked at
            fences[unit] = NO_WAIT
            for earlier in reversed(twice[index - len(body) : index]):
                if earlier.unit is not unit:
                    continue
                if access.conflicts(earlier):
                    fences[unit] = min(later, MOST_OUTSTANDING)
                    break
                later += 1
        found.append(fences)
    return found
