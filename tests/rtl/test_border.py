"""Borders of maps in turn, with neighbours that open their slots when they like and speak bit by bit."""

import random

import pytest
from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import wiring

from hyperdrive_hdl.framing import FrameKind
from hyperdrive_hdl.isa import LinkFault, Side
from hyperdrive_hdl.rtl.border import SLOTS, Border
from tests.support.borders import (
    BorderMap,
    Surroundings,
    bits,
    chip,
    frames,
    to_receive,
    to_send,
)
from tests.support.frames import Frame, bits_of, checksum, number
from tests.support.streams import Stalls, simulate

CHIPS = [chip(1, 2, 2, link_width=16), chip(2, 1, 3, "fp8_e4m3")]
NEIGHBOURS = [set(Side), {Side.EAST}, {Side.SOUTH, Side.WEST}, {Side.NORTH, Side.EAST, Side.WEST}]


class Neighbour:
    """The chip beside a port: opens slots, sends its frames when both count the same maps, takes ours.

    Parameters
    ----------
    dut, side, config : the border, and where this neighbour is
    rng, stalls : when it opens a slot, whether it waits with a frame
    """

    def __init__(self, dut, side: Side, config, rng: random.Random, stalls=lambda: False):
        self._port = getattr(dut, side.name.lower())
        self._config = config
        self._rng = rng
        self._stalls = stalls
        self._beats: list[int | None] = [None]
        self._run: list[int] = []  # bits of the frame that arrives
        self._sent = self._received = 0  # frames
        self._orders: list[tuple[int, int, set, dict[FrameKind, list]]] = []  # delay, slot, kinds, frames
        self._awaited: dict[int, set[FrameKind]] = {}  # by slot, whose last frame has not come
        self._here: dict[int, dict[FrameKind, list]] = {}  # by slot, of the map that it is open for
        self.opened = [0] * SLOTS
        self.theirs = [0] * SLOTS  # what the border has told
        self.epoch = 5
        self.epochs: list[int] = []  # that it has told
        self.told = 0
        self.maps: dict[tuple[int, int], dict[FrameKind, list]] = {}  # by slot and number of the map

    def expect(self, slot: int, delay: int, words: dict[FrameKind, list[int]], kinds: set) -> None:
        """Open a slot some time; these are the words that the border then gets; and kinds that it sends."""
        one = {kind: frames(words, self._config) for kind, words in words.items()}
        self._orders.append((delay, slot, kinds, one))

    def send(self, frame: Frame) -> None:
        """A frame, whatever the protocol says."""
        self._beats += [*Frame(**{**vars(frame), "sequence": self._sent % 16}).beats(self._config), None]
        self._sent += 1

    def tell(self) -> None:
        control = self.epoch << 4 | self.opened[1] % 4 << 2 | self.opened[0] % 4
        self.send(Frame(FrameKind.CONTROL, last=1, control=control))

    async def run(self, ctx) -> None:
        self.tell()
        while True:
            self._next()
            beat = self._beats.pop(0) if self._beats else None
            ctx.set(self._port.rx.valid, beat is not None)
            ctx.set(self._port.rx.data, self._rng.getrandbits(8) if beat is None else beat)
            *_, valid, data = await ctx.tick().sample(self._port.tx.valid, self._port.tx.data)
            if valid:
                self._run += bits_of(data, self._config.link_width)
            elif self._run:
                self._take(self._run)
                self._run = []

    def _next(self) -> None:
        if self._orders:
            delay, slot, kinds, one = self._orders[0]
            self._orders[0] = delay - 1, slot, kinds, one
            # A map may follow another into a slot when that has come and gone.
            over = not any(self._here.get(slot, {}).values()) and not self._awaited.get(slot)
            if delay <= 0 and over:
                self._orders.pop(0)
                self._awaited[slot] = set(kinds)
                self._here[slot] = one
                self.opened[slot] += 1
                self.tell()
        if self._beats or self._stalls():
            return
        ready = [
            (slot, kind)
            for slot, one in self._here.items()
            for kind, rest in one.items()
            if rest and self.theirs[slot] == self.opened[slot] % 4
        ]
        if ready:
            slot, kind = self._rng.choice(ready)
            words, last = self._here[slot][kind].pop(0)
            self.send(Frame(kind, slot, int(last), words=tuple(words)))

    def _take(self, run: list[int]) -> None:
        config = self._config
        assert number(run[-16:]) == checksum(run[:-16])
        kind, slot, last, length = FrameKind(number(run[:2])), run[2], run[3], number(run[8:16])
        assert number(run[4:8]) == self._received % 16
        self._received += 1
        if kind is FrameKind.CONTROL:
            self.told += 1
            self.theirs = [length & 3, length >> 2 & 3]
            self.epochs.append(length >> 4)
            return
        content = run[16:-16]
        words = [
            number(content[i : i + config.word_width]) for i in range(0, len(content), config.word_width)
        ]
        assert len(words) == length
        assert self.opened[slot] > 0, "words before the slot has been opened for any map"
        got = self.maps.setdefault((slot, self.opened[slot]), {}).setdefault(kind, [])
        assert not got or not got[-1][1], "words after a map's last: the slot is not open for them"
        got.append((words, bool(last)))
        if last:
            self._awaited[slot].remove(kind)


