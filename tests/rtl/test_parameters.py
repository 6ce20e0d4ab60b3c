"""The parameter buffer against a dictionary for each set."""

import random

import pytest

from hyperdrive_hdl.latencies import PARAMETER_LOOKUP
from hyperdrive_hdl.rtl.parameters import ParameterBuffer
from tests.support.streams import simulate


@pytest.mark.parametrize(("lanes", "width"), [(1, 16), (2, 18), (3, 16), (4, 22), (7, 16)])
@pytest.mark.parametrize("count", [2, 3, 4, 5, 8])
def test_sets_in_turn(lanes, width, count):
    """Sets arrive while others are read; both lookups are independent and take one cycle."""
    rng = random.Random(f"{lanes} {count}")
    dut = ParameterBuffer(lanes=lanes, width=width, sets=count)
    assert dut.latency == PARAMETER_LOOKUP == 1
    sets = [
        {(kind, k): rng.getrandbits(width) for kind in (0, 1) for k in range(lanes)}
        for _ in range(4 * count + 9)
    ]
    progress = {"taken": 0, "released": 0, "complete": 0, "read": 0, "both": 0, "full": 0, "others": 0}

    async def bench(ctx):
        todo: list = []  # parameters of the set taken last that are still to be written
        expected: dict[str, int] = {}
        while progress["released"] < len(sets):
            taken, released = progress["taken"], progress["released"]
            assert ctx.get(dut.free) == (taken - released < count)
            for member, value in expected.items():
                assert ctx.get(getattr(dut, member)) == value, (member, progress)
                progress["read"] += 1
            expected = {}
            release = released < progress["complete"] and rng.random() < (0.02, 0.3)[taken // 10 % 2]
            room = not todo and taken < len(sets) and taken - released < count
            take = room and rng.random() < (0.9 if release else 0.2)
            ctx.set(dut.take, take)
            write = bool(todo) and rng.random() < 0.8
            ctx.set(dut.write, write)
            if write:
                (kind, lane), value = todo.pop()
                ctx.set(dut.write_bias, kind)
                ctx.set(dut.write_lane, lane)
                ctx.set(dut.value, value)
            # Read any set that is in use and completely written.
            for member, kind in (("scale", 0), ("bias", 1)):
                if released < progress["complete"]:
                    which = rng.randrange(released, progress["complete"])
                    lane = rng.randrange(lanes)
                    ctx.set(getattr(dut, f"{member}_set"), which % count)
                    ctx.set(getattr(dut, f"{member}_lane"), lane)
                    expected[member] = sets[which][kind, lane]
                    progress["others"] += progress["complete"] - released > 1
            ctx.set(dut.give_back, release)
            progress["both"] += take and release
            progress["full"] += taken - released == count
            progress["released"] += release
            if take:
                todo = list(sets[taken].items())
                rng.shuffle(todo)
                progress["taken"] += 1
            await ctx.tick()
            if not todo:
                progress["complete"] = progress["taken"]

    simulate(dut, bench)
    assert progress["taken"] == progress["released"] == len(sets)
    assert progress["read"] > 100
    assert min(progress.values()) > 0, progress


@pytest.mark.parametrize("count", [2, 3, 8])
def test_restart_forgets_the_sets_and_starts_with_the_first(count):
    dut = ParameterBuffer(lanes=2, width=16, sets=count)

    async def bench(ctx):
        ctx.set(dut.take, 1)
        await ctx.tick()
        ctx.set(dut.take, 0)
        await ctx.tick()
        ctx.set(dut.take, 1)
        ctx.set(dut.give_back, 1)  # the second set comes as the first one goes
        await ctx.tick()
        ctx.set(dut.give_back, 0)
        for _ in range(count - 1):  # more, that are forgotten too
            assert ctx.get(dut.free) == 1
            await ctx.tick()
        ctx.set(dut.take, 0)
        assert ctx.get(dut.free) == 0
        ctx.set(dut.restart, 1)
        await ctx.tick()
        ctx.set(dut.restart, 0)
        assert ctx.get(dut.free) == 1
        # The next set taken is set 0 again.
        ctx.set(dut.take, 1)
        await ctx.tick()
        ctx.set(dut.take, 0)
        ctx.set(dut.write, 1)
        ctx.set(dut.write_lane, 1)
        ctx.set(dut.value, 0x1234)
        await ctx.tick()
        ctx.set(dut.write, 0)
        ctx.set(dut.scale_set, 0)
        ctx.set(dut.scale_lane, 1)
        await ctx.tick()
        assert ctx.get(dut.scale) == 0x1234

    simulate(dut, bench)
