"""The floating-point adder/subtractor of a TPU (paper section III), complete IEEE 754, built small."""

from types import SimpleNamespace

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.utils import ceil_log2

from . import reference
from .float_steps import check_layout, merge_sticky, move_up, round_and_pack, take, unpack
from .pipelined import PipelinedUnit, Step, passed_on, step_signals
from .reference import FloatLayout


class FloatAdder(PipelinedUnit):
    """``result`` = ``a`` + ``b``, or ``a`` - ``b`` where ``subtract`` is set, rounded to nearest even.

    Latency ``stages`` - 1, a sum per cycle, no back-pressure; of one stage it is combinational. Infinities
    are IEEE's, every NaN result is the canonical one, x - x is +0, -0 + -0 is -0. Subnormals are kept, or
    with ``layout.flush`` taken for zeros, and results that would be subnormal are +0.

    It is instantiated once per TPU, so every step is there to save area:

    - *order*: the exponents alone decide which operand is ``large``; equal ones need no order. Where they
      swap, ``small`` is wired a place lower, so that the distance is the difference with its bits inverted.
    - *align*: ``small`` moves down; three bits below the last place are kept, the lowest one sticky. The
      longest move comes first, where half of its look-up tables merge into those that swap.
    - *add*: ones' complement without carry-in. Without a carry out of a subtraction the sum is inverted,
      which is exact: only equal exponents get there. With one, the sum is one too small; if nothing was
      shifted out, the bits below are filled with ones, and rounding delivers the missing one.
    - *coarse*, *fine*: the sum moves up, greedily, while the exponent allows it. The inversion shares
      look-up tables with the first move. A sum of zero is told early, and takes the exponent with it.
    - *round*: see ``float_steps``. Infinity and NaN go through as overflows.

    To flush, only ``small`` is cleared: where ``large`` is subnormal, so is the sum, which is cleared. Sums
    that small are exact.

    The steps hand over one group of signals each; that is where a pipelined adder has its registers.

    Parameters
    ----------
    layout : fields of the format; binary16 has 5 and 10
    stages : 1 to 4. The register behind ``result`` ends the last stage and is the user's

    Members
    -------
    a, b : In(W), W = ``layout.width``
    subtract : In(1)
    result : Out(W)
    """

    _CUTS = {1: "", 2: "add", 3: "align coarse", 4: "order add fine"}

    def __init__(self, *, layout: FloatLayout, stages: int = 1):
        check_layout(layout)
        self._layout = layout
        super().__init__(
            operands={"a": layout.width, "b": layout.width, "subtract": 1},
            results={"result": layout.width},
            cuts=self._CUTS,
            stages=stages,
        )

    def model(self, a: int, b: int, subtract: int) -> int:
        """The result, computed in plain integers."""
        return reference.add(self._layout, a, b, subtract=bool(subtract))

    def _steps(self) -> tuple[Step, ...]:
        return self._order, self._align, self._add, self._coarse, self._fine, self._round

    @property
    def _align_stages(self) -> int:
        # All distances a shifter of this many stages reaches: the significand, and two places below it.
        return min(ceil_log2(self._layout.mantissa_bits + 4), self._layout.exponent_bits)

    @property
    def _first_move(self) -> int:
        # Of the normaliser: half of a power of two that is more than the most a sum can need.
        return 1 << (ceil_log2(self._layout.mantissa_bits + 3) - 1)

    def _order(self, m: Module, operands: SimpleNamespace) -> SimpleNamespace:
        layout = self._layout
        a, b = operands.a, operands.b
        a_exponent, a_significand = unpack(m, layout, a, name="a")
        b_exponent, b_significand = unpack(m, layout, b, name="b")
        b_sign = Signal()
        difference = Signal(layout.exponent_bits + 1)
        swap = difference[-1]
        # Beyond the reach of the shifter all distances are one, its longest: only the sticky bit is left.
        stages = self._align_stages
        distance = difference[:-1] ^ swap.replicate(layout.exponent_bits)
        far = distance[stages:].any()
        small = Mux(swap, Cat(a_significand, 0), Cat(0, b_significand))
        if layout.flush:
            small &= Mux(swap, a_significand[-1], b_significand[-1]).replicate(len(small))
        ordered = step_signals(
            "ordered",
            sign=1,  # of the large operand
            unlike=1,  # the operands' signs
            equal=1,  # the operands' exponents
            special=1,  # infinity or NaN, the large operand at least
            subtract=1,  # unlike signs, and not special
            exponent=layout.exponent_bits,
            large=layout.mantissa_bits + 1,
            small=layout.mantissa_bits + 2,  # of half the unit of `large`
            distance=stages,  # places that `small` still has to move down
        )
        m.d.comb += [
            b_sign.eq(b[-1] ^ operands.subtract),
            difference.eq(a_exponent - b_exponent),
            ordered.sign.eq(Mux(swap, b_sign, a[-1])),
            ordered.unlike.eq(a[-1] ^ b_sign),
            ordered.equal.eq(~difference[:-1].any()),
            ordered.special.eq(ordered.exponent.all()),
            ordered.subtract.eq(ordered.unlike & ~ordered.special),
            ordered.exponent.eq(Mux(swap, b_exponent, a_exponent)),
            ordered.large.eq(Mux(swap, b_significand, a_significand)),
            ordered.small.eq(small),
            ordered.distance.eq(distance[:stages] | far.replicate(stages)),
        ]
        return ordered

    def _align(self, m: Module, ordered: SimpleNamespace) -> SimpleNamespace:
        layout = self._layout
        kept = layout.mantissa_bits + 3  # significand and two places below; all else is sticky
        word = Cat(0, ordered.small)
        lost = Const(0, 1)
        # The longest first, and two places last: of the orders tried, the smallest on the whole.
        for stage in (*reversed(range(2, self._align_stages)), 0, 1):
            step = 1 << stage
            moved = Signal(kept, name=f"down_{step}")
            lost_here = Signal(name=f"lost_{step}")
            move = ordered.distance[stage]
            m.d.comb += [
                moved.eq(Mux(move, word[step:], word)),
                lost_here.eq(lost | (move & word[:step].any())),
            ]
            word, lost = moved, lost_here
        aligned = step_signals(
            "aligned",
            addend=layout.mantissa_bits + 1,  # `small`, inverted in a subtraction
            below=3,  # the places below it, the lowest one sticky
        )
        m.d.comb += [
            aligned.addend.eq(word[2:] ^ ordered.subtract.replicate(layout.mantissa_bits + 1)),
            aligned.below.eq(Cat(lost, word[:2])),
        ]
        return passed_on(ordered, "sign unlike equal special subtract exponent large", aligned)

    def _add(self, m: Module, aligned: SimpleNamespace) -> SimpleNamespace:
        layout = self._layout
        subtract = aligned.subtract
        sticky, low, high = aligned.below
        exact = ~aligned.below.any()
        summed = step_signals(
            "summed",
            large_nan=1,  # if the large operand is special at all
            total=layout.mantissa_bits + 2,
            below=3,
        )
        m.d.comb += [
            summed.large_nan.eq(aligned.large[:-1].any()),
            summed.total.eq(aligned.large + aligned.addend),
            # Minus the places below: the two's complement, but ones for zero, with a one to come.
            summed.below.eq(
                Mux(
                    subtract,
                    Cat(sticky | exact, (low ^ sticky) | exact, (high ^ (low | sticky)) | exact),
                    aligned.below,
                )
            ),
        ]
        return passed_on(aligned, "sign unlike equal special subtract exponent", summed)

    def _coarse(self, m: Module, summed: SimpleNamespace) -> SimpleNamespace:
        layout = self._layout
        step = self._first_move
        total, carry = summed.total[:-1], summed.total[-1]
        invert = Signal()
        clear = Signal()  # the top `step` bits of `word`, if this is a subtraction
        clear_below = Signal()  # and the other ones
        zero = Signal()
        word = Signal(layout.mantissa_bits + 5)
        coarse = step_signals("coarse", sign=1, nan=1, overflow=1)
        inverted = total ^ invert.replicate(layout.mantissa_bits + 1)
        m.d.comb += [
            invert.eq(summed.subtract & ~carry),
            clear.eq(~inverted[1 - step :].any()),
            clear_below.eq(~inverted[: 1 - step].any()),
            zero.eq(invert & clear & clear_below),  # x - x
            # Of two special operands neither is NaN if the significands' sum is twice the hidden bit.
            coarse.nan.eq(
                summed.special & Mux(summed.equal, summed.unlike | ~(clear & clear_below), summed.large_nan)
            ),
            coarse.sign.eq(~coarse.nan & (summed.sign ^ invert) & ~zero),
            # Infinity and NaN look like a carry out of the largest exponent, which overflows to infinity.
            coarse.overflow.eq(summed.exponent[1:].all() & word[-1]),
            word.eq(
                Cat(
                    Mux(invert, 0, summed.below),
                    inverted,
                    (carry & ~summed.subtract) | summed.special,
                )
            ),
        ]
        if layout.flush:
            coarse.subtract = summed.subtract
        moved, exponent = word, summed.exponent
        if layout.exponent_bits >= step.bit_length():
            # A sum that moves this far has at most one bit below `total`; the two under that are equal.
            moved, move = move_up(m, word, exponent, step=step, clear=clear & summed.subtract, still=2)
            exponent = take(m, exponent, move, step=step, none=zero)
        return SimpleNamespace(**vars(coarse), word=moved, exponent=exponent)

    def _fine(self, m: Module, coarse: SimpleNamespace) -> SimpleNamespace:
        word, exponent = coarse.word, coarse.exponent
        step = self._first_move
        while step > 4:
            step //= 2
            if len(exponent) >= step.bit_length():
                word, move = move_up(m, word, exponent, step=step, still=2)
                exponent = take(m, exponent, move, step=step)
        word, owed = move_up(m, word, exponent, step=2)
        word = merge_sticky(m, word, bits=self._layout.mantissa_bits + 4, name="sticky")
        fine = SimpleNamespace(word=word, exponent=exponent, owed=owed)
        return SimpleNamespace(**(vars(coarse) | vars(fine)))

    def _round(self, m: Module, fine: SimpleNamespace) -> SimpleNamespace:
        packed, flushed = round_and_pack(
            m,
            self._layout,
            fine.word,
            Value.cast(Cat(fine.exponent[0] & ~fine.overflow, fine.exponent[1:])),
            owed=fine.owed,
            clear=fine.overflow,
            nan=fine.nan,
        )
        # Zeros of like signs keep it.
        sign = fine.sign & ~(flushed & fine.subtract) if self._layout.flush else fine.sign
        return SimpleNamespace(result=Cat(packed, sign))
