"""A slot against the ring of pixels round the chip: all at random pace, then every word is read."""

import random
from itertools import combinations

import numpy as np
import pytest

from hyperdrive_hdl.framing import FrameKind
from hyperdrive_hdl.isa import Side
from hyperdrive_hdl.rtl.border_slot import BorderSlot
from tests.support.borders import (
    CHIPS,
    BorderMap,
    FrameSink,
    Maker,
    Surroundings,
    bits,
    chip_name,
    frames,
    sources,
    to_receive,
    to_send,
)
from tests.support.streams import Stalls, simulate

NEIGHBOURS = [set(sides) for count in range(5) for sides in combinations(Side, count)]
ARRIVALS = {
    FrameKind.EDGE: ("edge", "edge_good"),
    FrameKind.NORTH_CORNERS: ("north_corner", "north_good"),
    FrameKind.SOUTH_CORNERS: ("south_corner", "south_good"),
}


class Neighbour:
    """Hands a side's frames to the slot as its receiver does; frames of different kinds in any order."""

    def __init__(self, port, expected: dict[FrameKind, list], stalls, rng: random.Random):
        self._port = port
        self._queues = {kind: list(one) for kind, one in expected.items()}
        self._stalls = stalls
        self._rng = rng
        self._steps = iter(())

    @property
    def done(self) -> bool:
        return not any(self._queues.values())

    def _frame(self, kind, words, last):
        """What the port has in each cycle in which it does not stall."""
        arrives, good = ARRIVALS[kind]
        for word in words:
            yield {arrives: 1, "word": word}
        yield {}
        self._queues[kind].pop(0)
        yield {good: 1, "last": last}
        yield from ({} for _ in range(self._rng.randint(2, 5)))  # the next frame's header

    def cycle(self, ctx) -> None:
        """Before a cycle."""
        now: dict[str, int] = {}
        if not self._stalls():
            step = next(self._steps, None)
            if step is None and not self.done:
                kind = self._rng.choice([kind for kind, one in self._queues.items() if one])
                self._steps = self._frame(kind, *self._queues[kind][0])
                step = next(self._steps)
            now = step or {}
        # Without a word or a frame's end, what is beside them is not to be looked at.
        now = {"word": self._rng.getrandbits(8), "last": self._rng.getrandbits(1)} | now
        for name in ("word", "last", *(name for pair in ARRIVALS.values() for name in pair)):
            ctx.set(getattr(self._port, name), now.get(name, 0))


async def look(ctx, dut, around: Surroundings, neighbours: set[Side], rng: random.Random) -> int:
    """Read every word of the ring, in random order; gives their number."""
    map, config = around.map, around.config
    ends = {Side.NORTH: -1, Side.SOUTH: around.rows, Side.WEST: -1, Side.EAST: around.cols}
    taps = []
    for side in neighbours:
        vertical = side in (Side.NORTH, Side.SOUTH)
        way = {Side.NORTH: "up", Side.SOUTH: "down", Side.WEST: "left", Side.EAST: "right"}[side]
        for along in range(map.tile_w if vertical else map.tile_h):
            for channel in range(map.channels):
                tiles = config.tile_cols if vertical else config.tile_rows
                places = [
                    (ends[side], i * map.tile_w + along) if vertical else (i * map.tile_h + along, ends[side])
                    for i in range(tiles)
                ]
                words = [around.word(y, x, channel) for y, x in places]
                address = {"row" if vertical else "col": along * map.channels + channel}
                taps.append(({way}, address, {f"{side.name.lower()}_words": words}))
    for vertical, up in ((Side.NORTH, "up"), (Side.SOUTH, "down")):
        for horizontal, left in ((Side.WEST, "left"), (Side.EAST, "right")):
            if not {vertical, horizontal} <= neighbours:
                continue
            for channel in range(map.channels):
                word = around.word(ends[vertical], ends[horizontal], channel)
                name = f"{horizontal.name.lower()}_corner"
                taps.append(({up, left}, {"corner": channel}, {name: word}))
    rng.shuffle(taps)
    for ways, address, expected in taps:
        for way in ("up", "down", "left", "right"):
            ctx.set(getattr(dut, way), way in ways)
        for name in ("row", "col", "corner"):
            ctx.set(getattr(dut, name), address.get(name, rng.randrange(config.border_depth)))
        await ctx.tick()
        for name, words in expected.items():
            member = getattr(dut, name)
            assert (
                [ctx.get(word) for word in member] if isinstance(words, list) else ctx.get(member)
            ) == words
    for way in ("up", "down", "left", "right"):
        ctx.set(getattr(dut, way), 0)
    return sum(np.size(words) for _, _, expected in taps for words in expected.values())


