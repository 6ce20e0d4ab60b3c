"""Runs stages on a simulated chip and compares with the reference: what the end-to-end tests share."""

from functools import cache

import numpy as np

from hyperdrive_hdl.arith.formats import FP16, Format
from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.compiler.ir import ChipProgram, ChipStage
from hyperdrive_hdl.config import ChipConfig, MeshConfig
from hyperdrive_hdl.model.layers import run_stage
from hyperdrive_hdl.simulate.backend import Backend
from hyperdrive_hdl.simulate.engines import make_backend
from hyperdrive_hdl.simulate.network import Comparison
from hyperdrive_hdl.simulate.program import ProgramRun, run_program

from .stages import random_map

# A few different shapes, so that the tests build few simulators: lanes that divide nothing, a single tile, a
# weight buffer that splits the input channels, banks so few that layers must share them.
CHIPS = (
    ChipConfig(
        name="odd", lanes=3, tile_rows=2, tile_cols=3, fmm_banks=6, fmm_bank_depth=512, wbuf_depth=600
    ),
    ChipConfig(
        name="single", lanes=5, tile_rows=1, tile_cols=1, fmm_banks=4, fmm_bank_depth=4096, wbuf_depth=64
    ),
    ChipConfig(
        name="split", lanes=4, tile_rows=3, tile_cols=1, fmm_banks=7, fmm_bank_depth=1024, wbuf_depth=30
    ),
    ChipConfig(
        name="shared", lanes=2, tile_rows=2, tile_cols=2, fmm_banks=3, fmm_bank_depth=1024, wbuf_depth=18
    ),
)


@cache
def simulator(chip: ChipConfig, engine: str = "cxxrtl") -> Backend:
    """A simulator of a chip, one for all tests of a process."""
    return make_backend(engine, chip)


def random_inputs(
    rng: np.random.Generator,
    stage: ChipStage,
    images: int,
    *,
    special: float = 0.0,
    format: Format = FP16,
) -> list[dict[str, np.ndarray]]:
    """Words for every input map of every image; a fraction of them infinities, NaN and subnormals."""
    return [
        {m.name: random_map(rng, m, special=special, format=format) for m in stage.inputs}
        for _ in range(images)
    ]


def run_and_compare(
    stage: ChipStage,
    chip: ChipConfig,
    inputs: list[dict[str, np.ndarray]],
    *,
    program: ChipProgram | None = None,
    stall_seed: int | None = None,
    engine: str = "cxxrtl",
) -> tuple[ProgramRun, Comparison]:
    """Run a stage, or a given program for it, and compare every layer's picture and every stored map."""
    program = program or compile_stage(stage, chip, MeshConfig())
    expected = [
        run_stage(
            stage,
            words,
            wbuf_depth=chip.wbuf_depth,
            format=chip.number_format,
            accumulator=chip.accumulator,
        )
        for words in inputs
    ]
    comparison = Comparison()
    run = run_program(
        simulator(chip, engine),
        program,
        inputs,
        stall_seed=stall_seed,
        picture=lambda image, layer, found: comparison.compare(
            layer.conv.name, image, found, expected[image][layer.output.map.name]
        ),
    )
    for image, stored in enumerate(run.outputs):
        for name, found in stored.items():
            comparison.compare("output", image, found, expected[image][name])
    return run, comparison
