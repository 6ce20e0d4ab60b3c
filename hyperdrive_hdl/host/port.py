"""Serial ports, by pyserial, with its errors in plain words."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol, cast

from ..errors import ToolError, UserError

DEFAULT_BAUD = 1_000_000
INSTALL = "pip install 'hyperdrive-hdl[board]'"
WRITE_SECONDS = 5.0  # until a port that takes nothing counts as broken


class Port(Protocol):
    """What the client needs of a port, as pyserial has it: ``read`` waits at most ``timeout`` seconds."""

    timeout: float | None

    @property
    def in_waiting(self) -> int: ...

    def read(self, size: int = 1, /) -> bytes: ...

    def write(self, data: bytes, /) -> int | None: ...

    def close(self) -> None: ...


def open_port(name: str, baud: int = DEFAULT_BAUD) -> Port:
    """The serial port of that name.

    Raises
    ------
    UserError : pyserial is not installed, there is no such port, or it must or can not be opened
    """
    try:
        import serial
    except ImportError:
        raise UserError(f"boards are reached by pyserial, which is not installed: {INSTALL}") from None
    try:
        port = serial.Serial(name, baud, timeout=0, write_timeout=WRITE_SECONDS, exclusive=True)
    except ValueError as error:
        raise UserError(f"port {name}: {baud} baud is not possible: {error}") from None
    except OSError as error:
        raise UserError(_refused(name, error)) from None
    with suppress(OSError, ValueError, NotImplementedError, AttributeError):  # a port of another kind
        port.set_low_latency_mode(True)  # FTDI's driver holds small replies for 16 ms otherwise
    return cast(Port, port)


def _refused(name: str, error: OSError) -> str:
    text = str(error)
    if isinstance(error, FileNotFoundError) or "No such file" in text or "FileNotFoundError" in text:
        found = ", ".join(_ports()) or "none"
        return f"port {name}: there is no such port (found: {found}); is the board's cable plugged in?"
    if "Permission denied" in text or "PermissionError" in text:
        return (
            f"port {name}: no permission; on Linux join its group, usually `sudo usermod -aG dialout $USER`, "
            f"and log in again"
        )
    if "exclusively lock" in text or "Resource busy" in text or "Access is denied" in text:
        return f"port {name}: another program is using it; close that first"
    return f"port {name}: cannot be opened: {text}"


def _ports() -> list[str]:
    """Serial ports of this machine."""
    from serial.tools.list_ports import comports

    return sorted(port.device for port in comports())


def broken(error: OSError) -> ToolError:
    """What to tell of a port that failed while in use."""
    kind = type(error).__name__
    if isinstance(error, TimeoutError) or kind == "SerialTimeoutException":
        return ToolError("the port takes no more bytes: is the board still there? Plug it in again")
    return ToolError(f"the port has vanished ({error}); was the cable pulled out? Plug it in and start again")
