"""The last step: a fused graph becomes stages that alternate between host and chip."""

import onnx

from ...errors import ModelError
from ..graph import Graph, attribute, describe, is_binary_conv, node_inputs
from ..ir import BinaryConv, ChipStage, FeatureMap, HostStage, Network, Stage

Nodes = list[onnx.NodeProto]


def partition(graph: Graph, float_model: onnx.ModelProto | None = None, format: str = "fp16") -> Network:
    """Split a graph, with its parameters rounded to ``format``, into as few stages as possible.

    Raises
    ------
    ModelError : a map at the chip's border is not one image of (channels, height, width)
    """
    runs = min((_runs(graph, chip_first) for chip_first in (False, True)), key=len)
    produced = [{name for node in nodes for name in node.output if name} for nodes in runs]
    used = [{name for node in nodes for name in node_inputs(node)} for nodes in runs]
    stages: list[Stage] = []
    for index, nodes in enumerate(runs):
        later = {graph.output}.union(*used[index + 1 :])
        order = list(dict.fromkeys(n for node in nodes for n in (*node_inputs(node), *node.output) if n))
        inputs = [n for n in order if n not in produced[index] and n not in graph.constants]
        outputs = [n for n in order if n in produced[index] and n in later]
        chip = is_binary_conv(nodes[0])
        number = sum(isinstance(stage, ChipStage) == chip for stage in stages)
        stages.append((_chip_stage if chip else _host_stage)(graph, number, nodes, inputs, outputs))
    return Network(
        name=graph.name,
        input=graph.input,
        input_shape=graph.shapes[graph.input][1:],
        output=graph.output,
        stages=tuple(stages),
        format=format,
        notes=graph.notes,
        float_model=float_model,
    )


def _runs(graph: Graph, chip: bool) -> list[Nodes]:
    """Nodes in turns of host and chip; a turn takes every node of its kind that is ready, in their order."""
    ready = {graph.input, *graph.constants}
    waiting = list(graph.nodes)
    runs: list[Nodes] = []
    while waiting:
        turn, rest = [], []
        for node in waiting:
            if is_binary_conv(node) == chip and ready.issuperset(node_inputs(node)):
                turn.append(node)
                ready.update(node.output)
            else:
                rest.append(node)
        if turn:
            runs.append(turn)
        waiting, chip = rest, not chip
    return runs


def _host_stage(graph: Graph, number: int, nodes: Nodes, inputs: list[str], outputs: list[str]) -> HostStage:
    model = graph.to_model(nodes, inputs, outputs)
    model.graph.name = f"host{number}"
    return HostStage(
        name=f"host{number}",
        model=model,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        nodes=tuple(f"{node.name} ({node.op_type})" for node in nodes),
    )


def _chip_stage(graph: Graph, number: int, nodes: Nodes, inputs: list[str], outputs: list[str]) -> ChipStage:
    readers = {name: node for node in reversed(nodes) for name in (*node.output, *node.input) if name}
    maps = {name: _feature_map(graph, readers[name], name) for name in inputs}
    layers = []
    for node in nodes:
        result = node.output[0]
        maps[result] = _feature_map(graph, node, result)
        weights, scale, bias = (graph.constants.get(name) for name in node.input[1:4])
        assert weights is not None
        layers.append(
            BinaryConv(
                name=node.name,
                input=maps[node.input[0]],
                output=maps[result],
                weights=weights,
                stride=attribute(node, "stride"),
                groups=attribute(node, "group"),
                scale=scale,
                bias=bias,
                bypass=maps[node.input[4]] if node.input[4] else None,
                relu=bool(attribute(node, "relu")),
            )
        )
    return ChipStage(
        name=f"chip{number}",
        inputs=tuple(maps[name] for name in inputs),
        layers=tuple(layers),
        outputs=tuple(maps[name] for name in outputs),
    )


def _feature_map(graph: Graph, node: onnx.NodeProto, name: str) -> FeatureMap:
    shape = graph.shapes.get(name)
    if shape is None:
        raise ModelError(
            f"node {describe(node)}: the shape of map {name!r} is not known; export with fixed height "
            f"and width"
        )
    if len(shape) != 4 or shape[0] != 1 or min(shape) < 1:
        raise ModelError(
            f"node {describe(node)}: map {name!r} has shape {shape} for one image; the chip works on 4-D "
            f"maps (1, channels, height, width)"
        )
    return FeatureMap(name, *shape[1:])
