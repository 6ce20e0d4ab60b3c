"""Buffers between host and chip against lists of words, in random runs with every kind of event."""

import random
import re
from collections import Counter

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hyperdrive_hdl.rtl.hierarchy import ModuleLibrary
from hyperdrive_hdl.rtl.host_buffers import CommitBuffer, OutputBuffer
from tests.support.streams import refuses, simulate

MODULUS = 1 << 16


@pytest.mark.parametrize(
    ("depth", "start", "most_back"),
    [(8, 0, 2), (8, MODULUS - 20, 1), (16, MODULUS - 3, 4), (2, 5, 0), (4, 7, 2)],
)
def test_commit_buffer(depth, start, most_back):
    """Words come out once, in order, only of frames that were kept; nothing of others; counts are right."""
    rng = random.Random(depth * most_back + start)
    dut = CommitBuffer(width=16, depth=depth, most_back=most_back, start=start)
    kept: list[int] = []  # words of all frames that count
    given: list[int] = []
    events: Counter[str] = Counter()
    eager = 1.0  # of the reader

    async def host(ctx):
        nonlocal eager
        number = 0
        for _ in range(400):
            eager = rng.choice((0.0, 0.1, 1.0))
            for _ in range(rng.choice((0, 0, 1, 30))):
                await ctx.tick()
            free = ctx.get(dut.free)
            assert ctx.get(dut.taken) == (start + len(kept)) % MODULUS
            room = depth - (len(kept) - len(given))
            # A word waits outside of the memory, and another may have been given in the last cycle.
            assert room <= free <= min(depth, room + 2)
            back = rng.randint(0, most_back)
            frame = []
            for _ in range(rng.randint(0, rng.choice((2, free + 2, free + most_back + 3)))):
                number += 1
                frame.append(number % MODULUS)
                ctx.set(dut.write, 1)
                ctx.set(dut.word, frame[-1])
                await ctx.tick()
                ctx.set(dut.write, 0)
                for _ in range(rng.choice((0, 0, 1, 3))):
                    await ctx.tick()
            back = min(back, len(frame))
            for _ in range(back):
                ctx.set(dut.back, 1)
                await ctx.tick()
            ctx.set(dut.back, 0)
            frame = frame[: len(frame) - back]
            overrun = ctx.get(dut.overrun)
            if len(frame) <= free:
                assert not overrun
            if len(frame) > depth:
                assert overrun
            keep = not overrun and rng.random() < 0.6
            ctx.set(dut.finish, 1)
            ctx.set(dut.keep, keep)
            await ctx.tick()
            ctx.set(dut.finish, 0)
            if keep:
                kept.extend(frame)
            events["overrun" if overrun else "kept" if keep else "not kept"] += 1
            events["filled"] += keep and len(frame) == free
            for _ in range(len(frame) + 2):
                await ctx.tick()
        eager = 1.0
        for _ in range(2 * depth + 4):
            await ctx.tick()

    async def chip(ctx):
        random_ready = random.Random(1)
        offered = None
        while True:
            ready = random_ready.random() < eager
            ctx.set(dut.words.ready, ready)
            *_, valid, word = await ctx.tick().sample(dut.words.valid, dut.words.payload)
            assert offered is None or (valid and word == offered)
            offered = word if valid and not ready else None
            if valid and ready:
                given.append(word)
                assert given == kept[: len(given)] if len(given) < 4 else given[-1] == kept[len(given) - 1]

    simulate(dut, host, background=[chip], limit=200_000)
    assert given == kept
    assert len(kept) > 100
    assert min(events[name] for name in ("kept", "not kept", "overrun", "filled")) > 5, events


def test_words_of_a_frame_that_comes_too_soon_are_lost():
    """While the one before is settled; it is told, and the one after is right."""
    dut = CommitBuffer(width=8, depth=16, most_back=0)
    lost = []

    async def bench(ctx):
        async def frame(words, wait):
            for word in words:
                ctx.set(dut.write, 1)
                ctx.set(dut.word, word)
                await ctx.tick()
            ctx.set(dut.write, 0)
            lost.append(ctx.get(dut.overrun))
            ctx.set(dut.finish, 1)
            ctx.set(dut.keep, not lost[-1])
            await ctx.tick()
            ctx.set(dut.finish, 0)
            for _ in range(wait):
                await ctx.tick()

        await frame([1, 2, 3, 4], 1)
        await frame([5, 6], 10)
        await frame([7], 5)
        assert lost == [0, 1, 0]
        assert ctx.get(dut.taken) == 5
        ctx.set(dut.words.ready, 1)
        got = []
        for _ in range(8):
            *_, valid, word = await ctx.tick().sample(dut.words.valid, dut.words.payload)
            if valid:
                got.append(word)
        assert got == [1, 2, 3, 4, 7]

    simulate(dut, bench)


