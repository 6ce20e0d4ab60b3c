"""Frames of the host against ``host_link.frame`` and ``Deframer``, which know of no hardware."""

import random
import zlib

import pytest

from hyperdrive_hdl.host_link import ESCAPE, FLAG, Deframer, frame
from hyperdrive_hdl.rtl.host_frames import MOST_COUNTED, FrameReceiver, FrameTransmitter
from tests.support.streams import Stalls, get, put, simulate

PERIOD = 10  # cycles between bytes, the least


def receive(line: bytes, period: int = PERIOD) -> tuple[list[bytes], int]:
    """Contents of the good frames, without CRC, and how many were bad; counts are checked on the way."""
    dut = FrameReceiver()
    good, bad = [], 0
    content = bytearray()

    async def bench(ctx):
        nonlocal bad, content
        for at in range((len(line) + 2) * period):
            byte, phase = divmod(at, period)
            ctx.set(dut.bytes.valid, phase == 0 and byte < len(line))
            ctx.set(dut.bytes.payload, line[byte] if byte < len(line) and phase == 0 else at & 0xFF)
            if ctx.get(dut.valid):
                if ctx.get(dut.count) == 1:
                    content = bytearray()
                content.append(ctx.get(dut.byte))
                assert ctx.get(dut.count) == min(len(content), MOST_COUNTED)
            if ctx.get(dut.good):
                assert not ctx.get(dut.bad)
                good.append(bytes(content[:-4]))
                content = bytearray()
            bad += ctx.get(dut.bad)
            await ctx.tick()

    simulate(dut, bench, limit=(len(line) + 3) * period)
    return good, bad


def expected(line: bytes) -> tuple[list[bytes], int]:
    deframer = Deframer()
    good = [bytes([kind]) + body for kind, body in deframer.feed(line)]
    return good, deframer.dropped


def random_content(rng: random.Random, most: int = 40) -> bytes:
    special = (FLAG, ESCAPE, FLAG ^ 0x20, ESCAPE ^ 0x20)
    return bytes(
        rng.choice(special) if rng.random() < 0.3 else rng.randrange(256) for _ in range(rng.randint(1, most))
    )


@pytest.mark.parametrize("period", [10, 11, 40])
def test_good_frames(period):
    rng = random.Random(period)
    contents = [bytes([kind]) for kind in range(8)] + [random_content(rng) for _ in range(12)]
    contents += [bytes([FLAG]), bytes([ESCAPE]), bytes([1, *range(256)])]
    line = b"".join(frame(content[0], content[1:]) for content in contents)
    assert receive(line, period) == (contents, 0)


def test_crcs_that_need_escapes():
    """Each of its bytes, either special one."""
    found = {}
    for number in range(20_000):
        body = number.to_bytes(2, "little")
        for place, byte in enumerate(zlib.crc32(b"\3" + body).to_bytes(4, "little")):
            if byte in (FLAG, ESCAPE):
                found.setdefault((place, byte), b"\3" + body)
    assert len(found) == 8
    line = b"".join(frame(content[0], content[1:]) for content in found.values())
    assert receive(line) == (list(found.values()), 0)
    assert transmit(list(found.values())) == line


def test_frames_that_share_a_flag():
    line = frame(1) + frame(2, b"ab")[1:] + frame(6)[1:]
    assert receive(line) == ([b"\1", b"\2ab", b"\6"], 0)


def test_damage():
    """Any bit flipped, any byte lost, doubled or cut off, against ``Deframer``; a good frame follows."""
    rng = random.Random(1)
    good_frame = frame(6, b"behind")
    seen = [0, 0]
    for _ in range(60):
        line = bytearray(frame(rng.randrange(1, 8), random_content(rng, 12)))
        at = rng.randrange(len(line))
        match rng.randrange(4):
            case 0:
                line[at] ^= 1 << rng.randrange(8)
            case 1:
                del line[at]
            case 2:
                line.insert(at, line[at])
            case 3:
                del line[at:]
        whole = bytes(line) + good_frame
        got = receive(whole)
        assert got == expected(whole), whole.hex()
        seen[0] += len(got[0])
        seen[1] += got[1]
    assert min(seen) > 40


@pytest.mark.parametrize(
    "line",
    [
        b"noise" + frame(1),
        b"\x7d" + frame(1),
        b"\x7d\x7e\x7d" + frame(1),
        bytes([FLAG] * 5) + frame(1),
        bytes([FLAG, 1, 2, 3, FLAG]) + frame(1),  # too short
        bytes([FLAG, FLAG, ESCAPE, FLAG]) + frame(1),
        bytes([FLAG, 0, 0, 0, 0, FLAG]) + frame(1),  # the CRC of nothing
        frame(1)[:-1] + bytes([ESCAPE, FLAG]) + frame(1),  # broken off behind the CRC
        frame(1)[:4] + frame(2),
        frame(1, b"x" * 100),
    ],
)
def test_odd_lines(line):
    assert receive(line) == expected(line)
    assert receive(line)[0]


def test_wrong_crcs():
    content = b"\3\0\0abcd"
    for bit in range(32):
        crc = zlib.crc32(content) ^ 1 << bit
        line = bytes([FLAG, *content, *crc.to_bytes(4, "little"), FLAG]) + frame(1)
        assert receive(line) == ([b"\1"], 1)


def transmit(contents: list[bytes], seed: int | None = None) -> bytes:
    dut = FrameTransmitter()
    line: list[int] = []
    count = sum(len(frame(content[0], content[1:])) for content in contents)
    stalls = [Stalls((seed, n)) if seed is not None else lambda: False for n in range(2)]

    async def feed(ctx):
        for content in contents:
            tokens = [{"data": byte, "end": 0} for byte in content] + [{"data": 0x55, "end": 1}]
            await put(ctx, dut.content, tokens, stalls[0])

    async def take(ctx):
        line.extend(await get(ctx, dut.bytes, count, stalls[1]))
        ctx.set(dut.bytes.ready, 1)
        for _ in range(50):
            *_, valid = await ctx.tick().sample(dut.bytes.valid)
            assert not valid, "more bytes than belong there"

    simulate(dut, feed, take, limit=100_000)
    return bytes(line)


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_sent_frames(seed):
    rng = random.Random(seed)
    contents = [b"\x86", bytes([FLAG]), bytes([ESCAPE]), *(random_content(rng) for _ in range(15))]
    line = transmit(contents, seed)
    assert line == b"".join(frame(content[0], content[1:]) for content in contents)
    assert expected(line) == (contents, 0)
