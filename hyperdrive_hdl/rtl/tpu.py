"""Tile processing unit: one accumulator with an adder/subtractor (paper figure 2)."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..arith import hardware
from ..arith.formats import Format
from .hierarchy import instantiate


class TPU(wiring.Component):
    """Sums ``weight ? x : -x``, one rounded addition per cycle, and moves finished sums aside.

    A sum ends with ``ends``: it goes to ``held`` and the next one starts from +0, so sums follow each other
    without a gap and without a multiplexer in the adder's loop. The epilogue has until the next ``ends`` to
    read ``held``. A stored partial sum is a sum's first term: 0 + p = p, since no sum is ever -0.

    With an adder of P stages, P independent sums go in turn, the adder's registers being their accumulators:
    the sum to which a term is added comes round every P cycles. A cycle without a term adds -0, which
    changes no sum.

    One term per cycle, no back-pressure. ``latency`` cycles after a term, the accumulator contains it:

    ======  ==================================================  ============================================
    stages  latency                                             ``ends``
    ======  ==================================================  ============================================
    1       1                                                   with the sum's last term
    P       P + 1: operands are registered, close to the adder  P cycles after the last term was given
    ======  ==================================================  ============================================

    Parameters
    ----------
    format : number format of the feature maps
    stages : of the adder, P

    Members
    -------
    x : the tile's input pixel, a word of ``format.sums``
    weight : 1 adds x, 0 subtracts it
    enable : x is a term of this lane's sum
    ends : the sum that leaves the adder now is complete
    held : the last finished sum
    """

    def __init__(self, *, format: Format, stages: int = 1):
        self._format = format
        self._stages = stages
        width = format.sums.width
        super().__init__(
            {"x": In(width), "weight": In(1), "enable": In(1), "ends": In(1), "held": Out(width)}
        )

    @property
    def latency(self) -> int:
        """Cycles from a term to the accumulator, or ``held``, that contains it."""
        return 1 if self._stages == 1 else self._stages + 1

    def elaborate(self, platform) -> Module:
        m = Module()
        adder = instantiate(m, platform, "adder", hardware.adder_kind(self._format, stages=self._stages))
        acc = Signal(self._format.sums.width)
        m.d.comb += adder.a.eq(acc)
        if self._stages == 1:
            m.d.comb += [adder.b.eq(self.x), adder.subtract.eq(~self.weight)]
            with m.If(self.enable):
                m.d.sync += acc.eq(adder.result)
        else:
            x = Signal(self._format.sums.width, reset_less=True)
            subtract = Signal(reset_less=True)
            m.d.sync += [
                x.eq(Mux(self.enable, self.x, 0)),
                subtract.eq(~(self.enable & self.weight)),
                acc.eq(adder.result),
            ]
            m.d.comb += [adder.b.eq(x), adder.subtract.eq(subtract)]
        held = Signal.like(self.held, reset_less=True)
        m.d.comb += self.held.eq(held)
        with m.If(self.ends):
            m.d.sync += [acc.eq(0), held.eq(adder.result)]
        return m


class ExactTPU(wiring.Component):
    """Sums the integers of the terms with weight +1 exactly; nothing is rounded here.

    The tile turns x into an integer once and sums all of them, in S. As w x = 2 [w = +1] x - x, a lane's sum
    over both weights is its sum - S if it is given 2x: the weight is no more than the accumulator's clock
    enable, and the lane an integer adder. Sums may wrap round; the difference does not. The last term is not
    in ``held``, so that the adder feeds one register; the tile adds it, for lanes with ``held_weight`` 1.
    Nothing here has a reset: ``ends`` clears what a sum needs.

    Latency 1, one term per cycle, no back-pressure.

    Parameters
    ----------
    width : bits of the sums

    Members
    -------
    term : 2x, or a stored partial sum
    plus, minus : the term is +infinity, -infinity; both: it is NaN
    weight : 1 adds the term, 0 subtracts it
    enable : it is one of this lane's sum
    ends : it is the last
    held : the last finished sum without its last term
    held_plus, held_minus : infinite terms, of either sign, were among it
    held_weight : weight of its last term
    """

    def __init__(self, *, width: int):
        self._width = width
        super().__init__(
            {
                "term": In(signed(width)),
                "plus": In(1),
                "minus": In(1),
                "weight": In(1),
                "enable": In(1),
                "ends": In(1),
                "held": Out(signed(width)),
                "held_plus": Out(1),
                "held_minus": Out(1),
                "held_weight": Out(1),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from a term to the accumulator, or ``held``, that contains it."""
        return 1

    def elaborate(self, platform) -> Module:
        m = Module()
        acc = Signal(signed(self._width), reset_less=True)
        plus = Signal(reset_less=True)
        minus = Signal(reset_less=True)
        held = Signal(signed(self._width), reset_less=True)
        held_plus = Signal(reset_less=True)
        held_minus = Signal(reset_less=True)
        held_weight = Signal(reset_less=True)
        any_plus = Signal()
        any_minus = Signal()
        m.d.comb += [
            any_plus.eq(plus | Mux(self.weight, self.plus, self.minus)),
            any_minus.eq(minus | Mux(self.weight, self.minus, self.plus)),
        ]
        with m.If(self.enable):
            m.d.sync += [plus.eq(any_plus), minus.eq(any_minus)]
        with m.If(self.enable & self.weight):
            m.d.sync += acc.eq(acc + self.term)
        with m.If(self.ends):
            m.d.sync += [
                acc.eq(0),
                plus.eq(0),
                minus.eq(0),
                held.eq(acc),
                held_plus.eq(any_plus),
                held_minus.eq(any_minus),
                held_weight.eq(self.weight),
            ]
        m.d.comb += [
            self.held.eq(held),
            self.held_plus.eq(held_plus),
            self.held_minus.eq(held_minus),
            self.held_weight.eq(held_weight),
        ]
        return m
