"""The front end as a whole: no step changes what the network computes, whatever way it was written."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperdrive_hdl.compiler.host import HostRunner
from hyperdrive_hdl.compiler.pipeline import STEPS, import_network, import_steps
from hyperdrive_hdl.errors import ConfigError, ModelError
from tests.support.models import STYLES, Builder, evaluate, images_for, random_network, save


def check_steps(model, image, path):
    """Every step's graph, run in float32, against the model as it was written."""
    expected = evaluate(model, image)
    steps = import_steps(path)
    assert list(steps) == ["read", *STEPS]
    for name, graph in steps.items():
        if name == "round_parameters":
            break  # its parameters are words of the chip's format
        found = HostRunner(graph.to_model()).run({graph.input: image})[graph.output]
        np.testing.assert_allclose(
            found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max(), err_msg=name
        )


@given(seed=st.integers(0, 2**32 - 1), host=st.booleans())
@settings(max_examples=60, deadline=None)
def test_steps_keep_random_networks(tmp_path_factory, seed, host):
    rng = np.random.default_rng(seed)
    model = random_network(rng, host=host)
    check_steps(model, images_for(model, rng), save(model, tmp_path_factory.mktemp("random")))


@pytest.mark.parametrize("style", STYLES)
def test_steps_keep_every_way_to_write_weights(tmp_path, rng, style):
    model = random_network(rng, style=style, stem=True, head=True)
    check_steps(model, images_for(model, rng), save(model, tmp_path))


@pytest.mark.parametrize("pool", ["GlobalAveragePool", "ReduceMean attribute", "ReduceMean input"])
@pytest.mark.parametrize("flatten", ["Flatten", "Reshape"])
def test_quirks_of_exports(tmp_path, rng, pool, flatten):
    """Explicit pads, latent weights shared by Identity, Transpose before MatMul, and the two ways to end."""
    build = Builder(rng, (3, 9, 8), opset=18 if pool == "ReduceMean input" else 17)
    pads = build.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    x = build.node("Pad", ["image", pads], shape=(3, 11, 10))
    x = build.conv(x, 6, style="float", pads=[0] * 4)
    x = build.relu(build.batch_norm(build.node("Identity", [x])))
    padded = build.node("Pad", [x, pads], shape=(6, 13, 12))
    y = build.relu(build.batch_norm(build.conv(padded, 6, style="bipolar", pads=None, name="a")))
    build.shapes[y] = build.shapes[x]
    alias = build.node("Identity", ["a_alpha"])
    build.constant("b_latent", rng.normal(size=(6, 6, 3, 3)))
    weights = build.node("BipolarQuant", ["b_latent", alias], domain="qonnx.custom_op.general")
    y = build.node("Conv", [y, weights], pads=[1] * 4, kernel_shape=[3, 3], name="b")
    x = build.node("Clip", [build.add(build.batch_norm(y), x), build.constant("zero", 0.0)])
    x = build.node("Dropout", [x])
    if pool == "GlobalAveragePool":
        x = build.node("GlobalAveragePool", [x], shape=(6, 1, 1))
    elif pool == "ReduceMean attribute":
        x = build.node("ReduceMean", [x], axes=[2, 3], shape=(6, 1, 1))
    else:
        x = build.node("ReduceMean", [x, build.constant("axes", np.array([2, 3]))], shape=(6, 1, 1))
    if flatten == "Flatten":
        x = build.node("Flatten", [x], shape=(6,))
    else:
        x = build.node("Reshape", [x, build.constant("flat", np.array([0, -1]))], shape=(6,))
    weights = build.node("Transpose", [build.constant("head", rng.normal(size=(5, 6)))], perm=[1, 0])
    model = build.model(build.node("MatMul", [x, weights], shape=(5,)), list_initializers=True)
    path = save(model, tmp_path)
    check_steps(model, images_for(model, rng), path)
    network = import_network(path)
    assert [stage.name for stage in network.stages] == ["host0", "chip0", "host1"]
    assert [layer.bypass is not None for layer in network.layers] == [False, True]
    assert all(layer.relu for layer in network.layers)


def test_same_file_same_network(tmp_path, rng):
    path = save(random_network(rng, blocks=5, stem=True, head=True), tmp_path)
    first, second = import_network(path), import_network(path)
    assert [s.name for s in first.stages] == [s.name for s in second.stages]
    for a, b in zip(first.layers, second.layers, strict=True):
        assert (a.name, a.input, a.output, a.bypass, a.relu) == (b.name, b.input, b.output, b.bypass, b.relu)
        np.testing.assert_array_equal(a.weights, b.weights)


def test_messages_name_the_file(tmp_path, rng):
    build = Builder(rng, (2, 4, 4))
    path = save(build.model(build.conv("image", 3, kernel=5)), tmp_path)
    with pytest.raises(ModelError, match=f"^{path}: node 'conv_0'"):
        import_network(path)


def test_unknown_format(tmp_path):
    with pytest.raises(ConfigError, match="fp17"):
        import_network(tmp_path / "model.onnx", "fp17")
