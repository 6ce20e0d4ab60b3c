"""A board as a ``Backend``: what runs on a simulator runs on it, seen only through the maps it stores."""

from contextlib import suppress

import numpy as np

from ..compiler.ir import ChipProgram
from ..config import ChipConfig
from ..errors import ChipError, ToolError
from ..host_link import Features
from ..simulate.backend import Backend, Counters, Event, Place, Stimulus
from ..simulate.streams import stored_words
from .client import Board, ChipStoppedError

SECONDS = 0.2  # that ``run`` takes at most


class BoardBackend(Backend):
    """One chip on a connected board. ``run`` counts no cycles while a program is under way.

    Parameters
    ----------
    config : the chip that programs are made for
    board : connected; closed with this

    Raises
    ------
    UserError : the board has another chip
    """

    name = "board"

    def __init__(self, config: ChipConfig, board: Board):
        super().__init__(config)
        board.check(config)
        self._board = board
        self._error = self._place = 0
        self._counts = Counters()

    @property
    def sees_memory(self) -> bool:
        return False

    @property
    def counts_cycles(self) -> bool:
        return bool(self._board.identity.features & Features.COUNTERS)

    @property
    def unit(self) -> str:
        return "words"

    def done(self) -> int:
        return self._board.words_done

    def start(self, stimulus: Stimulus) -> None:
        stimulus.check(self.mesh)
        if stimulus.stall_seed is not None or stimulus.link_faults or stimulus.chip_faults:
            raise ValueError("a board cannot be given stalls or faults")
        self._error = self._place = 0
        self._counts = Counters()
        self._board.reset()
        chip = self.chip
        self._board.start(stimulus.program, stimulus.fm_in[chip], stimulus.output_words[chip])

    def run(self, cycles: int) -> Event:
        """Go on for up to ``SECONDS``, whatever ``cycles`` says."""
        try:
            ended = self._board.advance(SECONDS)
        except ChipStoppedError as stopped:
            status = self._board.status
            if stopped.event is Event.ERROR and status is not None:
                self._error, self._place = status.error, status.place
            with suppress(ChipError, ToolError):  # what stopped the run is more worth telling
                self._count()
            return stopped.event
        if not ended:
            return Event.RUNNING
        self._count()
        return Event.HALTED

    def _count(self) -> None:
        self._counts = Counters(**(self._board.counters() or {}))

    def chip_counters(self, chip: Place) -> Counters:
        """Of cycles, those of the whole run once it has ended."""
        counters = Counters(**vars(self._counts))
        counters.layers = self._board.layers
        counters.error, counters.side, counters.fault = self._error, self._place & 0xF, self._place >> 4
        return counters

    def outputs(self, chip: Place = (0, 0)) -> np.ndarray:
        return self._board.outputs

    def memory(self, chip: Place = (0, 0)) -> np.ndarray:
        raise NotImplementedError("nobody can look into a board's memory: observe the program instead")

    def close(self) -> None:
        self._board.close()


def words_of(program: ChipProgram, images: int) -> int:
    """Words both ways of a series of images, for a progress bar."""
    loaded = sum(load.map.map.words for load in program.loads)
    return len(program.words(images)) + images * loaded + sum(stored_words(program, images).values())
