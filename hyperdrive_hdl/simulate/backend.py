"""The interface of every simulator of a chip: streams in, events and counters out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from enum import IntEnum
from pathlib import Path

import numpy as np

from ..config import ChipConfig


class Event(IntEnum):
    """Why ``Backend.run`` came back."""

    RUNNING = 0  # the given number of cycles has passed
    LAYER_DONE = 1  # a layer's output is complete in the feature-map memory
    HALTED = 2  # the program is done
    ERROR = 3  # the chip raised its error status
    STUCK = 4  # nothing has moved for ``Stimulus.patience`` cycles
    OVERRUN = 5  # the chip gave more output words than expected


@dataclass(frozen=True, eq=False)
class Stimulus:
    """What a chip is fed. Program words uint64, feature-map words uint16, in stream order."""

    program: np.ndarray
    fm_in: np.ndarray
    output_words: int
    stall_seed: int | None = None
    patience: int = 20_000
    mesh_row: int = 0
    mesh_col: int = 0

    def __post_init__(self) -> None:
        if self.stall_seed is not None and self.stall_seed < 0:
            raise ValueError(f"stall_seed must be None or not negative, not {self.stall_seed!r}")


@dataclass
class Counters:
    """Cycles since the start, by what they were spent on (rtl ``ActivitySignature``).

    ``load_exposed`` and ``store_exposed`` are cycles of a transfer without computation, a load first.
    """

    cycles: int = 0
    computing: int = 0
    loading: int = 0
    storing: int = 0
    load_exposed: int = 0
    store_exposed: int = 0
    mac: int = 0
    starved: int = 0
    epilogue: int = 0
    layers: int = 0
    error: int = 0

    @property
    def idle(self) -> int:
        return self.cycles - self.computing - self.load_exposed - self.store_exposed


COUNTERS = tuple(f.name for f in fields(Counters))


class Backend(ABC):
    """One simulated chip. ``start`` resets it; ``run`` goes on to the next event.

    At ``LAYER_DONE`` the memory holds the layer's complete output and nothing of the next layer's: that is
    when ``memory`` gives the picture to compare.
    """

    name: str

    def __init__(self, config: ChipConfig, *, vcd: Path | None = None):
        self.config = config
        self.vcd = vcd

    @abstractmethod
    def start(self, stimulus: Stimulus) -> None:
        """Reset the chip and put the streams at their beginnings."""

    @abstractmethod
    def run(self, cycles: int) -> Event:
        """Simulate until something happens, at most so many cycles."""

    @abstractmethod
    def counters(self) -> Counters:
        """Counts since ``start``."""

    @abstractmethod
    def outputs(self) -> np.ndarray:
        """Words of ``fm_out`` so far, uint16."""

    @abstractmethod
    def memory(self) -> np.ndarray:
        """The feature-map memory after ``LAYER_DONE``, a copy: uint16 (tile rows, columns, words)."""

    @abstractmethod
    def close(self) -> None:
        """Finish the waveform and let go of the simulator."""

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()
