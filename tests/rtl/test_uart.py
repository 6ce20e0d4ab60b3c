"""UART against a line made and read bit by bit in Python."""

import random

import pytest

from hyperdrive_hdl.rtl.uart import UartReceiver, UartTransmitter
from tests.support.host_line import Decoder, levels
from tests.support.streams import Stalls, put, refuses, simulate, trace

SOME = bytes([0x55, 0x00, 0xFF, 0xAA, 0x01, 0x80, 0x7E, 0x7D])


def some_bytes(divisor: int) -> bytes:
    """Fewer where they take long."""
    return (SOME + random.Random(divisor).randbytes(8))[: max(3, 150 // divisor)]


def receive(line: list[int], divisor: int) -> tuple[bytes, int]:
    """The bytes from a line, and the number of errors."""
    seen = trace(
        UartReceiver(divisor=divisor),
        [{"rx": level} for level in [1] * 4 + line + [1] * (divisor + 8)],
        ["bytes.valid", "bytes.payload", "error"],
    )
    got = bytes(cycle["bytes.payload"] for cycle in seen if cycle["bytes.valid"])
    assert not any(cycle["bytes.valid"] and cycle["error"] for cycle in seen)
    return got, sum(cycle["error"] for cycle in seen)


@pytest.mark.parametrize("divisor", [4, 5, 8, 13, 104])
def test_received_bytes(divisor):
    data = some_bytes(divisor)
    assert receive(levels(data, divisor), divisor) == (data, 0)
    assert receive(levels(data, divisor, idle=3 * divisor + 1), divisor) == (data, 0)


@pytest.mark.parametrize("divisor", [8, 9, 12, 31, 104])
@pytest.mark.parametrize("error", [-0.03, -0.015, 0.015, 0.03])
def test_baud_rates_that_differ(divisor, error):
    data = some_bytes(divisor)
    for idle in (0, 1.5, 2.25):  # at other phases of the clock
        assert receive(levels(data, divisor * (1 + error), idle=idle), divisor) == (data, 0)


def test_a_baud_rate_that_is_too_far_off_is_noticed():
    """Negative control of the tests above."""
    assert receive(levels(SOME, 16 * 1.08), 16) != (SOME, 0)


@pytest.mark.parametrize("divisor", [4, 16])
def test_framing_errors(divisor):
    """No byte, one error, and the next byte is right, however long the line was low."""
    for low in (0, 3, 11 * divisor, 100 * divisor):
        bad = levels(b"\x5a", divisor, stop=0) + [0] * low
        line = levels(b"\x11", divisor) + bad + [1] * (2 * divisor) + levels(SOME, divisor)
        assert receive(line, divisor) == (b"\x11" + SOME, 1)


def test_short_pulses_are_no_start():
    line = ([0] * 5 + [1] * 11) * 3 + levels(SOME, 16)
    assert receive(line, 16) == (SOME, 0)
    line = [0] * 10 + [1] * 200 + levels(SOME, 16)  # longer than half a bit: a byte of ones
    assert receive(line, 16) == (b"\xff" + SOME, 0)


@pytest.mark.parametrize("divisor", [4, 7, 104])
@pytest.mark.parametrize("stalled", [False, True])
def test_sent_bytes(divisor, stalled):
    data = some_bytes(divisor)
    dut = UartTransmitter(divisor=divisor)
    decoder = Decoder(divisor)
    cycles = 0

    async def listen(ctx):
        nonlocal cycles
        while len(decoder.bytes) < len(data):
            *_, level = await ctx.tick().sample(dut.tx)
            decoder.step(level)
            cycles += 1

    async def send(ctx):
        await put(ctx, dut.bytes, data, Stalls(divisor) if stalled else lambda: False)

    simulate(dut, listen, send, limit=100_000)
    assert bytes(decoder.bytes) == data
    if not stalled:
        assert cycles <= len(data) * (10 * divisor + 1) + 2


def test_divisors_that_are_refused():
    for kind in (UartReceiver, UartTransmitter):
        for divisor in (3, 0, 8.0, True):
            refuses(kind, "divisor must be", divisor=divisor)
