"""Meshes of chips: engines agree on every chip, whatever the threads; disturbed links and chips."""

from dataclasses import replace

import numpy as np
import pytest

from hyperdrive_hdl.config import MeshConfig
from hyperdrive_hdl.errors import ChipError, ConfigError
from hyperdrive_hdl.isa import Side
from hyperdrive_hdl.simulate.backend import (
    Backend,
    ChipAction,
    ChipFault,
    Event,
    LinkAction,
    LinkFaultInjection,
    Stimulus,
)
from hyperdrive_hdl.simulate.cxxrtl import CxxrtlBackend
from hyperdrive_hdl.simulate.engines import make_backend
from hyperdrive_hdl.simulate.program import run_program
from hyperdrive_hdl.simulate.python import PysimBackend
from tests.support.chips import MINI, check_program, small_program, stimulus

LINKED = MINI.replace(name="linked", link_width=4, border_depth=64)
WIDE, TALL, SQUARE = MeshConfig(cols=3), MeshConfig(rows=3), MeshConfig(rows=2, cols=2)


def mesh_program(seed: int, mesh: MeshConfig, *, size: int = 4, cut: int = 0):
    """A program whose maps have so many pixels on every chip, each way, the last ones ``cut`` less."""
    height, width = size * mesh.rows - cut, size * mesh.cols - cut
    return small_program(seed, LINKED, mesh=mesh, height=height, width=width)


def history(backend: Backend, given: Stimulus) -> list:
    """Every event with its chip and all counters, memory at each layer's end; then all outputs."""
    backend.start(given)
    found: list = []
    while True:
        event = backend.run(100_000)
        memory = backend.memory(backend.chip).tolist() if event is Event.LAYER_DONE else None
        found.append((event, backend.chip, [backend.chip_counters(at) for at in backend.places], memory))
        if event is not Event.LAYER_DONE:
            return [*found, [backend.outputs(at).tolist() for at in backend.places]]


@pytest.mark.parametrize(("mesh", "seed"), [(SQUARE, 8), (TALL, None)], ids=str)
def test_engines_agree(mesh, seed):
    program, _, image = mesh_program(21, mesh, size=2, cut=1)
    given = stimulus(program, [image], stall_seed=seed, link_latency=3)
    with PysimBackend(LINKED, mesh=mesh) as python, CxxrtlBackend(LINKED, mesh=mesh) as compiled:
        found = history(python, given)
        assert found == history(compiled, given)
    chips = [at for event, at, *_ in found[:-1] if event is Event.LAYER_DONE]
    assert sorted(chips) == sorted(python.places * 2)
    assert chips != sorted(chips) or seed is None, "with stalls, chips drift apart"
    assert found[-2][0] is Event.HALTED


@pytest.mark.parametrize("mesh", [SQUARE, WIDE, TALL, MeshConfig(rows=3, cols=2)], ids=str)
def test_programs_run_and_are_right(mesh):
    """Every layer on every chip; the last chips' tiles partly outside of the map."""
    with CxxrtlBackend(LINKED, mesh=mesh) as backend:
        for seed in range(6):
            program, stage, image = mesh_program(seed, mesh, cut=seed % 3)
            done = check_program(backend, program, stage, [image] * 2, stall_seed=seed if seed % 2 else None)
            assert [(layer.image, layer.name) for layer in done.layers] == [
                (i, conv.name) for i in range(2) for conv in stage.layers
            ]
            counters = done.counters
            assert sum(layer.cycles for layer in done.layers) <= counters.computing
            assert counters.idle >= 0
            assert 0 < counters.border_words * LINKED.word_width < counters.link_beats * LINKED.link_width


def test_source_synchronous_links():
    """Compiled engines give all chips one clock; beats cross the queue between the clocks all the same."""
    chip = LINKED.replace(link_clock="source")
    program, stage, image = small_program(9, chip, mesh=WIDE, height=4, width=12)
    with CxxrtlBackend(chip, mesh=WIDE) as backend:
        for seed in (None, 3):
            check_program(backend, program, stage, [image] * 2, stall_seed=seed)


def test_threads_change_nothing():
    mesh = MeshConfig(rows=2, cols=3)
    program, _, image = mesh_program(5, mesh)
    given = stimulus(program, [image] * 20, stall_seed=6)
    runs = []
    for threads in (1, 2, 3, 100):
        with CxxrtlBackend(LINKED, mesh=mesh, threads=threads) as backend:
            runs.append(history(backend, given))
    assert runs[0][-2][0] is Event.HALTED
    assert all(run == runs[0] for run in runs)


def test_running_goes_on_where_it_stopped():
    program, _, image = mesh_program(12, SQUARE)
    given = stimulus(program, [image], stall_seed=4)
    with CxxrtlBackend(LINKED, mesh=SQUARE) as backend:
        whole = history(backend, given)
        backend.start(given)
        events = []
        while not events or events[-1][0] is not Event.HALTED:
            event = backend.run(7)
            if event is not Event.RUNNING:
                events.append((event, backend.chip))
        assert events == [tuple(found[:2]) for found in whole[:-1]]
        assert [backend.outputs(at).tolist() for at in backend.places] == whole[-1]


def test_counters_are_those_of_the_slowest_chip_and_borders_are_summed():
    program, _, image = mesh_program(3, SQUARE)
    late = ChipFault(chip=(1, 0), action=ChipAction.STALL, cycle=30, cycles=500)
    with CxxrtlBackend(LINKED, mesh=SQUARE) as backend:
        run = run_program(backend, program, [image], chip_faults=[late])
        each = {at: backend.chip_counters(at) for at in backend.places}
        assert run.counters.cycles == max(counters.cycles for counters in each.values())
        slowest = each[backend.slowest]
        summed = {
            name: sum(getattr(counters, name) for counters in each.values())
            for name in ("border_words", "link_beats")
        }
        assert run.counters == replace(slowest, **summed)
        assert summed["border_words"] > slowest.border_words > 0