class Bench:
    """A border, its neighbours, and the feature-map memory."""

    def __init__(self, config, sides: set[Side], seed, dut=None):
        self.config = config
        self.sides = sides
        self.rng = random.Random(f"border {config} {sides} {seed}")
        self.dut = dut or Border(config=config)
        self.neighbours = {
            side: Neighbour(self.dut, side, config, self.rng, Stalls((seed, side))) for side in sides
        }
        self.grants = Stalls((seed, "grants"))
        self.pixels = Stalls((seed, "pixels"))
        self.maps: dict[int, Surroundings] = {}  # by slot
        self.true_words = self.link_beats = 0

    async def memory(self, ctx):
        dut, config = self.dut, self.config
        while True:
            grant = not self.grants()
            ctx.set(dut.grant, grant)
            *_, request, address, words, beats = await ctx.tick().sample(
                dut.request, dut.address, dut.border_words, dut.link_beats
            )
            self.true_words += words
            self.link_beats += beats
            for i in range(config.tile_rows):
                for j in range(config.tile_cols):
                    ctx.set(dut.read_data[i][j], self.rng.getrandbits(config.word_width))
            if request and grant:
                around = max(
                    (around for around in self.maps.values() if around.map.base <= address),
                    key=lambda around: around.map.base,
                )
                for i, row in enumerate(around.memory(address)):
                    for j, word in enumerate(row):
                        ctx.set(dut.read_data[i][j], word)

    def map(self, slot: int, late: int = 0, *, layer: bool) -> Surroundings:
        """A map for a slot; the neighbours open theirs so many cycles from now, each on its own."""
        rng, config = self.rng, self.config
        while True:
            map = BorderMap.random(rng, config)
            if map.pixels < 20 and (map.lanes == config.lanes or not layer):
                break
        map = BorderMap(**{**vars(map), "base": 600 * slot})
        self.maps[slot] = around = Surroundings(map, config, rng)
        arriving = to_receive(around, self.sides)
        for side, neighbour in self.neighbours.items():
            words = {kind: words for (of, kind), words in arriving.items() if of is side}
            kinds = {kind for (to, kind) in to_send(around, self.sides) if to is side}
            neighbour.expect(slot, rng.randint(0, late), words, kinds)
        return around

    def layer(self, makes: tuple[int, Surroundings] | None, reads: int | None) -> dict:
        """The descriptor of a layer that makes a map in a slot, and reads, and releases, another's border."""
        values: dict[str, int] = {}
        if makes:
            slot, around = makes
            descriptor = dict(around.map.descriptor)
            for theirs, ours in (
                ("base", "out_base"),
                ("channels", "out_channels"),
                ("blocks", "out_blocks"),
            ):
                values[ours] = descriptor.pop(theirs)
            del descriptor["lanes"]
            values |= {**descriptor, "exports": 1, "export_slot": slot}
        if reads is not None:
            values |= {"imports": 1, "import_slot": reads, "releases": 1}
        return values

    async def begin(self, ctx, layer=None, load=None):
        """A layer, or a load, or both in the same cycle."""
        dut = self.dut
        if layer is not None:
            ctx.set(dut.layer, layer)
            ctx.set(dut.layer_begun, 1)
        if load is not None:
            slot, around = load
            ctx.set(dut.load, around.map.descriptor)
            ctx.set(dut.load_exports, 1)
            ctx.set(dut.load_slot, slot)
            ctx.set(dut.load_begun, 1)
        await ctx.tick()
        ctx.set(dut.layer_begun, 0)
        ctx.set(dut.load_begun, 0)

    async def make(self, ctx, pulse, count: int):
        while count:
            making = not self.pixels()
            ctx.set(pulse, making)
            await ctx.tick()
            count -= making
        ctx.set(pulse, 0)

    async def look(self, ctx, slot: int, limit: int = 60) -> int:
        """Read the ring, of every kind of place something; gives the number of words that were not zero."""
        dut, rng, config, around = self.dut, self.rng, self.config, self.maps[slot]
        map = around.map
        outputs = {
            Side.NORTH: dut.north_ring,
            Side.SOUTH: dut.south_ring,
            Side.WEST: dut.west_ring,
            Side.EAST: dut.east_ring,
        }
        ends = {Side.NORTH: -1, Side.SOUTH: around.rows, Side.WEST: -1, Side.EAST: around.cols}
        ways = {Side.NORTH: dut.up, Side.SOUTH: dut.down, Side.WEST: dut.left, Side.EAST: dut.right}
        seen = 0
        for _ in range(limit):
            vertical = rng.choice((None, Side.NORTH, Side.SOUTH))
            horizontal = rng.choice((None, Side.WEST, Side.EAST))
            y, x, channel = rng.randrange(map.tile_h), rng.randrange(map.tile_w), rng.randrange(map.channels)
            valid, read = rng.random() < 0.9, rng.random() < 0.9
            ring = {
                "valid": valid,
                "slot": slot,
                "row": x * map.channels + channel,
                "col": y * map.channels + channel,
                "corner": channel,
            }
            ctx.set(dut.ring, ring)
            ctx.set(dut.read, read)
            for side, way in ways.items():
                ctx.set(way, side in (vertical, horizontal))
            await ctx.tick()
            # Beside the slot that is read there is another, of which nothing may be seen.
            ctx.set(dut.ring, ring | {"slot": 1 - slot})
            if not read and valid:
                continue

            def expected(places, *sides, valid=valid, channel=channel):
                there = valid and set(sides) <= self.sides
                return [around.word(*place, channel) if there else 0 for place in places]

            if vertical is not None:
                places = [(ends[vertical], j * map.tile_w + x) for j in range(config.tile_cols)]
                words = [ctx.get(word) for word in outputs[vertical]]
                assert words[1:-1] == expected(places, vertical)
                seen += sum(words[1:-1])
                if horizontal is not None:
                    corner = words[0] if horizontal is Side.WEST else words[-1]
                    assert [corner] == expected([(ends[vertical], ends[horizontal])], vertical, horizontal)
                    seen += corner
            if horizontal is not None:
                places = [(i * map.tile_h + y, ends[horizontal]) for i in range(config.tile_rows)]
                words = [ctx.get(word) for word in outputs[horizontal]]
                assert words == expected(places, horizontal)
                seen += sum(words)
        ctx.set(dut.read, 0)
        return seen

    async def check(self, ctx, slot: int, count: int) -> None:
        """What the neighbours got of the slot's map, the ``count``-th one."""
        await ctx.tick().repeat(100)  # the last frame is still on its way
        expected = to_send(self.maps[slot], self.sides)
        for side, neighbour in self.neighbours.items():
            assert neighbour.maps[slot, count] == {
                kind: frames(words, self.config) for (to, kind), words in expected.items() if to is side
            }

    def run(self, program, *others, limit=60_000):
        benches = [neighbour.run for neighbour in self.neighbours.values()]
        simulate(self.dut, program, *others, background=[*benches, self.memory], limit=limit)


