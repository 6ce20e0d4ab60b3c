"""Sums that are exact: words turned into integers, and an integer total rounded once to a word.

Integers count units of the stored format's smallest subnormal (of fixed point: the last place). Infinities
and NaN are two flags beside them. A tile has one ``ExactTerm`` and one ``ExactRounder``; its lanes are no
more than integer adders.
"""

from collections.abc import Iterable
from types import SimpleNamespace

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.utils import ceil_log2

from .fixed_adder import saturated
from .float_steps import check_layout, is_special, unpack
from .pipelined import PipelinedUnit, Step, passed_on, step_signals
from .reference import FixedLayout, FloatLayout


class ExactTerm(PipelinedUnit):
    """``term`` is the integer that a floating-point word stands for; infinities and NaN give flags and 0.

    Latency ``stages``: the results come from registers. A word per cycle, no back-pressure. Words that are
    no multiple of the unit are rounded down.

    Parameters
    ----------
    layout : fields of the words
    unit_exponent : the unit is 2 ** this; no less than the smallest subnormal
    width : bits of the sums, in two's complement
    stages : 1 to 3

    Members
    -------
    x : In(W), W = ``layout.width``
    term : Out(signed(``width``))
    plus, minus : Out(1), x is +infinity, -infinity; both: it is NaN
    """

    _CUTS = {1: "far", 2: "near far", 3: "unpack near far"}

    def __init__(self, *, layout: FloatLayout, unit_exponent: int, width: int, stages: int = 2):
        check_layout(layout)
        self._layout = layout
        self._drop = unit_exponent - layout.unit_exponent
        self._width = width
        super().__init__(
            operands={"x": layout.width},
            results={"term": signed(width), "plus": 1, "minus": 1},
            cuts=self._CUTS,
            stages=stages,
        )

    def model(self, x: int) -> tuple[int, bool, bool]:
        """(term, plus, minus), computed in plain integers."""
        layout = self._layout
        if layout.is_nan(x):
            return 0, True, True
        negative = bool(x & layout.sign_mask)
        if layout.is_infinite(x):
            return 0, not negative, negative
        return layout.integer(x) >> self._drop, False, False

    def _steps(self) -> tuple[Step, ...]:
        return self._unpack, self._near, self._far

    def _unpack(self, m: Module, operands: SimpleNamespace) -> SimpleNamespace:
        layout, x = self._layout, operands.x
        exponent, significand = unpack(m, layout, x, name="x")
        special = is_special(layout, x)
        nan = special & significand[:-1].any()
        unpacked = step_signals(
            "unpacked",
            exponent=layout.exponent_bits,
            significand=signed(layout.mantissa_bits + 2),
            plus=1,
            minus=1,
        )
        counts = ~special & significand[-1] if layout.flush else ~special
        magnitude = significand & counts.replicate(len(significand))
        m.d.comb += [
            unpacked.exponent.eq(exponent),
            unpacked.significand.eq((magnitude ^ x[-1].replicate(len(magnitude) + 1)).as_signed() + x[-1]),
            unpacked.plus.eq(special & (nan | ~x[-1])),
            unpacked.minus.eq(special & (nan | x[-1])),
        ]
        return unpacked

    def _near(self, m: Module, unpacked: SimpleNamespace) -> SimpleNamespace:
        shifted = Signal(signed(len(unpacked.significand) + 1))
        m.d.comb += shifted.eq(unpacked.significand << unpacked.exponent[0])
        near = SimpleNamespace(shifted=shifted, exponent=unpacked.exponent[1:])
        return passed_on(unpacked, "plus minus", near)

    def _far(self, m: Module, near: SimpleNamespace) -> SimpleNamespace:
        # A move by the exponent, which is 1 for subnormals, is one place too long.
        term = Signal(signed(self._width))
        m.d.comb += term.eq((near.shifted << (near.exponent << 1)) >> (1 + self._drop))
        return passed_on(near, "plus minus", SimpleNamespace(term=term))


