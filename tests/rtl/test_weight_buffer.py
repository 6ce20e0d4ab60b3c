"""The weight buffer against a list of rows: any order of fill and replay."""

import random
from itertools import pairwise

import pytest

from hyperdrive_hdl.rtl.weight_buffer import WeightBuffer
from tests.support.streams import Stalls, refuses, simulate, trace


@pytest.mark.parametrize("depth", [2, 3, 5, 8, 18])
@pytest.mark.parametrize("seed", range(3))
def test_blocks_are_replayed_in_order_whatever_the_stalls(depth, seed):
    """Blocks of all sizes, replayed so many times, as wide as the ring and across its end."""
    rng = random.Random(f"{depth} {seed}")
    lanes = rng.choice([1, 4, 9])
    blocks = [
        ([rng.getrandbits(lanes) for _ in range(rng.randint(1, depth))], rng.randint(1, 4)) for _ in range(14)
    ]
    dut = WeightBuffer(depth=depth, lanes=lanes)
    expected = [row for rows, passes in blocks for _ in range(passes) for row in rows]
    in_use = 0  # rows, by the test's own count
    found: list[int] = []
    seen = {"full": 0, "ahead": 0, "starved": 0, "gapless": 0}

    async def bench(ctx):
        nonlocal in_use
        write_stalls, read_stalls = Stalls((seed, "write")), Stalls((seed, "read"))
        to_write = [row for rows, _ in blocks for row in rows]
        written = 0
        reads = [
            (i, rewind, release)
            for rows, passes in blocks
            for p in range(passes)
            for i, rewind, release in ((i, i == len(rows) - 1, p == passes - 1) for i in range(len(rows)))
        ]
        starts = []  # rows that must have been written before each read
        before = 0
        for rows, passes in blocks:
            starts += [before + i + 1 for _ in range(passes) for i in range(len(rows))]
            before += len(rows)
        pipeline: list[bool] = [False] * dut.latency
        at = 0
        offered = False
        while len(found) < len(expected):
            offered = written < len(to_write) and (offered or not write_stalls())
            ctx.set(dut.write.valid, offered)
            ctx.set(dut.write.payload, to_write[written] if offered else rng.getrandbits(lanes))
            available = at < len(reads) and starts[at] <= written
            assert ctx.get(dut.write.ready) == (in_use < dut_depth)
            assert ctx.get(dut.empty) == (in_use == 0)
            if at < len(reads):
                assert ctx.get(dut.available) == available, f"read {at}, {written} written"
            go = available and not read_stalls()
            ctx.set(dut.read, go)
            ctx.set(dut.rewind, go and reads[at][1])
            ctx.set(dut.discard, go and reads[at][2])
            if pipeline[0]:
                found.append(ctx.get(dut.row))
            seen["gapless"] += go and pipeline[-1]
            pipeline = [*pipeline[1:], go]
            seen["full"] += in_use == depth
            seen["starved"] += at < len(reads) and not available
            taken = offered and in_use < depth
            seen["ahead"] += taken and at < len(reads) and in_use > 0 and available
            in_use += taken - bool(go and reads[at][2])
            written += taken
            offered = offered and not taken
            at += go
            await ctx.tick()

    dut_depth = depth
    simulate(dut, bench)
    assert found == expected
    assert in_use == 0
    assert min(seen.values()) > 0, seen
    assert sum(len(rows) for rows, _ in blocks) > 2 * depth, "the ring must have gone round"


def test_a_row_is_read_in_the_cycle_after_it_came():
    """The first pass runs as the rows stream in: one row per cycle, ``latency`` later at the output."""
    dut = WeightBuffer(depth=6, lanes=8)
    rows = [17, 34, 51, 68]
    inputs = [
        {
            "write.valid": cycle < 4,
            "write.payload": rows[cycle] if cycle < 4 else 0,
            "read": 1 <= cycle < 5,
            "discard": 1 <= cycle < 5,
            "rewind": cycle == 4,
        }
        for cycle in range(10)
    ]
    seen = trace(dut, inputs, ["available", "row", "empty"])
    assert [s["available"] for s in seen] == [0, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert [s["row"] for s in seen][1 + dut.latency : 5 + dut.latency] == rows
    assert [s["empty"] for s in seen][4:6] == [0, 1]


def test_the_next_block_comes_while_this_one_is_replayed():
    dut = WeightBuffer(depth=4, lanes=8)
    # Two rows, replayed three times, while two more arrive: no cycle is lost between the blocks.
    reads = [(0, 0), (1, 0), (0, 0), (1, 0), (0, 1), (1, 1), (0, 1), (1, 1)]
    inputs = [{"write.valid": 1, "write.payload": 1}]
    for cycle, (rewind, release) in enumerate(reads):
        inputs.append(
            {
                "write.valid": cycle < 3,
                "write.payload": cycle + 2,
                "read": 1,
                "rewind": rewind,
                "discard": release,
            }
        )
    inputs += [{"read": 0, "write.valid": 0}] * dut.latency
    seen = trace(dut, inputs, ["available", "row", "write.ready"])
    assert all(s["available"] for s in seen[1:9])
    assert [s["row"] for s in seen[1 + dut.latency :]] == [1, 2, 1, 2, 1, 2, 3, 4]
    assert [s["write.ready"] for s in seen[:8]] == [1, 1, 1, 1, 0, 0, 1, 1]


@pytest.mark.parametrize("depth", [1, 0, -3, "8", 2.5, True])
def test_impossible_depths_are_refused(depth):
    refuses(WeightBuffer, "depth must be", depth=depth, lanes=4)


def test_a_row_stays_until_it_is_read_again():
    """``row`` changes only with reads, so that stalls of the array lose nothing."""
    dut = WeightBuffer(depth=4, lanes=4)
    inputs = [
        {"write.valid": 1, "write.payload": 5},
        {"write.payload": 10, "read": 1},
        {"write.valid": 0, "read": 0},
    ]
    seen = trace(dut, inputs + [{}] * 6, ["row"])
    rows = [s["row"] for s in seen]
    assert rows[1 + dut.latency :] == [5] * (9 - 1 - dut.latency)
    assert all(a == b for a, b in pairwise(rows[1 + dut.latency :]))
