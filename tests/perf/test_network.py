"""The estimate of a whole network: sums of its programs, and equal to the RTL."""

import pytest

from hyperdrive_hdl.compiler.compile import compile_model
from hyperdrive_hdl.config import MeshConfig
from hyperdrive_hdl.data import digits_images, digits_model
from hyperdrive_hdl.perf.cycles import program_timing
from hyperdrive_hdl.perf.network import STEADY, TIMES, estimate_network, series_timing
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.simulate.engines import make_backend
from hyperdrive_hdl.simulate.network import simulate_network


@pytest.fixture(scope="module")
def compiled():
    return compile_model(digits_model(), PRESETS["tiny"])


@pytest.mark.parametrize("images", [1, 2, STEADY, STEADY + 1, 9])
def test_a_long_series_is_timed_as_if_image_by_image(compiled, images):
    program = compiled.programs["chip0"]
    exact = program_timing(program, images)
    totals, layers = series_timing(program, images)
    assert totals == {name: getattr(exact, name) for name in TIMES}
    for name, cycles in layers.items():
        assert cycles == sum(layer.cycles for layer in exact.layers if layer.name == name)


def test_the_estimate_is_what_the_rtl_takes(compiled):
    images = STEADY + 2
    estimate = estimate_network(compiled, images)
    with make_backend("cxxrtl", compiled.chip) as backend:
        run = simulate_network(compiled, digits_images()[0][:images], backend)
    counters = run.counters
    assert estimate.cycles == counters.cycles
    assert estimate.compute_cycles == counters.computing
    assert (estimate.load_cycles, estimate.store_cycles) == (counters.loading, counters.storing)
    assert (estimate.load_exposed, estimate.store_exposed) == (counters.load_exposed, counters.store_exposed)
    for layer in estimate.layers:
        assert layer.cycles == sum(run.cycles for run in run.layers if run.name == layer.name)


def test_sums_over_layers_and_images(compiled):
    one, three = estimate_network(compiled), estimate_network(compiled, 3)
    weights = sum(layer.weights.size for layer in compiled.network.layers)
    assert one.macs == sum(layer.macs for layer in compiled.network.layers)
    assert (three.macs, three.weight_bits) == (3 * one.macs, 3 * weights)
    assert three.fmm_words == one.fmm_words <= compiled.chip.fmm_words
    assert one.utilisation == pytest.approx(one.macs / (one.compute_cycles * 16))
    assert (one.border_bits, one.link_bits) == (0, 0)


def test_a_mesh_counts_all_its_chips():
    mesh = compile_model(digits_model(), PRESETS["tiny"], MeshConfig(rows=2, cols=1))
    estimate = estimate_network(mesh)
    assert estimate.utilisation == pytest.approx(estimate.macs / (estimate.compute_cycles * 32))
    assert estimate.border_bits > 0
    assert estimate.link_bits > estimate.border_bits
