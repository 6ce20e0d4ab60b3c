"""BipolarQuant and BinaryConv as the reference evaluator runs them."""

import numpy as np
import pytest
from onnx import helper

from hyperdrive_hdl.compiler.graph import CHIP_DOMAIN, Graph
from hyperdrive_hdl.compiler.operators import BIPOLAR_DOMAINS, evaluate, is_runnable

GRAPH = Graph("test", (), {}, "x", "y", {}, {}, {"": 17})


@pytest.mark.parametrize("domain", BIPOLAR_DOMAINS)
def test_bipolar_quant(domain):
    node = helper.make_node("BipolarQuant", ["x", "scale"], ["y"], domain=domain)
    x = np.array([-2, -0.0, 0, 1e-40], np.float32)
    (y,) = evaluate(GRAPH, node, {"x": x, "scale": np.float32(0.25)})
    assert y.tolist() == [-0.25, 0.25, 0.25, 0.25]
    assert y.dtype == np.float32


@pytest.mark.parametrize(
    ("op_type", "domain", "runs"),
    [
        ("Relu", "", True),
        ("Softmax", "", True),
        ("Gelu", "", False),  # only from opset 20
        ("Relu", "com.example", False),
        ("BipolarQuant", BIPOLAR_DOMAINS[0], True),
        ("BinaryConv", CHIP_DOMAIN, False),  # the chip's, never the host's
    ],
)
def test_runnable(op_type, domain, runs):
    assert is_runnable(GRAPH, helper.make_node(op_type, ["x"], ["y"], domain=domain)) == runs


def test_unknown_operator_in_a_branch():
    branch = helper.make_graph(
        [helper.make_node("Mystery", ["x"], ["z"], domain="com.example")],
        "b",
        [],
        [helper.make_empty_tensor_value_info("z")],
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    assert not is_runnable(GRAPH, node)


@pytest.mark.parametrize("opset", [8, 9, 13, 14, 17])
def test_batch_normalization_infers(opset):
    """Whatever the opset and momentum, the image's own statistics do not count."""
    graph = GRAPH.replace(opsets={"": opset})
    rng = np.random.default_rng(0)
    values = {name: rng.uniform(0.5, 2, 3).astype(np.float32) for name in ("g", "b", "m", "v")}
    x = rng.normal(size=(1, 3, 4, 4)).astype(np.float32)
    node = helper.make_node("BatchNormalization", ["x", *values], ["y"], epsilon=1e-3, momentum=0.5)
    (y,) = evaluate(graph, node, {"x": x, **values})
    g, b, m, v = (value[:, None, None] for value in values.values())
    np.testing.assert_allclose(y, g * (x - m) / np.sqrt(v + np.float32(1e-3)) + b, rtol=1e-5, atol=1e-6)
    (y,) = evaluate(graph, helper.make_node("BatchNormalization", ["x", *values], ["y"]), {"x": x, **values})
    np.testing.assert_allclose(y, g * (x - m) / np.sqrt(v + np.float32(1e-5)) + b, rtol=1e-5, atol=1e-6)
