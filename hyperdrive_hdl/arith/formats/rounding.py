"""From words of a floating-point format to their values, and from values to the nearest words."""

import numpy as np
from numpy.typing import NDArray

from ..reference import FloatLayout


def values_of(layout: FloatLayout) -> NDArray[np.float32]:
    """The value of every word, in order; exact, since no format here has more than float32."""
    words = np.arange(1 << layout.width)
    magnitudes = words & (layout.sign_mask - 1)
    exponents = magnitudes >> layout.mantissa_bits
    significands = magnitudes & (layout.smallest_normal - 1) | (exponents > 0) << layout.mantissa_bits
    values = np.ldexp(significands.astype(np.float64), layout.unit_exponent + np.maximum(exponents - 1, 0))
    if layout.flush:
        values[exponents == 0] = 0
    values[magnitudes > layout.largest] = np.nan
    if layout.infinities:
        values[magnitudes == layout.infinity] = np.inf
    values = np.where(words & layout.sign_mask, -values, values)
    return np.where(np.isnan(values), np.nan, values).astype(np.float32)


def rounded(
    layout: FloatLayout, values: NDArray[np.float64], *, saturate: bool = False, sums: bool = False
) -> NDArray[np.uint16]:
    """The words nearest to ``values``, ties to the even one.

    What is too large, infinity included, becomes infinity, or the largest number if it is to ``saturate``.
    Subnormal results that are flushed keep their sign, but in ``sums``.
    """
    finite = np.isfinite(values)
    magnitudes = np.where(finite, np.abs(values), 0)
    exponents = np.frexp(magnitudes)[1]  # of the place above the highest one
    places = np.maximum(exponents - (layout.mantissa_bits + 1), layout.unit_exponent)
    kept = np.rint(np.ldexp(magnitudes, -places)).astype(np.int64)
    # The significand's hidden bit counts as one in the exponent field, and so does a carry out of it.
    words = ((places - layout.unit_exponent).astype(np.int64) << layout.mantissa_bits) + kept
    words = np.where(kept == 0, 0, words)  # whose exponent says nothing
    top = layout.largest if saturate else layout.infinity
    words = np.where(finite, np.minimum(words, top), top)
    signs = np.signbit(values)
    if layout.flush:
        flushed = (words > 0) & (words < layout.smallest_normal)
        words = np.where(flushed, 0, words)
        signs = signs & ~flushed if sums else signs
    words = words | signs.astype(np.int64) * layout.sign_mask
    return np.where(np.isnan(values), layout.nan, words).astype(np.uint16)


def rounded_integers(layout: FloatLayout, totals: NDArray[np.int64]) -> NDArray[np.uint16]:
    """The words nearest to ``totals`` smallest subnormals, with integer operations alone; zero is +0."""
    magnitudes = np.abs(totals)
    bits = np.frexp(magnitudes.astype(np.float64))[1].astype(np.int64)
    # float64 may have rounded up to a power of two.
    bits = bits - (magnitudes >> np.maximum(bits - 1, 0) == 0)
    shifts = np.maximum(bits - (layout.mantissa_bits + 1), 0)
    kept = magnitudes >> shifts
    rest = magnitudes - (kept << shifts)
    half = (np.int64(1) << shifts) >> 1
    kept = kept + ((rest > half) | ((rest == half) & (shifts > 0) & (kept & 1 == 1)))
    words = np.minimum((shifts << layout.mantissa_bits) + kept, layout.infinity)
    if layout.flush:
        words = np.where(words < layout.smallest_normal, 0, words)
    signs = (totals < 0) & (words > 0)
    return (words | signs.astype(np.int64) * layout.sign_mask).astype(np.uint16)
