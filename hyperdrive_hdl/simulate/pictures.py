"""Pictures of every layer's output, put together from the chips of a mesh as each ends the layer."""

from dataclasses import replace

import numpy as np

from ..compiler.ir import ChipProgram, PlacedLayer
from ..model.layout import read_map, segment
from .backend import Backend, Counters, Place


class Pictures:
    """Keeps every chip's part of a picture until the last chip has given its own.

    Parameters
    ----------
    backend : simulator of the program's mesh
    program : that it runs, for any number of images
    """

    def __init__(self, backend: Backend, program: ChipProgram):
        self._backend = backend
        self._program = program
        self._ends: dict[Place, list[Counters]] = {at: [] for at in backend.places}
        self._begun: dict[int, tuple[np.ndarray, set[Place]]] = {}  # by the layer's number in the series

    def layer_done(self, at: Place) -> tuple[int, PlacedLayer, np.ndarray] | None:
        """A chip has ended its next layer; image, layer and words where it was the last one to do so."""
        program, chip = self._program, self._program.chip
        number = len(self._ends[at])
        self._ends[at].append(self._backend.chip_counters(at))
        image, index = divmod(number, len(program.layers))
        layer = program.layers[index]
        if number not in self._begun:
            shape = program.mesh.rows * chip.tile_rows, program.mesh.cols * chip.tile_cols
            words = np.zeros((*shape, layer.output.words_per_tile), np.uint16)
            self._begun[number] = words, set(self._backend.places)
        words, missing = self._begun[number]
        alone = replace(layer.output, base=0)  # the map as the only one in a memory
        first_row, first_col = at[0] * chip.tile_rows, at[1] * chip.tile_cols
        own = words[first_row : first_row + chip.tile_rows, first_col : first_col + chip.tile_cols]
        segment(own, alone)[:] = segment(self._backend.memory(at), layer.output)
        missing.remove(at)
        if missing:
            return None
        del self._begun[number]
        return image, layer, read_map(words, alone)

    def ends(self, at: Place) -> list[Counters]:
        """A chip's counters at the end of every layer so far."""
        return self._ends[at]
