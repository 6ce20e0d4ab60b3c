"""The client against a board in Python over a simulated line: throughput, losses, faults, never a hang."""

import numpy as np
import pytest

from hyperdrive_hdl import isa
from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.config import MeshConfig
from hyperdrive_hdl.errors import ChipError, HyperdriveError, ToolError, UserError
from hyperdrive_hdl.host.client import Board, ChipStoppedError
from hyperdrive_hdl.host_link import Features, Request
from hyperdrive_hdl.model.chip import run_program
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.simulate.backend import Event
from hyperdrive_hdl.simulate.program import error_meaning
from hyperdrive_hdl.simulate.streams import loaded_streams
from tests.support.board import EchoChip, FakeBoard, InterpretedChip, SimulatedLine, random_damage
from tests.support.chips import MINI
from tests.support.resnet import residual_stage
from tests.support.stages import random_map

CHIP = PRESETS["tiny"]
HALT = isa.header(isa.Opcode.HALT)


def words(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 16, count).astype(np.uint16)


def program_of(count: int) -> np.ndarray:
    """Words that mean nothing to ``EchoChip``, and a HALT."""
    found = words(count, 1).astype(np.uint64)
    found[found == HALT] = 0
    found[-1] = HALT
    return found


def connected(line: SimulatedLine, **options) -> Board:
    board = Board(line, clock=line.clock, **options)
    board.connect()
    board.check(line.board.config)
    return board


def run(
    board: Board, line: SimulatedLine, program: np.ndarray, maps: np.ndarray, expected: int
) -> np.ndarray:
    """A whole run; in no more than a day of simulated time."""
    board.reset()
    board.start(program, maps, expected)
    end = line.now + 86_400
    while not board.advance(0.2):
        assert line.now < end
    return board.outputs


def echo(board: Board, line: SimulatedLine, *, program: int = 1000, maps: int = 5000, seed: int = 2) -> None:
    """A run that gives back what it was given."""
    given = words(maps, seed)
    found = run(board, line, program_of(program), given, maps)
    np.testing.assert_array_equal(found, given + np.uint16(line.board.chip.delta))


def simulated(chip=None, *, damage=None, latency: float = 0.001, **options) -> SimulatedLine:
    board = FakeBoard(CHIP, chip or EchoChip(), **options)
    return SimulatedLine(board, latency=latency, **({"damage": damage} if damage else {}))


@pytest.mark.parametrize(
    ("baud", "latency", "least"),
    [
        (1_000_000, 0.001, 0.99),
        (1_000_000, 0.016, 0.98),
        (3_000_000, 0.001, 0.98),
        (3_000_000, 0.016, 0.85),  # 2048 words take 14 ms
    ],
)
def test_the_line_to_the_board_is_full(baud, latency, least):
    """Share of the time in which bytes go out; nine tenths of them are words."""
    line = simulated(latency=latency, baud=baud)
    board = connected(line)
    start, sent = line.now, line.sent
    echo(board, line, program=100_000, maps=10)
    share = (line.sent - sent) * 10 / baud / (line.now - start)
    assert share > least
    assert 2 * 100_010 / (line.sent - sent) > 0.9


@pytest.mark.parametrize(("latency", "least"), [(0.001, 0.55), (0.016, 0.12)])
def test_outputs_come_a_reply_at_a_time(latency, least):
    line = simulated(latency=latency)
    board = connected(line)
    start, got = line.now, line.got
    echo(board, line, program=10, maps=20_000)
    assert (line.got - got) * 10 / 1_000_000 / (line.now - start) > least


def test_offsets_go_around():
    line = simulated(EchoChip(1))
    echo(connected(line), line, program=70_000, maps=140_000)


