"""From a .onnx file to a ``Network``: the front end's steps by name, in order, with their results."""

from collections.abc import Callable
from pathlib import Path

from ..arith.formats import Format, format_by_name
from ..errors import ModelError
from .graph import Graph
from .ir import Network
from .onnx_import import read_graph
from .passes.binarise import binarise
from .passes.check import check_network, check_operators
from .passes.fold import drop_identities, fold_constants
from .passes.fuse import fuse_affine, fuse_bypass, fuse_relu, round_parameters
from .passes.pads import merge_pads
from .passes.partition import partition

Step = Callable[[Graph, Format], Graph]


def _plain(step: Callable[[Graph], Graph]) -> Step:
    """A step that does not depend on the number format."""
    return lambda graph, number_format: step(graph)


# In this order. "read" comes before, "partition" after.
STEPS: dict[str, Step] = {
    "drop_identities": _plain(drop_identities),
    "fold_constants": _plain(fold_constants),
    "merge_pads": _plain(merge_pads),
    "binarise": _plain(binarise),
    "check_operators": _plain(check_operators),
    "check_network": _plain(check_network),
    "fuse_affine": _plain(fuse_affine),
    "fuse_bypass": _plain(fuse_bypass),
    "fuse_relu": _plain(fuse_relu),
    "round_parameters": round_parameters,
}


def import_steps(path: str | Path, format: str = "fp16") -> dict[str, Graph]:
    """The graph as read and after every step, by the step's name; ``graph.to_model()`` writes one as ONNX."""
    number_format = format_by_name(format)
    graph = read_graph(path)
    results = {"read": graph}
    for name, step in STEPS.items():
        try:
            graph = step(graph, number_format)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None
        results[name] = graph
    return results


def import_network(path: str | Path, format: str = "fp16") -> Network:
    """Read a trained binary-weight network and split it into stages for chip and host.

    Raises
    ------
    ModelError : the file, the network or one of its layers cannot be used; the message names it
    """
    steps = import_steps(path, format)
    try:
        return partition(steps["round_parameters"], steps["fold_constants"].to_model(), format)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
