"""Two chips side by side exchange borders of maps without end: what a layer reads is the other's word.

Credits and slots are a protocol between two chips that run at any pace to each other, each with two maps
under way; how they may meet is more than benches reach. Here each chip opens and releases its slots whenever
the contract allows, in any order, whatever the other does: that is more than the compiler's programs do. A
map is one pixel of one channel, its word tells chip, slot and number, so that any word in the wrong place
shows. Quick links, of one beat per frame, replace the real ones, which have proofs of their own
(test_link.py). With one slot the proof is unbounded; with two it covers a number of cycles, and
tests/rtl/test_border.py runs on from there.
"""

import pytest
from amaranth.hdl import Array, Assert, Cat, Const, Cover, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hyperdrive_hdl import framing
from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.framing import FrameKind
from hyperdrive_hdl.isa import LinkFault, Side
from hyperdrive_hdl.rtl.border import SLOTS, Border
from hyperdrive_hdl.rtl.border_import import EdgeImport
from hyperdrive_hdl.rtl.link import Receiver, Transmitter
from tests.support.formal import Substitutes, mutant, prove

CONFIG = ChipConfig(
    lanes=1,
    tile_rows=1,
    tile_cols=1,
    fmm_banks=2,
    fmm_bank_depth=2,
    wbuf_depth=2,
    format="q7.8",
    link_width=16,
    border_depth=2,
)
BEGINS = ("load", "load_slot", "layer", "import_slot", "releases")
STEPS = ("load_pixel", "layer_done", "looks")
BEAT = data.StructLayout({"content": 8, "last": 1, "slot": 1, "kind": 2})


def members(kind: type, **parameters) -> dict:
    """Of a component that is not made."""
    component = kind.__new__(kind)
    component._MustUse__used = True  # Amaranth warns of components that nothing uses
    component.__init__(**parameters)
    return dict(component.signature.members)


class QuickTransmitter(wiring.Component):
    """A transmitter for frames of one word of 8 bits, which sends each in one beat, two cycles later."""

    def __init__(self, *, config: ChipConfig, kinds: tuple, slots: tuple):
        self._kinds = kinds
        self._slots = slots
        super().__init__(members(Transmitter, config=config, kinds=kinds, slots=slots))

    def elaborate(self, platform):
        m = Module()
        told = Signal(9)
        ever = Signal()
        control = Cat(self.control, self.hearing)
        beat = Signal(BEAT)
        source = Signal(range(len(self._kinds)))
        sending = Signal()
        m.d.sync += [sending.eq(0), self.link.valid.eq(0)]
        with m.If(sending):
            frame = Array(frame.word for frame in self.frames)[source]
            m.d.comb += Cat(frame.pop for frame in self.frames).eq(1 << source)
            m.d.comb += beat.content.eq(frame)
            m.d.comb += [
                beat.kind.eq(Array(self._kinds)[source]),
                beat.slot.eq(Array(self._slots)[source]),
                beat.last.eq(Array(frame.last for frame in self.frames)[source]),
            ]
            m.d.sync += [self.link.valid.eq(1), self.link.data.eq(beat)]
        with m.Elif(~ever | (told != control)):
            m.d.comb += [beat.content.eq(self.control), beat.last.eq(self.hearing)]
            m.d.sync += [ever.eq(1), told.eq(control), self.link.valid.eq(1), self.link.data.eq(beat)]
        for index, frame in enumerate(self.frames):
            with m.Elif(self.enable & self.go[index] & frame.pending):
                m.d.sync += [sending.eq(1), source.eq(index)]
        return m


class QuickReceiver(wiring.Component):
    """The receiver for these: a word, and in the next cycle its frame's end."""

    def __init__(self, *, config: ChipConfig):
        super().__init__(members(Receiver, config=config))

    def elaborate(self, platform):
        m = Module()
        beat = data.View(BEAT, self.link.data[: BEAT.size])
        control = beat.kind == FrameKind.CONTROL
        m.d.sync += [
            self.word_valid.eq(self.link.valid & ~control & self.up),
            self.frame_good.eq(self.word_valid),
        ]
        with m.If(self.link.valid & control):
            m.d.sync += [self.up.eq(1), self.control.eq(beat.content), self.hearing.eq(beat.last)]
        with m.If(self.link.valid & ~control):
            m.d.sync += [
                self.word.eq(beat.content),
                self.kind.eq(beat.kind),
                self.slot.eq(beat.slot),
                self.last.eq(beat.last),
            ]
        return m


@pytest.fixture(autouse=True)
def frames_of_one_word(monkeypatch):
    monkeypatch.setattr(framing, "FRAME_WORD_BITS", 16)