@pytest.mark.parametrize("buffers", [(64, 64, 32), (80, 300, 40), (2048, 2048, 1024)])
def test_programs_and_maps_wait_for_each_other(buffers):
    """Loads hold up the program, stores the loads, for several images; buffers far smaller than a map."""
    rng = np.random.default_rng(3)
    stage = residual_stage((1, 1), 4, 8, 8)
    program = compile_stage(stage, CHIP, MeshConfig(), observe=True)
    images = [{m.name: random_map(rng, m) for m in stage.inputs} for _ in range(3)]
    streams, stream = loaded_streams(program, images), program.words(3)
    expected = run_program(stream, CHIP, MeshConfig(), streams).outputs[0, 0]
    line = simulated(InterpretedChip(CHIP), buffers=buffers)
    board = connected(line)
    for _ in range(2):
        np.testing.assert_array_equal(run(board, line, stream, streams[0, 0], expected.size), expected)
        assert board.layers == 3 * len(stage.layers)
        assert board.words_done == stream.size + streams[0, 0].size + expected.size


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "chances", [{"lose": 1e-3}, {"flip": 1e-3}, {"insert": 1e-3}, {"lose": 3e-3, "flip": 3e-3}], ids=str
)
def test_damaged_bytes_are_made_good(chances, seed):
    line = simulated(damage=random_damage(seed, **chances), latency=(0.001, 0.016)[seed % 2])
    count = 20_000 if len(chances) == 1 else 2000  # of the longest frames four of five are lost then
    echo(connected(line), line, program=count, maps=count, seed=seed)
    if set(chances) != {"insert"}:
        assert line.board.deframer.dropped > 0


@pytest.mark.parametrize("seed", range(10))
def test_a_hopeless_line_gives_the_right_words_or_an_error(seed):
    line = simulated(damage=random_damage(seed, lose=0.02, flip=0.02, insert=0.02))
    try:
        board = connected(line, timeout=2.0)
        echo(board, line, program=2000, maps=2000)
    except (ChipError, ToolError):
        pass


def test_a_chip_that_stops_now_and_then():
    line = simulated(buffers=(256, 256, 64))
    board = connected(line)

    def hold(held):
        def act():
            line.board.held = held

        return act

    line.at = [(line.now + 0.05 * n, hold(n % 3 != 0)) for n in range(1, 40)]
    line.at.append((line.now + 2.0, hold(False)))
    echo(board, line)


def test_a_silent_line():
    line = simulated()
    line.board.deaf = True
    with pytest.raises(ToolError, match=r"no board answers.*bitstream.*--baud.*RX to TX"):
        Board(line, clock=line.clock).connect()
    assert line.now < 10


def test_a_wrong_baud_rate():
    rng = np.random.default_rng(5)
    line = simulated(damage=lambda way, data: rng.bytes(len(data)) if way == "in" else data)
    with pytest.raises(ToolError, match=r"no Hyperdrive board's answer.*--baud"):
        Board(line, clock=line.clock).connect()
    assert line.now < 10


def test_a_board_of_another_version():
    line = simulated(protocol=7)
    with pytest.raises(ToolError, match="protocol version 7"):
        Board(line, clock=line.clock).connect()


def test_another_chip_is_refused():
    line = simulated()
    board = connected(line)
    other = CHIP.replace(name="other", format="q2.9")
    with pytest.raises(UserError) as caught:
        board.check(other)
    for part in (
        "tiny",
        "fp16",
        f"{CHIP.signature:#010x}",
        "other",
        "q2.9",
        f"{other.signature:#010x}",
        "-c",
    ):
        assert part in str(caught.value)
    with pytest.raises(UserError, match="some value of it has changed"):
        board.check(CHIP.replace(lanes=8))


def test_a_program_for_another_chip():
    """The chip finds it where nobody has checked; its error is told as a simulator's."""
    program = compile_stage(residual_stage((1,), 4, 8, 8), CHIP.replace(lanes=8), MeshConfig())
    line = simulated(InterpretedChip(CHIP))
    with pytest.raises(ChipStoppedError) as caught:
        run(connected(line), line, program.words(), words(256), 1)
    assert caught.value.event is Event.ERROR
    assert error_meaning(isa.ErrorCode.CONFIG) in str(caught.value)


def test_the_board_stops_answering_and_comes_back():
    line = simulated()
    board = connected(line, timeout=3.0)

    def deaf():
        line.board.deaf = True

    line.at = [(line.now + 0.05, deaf)]
    begin = line.now
    with pytest.raises(ChipError, match="stopped answering: nothing for 3 s"):
        echo(board, line, maps=50_000)
    assert line.now - begin < 3.5
    line.board.deaf = False
    echo(board, line)


