"""Floating-point formats of up to 16 bits: values in tables, results computed in float64 and rounded once."""

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..reference import FloatLayout
from .base import ACCUMULATORS, EXACT, SEQUENTIAL, Accumulator, Format, SumFormat
from .float_sums import ExactSums, SequentialSums
from .rounding import rounded, values_of


class _Floating(Format):
    """What floating-point formats share: ``layout`` has the fields."""

    dtype = np.uint16

    def __init__(self, name: str, layout: FloatLayout):
        self.name = name
        self.width = layout.width
        self.layout = layout

    @cached_property
    def _values(self) -> NDArray[np.float32]:
        return values_of(self.layout)

    @property
    def largest(self) -> float:
        return float(self._values[self.layout.largest])

    def encode(self, values: ArrayLike) -> NDArray[np.uint16]:
        with np.errstate(all="ignore"):
            return rounded(self.layout, np.asarray(values, np.float64), saturate=self.saturates)

    def fits(self, values: ArrayLike) -> NDArray[np.bool_]:
        with np.errstate(all="ignore"):
            words = rounded(self.layout, np.asarray(values, np.float64))
        return words & np.uint16(self.layout.sign_mask - 1) <= self.layout.largest

    def decode(self, words: ArrayLike) -> NDArray[np.float32]:
        return self._values[self.words(words)]

    def canonical(self, words: ArrayLike) -> NDArray[np.uint16]:
        words = self.words(words)
        magnitudes = words & np.uint16(self.layout.sign_mask - 1)
        if self.layout.flush:
            sign = words & np.uint16(self.layout.sign_mask)
            words = np.where(magnitudes < self.layout.smallest_normal, sign, words)
        return np.where(self._is_nan(words), np.uint16(self.layout.nan), words)

    def _is_nan(self, words: NDArray[np.uint16]) -> NDArray[np.bool_]:
        magnitudes = words & np.uint16(self.layout.sign_mask - 1)
        return magnitudes > (self.layout.infinity if self.layout.infinities else self.layout.largest)


class FloatFormat(_Floating, SumFormat):
    """A format with IEEE 754's encoding, in which sums are kept too: binary16, bfloat16.

    An operation is a float64 one and a second rounding. Products are exact in float64; the first rounding of
    a sum is harmless, since 53 bits are no less than 2 x (mantissa_bits + 1) + 2 and sums below the normal
    range are exact. (In float32, products of bfloat16 below its normal range would be rounded twice.)
    """

    saturates = False

    def __init__(self, name: str, layout: FloatLayout):
        super().__init__(name, layout)
        self.accumulators = ACCUMULATORS if ExactSums.is_possible(layout) else (SEQUENTIAL,)

    @property
    def scales(self) -> Format:
        return self

    def add(self, a: ArrayLike, b: ArrayLike) -> NDArray[np.uint16]:
        return self._apply(np.add, a, b, sums=True)

    def subtract(self, a: ArrayLike, b: ArrayLike) -> NDArray[np.uint16]:
        return self._apply(np.subtract, a, b, sums=True)

    def multiply(self, a: ArrayLike, b: ArrayLike) -> NDArray[np.uint16]:
        return self._apply(np.multiply, a, b, sums=False)

    def relu(self, a: ArrayLike) -> NDArray[np.uint16]:
        words = self.words(a)
        positive = np.where(words & np.uint16(self.layout.sign_mask), np.uint16(self.zero), words)
        return np.where(self._is_nan(words), np.uint16(self.layout.nan), positive)

    def count_specials(self, words: ArrayLike) -> tuple[int, int]:
        magnitudes = self.words(words) & np.uint16(self.layout.sign_mask - 1)
        infinity = np.uint16(self.layout.infinity)
        return int(np.count_nonzero(magnitudes == infinity)), int(np.count_nonzero(magnitudes > infinity))

    def operands(self, words: ArrayLike) -> NDArray[np.float32]:
        return self._operands[self.words(words)]

    def accumulator(self, start: ArrayLike, kind: str = SEQUENTIAL) -> Accumulator:
        self.check_accumulator(kind)
        return (ExactSums if kind == EXACT else SequentialSums)(self.layout, self.operands(start))

    @cached_property
    def _operands(self) -> NDArray[np.float32]:
        return self._values * SequentialSums.scale(self.layout)

    def _apply(self, operation: np.ufunc, a: ArrayLike, b: ArrayLike, *, sums: bool) -> NDArray[np.uint16]:
        with np.errstate(all="ignore"):
            result = operation(self.decode(a).astype(np.float64), self.decode(b).astype(np.float64))
            return rounded(self.layout, np.asarray(result), sums=sums)


class Float8(_Floating):
    """An OCP 8-bit format of the stored words; ``sums`` are wider.

    Narrowing saturates (OCP's SAT mode): overflow and infinity give the largest number of that sign, so that
    E5M2's infinities are only met where they come in from outside.
    """

    saturates = True

    def __init__(self, name: str, layout: FloatLayout, sums: FloatFormat):
        super().__init__(name, layout)
        self._sums = sums

    @property
    def sums(self) -> FloatFormat:
        return self._sums

    @property
    def scales(self) -> Format:
        return self._sums

    def count_specials(self, words: ArrayLike) -> tuple[int, int]:
        words = self.words(words)
        magnitudes = words & np.uint16(self.layout.sign_mask - 1)
        nans = int(np.count_nonzero(self._is_nan(words)))
        return int(np.count_nonzero(magnitudes >= self.layout.largest)) - nans, nans

    def widen(self, words: ArrayLike) -> NDArray[np.uint16]:
        return self._widened[self.words(words)]

    def narrow(self, words: ArrayLike) -> NDArray[np.uint16]:
        return self._narrowed[self._sums.words(words)]

    def operands(self, words: ArrayLike) -> NDArray[np.float32]:
        return self._operands[self.words(words)]

    def accumulator(self, start: ArrayLike, kind: str = SEQUENTIAL) -> Accumulator:
        return self._sums.accumulator(start, kind)

    @cached_property
    def _widened(self) -> NDArray[np.uint16]:
        return self._sums.encode(self._values)

    @cached_property
    def _narrowed(self) -> NDArray[np.uint16]:
        return self.encode(self._sums.decode(np.arange(1 << self._sums.width)))

    @cached_property
    def _operands(self) -> NDArray[np.float32]:
        return self._sums.operands(self._widened)
