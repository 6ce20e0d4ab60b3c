"""Interfaces of the RTL as types: descriptors made from the ISA's tables, and what flows between blocks."""

from amaranth.lib import data
from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import bits_for, ceil_log2

from .. import isa
from ..config import ChipConfig
from ..latencies import latencies

ADDRESS_BITS = 16
FENCE_BITS = 8  # absolute instruction counts, modulo 2^8
BLOCK_BITS = 3  # blocks of weight rows in use, one per sum in turn and the next, told apart


def _descriptor(layout: tuple, fences: tuple[str, str]) -> data.StructLayout:
    """The registers of an instruction body: its fields, each word padded to 16 bits, fences made absolute."""
    members = {}
    for index, word in enumerate(layout):
        if word[0][0].startswith("wait_"):
            members |= dict.fromkeys(fences, FENCE_BITS)
            continue
        members |= dict(word)
        spare = 16 - sum(bits for _, bits in word)
        if spare:
            members[f"spare{index}"] = spare
    return data.StructLayout(members)


CONV_DESCRIPTOR = _descriptor(isa.CONV_LAYOUT, ("need_loads", "need_stores"))
TRANSFER_DESCRIPTOR = _descriptor(isa.TRANSFER_LAYOUT, ("need_convs", "need_transfers"))


def lane_bits(lanes: int) -> int:
    """Bits of the index of a lane, at least one."""
    return bits_for(max(1, lanes - 1))


def row_bits(depth: int) -> int:
    """Bits of a count of weight rows: modulo eight weight buffers or more, so that differences have a sign.

    The last of the sums in turn may be as many buffers ahead of the rows written as there are others.
    """
    return ceil_log2(8 * depth)


def number_bits(config: ChipConfig) -> int:
    """Bits of a sum's number: sums that are begun and not yet in memory are told apart."""
    return bits_for(2 * (config.sums_in_turn + latencies(config).write + 2))


class LayerSignature(Signature):
    """Convolutions handed over one by one: ``taken`` is the descriptor that went last, one cycle later."""

    def __init__(self):
        super().__init__({"valid": Out(1), "ready": In(1), "taken": Out(CONV_DESCRIPTOR)})


class FinishLayout(data.StructLayout):
    """What the epilogue has to know of a finished sum.

    result, bypass_address : tile-local addresses of lane 0's result and bypass words
    lanes : output FMs in this block
    partial : the sums are stored as they are, to be continued
    scale, bias, bypass, relu : steps of the epilogue
    paced : other sums of the layer have a bypass; the reads of those must not meet the writes of this one
    block_last, layer_last : of the parameters' block of output FMs, of the layer
    rows, cols : which tile rows and columns have a true pixel here
    """

    def __init__(self, config: ChipConfig):
        super().__init__(
            {
                "result": ADDRESS_BITS,
                "bypass_address": ADDRESS_BITS,
                "lanes": bits_for(config.lanes),
                "partial": 1,
                "scale": 1,
                "bias": 1,
                "bypass": 1,
                "relu": 1,
                "paced": 1,
                "block_last": 1,
                "layer_last": 1,
                "rows": config.tile_rows,
                "cols": config.tile_cols,
            }
        )


class SumLayout(data.StructLayout):
    """One sum of all tiles: a pixel, in a block of output FMs, over a block of input channels.

    row_addresses : of channel 0 in the first pixel of the rows before, at and after the present one, wrapped
    col_offsets : words to the columns before, at and after the present one, wrapped
    above, below, left, right : the taps there fall into the neighbouring tile
    edge_offsets : words to these rows in a column of the border (with links only)
    ring, ring_slot : the neighbours' pixels are in that border slot; else they are zero (with links only)
    kernel3 : all of them are taps, or only the middle one
    channel, channels : the first channel, and how many there are
    row, position : number of the first weight row, and its place in the ring
    stride : from a row to the next; more than one where rows of several sums alternate
    block : of weight rows, counted
    frees : rows are not needed again after this sum
    number : of the sum, counted
    restore, stored : it starts from a stored partial sum at that address
    spacing : so many sums later comes the one that continues this one; the largest number stands for more
    first : of its layer
    layer : toggles from layer to layer
    finish : for the epilogue
    """

    def __init__(self, config: ChipConfig):
        offsets = data.ArrayLayout(ADDRESS_BITS, 3)
        border = {"edge_offsets": offsets, "ring": 1, "ring_slot": 1} if config.links else {}
        super().__init__(
            {
                **border,
                "row_addresses": offsets,
                "col_offsets": offsets,
                "above": 1,
                "below": 1,
                "left": 1,
                "right": 1,
                "kernel3": 1,
                "channel": 16,
                "channels": bits_for(config.wbuf_depth),
                "row": row_bits(config.wbuf_depth),
                "position": range(config.wbuf_depth),
                "stride": range(config.sums_in_turn + 1),
                "block": BLOCK_BITS,
                "frees": 1,
                "number": number_bits(config),
                "restore": 1,
                "stored": ADDRESS_BITS,
                "spacing": number_bits(config),
                "first": 1,
                "layer": 1,
                "finish": FinishLayout(config),
            }
        )


