"""Borders between the chips of a mesh: links, border slots, credits (paper section IV-B)."""

from amaranth.hdl import Array, Cat, Module, Mux, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from ..config import ChipConfig
from ..framing import FrameKind
from ..isa import LinkFault, Side
from ..latencies import RING_READ
from .border_slot import BorderSlot, frame_sources, tiles_along
from .hierarchy import instantiate
from .layouts import ADDRESS_BITS, CONV_DESCRIPTOR, BorderMapLayout, RingLayout, words
from .link import LinkSignature, Receiver, Transmitter

SLOTS = 2


class PortSignature(wiring.Signature):
    """A link in both directions, from the chip's side."""

    def __init__(self, config: ChipConfig):
        super().__init__({"tx": Out(LinkSignature(config)), "rx": In(LinkSignature(config))})


class Border(wiring.Component):
    """Exchanges the borders of maps with the neighbours, and gives the array the pixels round the chip.

    Two slots take turns: one's border is read while the other's comes in. What is sent into a neighbour's
    slot waits for its credit: each chip tells how many maps each of its slots has been opened for, and the
    words of a map leave only when both count the same. So no word of a later map meets one that is still to
    be read, whatever chip is ahead, and waiting cannot go round in a circle, since a slot's opening depends
    on nothing that comes after it. What has been sent never waits: the receiver takes a word per cycle.

    Parameters
    ----------
    config : the chip

    Members
    -------
    north, east, south, west : links
    neighbours : bit per ``Side``, constant; rims without one read zero
    mesh_row, mesh_col : the chip's position
    layer : descriptor of the layer that begins next; ``ready``: its slots are free or complete
    layer_begun, layer_done, layer_pixel : it begins, it is complete, a pixel of all tiles is in memory
    load, load_begun, load_pixel : map to be loaded, likewise
    slots_free : bit per slot
    busy : a border is in use
    request, grant, address, read_data : feature-map memory
    read, ring, up, down, left, right : a tap, see ``Issue``, stage 1
    north_ring, south_ring, west_ring, east_ring : for ``DataDistribution``, in the next cycle
    fault, side : ``isa.LinkFault`` of the first link that failed, kept until reset
    border_words, link_beats : see ``ActivitySignature``
    """

    def __init__(self, *, config: ChipConfig):
        self._config = config
        word = Out(config.word_width)
        super().__init__(
            {
                **{side.name.lower(): Out(PortSignature(config)) for side in Side},
                "neighbours": In(4),
                "mesh_row": In(8),
                "mesh_col": In(8),
                "layer": In(CONV_DESCRIPTOR),
                "layer_begun": In(1),
                "layer_done": In(1),
                "layer_pixel": In(1),
                "ready": Out(1),
                "load": In(BorderMapLayout()),
                "load_exports": In(1),
                "load_slot": In(1),
                "load_begun": In(1),
                "load_pixel": In(1),
                "slots_free": Out(SLOTS),
                "busy": Out(1),
                "request": Out(1),
                "grant": In(1),
                "address": Out(ADDRESS_BITS),
                "read_data": words(config),
                "read": In(1),
                "ring": In(RingLayout(config)),
                "up": In(1),
                "down": In(1),
                "left": In(1),
                "right": In(1),
                "north_ring": word.array(config.tile_cols + 2),
                "south_ring": word.array(config.tile_cols + 2),
                "west_ring": word.array(config.tile_rows),
                "east_ring": word.array(config.tile_rows),
                "fault": Out(3),
                "side": Out(2),
                "border_words": Out(3),
                "link_beats": Out(3),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from a tap to its ring."""
        return RING_READ

    def elaborate(self, platform) -> Module:
        m = Module()
        slots = [
            instantiate(m, platform, f"slot{index}", BorderSlot, config=self._config)
            for index in range(SLOTS)
        ]
        opened = self._lives(m, slots)
        self._memory(m, slots)
        self._links(m, platform, slots, opened)
        self._ring(m, slots)
        return m

    def _lives(self, m: Module, slots) -> list[Signal]:
        """From an instruction's begin to the end of the map's last reader; counts of maps, modulo 4."""
        layer = self.layer
        made = Signal(BorderMapLayout())
        m.d.comb += [
            made.base.eq(layer.out_base),
            made.channels.eq(layer.out_channels),
            made.tile_h.eq(layer.tile_h),
            made.tile_w.eq(layer.tile_w),
            made.groups.eq(layer.groups),
            made.blocks.eq(layer.out_blocks),
            made.lanes.eq(self._config.lanes),
            made.last_lanes.eq(layer.last_lanes),
            made.full_rows.eq(layer.full_rows),
            made.full_cols.eq(layer.full_cols),
            made.rest_rows.eq(layer.rest_rows),
            made.rest_cols.eq(layer.rest_cols),
        ]
        free, complete = self.slots_free, Cat(slot.complete for slot in slots)
        m.d.comb += [
            free.eq(Cat(~slot.active for slot in slots)),
            self.busy.eq(~free.all()),
            self.ready.eq(
                (~layer.exports | free.bit_select(layer.export_slot, 1))
                & (~layer.imports | complete.bit_select(layer.import_slot, 1))
            ),
        ]

        # Of the layer, and the load, in progress.
        layer_slots = Signal(SLOTS)  # one at most
        layer_releases = Signal(SLOTS)
        load_slots = Signal(SLOTS)
        opened = [Signal(2, name=f"opened{index}") for index in range(SLOTS)]
        layer_opens = Signal(SLOTS)
        load_opens = Signal(SLOTS)
        m.d.comb += [
            layer_opens.eq((self.layer_begun & layer.exports) << layer.export_slot),
            load_opens.eq((self.load_begun & self.load_exports) << self.load_slot),
        ]
        with m.If(self.layer_begun):
            m.d.sync += [
                layer_slots.eq(layer_opens),
                layer_releases.eq((layer.imports & layer.releases) << layer.import_slot),
            ]
        with m.If(self.load_begun):
            m.d.sync += load_slots.eq(load_opens)
        for index, slot in enumerate(slots):
            m.d.comb += [
                slot.neighbours.eq(self.neighbours),
                slot.mesh_row.eq(self.mesh_row),
                slot.mesh_col.eq(self.mesh_col),
                slot.start.eq(layer_opens[index] | load_opens[index]),
                slot.map.eq(Mux(layer_opens[index], made, self.load)),
                slot.pixel_done.eq(
                    (layer_slots[index] & self.layer_pixel) | (load_slots[index] & self.load_pixel)
                ),
                slot.release.eq(layer_releases[index] & self.layer_done),
            ]
            m.d.sync += opened[index].eq(opened[index] + slot.start)
        return opened

    def _memory(self, m: Module, slots) -> None:
        """The slots' reads of the feature-map memory, the first slot first."""
        first, second = slots
        m.d.comb += [
            self.request.eq(first.request | second.request),
            self.address.eq(Mux(first.request, first.address, second.address)),
            first.grant.eq(self.grant),
            second.grant.eq(self.grant & ~first.request),
        ]
        for slot in slots:
            for i in range(self._config.tile_rows):
                m.d.comb += [
                    slot.read_data[i][j].eq(self.read_data[i][j]) for j in range(self._config.tile_cols)
                ]

    def _links(self, m: Module, platform, slots, opened) -> None:
        # An epoch that a reset does not reset: the neighbours see that it has changed. The first frame may
        # leave before the register has changed.
        epoch = Signal(4, reset_less=True)
        fresh = Signal(init=1)
        m.d.sync += fresh.eq(0)
        with m.If(fresh & ~ResetSignal(allow_reset_less=True)):  # once, however long the reset
            m.d.sync += epoch.eq(epoch + 1)

        faults, beats = [], []
        for side in Side:
            name = side.name.lower()
            sources = [
                (kind, index, getattr(slot, member))
                for kind, member in frame_sources(side)
                for index, slot in enumerate(slots)
            ]
            transmitter = instantiate(
                m,
                platform,
                f"{name}_transmitter",
                Transmitter,
                config=self._config,
                kinds=tuple(kind for kind, _, _ in sources),
                slots=tuple(index for _, index, _ in sources),
            )
            receiver = instantiate(m, platform, f"{name}_receiver", Receiver, config=self._config)
            port = getattr(self, name)
            connect(m, transmitter.link, wiring.flipped(port.tx))
            connect(m, wiring.flipped(port.rx), receiver.link)
            credit = Signal(SLOTS, name=f"{name}_credit")
            there = Array(receiver.control[2 * index : 2 * index + 2] for index in range(SLOTS))
            m.d.comb += [
                transmitter.enable.eq(receiver.up & receiver.hearing & (self.fault == LinkFault.NONE)),
                transmitter.control.eq(Cat(*opened, (epoch + fresh)[:4])),
                transmitter.hearing.eq(receiver.up),
                *[credit[index].eq(there[index] == opened[index]) for index in range(SLOTS)],
                transmitter.go.eq(Cat(credit[index] for _, index, _ in sources)),
            ]
            for number, (_, _, frame) in enumerate(sources):
                connect(m, frame, transmitter.frames[number])
            self._receive(m, name, receiver, slots)

            fault = Signal(LinkFault, name=f"{name}_fault")
            misfit = Cat(slot.error[side] for slot in slots).any()
            m.d.comb += fault.eq(
                Mux(
                    ~self.neighbours[side],
                    LinkFault.NONE,
                    Mux(receiver.fault != LinkFault.NONE, receiver.fault, Mux(misfit, LinkFault.PROTOCOL, 0)),
                )
            )
            faults.append(fault)
            beats.append(transmitter.border_beat)
        with m.If(self.fault == LinkFault.NONE):
            for side, fault in reversed(list(zip(Side, faults, strict=True))):
                with m.If(fault != LinkFault.NONE):
                    m.d.sync += [self.fault.eq(fault), self.side.eq(side)]
        m.d.comb += [
            self.link_beats.eq(sum(beats, start=0)),
            self.border_words.eq(slots[0].true_words + slots[1].true_words),
        ]

    def _receive(self, m: Module, name: str, receiver, slots) -> None:
        """Hand what arrives to its slot."""
        kinds = {
            FrameKind.EDGE: ("edge", "edge_good"),
            FrameKind.NORTH_CORNERS: ("north_corner", "north_good"),
            FrameKind.SOUTH_CORNERS: ("south_corner", "south_good"),
        }
        for index, slot in enumerate(slots):
            received = getattr(slot, f"from_{name}")
            m.d.comb += [received.word.eq(receiver.word), received.last.eq(receiver.last)]
            for kind, (word, good) in kinds.items():
                here = (receiver.kind == kind) & (receiver.slot == index)
                m.d.comb += [
                    getattr(received, word).eq(receiver.word_valid & here),
                    getattr(received, good).eq(receiver.frame_good & here),
                ]

    def _ring(self, m: Module, slots) -> None:
        """The ring of pixels round the chip: of the slot that the layer reads, zero where the mesh ends."""
        ring = self.ring
        valid = Signal()
        slot_read = Signal()
        m.d.sync += [valid.eq(ring.valid), slot_read.eq(ring.slot)]
        for index, slot in enumerate(slots):
            here = self.read & ring.valid & (ring.slot == index)
            m.d.comb += [
                getattr(slot, way).eq(getattr(self, way) & here) for way in ("up", "down", "left", "right")
            ]
            m.d.comb += [getattr(slot, name).eq(getattr(ring, name)) for name in ("row", "col", "corner")]

        there = {side: valid & self.neighbours[side] for side in Side}

        def word(name: str, exists, index: int | None = None):
            choice = [getattr(slot, name) if index is None else getattr(slot, name)[index] for slot in slots]
            return Mux(exists, Mux(slot_read, choice[1], choice[0]), 0)

        for side in (Side.NORTH, Side.SOUTH):
            name, last = side.name.lower(), self._config.tile_cols + 1
            target = getattr(self, f"{name}_ring")
            m.d.comb += [
                target[0].eq(word("west_corner", there[side] & there[Side.WEST])),
                target[last].eq(word("east_corner", there[side] & there[Side.EAST])),
            ]
            for j in range(tiles_along(side, self._config)):
                m.d.comb += target[j + 1].eq(word(f"{name}_words", there[side], j))
        for side in (Side.EAST, Side.WEST):
            name = side.name.lower()
            target = getattr(self, f"{name}_ring")
            for i in range(tiles_along(side, self._config)):
                m.d.comb += target[i].eq(word(f"{name}_words", there[side], i))