def exchange(config, neighbours, seed, count):
    """Several maps through one slot; gives how many words were read, and how many arrived inside the maps."""
    rng = random.Random(f"slot {config} {neighbours} {seed}")
    dut = BorderSlot(config=config)
    names = sources(neighbours)
    sinks = {key: FrameSink(getattr(dut, name), config, Stalls((seed, name))) for key, name in names.items()}
    looked = true = 0

    async def bench(ctx):
        nonlocal looked, true
        ctx.set(dut.neighbours, bits(neighbours))
        for number in range(count):
            row, col = rng.randint(1, 2), rng.randint(1, 2)
            map = BorderMap.random(rng, config, row, col)
            around = Surroundings(map, config, rng)
            ctx.set(dut.mesh_row, row)
            ctx.set(dut.mesh_col, col)
            stalls = [Stalls((seed, number, what)) for what in ("pixels", "grants")]
            maker = Maker(dut, around, neighbours, *stalls, rng)
            arriving = to_receive(around, neighbours)
            others = [
                Neighbour(
                    getattr(dut, f"from_{side.name.lower()}"),
                    {kind: frames(words, config) for (of, kind), words in arriving.items() if of is side},
                    Stalls((seed, number, side)),
                    rng,
                )
                for side in neighbours
            ]
            expected = {key: frames(words, config) for key, words in to_send(around, neighbours).items()}
            total = sum(len(words) for one in expected.values() for words, _ in one)

            assert not ctx.get(dut.active)
            ctx.set(dut.map, map.descriptor)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            # Steady in the cycle of ``start`` only.
            ctx.set(dut.map, BorderMap.random(rng, config).descriptor)
            true_words = late = 0
            await maker.cycle(ctx)  # the neighbours are told no earlier than now
            while True:
                for other in others:
                    other.cycle(ctx)
                active, complete, words, error = await maker.cycle(
                    ctx, dut.active, dut.complete, dut.true_words, dut.error
                )
                assert active
                assert not error
                true_words += words
                taken = sum(len(sink.words) for sink in sinks.values())
                over = taken == total and maker.made == map.pixels and all(other.done for other in others)
                if complete:
                    assert over, "complete too early"
                    break
                late += over
                assert late <= map.pixels + 4
            assert maker.done
            assert {key: sink.frames for key, sink in sinks.items()} == expected
            for sink in sinks.values():
                sink.frames.clear()
            assert true_words == around.true_words(neighbours)
            true += true_words
            looked += await look(ctx, dut, around, neighbours, rng)
            assert ctx.get(dut.complete)
            ctx.set(dut.release, 1)
            await ctx.tick()
            ctx.set(dut.release, 0)
            assert not ctx.get(dut.active)
            assert not ctx.get(dut.complete)

    simulate(dut, bench, background=[sink.run for sink in sinks.values()], limit=60_000)
    assert true <= looked
    return looked, true


@pytest.mark.parametrize("config", CHIPS, ids=chip_name)
@pytest.mark.parametrize("seed", range(2))
def test_the_ring_is_what_the_neighbours_have(config, seed):
    looked, true = exchange(config, set(Side), seed, 7)
    assert looked > true > 50


@pytest.mark.parametrize("neighbours", NEIGHBOURS, ids=lambda sides: f"{bits(sides):04b}")
def test_without_some_neighbours(neighbours):
    """Nothing is sent to them, or waited for."""
    looked, _ = exchange(CHIPS[1], neighbours, 1, 2)
    assert (looked > 4) == (neighbours != set())


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("kind", ARRIVALS)
def test_a_word_without_a_map_is_an_error_of_that_side(side, kind):
    config = CHIPS[2]
    dut = BorderSlot(config=config)
    corners = side in (Side.EAST, Side.WEST)

    async def bench(ctx):
        ctx.set(dut.neighbours, 15)
        port = getattr(dut, f"from_{side.name.lower()}")
        for name, value in {ARRIVALS[kind][0]: 1, "word": 5}.items():
            ctx.set(getattr(port, name), value)
        assert not ctx.get(dut.error)
        await ctx.tick()
        assert ctx.get(dut.error) == ((1 << side) if corners or kind is FrameKind.EDGE else 0)

    simulate(dut, bench)
