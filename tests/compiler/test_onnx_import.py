"""Reading .onnx files: what real exports look like, and one message for each way a file can be wrong."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hyperdrive_hdl.compiler.onnx_import import NEWEST_OPSET, read_graph
from hyperdrive_hdl.errors import ModelError
from tests.support.models import Builder, save


@pytest.fixture
def build(rng):
    return Builder(rng, (2, 4, 4))


def simple(build):
    return build.model(build.relu(build.conv("image", 3)))


def refuse(path, *parts):
    with pytest.raises(ModelError) as caught:
        read_graph(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(path), *parts):
        assert part in message, message


def test_reads_a_network(build, tmp_path):
    graph = read_graph(save(simple(build), tmp_path))
    assert graph.input == "image"
    assert [node.op_type for node in graph.nodes] == ["Conv", "Relu"]
    assert graph.shapes[graph.output] == (1, 3, 4, 4)
    assert graph.types[graph.output] == TensorProto.FLOAT


def test_missing_file(tmp_path):
    refuse(tmp_path / "none.onnx", "no such file")


def test_directory(tmp_path):
    refuse(tmp_path, "cannot be read")


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" * 20, b"not a model\n" * 50, bytes(1000)])
def test_garbage(tmp_path, content):
    path = tmp_path / "garbage.onnx"
    path.write_bytes(content)
    refuse(path, "not an ONNX file, or a damaged one")


def test_truncated_anywhere(build, tmp_path):
    whole = simple(build).SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"damaged|not a valid ONNX|exactly one|imports no version"):
            read_graph(path)


@pytest.mark.parametrize("opset", [6, NEWEST_OPSET + 1])
def test_opset(build, tmp_path, opset):
    build.opset = opset
    refuse(save(simple(build), tmp_path), f"opset {opset}", f"7 to {NEWEST_OPSET}", "opset_version=17")


def test_no_opset(build, tmp_path):
    model = simple(build)
    model.opset_import[0].domain = "elsewhere"
    refuse(save(model, tmp_path), "imports no version")


def test_newer_ir_version(build, tmp_path):
    model = simple(build)
    model.ir_version = onnx.IR_VERSION + 1
    refuse(save(model, tmp_path), f"IR version {onnx.IR_VERSION + 1}", f"up to {onnx.IR_VERSION}")


def test_invalid_graph(build, tmp_path):
    model = simple(build)
    model.graph.node[1].input[0] = "nowhere"
    refuse(save(model, tmp_path), "not a valid ONNX model", "nowhere")


class TestExternalData:
    @pytest.fixture
    def path(self, build, tmp_path):
        path = tmp_path / "model.onnx"
        onnx.save(simple(build), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        return path

    def test_read(self, path):
        assert read_graph(path).constants["conv_0_w"].shape == (3, 2, 3, 3)

    def test_missing(self, path):
        (path.parent / "weights.bin").unlink()
        refuse(path, "conv_0_w", "'weights.bin'", "missing")

    def test_cut_short(self, path):
        (path.parent / "weights.bin").write_bytes(b"123")
        refuse(path, "conv_0_w", "weights.bin", "cannot be read")


def test_initializers_listed_as_inputs(build, tmp_path):
    model = build.model(build.conv("image", 3), list_initializers=True)
    assert len(model.graph.input) == 2
    assert read_graph(save(model, tmp_path)).input == "image"


@pytest.mark.parametrize("kind", ["input", "output"])
def test_two_inputs_or_outputs(build, tmp_path, kind):
    model = simple(build)
    values = getattr(model.graph, kind)
    if kind == "input":
        values.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, [1, 2, 4, 4]))
    else:
        values.append(helper.make_tensor_value_info("conv_0_out", TensorProto.FLOAT, ["N", 3, 4, 4]))
    second = values[1].name
    refuse(save(model, tmp_path), f"2 {kind}s", second, "exactly one")


@pytest.mark.parametrize("dims", [["N", 2, "H", "W"], ["N", "C", 4, 4], [1, 2, 0, 4]])
def test_dynamic_maps(build, tmp_path, dims):
    model = simple(build)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, dims))
    refuse(save(model, tmp_path), "'image'", str(dims[2]), "only the batch axis may be dynamic")


@pytest.mark.parametrize("dims", [[1, 4], [1, 2, 4], [1, 2, 4, 4, 4]])
def test_input_that_is_no_map(build, tmp_path, dims):
    model = simple(build)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, dims))
    refuse(save(model, tmp_path), "'image'", "(" + ", ".join(map(str, dims)) + ")", "4-D maps")


def test_input_type(build, tmp_path):
    model = simple(build)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    refuse(save(model, tmp_path), "'image'", "FLOAT16", "float32")


@pytest.mark.parametrize("batch", ["N", 1, 8])
def test_batch_axis_becomes_one(build, tmp_path, batch):
    build.batch = batch
    graph = read_graph(save(simple(build), tmp_path))
    assert graph.shapes["image"] == (1, 2, 4, 4)
    assert graph.shapes["conv_0_out"] == (1, 3, 4, 4)


def test_batch_in_reshape_becomes_one(build, tmp_path):
    build.batch = 3
    kept = build.node(
        "Reshape", [build.constant("k", np.ones(3)), build.constant("k_shape", np.array([3, 1, 1]))]
    )
    x = build.node("Mul", [build.conv("image", 3), kept])
    x = build.node("Reshape", [x, build.constant("shape", np.array([3, 48]))], shape=(48,))
    graph = read_graph(save(build.model(x), tmp_path))
    assert graph.shapes[graph.output] == (1, 48)
    assert graph.shapes[kept] == (3, 1, 1)


def test_unnamed_and_equal_nodes_get_names(build, tmp_path):
    model = simple(build)
    model.graph.node[0].name = model.graph.node[1].name = ""
    names = [node.name for node in read_graph(save(model, tmp_path)).nodes]
    assert names == ["Conv_0", "Relu_1"]
    for node in model.graph.node:
        node.name = "same"
    names = [node.name for node in read_graph(save(model, tmp_path)).nodes]
    assert len(set(names)) == 2


def test_local_functions_are_inlined(build, tmp_path):
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Neg", ["b"], ["c"])]
    model = build.model(build.node("NegRelu", [build.conv("image", 3)], domain="local"))
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("local", "NegRelu", ["a"], ["c"], body, opsets))
    graph = read_graph(save(model, tmp_path))
    assert [node.op_type for node in graph.nodes] == ["Conv", "Relu", "Neg"]


def test_custom_domain_without_opset_import(build, tmp_path):
    model = build.model(build.conv("image", 3, style="bipolar"))
    assert model.opset_import[1].domain.startswith("qonnx")
    del model.opset_import[1]
    assert read_graph(save(model, tmp_path)).opsets["qonnx.custom_op.general"] == 1
