"""Tile processing unit: one accumulator with an adder/subtractor (paper figure 2)."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..arith import hardware
from ..arith.formats import Format
from .hierarchy import instantiate


class TPU(wiring.Component):
    """Sums ``weight ? x : -x``, one rounded addition per cycle, and moves finished sums aside.

    A sum ends with ``swap``, in the cycle after its last term: the sum moves to ``held`` and the next one
    starts from +0, or with ``restore`` from what ``held`` contained (a stored partial sum put there by
    ``preload``). The first term of the next sum may come in that same cycle, so sums follow each other
    without a gap; the epilogue has until the next ``swap`` to read ``held``.

    Latency 1, one term per cycle, no back-pressure.

    ===========  =====  ==================================================================
    cycle        acc    event
    ===========  =====  ==================================================================
    t            a      ``accumulate``: last term x of the sum
    t+1          a+x    ``swap``, and ``accumulate`` with the first term y of the next sum
    t+2          0+y    ``held`` = a+x
    ===========  =====  ==================================================================

    Parameters
    ----------
    format : number format of the sums

    Members
    -------
    x : the tile's input pixel
    weight : 1 adds x, 0 subtracts it
    accumulate : x and weight are a term
    swap, restore : as above
    preload, stored : write ``stored`` to ``held`` (never together with ``swap``)
    held : the last finished sum
    """

    def __init__(self, *, format: Format):
        self._format = format
        super().__init__(
            {
                "x": In(format.width),
                "weight": In(1),
                "accumulate": In(1),
                "swap": In(1),
                "restore": In(1),
                "preload": In(1),
                "stored": In(format.width),
                "held": Out(format.width),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from a term to the accumulator that contains it."""
        return 1

    def elaborate(self, platform) -> Module:
        m = Module()
        adder = instantiate(m, platform, "adder", hardware.adder_kind(self._format))
        acc = Signal(self._format.width)  # with a reset: the first sum starts from it, without a swap before
        start = Mux(self.restore, self.held, hardware.zero(self._format))

        m.d.comb += [
            adder.a.eq(Mux(self.swap, start, acc)),
            adder.b.eq(self.x),
            adder.subtract.eq(~self.weight),
        ]
        with m.If(self.accumulate):
            m.d.sync += acc.eq(adder.result)
        with m.Elif(self.swap):
            m.d.sync += acc.eq(start)
        with m.If(self.swap):
            m.d.sync += self.held.eq(acc)
        with m.Elif(self.preload):
            m.d.sync += self.held.eq(self.stored)
        return m
