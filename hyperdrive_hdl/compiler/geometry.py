"""What the chip can do with a convolution: kernel 1x1 or 3x3, stride 1 or 2, padding of half a kernel."""

from dataclasses import dataclass

import onnx

from ..errors import ModelError
from .graph import Graph, attribute, describe

KERNELS = (1, 3)
STRIDES = (1, 2)


@dataclass(frozen=True)
class Geometry:
    """A 2-D convolution's attributes, defaults and auto_pad resolved; pads are top, left, bottom, right."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    group: int


def geometry_of(graph: Graph, node: onnx.NodeProto) -> Geometry:
    """Attributes of a Conv whose weights are a constant of four axes."""
    kernel = tuple(graph.constants[node.input[1]].shape[2:])
    strides = tuple(attribute(node, "strides", (1, 1)))
    dilations = tuple(attribute(node, "dilations", (1, 1)))
    auto_pad = attribute(node, "auto_pad", "NOTSET")
    pads = tuple(attribute(node, "pads", (0, 0, 0, 0))) if auto_pad == "NOTSET" else (0, 0, 0, 0)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        size = map_size(graph, node.input[0])
        if size is None:
            raise ModelError(
                f"node {describe(node)}: auto_pad = {auto_pad} cannot be resolved, since the size of its "
                f"input {node.input[0]!r} is not known; export with explicit pads"
            )
        total = [
            max((-(-length // s) - 1) * s + (k - 1) * d + 1 - length, 0)
            for length, s, k, d in zip(size, strides, kernel, dilations, strict=True)
        ]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = (*small, *large) if auto_pad == "SAME_UPPER" else (*large, *small)
    return Geometry(kernel, strides, dilations, pads, attribute(node, "group", 1))


def map_size(graph: Graph, name: str) -> tuple[int, int] | None:
    """Height and width of a map, if they are known."""
    shape = graph.shapes.get(name, ())
    return (shape[2], shape[3]) if len(shape) == 4 else None


def pads_fit(kernel: int, stride: int, pads: tuple[int, int, int, int], size: tuple[int, int] | None) -> bool:
    """Whether the padding does the same as kernel // 2 on all sides.

    At the bottom and right another number is as good where the stride leaves the difference unread.
    """
    pad = kernel // 2
    if pads == (pad,) * 4:
        return True
    if size is None or pads[:2] != (pad, pad) or min(pads) < 0:
        return False
    return all(
        (length + pad + end - kernel) // stride == (length + 2 * pad - kernel) // stride
        for length, end in zip(size, pads[2:], strict=True)
    )


def check_layer(graph: Graph, node: onnx.NodeProto, geometry: Geometry) -> None:
    """Refuse a binary convolution that the chip has no instruction for."""
    where = f"node {describe(node)}: binary convolution"
    if geometry.kernel not in [(k, k) for k in KERNELS]:
        found = "x".join(map(str, geometry.kernel))
        raise ModelError(
            f"{where} with a {found} kernel; the chip has 1x1 and 3x3: build it from 3x3 kernels"
        )
    kernel = geometry.kernel[0]
    if geometry.strides not in [(s, s) for s in STRIDES]:
        found = "x".join(map(str, geometry.strides))
        raise ModelError(
            f"{where} with stride {found}; the chip has 1 and 2, equal on both axes: use stride 2, then pool"
        )
    if kernel > 1 and geometry.dilations != (1, 1):
        found = "x".join(map(str, geometry.dilations))
        raise ModelError(
            f"{where} with dilation {found}; the chip has dilation 1 only: use dense 3x3 kernels"
        )
    if not pads_fit(kernel, geometry.strides[0], geometry.pads, map_size(graph, node.input[0])):
        before = graph.producers().get(node.input[0])
        after = f" after node {describe(before)}" if before is not None and before.op_type == "Pad" else ""
        raise ModelError(
            f"{where} with padding {list(geometry.pads)} (top, left, bottom, right){after}; a "
            f"{kernel}x{kernel} kernel needs {kernel // 2} on all sides: train with padding={kernel // 2}"
        )
