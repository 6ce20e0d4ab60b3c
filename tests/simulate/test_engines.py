"""Both simulators of a chip agree cycle by cycle, and tell why they stop."""

import re
from dataclasses import replace

import numpy as np
import pytest

from hyperdrive_hdl import isa
from hyperdrive_hdl.compiler.ir import PlacedLayer, PlacedTransfer
from hyperdrive_hdl.errors import ChipError
from hyperdrive_hdl.isa import ErrorCode, Opcode
from hyperdrive_hdl.simulate.backend import Backend, Event, Stimulus
from hyperdrive_hdl.simulate.cxxrtl import CxxrtlBackend
from hyperdrive_hdl.simulate.program import run_program
from hyperdrive_hdl.simulate.python import PysimBackend
from hyperdrive_hdl.simulate.stalls import StallPattern
from tests.support.chips import MINI, check_program, small_program, stimulus

ENGINES = (PysimBackend, CxxrtlBackend)
engines = pytest.mark.parametrize("engine", ENGINES, ids=lambda e: e.name)


def history(backend: Backend, given) -> list:
    """Every event with its counters, the words so far, and the memory at each layer's end."""
    backend.start(given)
    found = []
    while True:
        event = backend.run(100_000)
        memory = backend.memory().tolist() if event is Event.LAYER_DONE else None
        found.append((event, backend.counters(), backend.outputs().tolist(), memory))
        if event is not Event.LAYER_DONE:
            return found


@pytest.mark.parametrize("seed", [None, 0, 77, 2**32 + 2**31 + 5])
def test_engines_agree(seed):
    """Events, counters, outputs, memory; with stalls, so the C++ pattern is the Python one."""
    program, _, image = small_program(11)
    given = stimulus(program, [image, image], stall_seed=seed)
    runs = []
    for engine in ENGINES:
        with engine(MINI) as backend:
            runs.append(history(backend, given))
    python, compiled = runs
    assert [event for event, *_ in python] == [Event.LAYER_DONE] * 4 + [Event.HALTED]
    for (event, counters, words, memory), (event2, counters2, words2, memory2) in zip(
        python, compiled, strict=True
    ):
        assert (event, counters, words) == (event2, counters2, words2)
        assert memory == memory2
    total = python[-1][1]
    assert total.mac > 0
    assert total.idle >= 0
    assert total.cycles == total.computing + total.load_exposed + total.store_exposed + total.idle
    assert len(python[-1][2]) == given.output_words[0, 0]


def test_a_load_and_a_store_beside_each_other_are_counted_once():
    """A hand-made program of two transfers without fences: the load counts first, nothing is idle twice."""
    program, _, _ = small_program(11)
    shape = {"tile_h": 2, "tile_w": 2, "channels": 3, "row_stride": 6, "full_rows": 1, "full_cols": 2}
    words = list(program.head)
    for opcode, base in ((Opcode.LOAD, 0), (Opcode.STORE, MINI.fmm_bank_depth)):
        body = isa.Transfer(base=base, rest_rows=0, rest_cols=0, **shape).encode()
        words += [isa.header(opcode, len(body)), *body]
    given = Stimulus(
        program=np.array([*words, *program.tail], np.uint64),
        fm_in={(0, 0): np.arange(24, dtype=np.uint16)},
        output_words={(0, 0): 24},
        stall_seed=2,
    )
    counted = []
    for engine in ENGINES:
        with engine(MINI) as backend:
            backend.start(given)
            assert backend.run(5000) is Event.HALTED
            counted.append(backend.counters())
            assert backend.outputs().tolist() == [0] * 24, "what was never written"
    assert counted[0] == counted[1]
    assert counted[0].computing == 0
    assert counted[0].load_exposed == counted[0].loading > 24
    assert 0 < counted[0].store_exposed < counted[0].storing


def test_stall_seeds_make_different_runs():
    program, _, image = small_program(11)
    cycles = set()
    with CxxrtlBackend(MINI) as backend:
        for seed in (None, 0, 1, 2, 3):
            cycles.add(history(backend, stimulus(program, [image], stall_seed=seed))[-1][1].cycles)
    assert len(cycles) == 5


def test_stall_pattern_has_fast_slow_and_dead_spells():
    pattern = StallPattern(3, 1)
    spells = [sum(pattern.step() for _ in range(32)) for _ in range(400)]
    assert spells.count(0) > 40
    assert sum(2 < s < 15 for s in spells) > 40
    assert sum(s > 28 for s in spells) > 40
    assert not any(StallPattern(None, 0).step() for _ in range(100))
    streams = [[StallPattern(3, stream).step() for _ in range(1)] for stream in range(3)]
    assert len(streams) == 3
    first, second = ([p.step() for _ in range(2000)] for p in (StallPattern(3, 0), StallPattern(3, 1)))
    assert first != second


def first_weights(words: np.ndarray) -> int:
    """Where the first layer's first packet of weights begins (no word before it looks like one)."""
    return next(i for i, word in enumerate(words) if int(word) == isa.header(Opcode.WEIGHTS, 18))


@engines
def test_a_program_without_its_weights_gets_stuck(engine):
    program, _, image = small_program(12)
    words = program.words()
    given = stimulus(program, [image], program=words[: first_weights(words)], patience=300)
    with engine(MINI) as backend:
        backend.start(given)
        assert backend.run(50_000) is Event.STUCK
        counters = backend.counters()
        assert counters.mac == 0
        assert counters.starved > 290
        assert 300 < counters.cycles < 1000


