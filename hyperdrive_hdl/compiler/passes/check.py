"""Steps that change nothing: they refuse what can run neither on the chip nor on the host, naming it."""

import onnx

from ...errors import ModelError
from ..graph import Graph, attribute, describe, is_binary_conv, node_inputs
from ..operators import is_runnable


def check_operators(graph: Graph) -> Graph:
    """Every operator must run somewhere.

    Raises
    ------
    ModelError : operators that the host's evaluator does not have, all in one message, with the split
    """
    for node in graph.nodes:
        if node.op_type == "BatchNormalization" and attribute(node, "training_mode", 0):
            raise ModelError(
                f"node {describe(node)}: batch normalisation in training mode; export the network in "
                f"inference mode (model.eval())"
            )
    unknown = [n for n in graph.nodes if not is_binary_conv(n) and not is_runnable(graph, n)]
    if unknown:
        are = "operator is" if len(unknown) == 1 else "operators are"
        raise ModelError(
            f"{len(unknown)} {are} known neither to the chip nor to the host: "
            f"{', '.join(map(describe, unknown))}. {_split(graph)} Replace them by standard ONNX operators, "
            f"or export the network without them."
        )
    return graph


def _split(graph: Graph) -> str:
    """Where the host ends and the chip begins, in a sentence."""
    places = [index for index, node in enumerate(graph.nodes) if is_binary_conv(node)]
    if not places:
        return "No binary convolution was recognised, so that all operators would run on the host."
    first, last = places[0], places[-1]
    before, after = graph.nodes[:first], graph.nodes[last + 1 :]
    between = [n for n in graph.nodes[first:last] if not is_binary_conv(n)]
    counts = "; ".join(
        f"{where} {len(nodes)} host operators"
        + (f" ({nodes[0].name!r} to {nodes[-1].name!r})" if nodes else "")
        for where, nodes in (("before them", before), ("between them", between), ("after them", after))
    )
    return (
        f"The chip runs {len(places)} binary convolutions, {graph.nodes[first].name!r} to "
        f"{graph.nodes[last].name!r}; {counts}."
    )


def check_network(graph: Graph) -> Graph:
    """There must be something for the chip to do, and no float convolution in the midst of it.

    Raises
    ------
    ModelError : no binary convolution, or a float one with binary ones before and after it
    """
    convs = [n for n in graph.nodes if n.op_type == "Conv" and not n.domain]
    if not any(map(is_binary_conv, graph.nodes)):
        example = f"; {describe(convs[0])} {_weights_of(graph, convs[0])}" if convs else ""
        raise ModelError(
            f"network {graph.name!r} has no binary convolution, so nothing for the chip to do: none of its "
            f"{len(convs)} convolutions has weights +-alpha (one alpha per tensor or per output channel)"
            f"{example}. Train its convolutions with binary weights."
        )
    behind = _reached(graph.nodes, forward=True)
    ahead = _reached(graph.nodes, forward=False)
    for conv in convs:
        if behind.intersection(node_inputs(conv)) and ahead.intersection(conv.output):
            raise ModelError(
                f"node {describe(conv)} lies between binary convolutions but {_weights_of(graph, conv)}; the "
                f"chip has weights +-alpha only (one alpha per tensor or per output channel): train it with "
                f"binary weights"
            )
    return graph


def _weights_of(graph: Graph, conv: onnx.NodeProto) -> str:
    weights = graph.constants.get(conv.input[1])
    if weights is None:
        return f"takes its weights {conv.input[1]!r} from other operators"
    return f"has float weights, from {weights.min():.6g} to {weights.max():.6g}"


def _reached(nodes: tuple[onnx.NodeProto, ...], *, forward: bool) -> set[str]:
    """Tensors computed from a binary convolution's result (forward), or that one depends on."""
    reached: set[str] = set()
    for node in nodes if forward else reversed(nodes):
        sources, results = node_inputs(node), list(node.output)
        if not forward:
            sources, results = results, sources
        if is_binary_conv(node) or reached.intersection(sources):
            reached.update(results)
    return reached
