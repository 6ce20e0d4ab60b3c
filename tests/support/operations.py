"""The sums and operations of convolutions: a plain loop nest over a tile's pixels (README: Numbers).

Written from that text, isa.py and the layouts' descriptions, apart from the RTL: nothing is counted down,
wrapped or carried along. Counters are whole numbers here; ``Packing`` takes them modulo their fields.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Shape, Signal, Value
from amaranth.lib import data

from hyperdrive_hdl import isa
from hyperdrive_hdl.arith.formats import format_by_name
from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.rtl.layouts import CONV_DESCRIPTOR, number_bits

from .streams import member, simulate


@dataclass(frozen=True)
class Place:
    """Chip in the mesh, and the height and width of the output map over the whole mesh."""

    mesh_row: int
    mesh_col: int
    height: int
    width: int


def random_conv(
    rng: random.Random,
    config: ChipConfig,
    *,
    largest: int = 4,
    mesh: tuple[int, int] | None = None,
    **changes: int,
) -> tuple[isa.Conv, Place]:
    """A layer of any shape the instruction set knows; ``mesh``: the chip's position.

    ``changes`` fix what is drawn: kernel3, stride2, relu, scale, bias, bypass, tile_h, tile_w, groups,
    in_blocks, block_channels, last_channels, out_blocks, last_lanes, interleave.
    """

    def draw(name: str, value: int) -> int:
        return changes.pop(name, value)

    kernel3, stride2 = draw("kernel3", rng.getrandbits(1)), draw("stride2", int(rng.random() < 0.4))
    stride = 2 if stride2 else 1
    tile_h, tile_w = draw("tile_h", rng.randint(1, largest)), draw("tile_w", rng.randint(1, largest))
    groups = draw("groups", rng.choice([1, 1, 2, 3]))
    in_blocks = draw("in_blocks", rng.choice([1, 1, 2, 3]))
    most_channels = max(1, min(3, config.wbuf_depth // (9 if kernel3 else 1)))
    block_channels = draw("block_channels", rng.randint(1, most_channels))
    last_channels = draw("last_channels", rng.randint(1, block_channels))
    group_channels = (in_blocks - 1) * block_channels + last_channels
    # Weight rows of as many blocks as sums go in turn may alternate, where each row is used once.
    together = config.sums_in_turn if tile_h * tile_w == in_blocks == 1 else 1
    interleave = draw("interleave", rng.randint(1, together))
    out_blocks = draw("out_blocks", rng.randint(1, 2 if together == 1 else together + 2))
    last_lanes = draw("last_lanes", rng.randint(1, config.lanes))
    steps = {name: draw(name, rng.getrandbits(1)) for name in ("relu", "scale", "bias", "bypass")}
    assert not changes, f"nothing of that name is drawn: {changes}"
    in_channels = groups * group_channels
    out_channels = groups * ((out_blocks - 1) * config.lanes + last_lanes)
    in_w, in_h = tile_w * stride, tile_h * stride
    mesh_row, mesh_col = mesh or (rng.randint(0, 2), rng.randint(0, 2))
    height = rng.randint(1, 3 * config.tile_rows * tile_h)
    width = rng.randint(1, 3 * config.tile_cols * tile_w)
    conv = isa.Conv(
        kernel3=kernel3,
        stride2=stride2,
        **steps,
        interleave=interleave,
        imports=rng.getrandbits(1),
        import_slot=rng.getrandbits(1),
        in_base=rng.randrange(1000),
        out_base=rng.randrange(1000, 2000),
        bypass_base=rng.randrange(2000, 3000),
        scratch_base=rng.randrange(3000, 4000),
        in_channels=in_channels,
        out_channels=out_channels,
        tile_h=tile_h,
        tile_w=tile_w,
        in_row_stride=in_w * in_channels,
        in_last_row=(in_h - 1) * in_w * in_channels,
        in_last_col=(in_w - 1) * in_channels,
        in_last_edge=(in_h - 1) * in_channels,
        pixels=tile_h * tile_w,
        groups=groups,
        group_channels=group_channels,
        out_blocks=out_blocks,
        last_lanes=last_lanes,
        in_blocks=in_blocks,
        block_channels=block_channels,
        last_channels=last_channels,
        full_rows=height // tile_h,
        full_cols=width // tile_w,
        rest_rows=height % tile_h,
        rest_cols=width % tile_w,
    )
    return conv, Place(mesh_row, mesh_col, height, width)


def descriptor(conv: isa.Conv, **fences: int) -> dict[str, int]:
    """What ``Fetch`` makes of an instruction."""
    return {name: getattr(conv, name) for name, _ in CONV_DESCRIPTOR if hasattr(conv, name)} | fences


@dataclass(frozen=True)
class Sum:
    """One sum: what ``SumWalker`` tells of it, and its operations in order.

    layer : index of its layer
    fields : by ``SumLayout``'s names
    operations : each by ``OperationLayout``'s names; ``finish`` only in the last one

    Fields that say nothing in a sum or operation are left out; so are, as None, elements of arrays.
    """

    layer: int
    fields: dict
    operations: list[dict]

    @property
    def number(self) -> int:
        return self.fields["number"]


def sums(layers: Iterable[tuple[isa.Conv, Place]], config: ChipConfig) -> list[Sum]:
    """The sums of some layers, one layer after the other."""
    found: list[Sum] = []
    row = block = 0
    for layer, (conv, place) in enumerate(layers):
        end = len(found) + conv.groups * conv.out_blocks * conv.in_blocks * conv.pixels
        for group in range(conv.groups):
            for first in range(0, conv.out_blocks, conv.interleave):
                together = range(first, min(first + conv.interleave, conv.out_blocks))
                for out_block in together:
                    for in_block in range(conv.in_blocks):
                        rows = conv.channels_of_block(in_block) * conv.taps
                        stride = len(together)
                        start = row + out_block - first
                        for pixel in range(conv.pixels):
                            counted = {
                                "row": start,
                                "stride": stride,
                                "block": block,
                                "frees": pixel == conv.pixels - 1 and out_block == together[-1],
                                "number": len(found),
                                "first": len(found) == 0 or found[-1].layer != layer,
                                "layer": layer,
                            }
                            at = _At(conv, place, config, group, out_block, in_block, pixel)
                            found.append(_sum(at, counted, last=len(found) + 1 == end))
                        if stride == 1:
                            row, block = row + rows, block + 1
                if len(together) > 1:
                    assert conv.pixels == conv.in_blocks == 1, "each row is used once"
                    row, block = row + rows * len(together), block + 1
    return found


@dataclass(frozen=True)
class _At:
    """A place in the loop nest."""

    conv: isa.Conv
    place: Place
    config: ChipConfig
    group: int
    out_block: int
    in_block: int
    pixel: int


def _sum(at: _At, counted: dict[str, int], *, last: bool) -> Sum:
    conv, place, config = at.conv, at.place, at.config
    parts = format_by_name(config.format).words_per_sum
    stride = conv.stride
    in_h, in_w = conv.tile_h * stride, conv.tile_w * stride
    y, x = divmod(at.pixel, conv.tile_w)
    lanes = conv.lanes_of_block(at.out_block, config.lanes)
    group_outputs = conv.out_channels // conv.groups
    word = at.pixel * conv.out_channels + at.group * group_outputs + at.out_block * config.lanes
    stored = conv.scratch_base + at.pixel * config.lanes * parts
    more = at.in_block < conv.in_blocks - 1
    end_pass = at.pixel == conv.pixels - 1
    true_rows = [
        (place.mesh_row * config.tile_rows + i) * conv.tile_h + y < place.height
        for i in range(config.tile_rows)
    ]
    true_cols = [
        (place.mesh_col * config.tile_cols + j) * conv.tile_w + x < place.width
        for j in range(config.tile_cols)
    ]
    finish = {
        "result": stored if more else conv.out_base + word,
        "lanes": lanes,
        "partial": more,
        **{name: getattr(conv, name) and not more for name in ("scale", "bias", "bypass", "relu")},
        "paced": conv.bypass,
        "block_last": end_pass and not more,
        "layer_last": last,
        "rows": sum(1 << i for i, true in enumerate(true_rows) if true),
        "cols": sum(1 << j for j, true in enumerate(true_cols) if true),
    }
    if finish["bypass"]:
        finish["bypass_address"] = conv.bypass_base + word

    # The input pixels under the taps, and whether they lie in this tile.
    rows = [((y * stride + d) % in_h) * in_w * conv.in_channels for d in (-1, 0, 1)]
    cols = [((x * stride + d) % in_w) * conv.in_channels for d in (-1, 0, 1)]
    outside = {
        "above": y == 0,
        "below": (y * stride + 1) == in_h,
        "left": x == 0,
        "right": (x * stride + 1) == in_w,
    }
    channels = conv.channels_of_block(at.in_block)
    channel = at.group * conv.group_channels + at.in_block * conv.block_channels
    edges = [((y * stride + d) % in_h) * conv.in_channels for d in (-1, 0, 1)]
    border = {}
    if config.links:
        border = {
            "edge_offsets": edges if conv.kernel3 else [None, edges[1], None],
            "ring": conv.imports,
            "ring_slot": conv.import_slot,
        }

    def ring(dy: int, dx: int, c: int) -> dict:
        """Where the word lies in the border memories, if the neighbouring tile is another chip's."""
        if not config.links:
            return {}
        places = {"row": cols[dx] + channel + c, "col": edges[dy] + channel + c, "corner": channel + c}
        places = {name: place % config.border_depth for name, place in places.items()}
        return {"ring": {"valid": conv.imports, "slot": conv.import_slot, **places}}

    shared = {
        **counted,
        "spacing": min(conv.pixels, (1 << number_bits(config)) - 1),
    }
    fields = {
        **shared,
        **border,
        "row_addresses": [conv.in_base + row for row in rows]
        if conv.kernel3
        else [None, conv.in_base + rows[1], None],
        "col_offsets": cols if conv.kernel3 else [None, cols[1], None],
        **(outside if conv.kernel3 else {}),
        "kernel3": conv.kernel3,
        "channel": channel,
        "channels": channels,
        "position": counted["row"] % config.wbuf_depth,
        "restore": at.in_block > 0,
        **({"stored": stored} if at.in_block else {}),
        "finish": finish,
    }
    operations = [
        {
            "address": stored + lane * parts + part,
            "restore": 1,
            "lane": lane,
            "complete": part == parts - 1,
            "row": counted["row"],
            "position": counted["row"] % config.wbuf_depth,
        }
        for lane in range(lanes if at.in_block else 0)
        for part in range(parts)
    ]
    operations += [
        {
            **ring(dy, dx, c),
            "address": conv.in_base + channel + rows[dy] + cols[dx] + c,
            "restore": 0,
            "up": dy == 0 and outside["above"],
            "down": dy == 2 and outside["below"],
            "left": dx == 0 and outside["left"],
            "right": dx == 2 and outside["right"],
        }
        for dy in ((0, 1, 2) if conv.kernel3 else (1,))
        for dx in ((0, 1, 2) if conv.kernel3 else (1,))
        for c in range(channels)
    ]
    terms = [o for o in operations if not o["restore"]]
    for number, term in enumerate(terms):
        row = counted["row"] + number * counted["stride"]
        term |= {"row": row, "position": row % config.wbuf_depth}
    nowhere = dict.fromkeys(("up", "down", "left", "right"), 0)
    operations = [
        {**nowhere, **shared, "last": 0, **operation, "first": counted["first"] and index == 0}
        for index, operation in enumerate(operations)
    ]
    operations[-1] |= {"last": 1, "finish": finish}
    return Sum(counted["layer"], fields, operations)