@engines
def test_a_fault_is_an_error(engine):
    program, _, image = small_program(12)
    words = program.words()
    words[4] = 0
    with engine(MINI) as backend:
        backend.start(stimulus(program, [image], program=words))
        assert backend.run(50_000) is Event.ERROR
        assert backend.counters().error == ErrorCode.OPCODE


def test_what_went_wrong_is_said():
    program, _, image = small_program(12)
    layer = next(i for i, step in enumerate(program.steps) if isinstance(step, PlacedLayer))
    packets = list(program.packets)
    no_weights = [*packets[:layer], packets[layer][: first_weights(packets[layer])]]
    meaningless = [np.zeros(1, np.uint64), *packets]
    nothing = np.zeros(0, np.uint64)
    stores = [step for step in program.steps if not isinstance(step, PlacedTransfer) or step.load]
    cases = (
        (
            replace(program, packets=tuple(no_weights), tail=nothing),
            "after 0 layers: the chip makes no progress",
        ),
        (replace(program, packets=tuple(meaningless)), r"error 1 \(OPCODE\): a program word has no meaning"),
        (replace(program, steps=tuple(stores)), "more output words than the program stores"),
    )
    with CxxrtlBackend(MINI) as backend:
        for changed, message in cases:
            # The words as they are: the stream is not put together again.
            stream = np.concatenate([changed.head, *changed.packets, changed.tail])
            object.__setattr__(changed, "words", lambda images, stream=stream: stream)
            with pytest.raises(ChipError, match=message):
                run_program(backend, changed, [image])


@engines
def test_more_words_than_expected_are_an_overrun(engine):
    few = 5
    program, _, image = small_program(12)
    given = stimulus(program, [image])
    with engine(MINI) as backend:
        whole = history(backend, given)[-1]
        backend.start(stimulus(program, [image], output_words=given.output_words[0, 0] - few))
        events = []
        while (event := backend.run(50_000)) is Event.LAYER_DONE:
            events.append(event)
        assert event is Event.OVERRUN
        assert backend.outputs().tolist() == whole[2][: given.output_words[0, 0] - few]


@engines
def test_running_goes_on_where_it_stopped(engine):
    """Any number of cycles at a time; ``start`` begins anew, also in the middle."""
    program, _, image = small_program(12)
    given = stimulus(program, [image], stall_seed=4)
    with engine(MINI) as backend:
        whole = history(backend, given)
        backend.start(given)
        assert backend.run(37) is Event.RUNNING
        assert backend.counters().cycles == 37
        backend.start(given)
        events = []
        while not events or events[-1] is not Event.HALTED:
            event = backend.run(13)
            if event is not Event.RUNNING:
                events.append(event)
        assert events == [event for event, *_ in whole]
        assert backend.counters() == whole[-1][1]
        assert backend.outputs().tolist() == whole[-1][2]


@engines
def test_programs_run_and_are_right(engine):
    program, stage, image = small_program(13)
    with engine(MINI) as backend:
        done = check_program(backend, program, stage, [image] * 2, stall_seed=9)
    assert [(layer.image, layer.name) for layer in done.layers] == [
        (i, conv.name) for i in range(2) for conv in stage.layers
    ]
    assert all(layer.cycles > 0 for layer in done.layers)
    assert sum(layer.cycles for layer in done.layers) <= done.counters.computing


@engines
def test_a_wrong_result_is_seen(engine):
    """Negative control: with one weight flipped the check fails."""
    program, stage, image = small_program(13)
    layer = next(i for i, step in enumerate(program.steps) if isinstance(step, PlacedLayer))
    words = program.packets[layer].copy()
    words[first_weights(words) + 1] ^= np.uint64(1)
    packets = (*program.packets[:layer], words, *program.packets[layer + 1 :])
    program = replace(program, packets=packets)
    with engine(MINI) as backend, pytest.raises(AssertionError, match="layer first"):
        check_program(backend, program, stage, [image])


@engines
def test_waveforms(engine, tmp_path):
    """The chip's streams, status and array control are there, and move."""
    program, _, image = small_program(13)
    path = tmp_path / "chip.vcd"
    with engine(MINI, vcd=path) as backend:
        events = history(backend, stimulus(program, [image]))
        cycles = backend.counters().cycles
    assert events[-1][0] is Event.HALTED
    text = path.read_text()
    header, _, changes = text.partition("$enddefinitions")
    codes: dict[str, set[str]] = {}
    for code, name in re.findall(r"\$var \S+ \d+ (\S+) (\S+)", header):
        codes.setdefault(name, set()).add(code)
    for name in (
        "program__ready",
        "program__payload",
        "fm_in__payload",
        "fm_out__payload",
        "enable",
        "ends",
        "held",
        "layer",
    ):
        assert name in codes, sorted(codes)
        values = {
            value
            for code in codes[name]
            for value in re.findall(rf"^(b[01]+ |[01]){re.escape(code)}$", changes, re.MULTILINE)
        }
        assert len(values) > 1, f"{name} never changes"
    assert len(re.findall(r"^#\d+", changes, re.MULTILINE)) >= cycles
