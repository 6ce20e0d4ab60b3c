"""Runs one chip program on the reference interpreter in place of a simulator: words right, cycles unknown."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..compiler.ir import ChipProgram, PlacedLayer
from ..model.chip import run_program
from ..model.layout import from_streams, to_streams
from .backend import Counters
from .program import LayerRun, ProgramRun


def interpret_program(
    program: ChipProgram,
    inputs: Sequence[Mapping[str, np.ndarray]],
    *,
    picture: Callable[[int, PlacedLayer, np.ndarray], None] = lambda image, layer, words: None,
    watch: Callable[[Counters], None] = lambda counters: None,
) -> ProgramRun:
    """As ``program.run_program``, image by image, for one chip or a mesh; all cycles are 0.

    Raises
    ------
    ChipError : the chip would raise its error status, or never end
    """
    chip, mesh = program.chip, program.mesh
    counters, layers, outputs = Counters(), [], []
    for image, maps in enumerate(inputs):
        loaded = [to_streams(maps[t.map.map.name], t.map, chip, mesh) for t in program.loads]
        streams = {
            at: np.concatenate([part[at] for part in loaded]) for at in np.ndindex(mesh.rows, mesh.cols)
        }
        run = run_program(program.words(1), chip, mesh, streams)
        for layer, seen in zip(program.layers, run.pictures, strict=True):
            picture(image, layer, seen.map)
            layers.append(LayerRun(name=layer.conv.name, image=image, cycles=0, starved=0))
        outputs.append(_stored(program, run.outputs))
        counters.layers = len(layers)
        watch(counters)
    return ProgramRun(outputs=tuple(outputs), counters=counters, layers=tuple(layers))


def _stored(program: ChipProgram, streams: dict[tuple[int, int], np.ndarray]) -> dict[str, np.ndarray]:
    """Stored maps by name from what every chip gave, one map after another."""
    maps = {}
    for store in program.stores:
        sizes = {
            at: len(s)
            for at, s in to_streams(
                np.empty(store.map.map.shape), store.map, program.chip, program.mesh
            ).items()
        }
        taken = {at: stream[: sizes[at]] for at, stream in streams.items()}
        streams = {at: stream[sizes[at] :] for at, stream in streams.items()}
        maps[store.map.map.name] = from_streams(taken, store.map, program.chip, program.mesh)
    return maps