class Packing:
    """The fields of a struct as one number, so that a bench sets and compares all of them at once.

    Values are nested mappings and lists; counters count modulo their fields' sizes.

    Parameters
    ----------
    layout : of the struct
    """

    def __init__(self, layout: data.Layout):
        self._places = dict(_places(layout))
        self._width = Shape.cast(layout).width

    def known(self, values: Mapping) -> tuple[int, int]:
        """Mask of the bits that ``values`` tell, and these bits."""
        mask = bits = 0
        for path, value in _flat(values):
            offset, width = self._places[path]
            ones = (1 << width) - 1
            mask |= ones << offset
            bits |= (int(value) & ones) << offset
        return mask, bits

    def word(self, values: Mapping) -> int:
        """The struct, with ones where ``values`` tell nothing, to be seen if they count."""
        mask, bits = self.known(values)
        return bits | ~mask & ((1 << self._width) - 1)

    def differences(self, word: int, values: Mapping) -> list[str]:
        """Fields that are not as in ``values``."""
        found = []
        for path, value in _flat(values):
            offset, width = self._places[path]
            ones = (1 << width) - 1
            if word >> offset & ones != int(value) & ones:
                found.append(f"{path} is {word >> offset & ones}, not {int(value)}")
        return found


def _places(layout: data.Layout, prefix: str = "") -> Iterator[tuple[str, tuple[int, int]]]:
    for name, field in layout:
        path = f"{prefix}.{name}"
        if isinstance(field.shape, data.Layout):
            for inner, (offset, width) in _places(field.shape, path):
                yield inner, (field.offset + offset, width)
        else:
            yield path, (field.offset, Shape.cast(field.shape).width)


