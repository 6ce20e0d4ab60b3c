"""Which weights are binary, and what the chip refuses about a binary convolution."""

import numpy as np
import pytest
from onnx import helper

from hyperdrive_hdl.compiler.passes.binarise import split_weights
from hyperdrive_hdl.errors import ModelError
from tests.support.models import STYLES

NODE = helper.make_node("Conv", ["x", "w"], ["y"], name="layer")


def split(weights):
    return split_weights(NODE, np.asarray(weights, np.float32))


@pytest.fixture
def signs(build):
    return build.rng.choice([-1.0, 1.0], (5, 3, 3, 3))


class TestSplitWeights:
    def test_one_alpha(self, signs):
        found = split(signs * 0.3)
        np.testing.assert_array_equal(found.signs, signs)
        assert found.signs.dtype == np.int8
        assert found.alpha.tolist() == [np.float32(0.3)] * 5

    def test_alpha_per_channel(self, signs):
        alpha = np.array([0.1, 2.0, -0.5, 1e-6, 3.0])[:, None, None, None]
        found = split(signs * alpha)
        np.testing.assert_allclose(found.alpha, np.abs(alpha).ravel(), rtol=1e-7)
        np.testing.assert_array_equal(found.signs, signs * np.sign(alpha))

    def test_rounding_errors_of_straight_through(self, signs, build):
        latent = build.rng.normal(size=signs.shape).astype(np.float32)
        binary = (signs * 0.05).astype(np.float32)
        weights = (binary - latent) + latent
        assert len(np.unique(np.abs(weights))) > 1
        found = split(weights)
        np.testing.assert_array_equal(found.signs, signs)
        np.testing.assert_allclose(found.alpha, 0.05, rtol=1e-5)

    @pytest.mark.parametrize(
        "weights",
        [
            np.random.default_rng(0).normal(size=(4, 3, 3, 3)),
            [[[[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]]],  # a fixed filter, not a trained ternary layer
            np.zeros((2, 3, 1, 1)),
            np.full((2, 3, 1, 1), np.nan),
            np.where(np.arange(54).reshape(2, 3, 3, 3) % 2, -1.0, 1.01),
        ],
    )
    def test_float(self, weights):
        assert split(weights) is None

    def test_ternary(self, signs):
        signs[2, 1, 0, :2] = 0
        with pytest.raises(ModelError, match=r"node 'layer' \(Conv\): ternary weights, 2 of 135 are zero"):
            split(signs * 0.7)

    def test_dead_channel(self, signs):
        signs[3] = 0
        found = split(signs)
        assert found.alpha.tolist() == [1, 1, 1, 0, 1]
        assert set(found.signs.ravel()) == {-1, 1}


class TestBinarise:
    @pytest.mark.parametrize("style", STYLES)
    def test_every_way_to_write_weights(self, build, upto, style):
        graph = upto(build.conv("image", 5, style=style, bias=True), "binarise")
        (conv,) = graph.nodes
        assert conv.op_type == "BinaryConv"
        weights, scale, bias = (graph.constants[name] for name in conv.input[1:4])
        assert weights.dtype == np.int8
        assert (scale.shape, scale.dtype) == ((5,), np.float64) == (bias.shape, bias.dtype)
        assert (scale > 0).all()

    def test_dead_channel_is_noted(self, build, upto):
        x = build.conv("image", 3, style="unit", name="layer")
        build.constants["layer_w"][1] = 0
        assert upto(x, "binarise").notes == (
            "node 'layer' (Conv): all weights of output channel 1 are zero; computed with scale 0",
        )

    @pytest.mark.parametrize(
        ("attributes", "message"),
        [
            ({"kernel": 5}, "a 5x5 kernel; the chip has 1x1 and 3x3"),
            ({"kernel": 7, "stride": 2}, "a 7x7 kernel"),
            ({"kernel": 2, "pads": [0, 0, 0, 0]}, "a 2x2 kernel"),
            ({"stride": 3}, "stride 3x3; the chip has 1 and 2"),
            ({"strides": [2, 1]}, "stride 2x1"),
            ({"dilations": [2, 2], "pads": [2, 2, 2, 2]}, "dilation 2x2; the chip has dilation 1"),
            ({"pads": [0, 0, 0, 0]}, r"padding \[0, 0, 0, 0\].*a 3x3 kernel needs 1 on all sides"),
            ({"pads": [2, 2, 2, 2]}, r"padding \[2, 2, 2, 2\]"),
            ({"kernel": 1, "pads": [1, 1, 1, 1]}, r"padding \[1, 1, 1, 1\].*a 1x1 kernel needs 0"),
        ],
    )
    def test_beyond_the_chip(self, build, upto, attributes, message):
        x = build.conv("image", 5, name="layer", **attributes)
        with pytest.raises(ModelError, match=r"node 'layer' \(Conv\): binary convolution with " + message):
            upto(x, "binarise")

    def test_kernel_not_square(self, build, upto):
        x = build.conv("image", 5, name="layer", pads=[1, 0, 1, 0])
        build.constants["layer_w"] = build.constants["layer_w"][..., :1]
        with pytest.raises(ModelError, match=r"node 'layer'.*3x1 kernel"):
            upto(x, "binarise")

    def test_one_dimensional(self, build, upto):
        x = build.node("Reshape", ["image", build.constant("s", np.array([1, 4, 36]))])
        w = build.constant("w", np.ones((2, 4, 3)))
        x = build.node("Conv", [x, w], name="layer", pads=[1, 1], shape=(2, 36))
        with pytest.raises(ModelError, match=r"node 'layer'.*over 1 axes; the chip works on 4-D maps"):
            upto(x, "binarise")

    def test_dilated_pointwise_is_no_dilation(self, build, upto):
        assert (
            upto(build.conv("image", 5, kernel=1, dilations=[2, 2]), "binarise").nodes[0].op_type
            == "BinaryConv"
        )

    def test_float_convolutions_stay(self, build, upto):
        x = build.conv("image", 5, kernel=7, style="float")
        assert upto(x, "binarise").nodes[0].op_type == "Conv"

    def test_bias_that_depends_on_the_input(self, build, upto):
        bias = build.node("ReduceMean", ["image"], axes=[0, 2, 3], keepdims=0, shape=())
        w = build.weights("layer", (4, 4, 3, 3), "unit")
        x = build.node("Conv", ["image", w, bias], name="layer", pads=[1] * 4)
        with pytest.raises(ModelError, match=r"node 'layer'.*bias 'reducemean_0_out' depends on the input"):
            upto(x, "binarise")
