"""What the performance model says of each layer's idle array is what the RTL counts."""

import numpy as np
import pytest

from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.config import MeshConfig
from hyperdrive_hdl.errors import ModelError
from hyperdrive_hdl.perf.activity import program_activity
from hyperdrive_hdl.perf.banks import has_conflict
from tests.support.simulated import CHIPS, random_inputs, run_and_compare
from tests.support.stages import random_stage


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)
def test_operations_and_waits_for_weights(chip):
    compared = starved = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        stage = random_stage(rng)
        try:
            program = compile_stage(stage, chip, MeshConfig())
        except ModelError:
            continue  # too large for this chip
        images = int(rng.integers(1, 3))
        run, _ = run_and_compare(stage, chip, random_inputs(rng, stage, images), program=program)
        activity = program_activity(program, images, slices=50)
        timing = activity.timing
        assert sum(layer.operations for layer in timing.layers) == run.counters.mac
        expected = [layer.starved for layer in timing.layers]
        found = [layer.starved for layer in run.layers]
        for placed, ours, rtl in zip(program.layers * images, expected, found, strict=True):
            if not has_conflict(placed.instruction, chip):  # there a bank may be missing in the same cycle
                assert ours == rtl, (seed, placed.conv.name)
        assert timing.load_cycles == sum(last - first + 1 for first, last in timing.loads)
        lengths = np.diff(activity.edges)
        assert (activity.mac * lengths).sum() == pytest.approx(run.counters.mac)
        for shares in (activity.mac, activity.epilogue, activity.load, activity.store):
            assert shares.min() >= 0
            assert shares.max() <= 1
        compared += 1
        starved += sum(found)
    assert compared > 3
    assert starved > 0