def _flat(values: Mapping | Sequence, prefix: str = "") -> Iterator[tuple[str, int]]:
    items = values.items() if isinstance(values, Mapping) else enumerate(values)
    for name, value in items:
        if isinstance(value, Mapping | Sequence):
            yield from _flat(value, f"{prefix}.{name}")
        elif value is not None:
            yield f"{prefix}.{name}", value


class Comparison:
    """Compares what a struct shows with what is expected, which is packed once.

    Parameters
    ----------
    view : the struct
    """

    def __init__(self, view: data.View):
        self._word = Value.cast(view)
        self._packing = Packing(view.shape())
        self._known: dict[int, tuple[Mapping, tuple[int, int]]] = {}

    def check(self, ctx, wanted: Mapping, where: object) -> None:
        """Raise ``AssertionError`` where the struct is not as ``wanted``, a mapping that does not change."""
        _, (mask, bits) = self._known.get(id(wanted)) or self._pack(wanted)
        word = ctx.get(self._word)
        if word & mask != bits:
            raise AssertionError(f"{where}: {', '.join(self._packing.differences(word, wanted))}")

    def _pack(self, wanted: Mapping) -> tuple[Mapping, tuple[int, int]]:
        self._known[id(wanted)] = found = wanted, self._packing.known(wanted)
        return found


