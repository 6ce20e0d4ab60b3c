"""The weight buffer against a list of rows: rows in order in, any of those in use out."""

import random
from itertools import pairwise

import pytest

from hyperdrive_hdl.rtl.layouts import row_bits
from hyperdrive_hdl.rtl.weight_buffer import WeightBuffer
from tests.support.streams import refuses, simulate, trace


@pytest.mark.parametrize("depth", [2, 3, 5, 8, 18])
@pytest.mark.parametrize("seed", range(3))
def test_any_row_in_use_is_read(depth, seed):
    """Whatever the stalls: several readers at different rows, rows freed in order, many at a time."""
    rng = random.Random(f"{depth} {seed}")
    lanes = rng.choice([1, 4, 9])
    dut = WeightBuffer(depth=depth, lanes=lanes)
    rows = [rng.getrandbits(lanes) for _ in range(15 * depth + 200)]
    seen = dict.fromkeys(("read", "full", "replaced", "just_written", "freed_many", "gapless", "idle"), 0)

    async def bench(ctx):
        write = free = 1.0  # how often
        written = freed = freed_before = 0
        offered = False
        expected = [None] * dut.latency  # what was read so many cycles ago
        came = -1  # row that was written in the cycle before
        last = [-1, -1]  # rows read in the two cycles before
        while freed < len(rows) or any(row is not None for row in expected):
            if rng.random() < 0.03:
                write, free = rng.choice([(1, 1), (1, 0.2), (0.2, 1), (0.5, 0.5)])
            offered = offered or (written < len(rows) and rng.random() < write)
            ctx.set(dut.write.valid, offered)
            ctx.set(dut.write.payload, rows[written] if offered else rng.getrandbits(lanes))
            ctx.set(dut.freed, freed % (1 << row_bits(depth)))
            assert ctx.get(dut.written) == written % (1 << row_bits(depth))
            assert ctx.get(dut.write.ready) == (written - freed_before < depth)
            # Anything between what is freed and what is written, more often at the ends.
            go = written > freed and rng.random() < 0.8
            row = rng.choice([freed, freed, written - 1, rng.randrange(freed, written)]) if go else 0
            ctx.set(dut.read, go)
            ctx.set(dut.position, row % depth if go else rng.randrange(depth))
            wanted = expected.pop(0)
            if wanted is not None:
                assert ctx.get(dut.row) == wanted
            seen["idle"] += not go
            seen["gapless"] += go and expected[-1:] != [None]
            expected.append(rows[row] if go else None)
            taken = offered and written - freed_before < depth
            seen["read"] += go
            seen["full"] += offered and not taken
            seen["just_written"] += go and row == came
            seen["replaced"] += taken and written - depth == last[0] >= 0
            assert not taken or last[1] < 0 or written - depth != last[1], "written and read at the same time"
            # A row may be freed as it is read, and its place is taken two cycles later.
            after = freed
            if rng.random() < free:
                after = min(freed + rng.choice([1, 1, 1, 1, depth]), row + 1 if go else written)
            seen["freed_many"] += after > freed + 1
            came, last = written if taken else -1, [last[1], row if go else -1]
            written += taken
            offered = offered and not taken
            freed_before, freed = freed, after
            await ctx.tick()

    simulate(dut, bench)
    assert min(seen.values()) > 0, seen


@pytest.mark.slow
def test_row_counts_go_round():
    """More rows than can be counted: what is in use is the difference."""
    depth = 5000
    dut = WeightBuffer(depth=depth, lanes=3)

    async def bench(ctx):
        ctx.set(dut.write.valid, 1)
        for freed in range(0, (1 << row_bits(depth)) + 2 * depth, depth):
            ctx.set(dut.freed, freed % (1 << row_bits(depth)))
            await ctx.tick().repeat(depth - 1 + (freed > 0))  # a place is free in the next cycle
            assert ctx.get(dut.written) == (freed + depth - 1) % (1 << row_bits(depth))
            assert ctx.get(dut.write.ready)
            await ctx.tick()
            assert not ctx.get(dut.write.ready)

    simulate(dut, bench, limit=2 << row_bits(depth))


def test_a_row_is_read_in_the_cycle_after_it_came():
    """The first pass runs as the rows stream in: one row per cycle, ``latency`` later at the output."""
    dut = WeightBuffer(depth=6, lanes=8)
    rows = [17, 34, 51, 68]
    inputs = [
        {
            "write.valid": cycle < 4,
            "write.payload": rows[cycle] if cycle < 4 else 0,
            "read": 1 <= cycle < 5,
            "position": max(0, cycle - 1),
            "freed": 0,
        }
        for cycle in range(6)
    ]
    seen = trace(dut, inputs + [{"read": 0}] * 4, ["written", "row"])
    assert [s["written"] for s in seen] == [0, 1, 2, 3, 4, 4, 4, 4, 4, 4]
    assert [s["row"] for s in seen][1 + dut.latency : 5 + dut.latency] == rows


def test_a_place_is_free_once_its_row_was_read_for_the_last_time():
    """The new row is written in the cycle after the old one was read from the array."""
    dut = WeightBuffer(depth=3, lanes=8)
    inputs = [{"write.valid": 1, "write.payload": row} for row in (1, 2, 3)]
    inputs += [
        {"write.payload": max(4, row + 2), "read": 1, "position": row % 3, "freed": row} for row in range(6)
    ]
    seen = trace(dut, inputs + [{"read": 0, "write.valid": 0}] * dut.latency, ["write.ready", "row"])
    assert [s["write.ready"] for s in seen[:9]] == [1, 1, 1, 0, 0, 1, 1, 1, 1]
    assert [s["row"] for s in seen[3 + dut.latency : 9 + dut.latency]] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("depth", [1, 0, -3, "8", 2.5, True])
def test_impossible_depths_are_refused(depth):
    refuses(WeightBuffer, "depth must be", depth=depth, lanes=4)


@pytest.mark.parametrize("lanes", [0, -1, None, 2.0])
def test_impossible_lanes_are_refused(lanes):
    refuses(WeightBuffer, "lanes must be", depth=4, lanes=lanes)


def test_a_row_stays_until_another_is_read():
    """``row`` changes only with reads, so that stalls of the array lose nothing."""
    dut = WeightBuffer(depth=4, lanes=4)
    inputs = [
        {"write.valid": 1, "write.payload": 5},
        {"write.payload": 10, "read": 1},
        {"write.valid": 0, "read": 0, "position": 1},
    ]
    seen = trace(dut, inputs + [{}] * 6, ["row"])
    rows = [s["row"] for s in seen]
    assert rows[1 + dut.latency :] == [5] * (9 - 1 - dut.latency)
    assert all(a == b for a, b in pairwise(rows[1 + dut.latency :]))
