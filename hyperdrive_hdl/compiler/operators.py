"""Operators that onnx's reference evaluator lacks, and the evaluation of single nodes.

``BipolarQuant`` (qonnx, Brevitas) is a binary quantiser: sign(x) * scale, and the sign of zero is +1.
``BinaryConv`` (domain ``hyperdrive``) stands for one layer of the chip in the graphs between two steps; here
it is computed in float32, so that each step's result can be run and compared.
"""

import contextlib
import warnings
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_conv import Conv

from .graph import CHIP_DOMAIN, Graph, is_binary_conv, node_inputs, subgraphs

BIPOLAR_DOMAINS = ("qonnx.custom_op.general", "finn.custom_op.general", "onnx.brevitas")
RANDOM_OPS = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
)


def _bipolar_quant(domain: str) -> type[OpRun]:
    def run(self, x, scale=np.float32(1)):  # noqa: B008 - the evaluator's calling convention
        return ((np.where(x >= 0, 1, -1) * scale).astype(x.dtype),)

    # The evaluator knows an operator by its class name.
    return type("BipolarQuant", (OpRun,), {"op_domain": domain, "_run": run})


class BinaryConv(OpRun):
    """One layer of the chip in float32: inputs x, weights, scale, bias, bypass (the last three optional)."""

    op_domain = CHIP_DOMAIN

    def _run(self, x, weights, scale=None, bias=None, bypass=None, stride=1, group=1, relu=0):
        pad = weights.shape[2] // 2
        y = Conv.eval(
            x,
            weights.astype(x.dtype),
            kernel_shape=list(weights.shape[2:]),
            strides=[stride, stride],
            pads=[pad] * 4,
            group=group,
        )
        y = y if scale is None else y * _per_channel(scale)
        y = y if bias is None else y + _per_channel(bias)
        y = y if bypass is None else y + bypass
        return ((np.maximum(y, 0) if relu else y).astype(x.dtype),)


class BatchNormalization(OpRun):
    """Inference, whatever the opset: onnx's own mixes the image's statistics in for opsets before 14."""

    op_domain = ""

    def _run(self, x, gamma, beta, mean, var, epsilon=1e-5, momentum=None, training_mode=0, spatial=1):
        shape = (-1,) + (1,) * (x.ndim - 2) if spatial else gamma.shape
        gamma, beta, mean, var = (value.reshape(shape) for value in (gamma, beta, mean, var))
        return ((gamma * (x - mean) / np.sqrt(var + epsilon) + beta).astype(x.dtype),)


def _per_channel(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64)[None, :, None, None]


NEW_OPS: list[type[OpRun]] = [*map(_bipolar_quant, BIPOLAR_DOMAINS), BinaryConv, BatchNormalization]


def is_bipolar_quant(node: onnx.NodeProto) -> bool:
    return node.op_type == "BipolarQuant" and node.domain in BIPOLAR_DOMAINS


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings from arithmetic: overflow, NaN and division by zero are results like any other."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def evaluator(model: onnx.ModelProto) -> ReferenceEvaluator:
    """The host's evaluator. Raises whatever onnx raises for an operator it cannot run."""
    with quiet():
        return ReferenceEvaluator(model, new_ops=NEW_OPS)


def evaluate(graph: Graph, node: onnx.NodeProto, values: dict[str, np.ndarray]) -> list:
    """Outputs of one node from the values of its inputs."""
    with quiet():
        return list(evaluator(_single(graph, node)).run(None, values))


def is_runnable(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether the host's evaluator has an implementation of this node and of those in its subgraphs."""
    if is_binary_conv(node):
        return False
    try:
        evaluator(_single(graph, node))
    except Exception:  # onnx raises many kinds, from NotImplementedError to RuntimeError and TypeError
        return False
    return all(is_runnable(graph, inner) for body in subgraphs(node) for inner in body.node)


def _single(graph: Graph, node: onnx.NodeProto) -> onnx.ModelProto:
    inputs = list(dict.fromkeys(node_inputs(node)))
    outputs = [name for name in node.output if name]
    return helper.make_model(
        helper.make_graph(
            [node],
            "node",
            [graph.value_info(name) for name in inputs],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
        ),
        ir_version=graph.ir_version,
        opset_imports=[helper.make_opsetid(d, graph.opsets.get(d, 1)) for d in sorted({"", node.domain})],
    )
