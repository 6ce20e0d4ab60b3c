"""The descriptor of a convolution: as it arrives, and of the layer that runs."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from .. import isa
from ..config import ChipConfig
from .layouts import CONV_DESCRIPTOR, FENCE_BITS
from .registers import NO_COLLISION

WORDS = len(isa.CONV_LAYOUT)


class DescriptorBuffer(wiring.Component):
    """Holds a descriptor while the next arrives, word by word.

    A word is a memory of one place, whose read port's register is the word in use. That is two registers per
    bit, or a block RAM for a whole word on an FPGA with more of them than of logic: the memories' attribute
    ``descriptor_word`` counts them from 1, the widest first, so that as many as are left over can be given.

    Latency 1 from ``take`` to ``taken``, which keeps its value until the next ``take``; the last word must
    have been written in a cycle before.

    Parameters
    ----------
    config : the chip

    Members
    -------
    write, index, word : a word of an instruction's body
    fences : absolute, for the word with the fences
    take : the descriptor that has arrived is used from now on
    taken : the one taken last
    """

    def __init__(self, *, config: ChipConfig):
        rows = bits_for(config.wbuf_depth)
        # Bits of words that cannot need all of theirs.
        self._narrow = {
            "last_lanes": bits_for(config.lanes),
            "block_channels": rows,
            "last_channels": rows,
        }
        super().__init__(
            {
                "write": In(1),
                "index": In(range(WORDS)),
                "word": In(16),
                "fences": In(2 * FENCE_BITS),
                "take": In(1),
                "taken": Out(CONV_DESCRIPTOR),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from ``take`` to ``taken``."""
        return 1

    def elaborate(self, platform) -> Module:
        m = Module()
        words = []
        widths = [self._bits(word) for word in isa.CONV_LAYOUT]
        widest_first = sorted(range(1, WORDS), key=lambda index: -widths[index])
        for index, (word, bits) in enumerate(zip(isa.CONV_LAYOUT, widths, strict=True)):
            name, _ = word[0]
            fences = name.startswith("wait_")
            if index == 0:  # flags, which the border looks at before there is a layer
                arriving = Signal(bits, name="flags_arriving", reset_less=True)
                flags = Signal(bits, reset_less=True)
                with m.If(self.write & (self.index == 0)):
                    m.d.sync += arriving.eq(self.word)
                with m.If(self.take):
                    m.d.sync += flags.eq(arriving)
                words += [flags, Const(0, 16 - bits)]
                continue
            attributes = NO_COLLISION | {"descriptor_word": widest_first.index(index) + 1}
            m.submodules[name] = cells = Memory(shape=bits, depth=1, init=[], attrs=attributes)
            write_port = cells.write_port()
            read_port = cells.read_port()
            m.d.comb += [
                write_port.data.eq(self.fences if fences else self.word),
                write_port.en.eq(self.write & (self.index == index)),
                read_port.en.eq(self.take),
            ]
            words += [read_port.data, Const(0, 16 - bits)]
        m.d.comb += self.taken.as_value().eq(Cat(*words))
        return m

    def _bits(self, word: tuple) -> int:
        """Of a word, those that can be needed."""
        name, _ = word[0]
        bits = len(self.fences) if name.startswith("wait_") else sum(bits for _, bits in word)
        return min(bits, self._narrow.get(name, bits))
