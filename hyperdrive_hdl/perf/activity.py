"""What the units of a chip do over time: how busy each is in every slice of a run."""

from dataclasses import dataclass

import numpy as np

from ..compiler.ir import ChipProgram
from .cycles import ProgramTiming, run_clock


@dataclass(frozen=True, eq=False)
class Activity:
    """Shares of the cycles of each slice, from 0 to 1; slice i ends before cycle ``edges[i + 1]``.

    ``mac`` the array adds, ``epilogue`` it uses the memory's second port, ``load`` and ``store`` are active.
    """

    timing: ProgramTiming
    edges: np.ndarray
    mac: np.ndarray
    epilogue: np.ndarray
    load: np.ndarray
    store: np.ndarray


def program_activity(program: ChipProgram, images: int = 1, *, slices: int = 1000) -> Activity:
    """Time a program as ``program_timing`` does, and count by slices of equal length."""
    clock = run_clock(program, images)
    timing = clock.timing()
    edges = np.linspace(0, timing.cycles, min(slices, timing.cycles) + 1).round().astype(np.int64)
    lengths = np.diff(edges)

    def share(events: list[np.ndarray]) -> np.ndarray:
        counts = np.zeros(len(lengths), np.int64)
        for cycles in events:
            counts += np.histogram(cycles, edges)[0]
        return counts / lengths

    def covered(spans: tuple[tuple[int, int], ...]) -> np.ndarray:
        total = np.zeros(len(lengths))
        for first, last in spans:
            total += np.clip(np.minimum(edges[1:], last + 1) - np.maximum(edges[:-1], first), 0, None)
        return total / lengths

    return Activity(
        timing=timing,
        edges=edges,
        mac=share([np.concatenate(layer.issued) for layer in clock.layers]),
        # Within a layer some accesses fall into one cycle: a write and a read of other banks.
        epilogue=share(
            [np.unique(np.concatenate(layer.accesses)) for layer in clock.layers if layer.accesses]
        ),
        load=covered(timing.loads),
        store=covered(timing.stores),
    )
