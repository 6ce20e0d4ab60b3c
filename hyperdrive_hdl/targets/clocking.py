"""The chip's clock on a board: PLL settings within the datasheets' limits, and the reset until it runs."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from amaranth.hdl import (
    ClockDomain,
    ClockSignal,
    DomainRenamer,
    Elaboratable,
    Instance,
    Module,
    ResetSignal,
    Signal,
)
from amaranth.lib import io, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from ..errors import ConfigError

# A clock further than this from what was asked for is refused.
TOLERANCE = Fraction(1, 100)
# Cycles from a locked PLL to the end of reset: block RAM of an iCE40 reads zeros for 3 us after configuration
# (platform SiliconBluePlatform of Amaranth tells the story), and 2048 cycles are 15 us up to 136 MHz.
RESET_CYCLES = 2048

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class PllFamily:
    """What a kind of PLL can do: limits in MHz, dividers.

    The oscillator, over ``reference``, is compared with the VCO over ``multiplier``; the clock is the VCO
    over ``output``. Where ``feedback_is_output``, the VCO is fed back behind the output divider, so that
    ``multiplier`` is a multiple of ``output``, and ``multipliers`` limits their ratio.
    """

    name: str
    input: Range
    comparison: Range
    vco: Range
    clock: Range
    references: range
    multipliers: range
    outputs: tuple[int, ...]
    feedback_is_output: bool = False


# Lattice FPGA-DS-02012, sysCLOCK PLL timing.
ECP5 = PllFamily(
    name="EHXPLLL",
    input=(8, 400),
    comparison=(10, 400),
    vco=(400, 800),
    clock=(3.125, 400),
    references=range(1, 129),
    multipliers=range(1, 129),
    outputs=tuple(range(1, 129)),
)
# Lattice FPGA-DS-02008 (iCE40 UltraPlus), sysCLOCK PLL timing; dividers from FPGA-TN-02052.
ICE40 = PllFamily(
    name="SB_PLL40_PAD",
    input=(10, 133),
    comparison=(10, 133),
    vco=(533, 1066),
    clock=(16, 275),
    references=range(1, 17),
    multipliers=range(1, 129),
    outputs=(2, 4, 8, 16, 32, 64),
)
_GOWIN_OUTPUTS = (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128)
# Gowin DS117 (GW1NR-9, speed C6/I5).
GW1NR_9 = PllFamily(
    name="rPLL",
    input=(3, 400),
    comparison=(3, 400),
    vco=(400, 1200),
    clock=(3.125, 600),
    references=range(1, 65),
    multipliers=range(1, 65),
    outputs=_GOWIN_OUTPUTS,
    feedback_is_output=True,
)
# Gowin DS226 (GW2A-18, speed C8/I7).
GW2A_18 = PllFamily(
    name="rPLL",
    input=(3, 500),
    comparison=(3, 500),
    vco=(500, 1250),
    clock=(3.90625, 625),
    references=range(1, 65),
    multipliers=range(1, 65),
    outputs=_GOWIN_OUTPUTS,
    feedback_is_output=True,
)


@dataclass(frozen=True)
class PllSettings:
    """Dividers of a PLL, as ``PllFamily`` names them; frequencies in MHz."""

    family: PllFamily
    oscillator: Fraction
    reference: int
    multiplier: int
    output: int

    @property
    def comparison(self) -> Fraction:
        return self.oscillator / self.reference

    @property
    def vco(self) -> Fraction:
        return self.comparison * self.multiplier

    @property
    def clock(self) -> Fraction:
        return self.vco / self.output


def pll_settings(family: PllFamily, oscillator_mhz: float, clock_mhz: float) -> PllSettings:
    """The settings whose clock is nearest; of those the fastest comparison, then the middlemost VCO.

    Raises
    ------
    ConfigError : no clock within a hundredth of that, with what is possible
    """
    oscillator, target = _fraction(oscillator_mhz), _fraction(clock_mhz)
    middle = _fraction(sum(family.vco) / 2)
    best = min(
        _possible(family, oscillator, target),
        key=lambda s: (abs(s.clock - target), s.reference, abs(s.vco - middle)),
        default=None,
    )
    if best is None or abs(best.clock - target) > TOLERANCE * target:
        low, high = family.clock
        nearest = f", the nearest is {float(best.clock):.3f} MHz" if best else ""
        raise ConfigError(
            f"the PLL {family.name} cannot make {clock_mhz:g} MHz from {oscillator_mhz:g} MHz{nearest}; "
            f"it makes {low:g} to {high:g} MHz"
        )
    return best


def _possible(family: PllFamily, oscillator: Fraction, target: Fraction) -> Iterable[PllSettings]:
    """Settings within the limits, for each pair of dividers the multipliers next to the target."""
    if not _within(oscillator, family.input):
        return
    for reference in family.references:
        if not _within(oscillator / reference, family.comparison):
            continue
        for output in family.outputs:
            unit = output if family.feedback_is_output else 1
            ratio = target * output * reference / oscillator / unit
            for factor in (int(ratio), int(ratio) + 1):
                settings = PllSettings(family, oscillator, reference, factor * unit, output)
                if (
                    factor in family.multipliers
                    and _within(settings.vco, family.vco)
                    and _within(settings.clock, family.clock)
                ):
                    yield settings


def _within(value: Fraction, limits: Range) -> bool:
    return limits[0] <= value <= limits[1]


def _fraction(mhz: float) -> Fraction:
    """Exact to a hertz."""
    return Fraction(round(mhz * 1_000_000), 1_000_000)


class ClockAndReset(Elaboratable):
    """Drives domain ``sync``, which the parent has, from the board's oscillator by way of a PLL; holds it in
    reset until that has locked for a while.

    Parameters
    ----------
    settings : of the PLL; the platform's default clock is its oscillator
    """

    def __init__(self, settings: PllSettings):
        self._settings = settings

    def elaborate(self, platform) -> Module:
        m = Module()
        clock, locked = Signal(name="chip_clock"), Signal(name="locked")
        pin = platform.request(platform.default_clk, dir="-")
        if self._settings.family is ICE40:
            # The oscillator's pin is the PLL's own: the PLL takes the place of its buffer.
            m.submodules.pll = _ice40_pll(self._settings, pin.io, clock, locked)
        else:
            m.submodules.oscillator = oscillator = io.Buffer("i", pin)
            instance = _ecp5_pll if self._settings.family is ECP5 else _gowin_pll
            m.submodules.pll = instance(self._settings, oscillator.i, clock, locked, platform)

        m.domains.start = ClockDomain("start", reset_less=True, local=True)
        m.submodules.start_up = start_up = DomainRenamer("start")(StartUp(cycles=RESET_CYCLES))
        m.d.comb += [
            ClockSignal("start").eq(clock),
            start_up.locked.eq(locked),
            ClockSignal("sync").eq(clock),
            ResetSignal("sync").eq(start_up.reset),
        ]
        return m


class StartUp(wiring.Component):
    """Reset until ``locked``, which is asynchronous, has been high for so many cycles on end.

    Parameters
    ----------
    cycles : at least 2

    Members
    -------
    locked : of the PLL that drives this component's clock
    reset : a register, high from the start
    """

    def __init__(self, *, cycles: int):
        if cycles < 2:
            raise ValueError(f"cycles must be at least 2, not {cycles!r}")
        self._cycles = cycles
        super().__init__({"locked": In(1), "reset": Out(1, init=1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        settled = Signal()
        waited = Signal(range(self._cycles))
        m.submodules.settled = FFSynchronizer(self.locked, settled)
        with m.If(~settled):
            m.d.sync += [waited.eq(0), self.reset.eq(1)]
        with m.Elif(waited == self._cycles - 1):
            m.d.sync += self.reset.eq(0)
        with m.Else():
            m.d.sync += waited.eq(waited + 1)
        return m


def _ecp5_pll(settings: PllSettings, oscillator, clock, locked, platform) -> Instance:
    """CLKOP, divided down to the comparison's frequency, is fed back; CLKOS is the clock."""
    feedback = Signal()
    mhz = {"CLKI": settings.oscillator, "CLKOP": settings.comparison, "CLKOS": settings.clock}
    return Instance(
        "EHXPLLL",
        # The analog part, as ecppll of Project Trellis sets it.
        a_ICP_CURRENT="12",
        a_LPF_RESISTOR="8",
        a_MFG_ENABLE_FILTEROPAMP="1",
        a_MFG_GMCREF_SEL="2",
        **{f"a_FREQUENCY_PIN_{pin}": f"{float(value):.6f}" for pin, value in mhz.items()},
        p_FEEDBK_PATH="CLKOP",
        p_CLKI_DIV=settings.reference,
        p_CLKFB_DIV=1,
        p_CLKOP_ENABLE="ENABLED",
        p_CLKOP_DIV=settings.multiplier,
        p_CLKOP_CPHASE=settings.multiplier - 1,
        p_CLKOP_FPHASE=0,
        p_CLKOS_ENABLE="ENABLED",
        p_CLKOS_DIV=settings.output,
        p_CLKOS_CPHASE=settings.output - 1,
        p_CLKOS_FPHASE=0,
        i_CLKI=oscillator,
        i_CLKFB=feedback,
        i_RST=0,
        i_STDBY=0,
        o_CLKOP=feedback,
        o_CLKOS=clock,
        o_LOCK=locked,
    )