def test_the_chip_makes_no_progress_and_is_reset():
    line = simulated()
    board = connected(line, timeout=3.0)
    line.board.held = True
    begin = line.now
    with pytest.raises(
        ChipStoppedError, match=r"no progress for 3 s, though the board answers.*of PROGRAM"
    ) as e:
        echo(board, line)
    assert e.value.event is Event.STUCK
    assert line.now - begin < 3.5
    line.board.held = False
    echo(board, line)


def test_the_cable_is_pulled_out():
    line = simulated()
    board = connected(line)

    def cut():
        line.cut = True

    line.at = [(line.now + 0.05, cut)]
    with pytest.raises(ToolError, match="port has vanished"):
        echo(board, line, maps=50_000)


def test_a_board_that_resets_itself():
    line = simulated()
    board = connected(line)
    line.at = [(line.now + 0.05, line.board.power_on)]
    with pytest.raises(ChipError, match="reset in mid-run"):
        echo(board, line, maps=50_000)
    echo(board, line)


def test_a_board_that_is_reprogrammed():
    line = simulated()
    board = connected(line)
    other = FakeBoard(MINI, EchoChip())

    def reprogram():
        line.board.identity = other.identity
        line.board.power_on()

    line.at = [(line.now + 0.05, reprogram)]
    with pytest.raises(ChipError, match=r"reprogrammed.*'tiny'.*'mini'"):
        echo(board, line, maps=50_000)
    with pytest.raises(UserError):
        board.check(CHIP)


@pytest.mark.parametrize("seconds", [0.003, 0.01, 0.037, 0.1, 0.3])
@pytest.mark.parametrize("latency", [0.001, 0.016])
def test_a_host_is_killed_and_another_one_begins(seconds, latency):
    """Half a frame, replies on their way, a chip in the middle of a program."""
    line = simulated(latency=latency)
    first = connected(line)
    first.reset()
    first.start(program_of(20_000), words(20_000), 20_000)
    assert not first.advance(seconds)
    line.write(b"\x7e\x03\x00")
    second = connected(line)
    echo(second, line, seed=9)


def test_two_hosts_at_a_time():
    """The one that began first learns of the other."""
    line = simulated()
    first, second = connected(line), connected(line)
    first.reset()
    first.start(program_of(20_000), words(20_000), 20_000)
    assert not first.advance(0.05)
    second.reset()
    with pytest.raises(ChipError, match="another program has taken it over"):
        first.advance(10)


def test_too_many_words():
    line = simulated()
    board = connected(line)
    with pytest.raises(ChipStoppedError, match="more output words than the 4990") as caught:
        run(board, line, program_of(10), words(5000), 4990)
    assert caught.value.event is Event.OVERRUN


def test_too_few_words_end_the_run():
    line = simulated()
    assert run(connected(line), line, program_of(10), words(5000), 5010).size == 5000


def test_counters_go_on_beyond_32_bits():
    line = simulated()
    board = connected(line)
    board.reset()
    line.board.cycles = (1 << 32) - 1500
    assert [board.counters()["cycles"] for _ in range(3)] == [(1 << 32) + n for n in (-500, 500, 1500)]
    none = simulated(features=Features(0))
    assert connected(none).counters() is None
    assert Request.COUNTERS not in none.board.requests


def test_words_of_other_widths():
    """Words of one byte in the maps, of eight in the program."""
    wide = CHIP.replace(lanes=64, format="fp8_e4m3")
    board = FakeBoard(wide, EchoChip())
    assert (board.identity.program_bytes, board.identity.map_bytes) == (8, 1)
    line = SimulatedLine(board)
    client = connected(line)
    program = np.random.default_rng(0).integers(0, 1 << 62, 3000).astype(np.uint64)
    program[-1] = HALT
    taken = []
    board.chip.run, plain = lambda room: (taken.extend(board.chip.program), plain(room)), board.chip.run
    given = words(5000) & np.uint16(0xFF)
    np.testing.assert_array_equal(run(client, line, program, given, 5000), given)
    assert taken == program.tolist()


def test_calls_out_of_order():
    board = Board(simulated())
    with pytest.raises(RuntimeError, match="connect"):
        _ = board.identity
    line = simulated()
    with pytest.raises(RuntimeError, match="reset"):
        connected(line).start(program_of(1), words(1), 1)


def test_all_errors_are_for_users():
    assert issubclass(ChipStoppedError, HyperdriveError)
    assert ChipStoppedError.status == 3
