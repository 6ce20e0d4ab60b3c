"""Small boards that are simulated by their pins, and hosts at their ports."""

from collections.abc import Iterator
from contextlib import contextmanager

from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.host.backend import BoardBackend
from hyperdrive_hdl.host.client import Board
from hyperdrive_hdl.host.port import open_port
from hyperdrive_hdl.simulate.board import SimulatedBoard

PINS = ChipConfig(
    name="pins", lanes=2, tile_rows=1, tile_cols=1, fmm_banks=4, fmm_bank_depth=64, wbuf_depth=18
)
TIMEOUT = 0.5  # simulated seconds without progress


@contextmanager
def host(board: SimulatedBoard, chip: ChipConfig = PINS, timeout: float = TIMEOUT) -> Iterator[BoardBackend]:
    """One of several hosts, one after the other: the board stays."""
    with Board(open_port(board.port), timeout=timeout, clock=board.clock) as client:
        client.connect()
        yield BoardBackend(chip, client)
