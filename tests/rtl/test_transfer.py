"""Load and store units against the map itself: raster order, padding, any place in the mesh, stalls."""

import random

import numpy as np
import pytest

from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.rtl.axes import MapWalker
from hyperdrive_hdl.rtl.layouts import FENCE_BITS, TRANSFER_DESCRIPTOR
from hyperdrive_hdl.rtl.transfer import LoadUnit, MemoryPort, StoreUnit
from tests.support.streams import Stalls, get, put, simulate, trace

MODULUS = 1 << FENCE_BITS  # of instruction counts


def chip(rows, cols, banks=4, depth=256, **changes) -> ChipConfig:
    return ChipConfig(
        lanes=2, tile_rows=rows, tile_cols=cols, fmm_banks=banks, fmm_bank_depth=depth, wbuf_depth=18
    ).replace(**changes)


class Map:
    """A random map on a mesh, one chip of it, and what that chip has to do, pixel by pixel."""

    def __init__(self, rng: random.Random, config: ChipConfig, mesh=None):
        self.row, self.col = mesh or (rng.randint(0, 2), rng.randint(0, 2))
        self.channels = rng.randint(1, 4)
        self.tile_h, self.tile_w = rng.randint(1, 3), rng.randint(1, 3)
        self.height = rng.randint(1, 3 * config.tile_rows * self.tile_h)
        self.width = rng.randint(1, 3 * config.tile_cols * self.tile_w)
        self.base = rng.randint(0, 50)
        self.exports, self.slot = rng.getrandbits(1), rng.getrandbits(1)
        # (tile row, tile column, address, inside the map) in raster order of the chip's area.
        self.places = []
        for y in range(config.tile_rows * self.tile_h):
            for x in range(config.tile_cols * self.tile_w):
                map_y = self.row * config.tile_rows * self.tile_h + y
                map_x = self.col * config.tile_cols * self.tile_w + x
                true = map_y < self.height and map_x < self.width
                local = (y % self.tile_h) * self.tile_w + x % self.tile_w
                for c in range(self.channels):
                    self.places.append(
                        (y // self.tile_h, x // self.tile_w, self.base + local * self.channels + c, true)
                    )

    @property
    def descriptor(self) -> dict[str, int]:
        return {
            "base": self.base,
            "channels": self.channels,
            "tile_h": self.tile_h,
            "tile_w": self.tile_w,
            "row_stride": self.tile_w * self.channels,
            "full_rows": self.height // self.tile_h,
            "full_cols": self.width // self.tile_w,
            "rest_rows": self.height % self.tile_h,
            "rest_cols": self.width % self.tile_w,
            "exports": self.exports,
            "export_slot": self.slot,
        }

    @property
    def true_places(self):
        return [place for place in self.places if place[3]]


CHIPS = [chip(1, 1), chip(2, 3, format="q2.9"), chip(3, 1, format="fp8_e4m3")]


@pytest.mark.parametrize("config", CHIPS, ids=lambda c: f"{c.tile_rows}x{c.tile_cols}")
@pytest.mark.parametrize("skip_padding", [False, True])
def test_walk(config, skip_padding):
    """Word by word, or padding pixel by pixel; the walker waits wherever it is."""
    rng = random.Random(f"{config} {skip_padding}")
    walked = skipped = 0
    for _ in range(20):
        map = Map(rng, config)
        dut = MapWalker(config=config)
        # A pixel outside the map is one step where padding is skipped.
        places = [
            place
            for i, place in enumerate(map.places)
            if place[3] or not skip_padding or i % map.channels == 0
        ]
        seen = []

        async def bench(ctx, map=map, dut=dut, places=places, seen=seen):
            ctx.set(dut.descriptor, map.descriptor)
            ctx.set(dut.mesh_row, map.row)
            ctx.set(dut.mesh_col, map.col)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            for number in range(len(places)):
                while rng.random() < 0.2:
                    await ctx.tick()
                true = ctx.get(dut.true)
                seen.append((ctx.get(dut.row), ctx.get(dut.col), ctx.get(dut.address), bool(true)))
                ctx.set(dut.skip, skip_padding and not true)
                ctx.set(dut.advance, 1)
                assert ctx.get(dut.last_word) == (number == len(places) - 1)
                await ctx.tick()
                ctx.set(dut.advance, 0)
                ctx.set(dut.skip, 0)

        simulate(dut, bench)
        assert seen == places
        walked += len(places)
        skipped += sum(not place[3] for place in places)
    assert walked > 50
    assert skipped > 5


@pytest.mark.parametrize("config", CHIPS, ids=lambda c: f"{c.tile_rows}x{c.tile_cols}")
@pytest.mark.parametrize("seed", range(3))
def test_load(config, seed):
    """Several maps one after the other; the stream and the memory stall at random.

    One whose border is exchanged begins only while its slot is free; the border learns of its pixels.
    """
    rng = random.Random(f"{config} {seed}")
    mesh = (seed % 3, (seed + 1) % 3)
    maps = [Map(rng, config, mesh) for _ in range(20)]
    most = (1 << config.word_width) - 1
    words = [[rng.randint(1, most) for _ in map.true_places] for map in maps]
    assert sum(map(len, words)) > 0
    dut = LoadUnit(config=config)
    expected = []
    for map_, stream in zip(maps, words, strict=True):
        source = iter(stream)
        expected += [(*place[:3], next(source) if place[3] else 0) for place in map_.places]
    written = []
    pixels = [0]  # of all tiles, of the map in progress
    whole = []  # of each map
    closed = [0]  # cycles that a load waited for its slot
    grants = Stalls((seed, "grant")) if seed else lambda: False
    occupied = Stalls((seed, "slots")) if seed else lambda: False

    async def borders(ctx):
        while len(whole) < len(maps):
            free = not occupied()
            ctx.set(dut.slot_free, free)
            *_, begun, done, exports, pending = await ctx.tick().sample(
                dut.begun, dut.pixel_done, dut.transfers.p.exports, dut.transfers.valid & ~dut.active
            )
            assert not (begun and exports and not free)
            closed[0] += bool(pending and exports and not free)
            pixels[0] += done
            here = maps[len(whole)]
            if pixels[0] == here.tile_h * here.tile_w:
                whole.append(len(written))
                pixels[0] = 0

    async def descriptors(ctx):
        ctx.set(dut.mesh_row, mesh[0])
        ctx.set(dut.mesh_col, mesh[1])
        await put(ctx, dut.transfers, [map_.descriptor for map_ in maps], Stalls((seed, "descriptors")))

    async def stream(ctx):
        flat = [word for one in words for word in one]
        await put(ctx, dut.fm_in, flat, Stalls((seed, "words")) if seed else lambda: False)

    async def memory(ctx):
        while len(written) < len(expected):
            granted = not grants()
            ctx.set(dut.grant, granted)
            *_, request, address, row, col, word, active = await ctx.tick().sample(
                dut.request, dut.address, dut.row, dut.col, dut.word, dut.active
            )
            if request:
                assert active
            if request and granted:
                written.append((row, col, address, word))
        ctx.set(dut.grant, 1)
        for _ in range(8):
            assert not ctx.get(dut.request)
            await ctx.tick()
        assert not ctx.get(dut.active)
        assert ctx.get(dut.done) == len(maps)

    simulate(dut, descriptors, stream, memory, borders, limit=60_000)
    assert written == expected
    ends = np.cumsum([len(map_.places) for map_ in maps])
    assert all(abs(found - end) <= 1 for found, end in zip(whole, ends, strict=True)), "at the last word"
    assert closed[0] > 0 or not seed
    assert any(not place[3] for map_ in maps for place in map_.places), "some padding"


@pytest.mark.parametrize("config", CHIPS, ids=lambda c: f"{c.tile_rows}x{c.tile_cols}")
@pytest.mark.parametrize("seed", range(3))
def test_store(config, seed):
    """Words are read only when granted, are there in the next cycle alone, and leave in order."""
    rng = random.Random(f"{config} {seed}")
    mesh = (seed % 3, (seed + 1) % 3)
    maps = [Map(rng, config, mesh) for _ in range(20)]
    width = config.word_width
    contents = np.random.default_rng(seed).integers(0, 1 << width, (config.tile_rows, config.tile_cols, 256))
    expected = [int(contents[place[:3]]) for map_ in maps for place in map_.true_places]
    assert len(expected) > 0
    dut = StoreUnit(config=config)
    found = []
    grants = Stalls((seed, "grant")) if seed else lambda: False
    over = False

    async def descriptors(ctx):
        ctx.set(dut.mesh_row, mesh[0])
        ctx.set(dut.mesh_col, mesh[1])
        await put(ctx, dut.transfers, [map_.descriptor for map_ in maps])
        assert ctx.get(dut.done) == len(maps)
        nonlocal over
        over = True

    async def take(ctx):
        for _ in expected:
            found.extend(await get(ctx, dut.fm_out, 1, Stalls((seed, "words")) if seed else lambda: False))

    async def memory(ctx):
        while not over:
            granted = not grants()
            ctx.set(dut.grant, granted)
            *_, request, address = await ctx.tick().sample(dut.request, dut.address)
            for i in range(config.tile_rows):
                for j in range(config.tile_cols):
                    word = (
                        int(contents[i, j, address % 256]) if request and granted else rng.getrandbits(width)
                    )
                    ctx.set(dut.read_data[i][j], word)
        for _ in range(8):
            assert not ctx.get(dut.fm_out.valid)
            assert not ctx.get(dut.active)
            await ctx.tick()

    simulate(dut, descriptors, take, memory, limit=40_000)
    assert found == expected


@pytest.mark.parametrize("kind", [LoadUnit, StoreUnit])
def test_a_transfer_starts_when_both_fences_have_passed(kind):
    """Also where the counts have gone round; one less is not enough."""
    config = CHIPS[0]
    descriptor = Map(random.Random(1), config, (0, 0)).descriptor
    inputs, expected = [], []
    active = 0
    for need_convs, need_transfers in ((0, 0), (3, 250), (255, 1), (0, 128)):
        dut = kind(config=config)
        inputs, expected = [], []
        active = 0
        descriptor |= {"need_convs": need_convs, "need_transfers": need_transfers, "exports": 0}
        for convs, transfers in ((-1, -1), (-1, 0), (0, -1), (-100, 100), (0, 0), (0, 0), (-1, -1)):
            inputs.append(
                {
                    "transfers.valid": 1,
                    "transfers.payload": descriptor,
                    "convs_done": (need_convs + convs) % MODULUS,
                    "transfers_done": (need_transfers + transfers) % MODULUS,
                }
            )
            expected.append(active)
            active |= convs >= 0 and transfers >= 0
        seen = trace(dut, inputs, ["active", "request"])
        assert [s["active"] for s in seen] == [int(a) for a in expected] == [0, 0, 0, 0, 0, 1, 1]
        if kind is LoadUnit:
            assert not any(s["request"] for s in seen), "no word has come"


def test_words_of_a_granted_load_flow_one_per_cycle():
    config = chip(2, 2)
    map = Map(random.Random(4), config, (0, 0))
    count = len(map.places)
    dut = LoadUnit(config=config)
    inputs = [
        {
            "transfers.valid": 1,
            "transfers.payload": map.descriptor,
            "fm_in.valid": 1,
            "grant": 1,
            "slot_free": 1,
        }
    ] * (count + 1)
    seen = trace(dut, inputs, ["request", "transfers.ready"])
    assert [s["request"] for s in seen] == [0] + [1] * count
    assert [s["transfers.ready"] for s in seen] == [0] * count + [1]
    assert count > 4


def test_a_restart_clears_the_count():
    config = CHIPS[0]
    descriptor = {"channels": 1, "tile_h": 1, "tile_w": 1, "row_stride": 1, "full_rows": 1, "full_cols": 1}
    seen = trace(
        LoadUnit(config=config),
        [{"transfers.valid": 1, "transfers.payload": descriptor, "fm_in.valid": 1, "grant": 1}] * 6
        + [{"transfers.valid": 0}, {"restart": 1}, {"restart": 0}],
        ["done"],
    )
    assert [s["done"] for s in seen][-3:] == [3, 3, 0]


@pytest.mark.parametrize(("banks", "depth"), [(4, 16), (3, 64)])
def test_memory_port_priorities(banks, depth):
    """The epilogue, else the border, a store, a load, which keep off the bank that the MAC reads."""
    config = chip(2, 3, banks, depth, link_width=4)
    rng = random.Random(banks)
    words = banks * depth
    inputs, expected = [], []
    winners = dict.fromkeys(("read", "write", "border", "store", "load", None), 0)
    blocked = {"border": 0, "store": 0, "load": 0, "load_after_blocked_store": 0}
    for _ in range(1500):
        read = rng.random() < 0.15
        write = not read and rng.random() < 0.15
        values = {
            "mac_enable": rng.random() < 0.7,
            "mac_address": rng.randrange(words),
            "read": read,
            "write": write,
            "epilogue_address": rng.randrange(words),
            "border_request": rng.random() < 0.2,
            "border_address": rng.randrange(words),
            "load_request": rng.random() < 0.6,
            "load_address": rng.randrange(words),
            "load_row": rng.randrange(2),
            "load_col": rng.randrange(3),
            "store_request": rng.random() < 0.5,
            "store_address": rng.randrange(words),
        }
        inputs.append(values)
        mac_bank = values["mac_address"] // depth if values["mac_enable"] else None
        clash = {name: values[f"{name}_address"] // depth == mac_bank for name in ("border", "store", "load")}
        winner = None
        if read or write:
            winner = "read" if read else "write"
        elif values["border_request"] and not clash["border"]:
            winner = "border"
        elif values["store_request"] and not clash["store"]:
            winner = "store"
        elif values["load_request"] and not clash["load"]:
            winner = "load"
        winners[winner] += 1
        for name in ("border", "store", "load"):
            blocked[name] += bool(values[f"{name}_request"] and clash[name] and not (read or write))
        blocked["load_after_blocked_store"] += winner == "load" and bool(values["store_request"])
        expected.append(winner)
    outputs = ["enable", "is_write", "address", "rows", "cols", "from_load", "load_grant", "store_grant"]
    outputs.append("border_grant")
    seen = trace(MemoryPort(config=config), inputs, outputs)
    for values, winner, found in zip(inputs, expected, seen, strict=True):
        assert found["enable"] == (winner is not None)
        for name in ("load", "store", "border"):
            assert (found[f"{name}_grant"] and values[f"{name}_request"]) == (winner == name)
        if winner is None:
            continue
        source = "epilogue" if winner in ("read", "write") else winner
        assert found["address"] == values[f"{source}_address"]
        assert found["is_write"] == (winner in ("write", "load"))
        assert found["from_load"] == (winner == "load")
        if winner == "write":
            assert (found["rows"], found["cols"]) == (3, 7)
        elif winner == "load":
            assert (found["rows"], found["cols"]) == (1 << values["load_row"], 1 << values["load_col"])
    assert min(winners.values()) > 50, winners
    assert min(blocked.values()) > 20, blocked


def test_the_descriptor_has_every_field_of_a_transfer():
    names = {name for name, _ in TRANSFER_DESCRIPTOR if not name.startswith("spare")}
    assert names == {*Map(random.Random(0), CHIPS[0]).descriptor, "need_convs", "need_transfers"}
