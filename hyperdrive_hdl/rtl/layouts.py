"""Interfaces of the RTL as types: descriptors made from the ISA's tables, and what flows between blocks."""

from amaranth.lib import data
from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import bits_for

from .. import isa
from ..config import ChipConfig

ADDRESS_BITS = 16
FENCE_BITS = 16  # absolute instruction counts, modulo 2^16


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


class OperationLayout(data.StructLayout):
    """One MAC operation of the whole array, and at a sum's last term all that its epilogue needs.

    address, up, down, left, right : the local pixel word, and to which neighbour the tap's window moves
    rewind, discard : weight buffer: last row of a pass that is replayed; a row that is not needed again
    first : of its layer
    last : of its sum; the fields below are valid with it
    result, bypass_address : tile-local addresses of lane 0's result and bypass words
    lanes : output FMs in this block
    partial : the sums are stored as they are, to be continued
    scale, bias, bypass, relu : steps of the epilogue
    restore, preload : the next sum starts from a stored partial sum; so does the one after it
    block_last, layer_last : of the parameters' block of output FMs, of the layer
    rows, cols : which tile rows and columns have a true pixel here
    """

    def __init__(self, config: ChipConfig):
        super().__init__(
            {
                "address": ADDRESS_BITS,
                "up": 1,
                "down": 1,
                "left": 1,
                "right": 1,
                "rewind": 1,
                "discard": 1,
                "first": 1,
                "last": 1,
                "result": ADDRESS_BITS,
                "bypass_address": ADDRESS_BITS,
                "lanes": bits_for(config.lanes),
                "partial": 1,
                "scale": 1,
                "bias": 1,
                "bypass": 1,
                "relu": 1,
                "restore": 1,
                "preload": 1,
                "block_last": 1,
                "layer_last": 1,
                "rows": config.tile_rows,
                "cols": config.tile_cols,
            }
        )


class EpilogueSlotLayout(data.StructLayout):
    """One lane of one pixel on its way through the epilogue of all tiles."""

    def __init__(self, config: ChipConfig):
        super().__init__(
            {
                "valid": 1,  # a sum goes through and is written
                "preload": 1,  # or a stored partial sum is read
                "lane": lane_bits(config.lanes),
                "write_address": ADDRESS_BITS,
                "read_address": ADDRESS_BITS,  # of the bypass or the partial sum
                "scale": 1,
                "bias": 1,
                "bypass": 1,
                "relu": 1,
                "parameters": 1,  # which set
                "release_parameters": 1,
                "layer_last": 1,
                "rows": config.tile_rows,
                "cols": config.tile_cols,
            }
        )


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
    """

    def __init__(self):
        super().__init__(
            {"busy": Out(1), "error": Out(2), "layer": Out(16), "layer_done": Out(1), "halted": Out(1)}
        )


class ActivitySignature(Signature):
    """What each cycle was spent on, for simulators and performance counters.

    computing : a convolution is active, waits for its weights or turns around
    loading, storing : a transfer is active
    mac : the array takes a term
    starved : the array waits for a weight row
    epilogue : a finished sum enters the epilogue
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
            }
        )
