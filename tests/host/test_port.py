"""Serial ports: pyserial's errors as messages that say what to do; a real pseudo-terminal."""

import os
import sys

import numpy as np
import pytest
import serial

from hyperdrive_hdl.errors import ToolError, UserError
from hyperdrive_hdl.host.client import Board
from hyperdrive_hdl.host.port import broken, open_port
from hyperdrive_hdl.presets import PRESETS
from tests.support.board import EchoChip, FakeBoard, PtyLine, random_damage

CHIP = PRESETS["tiny"]


def test_without_pyserial(monkeypatch):
    monkeypatch.setitem(sys.modules, "serial", None)
    with pytest.raises(UserError, match=r"pip install 'hyperdrive-hdl\[board\]'"):
        open_port("/dev/ttyUSB0")


def test_no_such_port():
    with pytest.raises(UserError, match=r"/dev/ttyNONE: there is no such port \(found: .*cable"):
        open_port("/dev/ttyNONE")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (serial.SerialException(13, "could not open port: [Errno 13] Permission denied: 'x'"), "dialout"),
        (serial.SerialException(11, "Could not exclusively lock port x"), "another program is using it"),
        (serial.SerialException("Could not configure port: (5, 'Input/output error')"), "cannot be opened"),
        (ValueError("Invalid baud rate: 0"), "baud is not possible"),
    ],
)
def test_ports_that_cannot_be_opened(monkeypatch, error, told):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(serial, "Serial", refuse)
    with pytest.raises(UserError, match=told):
        open_port("/dev/ttyUSB7")


def test_a_port_that_takes_nothing():
    assert "takes no more bytes" in str(broken(serial.SerialTimeoutException("Write timeout")))
    assert "vanished" in str(broken(serial.SerialException("device disconnected?")))


@pytest.mark.parametrize("damage", [None, random_damage(1, lose=3e-4, flip=3e-4)], ids=["well", "damaged"])
def test_a_run_through_a_real_terminal(damage):
    options = {"damage": damage} if damage else {}
    with PtyLine(FakeBoard(CHIP, EchoChip(3)), **options) as line, Board(open_port(line.name)) as board:
        board.connect()
        given = np.random.default_rng(0).integers(0, 1 << 16, 20_000).astype(np.uint16)
        for _ in range(2):
            board.reset()
            board.start(np.array([0x1234] * 999 + [7 << 13], np.uint64), given, given.size)
            while not board.advance(0.2):
                pass
            np.testing.assert_array_equal(board.outputs, given + np.uint16(3))


def test_the_other_end_goes_away():
    master, slave = os.openpty()
    name = os.ttyname(slave)
    board = Board(open_port(name), timeout=1.0)
    os.close(slave)
    os.close(master)
    with board, pytest.raises(ToolError, match="vanished"):
        board.connect()
