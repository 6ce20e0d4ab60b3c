"""Host stages and the float network."""

import warnings

import numpy as np
import pytest

from hyperdrive_hdl.compiler.host import HostRunner, run_float, run_host_stage
from hyperdrive_hdl.compiler.pipeline import import_network
from hyperdrive_hdl.errors import ModelError
from tests.support.models import QONNX, Builder, evaluate, images_for, random_network, save


def test_float_network(tmp_path, rng):
    model = random_network(rng, style="bipolar", stem=True, head=True)
    images = images_for(model, rng, 3)
    found = run_float(import_network(save(model, tmp_path)), images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, evaluate(model, images), rtol=1e-4, atol=1e-4)


def test_stage_takes_what_it_needs(tmp_path, rng):
    build = Builder(rng, (2, 4, 4))
    x = build.conv(build.node("Sigmoid", ["image"]), 2)
    stage = import_network(save(build.model(x), tmp_path)).stages[0]
    image = rng.normal(size=(1, 2, 4, 4)).astype(np.float32)
    values = run_host_stage(stage, {"image": image, "other": image})
    assert list(values) == list(stage.outputs)
    np.testing.assert_allclose(values[stage.outputs[0]], 1 / (1 + np.exp(-image)), rtol=1e-5)


def test_activations_may_be_quantised_on_the_host(tmp_path, rng):
    build = Builder(rng, (2, 4, 4))
    x = build.node("BipolarQuant", ["image", build.constant("alpha", np.float32(0.5))], domain=QONNX)
    model = build.model(build.relu(build.conv(x, 3)))
    network = import_network(save(model, tmp_path))
    assert [s.name for s in network.stages] == ["host0", "chip0"]
    images = images_for(model, rng, 2)
    np.testing.assert_allclose(run_float(network, images), evaluate(model, images), rtol=1e-5, atol=1e-5)


def test_silent(tmp_path, rng):
    build = Builder(rng, (1, 2, 2))
    x = build.node("Log", ["image"])
    x = build.node("Mul", [build.node("Exp", [x]), build.node("Div", [x, x])])
    stage = import_network(save(build.model(build.conv(x, 1)), tmp_path)).stages[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = run_host_stage(stage, {"image": np.array([[[[-1, 0], [1, 1e38]]]], np.float32)})
    assert np.isnan(values[stage.outputs[0]]).any()


def test_failure_at_run_time(tmp_path, rng):
    build = Builder(rng, (1, 2, 2))
    network = import_network(save(build.model(build.conv(build.node("Sigmoid", ["image"]), 1)), tmp_path))
    runner = HostRunner(network.stages[0].model)
    with pytest.raises(ModelError, match="host0: failed on the host"):
        runner.run({"image": np.array("text")})


def test_model_beyond_the_evaluator(rng):
    build = Builder(rng, (1, 2, 2))
    with pytest.raises(ModelError, match=r"test: cannot run on the host.*Mystery"):
        HostRunner(build.model(build.node("Mystery", ["image"], domain="com.example")))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 2, 4, 4)), "float32 of shape .N, 2, 4, 4., not float64"),
        (np.zeros((2, 4, 4), np.float32), r"not float32 of shape \(2, 4, 4\)"),
        (np.zeros((1, 2, 4, 5), np.float32), r"not float32 of shape \(1, 2, 4, 5\)"),
        (np.zeros((0, 2, 4, 4), np.float32), "holds no image"),
    ],
)
def test_images_that_do_not_suit(tmp_path, rng, images, message):
    build = Builder(rng, (2, 4, 4))
    network = import_network(save(build.model(build.conv("image", 1)), tmp_path))
    with pytest.raises(ModelError, match="input 'image'.*" + message):
        run_float(network, images)
