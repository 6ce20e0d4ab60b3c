"""The shipped network and images: what the command line's demo relies on, computed by onnx alone."""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from hyperdrive_hdl.data import digits_images, digits_model

QONNX = "qonnx.custom_op.general"
SIZE_LIMIT = 500_000  # bytes, both files
MACS_LIMIT = 2_000_000  # per image, binary convolutions
DEMO_IMAGES = 100
ACCURACY = 0.98


class BipolarQuant(OpRun):
    """qonnx's binary weights, written from its definition: sign with sign(0) = +1, times the scale."""

    op_domain = QONNX

    def _run(self, x, scale):
        return (np.where(x >= 0, scale, -scale).astype(np.float32),)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(digits_model())


@pytest.fixture(scope="module")
def binary_convs(model) -> dict[str, tuple[onnx.NodeProto, tuple[int, ...]]]:
    """Convolutions whose weights come from BipolarQuant, by output tensor, with the shape of the weights."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    quant = {n.output[0]: shapes[n.input[0]] for n in model.graph.node if n.op_type == "BipolarQuant"}
    found = {
        n.output[0]: (n, quant[n.input[1]])
        for n in model.graph.node
        if n.op_type == "Conv" and n.input[1] in quant
    }
    assert len(found) == len(quant)
    return found


def test_files_are_small() -> None:
    path = digits_model()
    assert path.name == "digits.onnx"
    assert path.stat().st_size + path.with_name("digits_test.npz").stat().st_size < SIZE_LIMIT


def test_images_and_labels() -> None:
    images, labels = digits_images()
    assert images.dtype == np.float32
    assert labels.dtype == np.int64
    assert len(images) >= DEMO_IMAGES
    assert images.shape == (len(labels), 1, 8, 8)
    assert images.min() == 0
    assert images.max() == 1
    assert np.array_equal(images * 16, np.round(images * 16))
    assert len(np.unique(images, axis=0)) == len(images)


def test_the_order_is_not_sorted_by_digit() -> None:
    _, labels = digits_images()
    counts = np.bincount(labels[:DEMO_IMAGES], minlength=10)
    assert len(counts) == 10
    assert counts.min() >= 1
    assert np.count_nonzero(np.diff(labels)) > len(labels) / 2


def test_model_is_valid_onnx(model) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 10
    versions = {entry.domain: entry.version for entry in model.opset_import}
    assert versions.keys() == {"", QONNX}
    assert versions[""] >= 13
    assert {node.domain for node in model.graph.node} == versions.keys()
    assert {node.op_type for node in model.graph.node if node.domain == QONNX} == {"BipolarQuant"}


def test_model_interface(model) -> None:
    def interface(values) -> list:
        return [(v.name, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]) for v in values]

    assert interface(model.graph.input) == [("image", ["N", 1, 8, 8])]
    assert interface(model.graph.output) == [("logits", ["N", 10])]


def test_binary_convolutions_fit_the_chip(binary_convs) -> None:
    assert len(binary_convs) >= 8
    kinds = set()
    for node, weights in binary_convs.values():
        values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        kernel, pads, strides = (tuple(values[name]) for name in ("kernel_shape", "pads", "strides"))
        assert len(node.input) == 2, "no bias of its own"
        assert values["group"] == 1
        assert (kernel, pads) in {((3, 3), (1, 1, 1, 1)), ((1, 1), (0, 0, 0, 0))}
        assert weights[0] % 4 == 0
        assert weights[1] % 4 == 0
        assert max(weights) <= 64
        kinds.add((kernel[0], strides))
    assert kinds == {(3, (1, 1)), (3, (2, 2)), (1, (2, 2))}


def test_scales_are_per_channel_and_positive(model) -> None:
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    quants = [node for node in model.graph.node if node.op_type == "BipolarQuant"]
    assert quants
    for node in quants:
        weight, scale = (values[name] for name in node.input)
        assert scale.shape == (weight.shape[0], 1, 1, 1)
        assert np.all(scale > 0)
        np.testing.assert_allclose(scale, np.abs(weight).mean((1, 2, 3), keepdims=True), rtol=1e-5)


def test_macs_per_image(model, binary_convs) -> None:
    shapes = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    dims = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in shapes.graph.value_info}
    macs = sum(np.prod(dims[name][1:]) * np.prod(weights[1:]) for name, (_, weights) in binary_convs.items())
    assert 0 < macs <= MACS_LIMIT


def test_float_accuracy_on_held_out_images(model) -> None:
    images, labels = digits_images()
    run = ReferenceEvaluator(model, new_ops=[BipolarQuant])
    (logits,) = run.run(None, {"image": images})
    hits = logits.argmax(1) == labels
    assert hits.mean() >= ACCURACY
    (one,) = run.run(None, {"image": images[:1]})
    np.testing.assert_allclose(one, logits[:1], rtol=1e-4, atol=1e-4)
