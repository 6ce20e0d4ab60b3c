"""What the tests of single steps share: a builder of models, and the graph just before a step."""

import numpy as np
import pytest

from hyperdrive_hdl.arith.formats import format_by_name
from hyperdrive_hdl.compiler.onnx_import import read_graph
from hyperdrive_hdl.compiler.pipeline import STEPS
from tests.support.models import Builder, save


@pytest.fixture
def build():
    return Builder(np.random.default_rng(20160318), (4, 6, 6))


@pytest.fixture
def upto(build, tmp_path):
    """The graph of the built model after all steps up to the one named."""

    def run(result, last, format="fp16"):
        graph = read_graph(save(build.model(result), tmp_path))
        for name, step in STEPS.items():
            graph = step(graph, format_by_name(format))
            if name == last:
                return graph
        raise KeyError(last)

    return run
