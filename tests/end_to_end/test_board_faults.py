"""What befalls a board and its line, by the pins of the RTL: right words or an error, never anything else."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from hyperdrive_hdl.cli import main
from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.config import MeshConfig
from hyperdrive_hdl.data import digits_images, digits_model
from hyperdrive_hdl.errors import ChipError, ToolError, UserError
from hyperdrive_hdl.host.client import Board
from hyperdrive_hdl.host.port import open_port
from hyperdrive_hdl.host_link import WORDS_HEADER, Reply, Request, Status, frame
from hyperdrive_hdl.simulate.board import BAUD, SimulatedBoard, board_identity, build_board, core_rtlil
from hyperdrive_hdl.simulate.program import run_program
from hyperdrive_hdl.simulate.streams import loaded_streams
from tests.support.chips import check_program, small_stage
from tests.support.pins import PINS, TIMEOUT, host
from tests.support.simulated import random_inputs

ROOT = Path(__file__).parents[2]
IMAGES = 12  # some thousand words both ways: half a second of the line


def make(divisor: int):
    """A function that makes boards, which all run the one library built here."""
    identity = board_identity(PINS, divisor=divisor)
    library = build_board(core_rtlil(PINS, identity))
    return lambda **options: SimulatedBoard(library, identity, **options)


@pytest.fixture(scope="module")
def make_board():
    return make(4)


@pytest.fixture(scope="module")
def make_board_8():
    return make(8)


@pytest.fixture
def board(make_board):
    with make_board() as board:
        yield board


def network(seed: int, images: int = IMAGES):
    """A program that stores both its layers, its stage, and images."""
    rng = np.random.default_rng(seed)
    stage = small_stage(rng)
    program = compile_stage(stage, PINS, MeshConfig(), observe=True)
    return program, stage, random_inputs(rng, stage, images)


def right(board: SimulatedBoard, seed: int, images: int = IMAGES) -> None:
    with host(board) as backend:
        check_program(backend, *network(seed, images))


def later(seconds: float, board: SimulatedBoard, act) -> threading.Thread:
    """Do something so many simulated seconds after the program has begun."""

    def wait():
        while not board.busy:
            time.sleep(0.0005)
        until = board.clock() + seconds
        while board.clock() < until:
            time.sleep(0.0005)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_two_runs_and_two_hosts(board):
    right(board, 1)
    right(board, 2)
    assert not board.error
    assert board.framing_errors == 0


@pytest.mark.parametrize("seed", [1, 2])
def test_noise(make_board, seed):
    """About every fifth full frame is lost, both ways; words are sent again."""
    with make_board(seed=seed) as board:
        program, stage, images = network(seed, 6)
        with host(board, timeout=2.0) as backend:
            board.disturb(2e-4)
            check_program(backend, program, stage, images)
            assert backend._board._deframer.dropped > 0, "nothing was damaged on the way to the host"
        assert board.error, "nothing was damaged on the way to the board"
        board.disturb(0)
        right(board, seed + 10, 1)
        assert not board.error


def test_noise_that_lets_nothing_through(board):
    program, _, images = network(3)
    with host(board) as backend:
        noise = later(0.1, board, lambda: board.disturb(0.05))
        with pytest.raises(ChipError, match=r"stopped answering|no progress"):
            run_program(backend, program, images)
        noise.join()
        with pytest.raises(ToolError, match="does not answer to a reset"):
            run_program(backend, program, images)
    with (
        pytest.raises(ToolError, match="what comes from the port is no Hyperdrive board's answer"),
        host(board),
    ):
        pass
    board.disturb(0)
    right(board, 4, 1)


def test_words_behind_a_short_request(board):
    """The CRC of a request without a body makes fewer words than others, and as many are taken back."""
    taken = []
    with Board(open_port(board.port), timeout=TIMEOUT, clock=board.clock) as client:
        client.connect()
        client.reset()
        line = b"".join(
            frame(Request.STATUS) + frame(Request.MAPS, WORDS_HEADER.pack(at) + bytes(4)) for at in (0, 2, 4)
        )
        client._write(line)
        for kind, body in client._frames_until(board.clock() + 0.2):
            if kind == Reply.STATUS:
                taken.append(Status.decode(body).maps_taken)
    assert taken[-1] == 6


def test_the_cable_is_pulled_out_and_plugged_in_again(board):
    program, _, images = network(5)
    with host(board) as backend:
        cut = later(0.1, board, board.cut)
        with pytest.raises(ChipError, match=r"stopped answering: nothing for 0\.5 s.*cable"):
            run_program(backend, program, images)
        cut.join()
        assert board.busy, "the chip was in the middle of the program"
        with pytest.raises(ToolError, match="does not answer to a reset"):
            run_program(backend, program, images)
        board.cut(False)
        check_program(backend, *network(6))
    right(board, 7, 1)


def test_the_cable_is_out_for_a_moment(board):
    """Nothing but time is lost."""
    program, stage, images = network(8)

    def blink():
        board.cut()
        until = board.clock() + 0.1
        while board.clock() < until:
            time.sleep(0.0005)
        board.cut(False)

    with host(board, timeout=2.0) as backend:
        cut = later(0.05, board, blink)
        check_program(backend, program, stage, images)
        assert not cut.is_alive()


KILLED = """
import sys
import numpy as np
from hyperdrive_hdl.host.client import Board
from hyperdrive_hdl.host.port import open_port
streams = np.load(sys.argv[2])
with Board(open_port(sys.argv[1]), timeout=60) as board:
    board.connect()
    board.reset()
    board.start(streams["program"], streams["fm_in"], 1 << 30)
    while not board.advance(1):
        pass
"""


def test_a_host_is_killed_and_another_begins(board, tmp_path):
    program, _, images = network(9, 200)
    np.savez(
        tmp_path / "streams.npz", program=program.words(200), fm_in=loaded_streams(program, images)[0, 0]
    )
    command = [sys.executable, "-c", KILLED, board.port, str(tmp_path / "streams.npz")]
    with subprocess.Popen(command, cwd=ROOT) as process:
        killed = later(0.1, board, process.kill)
        killed.join(60)
        assert process.wait(10) == -signal.SIGKILL
    assert board.busy, "the chip was in the middle of the program"
    right(board, 10, 2)


def test_a_program_for_another_chip(board):
    other = PINS.replace(wbuf_depth=20)
    stage = network(11, 0)[1]
    program = compile_stage(stage, other, MeshConfig())
    images = network(11, 1)[2]
    with pytest.raises(UserError, match="signature"), host(board, other):
        pass
    with host(board) as backend:
        with pytest.raises(ChipError, match=r"error 2 \(CONFIG\): the program was made for another chip"):
            run_program(backend, program, images)
        assert board.error
        check_program(backend, *network(12, 1))
        assert not board.error


@pytest.mark.parametrize("factor", [0.98, 1.02])
def test_a_baud_rate_that_is_two_percent_off(make_board_8, factor):
    with make_board_8(host_baud=factor * BAUD) as board:
        right(board, 13, 4)
        assert not board.error
        assert board.framing_errors == 0


# The command line, whose time is real


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", digits_images()[0][:1])
    return ["run", str(digits_model()), "images.npy", "--port"]


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_baud_rate(capsys, make_board, arguments, factor):
    with make_board(host_baud=factor * BAUD) as board:
        assert main([*arguments, board.port]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--baud" in error


def test_another_preset(capsys, board, arguments):
    assert main([*arguments, board.port, "-c", "tiny"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "'pins'" in error
    assert "'tiny'" in error
    right(board, 14, 1)