def test_one_word_per_cycle():
    dut = CommitBuffer(width=8, depth=64)
    valid_in = []

    async def bench(ctx):
        for word in range(40):
            ctx.set(dut.write, 1)
            ctx.set(dut.word, word)
            await ctx.tick()
        ctx.set(dut.write, 0)
        ctx.set(dut.finish, 1)
        ctx.set(dut.keep, 1)
        await ctx.tick()
        ctx.set(dut.finish, 0)
        for _ in range(45):
            await ctx.tick()
        ctx.set(dut.words.ready, 1)
        for word in range(40):
            *_, valid, got = await ctx.tick().sample(dut.words.valid, dut.words.payload)
            assert valid
            assert got == word
            valid_in.append(valid)
        assert not ctx.get(dut.words.valid)

    simulate(dut, bench)
    assert len(valid_in) == 40


@pytest.mark.parametrize(("depth", "start"), [(8, 0), (16, MODULUS - 30), (4, MODULUS - 2), (2, 1)])
def test_output_buffer(depth, start):
    """Every word that is kept can be read, in any order; an offset outside changes nothing."""
    rng = random.Random(depth + start)
    dut = OutputBuffer(width=16, depth=depth, start=start)
    written: list[int] = []
    first = 0  # words dropped
    events: Counter[str] = Counter()
    speed = 1.0

    async def chip(ctx):
        source = random.Random(2)
        offered = False
        while True:
            offered = offered or source.random() < speed
            ctx.set(dut.write.valid, offered)
            ctx.set(dut.write.payload, len(written) * 40503 % MODULUS)
            *_, ready = await ctx.tick().sample(dut.write.ready)
            if offered and ready:
                written.append(len(written) * 40503 % MODULUS)
                offered = False
            events["full"] += offered and not ready

    async def host(ctx):
        nonlocal first, speed
        for _ in range(500):
            speed = rng.choice((0.0, 0.2, 1.0))
            for _ in range(rng.choice((0, 1, depth))):
                await ctx.tick()
            if rng.random() < 0.5:
                index = rng.randint(0, min(depth, ctx.get(dut.words)))
                there = index < ctx.get(dut.words)
                ctx.set(dut.read, 1)
                ctx.set(dut.index, index)
                await ctx.tick()
                ctx.set(dut.read, 0)
                for _ in range(rng.choice((0, 3))):
                    assert ctx.get(dut.valid) == there
                    await ctx.tick()
                assert ctx.get(dut.valid) == there
                if there:
                    assert ctx.get(dut.word) == written[first + index]
                    events["read"] += 1
                else:
                    events["none"] += 1
            else:
                step = rng.choice((rng.randint(-3, depth + 3), rng.randrange(MODULUS), 0, ctx.get(dut.words)))
                good = 0 <= step <= ctx.get(dut.words)
                ctx.set(dut.not_offset, ~(start + first + step) % MODULUS)
                ctx.set(dut.forget, 1)
                await ctx.tick()
                ctx.set(dut.forget, 0)
                first += step if good else 0
                events["dropped" if good and step else "nothing dropped" if good else "outside"] += 1
            assert ctx.get(dut.first) == (start + first) % MODULUS
            # The other bench notes a word of the last cycle only after this one.
            assert 0 <= ctx.get(dut.words) - (len(written) - first) <= 1

    simulate(dut, host, background=[chip], limit=100_000)
    kinds = ("full", "read", "none", "dropped", "nothing dropped", "outside")
    assert min(events[name] for name in kinds) > 10, events
    assert len(written) > 30


def test_what_is_refused():
    for kind in (CommitBuffer, OutputBuffer):
        refuses(kind, "width must be", width=0, depth=8)
        refuses(kind, "depth must be", width=8, depth=12)
        refuses(kind, "depth must be", width=8, depth=1)
        refuses(kind, "depth must be", width=8, depth=1 << 16)
        refuses(kind, "start must be", width=8, depth=8, start=-1)
    refuses(CommitBuffer, "most_back must be", width=8, depth=8, most_back=-1)


class PlainMemory(wiring.Component):
    """May be read and written at one address in the same cycle."""

    address: In(4)
    word: Out(8)

    def elaborate(self, platform):
        m = Module()
        m.submodules.cells = cells = Memory(shape=8, depth=16, init=[])
        write_port, read_port = cells.write_port(), cells.read_port()
        m.d.comb += [
            write_port.addr.eq(self.address),
            write_port.en.eq(1),
            read_port.addr.eq(self.address),
            self.word.eq(read_port.data),
        ]
        return m


@pytest.mark.parametrize("kind", [CommitBuffer, OutputBuffer])
def test_block_rams_need_no_logic_around_them(kind):
    """Yosys may suppose that no word is read while it is written; of other memories it may not."""
    text = ModuleLibrary().convert(kind(width=8, depth=16), "buffer")
    assert re.findall(r"COLLISION_X_MASK (\S+)", text) == ["1'1"]
    text = ModuleLibrary().convert(PlainMemory(), "buffer")
    assert re.findall(r"COLLISION_X_MASK (\S+)", text) == ["1'0"]
