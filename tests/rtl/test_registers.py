"""Values some cycles later."""

import random

import pytest

from hyperdrive_hdl.rtl.registers import DelayLine, StreamQueue
from tests.support.streams import Stalls, get, put, simulate, trace


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


@pytest.mark.parametrize("stalled", [(), ("in",), ("out",), ("in", "out")])
def test_a_queue_passes_every_word_on(stalled):
    """In order, whatever stalls; and one per cycle where nothing does."""
    rng = random.Random(str(stalled))
    values = [rng.getrandbits(9) for _ in range(300)]
    sends, takes = (Stalls(name) if name in stalled else lambda: False for name in ("in", "out"))
    dut = StreamQueue(width=9)
    found = []

    async def feed(ctx):
        await put(ctx, dut.before, values, sends)

    async def drain(ctx):
        found.extend(await get(ctx, dut.after, len(values), takes))

    simulate(dut, feed, drain, limit=len(values) + 5 if not stalled else 20_000)
    assert found == values


def test_a_queue_breaks_the_way_of_its_signals():
    """What comes out in a cycle does not depend on what goes in, or on who takes, in the same cycle."""
    dut = StreamQueue(width=4)

    async def bench(ctx):
        for cycle in range(8):
            shown = {}
            for valid in (0, 1):
                for ready in (0, 1):
                    ctx.set(dut.before.valid, valid)
                    ctx.set(dut.before.payload, cycle)
                    ctx.set(dut.after.ready, ready)
                    shown[valid, ready] = (
                        ctx.get(dut.before.ready),
                        ctx.get(dut.after.valid),
                        ctx.get(dut.after.payload),
                    )
            assert len(set(shown.values())) == 1
            ctx.set(dut.after.ready, cycle % 2)
            await ctx.tick()

    simulate(dut, bench)
