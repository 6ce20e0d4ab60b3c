"""A board's top: clock and pins around ``BoardCore``, which comes as a module of its own."""

from fractions import Fraction

from amaranth.hdl import ClockDomain, ClockSignal, Const, Elaboratable, Instance, Module, ResetSignal, Signal
from amaranth.lib import io

from ..errors import ConfigError
from .boards import Board, Pin
from .clocking import ECP5, GW1NR_9, GW2A_18, ICE40, ClockAndReset, PllSettings, pll_settings

CORE = "board_core"  # module name of the core in its RTLIL
# Of a UART's receiver: it must still sample the tenth bit well within it.
BAUD_TOLERANCE = Fraction(2, 100)
LEAST_DIVISOR = 4  # cycles of a bit, so that it can be sampled in its middle


def board_pll(board: Board, clock_mhz: float) -> PllSettings | None:
    """Settings of the board's PLL; None where the oscillator is the clock.

    Raises
    ------
    ConfigError : the PLL cannot make that clock
    """
    if round(clock_mhz * 1_000_000) == round(board.oscillator_mhz * 1_000_000):
        return None
    kinds = {"ecp5": ECP5, "ice40": ICE40, "gowin": GW1NR_9 if "GW1NR-9" in board.device else GW2A_18}
    return pll_settings(kinds[board.family], board.oscillator_mhz, clock_mhz)


def baud_divisor(clock_hz: int, baud: int) -> int:
    """Cycles of a bit.

    Raises
    ------
    ConfigError : no whole number of cycles comes near enough
    """
    if baud < 1:
        raise ConfigError(f"a baud rate must be at least 1, not {baud}")
    divisor = max(1, round(clock_hz / baud))
    if divisor < LEAST_DIVISOR or abs(Fraction(clock_hz, divisor * baud) - 1) > BAUD_TOLERANCE:
        raise ConfigError(
            f"{baud} baud cannot be made from a clock of {clock_hz / 1e6:g} MHz: a bit must be a whole "
            f"number of at least {LEAST_DIVISOR} cycles to within 2 %; the nearest is "
            f"{clock_hz / max(divisor, LEAST_DIVISOR):.0f} baud"
        )
    return divisor


class FpgaTop(Elaboratable):
    """The board's oscillator, reset, UART and LEDs, wired to an instance of module ``CORE``.

    Parameters
    ----------
    board : its pins
    pll : its clock; None for the oscillator itself
    """

    def __init__(self, board: Board, pll: PllSettings | None):
        self._board = board
        self._pll = pll

    def elaborate(self, platform) -> Module:
        m = Module()
        board = self._board
        if self._pll is not None:
            m.domains.sync = ClockDomain("sync")
            m.submodules.clock = ClockAndReset(self._pll)
        uart = platform.request("uart", 0, dir="-")
        m.submodules.rx = rx = io.Buffer("i", uart.rx)
        m.submodules.tx = tx = io.Buffer("o", uart.tx)
        leds = {name: Signal(name=name) for name in ("alive", "busy", "error")}
        m.submodules.core = Instance(
            CORE,
            i_clk=ClockSignal(),
            # Without a PLL, Amaranth resets all of an ECP5 by GSR, and its domain has no reset.
            i_rst=ResetSignal(allow_reset_less=True),
            i_rx=rx.i,
            o_tx=tx.o,
            **{f"o_{name}": value for name, value in leds.items()},
        )
        requested = {}
        for name, value in leds.items():
            pin = getattr(board, name)
            if pin is not None:
                self._drive(m, platform, requested, name, pin, value)
        for pin in board.high:
            self._drive(m, platform, requested, "_".join(map(str, pin)), pin, Const(1))
        return m

    @staticmethod
    def _drive(m: Module, platform, requested: dict, name: str, pin: Pin, value) -> None:
        """An output buffer; several may be parts of one resource."""
        resource, number, *part = pin
        key = resource, number
        if key not in requested:
            requested[key] = platform.request(resource, number, dir="-")
        port = getattr(requested[key], part[0]) if part else requested[key]
        m.submodules[f"{name}_pin"] = buffer = io.Buffer("o", port)
        m.d.comb += buffer.o.eq(value)