class ExactRounder(PipelinedUnit):
    """``result`` is the floating-point word nearest to an integer total; ties go to the even one.

    Latency ``stages`` - 1, a total per cycle, no back-pressure. A total of zero is +0, one beyond the largest
    number an infinity. With ``layout.flush``, totals below the normal numbers are +0.

    - *coarse*, *fine*: the total, ones' complement if it is negative, moves up until its top bit is set, but
      never past the place of the smallest normal number's. What comes in from below is the sign.
    - *round*: the increment is decided on the two's complement. Where the total is negative it is rounding's
      opposite: -(kept + up) is the ones' complement of kept, plus 1 - up. So one carry chain negates, rounds,
      and adds the hidden bit to the exponent.

    Parameters
    ----------
    layout : fields of the result
    unit_exponent : the unit is 2 ** this; no less than the smallest subnormal
    width : bits of the total; no less than ``mantissa_bits`` + 17
    stages : 1 to 4. The register behind ``result`` ends the last stage and is the user's

    Members
    -------
    total : In(signed(``width``))
    plus, minus : In(1), +infinity and -infinity are among the terms; both: or NaN
    result : Out(W), W = ``layout.width``
    """

    _CUTS = {1: "", 2: "coarse", 3: "coarse fine", 4: "coarse middle fine"}

    def __init__(self, *, layout: FloatLayout, unit_exponent: int, width: int, stages: int = 1):
        check_layout(layout)
        narrowest = layout.mantissa_bits + 17
        if width < narrowest:
            raise ValueError(f"width must be at least {narrowest} for {layout}, not {width!r}")
        self._layout = layout
        self._unit = unit_exponent - layout.unit_exponent
        self._width = width
        super().__init__(
            operands={"total": signed(width), "plus": 1, "minus": 1},
            results={"result": layout.width},
            cuts=self._CUTS,
            stages=stages,
        )

    def model(self, total: int, plus: int, minus: int) -> int:
        """The result, computed in plain integers."""
        layout = self._layout
        if plus or minus:
            return layout.nan if plus and minus else layout.infinity | (layout.sign_mask if minus else 0)
        word = layout.round(total < 0, abs(total), self._unit)
        return 0 if word == layout.sign_mask else word

    def _steps(self) -> tuple[Step, ...]:
        return self._coarse, self._middle, self._fine, self._round

    @property
    def _exponent(self) -> int:
        # Of a total that does not move up, less the one that its hidden bit adds.
        return self._width - 2 + self._unit - self._layout.mantissa_bits

    @property
    def _most(self) -> int:
        # Places that totals move up: all but the sign and the top one, or more; or as the exponent allows.
        return min(self._exponent, (1 << ceil_log2(self._width - 1)) - 1)

    def _coarse(self, m: Module, operands: SimpleNamespace) -> SimpleNamespace:
        total = operands.total
        sign = total[-1]
        signals = SimpleNamespace(
            sign=sign,
            plus=operands.plus,
            minus=operands.minus,
            word=Value.cast(Cat(sign, total[:-1] ^ sign.replicate(len(total) - 1))),
            moves=Const(0, 0),
        )
        return self._move(m, signals, range(self._most.bit_length() - 1, 3, -1))

    def _middle(self, m: Module, coarse: SimpleNamespace) -> SimpleNamespace:
        return self._move(m, coarse, (3, 2))

    def _fine(self, m: Module, middle: SimpleNamespace) -> SimpleNamespace:
        return self._move(m, middle, (1, 0))

    def _move(self, m: Module, signals: SimpleNamespace, powers: Iterable[int]) -> SimpleNamespace:
        word, moves = signals.word, signals.moves
        before, last, last_step = word, Const(0, 1), 0
        for power in powers:
            step = 1 << power
            move = Signal(name=f"move_{step}")
            # The top bits of `word`, found without waiting for the last move.
            end = len(before) - last_step
            clear = ~Mux(last, before[max(0, end - step) : end].any(), before[-step:].any())
            if not self._most >> power & 1:  # too far after the longest moves
                longest = [moves[i] for i in range(len(moves)) if self._most >> (power + 1 + i) & 1]
                clear &= ~Cat(longest).all()
            incoming = Cat(word[0].replicate(step), word[1:])
            moved = Signal(len(word) - 1, name=f"moved_{step}")
            m.d.comb += [move.eq(clear), moved.eq(Mux(move, incoming, word[1:]))]
            before, last, last_step = word, move, step
            moves = Value.cast(Cat(move, moves))
            word = Value.cast(Cat(word[0], moved))
            reach = self._layout.mantissa_bits + 2 + step  # of the moves to come, and one place below it
            excess = len(word) - reach
            if excess > 0:
                lost = word[: excess + 1]  # all ones of a negative total are nothing
                sticky = Signal(name=f"sticky_{step}")
                m.d.comb += sticky.eq(Mux(signals.sign, lost.all(), lost.any()))
                word = Value.cast(Cat(sticky, word[excess + 1 :]))
        return passed_on(signals, "sign plus minus", SimpleNamespace(word=word, moves=moves))

    def _round(self, m: Module, fine: SimpleNamespace) -> SimpleNamespace:
        layout, sign = self._layout, fine.sign
        sticky, half, odd = fine.word[:3] ^ sign.replicate(3)
        fraction, hidden = fine.word[2:-1], fine.word[-1]
        bits = layout.mantissa_bits
        special = fine.plus | fine.minus
        nan = fine.plus & fine.minus
        infinite = Signal()
        increment = Signal()
        zero = Signal()
        rounded = Signal(layout.width - 1)
        result = Signal(layout.width)
        # The exponent is self._exponent - moves, and one more with the hidden bit; ~moves is -1 - moves.
        exponent = Cat(~fine.moves, Const(-1, layout.exponent_bits))[: layout.exponent_bits]
        mask = (1 << layout.exponent_bits) - 1
        rest = Mux(hidden, Const(self._exponent + 2 & mask), Const(self._exponent + 1 & mask))
        m.d.comb += [
            infinite.eq(special | (fine.moves <= self._exponent - mask + 1)),
            increment.eq((half & (sticky | odd)) ^ sign),
            rounded.eq(Cat(fraction, exponent) + Cat(increment, Const(0, bits - 1), rest)),
            result.eq(Cat(rounded, sign)),
        ]
        if layout.flush or self._exponent > self._most:
            # Exact: the one normal number without the hidden bit yet is negative, with an increment to come.
            m.d.comb += zero.eq(~hidden & ~(sign & fraction.all()))
        with m.If(infinite):
            m.d.comb += result.eq(Cat(Const(0, bits - 1), nan, Const(mask), sign))
        with m.Elif(zero):
            m.d.comb += result.eq(0)
        with m.If(special):
            m.d.comb += result[-1].eq(~nan & fine.minus)
        return SimpleNamespace(result=result)


