"""Find the convolutions with weights +-alpha and write them as BinaryConv: +1/-1 weights and a scale."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from ...errors import ModelError
from ..geometry import check_layer, geometry_of
from ..graph import CHIP_DOMAIN, Graph, describe

# Magnitudes that differ by less are one: a straight-through (sign(w) * alpha - w) + w leaves rounding errors.
TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class BinaryWeights:
    """weights = signs x alpha: int8 of +1 and -1, and float64 per output channel (0 where all are zero)."""

    signs: np.ndarray
    alpha: np.ndarray


def binarise(graph: Graph) -> Graph:
    """Turn every Conv with binary weights into a BinaryConv, after checking that the chip can run it.

    Scale and bias stay float64 until ``round_parameters``.

    Raises
    ------
    ModelError : ternary weights, or a binary convolution beyond the chip
    """
    constants = dict(graph.constants)
    notes = list(graph.notes)
    nodes = []
    for node in graph.nodes:
        weights = constants.get(node.input[1]) if node.op_type == "Conv" and not node.domain else None
        found = None if weights is None else split_weights(node, weights)
        nodes.append(node if found is None else _binary_conv(graph, node, found, constants, notes))
    return graph.replace(nodes=tuple(nodes), constants=constants, notes=tuple(notes)).pruned()


def split_weights(node: onnx.NodeProto, weights: np.ndarray) -> BinaryWeights | None:
    """Signs and magnitudes of binary weights, None for others.

    Raises
    ------
    ModelError : the weights are ternary
    """
    rows = np.abs(weights.reshape(len(weights), -1).astype(np.float64)) if weights.size else None
    if rows is None or not np.isfinite(rows).all():
        return None
    largest = rows.max(axis=1, keepdims=True)
    zero = rows <= TOLERANCE * largest  # true throughout an all-zero channel
    smallest = np.where(zero, largest, rows).min(axis=1, keepdims=True)
    if np.any(largest - smallest > TOLERANCE * largest) or not largest.any():
        return None
    partly_zero = zero & (largest > 0)
    if partly_zero.any():
        if (weights > 0).any() and (weights < 0).any():
            raise ModelError(
                f"node {describe(node)}: ternary weights, {int(partly_zero.sum())} of {weights.size} are "
                f"zero; the chip has +1 and -1 only: train with binary weights (a latent zero taken as +1)"
            )
        return None
    exact = largest == smallest
    alpha = np.where(exact, largest, rows.mean(axis=1, keepdims=True)).ravel()
    return BinaryWeights(np.where(weights < 0, -1, 1).astype(np.int8), alpha)


def _binary_conv(
    graph: Graph, node: onnx.NodeProto, found: BinaryWeights, constants: dict, notes: list[str]
) -> onnx.NodeProto:
    if found.signs.ndim != 4:
        raise ModelError(
            f"node {describe(node)}: binary convolution over {found.signs.ndim - 2} axes; the chip works on "
            f"4-D maps (batch, channels, height, width): use a 2-D convolution"
        )
    geometry = geometry_of(graph, node)
    check_layer(graph, node, geometry)
    dead = np.flatnonzero(found.alpha == 0)
    if dead.size:
        notes.append(
            f"node {describe(node)}: all weights of output channel {_few(dead)} are zero; computed "
            f"with scale 0"
        )
    weights, scale, bias = f"{node.name}::weights", f"{node.name}::scale", ""
    constants[weights] = found.signs
    constants[scale] = found.alpha
    if len(node.input) > 2 and node.input[2]:
        if node.input[2] not in constants:
            raise ModelError(
                f"node {describe(node)}: its bias {node.input[2]!r} depends on the input; "
                f"the chip needs a constant: export it as one"
            )
        bias = f"{node.name}::bias"
        constants[bias] = constants[node.input[2]].astype(np.float64).ravel()
    return helper.make_node(
        "BinaryConv",
        [node.input[0], weights, scale, bias, ""],
        list(node.output),
        name=node.name,
        domain=CHIP_DOMAIN,
        stride=geometry.strides[0],
        group=geometry.group,
        relu=0,
    )


def _few(values: np.ndarray) -> str:
    listed = ", ".join(map(str, values[:8].tolist()))
    return listed + (f" and {values.size - 8} more" if values.size > 8 else "")
