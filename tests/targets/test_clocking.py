"""PLL settings within the datasheets' limits, the nearest there are; the reset until a PLL runs."""

from fractions import Fraction
from itertools import product

import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from hyperdrive_hdl.errors import ConfigError
from hyperdrive_hdl.targets.clocking import (
    ECP5,
    GW1NR_9,
    GW2A_18,
    ICE40,
    TOLERANCE,
    StartUp,
    _ice40_pll,
    pll_settings,
)

# Limits in MHz and dividers, typed from the datasheets a second time: comparison, VCO, clock, references,
# feedback dividers, output dividers, and whether the feedback comes from behind the output divider.
LIMITS = {
    "ecp5": (ECP5, (10, 400), (400, 800), (3.125, 400), range(1, 129), range(1, 129), range(1, 129), False),
    "ice40": (
        ICE40,
        (10, 133),
        (533, 1066),
        (16, 275),
        range(1, 17),
        range(1, 129),
        [2**n for n in range(1, 7)],
        False,
    ),
    "gw1nr-9": (
        GW1NR_9,
        (3, 400),
        (400, 1200),
        (3.125, 600),
        range(1, 65),
        range(1, 65),
        [2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128],
        True,
    ),
    "gw2a-18": (
        GW2A_18,
        (3, 500),
        (500, 1250),
        (3.90625, 625),
        range(1, 65),
        range(1, 65),
        [2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128],
        True,
    ),
}
OSCILLATORS = {"ecp5": (25, 48, 100), "ice40": (12, 24), "gw1nr-9": (27,), "gw2a-18": (27,)}
CASES = [(name, oscillator) for name, values in OSCILLATORS.items() for oscillator in values]


def possible_clocks(name: str, oscillator: int) -> list[Fraction]:
    """Every clock within the limits, by trying all dividers."""
    _, comparison, vco, clock, references, feedbacks, outputs, behind = LIMITS[name]
    found = set()
    for reference in references:
        compared = Fraction(oscillator, reference)
        if comparison[0] <= compared <= comparison[1]:
            for feedback, output in product(feedbacks, outputs):
                high = compared * feedback * (output if behind else 1)
                if vco[0] <= high <= vco[1] and clock[0] <= high / output <= clock[1]:
                    found.add(high / output)
    return sorted(found)


@pytest.mark.parametrize(("name", "oscillator"), CASES)
def test_the_nearest_clock_of_all_settings_is_found(name, oscillator):
    family, comparison, vco, clock, references, feedbacks, outputs, behind = LIMITS[name]
    clocks = possible_clocks(name, oscillator)
    tried = 0
    for target in range(4, 201, 3):
        error = min(abs(each - target) for each in clocks)
        if error > TOLERANCE * target:
            with pytest.raises(ConfigError, match="cannot make"):
                pll_settings(family, oscillator, target)
            continue
        found = pll_settings(family, oscillator, target)
        assert abs(found.clock - target) == error
        assert found.clock == Fraction(oscillator) * found.multiplier / (found.reference * found.output)
        assert comparison[0] <= found.comparison <= comparison[1]
        assert vco[0] <= found.vco <= vco[1]
        assert clock[0] <= found.clock <= clock[1]
        assert found.reference in references
        assert found.output in outputs
        ratio = Fraction(found.multiplier, found.output if behind else 1)
        assert ratio.denominator == 1
        assert ratio in feedbacks
        tried += 1
    assert tried > 20


@pytest.mark.parametrize(
    ("family", "oscillator", "clock"), [(ECP5, 25, 75), (ECP5, 25, 65), (ECP5, 48, 75), (ICE40, 12, 24)]
)
def test_common_clocks_are_exact(family, oscillator, clock):
    assert pll_settings(family, oscillator, clock).clock == clock


def test_the_refusal_names_the_nearest_and_the_limits():
    with pytest.raises(ConfigError, match=r"SB_PLL40_PAD cannot make 7 MHz from 12 MHz; it makes 16 to 275"):
        pll_settings(ICE40, 12, 7)
    with pytest.raises(ConfigError, match="cannot make 30 MHz from 5 MHz"):
        pll_settings(ECP5, 5, 30)  # the oscillator is too slow for it


# What icepll prints for 12 MHz and these clocks: DIVR, DIVF, DIVQ, FILTER_RANGE.
ICEPLL = {24: (0, 63, 5, 1), 30: (0, 79, 5, 1), 48: (0, 63, 4, 1), 60: (0, 79, 4, 1)}


@pytest.mark.parametrize("clock", ICEPLL)
def test_ice40_parameters_are_those_of_icepll(clock):
    signals = (Signal(name=name) for name in ("pin", "clock", "locked"))
    parameters = _ice40_pll(pll_settings(ICE40, 12, clock), *signals).parameters
    names = ("DIVR", "DIVF", "DIVQ", "FILTER_RANGE")
    assert tuple(parameters[name] for name in names) == ICEPLL[clock]


def test_reset_ends_when_the_pll_has_been_locked_for_a_while():
    cycles = 10
    m = Module()
    m.submodules.dut = dut = StartUp(cycles=cycles)
    seen = []

    async def bench(ctx):
        async def run(locked, count):
            ctx.set(dut.locked, locked)
            for _ in range(count):
                await ctx.tick()
                seen.append(ctx.get(dut.reset))

        assert ctx.get(dut.reset) == 1
        await run(0, 30)
        assert set(seen) == {1}
        await run(1, cycles - 3)  # not for long enough
        await run(0, 5)
        assert set(seen) == {1}
        seen.clear()
        await run(1, 30)
        ends = seen.index(0)
        assert cycles <= ends + 1 <= cycles + 3  # and the synchroniser's two
        assert set(seen[ends:]) == {0}
        seen.clear()
        await run(0, 5)  # lost
        assert seen[-1] == 1

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_a_start_up_of_no_cycles_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        StartUp(cycles=1)