def trace_packed(dut, inputs: Iterable[Mapping], outputs: Sequence[str]) -> list[dict[str, int]]:
    """As ``streams.trace``, with all members set by one signal, so that logic settles once per cycle."""
    inputs = list(inputs)
    widths, targets = {}, []
    for name in dict.fromkeys(name for values in inputs for name in values):
        target = Cat(*_values(member(dut, name)))
        widths[name] = len(target)
        targets.append(target)
    word = Signal(sum(widths.values()))
    m = Module()
    m.submodules.dut = dut
    m.d.comb += Cat(*targets).eq(word)
    seen: list[dict[str, int]] = []
    held = dict.fromkeys(widths, 0)

    async def bench(ctx):
        for values in inputs:
            for name, value in values.items():
                held[name] = _bits(member(dut, name), value)
            bits = offset = 0
            for name, width in widths.items():
                bits |= held[name] << offset
                offset += width
            ctx.set(word, bits)
            seen.append({name: ctx.get(Value.cast(member(dut, name))) for name in outputs})
            await ctx.tick()

    simulate(m, bench, limit=len(inputs) + 1)
    return seen


def _values(target) -> Iterator[Value]:
    if isinstance(target, list):
        for part in target:
            yield from _values(part)
    else:
        yield Value.cast(target)


def _bits(target, value) -> int:
    """A value for a signal, a struct or an array member, as one number."""
    if isinstance(target, list):
        bits = offset = 0
        for part, item in zip(target, value, strict=True):
            bits |= _bits(part, item) << offset
            offset += sum(map(len, _values(part)))
        return bits
    if isinstance(target, data.View):
        return Packing(target.shape()).word(value)
    return int(value) & ((1 << len(target)) - 1)


