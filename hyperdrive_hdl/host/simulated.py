"""A simulated board as a ``Backend``: the real client at its serial port."""

from ..config import ChipConfig
from ..simulate.board import SimulatedBoard, simulated_board
from .backend import BoardBackend
from .client import Board
from .port import open_port

SIMULATED_TIMEOUT = 2.0  # simulated seconds without progress


class BoardSimBackend(BoardBackend):
    """A chip behind the bridge and a serial line, simulated with them; maps come as from a board.

    The client's time is the board's, so that neither need be fast.

    Parameters
    ----------
    config : the chip
    board : simulated, with this chip; closed with this. None for one of its own
    """

    name = "board-sim"

    def __init__(
        self, config: ChipConfig, *, board: SimulatedBoard | None = None, timeout: float = SIMULATED_TIMEOUT
    ):
        self.simulated = board or simulated_board(config)
        try:
            client = Board(open_port(self.simulated.port), timeout=timeout, clock=self.simulated.clock)
            try:
                client.connect()
                super().__init__(config, client)
            except BaseException:
                client.close()
                raise
        except BaseException:
            self.simulated.close()
            raise

    def close(self) -> None:
        super().close()
        self.simulated.close()
