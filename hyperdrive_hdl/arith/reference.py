"""Arithmetic of the number formats in plain Python integers, for any width.

A finite value is an exact integer in units of the smallest subnormal (of a fixed-point number: its last
place), so a sum is one integer addition and a product one integer multiplication, followed by the one
rounding. Slow, and apart from numpy: the second oracle, and the ``model()`` of the hardware units.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FloatLayout:
    """A floating-point format: a sign, ``exponent_bits``, ``mantissa_bits``, encoded as by IEEE 754.

    Round to nearest even and one NaN: the positive quiet one with an empty payload.

    Parameters
    ----------
    flush : subnormal operands count as zero, and results that would be subnormal become zero
    infinities : without them the largest exponent has numbers too, and NaN is all ones (OCP's E4M3)
    """

    exponent_bits: int
    mantissa_bits: int
    flush: bool = False
    infinities: bool = True

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
        """The word of +infinity; without infinities, the first one that is no number."""
        if not self.infinities:
            return self.sign_mask - 1
        return ((1 << self.exponent_bits) - 1) << self.mantissa_bits

    @property
    def nan(self) -> int:
        """The word of the canonical NaN."""
        return self.infinity | 1 << (self.mantissa_bits - 1)

    @property
    def largest(self) -> int:
        """The word of the largest number."""
        return self.infinity - 1

    @property
    def smallest_normal(self) -> int:
        """The word of the smallest number that is not subnormal."""
        return 1 << self.mantissa_bits

    @property
    def unit_exponent(self) -> int:
        """The smallest subnormal is 2 ** this."""
        return 1 - self.bias - self.mantissa_bits

    def is_nan(self, word: int) -> bool:
        return word & ~self.sign_mask > (self.infinity if self.infinities else self.largest)

    def is_infinite(self, word: int) -> bool:
        return self.infinities and word & ~self.sign_mask == self.infinity

    def check(self, word: int) -> None:
        """Raise ``ValueError`` unless ``word`` is a word of this format."""
        if not 0 <= word < 1 << self.width:
            raise ValueError(f"operand must be a word of {self.width} bits, not {word!r}")

    def magnitude(self, word: int) -> int:
        """|value| of a finite word in units of the smallest subnormal."""
        fraction = word & ((1 << self.mantissa_bits) - 1)
        exponent = (word & ~self.sign_mask) >> self.mantissa_bits
        if exponent == 0:
            return 0 if self.flush else fraction
        return (1 << self.mantissa_bits | fraction) << (exponent - 1)

    def integer(self, word: int) -> int:
        """The value of a finite word in units of the smallest subnormal."""
        return -self.magnitude(word) if word & self.sign_mask else self.magnitude(word)

    def round(self, negative: bool, magnitude: int, unit: int, *, saturate: bool = False) -> int:
        """The word nearest to ``magnitude`` * 2 ** ``unit`` smallest subnormals; ties go to the even one.

        What is too large becomes infinity, or the largest number. Subnormal results keep their sign where
        they are flushed.
        """
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
        word = ((unit + shift) << self.mantissa_bits) + kept if kept else 0
        if self.flush and word < self.smallest_normal:
            word = 0
        return sign | min(word, self.largest if saturate else self.infinity)


def add(layout: FloatLayout, a: int, b: int, *, subtract: bool = False) -> int:
    """a + b, or a - b, rounded once. A zero is +0, but for -0 + -0."""
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
    if layout.magnitude(a) == layout.magnitude(b) == 0:
        return a & b & layout.sign_mask
    return _rounded_sum(layout, layout.integer(a) + layout.integer(b))


def multiply(layout: FloatLayout, a: int, b: int) -> int:
    """a x b, rounded once. Infinity times zero is NaN."""
    layout.check(a)
    layout.check(b)
    sign = (a ^ b) & layout.sign_mask
    if layout.is_nan(a) or layout.is_nan(b):
        return layout.nan
    if layout.is_infinite(a) or layout.is_infinite(b):
        if any(not layout.is_infinite(x) and layout.magnitude(x) == 0 for x in (a, b)):
            return layout.nan
        return sign | layout.infinity
    product = layout.magnitude(a) * layout.magnitude(b)
    return layout.round(sign != 0, product, layout.unit_exponent)


def relu(layout: FloatLayout, a: int) -> int:
    """max(a, +0): -0 gives +0, NaN stays NaN."""
    layout.check(a)
    if layout.is_nan(a):
        return layout.nan
    return 0 if a & layout.sign_mask else a


def convert(source: FloatLayout, target: FloatLayout, word: int) -> int:
    """A word in another format, rounded to nearest even; what is too large, or infinite, becomes infinity
    in a wider format and the largest number in a narrower one (OCP's saturating mode)."""
    source.check(word)
    if source.is_nan(word):
        return target.nan
    negative = bool(word & source.sign_mask)
    narrower = target.width < source.width
    if source.is_infinite(word):
        return (target.sign_mask if negative else 0) | (target.largest if narrower else target.infinity)
    unit = source.unit_exponent - target.unit_exponent
    return target.round(negative, source.magnitude(word), unit, saturate=narrower)


def exact_sum(layout: FloatLayout, start: int, terms: Iterable[int]) -> int:
    """``start`` and all ``terms`` added exactly and rounded once; a zero is +0."""
    words = [start, *terms]
    for word in words:
        layout.check(word)
    infinite = {word for word in words if layout.is_infinite(word)}
    if len(infinite) == 2 or any(map(layout.is_nan, words)):
        return layout.nan
    return infinite.pop() if infinite else _rounded_sum(layout, sum(map(layout.integer, words)))


def _rounded_sum(layout: FloatLayout, total: int) -> int:
    """The word of a sum in units of the smallest subnormal. A sum that is zero, or flushed, is +0."""
    word = layout.round(total < 0, abs(total), 0)
    return 0 if word == layout.sign_mask else word


@dataclass(frozen=True, kw_only=True)
class FixedLayout:
    """A fixed-point format in two's complement: a sign, ``integer_bits``, ``fraction_bits``."""

    integer_bits: int
    fraction_bits: int

    def __post_init__(self) -> None:
        for name in ("integer_bits", "fraction_bits"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise ValueError(f"{name} must be an integer of at least 0, not {value!r}")

    @property
    def width(self) -> int:
        """Bits of a word."""
        return 1 + self.integer_bits + self.fraction_bits

    @property
    def largest(self) -> int:
        """The largest number in units of the last place."""
        return (1 << (self.width - 1)) - 1

    @property
    def lowest(self) -> int:
        """The lowest number in units of the last place."""
        return -1 << (self.width - 1)

    def integer(self, word: int) -> int:
        """The value of a word in units of the last place."""
        if not 0 <= word < 1 << self.width:
            raise ValueError(f"operand must be a word of {self.width} bits, not {word!r}")
        return word - (1 << self.width) if word >> (self.width - 1) else word

    def saturate(self, value: int) -> int:
        """The word nearest to ``value`` last places."""
        return min(max(value, self.lowest), self.largest) & ((1 << self.width) - 1)


def fixed_add(layout: FixedLayout, a: int, b: int, *, subtract: bool = False) -> int:
    """a + b, or a - b, saturated."""
    a, b = layout.integer(a), layout.integer(b)
    return layout.saturate(a - b if subtract else a + b)


def fixed_multiply(layout: FixedLayout, scales: FixedLayout, a: int, b: int) -> int:
    """a x b, where b is a word of ``scales``, rounded to nearest even and saturated."""
    product, shift = layout.integer(a) * scales.integer(b), scales.fraction_bits
    kept, rest, half = product >> shift, product & ((1 << shift) - 1), (1 << shift) >> 1
    kept += rest > half or (shift > 0 and rest == half and kept & 1 == 1)
    return layout.saturate(kept)


def fixed_relu(layout: FixedLayout, a: int) -> int:
    """max(a, 0)."""
    return a if layout.integer(a) > 0 else 0


def fixed_exact_sum(layout: FixedLayout, start: int, terms: Iterable[int]) -> int:
    """``start`` and all ``terms`` added exactly, saturated once."""
    return layout.saturate(sum(map(layout.integer, (start, *terms))))
