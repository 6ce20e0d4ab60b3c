"""A board behind a pseudo-terminal: its core, chip and bridge, simulated by CXXRTL and driven by its pins.

The line is played bit by bit (cxx/line.h). While the board is idle its clock goes on and nothing is
computed; hosts may come and go.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from ..config import ChipConfig
from ..errors import ConfigError, ToolError
from ..host_link import Identity
from ..rtl.board import BoardCore, identity_of
from ..rtl.hierarchy import ModuleLibrary
from .compiled import CXX_SOURCES
from .cxxrtl import build_library, generate_cxx

CORE = "board_core"  # name of the top module
BAUD = 250_000  # that the board tells of: near enough to what simulators of small chips reach
DIVISOR = 4  # cycles of a bit
BUFFER = 1024  # words
FILLED = ("replies",)  # modules whose memories have contents

Change = Callable[[str], str]


def board_identity(config: ChipConfig, *, baud: int = BAUD, divisor: int = DIVISOR) -> Identity:
    """Of a simulated board; its clock has ``divisor`` cycles per bit."""
    return identity_of(
        config,
        clock_hz=baud * divisor,
        baud=baud,
        program_buffer=BUFFER,
        maps_buffer=BUFFER,
        output_buffer=BUFFER,
        counters=True,
    )


def core_rtlil(config: ChipConfig, identity: Identity) -> str:
    """The board's core as RTLIL, module ``CORE``."""
    divisor = identity.clock_hz // identity.baud
    return ModuleLibrary().convert(BoardCore(config=config, divisor=divisor, identity=identity), name=CORE)


def build_board(rtlil: str) -> Path:
    """The shared library of a core, from the cache or built now."""

    def prepare(work: Path) -> list[str]:
        (work / f"{CORE}.il").write_text(rtlil)
        generate_cxx(work, CORE, filled=FILLED)
        return []

    return build_library(
        f"{rtlil}{FILLED}", prepare, [f"{CORE}.cc", str(CXX_SOURCES / "board.cc")], kind="board"
    )


class _Plan(ctypes.Structure):
    _fields_ = [("clock_hz", ctypes.c_double), ("bit", ctypes.c_double), ("seed", ctypes.c_uint64)]


class _State(ctypes.Structure):
    _fields_ = [
        ("cycles", ctypes.c_uint64),
        ("framing_errors", ctypes.c_uint64),
        ("busy", ctypes.c_uint32),
        ("error", ctypes.c_uint32),
    ]


# cxx/board.cc
_POINTER = ctypes.c_void_p
_FUNCTIONS = {
    "make": (_POINTER, [ctypes.POINTER(_Plan)]),
    "serve": (None, [_POINTER, ctypes.c_int]),
    "line": (None, [_POINTER, ctypes.c_bool, ctypes.c_double]),
    "state": (None, [_POINTER, ctypes.POINTER(_State)]),
    "stop": (None, [_POINTER]),
    "free": (None, [_POINTER]),
}


class SimulatedBoard:
    """A running board; ``port`` is the name of its serial port, for any number of hosts, one after the other.

    Parameters
    ----------
    library : of ``build_board``
    identity : of its core
    host_baud : the rate at the host's end, in place of the board's; the port's own setting means nothing
    seed : of the noise

    Raises
    ------
    ConfigError : this system has no pseudo-terminals
    ToolError : the library cannot be loaded
    """

    def __init__(self, library: Path, identity: Identity, *, host_baud: float | None = None, seed: int = 1):
        _require_terminals()
        import tty

        self.identity = identity
        try:
            self._library = ctypes.CDLL(str(library))
        except OSError as error:
            raise ToolError(f"cannot load the simulated board {library}: {error}") from None
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(self._library, f"hyperdrive_board_{name}")
            function.restype, function.argtypes = result, arguments
        bit = identity.clock_hz / (host_baud or identity.baud)
        self._board = self._library.hyperdrive_board_make(ctypes.byref(_Plan(identity.clock_hz, bit, seed)))
        self._cut, self._noise = False, 0.0
        # This end stays open too, so that the line outlives its hosts.
        self._files = os.openpty()
        tty.setraw(self._files[1])
        os.set_blocking(self._files[0], False)
        self.port = os.ttyname(self._files[1])
        self._thread = threading.Thread(
            target=self._library.hyperdrive_board_serve, args=(self._board, self._files[0]), daemon=True
        )
        self._thread.start()

    def clock(self) -> float:
        """Simulated seconds."""
        return self._state().cycles / self.identity.clock_hz

    @property
    def busy(self) -> bool:
        """The lamp."""
        return bool(self._state().busy)

    @property
    def error(self) -> bool:
        """The lamp."""
        return bool(self._state().error)

    @property
    def framing_errors(self) -> int:
        """Bytes from the board whose stop bit was low."""
        return self._state().framing_errors

    def disturb(self, share: float) -> None:
        """From now on so many of all bits' times, both ways, have the other level."""
        self._noise = share
        self._set_line()

    def cut(self, on: bool = True) -> None:
        """Pull out the cable, or plug it in again; the port stays there."""
        self._cut = on
        self._set_line()

    def _set_line(self) -> None:
        self._library.hyperdrive_board_line(self._board, self._cut, self._noise)

    def _state(self) -> _State:
        state = _State()
        self._library.hyperdrive_board_state(self._board, ctypes.byref(state))
        return state

    def close(self) -> None:
        if self._board is None:
            return
        self._library.hyperdrive_board_stop(self._board)
        self._thread.join()
        self._library.hyperdrive_board_free(self._board)
        self._board = None
        for file in self._files:
            os.close(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def simulated_board(
    config: ChipConfig,
    *,
    baud: int = BAUD,
    divisor: int = DIVISOR,
    change: Change = lambda rtlil: rtlil,
    **options,
) -> SimulatedBoard:
    """A board with this chip; ``change`` alters its core's RTLIL, ``options`` are of ``SimulatedBoard``."""
    _require_terminals()  # before a long build
    identity = board_identity(config, baud=baud, divisor=divisor)
    return SimulatedBoard(build_board(change(core_rtlil(config, identity))), identity, **options)


def _require_terminals() -> None:
    if not hasattr(os, "openpty"):
        raise ConfigError("a simulated board needs pseudo-terminals, which this system does not have")
