"""Floating-point addition, multiplication and ReLU in plain Python integers, for any width.

A finite value is an exact integer in units of the smallest subnormal, so a sum is one integer addition and
a product one integer multiplication, followed by the one rounding. Slow and independent of numpy's float16:
the second oracle, and the ``model()`` of the hardware units.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FloatLayout:
    """An IEEE 754 interchange format: a sign, ``exponent_bits``, ``mantissa_bits``.

    Round to nearest even, subnormals kept, and one NaN: the positive quiet one with an empty payload.
    """

    exponent_bits: int
    mantissa_bits: int

    def __post_init__(self) -> None:
        for name, low in (("exponent_bits", 2), ("mantissa_bits", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise ValueError(f"{name} must be an integer of at least {low}, not {value!r}")

    @property
    def width(self) -> int:
        """Bits of a word."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        """What is added to a value's exponent to give its exponent field."""
        return (1 << (self.exponent_bits - 1)) - 1

    @property
    def sign_mask(self) -> int:
        return 1 << (self.width - 1)

    @property
    def infinity(self) -> int:
        """The word of +infinity."""
        return ((1 << self.exponent_bits) - 1) << self.mantissa_bits

    @property
    def nan(self) -> int:
        """The word of the canonical NaN."""
        return self.infinity | 1 << (self.mantissa_bits - 1)

    def is_nan(self, word: int) -> bool:
        return word & ~self.sign_mask > self.infinity

    def is_infinite(self, word: int) -> bool:
        return word & ~self.sign_mask == self.infinity

    def check(self, word: int) -> None:
        """Raise ``ValueError`` unless ``word`` is a word of this format."""
        if not 0 <= word < 1 << self.width:
            raise ValueError(f"operand must be a word of {self.width} bits, not {word!r}")

    def magnitude(self, word: int) -> int:
        """|value| of a finite word in units of the smallest subnormal."""
        fraction = word & ((1 << self.mantissa_bits) - 1)
        exponent = (word & self.infinity) >> self.mantissa_bits
        if exponent == 0:
            return fraction
        return (1 << self.mantissa_bits | fraction) << (exponent - 1)

    def round(self, negative: bool, magnitude: int, unit: int) -> int:
        """The word nearest to ``magnitude`` * 2 ** ``unit`` smallest subnormals; ties go to the even one."""
        sign = self.sign_mask if negative else 0
        excess = magnitude.bit_length() - (self.mantissa_bits + 1)
        shift = max(excess, -unit)  # places to drop: down to the significand, or to the smallest subnormal
        if shift > 0:
            kept, rest = magnitude >> shift, magnitude & ((1 << shift) - 1)
            half = 1 << (shift - 1)
            kept += rest > half or (rest == half and kept & 1 == 1)
        else:
            kept = magnitude << -shift
        # A significand's hidden bit counts as one in the exponent field, and so does a carry out of it.
        return sign | min(((unit + shift) << self.mantissa_bits) + kept if kept else 0, self.infinity)


def add(layout: FloatLayout, a: int, b: int, *, subtract: bool = False) -> int:
    """a + b, or a - b, rounded once. An exact zero is +0, but for -0 + -0."""
    layout.check(a)
    layout.check(b)
    if layout.is_nan(a) or layout.is_nan(b):
        return layout.nan
    if subtract:
        b ^= layout.sign_mask
    if layout.is_infinite(a) or layout.is_infinite(b):
        if layout.is_infinite(a) and layout.is_infinite(b) and a != b:
            return layout.nan
        return a if layout.is_infinite(a) else b
    total = sum(-layout.magnitude(x) if x & layout.sign_mask else layout.magnitude(x) for x in (a, b))
    if total == 0:
        return a & b & layout.sign_mask
    return layout.round(total < 0, abs(total), 0)


def multiply(layout: FloatLayout, a: int, b: int) -> int:
    """a x b, rounded once. Infinity times zero is NaN."""
    layout.check(a)
    layout.check(b)
    sign = (a ^ b) & layout.sign_mask
    if layout.is_nan(a) or layout.is_nan(b):
        return layout.nan
    if layout.is_infinite(a) or layout.is_infinite(b):
        if a & ~layout.sign_mask == 0 or b & ~layout.sign_mask == 0:
            return layout.nan
        return sign | layout.infinity
    product = layout.magnitude(a) * layout.magnitude(b)
    return layout.round(sign != 0, product, 1 - layout.bias - layout.mantissa_bits)


def relu(layout: FloatLayout, a: int) -> int:
    """max(a, +0): -0 gives +0, NaN stays NaN."""
    layout.check(a)
    if layout.is_nan(a):
        return layout.nan
    return 0 if a & layout.sign_mask else a
