"""How a fused graph is split into stages."""

import numpy as np
import onnx
import pytest

from hyperdrive_hdl.compiler.ir import ChipStage, HostStage
from hyperdrive_hdl.compiler.passes.partition import partition
from hyperdrive_hdl.errors import ModelError


@pytest.fixture
def split(upto):
    return lambda result: partition(upto(result, "round_parameters"))


def names(network):
    """What every stage runs."""
    return [
        [layer.name for layer in s.layers] if isinstance(s, ChipStage) else [n.split()[0] for n in s.nodes]
        for s in network.stages
    ]


def test_stem_chip_head(build, split):
    x = build.relu(build.conv("image", 4, style="float", name="stem"))
    y = build.relu(build.conv(x, 6, stride=2, name="a"))
    y = build.conv(y, 6, kernel=1, groups=2, name="b")
    network = split(build.classifier(y))
    host0, chip, host1 = network.stages
    assert names(network) == [
        ["stem", "relu_1"],
        ["a", "b"],
        ["globalaveragepool_5", "flatten_6", "classifier"],
    ]
    assert [s.name for s in network.stages] == ["host0", "chip0", "host1"]
    assert (network.input, network.input_shape, network.output) == ("image", (4, 6, 6), "classifier_out")
    assert (host0.inputs, host0.outputs) == (("image",), (x,))
    assert [m.shape for m in chip.inputs] == [(4, 6, 6)]
    a, b = chip.layers
    assert (a.stride, a.groups, a.kernel, a.relu) == (2, 1, 3, True)
    assert (b.stride, b.groups, b.kernel, b.relu) == (1, 2, 1, False)
    assert a.output == b.input
    assert a.output.shape == (6, 3, 3)
    assert chip.outputs == (b.output,)
    assert host1.nodes[2] == "classifier (Gemm)"


def test_host_models_are_valid_and_explicit(build, split):
    network = split(build.classifier(build.conv(build.node("Sigmoid", ["image"]), 4)))
    for stage in network.stages:
        if isinstance(stage, HostStage):
            onnx.checker.check_model(stage.model, full_check=True)
            assert stage.model.ir_version == 10
            assert [(o.domain, o.version) for o in stage.model.opset_import] == [("", 17)]
            assert tuple(v.name for v in stage.model.graph.input) == stage.inputs
            assert tuple(v.name for v in stage.model.graph.output) == stage.outputs


def test_chip_alone(build, split):
    network = split(build.add(build.conv("image", 4, name="a"), "image"))
    (chip,) = network.stages
    assert chip.layers[0].bypass == chip.inputs[0] == chip.layers[0].input
    assert chip.outputs[0].name == network.output


def test_host_operator_between_makes_two_programs(build, split):
    x = build.conv("image", 4, name="a")
    x = build.node("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2], name="pool", shape=(4, 3, 3))
    network = split(build.conv(x, 4, name="b"))
    assert names(network) == [["a"], ["pool"], ["b"]]
    assert [s.name for s in network.stages] == ["chip0", "host0", "chip1"]


def test_as_few_stages_as_possible(build, split):
    """Two chains with a pool each: side by side they need one host stage, not two."""
    ends = []
    for chain in "ab":
        x = build.conv("image", 4, name=f"{chain}1")
        x = build.node("Sigmoid", [x], name=f"{chain}2")
        ends.append(build.conv(x, 4, name=f"{chain}3"))
    network = split(build.node("Mul", ends, name="join"))
    assert names(network) == [["a1", "b1"], ["a2", "b2"], ["a3", "b3"], ["join"]]


def test_host_first_only_where_it_saves_a_stage(build, split):
    """The Sigmoid of the input could run first; after the chip it joins the other host operators."""
    side = build.node("Sigmoid", ["image"], name="side")
    x = build.conv("image", 4, name="a")
    network = split(build.node("Mul", [x, side], name="join"))
    assert names(network) == [["a"], ["side", "join"]]


def test_maps_that_several_stages_read(build, split):
    x = build.conv("image", 4, name="a")
    y = build.conv(build.node("Sigmoid", [x]), 4, name="b")
    network = split(build.add(y, x))
    first, _, second = network.stages
    assert [m.name for m in first.outputs] == [x]
    assert second.layers[0].bypass.name == x
    assert x in {m.name for m in second.inputs}


def test_parameters_and_macs(build, split):
    network = split(build.batch_norm(build.conv("image", 6, groups=2, name="a")))
    (layer,) = network.layers
    assert layer.weights.shape == (6, 2, 3, 3)
    assert set(np.unique(layer.weights)) == {-1, 1}
    assert layer.scale.dtype == layer.bias.dtype == np.uint16
    assert layer.macs == 6 * 6 * 6 * 2 * 9


def test_deterministic(build, split):
    x = build.conv("image", 4)
    x = build.classifier(build.add(build.node("Sigmoid", [x]), build.conv(build.node("Abs", [x]), 4)))
    assert names(split(x)) == names(split(x))
    models = [
        [s.model.SerializeToString() for s in split(x).stages if isinstance(s, HostStage)] for _ in range(2)
    ]
    assert models[0] == models[1]


def test_batch_folded_into_maps(build, split):
    shape = build.constant("s", np.array([2, 2, 6, 6]))
    x = build.conv(build.node("Reshape", ["image", shape], shape=(2, 6, 6)), 4, name="layer")
    with pytest.raises(ModelError, match=r"node 'layer'.*has shape \(2, 2, 6, 6\).*4-D maps"):
        split(x)


def test_unknown_shape(build, split):
    positive = build.node("Greater", ["image", build.constant("zero", 0.0)])
    x = build.node(
        "Compress", ["image", build.node("Reshape", [positive, build.constant("flat", np.array([-1]))])]
    )
    x = build.node("Reshape", [x, build.constant("shape", np.array([1, 2, 1, -1]))], shape=(2, 1, 4))
    with pytest.raises(ModelError, match=r"node 'layer'.*shape of map .* is not known"):
        split(build.conv(x, 4, name="layer"))
