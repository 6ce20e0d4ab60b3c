"""Whole networks by the reference, against onnx in float32."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperdrive_hdl.arith.formats import format_by_name
from hyperdrive_hdl.compiler.host import run_float
from hyperdrive_hdl.compiler.pipeline import import_network
from hyperdrive_hdl.data import digits_images, digits_model
from hyperdrive_hdl.errors import ModelError
from hyperdrive_hdl.model.network import Specials, run_network
from tests.support.models import Builder, evaluate, images_for, random_network, save

FP16 = format_by_name("fp16")


@given(seed=st.integers(0, 2**32 - 1), host=st.booleans())
@settings(max_examples=40, deadline=None)
def test_random_networks_are_near_float(tmp_path_factory, seed, host):
    rng = np.random.default_rng(seed)
    model = random_network(rng, host=host)
    images = images_for(model, rng, 2)
    network = import_network(save(model, tmp_path_factory.mktemp("random")))
    result = run_network(network, images, wbuf_depth=int(rng.integers(9, 100)))
    expected = evaluate(model, images)
    assert result.output.shape == expected.shape
    assert result.output.dtype == np.float32
    assert [set(words) for words in result.layers] == [{layer.output.name for layer in network.layers}] * 2
    # Rounding errors are relative to the largest value on the way.
    largest = max(np.abs(FP16.decode(w)).max() for image in result.layers for w in image.values())
    assert not result.specials
    np.testing.assert_allclose(result.output, expected, rtol=0.02, atol=0.02 * max(largest, 1))


def test_images_do_not_influence_each_other(tmp_path, rng):
    model = random_network(rng, stem=True, head=True)
    network = import_network(save(model, tmp_path))
    images = images_for(model, rng, 3)
    together = run_network(network, images, wbuf_depth=36)
    for number, image in enumerate(images):
        alone = run_network(network, image[None], wbuf_depth=36)
        np.testing.assert_array_equal(alone.output[0], together.output[number])
        for name, words in alone.layers[0].items():
            np.testing.assert_array_equal(words, together.layers[number][name])


def test_host_operator_between_and_maps_across_it(tmp_path, rng):
    build = Builder(rng, (4, 6, 6))
    x = build.conv("image", 4)
    y = build.conv(build.node("MaxPool", [x], kernel_shape=[3, 3], pads=[1] * 4), 4)
    model = build.model(build.add(y, x))
    images = images_for(model, rng, 2)
    network = import_network(save(model, tmp_path))
    seen = []
    result = run_network(
        network, images, wbuf_depth=36, progress=lambda image, stage: seen.append((image, stage))
    )
    np.testing.assert_allclose(result.output, evaluate(model, images), rtol=0.01, atol=0.05)
    assert seen == [(i, s.name) for i in range(2) for s in network.stages]
    _, last = network.chip_stages
    np.testing.assert_array_equal(FP16.decode(result.layers[1][last.outputs[0].name]), result.output[1])
    assert set(result.chip_inputs[0]) == {"image", last.layers[0].input.name}
    np.testing.assert_array_equal(result.chip_inputs[0]["image"], FP16.encode(images[0]))


def test_infinities_and_nan_are_counted(tmp_path, rng):
    build = Builder(rng, (2, 1, 1))
    x = build.conv("image", 1, kernel=1, style="unit", name="sum")
    build.constants["sum_w"][:] = 1
    x = build.conv(x, 2, kernel=1, style="unit", name="copy")
    x = build.conv(build.relu(x), 2, kernel=1, style="unit", name="mix")
    build.constants["copy_w"][:] = 1
    build.constants["mix_w"][:] = [[[[1]], [[-1]]], [[[1]], [[1]]]]
    network = import_network(save(build.model(x), tmp_path))
    images = np.array([[50000, 50000], [1, 2]], np.float32).reshape(2, 2, 1, 1)
    result = run_network(network, images, wbuf_depth=36)
    assert result.specials == {"sum": Specials(1, 0), "copy": Specials(2, 0), "mix": Specials(1, 1)}
    assert np.isnan(result.output[0, 0, 0, 0])
    assert np.isposinf(result.output[0, 1, 0, 0])
    assert result.output[1].ravel().tolist() == [0, 6]


def test_input_overflow_becomes_infinity(tmp_path, rng):
    build = Builder(rng, (1, 1, 1))
    network = import_network(save(build.model(build.conv("image", 1, kernel=1)), tmp_path))
    result = run_network(network, np.full((1, 1, 1, 1), 1e6, np.float32), wbuf_depth=36)
    assert result.chip_inputs[0]["image"] == 0x7C00


def test_wrong_images(tmp_path, rng):
    build = Builder(rng, (1, 2, 2))
    network = import_network(save(build.model(build.conv("image", 1)), tmp_path))
    with pytest.raises(ModelError, match=r"must be float32 of shape \(N, 1, 2, 2\)"):
        run_network(network, np.zeros((1, 1, 2, 3), np.float32), wbuf_depth=36)


def test_demo_network():
    """The bundled digits: FP16 and binary weights cost no accuracy against float."""
    network = import_network(digits_model())
    images, labels = (part[:100] for part in digits_images())
    exact, reference = run_float(network, images), run_network(network, images, wbuf_depth=576).output
    assert np.mean(exact.argmax(1) == labels) >= 0.97
    assert np.mean(reference.argmax(1) == labels) >= np.mean(exact.argmax(1) == labels) - 0.01