class FixedTerm(PipelinedUnit):
    """``term`` is the integer that a fixed-point word stands for: an ``ExactTerm`` without infinities.

    Latency ``stages``. A word per cycle, no back-pressure.

    Parameters
    ----------
    layout : fields of the words
    width : bits of the sums
    stages : 1 to 3

    Members
    -------
    x : In(W), W = ``layout.width``
    term : Out(signed(``width``))
    plus, minus : Out(1), never set
    """

    _CUTS = {1: "extend", 2: "operands extend", 3: "operands operands extend"}

    def __init__(self, *, layout: FixedLayout, width: int, stages: int = 2):
        self._layout = layout
        self._width = width
        super().__init__(
            operands={"x": layout.width},
            results={"term": signed(width), "plus": 1, "minus": 1},
            cuts=self._CUTS,
            stages=stages,
        )

    def model(self, x: int) -> tuple[int, bool, bool]:
        """(term, plus, minus), computed in plain integers."""
        return self._layout.integer(x), False, False

    def _steps(self) -> tuple[Step, ...]:
        return (self._extend,)

    def _extend(self, m: Module, operands: SimpleNamespace) -> SimpleNamespace:
        term = Signal(signed(self._width))
        m.d.comb += term.eq(operands.x.as_signed())
        return SimpleNamespace(term=term, plus=Const(0, 1), minus=Const(0, 1))


class FixedRounder(PipelinedUnit):
    """``result`` is the fixed-point word nearest to an integer total: saturated.

    Latency ``stages`` - 1, a total per cycle, no back-pressure. More than two stages only bring registers
    closer.

    Parameters
    ----------
    layout : fields of the result
    width : bits of the total
    stages : 1 to 4. The register behind ``result`` ends the last stage and is the user's

    Members
    -------
    total : In(signed(``width``))
    plus, minus : In(1), ignored
    result : Out(W), W = ``layout.width``
    """

    _CUTS = {1: "", 2: "operands", 3: "operands operands", 4: "operands operands operands"}

    def __init__(self, *, layout: FixedLayout, width: int, stages: int = 1):
        self._layout = layout
        super().__init__(
            operands={"total": signed(width), "plus": 1, "minus": 1},
            results={"result": layout.width},
            cuts=self._CUTS,
            stages=stages,
        )

    def model(self, total: int, plus: int, minus: int) -> int:
        """The result, computed in plain integers."""
        return self._layout.saturate(total)

    def _steps(self) -> tuple[Step, ...]:
        return (self._saturate,)

    def _saturate(self, m: Module, operands: SimpleNamespace) -> SimpleNamespace:
        return SimpleNamespace(result=saturated(m, operands.total, self._layout.width, name="saturated"))
