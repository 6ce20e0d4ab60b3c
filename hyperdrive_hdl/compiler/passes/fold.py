"""Steps that make a graph smaller without knowing about the chip: identities and constants."""

import numpy as np
import onnx

from ...errors import ModelError
from ..graph import Graph, captured_names, describe, node_inputs, with_io
from ..onnx_import import infer_shapes
from ..operators import RANDOM_OPS, evaluate, is_runnable


def drop_identities(graph: Graph) -> Graph:
    """Remove Identity and Dropout (inference leaves its input as it is)."""
    captured = {name for node in graph.nodes for name in captured_names(node)}
    uses = graph.consumers()
    stand_in: dict[str, str] = {}  # tensor -> the one that takes its place
    nodes = []
    for node in graph.nodes:
        source = stand_in.get(node.input[0], node.input[0]) if node.input else ""
        result = node.output[0]
        droppable = node.op_type in ("Identity", "Dropout") and not node.domain
        mask_used = any(name in uses for name in node.output[1:] if name)
        fixed = source == graph.input or source in graph.constants  # names that cannot change
        if not droppable or mask_used or captured & {source, result} or (result == graph.output and fixed):
            nodes.append(node)
        elif result == graph.output:
            stand_in[source] = result
        else:
            stand_in[result] = source
    if not stand_in:
        return graph.pruned()
    # The output's name may have displaced a name that others stand for: follow to the end.
    names = {name: _last(stand_in, name) for name in stand_in}
    renamed = tuple(
        with_io(node, [names.get(n, n) for n in node.input], [names.get(n, n) for n in node.output])
        for node in nodes
    )
    shapes = graph.shapes | {new: graph.shapes[old] for old, new in names.items() if old in graph.shapes}
    types = graph.types | {new: graph.types[old] for old, new in names.items() if old in graph.types}
    return graph.replace(nodes=renamed, shapes=shapes, types=types).pruned()


def _last(links: dict[str, str], name: str) -> str:
    while name in links:
        name = links[name]
    return name


def fold_constants(graph: Graph) -> Graph:
    """Compute whatever depends on constants and fixed shapes only, by onnx's reference evaluator.

    Latent weights end here: BipolarQuant, Sign, Where, Abs, ReduceMean and the like become plain tensors.

    Raises
    ------
    ModelError : an operator fails on its constants, or shapes do not fit together
    """
    while True:
        folded = infer_shapes(_fold_once(graph).pruned())
        if len(folded.nodes) == len(graph.nodes):
            return infer_shapes(folded, strict=True)
        graph = folded


def _fold_once(graph: Graph) -> Graph:
    constants = dict(graph.constants)
    notes = list(graph.notes)
    nodes = []
    for node in graph.nodes:
        inputs = node_inputs(node)
        known = {name: constants[name] for name in inputs if name in constants}
        if node.op_type in ("Shape", "Size") and node.input[0] in graph.shapes:
            known = {node.input[0]: np.empty(graph.shapes[node.input[0]], np.float32)}
        foldable = len(known) == len(set(inputs)) and node.op_type not in RANDOM_OPS
        if not foldable or not (inputs or node.op_type == "Constant") or not is_runnable(graph, node):
            nodes.append(node)
            continue
        values = _evaluate(graph, node, _without_zero_signs(node, known, notes))
        if all(isinstance(value, np.ndarray | np.generic) for value in values):
            names = [name for name in node.output if name]
            constants.update((n, np.asarray(v)) for n, v in zip(names, values, strict=True))
        else:
            nodes.append(node)
    return graph.replace(nodes=tuple(nodes), constants=constants, notes=tuple(notes))


def _evaluate(graph: Graph, node: onnx.NodeProto, known: dict[str, np.ndarray]) -> list:
    try:
        return evaluate(graph, node, known)
    except Exception as error:  # whatever numpy or onnx make of a wrong operator
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"node {describe(node)} cannot be computed from its constants: {reason}") from None


def _without_zero_signs(
    node: onnx.NodeProto, known: dict[str, np.ndarray], notes: list[str]
) -> dict[str, np.ndarray]:
    """Inputs of a Sign of latent convolution weights, with zeros made positive.

    Binary training means +1 there; ONNX's Sign gives 0, no weight of the chip. Tensors that are ternary
    already are left alone.
    """
    if node.op_type != "Sign" or node.domain:
        return known
    latent = known[node.input[0]]
    zeros = int(np.count_nonzero(latent == 0))
    if latent.ndim != 4 or not zeros or len(np.unique(np.abs(latent[latent != 0]))) < 2:
        return known
    note = f"node {describe(node)}: {zeros} latent weights are zero and are taken as +1"
    if note not in notes:
        notes.append(note)
    return {node.input[0]: np.where(latent == 0, np.ones_like(latent), latent)}
