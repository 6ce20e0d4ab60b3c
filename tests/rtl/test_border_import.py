"""What arrives from the neighbours: where it goes, which words go on, and that nothing else fits."""

import random

import pytest

from hyperdrive_hdl.rtl.border_import import CornerForward, CornerImport, EdgeImport
from tests.support.borders import CHIPS, BorderMap, FrameSink, chip, chip_name, frames
from tests.support.streams import Stalls, simulate

# What is done to a map's frames, and whether that is an error.
DAMAGE = {
    "none": False,
    "a word too many": True,
    "a word too few": True,
    "the last frame is not the last": True,
    "an early frame is the last": True,
    "another frame": True,
}


def damaged(damage: str, one: list[tuple[list[int], bool]], rng: random.Random):
    """The frames with something wrong about them."""
    *others, (words, _) = one
    index = rng.randrange(len(one))
    if damage == "a word too many":
        words, last = one[index]
        return [*one[:index], ([*words, 0], last), *one[index + 1 :]]
    if damage == "a word too few":
        words, last = one[index]
        return [*one[:index], (words[1:], last), *one[index + 1 :]]
    if damage == "the last frame is not the last":
        return [*others, (words, False)]
    if damage == "an early frame is the last":
        return [([], True), *one]
    if damage == "another frame":
        return [*one, ([0], True)]
    return one


class Arrivals:
    """Gives words and frame ends to an import, with random pauses; the map is steady, as in a slot."""

    def __init__(self, dut, rng: random.Random, stalls):
        self._dut = dut
        self._rng = rng
        self._stalls = stalls

    async def pause(self, ctx):
        while self._stalls():
            await ctx.tick()

    async def start(self, ctx):
        ctx.set(self._dut.start, 1)
        await ctx.tick()
        ctx.set(self._dut.start, 0)

    async def frame(self, ctx, words, last, *outputs):
        """Gives the values of outputs with each word."""
        dut, seen = self._dut, []
        for _ in words:
            await self.pause(ctx)
            ctx.set(dut.word_valid, 1)
            seen.append((await ctx.tick().sample(*outputs))[2:])
            ctx.set(dut.word_valid, 0)
        await self.pause(ctx)
        # Not to be looked at but at a frame's end.
        ctx.set(dut.last, self._rng.getrandbits(1))
        await ctx.tick()
        ctx.set(dut.last, last)
        ctx.set(dut.frame_good, 1)
        await ctx.tick()
        ctx.set(dut.frame_good, 0)
        ctx.set(dut.last, self._rng.getrandbits(1))
        return seen


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("vertical", [True, False])
@pytest.mark.parametrize("config", CHIPS, ids=chip_name)
def test_edge_words_find_their_place(config, vertical, damage):
    rng = random.Random(f"{config} {vertical} {damage}")
    tiles = config.tile_cols if vertical else config.tile_rows
    dut = EdgeImport(config=config, tiles=tiles)
    arrivals = Arrivals(dut, rng, Stalls((config, vertical, damage)))
    counts = {"words": 0, "near": 0, "far": 0, "errors": 0}

    async def bench(ctx):
        for _ in range(8):
            map = BorderMap.random(rng, config)
            length = map.tile_w if vertical else map.tile_h
            # A word is of a tile, a pixel along the side, a channel; tiles change fastest.
            expected = []
            for _, y, x, channel in map.order():
                across, along = (y, x) if vertical else (x, y)
                if across == 0:
                    expected += [(tile, along, channel) for tile in range(tiles)]
            ctx.set(dut.map, map.descriptor)
            ctx.set(dut.length, length)
            await arrivals.start(ctx)
            assert not ctx.get(dut.done)
            one = damaged(damage, frames(list(range(len(expected))), config), rng)
            number = 0
            for words, last in one:
                outputs = (dut.address, dut.tile, dut.pixel, dut.near, dut.far)
                for address, tile, pixel, near, far in await arrivals.frame(ctx, words, last, *outputs):
                    if number >= len(expected):
                        continue
                    at = expected[number]
                    number += 1
                    assert (tile, pixel) == at[:2]
                    assert address == at[1] * map.channels + at[2]
                    assert near == (at[:2] == (0, 0))
                    assert far == (at[:2] == (tiles - 1, length - 1))
                    if far:
                        assert ctx.get(dut.far_offset) == (length - 1) * map.channels
                    counts["words"] += 1
                    counts["near"] += near
                    counts["far"] += far
                if not DAMAGE[damage]:
                    assert ctx.get(dut.done) == last
                    assert not ctx.get(dut.error)
            for _ in range(3):
                assert ctx.get(dut.error) == DAMAGE[damage]
                await ctx.tick()
            counts["errors"] += DAMAGE[damage]

    simulate(dut, bench, limit=40_000)
    assert counts["words"] > 50
    assert counts["near"] >= 8
    assert DAMAGE[damage] == (counts["errors"] == 8)


@pytest.mark.parametrize("kind", [EdgeImport, CornerImport])
def test_a_word_before_any_map_is_an_error(kind):
    config = CHIPS[0]
    dut = kind(config=config, tiles=1) if kind is EdgeImport else kind(config=config)
    arrivals = Arrivals(dut, random.Random(0), lambda: False)

    async def bench(ctx):
        assert not ctx.get(dut.error)
        await arrivals.frame(ctx, [0], True, dut.address)
        assert ctx.get(dut.error)

    simulate(dut, bench)


