"""Random ONNX networks, written in every way that the front end reads, on small chips, with random stalls."""

import numpy as np
import pytest

from hyperdrive_hdl.compiler.compile import compile_network
from hyperdrive_hdl.compiler.host import run_float
from hyperdrive_hdl.compiler.pipeline import import_network
from hyperdrive_hdl.errors import ModelError
from hyperdrive_hdl.simulate.network import simulate_network
from tests.support.models import images_for, random_network, save
from tests.support.simulated import CHIPS, simulator


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)
def test_networks_run_as_the_reference_says(chip, tmp_path):
    layers = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        print(f"seed {seed}")
        model = random_network(rng, host=seed % 3 == 0)
        network = import_network(save(model, tmp_path))
        try:
            compiled = compile_network(network, chip)
        except ModelError:
            continue  # too large for this chip
        images = images_for(model, rng, int(rng.integers(1, 3)))
        run = simulate_network(compiled, images, simulator(chip), stall_seed=seed if seed % 2 else None)
        assert run.comparison.mismatches == 0, run.comparison.first[0]
        np.testing.assert_array_equal(run.output, run.reference.output)
        exact = run_float(network, images)
        scale = max(1.0, float(np.abs(exact).max()))
        assert np.abs(run.output - exact).max() < 0.02 * scale
        layers += len(network.layers)
    assert layers > 20