LATE = [ChipFault(chip=(0, 1), action=ChipAction.RESET, cycle=0, cycles=3000)]
STALLED = [ChipFault(chip=(1, 1), action=ChipAction.STALL, cycle=100, cycles=3000)]
HELD = [LinkFaultInjection((0, 0), Side.EAST, LinkAction.HOLD, cycle=50, cycles=3000)]


@pytest.mark.parametrize(
    ("chip_faults", "link_faults"), [(LATE, []), (STALLED, []), ([], HELD)], ids=["late", "stalled", "held"]
)
def test_waiting_changes_no_word(chip_faults, link_faults):
    program, stage, image = mesh_program(9, SQUARE)
    with CxxrtlBackend(LINKED, mesh=SQUARE) as backend:
        options = {"chip_faults": chip_faults, "link_faults": link_faults}
        done = check_program(backend, program, stage, [image] * 2, **options)
        assert done.counters.cycles > 3000


@pytest.mark.parametrize(
    ("action", "more", "faults"),
    [
        (LinkAction.FLIP, {}, "CHECK|FRAME|SEQUENCE"),
        (LinkAction.DROP, {}, "FRAME"),
        (LinkAction.REPEAT, {}, "CHECK|FRAME"),
        (LinkAction.HOLD, {"cycle": 40, "border_beat": 0, "cycles": 30_000}, "SILENCE"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_disturbed_links_are_told_with_chip_and_side(action, more, faults):
    program, _, image = mesh_program(9, SQUARE)
    fault = LinkFaultInjection((1, 0), Side.NORTH, action, **({"border_beat": 7} | more))
    with CxxrtlBackend(LINKED, mesh=SQUARE) as backend:
        message = rf"chip 0,0 reports error 4 \(LINK\): the link fails in the south: ({faults}),"
        with pytest.raises(ChipError, match=message):
            run_program(backend, program, [image], link_faults=[fault])


def test_disturbances_are_the_same_in_both_simulators():
    program, _, image = mesh_program(4, WIDE, size=2)
    given = stimulus(
        program,
        [image],
        link_faults=(
            LinkFaultInjection((0, 1), Side.EAST, LinkAction.HOLD, cycle=20, cycles=50),
            LinkFaultInjection((0, 1), Side.EAST, LinkAction.DROP, border_beat=9),
        ),
        chip_faults=(
            ChipFault((0, 0), ChipAction.RESET, cycles=40),
            ChipFault((0, 2), ChipAction.STALL, cycle=90, cycles=40),
        ),
    )
    with PysimBackend(LINKED, mesh=WIDE) as python, CxxrtlBackend(LINKED, mesh=WIDE) as compiled:
        found = history(python, given)
        assert found == history(compiled, given)
    assert found[-2][:2] == (Event.ERROR, (0, 2))


def test_a_chip_that_is_reset_is_found_by_its_neighbour():
    program, _, image = mesh_program(9, SQUARE)
    # Without a program, so that it has nothing to complain of itself.
    faults = [
        ChipFault(chip=(1, 0), action=ChipAction.RESET, cycle=300),
        ChipFault(chip=(1, 0), action=ChipAction.STALL, cycle=300, cycles=5000),
    ]
    message = (
        r"chip (0,0|1,1) reports error 4 \(LINK\): the link fails in the (south|west): (EPOCH|SEQ|FRAME)"
    )
    with CxxrtlBackend(LINKED, mesh=SQUARE) as backend, pytest.raises(ChipError, match=message):
        run_program(backend, program, [image], chip_faults=faults)


def test_a_mesh_without_weights_gets_stuck():
    program, _, image = mesh_program(9, SQUARE)
    given = stimulus(program, [image], program=program.words()[:40], patience=300)
    with CxxrtlBackend(LINKED, mesh=SQUARE) as backend:
        backend.start(given)
        assert backend.run(50_000) is Event.STUCK


def test_chips_without_links_make_no_mesh():
    with pytest.raises(ConfigError, match=r"chip 'mini' has no links.*set link_width"):
        make_backend("cxxrtl", MINI, mesh=SQUARE)


def test_a_stimulus_for_another_mesh_is_refused():
    program, _, image = mesh_program(9, SQUARE)
    given = stimulus(program, [image])
    nowhere = LinkFaultInjection((0, 0), Side.NORTH, LinkAction.DROP)
    nobody = ChipFault((2, 0), ChipAction.STALL)
    for mesh, refused, message in (
        (WIDE, given, "fm_in must have the chips of a mesh of 1x3"),
        (SQUARE, replace(given, link_faults=(nowhere,)), r"chip \(0, 0\) has no link NORTH"),
        (SQUARE, replace(given, chip_faults=(nobody,)), r"there is no chip \(2, 0\)"),
    ):
        with PysimBackend(LINKED, mesh=mesh) as backend, pytest.raises(ValueError, match=message):
            backend.start(refused)


def test_a_waveform_has_all_chips(tmp_path):
    program, _, image = mesh_program(9, SQUARE)
    path = tmp_path / "mesh.vcd"
    with PysimBackend(LINKED, mesh=SQUARE, vcd=path) as backend:
        backend.start(stimulus(program, [image]))
        backend.run(20)
    text = path.read_text()
    for row, col in np.ndindex(2, 2):
        assert f"$scope module chip{row}_{col} $end" in text
