"""The self-test: healthy chips pass, and of a fault that is planted the right part is named."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from amaranth.hdl import Module

from hyperdrive_hdl.config import ChipConfig, MeshConfig
from hyperdrive_hdl.host.backend import BoardBackend
from hyperdrive_hdl.host.client import Board
from hyperdrive_hdl.host.selftest import SelftestResult, selftest
from hyperdrive_hdl.model.chip import _Machine
from hyperdrive_hdl.model.decode import decode
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.rtl import feature_memory, tpu
from hyperdrive_hdl.simulate.backend import Backend, Counters, Event, Stimulus
from hyperdrive_hdl.simulate.engines import make_backend
from tests.support.board import FakeBoard, InterpretedChip, SimulatedLine
from tests.support.chips import MINI
from tests.support.simulated import CHIPS, simulator

# 2 x 3 tiles of 4 lanes, 4 banks, blocks of rows that do not divide the buffer.
CHIP = ChipConfig(
    name="tested", lanes=4, tile_rows=2, tile_cols=3, fmm_banks=4, fmm_bank_depth=128, wbuf_depth=150
)


class Faulty(Backend):
    """The reference interpreter with something broken.

    Parameters
    ----------
    memory : called with the memory image [tile rows, columns, words] after every write
    lane : called with tile row, column, lane and the kind of layer, and its results: the results to store
    rows : called with the weight rows as they arrive, and the number of the first
    output : called with words on their way out
    end : what the run ends with
    """

    name = "faulty"

    def __init__(self, config, *, memory=None, lane=None, rows=None, output=None, end=Event.HALTED):
        super().__init__(config)
        self.memory_fault, self.lane, self.rows, self.output, self.end = memory, lane, rows, output, end
        self.starts = 0

    def start(self, stimulus: Stimulus) -> None:
        machine = _FaultyMachine(self.config, MeshConfig(), stimulus.fm_in, False)
        machine.faults = self
        for program in decode(stimulus.program, self.config):
            rows = np.concatenate([*program.rows.parts, np.zeros(0, np.uint64)])
            program.rows.items = self.rows(rows) if self.rows else rows
            machine.run(program)
        words = np.concatenate(machine.outputs[0, 0])
        self.words = self.output(words) if self.output else words
        self.starts += 1

    def run(self, cycles: int) -> Event:
        return self.end

    def chip_counters(self, chip) -> Counters:
        return Counters(error=2)

    def outputs(self, chip=(0, 0)) -> np.ndarray:
        return self.words

    def memory(self, chip=(0, 0)) -> np.ndarray:
        raise NotImplementedError

    def close(self) -> None:
        pass


class _FaultyMachine(_Machine):
    faults: Faulty

    def load(self, placed) -> None:
        super().load(placed)
        self._age()

    def convolve(self, conv, program) -> None:
        super().convolve(conv, program)
        if self.faults.lane:
            target = self._place(conv.out_base, conv.out_channels, conv.tile_h, conv.tile_w)
            words = self.memory[:, :, target.base : target.base + target.words_per_tile]
            words = words.reshape(*words.shape[:2], -1, conv.out_channels)
            for row, col, channel in np.ndindex(*words.shape[:2], conv.out_channels):
                found = self.faults.lane(
                    row, col, channel % self.chip.lanes, conv, words[row, col, :, channel]
                )
                words[row, col, :, channel] = found
            self.memory[:, :, target.base : target.base + target.words_per_tile] = words.reshape(
                *words.shape[:2], -1
            )
        self._age()

    def _age(self) -> None:
        if self.faults.memory_fault:
            self.faults.memory_fault(self.memory)


def failing(result: SelftestResult) -> set[str]:
    assert result.passed == (not any(part.failed for part in result.parts))
    for part in result.parts:
        assert part.failed <= part.words
        assert (part.first is None) == (part.failed == 0)
    return {part.name for part in result.parts if part.failed}


def test_a_healthy_chip():
    backend = Faulty(CHIP)
    result = selftest(backend)
    assert failing(result) == set()
    names = {part.name for part in result.parts}
    assert len(names) == len(result.parts)
    assert {f"feature memory, tile ({r}, {c}), bank {b}" for r, c, b in np.ndindex(2, 3, 4)} <= names
    assert {f"tile ({r}, {c}), lane {k}" for r, c, k in np.ndindex(2, 3, 4)} <= names
    assert {"line", "weight buffer", "distribution, tile (1, 2)", "partial sums, tile (0, 0)"} <= names
    assert result.notes == ()
    values = json.loads(json.dumps(result.to_json()))
    assert set(values) == {"board", "passed", "words_sent", "words_received", "notes", "parts"}
    assert (values["board"], values["passed"]) == ("tested", True)
    assert all(set(part) == {"name", "words", "failed", "first"} for part in values["parts"])


def stuck(tile: tuple[int, int], addresses: slice | int, bit: int, value: int) -> Callable:
    def fault(memory: np.ndarray) -> None:
        words = memory[*tile, addresses]
        memory[*tile, addresses] = words | np.uint16(1 << bit) if value else words & ~np.uint16(1 << bit)

    return fault


@pytest.mark.parametrize("tile", list(np.ndindex(2, 3)))
@pytest.mark.parametrize(("bank", "value"), [(0, 0), (1, 1), (3, 0)])
def test_a_stuck_bit_of_a_bank(tile, bank, value):
    """The bank is named, and no lane whose maps would have lain in it."""
    fault = stuck(tile, slice(128 * bank, 128 * (bank + 1)), 9, value)
    row, col = tile
    assert failing(selftest(Faulty(CHIP, memory=fault))) == {
        f"feature memory, tile ({row}, {col}), bank {bank}"
    }


@pytest.mark.parametrize("address", [0, 127, 128, 300, 511])
@pytest.mark.parametrize("value", [0, 1])
def test_a_single_cell(address, value):
    result = selftest(Faulty(CHIP, memory=stuck((1, 2), address, 0, value)))
    assert failing(result) == {f"feature memory, tile (1, 2), bank {address // 128}"}
    [first] = [part.first for part in result.parts if part.failed]
    assert first.startswith(f"address {address % 128}: ")


def test_two_words_at_one_address():
    def alias(memory):
        memory[0, 1, 128 + 64 : 256] = memory[0, 1, 128:192]

    assert failing(selftest(Faulty(CHIP, memory=alias))) == {"feature memory, tile (0, 1), bank 1"}


def test_memory_that_fails_everywhere():
    def fault(memory):
        memory |= np.uint16(16)

    result = selftest(Faulty(CHIP, memory=fault))
    assert failing(result) == {"line"}  # no word passes: it could be either
    assert result.notes


@pytest.mark.parametrize(("row", "col", "lane"), [(0, 0, 0), (0, 2, 3), (1, 1, 2)])
def test_a_lane(row, col, lane):
    def fault(r, c, k, conv, words):
        return words ^ np.uint16(4) if (r, c, k) == (row, col, lane) else words

    assert failing(selftest(Faulty(CHIP, lane=fault))) == {f"tile ({row}, {col}), lane {lane}"}


def test_lanes_of_several_tiles():
    bad = {(0, 0, 1), (1, 2, 1), (1, 2, 3)}

    def fault(r, c, k, conv, words):
        return words | np.uint16(1 << 14) if (r, c, k) in bad else words

    result = selftest(Faulty(CHIP, lane=fault))
    assert failing(result) == {f"tile ({r}, {c}), lane {k}" for r, c, k in bad}


@pytest.mark.parametrize(
    ("unit", "when"),
    [
        ("epilogue", lambda conv: conv.scale and conv.in_blocks == 1),
        ("epilogue", lambda conv: conv.bypass),
        ("distribution", lambda conv: conv.kernel3),
        ("partial sums", lambda conv: conv.in_blocks > 1),
    ],
)
def test_what_the_lanes_of_a_tile_share(unit, when):
    def fault(r, c, k, conv, words):
        return words ^ np.uint16(256) if (r, c) == (1, 0) and when(conv) else words

    assert failing(selftest(Faulty(CHIP, lane=fault))) == {f"{unit}, tile (1, 0)"}


@pytest.mark.parametrize("chip", [CHIP, CHIP.replace(tile_rows=1, tile_cols=1), CHIP.replace(tile_cols=1)])
@pytest.mark.parametrize("row", [0, 73, 74, 149])
@pytest.mark.parametrize("value", [0, 1])
def test_a_row_of_the_weight_buffer(chip, row, value):
    def fault(rows):
        rows = rows.copy()
        rows[row :: chip.wbuf_depth] &= ~np.uint64(4)
        rows[row :: chip.wbuf_depth] |= np.uint64(4 * value)
        return rows

    assert failing(selftest(Faulty(chip, rows=fault))) == {f"weight buffer, row {row}"}


def test_many_rows():
    def fault(rows):
        return np.where(np.arange(rows.size) % 150 >= 100, rows | np.uint64(15), rows)

    names = failing(selftest(Faulty(CHIP, rows=fault)))
    assert {f"weight buffer, row {n}" for n in range(100, 120)} <= names
    assert "weight buffer, 30 more rows" in names


def test_a_bit_of_all_rows_is_a_lane_of_all_tiles():
    result = selftest(Faulty(CHIP, rows=lambda rows: rows & ~np.uint64(2)))
    assert failing(result) == {f"tile ({r}, {c}), lane 1" for r, c in np.ndindex(2, 3)}
    assert result.notes == ("lane 1 fails in every tile: look at bit 1 of the weights",)


@pytest.mark.parametrize("bit", [0, 15])
def test_the_line(bit):
    backend = Faulty(CHIP, output=lambda words: words | np.uint16(1 << bit))
    result = selftest(backend)
    assert failing(result) == {"line"}
    assert backend.starts == 1  # nothing else can be told


@pytest.mark.parametrize("end", [Event.ERROR, Event.STUCK, Event.OVERRUN])
def test_a_run_that_does_not_end_well(end):
    """Its words count for nothing, even where they are right."""
    result = selftest(Faulty(CHIP, end=end))
    assert failing(result) == {"line"}
    assert {"ERROR": "error 2", "STUCK": "no progress", "OVERRUN": "too many"}[end.name] in result.parts[
        0
    ].first


def test_too_few_words():
    result = selftest(Faulty(CHIP, output=lambda words: words[:-1] if words.size > 2000 else words))
    assert "tile (0, 0), lane 0" not in failing(result)
    assert any("too few words" in (part.first or "") for part in result.parts)


@pytest.mark.parametrize(
    "chip",
    [
        MINI,
        *CHIPS,
        *(MINI.replace(format=name) for name in ("bf16", "fp8_e4m3", "fp8_e5m2_ftz", "q2.9", "q1.2", "q0.3")),
        MINI.replace(accumulator="exact", lanes=1),
        MINI.replace(adder_latency=3, lanes=1, tile_cols=1),
        MINI.replace(wbuf_depth=2, lanes=3),
        MINI.replace(lanes=20),
        MINI.replace(fmm_banks=2, fmm_bank_depth=8),
        MINI.replace(fmm_banks=2, fmm_bank_depth=2),
        PRESETS["tiny"],
    ],
    ids=lambda chip: f"{chip.name}-{chip.format}-{chip.lanes}-{chip.fmm_words_per_tile}",
)
def test_chips_of_all_kinds_by_way_of_a_board(chip):
    line = SimulatedLine(FakeBoard(chip, InterpretedChip(chip)))
    board = Board(line, clock=line.clock)
    board.connect()
    result = selftest(BoardBackend(chip, board))
    assert failing(result) == set()
    assert sum(part.words for part in result.parts) > 2 * chip.fmm_words


@pytest.mark.parametrize("chip", [PRESETS["tiny"], CHIPS[0], CHIPS[1]], ids=lambda chip: chip.name)
def test_the_rtl_is_healthy(chip):
    assert failing(selftest(simulator(chip))) == set()


def stuck_rtl(monkeypatch, module, name: str, broken: Callable) -> SelftestResult:
    """The result of ``MINI`` in Amaranth's simulator with ``broken`` called on each part's elaboration."""
    kind = getattr(module, name)
    plain = kind.elaborate

    def elaborate(self, platform) -> Module:
        m = plain(self, platform)
        broken(m, self)
        return m

    monkeypatch.setattr(kind, "elaborate", elaborate)
    with make_backend("pysim", MINI) as backend:
        return selftest(backend)


@pytest.mark.slow  # Amaranth's simulator takes half a minute for each
def test_a_stuck_bit_in_the_rtl_of_a_memory(monkeypatch):
    seen = []

    def broken(m, memory):
        seen.append(memory)
        if (len(seen) - 1) % MINI.fmm_banks == 2:  # one row of tiles: a memory per bank, in order
            m.d.comb += memory.read_data.as_value()[16 + 5].eq(1)  # of the second tile

    result = stuck_rtl(monkeypatch, feature_memory, "SinglePortMemory", broken)
    assert failing(result) == {"feature memory, tile (0, 1), bank 2"}


@pytest.mark.slow
def test_a_stuck_bit_in_the_rtl_of_a_lane(monkeypatch):
    seen = []

    def broken(m, unit):
        seen.append(unit)
        if (len(seen) - 1) % MINI.tpus == 3:
            m.d.comb += unit.held[3].eq(1)  # the last assignment counts

    result = stuck_rtl(monkeypatch, tpu, "TPU", broken)
    assert failing(result) == {"tile (0, 1), lane 1"}
