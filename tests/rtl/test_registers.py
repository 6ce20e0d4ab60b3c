"""Values some cycles later."""

import random

import pytest

from hyperdrive_hdl.rtl.registers import DelayLine
from tests.support.streams import trace


@pytest.mark.parametrize("cycles", [2, 3, 4, 5, 8, 13])
def test_a_delay_line_gives_every_value_so_many_cycles_later(cycles):
    rng = random.Random(cycles)
    values = [rng.getrandbits(9) for _ in range(200)]
    dut = DelayLine(width=9, cycles=cycles)
    assert dut.latency == cycles
    seen = [s["later"] for s in trace(dut, [{"value": value} for value in values], ["later"])]
    assert seen[cycles:] == values[:-cycles]


@pytest.mark.parametrize("cycles", [1, 0, 2.0])
def test_shorter_delays_are_refused(cycles):
    with pytest.raises(ValueError, match="cycles must be an integer of at least 2"):
        DelayLine(width=1, cycles=cycles)