@pytest.mark.parametrize("damage", DAMAGE)
def test_corner_words_find_their_place(damage):
    config = CHIPS[0]
    rng = random.Random(damage)
    dut = CornerImport(config=config)
    arrivals = Arrivals(dut, rng, Stalls(damage))
    checked = 0

    async def bench(ctx):
        nonlocal checked
        for channels in (1, 2, 31, 32, 33, 70, 128, rng.randint(1, 128)):
            ctx.set(dut.channels, channels)
            await arrivals.start(ctx)
            assert not ctx.get(dut.done)
            number = 0
            for words, last in damaged(damage, frames(list(range(channels)), config), rng):
                for (address,) in await arrivals.frame(ctx, words, last, dut.address):
                    if number < channels:
                        assert address == number
                        checked += 1
                    number += 1
                if not DAMAGE[damage]:
                    assert ctx.get(dut.done) == last
            assert ctx.get(dut.error) == DAMAGE[damage]

    simulate(dut, bench)
    assert checked > 200


def forward_maps(config, wanted, seed):
    """Words of two ends written in frames; gives how many words went on."""
    rng = random.Random(f"{config} {wanted} {seed}")
    dut = CornerForward(config=config)
    sinks = [FrameSink(frame, config, Stalls((seed, i))) for i, frame in enumerate((dut.west, dut.east))]
    busy, arriving = Stalls((seed, "busy")), Stalls((seed, "arriving"))
    memory: list[dict[int, int]] = [{}, {}]  # of the first and the last tile
    right = 0  # words of each end in frames that have ended
    taken = 0

    async def cycle(ctx):
        """A cycle in which the memory may be free."""
        nonlocal taken
        free = not busy()
        ctx.set(dut.free, free)
        # Else what is read belongs to somebody else.
        *_, read, address, idle = await ctx.tick().sample(dut.read, dut.address, dut.idle)
        words = [rng.getrandbits(config.word_width) for _ in range(2)]
        if read:
            assert free
            assert address in memory[0] or address in memory[1], "a word is read that is not surely right"
            words = [cells.get(address, word) for cells, word in zip(memory, words, strict=True)]
            taken += 1
        ctx.set(dut.near_word, words[0])
        ctx.set(dut.far_word, words[1])
        return idle

    async def bench(ctx):
        nonlocal right
        for _ in range(6):
            channels = rng.choice((1, 2, 3, 31, 32, 33, rng.randint(1, 70)))
            far_offset = rng.choice((0, rng.randint(0, config.border_depth - channels)))
            ctx.set(dut.channels, channels)
            ctx.set(dut.wanted, wanted)
            ctx.set(dut.start, 1)
            await cycle(ctx)
            ctx.set(dut.start, 0)
            expected = [[rng.getrandbits(config.word_width) for _ in range(channels)] for _ in range(2)]
            for cells in memory:
                cells.clear()
            # Near and far words come as the frames have them: both in one frame, or far behind.
            events = sorted(
                [
                    (channel + lag, end, channel)
                    for end, lag in ((0, 0), (1, rng.randint(0, 40)))
                    for channel in range(channels)
                ]
            )
            starts = sorted({0, *(rng.randrange(len(events)) for _ in range(rng.randint(0, 4)))})
            far_known = False
            for first, behind in zip(starts, [*starts[1:], len(events)], strict=True):
                for _, end, _ in events[first:behind]:
                    while arriving():
                        await cycle(ctx)
                    if end and not far_known:
                        ctx.set(dut.far_offset, far_offset)
                        far_known = True
                    ctx.set(dut.far if end else dut.near, 1)
                    # The memory is written.
                    ctx.set(dut.free, 0)
                    *_, read = await ctx.tick().sample(dut.read)
                    assert not read
                    ctx.set(dut.near, 0)
                    ctx.set(dut.far, 0)
                while arriving():
                    await cycle(ctx)
                ctx.set(dut.frame_good, 1)
                await cycle(ctx)
                ctx.set(dut.frame_good, 0)
                for _, end, channel in events[first:behind]:
                    memory[end][channel + far_offset * end] = expected[end][channel]
            done = 0
            while not await cycle(ctx):
                done += 1
                assert done < 4000
            for end, sink in enumerate(sinks):
                is_wanted = wanted >> end & 1
                assert sink.frames == (frames(expected[end], config) if is_wanted else [])
                sink.frames.clear()
                right += channels * is_wanted

    simulate(dut, bench, background=[sink.run for sink in sinks], limit=60_000)
    assert taken == right
    return right


@pytest.mark.parametrize("config", [chip(1, 1), chip(1, 1, format="fp8_e4m3")], ids=chip_name)
@pytest.mark.parametrize("wanted", range(4))
@pytest.mark.parametrize("seed", range(2))
def test_corners_go_on(config, wanted, seed):
    """In order, when their frame has proved right, and not while the memory has other things to do."""
    assert (forward_maps(config, wanted, seed) > 20) == (wanted > 0)
