"""Runs one chip program on the reference interpreter in place of a simulator: words right, cycles unknown."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..compiler.ir import ChipProgram, PlacedLayer
from ..model.chip import run_program
from .backend import Counters
from .program import LayerRun, ProgramRun
from .streams import loaded_streams, stored_maps


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
        run = run_program(program.words(1), chip, mesh, loaded_streams(program, [maps]))
        for layer, seen in zip(program.layers, run.pictures, strict=True):
            picture(image, layer, seen.map)
            layers.append(LayerRun(name=layer.conv.name, image=image, cycles=0, starved=0))
        outputs += stored_maps(program, run.outputs, 1)
        counters.layers = len(layers)
        watch(counters)
    return ProgramRun(outputs=tuple(outputs), counters=counters, layers=tuple(layers))
