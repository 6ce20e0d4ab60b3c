"""The floating-point multiplier of a tile (paper section III), complete IEEE 754."""

from collections.abc import Iterable
from types import SimpleNamespace

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from . import reference
from .float_steps import (
    check_parameters,
    is_special,
    merge_sticky,
    move_up,
    passed_on,
    registered,
    round_and_pack,
    step_signals,
    take,
    unpack,
)
from .reference import FloatLayout


class FloatMultiplier(wiring.Component):
    """``result`` = ``a`` x ``b``, rounded to nearest even.

    Latency ``stages`` - 1, a product per cycle, no back-pressure; of one stage it is combinational. Subnormal
    operands and results are kept, infinities are IEEE's (infinity x 0 is NaN), every NaN result is the
    canonical one.

    The significands are multiplied as they are, subnormal or not. The product starts low in a longer word,
    with an exponent that is larger by as much: one normaliser then serves subnormal operands, which need more
    places up, and subnormal results, which are allowed fewer.

    The steps hand over one group of signals each; that is where a pipelined multiplier has its registers.

    Parameters
    ----------
    exponent_bits, mantissa_bits : int
        Fields of the format; binary16 has 5 and 10.
    stages : int
        1 to 4. The register behind ``result`` ends the last stage and is the user's.

    Members
    -------
    a, b : In(W), W = 1 + ``exponent_bits`` + ``mantissa_bits``
    result : Out(W)
    """

    # The steps that end with registers, by the number of stages.
    _CUTS = {1: (), 2: ("multiply",), 3: ("multiply", "fine"), 4: ("multiply", "coarse", "fine")}

    def __init__(self, *, exponent_bits: int, mantissa_bits: int, stages: int = 1):
        check_parameters(
            exponent_bits=exponent_bits,
            mantissa_bits=mantissa_bits,
            stages=stages,
            most_stages=max(self._CUTS),
        )
        self._layout = FloatLayout(exponent_bits=exponent_bits, mantissa_bits=mantissa_bits)
        self._stages = stages
        width = self._layout.width
        super().__init__({"a": In(width), "b": In(width), "result": Out(width)})

    @property
    def layout(self) -> FloatLayout:
        """Widths and special words of the format."""
        return self._layout

    @property
    def latency(self) -> int:
        """Cycles from operands to result."""
        return self._stages - 1

    def model(self, a: int, b: int) -> int:
        """The result, computed in plain integers."""
        return reference.multiply(self._layout, a, b)

    def elaborate(self, platform) -> Module:
        m = Module()
        signals = SimpleNamespace(a=self.a, b=self.b)
        steps = {"multiply": self._multiply, "coarse": self._coarse, "fine": self._fine}
        for name, step in steps.items():
            signals = step(m, signals)
            if name in self._CUTS[self._stages]:
                signals = registered(m, signals, name)
        self._round(m, signals)
        return m

    @property
    def _margin(self) -> int:
        # Places that the product starts low. If it had to start lower still, it would round to zero.
        return 1 << ceil_log2(self._layout.mantissa_bits + 3)

    def _multiply(self, m: Module, operands: SimpleNamespace) -> SimpleNamespace:
        layout = self._layout
        a, b = operands.a, operands.b
        a_exponent, a_significand = unpack(m, layout, a, name="a")
        b_exponent, b_significand = unpack(m, layout, b, name="b")
        a_special, b_special = is_special(layout, a), is_special(layout, b)
        a_fraction, b_fraction = a_significand[:-1].any(), b_significand[:-1].any()
        a_zero = ~(a_significand[-1] | a_fraction)
        b_zero = ~(b_significand[-1] | b_fraction)
        offset = self._margin - layout.bias
        most = 2 * ((1 << layout.exponent_bits) - 1) + offset
        exponent = Signal((a_exponent + b_exponent + Const(offset)).shape())
        product = step_signals(
            "product",
            sign=1,
            special=1,  # an operand is infinite or NaN
            nan=1,
            exponent=most.bit_length(),
            significand=2 * layout.mantissa_bits + 2,
        )
        m.d.comb += [
            product.sign.eq((a[-1] ^ b[-1]) & ~product.nan),
            product.special.eq(a_special | b_special),
            product.nan.eq((a_special & (a_fraction | b_zero)) | (b_special & (b_fraction | a_zero))),
            exponent.eq(a_exponent + b_exponent + Const(offset)),
            # An exponent below zero: the product rounds to zero, as it does from where it starts.
            product.exponent.eq(Mux(exponent < 0, 0, exponent)),
            product.significand.eq(a_significand * b_significand),
        ]
        return product

    def _coarse(self, m: Module, product: SimpleNamespace) -> SimpleNamespace:
        word = Value.cast(Cat(0, product.significand, Const(0, self._margin)))
        moved = self._move(m, word, product.exponent, range(ceil_log2(self._margin), 2, -1))
        return passed_on(product, "sign special nan", moved)

    def _fine(self, m: Module, coarse: SimpleNamespace) -> SimpleNamespace:
        moved = self._move(m, coarse.word, coarse.exponent, (2, 1))
        return passed_on(coarse, "sign special nan", moved)

    def _move(self, m: Module, word: Value, exponent: Value, powers: Iterable[int]) -> SimpleNamespace:
        for power in powers:
            step = 1 << power
            word, move = move_up(m, word, exponent, step=step)
            exponent = take(m, exponent, move, step=step)
            reach = self._layout.mantissa_bits + 2 + step  # of the moves to come, and one place below it
            word = merge_sticky(m, word, bits=reach, name=f"sticky_{step}")
        return SimpleNamespace(word=word, exponent=exponent)

    def _round(self, m: Module, fine: SimpleNamespace) -> None:
        layout = self._layout
        exponent, word = fine.exponent, fine.word
        largest = (1 << layout.exponent_bits) - 1
        top, following = word[-1], word[-2]
        overflow = Signal()
        m.d.comb += overflow.eq(
            fine.special | ((exponent >= largest) & (top | following)) | ((exponent == largest - 1) & top)
        )
        # A product without either of the top bits is zero or subnormal, with no exponent left.
        left = Mux(top | following, exponent[: layout.exponent_bits], exponent[0])
        packed = round_and_pack(
            m,
            layout,
            Value.cast(Cat(word[:-2], following | overflow, top & ~overflow)),
            Value.cast(Mux(overflow, largest, left)),
            owed=Const(0, 1),
            overflow=overflow,
            nan=fine.nan,
        )
        m.d.comb += self.result.eq(Cat(packed, fine.sign))
