"""Boards as a backend: the pictures, comparisons and errors of a simulator, without a view of memory."""

import re

import numpy as np
import pytest

from hyperdrive_hdl.compiler.compile import compile_model
from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.config import ChipConfig, MeshConfig
from hyperdrive_hdl.data import digits_images, digits_model
from hyperdrive_hdl.errors import ChipError, UserError
from hyperdrive_hdl.host.backend import BoardBackend, words_of
from hyperdrive_hdl.host.client import Board
from hyperdrive_hdl.host_link import Features
from hyperdrive_hdl.isa import Side
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.report.facts import BOARD, run_facts
from hyperdrive_hdl.report.tables import run_lines
from hyperdrive_hdl.simulate.backend import LinkAction, LinkFaultInjection
from hyperdrive_hdl.simulate.network import simulate_network
from hyperdrive_hdl.simulate.program import run_program
from tests.support.board import FakeBoard, InterpretedChip, SimulatedLine
from tests.support.chips import MINI, check_program, small_program, stimulus
from tests.support.simulated import random_inputs, simulator
from tests.support.stages import random_chip, random_stage

TINY = PRESETS["tiny"]


def board(chip: ChipConfig, **options) -> BoardBackend:
    line = SimulatedLine(FakeBoard(chip, InterpretedChip(chip), **options))
    client = Board(line, clock=line.clock)
    client.connect()
    backend = BoardBackend(chip, client)
    backend.line = line
    return backend


@pytest.mark.parametrize("seed", range(12))
def test_stored_maps_are_the_pictures(seed):
    rng = np.random.default_rng(seed)
    chip, stage = random_chip(rng), random_stage(rng)
    program = compile_stage(stage, chip, MeshConfig(), observe=True)
    images = random_inputs(rng, stage, 2, special=0.1)
    run = check_program(board(chip), program, stage, images)
    assert run.layers == ()
    assert run.counters.layers == 2 * len(stage.layers)


def test_only_stored_layers_are_seen():
    program, _, image = small_program(1)
    seen = []
    run_program(
        board(MINI), program, [image], picture=lambda image, layer, words: seen.append(layer.conv.name)
    )
    assert seen == ["second"]


def test_the_digits_network_is_compared_as_on_a_simulator():
    images = digits_images()[0][:2]
    compiled = compile_model(digits_model(), TINY, observe=True)
    on_board = simulate_network(compiled, images, backend := board(TINY))
    simulated = simulate_network(compile_model(digits_model(), TINY), images, simulator(TINY))
    assert on_board.comparison.words == simulated.comparison.words == 2 * 6272
    assert on_board.comparison.mismatches == 0
    np.testing.assert_array_equal(on_board.output, simulated.output)
    facts = run_facts(compiled, on_board, BOARD, 2)
    assert [layer.cycles for layer in facts.layers] == [None] * 10
    assert [layer.mismatches for layer in facts.layers] == [0] * 10
    assert facts.totals.cycles > 0  # by the board's counters
    assert facts.simulated_cycles_per_second is None
    assert backend.done() == sum(words_of(p, 2) for p in compiled.programs.values())
    assert list(run_lines(facts))


def test_a_wrong_word_is_found_where_it_is():
    class Wrong(InterpretedChip):
        def run(self, room):
            before = len(self.outputs)
            super().run(room)
            if before <= 7 < len(self.outputs) and self.layers == 1:
                self.outputs[7] ^= 1

    line = SimulatedLine(FakeBoard(TINY, Wrong(TINY)))
    client = Board(line, clock=line.clock)
    client.connect()
    compiled = compile_model(digits_model(), TINY, observe=True)
    run = simulate_network(compiled, digits_images()[0][:1], BoardBackend(TINY, client))
    first = compiled.programs["chip0"].layers[0].conv.name
    assert run.comparison.mismatches == 1
    assert {name: n for name, n in run.comparison.by_place.items() if n} == {first: 1}


def test_layers_that_are_not_observed_are_not_compared():
    compiled = compile_model(digits_model(), TINY)
    run = simulate_network(compiled, digits_images()[0][:1], board(TINY, features=Features(0)))
    facts = run_facts(compiled, run, BOARD, 1)
    assert facts.mismatches == 0
    assert 0 < facts.words_compared < 6272
    assert [layer.mismatches for layer in facts.layers] == [None] * 9 + [0]
    assert facts.totals.cycles is None
    assert facts.totals.utilisation is None


def test_errors_are_those_of_a_simulator():
    program, _, image = small_program(1)
    backend = board(MINI)
    changed = stimulus(program, [image], program=np.array([0], np.uint64))
    backend.start(changed)
    other, _, _ = small_program(1, MINI.replace(wbuf_depth=20))
    told = "after 0 layers: the chip reports error 2 (CONFIG): the program was made for another chip"
    with pytest.raises(ChipError, match=re.escape(f"small: in cycle 1000, {told}")):
        run_program(backend, other, [image])
    with pytest.raises(ChipError, match=re.escape(f"small: {told}")):
        run_program(board(MINI, features=Features(0)), other, [image])
    run_program(backend, program, [image])


def test_a_chip_that_waits_for_ever():
    program, _, image = small_program(1)
    backend = board(MINI)
    backend.line.board.held = True
    with pytest.raises(ChipError, match="the chip makes no progress"):
        run_program(backend, program, [image])


def test_what_a_board_cannot_do():
    program, _, image = small_program(1)
    backend = board(MINI)
    fault = LinkFaultInjection((0, 0), Side.NORTH, LinkAction.DROP)
    for changes in ({"stall_seed": 1}, {"link_faults": (fault,)}):
        with pytest.raises(ValueError, match=r"cannot be given|no link"):
            backend.start(stimulus(program, [image], **changes))
    with pytest.raises(NotImplementedError, match="observe"):
        backend.memory()
    with pytest.raises(UserError, match="signature"):
        BoardBackend(TINY, backend._board)
