"""Pad operators and auto_pad: merged where the chip has the sum, left to the host otherwise."""

import numpy as np
import pytest
from onnx import helper

from hyperdrive_hdl.compiler.geometry import pads_fit
from hyperdrive_hdl.compiler.graph import attribute
from hyperdrive_hdl.errors import ModelError


def pad(build, x, amounts, **inputs):
    """A Pad by [n, c, top, left, n, c, bottom, right]."""
    channels, height, width = build.shapes[x]
    grown = (channels, height + amounts[2] + amounts[6], width + amounts[3] + amounts[7])
    names = [build.constant(f"pads_{len(build.nodes)}", np.array(amounts))]
    names += [build.constant(f"{k}_{len(build.nodes)}", v) for k, v in inputs.items()]
    return build.node("Pad", [x, *names], shape=grown)


def ops(graph):
    return [node.op_type for node in graph.nodes]


def test_merged(build, upto):
    x = pad(build, "image", [0, 0, 1, 1, 0, 0, 1, 1])
    graph = upto(build.conv(x, 4, pads=None), "merge_pads")
    assert ops(graph) == ["Conv"]
    assert attribute(graph.nodes[0], "pads") == [1, 1, 1, 1]


def test_halves_add_up(build, upto):
    x = pad(build, "image", [0, 0, 1, 0, 0, 0, 1, 0], value=np.float32(0))
    graph = upto(build.conv(x, 4, pads=[0, 1, 0, 1]), "merge_pads")
    assert ops(graph) == ["Conv"]
    assert attribute(graph.nodes[0], "pads") == [1, 1, 1, 1]


def test_six_nodes(build, upto):
    """torch's F.pad: ConstantOfShape, Concat, Reshape, Slice, Transpose, Cast before the Pad."""
    build.constant("given", np.array([1, 1, 1, 1]))  # left, right, top, bottom
    zeros = build.node("ConstantOfShape", [build.constant("n", np.array([4]))], value=_tensor([0]))
    pairs = build.node("Concat", ["given", zeros], axis=0)
    pairs = build.node("Reshape", [pairs, build.constant("two", np.array([-1, 2]))])
    bounds = [build.constant(k, np.array([v])) for k, v in (("a", -1), ("b", -(2**31)), ("c", 0), ("d", -1))]
    pairs = build.node("Slice", [pairs, *bounds])
    pairs = build.node("Transpose", [pairs], perm=[1, 0])
    pads = build.node("Reshape", [pairs, build.constant("flat", np.array([-1]))])
    pads = build.node("Cast", [pads], to=7)
    x = build.node("Pad", ["image", pads], shape=(4, 8, 8))
    graph = upto(build.conv(x, 4, pads=None), "merge_pads")
    assert ops(graph) == ["Conv"]
    assert attribute(graph.nodes[0], "pads") == [1, 1, 1, 1]


def _tensor(values):
    return helper.make_tensor("value", 7, [len(values)], values)


def test_axes_input(build, upto):
    names = [build.constant("p", np.array([1, 1, 1, 1])), "", build.constant("axes", np.array([-2, 3]))]
    build.opset = 18
    x = build.node("Pad", ["image", *names], shape=(4, 8, 8))
    assert ops(upto(build.conv(x, 4, pads=None), "merge_pads")) == ["Conv"]


def test_attribute_of_old_opsets(build, upto):
    build.opset = 10
    x = build.node("Pad", ["image"], pads=[0, 0, 1, 1, 0, 0, 1, 1], shape=(4, 8, 8))
    assert ops(upto(build.conv(x, 4, pads=None), "merge_pads")) == ["Conv"]


