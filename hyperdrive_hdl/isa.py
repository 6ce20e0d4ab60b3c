"""The program contract: one linear stream of packets that the compiler writes and the chip runs.

A program is a sequence of words of ``ChipConfig.program_width`` bits. Weight rows use the low K bits,
parameters as many as their format has, everything else the low 16. A packet is a header word, opcode in bits
15:13 and an operand in bits 12:0, and its body:

========  =========================  ==========================================================
opcode    operand                    body
========  =========================  ==========================================================
CONFIG    body length (3)            magic, CRC-32 of the configuration (low, high): starts a program
LOAD      body length                a ``Transfer``: ``fm_in`` words into a map, padding filled with zeros
STORE     body length                a ``Transfer``: a map's true pixels to ``fm_out``
CONV      body length                a ``Conv``: one convolution layer
PARAMS    bit 0 scale, bit 1 bias    K scales, if any, then K biases, if any, of a block of output FMs
WEIGHTS   number of rows             rows of K bits, bit k for lane k, 1 = +1
HALT      0                          the chip finishes all that runs and awaits a CONFIG
========  =========================  ==========================================================

After a CONV come, for each group and block of K output FMs, one PARAMS (unless the layer has neither scale
nor bias) and, for each block of input channels, one WEIGHTS with its rows in the order tap (raster), channel.
Lanes beyond the last output FM of a group have weight 0 and parameter 0.

Where a tile has one pixel, each row is used once, and P sums in turn need rows of P blocks of output FMs at
a time. So the rows of ``interleave`` blocks alternate, row by row, after the PARAMS of all of them; the last
blocks of a group may be fewer. The words of a WEIGHTS packet need not be those of one block: rows are a
sequence.

Load, convolution and store units each run their instructions in order, beside each other. Fences are
explicit and relative, so that a body can be streamed again unchanged: ``wait_X = n`` makes an instruction
wait until, of the X instructions dispatched before it, all but the latest n are complete; ``NO_WAIT``
does not wait (a unit never has that many outstanding).

Maps lie pixel by pixel, channels innermost: tile-local address = base + (y * tile_w + x) * channels + c.
``fm_in`` and ``fm_out`` carry a chip's own pixels in raster order of the chip's area, channels innermost.
The true map is ``full_rows`` whole tile rows and ``rest_rows`` pixel rows of the next (columns alike),
counted over the whole mesh, so that every chip of a mesh gets the same words.

Chips of a mesh exchange the borders of the maps that a 3x3 layer reads. Each chip has two border slots; the
instruction that makes such a map names the slot, which then holds the border until the last layer that reads
it. An instruction waits until its slot is free (``exports``), or complete (``imports``).
"""

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Self

from .errors import ModelError

MAGIC = 0x4803  # 'H', version 3
OPERAND_BITS = 13
NO_WAIT = 15  # also the width of the fence fields: at most 14 instructions can be left outstanding


class Opcode(IntEnum):
    CONFIG = 1
    LOAD = 2
    STORE = 3
    CONV = 4
    PARAMS = 5
    WEIGHTS = 6
    HALT = 7


class ErrorCode(IntEnum):
    """The chip's error status: 0, or the first fault found; it stays until reset."""

    NONE = 0
    OPCODE = 1  # a header word with no meaning, or a body of the wrong length
    CONFIG = 2  # a program made for another configuration, or one that does not start with CONFIG
    LEFTOVER = 3  # HALT or CONFIG while weight rows are left over: more were sent than the layers use
    LINK = 4  # a border link failed: status tells which side's, and how (LinkFault)


class LinkFault(IntEnum):
    """How a border link failed, with ``ErrorCode.LINK``."""

    NONE = 0
    FRAME = 1  # a frame longer or shorter than its header tells: a beat was lost or repeated
    CHECK = 2  # its checksum is wrong
    SEQUENCE = 3  # it is not the next one: a frame was lost or repeated
    SILENCE = 4  # no frame for a long time, after the link had been up
    EPOCH = 5  # the neighbour has been reset
    PROTOCOL = 6  # words for a map that is not expected, or more or fewer than it has


class Side(IntEnum):
    """Of a chip, in the order of ``neighbours`` and of the status."""

    NORTH = 0
    EAST = 1
    SOUTH = 2
    WEST = 3


def header(opcode: Opcode, operand: int = 0) -> int:
    """The first word of a packet."""
    if not 0 <= operand < 1 << OPERAND_BITS:
        raise ValueError(f"operand of {opcode.name} must fit {OPERAND_BITS} bits, not {operand!r}")
    return opcode << OPERAND_BITS | operand


# Bodies are declared once, as words of (field, bits) from the least significant bit up: the encoders below,
# the sequencer's registers and the reference model's decoder all follow from these tables.

TRANSFER_LAYOUT = (
    (("wait_convs", 4), ("wait_transfers", 4)),  # transfers of the other direction
    (("base", 16),),
    (("channels", 16),),
    (("tile_h", 8), ("tile_w", 8)),
    (("row_stride", 16),),  # words from a pixel to the one below: tile_w * channels
    (("full_rows", 8), ("full_cols", 8)),
    (("rest_rows", 8), ("rest_cols", 8)),
    (("exports", 1), ("export_slot", 1)),  # of a LOAD: neighbours get the map's border, in this slot
)