class Ring:
    """What ``TermWalker`` has to show, cycle by cycle: P places, one of which has its turn.

    In each place one operation waits to be taken; the sum's others are behind it, and the next sum comes
    when none is behind any more. A sum goes on in the cycle after its turn; one that has every turn does so
    at once, or, in a chip for a high clock, a second operation waits with the first.
    Apart from that it keeps what was issued, for whom rows can be freed.

    Parameters
    ----------
    config : the chip
    """

    def __init__(self, config: ChipConfig):
        turns = config.sums_in_turn
        self._turns = turns
        self._room = 2 if turns == 1 and config.memory_latency > 1 else 1  # operations that wait in a place
        self._waiting: list[list[dict]] = [[] for _ in range(turns)]
        self._behind: list[list[dict]] = [[] for _ in range(turns)]
        self._turn = 0
        self._took = False  # in the cycle before
        self._oldest = 0  # block whose rows are being freed
        self.begun: list[Sum] = []
        self.left: dict[int, list[dict]] = {}  # operations not yet taken, by number of the sum
        self.freed = 0

    @property
    def operation(self) -> dict | None:
        """The operation whose turn it is."""
        waiting = self._waiting[self._turn]
        return waiting[0] if waiting else None

    @property
    def active(self) -> bool:
        return any(self._waiting) or any(self._behind)

    @property
    def ended(self) -> int:
        """Number of the sum that has to end next."""
        return min(self.left, default=len(self.begun))

    def there(self, written: int) -> bool:
        """The operation at hand has its weight row, or needs none."""
        operation = self.operation
        return operation is not None and (operation["restore"] or operation["row"] < written)

    def eligible(self, written: int, stored: int) -> bool:
        """And the sum before, if it uses the same rows, has used this one; or its stored sum is in memory.

        Sums up to ``stored`` are.
        """
        operation = self.operation
        if operation is None or not self.there(written):
            return False
        if operation["restore"] and operation["number"] - stored >= operation["spacing"]:
            return False
        before = self.left.get(operation["number"] - 1)
        if operation["restore"] or not before or before[0]["block"] != operation["block"]:
            return True
        return before[0]["row"] > operation["row"]

    def room(self, taken: bool) -> bool:
        """Whether a sum that is offered goes into the place that goes on."""
        at = self._stepping
        mine = len(self.begun) % self._turns == at
        return mine and len(self._behind[at]) <= self._moves(taken)

    @property
    def _stepping(self) -> int:
        return (self._turn - 1) % self._turns

    def _moves(self, taken: bool) -> bool:
        """An operation from behind comes to those that wait."""
        waiting = len(self._waiting[self._stepping])
        if self._room > 1:
            return waiting < self._room
        return waiting == (self._took if self._turns > 1 else taken)

    def step(self, taken: bool, offered: Sum | None) -> None:
        """A cycle."""
        at, operation = self._stepping, self.operation
        room, moves = self.room(taken), self._moves(taken)
        if operation and operation["frees"] and operation["block"] == self._oldest:
            # Rows before this one may be those that other sums still need, where they alternate.
            used = taken and not operation["restore"]
            self.freed = operation["row"] + 1 - (0 if used else operation["stride"])
            self._oldest += bool(taken and operation["last"])
        if taken:
            number = operation["number"]
            assert self.left[number].pop(0) is operation
            if not self.left[number]:
                del self.left[number]
        if self._took if self._turns > 1 else taken:
            self._waiting[at].pop(0)
        if moves and self._behind[at]:
            self._waiting[at].append(self._behind[at].pop(0))
        if offered and room:
            self._behind[at] = list(offered.operations)
            self.left[offered.number] = list(offered.operations)
            self.begun.append(offered)
        self._took = taken
        self._turn = (self._turn + 1) % self._turns

    @property
    def needed(self) -> int | None:
        """The first weight row that is still needed by a sum that has begun."""
        rows = [operation["row"] for left in self.left.values() for operation in left[:1]]
        return min(rows, default=None)
