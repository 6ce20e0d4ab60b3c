"""Operands on which floating-point units go wrong first."""

from hyperdrive_hdl.arith.reference import FloatLayout


def boundary_words(layout: FloatLayout) -> list[int]:
    """Zeros, subnormals, powers of two and their neighbours, ties, largest, infinity, NaNs; both signs."""
    m, e = layout.mantissa_bits, layout.exponent_bits
    ones = (1 << m) - 1
    largest = layout.infinity - 1
    exponents = {1, 2, m - 1, m, m + 1, m + 2, layout.bias - 1, layout.bias, layout.bias + 1}
    exponents |= {(1 << e) - 2, (1 << e) - 2 - m, (1 << e) - 3 - m, (1 << e) - 4 - m}
    words = {0, 1, 2, 3, ones >> 1, (ones >> 1) + 1, ones - 1, ones, largest, largest - 1}
    words |= {layout.infinity, layout.infinity | 1, layout.nan, layout.nan | ones}
    for exponent in exponents:
        if 0 < exponent < (1 << e) - 1:
            fractions = (0, 1, (ones >> 1) + 1, ones)
            words |= {exponent << m | fraction for fraction in fractions}
    return sorted(words | {word | layout.sign_mask for word in words})