@pytest.mark.parametrize(
    ("amounts", "kernel", "attributes"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], 1, {}),  # 1x1 kernels have no padding
        ([0, 0, 2, 2, 0, 0, 2, 2], 3, {}),
        ([0, 0, 1, 1, 0, 0, 1, 1], 3, {}),  # its own padding is 1 already
        ([0, 1, 1, 1, 0, 1, 1, 1], 3, {"pads": None}),  # channels
    ],
)
def test_left_to_the_host(build, upto, amounts, kernel, attributes):
    x = pad(build, "image", amounts)
    build.shapes[x] = (build.shapes[x][0] + 2 * amounts[1], *build.shapes[x][1:])
    assert ops(upto(build.conv(x, 4, kernel=kernel, **attributes), "merge_pads")) == ["Pad", "Conv"]


def test_other_value_and_mode(build, upto):
    x = pad(build, "image", [0, 0, 1, 1, 0, 0, 1, 1], value=np.float32(1))
    x = build.conv(x, 4)
    x = build.node("Pad", [x, "pads_0"], shape=(4, 10, 10), mode="reflect")
    assert ops(upto(build.conv(x, 4), "merge_pads")) == ["Pad", "Conv", "Pad", "Conv"]


def test_refusal_names_the_pad(build, upto):
    x = pad(build, "image", [0, 0, 0, 0, 0, 0, 1, 1])
    with pytest.raises(
        ModelError, match=r"node 'conv_1' \(Conv\).*padding \[0, 0, 0, 0\].*after node 'pad_0' \(Pad\)"
    ):
        upto(build.conv(x, 4, stride=2, pads=None), "binarise")


def test_pad_with_another_reader_stays(build, upto):
    x = pad(build, "image", [0, 0, 1, 1, 0, 0, 1, 1])
    y = build.conv(x, 4, pads=None)
    pooled = build.node("MaxPool", [x], kernel_shape=[3, 3], shape=(4, 6, 6))
    assert ops(upto(build.add(y, pooled), "merge_pads")) == ["Pad", "Conv", "MaxPool", "Add"]


def test_asymmetric_padding_that_stride_leaves_unread(build, upto):
    """Of an even map, stride 2 never reads the bottom and right padding."""
    graph = upto(build.conv("image", 4, stride=2, pads=[1, 1, 0, 0]), "binarise")
    assert attribute(graph.nodes[0], "stride") == 2


def test_asymmetric_pad_operator(build, upto):
    x = pad(build, "image", [0, 0, 1, 1, 0, 0, 0, 0])
    assert ops(upto(build.conv(x, 4, stride=2, pads=None), "merge_pads")) == ["Conv"]


def test_asymmetric_padding_is_refused(build, upto):
    """What TensorFlow's SAME gives for stride 2 on an even map: another result than padding 1."""
    x = build.conv("image", 4, stride=2, pads=[0, 0, 1, 1], name="down")
    with pytest.raises(ModelError, match=r"node 'down' \(Conv\).*\[0, 0, 1, 1\].*needs 1 on all sides"):
        upto(x, "binarise")


@pytest.mark.parametrize(("auto_pad", "stride"), [("SAME_UPPER", 1), ("SAME_LOWER", 1), ("SAME_LOWER", 2)])
def test_auto_pad_resolved(build, upto, auto_pad, stride):
    x = build.conv("image", 4, stride=stride, pads=None, auto_pad=auto_pad)
    assert ops(upto(x, "binarise")) == ["BinaryConv"]


@pytest.mark.parametrize(
    ("auto_pad", "stride", "found"), [("SAME_UPPER", 2, "0, 0, 1, 1"), ("VALID", 1, "0, 0, 0, 0")]
)
def test_auto_pad_refused(build, upto, auto_pad, stride, found):
    with pytest.raises(ModelError, match=found):
        upto(build.conv("image", 4, stride=stride, pads=None, auto_pad=auto_pad), "binarise")


def test_odd_maps_need_both_sides():
    assert not pads_fit(3, 2, (1, 1, 0, 0), (7, 6))
    assert pads_fit(3, 2, (1, 1, 1, 0), (7, 6))
    assert not pads_fit(3, 2, (1, 1, 0, 0), None)