async def until(ctx, condition, limit: int = 20_000) -> int:
    cycles = 0
    while not ctx.get(condition):
        await ctx.tick()
        cycles += 1
        assert cycles < limit
    return cycles


@pytest.mark.parametrize("sides", NEIGHBOURS, ids=lambda sides: f"{bits(sides):04b}")
@pytest.mark.parametrize(("config", "late"), list(zip(CHIPS, (0, 200), strict=True)), ids=["1x2", "2x1"])
def test_maps_take_turns(config, sides, late):
    """A map is loaded, then each layer reads one's border and makes another; the neighbours lag or lead.

    The slots count beyond their two bits. What the neighbours check: that nothing comes early.
    """
    layers = 9
    bench = Bench(config, sides, late)
    dut = bench.dut
    looked = 0

    async def program(ctx):
        nonlocal looked
        ctx.set(dut.neighbours, bits(sides))
        ctx.set(dut.mesh_row, 1)
        ctx.set(dut.mesh_col, 1)
        assert ctx.get(dut.slots_free) == 3
        around = bench.map(0, late, layer=False)
        await bench.begin(ctx, load=(0, around))
        await bench.make(ctx, dut.load_pixel, around.map.pixels)
        expected = around.true_words(sides)
        for index in range(1, layers + 1):
            reads, makes = (index - 1) % 2, index % 2
            last = index == layers
            around = None if last else bench.map(makes, late, layer=True)
            layer = bench.layer(None if last else (makes, around), reads)
            ctx.set(dut.layer, layer)
            await until(ctx, dut.ready)
            assert ctx.get(dut.slots_free) == 1 << makes
            await bench.check(ctx, reads, (index + 1) // 2)
            assert ctx.get(dut.busy)
            await bench.begin(ctx, layer=layer)
            assert not ctx.get(dut.ready) or last
            if not last:
                await bench.make(ctx, dut.layer_pixel, around.map.pixels)
                expected += around.true_words(sides)
            looked += await bench.look(ctx, reads)
            ctx.set(dut.layer_done, 1)
            await ctx.tick()
            ctx.set(dut.layer_done, 0)
            assert ctx.get(dut.slots_free) >> reads & 1
        assert ctx.get(dut.slots_free) == 3
        assert not ctx.get(dut.busy)
        assert ctx.get(dut.fault) == LinkFault.NONE
        assert bench.true_words == expected
        assert bench.link_beats > 0

    bench.run(program)
    assert looked > 0


@pytest.mark.parametrize("seed", range(2))
def test_a_load_and_a_layer_at_a_time(seed):
    """Both slots are opened in one cycle, and share memory and links."""
    config = CHIPS[seed]
    bench = Bench(config, set(Side), f"both {seed}")
    dut = bench.dut

    async def program(ctx):
        ctx.set(dut.neighbours, 15)
        ctx.set(dut.mesh_row, 1)
        ctx.set(dut.mesh_col, 1)
        for count in range(1, 4):
            loaded = bench.map(0, 300, layer=False)
            made = bench.map(1, 300, layer=True)
            loading = [1] * loaded.map.pixels + [0] * made.map.pixels
            await bench.begin(ctx, layer=bench.layer((1, made), None), load=(0, loaded))
            bench.rng.shuffle(loading)
            pixels = [loaded.map.pixels, made.map.pixels]
            while any(pixels):
                now = [left > 0 and not bench.pixels() for left in pixels]
                ctx.set(dut.load_pixel, now[0])
                ctx.set(dut.layer_pixel, now[1])
                await ctx.tick()
                pixels = [left - made for left, made in zip(pixels, now, strict=True)]
            ctx.set(dut.load_pixel, 0)
            ctx.set(dut.layer_pixel, 0)
            for slot in (0, 1):
                layer = bench.layer(None, slot)
                ctx.set(dut.layer, layer)
                await until(ctx, dut.ready)
                await bench.check(ctx, slot, count)
                await bench.begin(ctx, layer=layer)
                assert await bench.look(ctx, slot) > 0
                ctx.set(dut.layer_done, 1)
                await ctx.tick()
                ctx.set(dut.layer_done, 0)
            assert ctx.get(dut.slots_free) == 3

    bench.run(program)


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("slot", range(SLOTS))
def test_nothing_leaves_before_the_neighbour_has_opened(side, slot):
    """The slot of the same number: that the other one is open does not count; and nor does an older map."""
    config = CHIPS[0]
    bench = Bench(config, {side}, "late")
    dut, neighbour = bench.dut, bench.neighbours[side]

    async def program(ctx):
        ctx.set(dut.neighbours, bits({side}))
        for count in (1, 2):
            around = bench.map(slot, layer=False)
            order = neighbour._orders.pop()
            await bench.begin(ctx, load=(slot, around))
            await bench.make(ctx, dut.load_pixel, around.map.pixels)
            if count == 1:
                neighbour.opened[1 - slot] = 1
                neighbour.tell()
            before = bench.link_beats
            for _ in range(150):
                await ctx.tick()
                assert not ctx.get(dut.link_beats)
            assert bench.link_beats == before
            assert neighbour.theirs[slot] == count
            neighbour._orders.append(order)
            layer = bench.layer(None, slot)
            ctx.set(dut.layer, layer)
            await until(ctx, dut.ready)
            assert bench.link_beats > before
            await bench.check(ctx, slot, count)
            await bench.begin(ctx, layer=layer)
            ctx.set(dut.layer_done, 1)
            await ctx.tick()
            ctx.set(dut.layer_done, 0)

    bench.run(program)


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("slot", range(SLOTS))
def test_a_surplus_word_is_a_fault_and_the_first_fault_stays(side, slot):
    config = CHIPS[0]
    bench = Bench(config, set(Side), "surplus")
    dut = bench.dut
    other = Side((side + 1) % 4)

    async def program(ctx):
        ctx.set(dut.neighbours, 15)
        around = bench.map(slot, layer=False)
        await bench.begin(ctx, load=(slot, around))
        await bench.make(ctx, dut.load_pixel, around.map.pixels)
        ctx.set(dut.layer, bench.layer(None, slot))
        await until(ctx, dut.ready)
        assert ctx.get(dut.fault) == LinkFault.NONE
        bench.neighbours[side].send(Frame(FrameKind.EDGE, slot, 1, words=(3,)))
        await until(ctx, dut.fault != 0, 100)
        assert (ctx.get(dut.fault), ctx.get(dut.side)) == (LinkFault.PROTOCOL, side)
        # A broken frame from elsewhere comes too late.
        bench.neighbours[other].send(Frame(FrameKind.EDGE, slot, 1, words=(3,), length=9))
        for _ in range(50):
            await ctx.tick()
            assert (ctx.get(dut.fault), ctx.get(dut.side)) == (LinkFault.PROTOCOL, side)
        # And nothing is sent any more, whatever is opened.
        before = bench.link_beats
        around = bench.map(1 - slot, layer=False)
        await bench.begin(ctx, load=(1 - slot, around))
        await bench.make(ctx, dut.load_pixel, around.map.pixels)
        for _ in range(300):
            await ctx.tick()
        assert bench.link_beats == before

    bench.run(program)


@pytest.mark.parametrize("kind", [kind for kind in FrameKind if kind is not FrameKind.CONTROL])
def test_words_for_a_slot_that_is_not_in_use_are_a_fault(kind):
    config = CHIPS[0]
    bench = Bench(config, {Side.WEST}, "unused")
    dut = bench.dut

    async def program(ctx):
        ctx.set(dut.neighbours, bits({Side.WEST}))
        await ctx.tick().repeat(20)
        bench.neighbours[Side.WEST].send(Frame(kind, 1, 1, words=(3, 4)))
        await until(ctx, dut.fault != 0, 100)
        assert (ctx.get(dut.fault), ctx.get(dut.side)) == (LinkFault.PROTOCOL, Side.WEST)

    bench.run(program)


@pytest.mark.parametrize("first", [Side.NORTH, Side.EAST, Side.SOUTH])
def test_of_two_faults_at_once_the_first_side_is_told(first):
    config = CHIPS[0]
    bench = Bench(config, {first, Side.WEST}, "two")
    dut = bench.dut

    async def program(ctx):
        ctx.set(dut.neighbours, bits(bench.sides))
        await ctx.tick().repeat(20)
        for neighbour in bench.neighbours.values():
            neighbour.send(Frame(FrameKind.EDGE, words=(3,)))
        await until(ctx, dut.fault != 0, 100)
        assert (ctx.get(dut.fault), ctx.get(dut.side)) == (LinkFault.PROTOCOL, first)

    bench.run(program)


def test_what_comes_from_a_side_without_a_neighbour_does_not_count():
    config = CHIPS[0]
    bench = Bench(config, {Side.NORTH}, "nobody")
    dut = bench.dut

    async def program(ctx):
        ctx.set(dut.neighbours, 0)
        await ctx.tick().repeat(20)
        bench.neighbours[Side.NORTH].send(Frame(FrameKind.EDGE, words=(3,)))
        await ctx.tick().repeat(40)
        assert not ctx.get(dut.fault)
        ctx.set(dut.neighbours, 1)
        await ctx.tick()
        assert ctx.get(dut.fault), "it has come"

    bench.run(program)


class Resettable(wiring.Component):
    """A border with a reset of its own."""

    def __init__(self, dut):
        self._dut = dut
        self.restart = Signal()
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = ResetInserter(self.restart)(self._dut)
        return m


def test_a_reset_shows_in_the_epoch():
    bench = Bench(CHIPS[0], {Side.EAST}, "reset")
    dut, neighbour = bench.dut, bench.neighbours[Side.EAST]
    top = Resettable(dut)

    async def program(ctx):
        ctx.set(dut.neighbours, bits(bench.sides))
        for count in range(1, 4):
            await ctx.tick().repeat(60)
            assert set(neighbour.epochs) == {count}
            ctx.set(top.restart, 1)
            await ctx.tick()
            ctx.set(top.restart, 0)
            neighbour.epochs.clear()
            neighbour._received = 0

    simulate(top, program, background=[neighbour.run])
