"""Explicit Pad operators, as some exporters write them, become padding of the convolutions that follow."""

import numpy as np
import onnx

from ..geometry import KERNELS, STRIDES, geometry_of, map_size, pads_fit
from ..graph import Graph, attribute, with_io


def merge_pads(graph: Graph) -> Graph:
    """Merge a zero Pad into a Conv where the sum is a padding that the chip has; others stay on the host."""
    producers = graph.producers()
    nodes = []
    for node in graph.nodes:
        pad = producers.get(node.input[0]) if node.op_type == "Conv" and not node.domain else None
        if pad is not None and pad.op_type == "Pad" and not pad.domain:
            node = _merged(graph, pad, node)
        nodes.append(node)
    return graph.replace(nodes=tuple(nodes)).pruned()


def _merged(graph: Graph, pad: onnx.NodeProto, conv: onnx.NodeProto) -> onnx.NodeProto:
    extra = _spatial_pads(graph, pad)
    weights = graph.constants.get(conv.input[1])
    if extra is None or weights is None or weights.ndim != 4:
        return conv
    own = geometry_of(graph, conv)
    total = tuple(a + b for a, b in zip(extra, own.pads, strict=True))
    square = own.kernel[0] == own.kernel[1] and own.strides[0] == own.strides[1]
    if not square or own.kernel[0] not in KERNELS or own.strides[0] not in STRIDES:
        return conv
    if not pads_fit(own.kernel[0], own.strides[0], total, map_size(graph, pad.input[0])):
        return conv
    merged = with_io(conv, [pad.input[0], *conv.input[1:]])
    kept = [item for item in merged.attribute if item.name not in ("pads", "auto_pad")]
    del merged.attribute[:]
    merged.attribute.extend([*kept, onnx.helper.make_attribute("pads", total)])
    return merged


def _spatial_pads(graph: Graph, pad: onnx.NodeProto) -> tuple[int, int, int, int] | None:
    """Top, left, bottom, right of a Pad that adds constant zeros around maps only."""
    if attribute(pad, "mode", "constant") != "constant":
        return None
    inputs = [*pad.input, "", "", ""]
    if any(name and name not in graph.constants for name in inputs[1:4]):
        return None
    pads, value, axes = (graph.constants.get(name) for name in inputs[1:4])
    if pads is None:  # before opset 11
        pads, value = np.array(attribute(pad, "pads", ())), attribute(pad, "value", 0.0)
    if np.any(np.asarray(0 if value is None else value) != 0):
        return None
    order = range(4) if axes is None else [int(axis) % 4 for axis in axes]
    amounts = pads.ravel().tolist()
    if len(amounts) != 2 * len(order):
        return None
    begin, end = [0] * 4, [0] * 4
    for index, axis in enumerate(order):
        begin[axis], end[axis] = amounts[index], amounts[index + len(order)]
    if any(begin[:2] + end[:2]) or min(begin + end) < 0:
        return None
    return begin[2], begin[3], end[2], end[3]
