"""A map's edges against the map itself: order, addresses, frames, whatever the pace of all sides."""

import random
from itertools import combinations

import pytest

from hyperdrive_hdl.framing import frame_words
from hyperdrive_hdl.isa import Side
from hyperdrive_hdl.rtl.border_export import BlockWalker, BorderExport
from tests.support.borders import (
    CHIPS,
    BorderMap,
    FrameSink,
    Maker,
    Surroundings,
    bits,
    chip_name,
    frames,
)
from tests.support.streams import Stalls, simulate

NEIGHBOURS = [set(sides) for count in range(5) for sides in combinations(Side, count)]


def never() -> bool:
    return False


@pytest.mark.parametrize("config", CHIPS, ids=chip_name)
def test_words_are_walked_as_they_are_made(config):
    """Block, pixel, channel; a skipped pixel loses all of its channels in that block, from any of them."""
    rng = random.Random(f"walk {config}")
    dut = BlockWalker()
    walked = skipped = 0

    async def bench(ctx):
        nonlocal walked, skipped
        for _ in range(35):
            map = BorderMap.random(rng, config)
            ctx.set(dut.map, map.descriptor)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            words = list(map.order())
            blocks = map.tile_h * map.tile_w
            index = 0
            while index < len(words):
                number, y, x, channel = words[index]
                ends = index + 1 == len(words) or words[index + 1][0] != number
                skip = rng.random() < 0.2
                step = rng.random() < 0.8
                ctx.set(dut.last_pixel, (y, x) == (map.tile_h - 1, map.tile_w - 1))
                ctx.set(dut.skip, skip and step)
                ctx.set(dut.advance, not skip and step)
                assert ctx.get(dut.active)
                assert ctx.get(dut.offset) == (y * map.tile_w + x) * map.channels + channel
                assert ctx.get(dut.last_channel) == ends
                assert ctx.get(dut.first_block) == (number < blocks)
                assert ctx.get(dut.last_block) == (number >= map.pixels - blocks)
                assert ctx.get(dut.next_pixel) == (step and (skip or ends))
                await ctx.tick()
                if not step:
                    continue
                walked += 1
                index += 1
                while skip and index < len(words) and words[index][0] == number:
                    skipped += 1
                    index += 1
            ctx.set(dut.skip, 0)
            ctx.set(dut.advance, 0)
            for _ in range(3):
                assert not ctx.get(dut.active)
                await ctx.tick()

    simulate(dut, bench)
    assert walked > 500
    assert skipped > 50


def export_maps(config, neighbours, seed, count):
    """Several maps, one after the other, through one export; gives the frames that were checked."""
    rng = random.Random(f"export {config} {neighbours} {seed}")
    dut = BorderExport(config=config)
    sinks = {
        side: FrameSink(getattr(dut, side.name.lower()), config, Stalls((seed, side)) if seed else never)
        for side in Side
    }
    checked = []

    async def bench(ctx):
        ctx.set(dut.neighbours, bits(neighbours))
        for number in range(count):
            map = BorderMap.random(rng, config)
            around = Surroundings(map, config, rng)
            expected = {side: frames(around.sent(side), config) for side in neighbours}
            total = sum(len(words) for one in expected.values() for words, _ in one)
            stalls = [Stalls((seed, number, what)) if seed else never for what in ("pixels", "grants")]
            maker = Maker(dut, around, neighbours, *stalls, rng)
            ctx.set(dut.map, map.descriptor)
            ctx.set(dut.start, 1)
            (idle,) = await maker.cycle(ctx, dut.idle)
            assert idle
            ctx.set(dut.start, 0)
            late = 0  # cycles in which it could have been idle
            while True:
                made = maker.made
                (idle,) = await maker.cycle(ctx, dut.idle)
                taken = sum(len(sink.words) for sink in sinks.values())  # in the cycles before
                if idle:
                    assert taken == total, "idle before the last word has been taken"
                    assert made == map.pixels, "idle before the last pixel has been made"
                    break
                late += taken == total and made == map.pixels
                # Pixels without words are passed one per cycle.
                assert late <= map.pixels + 2
            assert maker.done
            for side in Side:
                assert sinks[side].frames == expected.get(side, [])
                checked.extend((side, *frame) for frame in sinks[side].frames)
                sinks[side].frames.clear()
            for _ in range(rng.randint(0, 3)):
                (idle,) = await maker.cycle(ctx, dut.idle)
                assert idle

    simulate(dut, bench, background=[sink.run for sink in sinks.values()], limit=60_000)
    return checked


@pytest.mark.parametrize("config", CHIPS, ids=chip_name)
@pytest.mark.parametrize("neighbours", NEIGHBOURS, ids=lambda sides: f"{bits(sides):04b}")
def test_every_neighbour_gets_the_edge_beside_it(config, neighbours):
    seed = bits(neighbours) % 4  # 0: nothing ever waits
    checked = export_maps(config, neighbours, seed, 3)
    assert {side for side, _, _ in checked} == neighbours
    assert all(words for _, words, _ in checked)


@pytest.mark.parametrize("config", CHIPS, ids=chip_name)
@pytest.mark.parametrize("seed", range(1, 4))
def test_edges_of_many_maps_at_any_pace(config, seed):
    checked = export_maps(config, set(Side), seed, 12)
    assert len(checked) >= 4 * 12
    if config is CHIPS[2]:
        assert any(not last for _, _, last in checked), "a map of more than one frame"
    assert max(len(words) for _, words, _ in checked) <= frame_words(config)