class RingLayout(data.StructLayout):
    """Where the pixels round the chip lie that a tap may meet: in the memories of a border slot.

    valid, slot : they are there, else zero
    row : address in the memories of the rows above and below the chip
    col : in those of the columns beside it
    corner : in those of the corners
    """

    def __init__(self, config: ChipConfig):
        address = border_bits(config)
        super().__init__({"valid": 1, "slot": 1, "row": address, "col": address, "corner": address})


class OperationLayout(data.StructLayout):
    """One operation of the whole array: a term of a sum, or a lane's stored partial sum, read as its first.

    address, up, down, left, right : the local pixel word, and to which neighbour the tap's window moves
    ring : where the neighbours' word is (with links only)
    restore, lane, complete : part of a stored partial sum, its lane, and that it is the last part
    row, position : the weight row, as in ``SumLayout``; of a restoring operation, the sum's first
    last : of its sum; ``finish`` is valid with it
    stride, block, frees, number, spacing, first, layer, finish : of its sum, see there
    """

    def __init__(self, config: ChipConfig):
        super().__init__(
            {
                **({"ring": RingLayout(config)} if config.links else {}),
                "address": ADDRESS_BITS,
                "up": 1,
                "down": 1,
                "left": 1,
                "right": 1,
                "restore": 1,
                "lane": lane_bits(config.lanes),
                "complete": 1,
                "row": row_bits(config.wbuf_depth),
                "position": range(config.wbuf_depth),
                "last": 1,
                "stride": range(config.sums_in_turn + 1),
                "block": BLOCK_BITS,
                "frees": 1,
                "number": number_bits(config),
                "spacing": number_bits(config),
                "first": 1,
                "layer": 1,
                "finish": FinishLayout(config),
            }
        )


class EpilogueSlotLayout(data.StructLayout):
    """One lane of one pixel on its way through the epilogue of all tiles."""

    def __init__(self, config: ChipConfig):
        format = config.number_format
        super().__init__(
            {
                "valid": 1,
                "lane": lane_bits(config.lanes),
                "part": range(max(2, format.words_per_sum)),  # of a partial sum
                "partial": 1,
                "scale": 1,
                "bias": 1,
                "bypass": 1,
                "relu": 1,
                "parameters": range(parameter_sets(config)),  # which set
                "release_parameters": 1,
                "sum_last": 1,
                "layer_last": 1,
                "rows": config.tile_rows,
                "cols": config.tile_cols,
            }
        )


class BorderMapLayout(data.StructLayout):
    """A map whose border is exchanged, and the order in which its words are made.

    base, channels, tile_h, tile_w : where it lies, as in isa.py
    groups, blocks : the channels are made in ``groups`` times ``blocks`` blocks
    lanes, last_lanes : channels of a block, of the last one of a group
    full_rows, full_cols, rest_rows, rest_cols : its true pixels
    """

    def __init__(self):
        super().__init__(
            {
                "base": ADDRESS_BITS,
                "channels": 16,
                "tile_h": 8,
                "tile_w": 8,
                "groups": 16,
                "blocks": 16,
                "lanes": 16,
                "last_lanes": 16,
                "full_rows": 8,
                "full_cols": 8,
                "rest_rows": 8,
                "rest_cols": 8,
            }
        )


def border_bits(config: ChipConfig) -> int:
    """Bits of an address in a border memory."""
    return ceil_log2(config.border_depth)


def parameter_sets(config: ChipConfig) -> int:
    """Blocks of output FMs whose scales and biases are held: of the sums in turn, and as many ahead."""
    return 2 * config.sums_in_turn


def words(config: ChipConfig) -> In:
    """Member: one feature-map word per tile."""
    return In(config.word_width).array(config.tile_rows, config.tile_cols)


class StatusSignature(Signature):
    """What the chip tells of itself, from the chip's side.

    busy : a program is running
    error : ``isa.ErrorCode``, kept until reset
    layer : convolutions completed since CONFIG, modulo 2^16
    layer_done : pulse, in the cycle in which a layer's output is complete in the feature-map memory
    halted : pulse, at a program's HALT, when all is done
    side, fault : with ``ErrorCode.LINK``, the ``isa.Side`` whose link failed, and the ``isa.LinkFault``
    """

    def __init__(self):
        super().__init__(
            {
                "busy": Out(1),
                "error": Out(3),
                "layer": Out(16),
                "layer_done": Out(1),
                "halted": Out(1),
                "side": Out(2),
                "fault": Out(3),
            }
        )


class ActivitySignature(Signature):
    """What each cycle was spent on, for simulators and performance counters.

    computing : a convolution is active, waits for its weights or turns around
    loading, storing : a transfer is active
    mac : the array takes a term
    starved : the array waits for a weight row
    epilogue : a finished sum enters the epilogue
    border_words : true words of neighbours' maps that arrive, each at the chips that use it
    link_beats : links on which the chip sends a beat of a border frame
    """

    def __init__(self):
        super().__init__(
            {
                "computing": Out(1),
                "loading": Out(1),
                "storing": Out(1),
                "mac": Out(1),
                "starved": Out(1),
                "epilogue": Out(1),
                "border_words": Out(3),
                "link_beats": Out(3),
            }
        )
