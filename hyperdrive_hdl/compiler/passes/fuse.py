"""Pull what follows a binary convolution into it: affine steps per channel, the residual addition, ReLU.

Order and numerics are in README: Numbers: x scale, + bias, + bypass, ReLU. An operator is pulled in only
where it is the only reader of the convolution's result, so that nothing else needs the value in between.
"""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper

from ...arith.formats import Format
from ...errors import ModelError
from ..graph import Graph, attribute, describe, is_binary_conv, with_io

SCALE, BIAS, BYPASS = 2, 3, 4  # inputs of a BinaryConv

# y -> gain x y + offset, each per channel or None for nothing to do.
Affine = tuple[np.ndarray | None, np.ndarray | None]


# One node for a binary convolution and its only reader, from (constants, convolution, reader), or None.
Merge = Callable[[dict, onnx.NodeProto, onnx.NodeProto], onnx.NodeProto | None]


def _fuse(graph: Graph, merge: Merge) -> Graph:
    """Merge readers into the binary convolutions before them, over and over."""
    single = graph.single_use()
    constants = dict(graph.constants)
    nodes: list[onnx.NodeProto] = []
    made: dict[str, int] = {}  # result of a binary convolution -> its place in nodes
    for node in graph.nodes:
        source = next((name for name in node.input if name in made and name in single), None)
        merged = None
        if source is not None and not node.domain:
            merged = merge(constants, nodes[made[source]], node)
        if merged is not None:
            made[merged.output[0]] = made.pop(source)
            nodes[made[merged.output[0]]] = merged
            continue
        if is_binary_conv(node):
            made[node.output[0]] = len(nodes)
        nodes.append(node)
    return graph.replace(nodes=tuple(nodes), constants=constants).pruned()


def fuse_affine(graph: Graph) -> Graph:
    """Fold BatchNormalization and Mul, Div, Add, Sub with a constant per channel into scale and bias."""

    def merge(constants, conv, node):
        affine = _affine(graph, conv, node)
        if affine is None or conv.input[BYPASS] or attribute(conv, "relu"):
            return None
        gain, offset = affine
        names = list(conv.input)
        if gain is not None:
            for name in filter(None, names[SCALE : BIAS + 1]):
                constants[name] = constants[name] * gain
        if offset is not None:
            had_bias = bool(names[BIAS])
            names[BIAS] = f"{conv.name}::bias"
            constants[names[BIAS]] = constants[names[BIAS]] + offset if had_bias else offset
        return with_io(conv, names, [node.output[0]])

    return _fuse(graph, merge)


def _affine(graph: Graph, conv: onnx.NodeProto, node: onnx.NodeProto) -> Affine | None:
    channels = len(graph.constants[conv.input[1]])
    if node.op_type == "BatchNormalization":
        return _batch_normalisation(graph, node)
    if node.op_type not in ("Mul", "Div", "Add", "Sub") or len(node.input) != 2:
        return None
    first = node.input[0] in graph.constants
    value = _per_channel(graph.constants.get(node.input[0 if first else 1]), channels)
    if value is None:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        match node.op_type:
            case "Mul":
                return value, None
            case "Add":
                return None, value
            case "Div":
                return None if first else (1 / value, None)
            case _:
                return (-np.ones(channels), value) if first else (None, -value)


def _batch_normalisation(graph: Graph, node: onnx.NodeProto) -> Affine | None:
    names = node.input[1:5]
    if attribute(node, "spatial", 1) != 1 or not all(name in graph.constants for name in names):
        return None
    gamma, beta, mean, variance = (graph.constants[name].astype(np.float64) for name in names)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        return gain, beta - mean * gain


def _per_channel(value: np.ndarray | None, channels: int) -> np.ndarray | None:
    """A constant that broadcasts over (1, channels, height, width) as one value per channel, in float64."""
    if value is None or value.ndim > 4:
        return None
    shape = (1,) * (4 - value.ndim) + value.shape
    if shape[0] != 1 or shape[1] not in (1, channels) or shape[2:] != (1, 1):
        return None
    return np.broadcast_to(value.astype(np.float64).ravel(), channels).copy()


def fuse_bypass(graph: Graph) -> Graph:
    """Make the residual Add of two equal maps the bypass of the binary convolution that it follows.

    Where both operands are convolutions, the later one takes the addition. It moves to the place of the
    Add, so that the other operand is computed by then. An Add after a ReLU is not a bypass.
    """
    single = graph.single_use()
    convs: dict[str, onnx.NodeProto] = {}  # candidates by result, in execution order
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        chosen = None
        if node.op_type in ("Add", "Sum") and not node.domain and len(node.input) == 2:
            chosen = next((name for name in reversed(convs) if name in node.input), None)
        if chosen is not None and _is_bypass(graph, node):
            conv = convs.pop(chosen)
            other = node.input[1] if node.input[0] == chosen else node.input[0]
            nodes = [earlier for earlier in nodes if earlier is not conv]
            node = with_io(conv, [*conv.input[:BYPASS], other], [node.output[0]])
        elif is_binary_conv(node) and node.output[0] in single and not attribute(node, "relu"):
            convs[node.output[0]] = node
        nodes.append(node)
    return graph.replace(nodes=tuple(nodes))