def watched(kind: type) -> type:
    """A border that also shows which slots are complete."""

    class Watched(kind):
        def __init__(self, *, config: ChipConfig):
            super().__init__(config=config)
            self.complete = Signal(SLOTS)

        def _lives(self, m, slots):
            m.d.comb += self.complete.eq(Cat(slot.complete for slot in slots))
            return super()._lives(m, slots)

    return Watched


class Chip(wiring.Component):
    """A border and a chip round it, which does what the contract allows whenever it is told to.

    Parameters
    ----------
    border : the class
    number : of the chip
    facing : where the other chip is

    Members
    -------
    load, load_slot : to make a map; the memory grants its word at once
    layer, import_slot, releases : to begin a layer that reads a slot
    load_pixel, layer_done, looks : steps of what is under way
    open, made : slots that have a map, and those whose pixel is in memory
    count : maps of each slot
    look : the border of this slot is read; ``seen``: in the next cycle
    """

    def __init__(self, *, border, number: int, facing: Side):
        self.border = watched(border)(config=CONFIG)
        self._number = number
        self._facing = facing
        super().__init__(
            {
                **{name: In(1) for name in (*BEGINS, *STEPS)},
                "open": Out(SLOTS),
                "made": Out(SLOTS),
                "count": Out(2).array(SLOTS),
                "look": Out(SLOTS),
                "seen": Out(16),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.border = border = self.border
        m.d.comb += [border.neighbours.eq(1 << self._facing), border.mesh_col.eq(self._number)]
        loading = Signal()
        loading_slot = Signal()
        in_layer = Signal()
        import_slot = Signal()
        releases = Signal()

        # What begins: a load when its slot is free, a layer when the border is ready for it, one at a time.
        load = Signal()
        layer = Signal()
        opens = Signal(SLOTS)
        m.d.comb += [
            layer.eq(self.layer & border.ready & ~in_layer),
            load.eq(self.load & border.slots_free.bit_select(self.load_slot, 1) & ~loading),
            opens.eq(load << self.load_slot),
            border.layer_begun.eq(layer),
            border.layer.imports.eq(1),
            border.layer.import_slot.eq(self.import_slot),
            border.layer.releases.eq(self.releases),
            border.load_begun.eq(load),
            border.load_exports.eq(1),
            border.load_slot.eq(self.load_slot),
            border.load.base.eq(self.load_slot),
            *[border.load[name].eq(1) for name in ("channels", "tile_h", "tile_w", "groups", "blocks")],
            *[border.load[name].eq(1) for name in ("lanes", "last_lanes")],
        ]

        # What is under way.
        load_pixel = Signal()
        layer_done = Signal()
        m.d.comb += [
            load_pixel.eq(self.load_pixel & loading),
            layer_done.eq(self.layer_done & in_layer),
            border.load_pixel.eq(load_pixel),
            border.layer_done.eq(layer_done),
        ]
        m.d.sync += [
            self.open.eq((self.open | opens) & ~((layer_done & releases) << import_slot)),
            self.made.eq((self.made | (load_pixel << loading_slot)) & ~opens),
            Assert(border.slots_free == ~self.open, "a slot in use is free, or one that is free is in use"),
        ]
        for slot in range(SLOTS):
            m.d.sync += self.count[slot].eq(self.count[slot] + opens[slot])
        with m.If(load):
            m.d.sync += [loading.eq(1), loading_slot.eq(self.load_slot)]
        with m.Elif(load_pixel):
            m.d.sync += loading.eq(0)
        with m.If(layer):
            m.d.sync += [
                in_layer.eq(1),
                import_slot.eq(self.import_slot),
                releases.eq(self.releases),
            ]
        with m.Elif(layer_done):
            m.d.sync += in_layer.eq(0)

        # The memory has the maps of the two slots at two addresses.
        word = Signal(5)
        slot = border.address[0]
        m.d.comb += [
            border.grant.eq(1),
            border.read_data[0][0].eq(word),
        ]
        m.d.sync += [
            word.eq(Mux(border.request, self.word(slot, Mux(slot, self.count[1], self.count[0])), 0)),
            Assert(~border.request | self.made.bit_select(slot, 1), "a pixel is read before it is made"),
        ]

        # A tap of the layer under way.
        look = Signal()
        east = self._facing is Side.EAST
        m.d.comb += [
            look.eq(self.looks & in_layer & ~layer_done),
            self.look.eq(look << import_slot),
            border.read.eq(look),
            border.ring.valid.eq(look),
            border.ring.slot.eq(import_slot),
            (border.right if east else border.left).eq(1),
            self.seen.eq((border.east_ring if east else border.west_ring)[0]),
        ]
        return m

    def word(self, slot, count):
        """Of a map of this chip; never 0."""
        return Cat(Const(1, 1), Const(self._number, 1), slot, count)


class Pair(wiring.Component):
    """Two chips, west and east.

    Parameters
    ----------
    border : the class
    bound : cycles from when both chips have made a map until its slot is complete
    slots : that are used
    """

    def __init__(self, *, border: type = Border, bound: int = 14, slots: int = SLOTS):
        self._border = border
        self._bound = bound
        self._slots = slots
        self._names = [*BEGINS, *STEPS]
        super().__init__({f"{side}_{name}": In(1) for side in ("west", "east") for name in self._names})

    def elaborate(self, platform):
        m = Module()
        self.chips = {}
        for number, (name, facing) in enumerate((("west", Side.EAST), ("east", Side.WEST))):
            chip = Chip(border=self._border, number=number, facing=facing)
            m.submodules[name] = self.chips[name] = chip
            for member in self._names:
                free = getattr(self, f"{name}_{member}")
                m.d.comb += getattr(chip, member).eq(free & (self._slots == SLOTS or "slot" not in member))
        west, east = self.chips.values()
        wiring.connect(m, west.border.east.tx, east.border.west.rx)
        wiring.connect(m, east.border.west.tx, west.border.east.rx)
        for chip, other in ((west, east), (east, west)):
            m.d.sync += Assert(chip.border.fault == LinkFault.NONE, "a fault out of nothing")
            for slot in range(self._slots):
                self._slot(m, chip, other, slot)
        return m

    def _slot(self, m, chip, other, slot: int) -> None:
        looked = Signal()
        count = Signal(2)
        m.d.sync += [
            looked.eq(chip.look[slot]),
            count.eq(chip.count[slot]),
            Assert(
                ~looked | (chip.seen == other.word(Const(slot, 1), count)),
                "a layer reads another word than the other chip's",
            ),
            Cover(looked & (count == 1) & ~other.open[1 - slot], f"slot {slot} is read"),
        ]
        # The other one may be ahead by a map.
        ahead = other.count[slot] == (chip.count[slot] + 1)[:2]
        both = chip.made[slot] & (ahead | (other.made[slot] & (other.count[slot] == chip.count[slot])))
        waiting = Signal(range(self._bound + 2))
        with m.If(chip.open[slot] & both & ~chip.border.complete[slot]):
            m.d.sync += waiting.eq(waiting + 1)
        with m.Else():
            m.d.sync += waiting.eq(0)
        m.d.sync += Assert(waiting <= self._bound, "a slot waits for too long")


def platform(kinds: dict[type, type] | None = None) -> Substitutes:
    """Quick links, and mutants of other classes."""
    return Substitutes({Transmitter: QuickTransmitter, Receiver: QuickReceiver} | (kinds or {}))


def test_maps_of_one_slot_for_ever(tmp_path):
    """Unbounded: any number of maps, the chips at any pace to each other."""
    prove(Pair(slots=1), engine="merge", depth=2, platform=platform(), directory=tmp_path).expect()


def test_maps_of_two_slots_for_a_while(tmp_path):
    """For all that can happen in so many cycles; a border can be read after 13.

    Among the covers: one slot is complete and read that the other chip has opened alone, too.
    """
    prove(Pair(), mode="bmc", depth=14, platform=platform(), directory=tmp_path).expect()
    prove(Pair(), mode="cover", depth=13, platform=platform(), directory=tmp_path).expect()


WRONG = [
    (Border, "there[index] == opened[index]", "1", "a fault out of"),
    (Border, "receiver.slot == index", "receiver.slot != index", "a fault out of"),
    (Border, "receiver.up & receiver.hearing &", "receiver.up & ~receiver.hearing &", "a slot waits"),
    (EdgeImport, "self.done.eq(0), ", "", "a layer reads another word"),
]


@pytest.mark.parametrize(("kind", "old", "new", "what"), WRONG)
def test_a_border_that_goes_wrong_is_noticed(kind, old, new, what, tmp_path):
    wrong = mutant(kind, (old, new))
    pair = Pair(slots=1, border=wrong) if kind is Border else Pair(slots=1)
    kinds = {} if kind is Border else {kind: wrong}
    trace = prove(pair, mode="bmc", depth=30, platform=platform(kinds), directory=tmp_path).expect_refuted()
    assert trace.end.startswith(f"Assertion violated: {what}")
