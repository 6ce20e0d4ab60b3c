"""The performance model gives the RTL's cycles, to the cycle: totals and every layer's."""

import numpy as np
import pytest

from hyperdrive_hdl.compiler.compile import compile_model
from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.config import MeshConfig
from hyperdrive_hdl.data import digits_model
from hyperdrive_hdl.errors import ModelError
from hyperdrive_hdl.perf.banks import has_conflict
from hyperdrive_hdl.perf.cycles import program_timing
from hyperdrive_hdl.presets import PRESETS
from tests.support.simulated import CHIPS, random_inputs, run_and_compare
from tests.support.stages import random_stage


def assert_equal_timing(stage, chip, program, images: int, rng) -> None:
    run, comparison = run_and_compare(stage, chip, random_inputs(rng, stage, images), program=program)
    timing = program_timing(program, images)
    counters = run.counters
    assert [layer.cycles for layer in timing.layers] == [layer.cycles for layer in run.layers]
    assert (
        timing.cycles,
        timing.compute_cycles,
        timing.load_cycles,
        timing.store_cycles,
        timing.load_exposed,
        timing.store_exposed,
        timing.idle_cycles,
    ) == (
        counters.cycles,
        counters.computing,
        counters.loading,
        counters.storing,
        counters.load_exposed,
        counters.store_exposed,
        counters.idle,
    )
    assert comparison.mismatches == 0
    assert comparison.words > 0


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)
def test_random_stages(chip):
    """Many layers and images, transfers beside computation, banks that layers share."""
    compared = conflicts = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        stage = random_stage(rng)
        try:
            program = compile_stage(stage, chip, MeshConfig())
        except ModelError:
            continue  # too large for this chip
        print(f"seed {seed}")
        assert_equal_timing(stage, chip, program, int(rng.integers(1, 4)), rng)
        compared += 1
        conflicts += any(has_conflict(layer.instruction, chip) for layer in program.layers)
    assert compared >= 10
    if chip.name == "shared":
        assert conflicts > 0, "no stage made two segments share a bank"


@pytest.mark.parametrize("images", [1, 3])
def test_digits(images):
    chip = PRESETS["tiny"]
    compiled = compile_model(digits_model(), chip)
    (stage,) = compiled.network.chip_stages
    assert_equal_timing(stage, chip, compiled.programs[stage.name], images, np.random.default_rng(images))
