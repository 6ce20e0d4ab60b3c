"""Identities, dropout and constant folding, above all of latent weights."""

import numpy as np
import pytest
from onnx import helper

from hyperdrive_hdl.compiler.onnx_import import read_graph
from hyperdrive_hdl.compiler.operators import evaluate
from hyperdrive_hdl.compiler.passes.fold import drop_identities, fold_constants
from hyperdrive_hdl.errors import ModelError
from tests.support.models import QONNX, STYLES, Builder, images_for, save
from tests.support.models import evaluate as run_model


@pytest.fixture
def build(rng):
    return Builder(rng, (2, 4, 5))


def folded(build, result, tmp_path):
    return fold_constants(drop_identities(read_graph(save(build.model(result), tmp_path))))


def kinds(graph):
    return [node.op_type for node in graph.nodes]


class TestDropIdentities:
    def test_identity_and_dropout(self, build, tmp_path):
        x = build.node("Identity", ["image"])
        x = build.node("Dropout", [build.conv(x, 3)])
        graph = drop_identities(read_graph(save(build.model(build.relu(x)), tmp_path)))
        assert kinds(graph) == ["Conv", "Relu"]
        assert graph.nodes[0].input[0] == "image"

    def test_output_keeps_its_name(self, build, tmp_path):
        x = build.node("Identity", [build.node("Identity", [build.relu("image")])])
        graph = drop_identities(read_graph(save(build.model(x), tmp_path)))
        assert kinds(graph) == ["Relu"]
        assert list(graph.nodes[0].output) == [x] == [graph.output]

    def test_shared_parameter(self, build, tmp_path):
        shared = build.constant("shared", np.ones((2, 2, 1, 1)))
        alias = build.node("Identity", [shared])
        x = build.node("Conv", [build.node("Conv", ["image", shared]), alias])
        graph = drop_identities(read_graph(save(build.model(x), tmp_path)))
        assert [node.input[1] for node in graph.nodes] == ["shared", "shared"]

    def test_identity_of_the_input_as_output(self, build, tmp_path):
        graph = drop_identities(read_graph(save(build.model(build.node("Identity", ["image"])), tmp_path)))
        assert kinds(graph) == ["Identity"]

    def test_mask_in_use(self, build, tmp_path):
        build.node("Dropout", ["image"])
        build.nodes[0].output.append("mask")
        x = build.node("Where", ["mask", "dropout_0_out", build.constant("zero", 0.0)], shape=(2, 4, 5))
        graph = drop_identities(read_graph(save(build.model(x), tmp_path)))
        assert kinds(graph) == ["Dropout", "Where"]


class TestFoldConstants:
    @pytest.mark.parametrize("style", STYLES)
    def test_weights_become_one_tensor(self, build, tmp_path, style):
        x = build.conv("image", 3, style=style)
        model = build.model(x)
        graph = folded(build, x, tmp_path)
        assert kinds(graph) == ["Conv"]
        assert set(graph.constants) == set(graph.nodes[0].input[1:])
        image = images_for(model, build.rng)
        values = {"image": image, **{n: graph.constants[n] for n in graph.nodes[0].input[1:]}}
        np.testing.assert_array_equal(evaluate(graph, graph.nodes[0], values)[0], run_model(model, image))

    def test_latent_zero_is_plus_one(self, build, tmp_path):
        build.constant("latent", np.array([0.0, -0.0, 1e-30, -1e-30] * 2).reshape(4, 2, 1, 1))
        build.constant("alpha", np.float32(0.5))
        weights = build.node("BipolarQuant", ["latent", "alpha"], domain=QONNX)
        graph = folded(build, build.node("Conv", ["image", weights], shape=(4, 4, 5)), tmp_path)
        assert graph.constants[weights].ravel().tolist() == [0.5, 0.5, 0.5, -0.5] * 2

    def test_zero_under_sign_is_plus_one_and_noted(self, build, tmp_path):
        build.constant("latent", np.array([0.0, -0.3, 0.2, -0.1]).reshape(2, 2, 1, 1))
        sign = build.node("Sign", ["latent"], name="quantise")
        graph = folded(build, build.node("Conv", ["image", sign], shape=(2, 4, 5)), tmp_path)
        assert graph.constants[sign].ravel().tolist() == [1, -1, 1, -1]
        assert graph.notes == ("node 'quantise' (Sign): 1 latent weights are zero and are taken as +1",)

    def test_ternary_tensor_under_sign_stays_ternary(self, build, tmp_path):
        build.constant("latent", np.array([0.0, -0.3, 0.3, -0.3]).reshape(2, 2, 1, 1))
        sign = build.node("Sign", ["latent"])
        graph = folded(build, build.node("Conv", ["image", sign], shape=(2, 4, 5)), tmp_path)
        assert graph.constants[sign].ravel().tolist() == [0, -1, 1, -1]

    def test_shape_arithmetic(self, build, tmp_path):
        """Flatten as Shape, Gather, Unsqueeze, Concat, Reshape."""
        shape = build.node("Shape", ["image"])
        batch = build.node("Gather", [shape, build.constant("i", np.array(0))], axis=0)
        batch = build.node("Unsqueeze", [batch, build.constant("axes", np.array([0]))])
        target = build.node("Concat", [batch, build.constant("rest", np.array([-1]))], axis=0)
        graph = folded(build, build.node("Reshape", [build.relu("image"), target], shape=(40,)), tmp_path)
        assert kinds(graph) == ["Relu", "Reshape"]
        assert graph.constants[target].tolist() == [1, -1]
        assert graph.shapes[graph.output] == (1, 40)

    def test_random_operators_stay(self, build, tmp_path):
        build.nodes.append(helper.make_node("RandomNormal", [], ["noise"], name="noise", shape=[1, 2, 4, 5]))
        graph = folded(build, build.add("image", "noise"), tmp_path)
        assert kinds(graph) == ["RandomNormal", "Add"]

    def test_operator_that_fails(self, build, tmp_path):
        build.constant("a", np.ones(3))
        build.constant("b", np.array([5]))
        wrong = build.node("Gather", ["a", "b"], name="fetch")
        with pytest.raises(
            ModelError, match=r"node 'fetch' \(Gather\) cannot be computed from its constants"
        ):
            folded(build, build.node("Mul", ["image", wrong]), tmp_path)

    def test_shapes_that_do_not_fit(self, build, tmp_path):
        x = build.add(build.relu("image"), build.constant("c", np.zeros((1, 2, 3, 3))))
        with pytest.raises(ModelError, match="shapes do not fit together"):
            folded(build, build.relu(x), tmp_path)

    def test_unknown_operators_stay(self, build, tmp_path):
        build.constant("w", np.ones((2, 2, 1, 1)))
        weights = build.node("Quant", ["w"], domain=QONNX)
        graph = folded(build, build.node("Conv", ["image", weights], shape=(2, 4, 5)), tmp_path)
        assert kinds(graph) == ["Quant", "Conv"]

    def test_subgraphs(self, build, tmp_path):
        """An If on a constant condition whose branches capture a constant."""
        build.constant("condition", np.array(True))
        build.constant("c", np.float32(3))
        branch = [
            helper.make_graph(
                [helper.make_node(op, ["c"], [op])], op, [], [helper.make_empty_tensor_value_info(op)]
            )
            for op in ("Neg", "Abs")
        ]
        value = build.node("If", ["condition"], then_branch=branch[0], else_branch=branch[1])
        graph = folded(build, build.node("Mul", ["image", value]), tmp_path)
        assert kinds(graph) == ["Mul"]
        assert graph.constants[value] == -3
