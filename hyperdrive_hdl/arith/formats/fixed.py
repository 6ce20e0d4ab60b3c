"""Fixed-point formats ``qI.F``: a sign, I integer bits and F fraction bits in two's complement, saturating.

Stored words have 4 to 16 bits (the paper's outlook and YodaNN: q2.9). Sums have six integer bits more, so
that a layer's sum seldom saturates before its scale brings it back; factors are q3.12 whatever the format.
"""

import re
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..reference import FixedLayout
from .base import EXACT, SEQUENTIAL, Accumulator, Format, SumFormat
from .float_sums import checked_plus

MIN_WIDTH, MAX_WIDTH = 4, 16
EXTRA_INTEGER_BITS = 6  # of sums
SCALE_LAYOUT = FixedLayout(integer_bits=3, fraction_bits=12)

_NAME = re.compile(r"q(0|[1-9]\d?)\.(0|[1-9]\d?)")


def fixed_by_name(name: str) -> "FixedFormat | None":
    """The format of that name; None if it is not the name of one."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    layout = FixedLayout(integer_bits=int(match[1]), fraction_bits=int(match[2]))
    return fixed_format(layout) if MIN_WIDTH <= layout.width <= MAX_WIDTH else None


@cache
def fixed_format(layout: FixedLayout) -> "FixedFormat":
    """The stored format with that layout, always the same object."""
    return FixedFormat(layout)


class _Fixed(Format):
    """What fixed-point formats share: ``layout`` has the fields."""

    saturates = True

    def __init__(self, layout: FixedLayout):
        self.name = f"q{layout.integer_bits}.{layout.fraction_bits}"
        self.width = layout.width
        self.dtype = np.uint16 if layout.width <= 16 else np.uint32
        self.layout = layout

    @property
    def scales(self) -> Format:
        return fixed_format(SCALE_LAYOUT)

    @property
    def largest(self) -> float:
        return self.layout.largest / (1 << self.layout.fraction_bits)

    def encode(self, values: ArrayLike) -> NDArray:
        places = np.nan_to_num(self._places(values), nan=0)
        return self.from_integers(np.clip(places, self.layout.lowest, self.layout.largest).astype(np.int64))

    def fits(self, values: ArrayLike) -> NDArray[np.bool_]:
        places = self._places(values)
        return (places >= self.layout.lowest) & (places <= self.layout.largest)

    def decode(self, words: ArrayLike) -> NDArray[np.float32]:
        return self.integers(words).astype(np.float32) / np.float32(1 << self.layout.fraction_bits)

    def canonical(self, words: ArrayLike) -> NDArray:
        return self.words(words)

    def count_specials(self, words: ArrayLike) -> tuple[int, int]:
        values = self.integers(words)
        return int(np.count_nonzero((values == self.layout.lowest) | (values == self.layout.largest))), 0

    def _places(self, values: ArrayLike) -> NDArray[np.float64]:
        """``values`` in units of the last place, rounded to nearest even."""
        with np.errstate(over="ignore"):
            return np.rint(np.asarray(values, np.float64) * (1 << self.layout.fraction_bits))

    def integers(self, words: ArrayLike) -> NDArray[np.int32]:
        """The values of ``words`` in units of the last place."""
        unused = np.int32(32 - self.width)
        return (self.words(words).astype(np.uint32).view(np.int32) << unused) >> unused

    def from_integers(self, values: NDArray) -> NDArray:
        """Words of ``values`` last places, saturated."""
        clipped = np.clip(values, self.layout.lowest, self.layout.largest)
        return (clipped & ((1 << self.width) - 1)).astype(self.dtype)


class FixedSums(_Fixed, SumFormat):
    """The format of sums. ReLU is max(x, 0); a product is exact, then rounded to nearest even."""

    def add(self, a: ArrayLike, b: ArrayLike) -> NDArray:
        return self.from_integers(self.integers(a) + self.integers(b))

    def subtract(self, a: ArrayLike, b: ArrayLike) -> NDArray:
        return self.from_integers(self.integers(a) - self.integers(b))

    def multiply(self, a: ArrayLike, b: ArrayLike) -> NDArray:
        factors = fixed_format(SCALE_LAYOUT).integers(b)
        products = self.integers(a).astype(np.int64) * factors
        shift = SCALE_LAYOUT.fraction_bits
        kept = products >> shift
        rest, half = products & ((1 << shift) - 1), 1 << (shift - 1)
        return self.from_integers(kept + ((rest > half) | ((rest == half) & (kept & 1 == 1))))

    def relu(self, a: ArrayLike) -> NDArray:
        return self.from_integers(np.maximum(self.integers(a), 0))

    def operands(self, words: ArrayLike) -> NDArray[np.int32]:
        return self.integers(words)

    def accumulator(self, start: ArrayLike, kind: str = SEQUENTIAL) -> Accumulator:
        self.check_accumulator(kind)
        return (ExactFixedSums if kind == EXACT else SequentialFixedSums)(self, start)


class FixedFormat(_Fixed):
    """The format of stored words; the last place of its ``sums`` is its own."""

    def __init__(self, layout: FixedLayout):
        super().__init__(layout)
        wider = layout.integer_bits + EXTRA_INTEGER_BITS
        self._sums = FixedSums(FixedLayout(integer_bits=wider, fraction_bits=layout.fraction_bits))

    @property
    def sums(self) -> FixedSums:
        return self._sums

    def widen(self, words: ArrayLike) -> NDArray:
        return self._sums.from_integers(self.integers(words))

    def narrow(self, words: ArrayLike) -> NDArray:
        return self.from_integers(self._sums.integers(words))

    def operands(self, words: ArrayLike) -> NDArray[np.int32]:
        return self.integers(words)

    def accumulator(self, start: ArrayLike, kind: str = SEQUENTIAL) -> Accumulator:
        return self._sums.accumulator(start, kind)


class SequentialFixedSums(Accumulator):
    """Sums that saturate at each addition, in int32: two words of 22 bits never overflow it."""

    def __init__(self, format: FixedSums, start: ArrayLike):
        self._format = format
        self._sums = format.integers(start)

    def add_terms(self, operands: NDArray[np.int32], plus: ArrayLike) -> None:
        plus = checked_plus(operands, plus, self._sums.shape)
        low, high = np.int32(self._format.layout.lowest), np.int32(self._format.layout.largest)
        signs = np.where(plus, np.int32(1), np.int32(-1)).reshape(*plus.shape, *[1] * (self._sums.ndim - 1))
        for x, sign in zip(operands, signs, strict=True):
            np.clip(self._sums + x * sign, low, high, out=self._sums)

    def result(self) -> NDArray:
        return self._format.from_integers(self._sums)


class ExactFixedSums(Accumulator):
    """Sums in int64 that saturate when the result is asked for.

    Terms are added as products of float64 matrices, which are exact for any number of terms in memory.
    """

    def __init__(self, format: FixedSums, start: ArrayLike):
        self._format = format
        self._sums = format.integers(start).astype(np.int64)

    def add_terms(self, operands: NDArray[np.int32], plus: ArrayLike) -> None:
        plus = checked_plus(operands, plus, self._sums.shape)
        maps = operands.reshape(len(operands), -1).astype(np.float64)
        total = np.where(plus, 1.0, -1.0).T @ maps
        self._sums += total.astype(np.int64).reshape(self._sums.shape)

    def result(self) -> NDArray:
        return self._format.from_integers(self._sums)