def _is_bypass(graph: Graph, add: onnx.NodeProto) -> bool:
    shapes = {graph.shapes.get(name) for name in (*add.input, add.output[0])}
    return None not in shapes and len(shapes) == 1 and not any(n in graph.constants for n in add.input)


def fuse_relu(graph: Graph) -> Graph:
    """Make Relu, or Clip to [0, infinity), the last step of the binary convolution that it follows."""

    def merge(constants, conv, node):
        if attribute(conv, "relu") or not _is_relu(graph, node):
            return None
        fused = with_io(conv, outputs=[node.output[0]])
        kept = [item for item in fused.attribute if item.name != "relu"]
        del fused.attribute[:]
        fused.attribute.extend([*kept, helper.make_attribute("relu", 1)])
        return fused

    return _fuse(graph, merge)


def _is_relu(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type != "Clip":
        return node.op_type == "Relu"
    bounds = [attribute(node, "min"), attribute(node, "max")]  # before opset 11
    for place, name in enumerate(node.input[1:3]):
        if name:
            bounds[place] = graph.constants.get(name, np.nan)
    low, high = (None if b is None else float(np.asarray(b).ravel()[0]) for b in bounds)
    return low == 0 and (high is None or high >= float(np.finfo(np.float32).max))


def round_parameters(graph: Graph, number_format: Format) -> Graph:
    """Round scale and bias, so far float64, once to the formats that the chip has them in; drop a scale that
    is 1 throughout.

    Raises
    ------
    ModelError : a value is beyond its format, or all of a layer's scales are too small for theirs
    """
    constants = dict(graph.constants)
    notes = list(graph.notes)
    nodes = []
    for node in graph.nodes:
        if is_binary_conv(node):
            names = list(node.input)
            for place, what, target in (
                (SCALE, "scale", number_format.scales),
                (BIAS, "bias", number_format.sums),
            ):
                if names[place]:
                    values = constants[names[place]]
                    _check_range(node, what, values, target, number_format)
                    constants[names[place]] = target.encode(values)
            if names[SCALE]:
                words = constants[names[SCALE]]
                _check_scales(node, graph.constants[names[SCALE]], words, number_format, notes)
                if np.all(number_format.scales.decode(words) == 1):
                    names[SCALE] = ""
            node = with_io(node, names)
        nodes.append(node)
    return graph.replace(nodes=tuple(nodes), constants=constants, notes=tuple(notes)).pruned()


def _check_range(
    node: onnx.NodeProto, what: str, values: np.ndarray, target: Format, number_format: Format
) -> None:
    """Refuse values that their format does not have."""
    bad = np.flatnonzero(~target.fits(values))
    if bad.size:
        channel = int(bad[0])
        raise ModelError(
            f"node {describe(node)}: {what} of output channel {channel} is {values[channel]:.6g}, beyond the "
            f"largest number of {_name(target, what, number_format)}, {target.largest:.8g} ({bad.size} of "
            f"{values.size} channels): check the batch normalisation's variance there, rescale the layer "
            f"before it, or take a format with more range"
        )


def _check_scales(
    node: onnx.NodeProto, values: np.ndarray, words: np.ndarray, number_format: Format, notes: list[str]
) -> None:
    """Refuse a layer whose scales all become zero, so that nothing of it is left; note single ones."""
    target = number_format.scales
    given = values != 0
    lost = np.flatnonzero(given & (target.decode(words) == 0))
    if not lost.size:
        return
    channel = int(lost[0])
    what = (
        f"node {describe(node)}: scale of output channel {channel} is {values[channel]:.6g}, too small for "
        f"{_name(target, 'scale', number_format)}, and becomes 0 ({lost.size} of {values.size} channels)"
    )
    if lost.size == np.count_nonzero(given):
        raise ModelError(
            f"{what}, so that nothing is left of the layer: rescale the layer before it, or take a format "
            f"with smaller numbers"
        )
    notes.append(what)


def _name(target: Format, what: str, number_format: Format) -> str:
    """A format, and what it is used for where the chip's own is another one."""
    if target is number_format:
        return target.name
    return f"{target.name} (the format of {number_format.name}'s {what})"
