"""The graph that the front end's steps work on: ONNX nodes in execution order and constants as arrays.

A ``Graph`` describes one image: the batch axis is 1 throughout. Steps never change a graph or a node in
place, they return a new graph, so that every intermediate result can be kept, compared and written as ONNX.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

IR_VERSION = 10  # of the models written here, unless the model read needs a newer one
CHIP_DOMAIN = "hyperdrive"  # of the operator BinaryConv, one layer of the chip (operators.py)
UNKNOWN_DOMAIN = "unknown"  # of operators that claim to be ONNX's own but are not


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Value of a node's attribute; strings decoded."""
    for item in node.attribute:
        if item.name == name:
            value = helper.get_attribute_value(item)
            return value.decode() if isinstance(value, bytes) else value
    return default


def op_name(node: onnx.NodeProto) -> str:
    """Operator type, with its domain where that is not ONNX's own."""
    return f"{node.domain}::{node.op_type}" if node.domain not in ("", UNKNOWN_DOMAIN) else node.op_type


def describe(node: onnx.NodeProto) -> str:
    """How messages name a node."""
    return f"{node.name!r} ({op_name(node)})"


def is_binary_conv(node: onnx.NodeProto) -> bool:
    return node.domain == CHIP_DOMAIN


def subgraphs(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    """Bodies of If, Loop and Scan."""
    for item in node.attribute:
        if item.type == onnx.AttributeProto.GRAPH:
            yield item.g
        yield from item.graphs


def captured_names(node: onnx.NodeProto) -> set[str]:
    """Tensors that a node's subgraphs take from the graph around them."""
    names: set[str] = set()
    for body in subgraphs(node):
        known = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
        for inner in body.node:
            names |= {n for n in inner.input if n and n not in known} | (captured_names(inner) - known)
            known |= set(inner.output)
        names |= {value.name for value in body.output} - known
    return names


def node_inputs(node: onnx.NodeProto) -> list[str]:
    """Every tensor that a node reads, its subgraphs included, one entry per use."""
    return [name for name in node.input if name] + sorted(captured_names(node))


def with_io(
    node: onnx.NodeProto, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None
) -> onnx.NodeProto:
    """A copy of a node with other tensors."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    if inputs is not None:
        copy.input[:] = list(inputs)
    if outputs is not None:
        copy.output[:] = list(outputs)
    return copy


@dataclass(frozen=True, eq=False)
class Graph:
    """One network between two steps.

    ``shapes`` and ``types`` (ONNX element types) hold what is known of each tensor; ``notes`` what the
    user should be told although it is no error.
    """

    name: str
    nodes: tuple[onnx.NodeProto, ...]
    constants: dict[str, np.ndarray]
    input: str
    output: str
    shapes: dict[str, tuple[int, ...]]
    types: dict[str, int]
    opsets: dict[str, int]
    ir_version: int = IR_VERSION
    notes: tuple[str, ...] = ()

    def replace(self, **changes) -> Graph:
        return dataclasses.replace(self, **changes)

    def producers(self) -> dict[str, onnx.NodeProto]:
        return {name: node for node in self.nodes for name in node.output if name}

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """Nodes that read each tensor, one entry per use."""
        uses: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node_inputs(node):
                uses.setdefault(name, []).append(node)
        return uses

    def single_use(self) -> set[str]:
        """Tensors that are read exactly once and are not the network's output."""
        return {name for name, nodes in self.consumers().items() if len(nodes) == 1} - {self.output}

    def pruned(self) -> Graph:
        """Without the nodes and constants that the output does not depend on."""
        needed = {self.output}
        kept = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                kept.append(node)
                needed.update(node_inputs(node))
        constants = {name: value for name, value in self.constants.items() if name in needed}
        return self.replace(nodes=tuple(reversed(kept)), constants=constants)

    def value_info(self, name: str) -> onnx.ValueInfoProto:
        kind = self.types.get(name, onnx.TensorProto.FLOAT)
        return helper.make_tensor_value_info(name, kind, self.shapes.get(name))

    def to_model(
        self,
        nodes: Sequence[onnx.NodeProto] | None = None,
        inputs: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
    ) -> onnx.ModelProto:
        """The graph, or some of its nodes between given tensors, as an ONNX model with the constants."""
        nodes = self.nodes if nodes is None else nodes
        inputs = (self.input,) if inputs is None else inputs
        outputs = (self.output,) if outputs is None else outputs
        used = {name for node in nodes for name in node_inputs(node)} | set(outputs)
        domains = {"", *(node.domain for node in nodes)}
        onnx_graph = helper.make_graph(
            list(nodes),
            self.name or "network",
            [self.value_info(name) for name in inputs],
            [self.value_info(name) for name in outputs],
            [numpy_helper.from_array(v, k) for k, v in self.constants.items() if k in used],
        )
        return helper.make_model(
            onnx_graph,
            producer_name="hyperdrive_hdl",
            ir_version=self.ir_version,
            opset_imports=[helper.make_opsetid(d, self.opsets.get(d, 1)) for d in sorted(domains)],
        )