def _ice40_pll(settings: PllSettings, pin, clock, locked) -> Instance:
    # The loop filter goes by the frequency compared (FPGA-TN-02052, as icepll has it).
    filters = (17, 26, 44, 66, 101)
    return Instance(
        "SB_PLL40_PAD",
        p_FEEDBACK_PATH="SIMPLE",
        p_DIVR=settings.reference - 1,
        p_DIVF=settings.multiplier - 1,
        p_DIVQ=settings.output.bit_length() - 1,
        p_FILTER_RANGE=1 + sum(settings.comparison >= limit for limit in filters),
        i_PACKAGEPIN=pin,
        i_RESETB=1,
        i_BYPASS=0,
        o_PLLOUTGLOBAL=clock,
        o_LOCK=locked,
    )


def _gowin_pll(settings: PllSettings, oscillator, clock, locked, platform) -> Instance:
    return Instance(
        "rPLL",
        p_DEVICE=platform.family,
        p_FCLKIN=f"{float(settings.oscillator):g}",
        p_IDIV_SEL=settings.reference - 1,
        p_FBDIV_SEL=settings.multiplier // settings.output - 1,
        p_ODIV_SEL=settings.output,
        p_DYN_IDIV_SEL="false",
        p_DYN_FBDIV_SEL="false",
        p_DYN_ODIV_SEL="false",
        p_CLKFB_SEL="internal",
        i_CLKIN=oscillator,
        i_CLKFB=0,
        i_RESET=0,
        i_RESET_P=0,
        i_FBDSEL=0,
        i_IDSEL=0,
        i_ODSEL=0,
        i_PSDA=0,
        i_DUTYDA=0,
        i_FDLY=0,
        o_CLKOUT=clock,
        o_LOCK=locked,
    )