CONV_LAYOUT = (
    (
        ("kernel3", 1),
        ("stride2", 1),
        ("relu", 1),
        ("scale", 1),
        ("bias", 1),
        ("bypass", 1),
        ("interleave", 3),  # blocks of output FMs whose weight rows alternate
        ("exports", 1),  # neighbours get the output's border, in this slot
        ("export_slot", 1),
        ("imports", 1),  # the input's border came from the neighbours and is in this slot
        ("import_slot", 1),
        ("releases", 1),  # no later layer needs the input's border
    ),
    (("wait_loads", 4), ("wait_stores", 4)),
    (("in_base", 16),),
    (("out_base", 16),),
    (("bypass_base", 16),),  # may equal out_base: read-add-write in place (paper section IV-A)
    (("scratch_base", 16),),  # partial sums, when in_blocks > 1: words_per_sum x K x tile_h x tile_w words
    (("in_channels", 16),),  # of the whole input map: words from a pixel to the next
    (("out_channels", 16),),  # of the whole output map
    (("tile_h", 8), ("tile_w", 8)),  # of the output; the input's are stride times as large
    (("in_row_stride", 16),),  # words from an input pixel to the one below
    (("in_last_row", 16),),  # words from the first pixel row of an input tile to its last
    (("in_last_col", 16),),  # and from the first pixel of a row to its last
    (("in_last_edge", 16),),  # words from the first pixel of a border column of the input to its last
    (("pixels", 16),),  # tile_h * tile_w
    (("groups", 16),),
    (("group_channels", 16),),  # input channels of one group
    (("out_blocks", 16),),  # blocks of K output FMs in one group
    (("last_lanes", 8),),  # output FMs in the last of them
    (("in_blocks", 16),),  # blocks of input channels
    (("block_channels", 16),),  # input channels in every block but the last
    (("last_channels", 16),),  # and in the last
    (("full_rows", 8), ("full_cols", 8)),  # of the output map
    (("rest_rows", 8), ("rest_cols", 8)),
)

CONFIG_WORDS = 3


def _encode(owner: object, layout: tuple) -> list[int]:
    words = []
    for word in layout:
        value = shift = 0
        for name, bits in word:
            part = int(getattr(owner, name))
            if not 0 <= part < 1 << bits:
                raise ModelError(
                    f"{type(owner).__name__} instruction: {name} = {part} does not fit its {bits} bits "
                    f"(at most {(1 << bits) - 1}); use a smaller map, or a chip with more tiles"
                )
            value |= part << shift
            shift += bits
        words.append(value)
    return words


def _decode(words: list[int], layout: tuple) -> dict[str, int]:
    values = {}
    for word, parts in zip(words, layout, strict=True):
        for name, bits in parts:
            values[name] = int(word) & ((1 << bits) - 1)
            word = int(word) >> bits
    return values


class _Body:
    """What ``Conv`` and ``Transfer`` share: encode to body words, decode from them."""

    LAYOUT: tuple

    def encode(self) -> list[int]:
        """Body words. Raises ``ModelError`` where a value does not fit its field."""
        return _encode(self, self.LAYOUT)

    @classmethod
    def decode(cls, words: list[int]) -> Self:
        return cls(**_decode(words, cls.LAYOUT))


@dataclass(frozen=True, kw_only=True)
class Transfer(_Body):
    """Body of LOAD and STORE: one map between the FM streams and the feature-map memory."""

    LAYOUT = TRANSFER_LAYOUT

    wait_convs: int = NO_WAIT
    wait_transfers: int = NO_WAIT
    base: int
    channels: int
    tile_h: int
    tile_w: int
    row_stride: int
    full_rows: int
    full_cols: int
    rest_rows: int
    rest_cols: int
    exports: int = 0
    export_slot: int = 0


@dataclass(frozen=True, kw_only=True)
class Conv(_Body):
    """Body of CONV: one convolution with its options (fields as commented in ``CONV_LAYOUT``)."""

    LAYOUT = CONV_LAYOUT

    kernel3: int
    stride2: int
    relu: int
    scale: int
    bias: int
    bypass: int
    interleave: int = 1
    exports: int = 0
    export_slot: int = 0
    imports: int = 0
    import_slot: int = 0
    releases: int = 0
    wait_loads: int = NO_WAIT
    wait_stores: int = NO_WAIT
    in_base: int
    out_base: int
    bypass_base: int = 0
    scratch_base: int = 0
    in_channels: int
    out_channels: int
    tile_h: int
    tile_w: int
    in_row_stride: int
    in_last_row: int
    in_last_col: int
    in_last_edge: int
    pixels: int
    groups: int
    group_channels: int
    out_blocks: int
    last_lanes: int
    in_blocks: int
    block_channels: int
    last_channels: int
    full_rows: int
    full_cols: int
    rest_rows: int
    rest_cols: int

    @property
    def taps(self) -> int:
        return 9 if self.kernel3 else 1

    @property
    def stride(self) -> int:
        return 2 if self.stride2 else 1

    def blocks_together(self) -> list[range]:
        """Blocks of output FMs of a group whose weight rows alternate."""
        step = self.interleave
        return [range(b, min(b + step, self.out_blocks)) for b in range(0, self.out_blocks, step)]

    @property
    def has_params(self) -> bool:
        return bool(self.scale or self.bias)

    def channels_of_block(self, block: int) -> int:
        """Input channels in a block of input channels."""
        return self.last_channels if block == self.in_blocks - 1 else self.block_channels

    def lanes_of_block(self, block: int, lanes: int) -> int:
        """Output FMs in a block of output FMs (counted within its group) of a chip with K = ``lanes``."""
        return self.last_lanes if block == self.out_blocks - 1 else lanes


for _body in (Transfer, Conv):  # a field in one place and not the other is a slip of this file
    _names = [name for word in _body.LAYOUT for name, _ in word]
    if _names != [f.name for f in fields(_body)]:
        raise AssertionError(f"{_body.__name__}: fields differ from its layout")
