"""The interface of everything that runs a mesh of chips: streams in, events and counters out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from enum import IntEnum
from pathlib import Path

import numpy as np

from ..config import ChipConfig, MeshConfig
from ..errors import ConfigError
from ..isa import Side

Place = tuple[int, int]  # of a chip in its mesh: row, column


class Event(IntEnum):
    """Why ``Backend.run`` came back. ``Backend.chip`` tells whose event it is."""

    RUNNING = 0  # the given number of cycles has passed
    LAYER_DONE = 1  # a layer's output is complete in the chip's feature-map memory
    HALTED = 2  # the program is done, on all chips
    ERROR = 3  # the chip raised its error status
    STUCK = 4  # nothing has moved on any chip for ``Stimulus.patience`` cycles; this one is not done
    OVERRUN = 5  # the chip gave more output words than expected


class LinkAction(IntEnum):
    """What befalls a link."""

    FLIP = 0  # the bits of ``mask`` in one beat
    DROP = 1  # one beat is lost; those after it close up
    REPEAT = 2  # one beat comes twice
    HOLD = 3  # from the next gap between frames on, everything comes ``cycles`` later


class ChipAction(IntEnum):
    """What befalls a chip."""

    RESET = 0  # it is held in reset; from cycle 0 on it starts late
    STALL = 1  # its streams are held


@dataclass(frozen=True)
class LinkFaultInjection:
    """Befalls, once, what chip ``chip`` sends on its side ``side``.

    It waits for the first beat from ``cycle`` on after ``border_beat`` - 1 beats of frames with words; of a
    frame, beats count from the one on that shows its kind. Several on one link happen in their order.
    """

    chip: Place
    side: Side
    action: LinkAction
    cycle: int = 0
    border_beat: int = 0
    mask: int = 1
    cycles: int = 0


@dataclass(frozen=True)
class ChipFault:
    """Befalls a chip from ``cycle`` on, for ``cycles``. Nothing counts as stuck meanwhile."""

    chip: Place
    action: ChipAction
    cycle: int = 0
    cycles: int = 1


@dataclass(frozen=True, eq=False)
class Stimulus:
    """What a mesh is fed, and what befalls it.

    Parameters
    ----------
    program : words for every chip, uint64
    fm_in : feature-map words of each chip, uint16, in stream order
    output_words : that each chip gives
    stall_seed : random stalls on every stream, and random delays of every link
    patience : cycles without any movement until it counts as stuck
    mesh_row, mesh_col : place of the first chip, for a part of a larger mesh
    link_latency : cycles from the output of a chip to the input of its neighbour
    link_faults, chip_faults : see there
    """

    program: np.ndarray
    fm_in: dict[Place, np.ndarray]
    output_words: dict[Place, int]
    stall_seed: int | None = None
    patience: int = 20_000
    mesh_row: int = 0
    mesh_col: int = 0
    link_latency: int = 1
    link_faults: tuple[LinkFaultInjection, ...] = ()
    chip_faults: tuple[ChipFault, ...] = ()

    def __post_init__(self) -> None:
        if self.stall_seed is not None and self.stall_seed < 0:
            raise ValueError(f"stall_seed must be None or not negative, not {self.stall_seed!r}")
        if self.link_latency < 1:
            raise ValueError(f"link_latency must be at least 1, not {self.link_latency!r}")

    def check(self, mesh: MeshConfig) -> None:
        """Raises ``ValueError`` where this is for another mesh."""
        places = set(np.ndindex(mesh.rows, mesh.cols))
        for name, given in (("fm_in", self.fm_in), ("output_words", self.output_words)):
            if set(given) != places:
                raise ValueError(f"{name} must have the chips of a mesh of {mesh}, not {sorted(given)}")
        for fault in self.link_faults:
            if fault.chip not in places or not mesh.neighbours(*fault.chip) >> fault.side & 1:
                raise ValueError(f"chip {fault.chip} has no link {fault.side.name} in a mesh of {mesh}")
        for fault in self.chip_faults:
            if fault.chip not in places:
                raise ValueError(f"there is no chip {fault.chip} in a mesh of {mesh}")


@dataclass
class Counters:
    """Cycles since the start, by what they were spent on (rtl ``ActivitySignature``).

    ``load_exposed`` and ``store_exposed`` are cycles of a transfer without computation, a load first.
    ``border_words`` are words of neighbours' maps that arrived, ``link_beats`` beats sent of frames with
    words; ``side`` and ``fault`` belong to the ``error``.
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
    border_words: int = 0
    link_beats: int = 0
    error: int = 0
    side: int = 0
    fault: int = 0

    @property
    def idle(self) -> int:
        return self.cycles - self.computing - self.load_exposed - self.store_exposed


