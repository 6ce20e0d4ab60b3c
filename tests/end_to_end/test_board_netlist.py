"""A board's core as synthesised for the iCE40, by its pins: a layer through the host's client."""

import re

import numpy as np
import pytest

from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.compiler.ir import ChipStage, FeatureMap
from hyperdrive_hdl.config import ChipConfig, MeshConfig
from hyperdrive_hdl.host_link import Identity
from hyperdrive_hdl.rtl.board import identity_of
from hyperdrive_hdl.simulate.board import BAUD, DIVISOR, SimulatedBoard
from tests.support.chips import check_program
from tests.support.netlist import build_netlist, synthesise
from tests.support.pins import host
from tests.support.resnet import random_conv
from tests.support.simulated import random_inputs

CHIP = ChipConfig(
    name="netlist",
    lanes=2,
    tile_rows=1,
    tile_cols=1,
    fmm_banks=4,
    fmm_bank_depth=32,
    wbuf_depth=18,
    format="q2.5",
    accumulator="exact",
)
IDENTITY: Identity = identity_of(
    CHIP,
    clock_hz=BAUD * DIVISOR,
    baud=BAUD,
    program_buffer=256,
    maps_buffer=128,
    output_buffer=128,
    counters=False,
)


@pytest.fixture(scope="module")
def netlist(tmp_path_factory) -> str:
    return synthesise(CHIP, IDENTITY, tmp_path_factory.mktemp("netlist"))[0]


def layer(seed: int):
    """A 3x3 layer with everything, compiled, and two images."""
    rng, format = np.random.default_rng(seed), CHIP.number_format
    source, other = FeatureMap("in", 2, 3, 2), FeatureMap("other", 3, 3, 2)
    options = {"kernel": 3, "scale": True, "bias": True, "relu": True, "bypass": other, "format": format}
    conv = random_conv(rng, source, "out", 3, **options)
    stage = ChipStage("layer", (source, other), (conv,), (conv.output,))
    return compile_stage(stage, CHIP, MeshConfig()), stage, random_inputs(rng, stage, 2, format=format)


def check(netlist: str) -> None:
    board = SimulatedBoard(build_netlist(netlist), IDENTITY)
    with board, host(board, CHIP, timeout=2.0) as backend:
        done = check_program(backend, *layer(1))
        assert len(np.unique([maps["out"] for maps in done.outputs])) > 10
        assert not board.error
        assert board.framing_errors == 0


def test_a_layer(netlist):
    check(netlist)


@pytest.mark.slow  # two minutes more
def test_a_wrong_bit_of_a_lut_is_seen(netlist):
    """In the first lane's adder: the sum's bit 7 where both operands are 1 and the carry is 0."""
    found = re.search(
        r"cell \\SB_LUT4 \S*tpu0\.acc_\S+\n\s+parameter \\LUT_INIT 16'(\d{16})\n.*\n"
        r"\s+connect \\I0 1'0\n.*\n\s+connect \\I2 \S*tpu0\.acc \[7\]\n",
        netlist,
    )
    assert found, "this LUT has another name now"
    assert found[1] == "0110100110010110"
    at = found.start(1) + 15 - 6
    with pytest.raises(AssertionError, match="Mismatched elements"):
        check(netlist[:at] + "1" + netlist[at + 1 :])
