"""The floating-point multiplier of a tile (paper section III), complete IEEE 754."""

from collections.abc import Iterable
from types import SimpleNamespace

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.utils import ceil_log2

from . import reference
from .float_steps import check_layout, is_special, merge_sticky, move_up, round_and_pack, take, unpack
from .pipelined import PipelinedUnit, Step, passed_on, step_signals
from .reference import FloatLayout


class FloatMultiplier(PipelinedUnit):
    """``result`` = ``a`` x ``b``, rounded to nearest even.

    Latency ``stages`` - 1, a product per cycle, no back-pressure; of one stage it is combinational.
    Infinities are IEEE's (infinity x 0 is NaN), every NaN result is the canonical one. Subnormals are kept,
    or with ``layout.flush`` taken for zeros, and results that would be subnormal are zeros with their sign.

    The significands are multiplied as they are, subnormal or not. The product starts low in a longer word,
    with an exponent that is larger by as much: one normaliser then serves subnormal operands, which need more
    places up, and subnormal results, which are allowed fewer. To flush, no normaliser is needed.

    Parameters
    ----------
    layout : fields of the format; binary16 has 5 and 10
    stages : 1 to 4. The register behind ``result`` ends the last stage and is the user's

    Members
    -------
    a, b : In(W), W = ``layout.width``
    result : Out(W)
    """

    _CUTS = {1: "", 2: "multiply", 3: "multiply fine", 4: "multiply coarse fine"}
    _FLUSHING_CUTS = {1: "", 2: "multiply", 3: "unpack multiply", 4: "unpack multiply fine"}

    def __init__(self, *, layout: FloatLayout, stages: int = 1):
        check_layout(layout)
        self._layout = layout
        super().__init__(
            operands={"a": layout.width, "b": layout.width},
            results={"result": layout.width},
            cuts=self._FLUSHING_CUTS if layout.flush else self._CUTS,
            stages=stages,
        )

    def model(self, a: int, b: int) -> int:
        """The result, computed in plain integers."""
        return reference.multiply(self._layout, a, b)

    def _steps(self) -> tuple[Step, ...]:
        return self._unpack, self._multiply, self._coarse, self._fine, self._round

    @property
    def _margin(self) -> int:
        # Places that the product starts low. If it had to start lower still, it would round to zero.
        return 0 if self._layout.flush else 1 << ceil_log2(self._layout.mantissa_bits + 3)

    def _unpack(self, m: Module, operands: SimpleNamespace) -> SimpleNamespace:
        layout = self._layout
        a, b = operands.a, operands.b
        a_exponent, a_significand = unpack(m, layout, a, name="a")
        b_exponent, b_significand = unpack(m, layout, b, name="b")
        a_special, b_special = is_special(layout, a), is_special(layout, b)
        a_fraction, b_fraction = a_significand[:-1].any(), b_significand[:-1].any()
        a_zero, b_zero = ~a_significand[-1], ~b_significand[-1]
        if not layout.flush:
            a_zero &= ~a_fraction
            b_zero &= ~b_fraction
        offset = self._margin - layout.bias
        exponent = a_exponent + b_exponent + Const(offset)
        factors = step_signals(
            "factors",
            sign=1,
            special=1,  # an operand is infinite or NaN
            nan=1,
            exponent=exponent.shape(),
            a=layout.mantissa_bits + 1,
            b=layout.mantissa_bits + 1,
        )
        m.d.comb += [
            factors.sign.eq((a[-1] ^ b[-1]) & ~factors.nan),
            factors.special.eq(a_special | b_special),
            factors.nan.eq((a_special & (a_fraction | b_zero)) | (b_special & (b_fraction | a_zero))),
            factors.exponent.eq(exponent),
            factors.a.eq(a_significand),
            factors.b.eq(b_significand),
        ]
        if layout.flush:
            factors.zero = a_zero | b_zero
        return factors

    def _multiply(self, m: Module, factors: SimpleNamespace) -> SimpleNamespace:
        layout = self._layout
        most = 2 * ((1 << layout.exponent_bits) - 1) + self._margin - layout.bias
        product = step_signals(
            "product", exponent=most.bit_length(), significand=2 * layout.mantissa_bits + 2
        )
        below = factors.exponent < 0
        m.d.comb += [
            # An exponent below zero: the product rounds to zero, as it does from where it starts.
            product.exponent.eq(Mux(below, 0, factors.exponent)),
            product.significand.eq(factors.a * factors.b),
        ]
        if layout.flush:
            # Nor does one round to the smallest normal number: the largest product of significands has a zero
            # among its first mantissa_bits + 1 bits.
            product.zero = factors.zero | below
        return passed_on(factors, "sign special nan", product)

    def _coarse(self, m: Module, product: SimpleNamespace) -> SimpleNamespace:
        product.word = Value.cast(Cat(0, product.significand, Const(0, self._margin)))
        del product.significand
        if self._layout.flush:
            return product
        return self._move(m, product, range(ceil_log2(self._margin), 2, -1))

    def _fine(self, m: Module, coarse: SimpleNamespace) -> SimpleNamespace:
        if self._layout.flush:
            coarse.word = merge_sticky(m, coarse.word, bits=self._layout.mantissa_bits + 4, name="sticky")
            return coarse
        return self._move(m, coarse, (2, 1))

    def _move(self, m: Module, signals: SimpleNamespace, powers: Iterable[int]) -> SimpleNamespace:
        word, exponent = signals.word, signals.exponent
        for power in powers:
            step = 1 << power
            word, move = move_up(m, word, exponent, step=step)
            exponent = take(m, exponent, move, step=step)
            reach = self._layout.mantissa_bits + 2 + step  # of the moves to come, and one place below it
            word = merge_sticky(m, word, bits=reach, name=f"sticky_{step}")
        return passed_on(signals, "sign special nan", SimpleNamespace(word=word, exponent=exponent))

    def _round(self, m: Module, fine: SimpleNamespace) -> SimpleNamespace:
        layout = self._layout
        exponent, word = fine.exponent, fine.word
        largest = (1 << layout.exponent_bits) - 1
        top, following = word[-1], word[-2]
        if layout.flush:
            top &= ~fine.zero
            following &= ~fine.zero
        overflow = Signal()
        m.d.comb += overflow.eq(
            fine.special | ((exponent >= largest) & (top | following)) | ((exponent == largest - 1) & top)
        )
        # A product without either of the top bits is zero or subnormal, with no exponent left.
        left = Mux(top | following, exponent[: layout.exponent_bits], exponent[0])
        packed, _ = round_and_pack(
            m,
            layout,
            Value.cast(Cat(word[:-2], following | overflow, top & ~overflow)),
            Value.cast(Mux(overflow, largest, left)),
            owed=Const(0, 1),
            clear=overflow | fine.zero if layout.flush else overflow,
            nan=fine.nan,
        )
        return SimpleNamespace(result=Cat(packed, fine.sign))