COUNTERS = tuple(f.name for f in fields(Counters))
OVER_CHIPS = ("border_words", "link_beats")  # summed over a mesh


class Backend(ABC):
    """A mesh of chips, simulated or real. ``start`` resets it; ``run`` goes on to the next event.

    At a chip's ``LAYER_DONE`` its memory holds the layer's complete output and nothing of the next layer's:
    that is when ``memory`` gives the picture to compare. Chips of a mesh drift apart; each has its own
    events, and those of one cycle come one after the other. A chip's counters rest from its HALT on.

    Parameters
    ----------
    config, mesh : the chips, and how many
    vcd : file for a waveform of all of them
    """

    name: str

    def __init__(self, config: ChipConfig, *, mesh: MeshConfig | None = None, vcd: Path | None = None):
        self.config = config
        self.mesh = mesh or MeshConfig()
        self.vcd = vcd
        self.chip: Place = (0, 0)  # whose event ``run`` told

    @property
    def sees_memory(self) -> bool:
        """``LAYER_DONE`` is told and ``memory`` can be asked; else maps are what the program stores."""
        return True

    @property
    def counts_cycles(self) -> bool:
        """``counters`` tell cycles."""
        return True

    @property
    def unit(self) -> str:
        """What ``done`` counts."""
        return "cycles"

    def done(self) -> int:
        """How far the run is, for a progress bar."""
        return self.counters().cycles

    @property
    def places(self) -> list[Place]:
        """Every chip."""
        return list(np.ndindex(self.mesh.rows, self.mesh.cols))

    @abstractmethod
    def start(self, stimulus: Stimulus) -> None:
        """Reset the chips and put the streams at their beginnings."""

    @abstractmethod
    def run(self, cycles: int) -> Event:
        """Simulate until something happens on ``self.chip``, at most so many cycles."""

    @abstractmethod
    def chip_counters(self, chip: Place) -> Counters:
        """A chip's counts since ``start``."""

    @abstractmethod
    def outputs(self, chip: Place = (0, 0)) -> np.ndarray:
        """Words of a chip's ``fm_out`` so far, uint16."""

    @abstractmethod
    def memory(self, chip: Place = (0, 0)) -> np.ndarray:
        """A chip's feature maps after its ``LAYER_DONE``, a copy: uint16 (tile rows, columns, words)."""

    @abstractmethod
    def close(self) -> None:
        """Finish the waveform and let go of the simulator."""

    @property
    def slowest(self) -> Place:
        """The chip that halts last; of those with equal cycles the one that has done less."""

        def slowness(chip: Place) -> tuple[int, int, int]:
            counters = self.chip_counters(chip)
            return counters.cycles, -counters.layers, counters.computing

        return max(self.places, key=slowness)

    def counters(self) -> Counters:
        """Counts since ``start``: those of the slowest chip, ``OVER_CHIPS`` summed over all."""
        found = self.chip_counters(self.slowest)
        for name in OVER_CHIPS:
            setattr(found, name, sum(getattr(self.chip_counters(chip), name) for chip in self.places))
        return found

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()


def check_mesh(config: ChipConfig, mesh: MeshConfig) -> None:
    """Raises ``ConfigError`` for several chips without links."""
    if mesh.chips > 1 and not config.links:
        raise ConfigError(
            f"chip {config.name!r} has no links, which a mesh of {mesh} needs: set link_width to 1, 2, 4, 8 "
            f"or 16 in the chip's file, or leave --mesh away"
        )
