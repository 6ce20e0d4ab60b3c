"""Cycles of loads and stores, which take the memory's second port where nothing else needs it or their bank.

Each unit runs its transfers in order; the epilogue has the port before a store, a store before a load, and
neither disturbs the MACs' bank. A transfer runs beside convolutions that come later in the stream, so it is
timed only when something has to wait for its end: by then all that can run beside it is known.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .. import isa
from ..config import ChipConfig
from ..latencies import latencies
from .banks import transfer_banks

STORE_FIFO = 3  # cycles from a word that a store has read until it has left the FIFO (rtl/transfer.py)


@dataclass(frozen=True, eq=False)
class Traffic:
    """A convolution's use of the memory: ``epilogue`` cycles of the second port, and what the MACs read when.

    ``macs`` gives cycles and banks of all MAC reads; it is only called where a transfer shares a bank with
    them.
    """

    end: int
    epilogue: list[np.ndarray]
    banks: frozenset[int]
    macs: Callable[[], tuple[np.ndarray, np.ndarray]]


@dataclass(eq=False)
class Span:
    """A transfer. It may start when its descriptor is there, ``earliest``, and after another unit's transfer.

    Once timed, it is active from ``begin`` to ``end``, both included; ``port`` are its memory accesses.
    """

    instruction: isa.Transfer
    earliest: int
    load: bool
    after: "Span | None"
    begin: int = -1
    end: int = -1
    port: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def cycles(self) -> int:
        return self.end - self.begin + 1


class TransferClock:
    """The load and the store unit of chip (0, 0) of a mesh."""

    def __init__(self, config: ChipConfig):
        self._config = config
        self._traffic: list[Traffic] = []
        self._timed: set[int] = set()  # ids of spans whose end is final
        self.loads: list[Span] = []
        self.stores: list[Span] = []

    @property
    def spans(self) -> list[Span]:
        return [*self.loads, *self.stores]

    def add_traffic(self, traffic: Traffic) -> None:
        """A convolution has been timed."""
        self._traffic.append(traffic)

    def add(self, instruction: isa.Transfer, *, load: bool, earliest: int) -> None:
        """A descriptor is complete; the convolutions that it waits for have ended before ``earliest``."""
        others, wait = (self.stores if load else self.loads), instruction.wait_transfers
        after = others[len(others) - 1 - wait] if wait != isa.NO_WAIT and wait < len(others) else None
        (self.loads if load else self.stores).append(Span(instruction, earliest, load, after))

    def free(self, *, load: bool) -> int:
        """The first cycle in which the unit can take a descriptor's header."""
        unit = self.loads if load else self.stores
        return self._end(unit[-1]) + 1 if unit else 0

    def fence(self, *, load: bool, wait: int) -> int:
        """The first cycle in which all but the latest ``wait`` transfers of a unit count as complete."""
        unit = self.loads if load else self.stores
        if wait == isa.NO_WAIT or wait >= len(unit):
            return 0
        return self._end(unit[len(unit) - 1 - wait]) + 1

    def settle(self) -> None:
        """Time whatever is pending."""
        for span in self.spans:
            self._end(span)

    def _end(self, span: Span) -> int:
        """The end of a span that something waits for: final."""
        self._time(span)
        self._timed.add(id(span))
        return span.end

    def _time(self, span: Span) -> None:
        """Time a span as far as what runs beside it is known."""
        if id(span) in self._timed:
            return
        earliest = span.earliest
        if span.after is not None:
            self._time(span.after)
            earliest = max(earliest, span.after.end + 1)
        span.begin = earliest + 1
        banks, needs_port = self._walk(span)
        taken = self._taken(span)
        reads = self._mac_reads(span)
        if not reads and (not len(taken) or taken[0] > span.begin + len(banks)):
            steps = span.begin + np.arange(len(banks))
        else:
            steps = _steps_around(span.begin, banks, needs_port, set(taken.tolist()), reads)
        span.port = steps[needs_port]
        at = latencies(self._config)
        drain = at.memory + at.gather + STORE_FIFO
        last_access = int(span.port[-1]) if len(span.port) else span.begin - drain
        span.end = int(steps[-1]) if span.load else max(int(steps[-1]) + 1, last_access + drain)

    def _taken(self, span: Span) -> np.ndarray:
        """Cycles of the second port, from the span's begin on, that others have before it."""
        taken = [
            array for traffic in self._traffic if traffic.end >= span.begin for array in traffic.epilogue
        ]
        if span.load:
            for store in self.stores:
                # A store that waits for this load, or a later one, does not run beside it.
                if store.after is None or self.loads.index(store.after) < self.loads.index(span):
                    self._time(store)
                    taken.append(store.port)
        if not taken:
            return np.zeros(0, np.int64)
        cycles = np.unique(np.concatenate(taken))
        return cycles[cycles >= span.begin]

    def _mac_reads(self, span: Span) -> dict[int, int]:
        """Bank by cycle of the MAC reads that a span may meet."""
        banks = transfer_banks(span.instruction, self._config)
        found: dict[int, int] = {}
        for traffic in self._traffic:
            if traffic.end >= span.begin and traffic.banks & banks:
                cycles, read = traffic.macs()
                inside = cycles >= span.begin
                found |= dict(zip(cycles[inside].tolist(), read[inside].tolist(), strict=True))
        return found

    def _walk(self, span: Span) -> tuple[np.ndarray, np.ndarray]:
        """Bank of every step of the walk over the chip's area, and whether the step accesses the memory.

        A load writes every word, a store reads true pixels and takes one step past any other.
        """
        transfer, config = span.instruction, self._config
        rows = _true(config.tile_rows, transfer.tile_h, transfer.full_rows, transfer.rest_rows)
        cols = _true(config.tile_cols, transfer.tile_w, transfer.full_cols, transfer.rest_cols)
        true = np.logical_and.outer(rows, cols).ravel()
        y = np.tile(np.arange(transfer.tile_h), config.tile_rows) * transfer.row_stride
        x = np.tile(np.arange(transfer.tile_w), config.tile_cols) * transfer.channels
        pixels = (transfer.base + np.add.outer(y, x)).ravel()
        lengths = np.where(true | span.load, transfer.channels, 1)
        starts = np.cumsum(lengths) - lengths
        channel = np.arange(lengths.sum()) - np.repeat(starts, lengths)
        banks = (np.repeat(pixels, lengths) + channel) // config.fmm_bank_depth
        return banks, np.repeat(true | span.load, lengths)


def _true(tiles: int, size: int, full: int, rest: int) -> np.ndarray:
    """Along one axis of chip (0, 0): which pixels are inside the map, in raster order."""
    return np.arange(tiles * size) < full * size + rest


def _steps_around(
    begin: int, banks: np.ndarray, needs_port: np.ndarray, taken: set[int], reads: dict[int, int]
) -> np.ndarray:
    """Cycles of steps taken in turn; one that needs the port waits while it, or its bank, is taken."""
    steps = np.empty(len(banks), np.int64)
    now = begin - 1
    for i, (bank, needs) in enumerate(zip(banks.tolist(), needs_port.tolist(), strict=True)):
        now += 1
        while needs and (now in taken or reads.get(now) == bank):
            now += 1
        steps[i] = now
    return steps
