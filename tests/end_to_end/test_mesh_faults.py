"""Disturbed meshes: every fault is harmless or reported, in time, with chip and side; no word is wrong."""

import re

import pytest

from hyperdrive_hdl.config import MeshConfig
from hyperdrive_hdl.errors import ChipError
from hyperdrive_hdl.isa import Side
from hyperdrive_hdl.rtl.link import HEARTBEAT, TIMEOUT
from hyperdrive_hdl.simulate.backend import ChipAction, ChipFault, LinkAction, LinkFaultInjection
from hyperdrive_hdl.simulate.cxxrtl import CxxrtlBackend
from hyperdrive_hdl.simulate.program import run_program
from tests.support.chips import MINI, check_program, small_program

CHIP = MINI.replace(name="linked", link_width=4, border_depth=64)
PAIR, SQUARE = MeshConfig(cols=2), MeshConfig(rows=2, cols=2)
FRAME_CYCLES = 200  # more than any frame lasts
IN_TIME = TIMEOUT + HEARTBEAT + FRAME_CYCLES


def program_for(mesh: MeshConfig):
    return small_program(9, CHIP, mesh=mesh, height=4 * mesh.rows, width=4 * mesh.cols)


@pytest.mark.parametrize(
    "action", [LinkAction.FLIP, LinkAction.DROP, LinkAction.REPEAT], ids=lambda a: a.name
)
def test_every_beat_of_a_link_matters(action):
    """A frame's first beat, a map's last one: wherever it happens, the chip in the east reports it."""
    program, stage, image = program_for(PAIR)
    with CxxrtlBackend(CHIP, mesh=PAIR) as backend:
        whole = check_program(backend, program, stage, [image])
        beats = backend.chip_counters((0, 0)).link_beats
        assert beats > 50
        for beat in range(1, beats + 1):
            fault = LinkFaultInjection((0, 0), Side.EAST, action, border_beat=beat, mask=1 << beat % 4)
            with pytest.raises(
                ChipError, match=r"chip 0,1 reports error 4 \(LINK\): .* in the west: "
            ) as error:
                run_program(backend, program, [image], link_faults=[fault])
            [cycle] = map(int, re.findall(r"in cycle (\d+)", str(error.value)))
            assert cycle < whole.counters.cycles + IN_TIME, beat


@pytest.mark.parametrize("cycle", [60, 200, 400, 700])
def test_a_link_that_goes_down(cycle):
    program, _, image = program_for(SQUARE)
    fault = LinkFaultInjection((1, 0), Side.NORTH, LinkAction.HOLD, cycle=cycle, cycles=1_000_000)
    with (
        CxxrtlBackend(CHIP, mesh=SQUARE) as backend,
        pytest.raises(ChipError, match=r"chip 0,0 .* in the south: SILENCE") as error,
    ):
        run_program(backend, program, [image] * 3, link_faults=[fault])
    [found] = map(int, re.findall(r"in cycle (\d+)", str(error.value)))
    assert found < cycle + IN_TIME


@pytest.mark.parametrize("chip", [(0, 0), (0, 1), (1, 1)])
def test_a_chip_that_is_reset(chip):
    """It starts anew in the middle of a layer; its neighbours tell, before anything wrong comes out."""
    program, _, image = program_for(SQUARE)
    with CxxrtlBackend(CHIP, mesh=SQUARE) as backend:
        for cycle in range(60, 800, 67):
            faults = [
                ChipFault(chip, ChipAction.RESET, cycle=cycle),
                # No program meanwhile, so that it has nothing to complain of itself.
                ChipFault(chip, ChipAction.STALL, cycle=cycle, cycles=2 * IN_TIME),
            ]
            told = r"reports error 4 \(LINK\): the link fails in the \w+: (EPOCH|SEQUENCE|FRAME|CHECK)"
            with pytest.raises(ChipError, match=told) as error:
                run_program(backend, program, [image] * 3, chip_faults=faults)
            assert f"chip {chip[0]},{chip[1]} reports" not in str(error.value)
            [found] = map(int, re.findall(r"in cycle (\d+)", str(error.value)))
            assert found < cycle + IN_TIME


@pytest.mark.parametrize(
    "fault",
    [
        ChipFault((0, 1), ChipAction.RESET, cycle=0, cycles=10_000),
        ChipFault((1, 0), ChipAction.STALL, cycle=300, cycles=100_000),
        ChipFault((0, 0), ChipAction.STALL, cycle=30, cycles=100_000),
    ],
    ids=["late", "stalled", "stalled while loading"],
)
def test_late_and_stalled_chips_are_harmless(fault):
    """A link that lives is no fault, however long its chip has nothing to tell."""
    program, stage, image = program_for(SQUARE)
    with CxxrtlBackend(CHIP, mesh=SQUARE) as backend:
        done = check_program(backend, program, stage, [image] * 2, chip_faults=[fault])
    assert done.counters.cycles > fault.cycles
