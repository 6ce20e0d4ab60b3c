"""Sequencer: walks a layer's loop nest and gives one MAC operation of the array at a time."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from ..config import ChipConfig
from .hierarchy import instantiate
from .layouts import CONV_DESCRIPTOR, FENCE_BITS, LayerSignature, OperationLayout, row_bits
from .sums import SumWalker
from .terms import TermWalker


class Sequencer(wiring.Component):
    """One operation per cycle, in the order of the numerics (README: Numbers; paper section IV).

    Loop nest, outermost first: group, block of K output FMs, block of input channels, pixel of the tile
    (raster) by ``SumWalker``; filter tap (raster), input channel by ``TermWalker``, of P sums in turn. A sum
    over a later block of input channels first reads the stored partial sums of its lanes.

    Parameters
    ----------
    config : the chip

    Members
    -------
    layers : descriptors, from ``Fetch``
    valid, operation, taken : to ``Issue``; another sum's has its turn in each of P cycles
    eligible, starved : of the operation, see ``TermWalker``
    written, arrives, freed : weight rows, so far
    sum_done : of ``EpilogueControl``
    begun : a layer's first operation issues
    layer, need_loads, need_stores : of the layer that begins next, see ``SumWalker``
    mesh_row, mesh_col : the chip's position
    active : operations of a layer are still to come
    restart : a program begins
    """

    def __init__(self, *, config: ChipConfig):
        self._config = config
        super().__init__(
            {
                "layers": In(LayerSignature()),
                "valid": Out(1),
                "operation": Out(OperationLayout(config)),
                "taken": In(1),
                "eligible": Out(1),
                "starved": Out(1),
                "written": In(row_bits(config.wbuf_depth)),
                "arrives": In(1),
                "sum_done": In(1),
                "freed": Out(row_bits(config.wbuf_depth)),
                "begun": In(1),
                "layer": Out(CONV_DESCRIPTOR),
                "need_loads": Out(FENCE_BITS),
                "need_stores": Out(FENCE_BITS),
                "mesh_row": In(8),
                "mesh_col": In(8),
                "active": Out(1),
                "restart": In(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        sums = instantiate(m, platform, "sums", SumWalker, config=self._config)
        terms = instantiate(m, platform, "terms", TermWalker, config=self._config)
        connect(m, wiring.flipped(self.layers), sums.layers)
        connect(m, sums.sums, terms.sums)
        m.d.comb += [
            self.valid.eq(terms.valid),
            self.operation.eq(terms.operation),
            terms.taken.eq(self.taken),
            self.eligible.eq(terms.eligible),
            self.starved.eq(terms.starved),
            terms.written.eq(self.written),
            terms.arrives.eq(self.arrives),
            terms.sum_done.eq(self.sum_done),
            terms.restart.eq(self.restart),
            self.freed.eq(terms.freed),
            sums.begun.eq(self.begun),
            self.layer.eq(sums.layer),
            self.need_loads.eq(sums.need_loads),
            self.need_stores.eq(sums.need_stores),
            sums.mesh_row.eq(self.mesh_row),
            sums.mesh_col.eq(self.mesh_col),
            self.active.eq(sums.active | terms.active),
        ]
        return m
