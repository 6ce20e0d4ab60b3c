"""The integer operations against the processor's own float32 and float64."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperdrive_hdl.arith import reference
from hyperdrive_hdl.arith.reference import FixedLayout, FloatLayout
from tests.support.operands import boundary_words

NATIVE = {
    np.float32: (np.uint32, FloatLayout(exponent_bits=8, mantissa_bits=23)),
    np.float64: (np.uint64, FloatLayout(exponent_bits=11, mantissa_bits=52)),
}
OPERATIONS = {
    np.add: reference.add,
    np.subtract: lambda layout, a, b: reference.add(layout, a, b, subtract=True),
    np.multiply: reference.multiply,
}


def native_result(operation, kind, a, b) -> int:
    word, layout = NATIVE[kind]
    with np.errstate(all="ignore"):
        result = operation(np.array(a, word).view(kind), np.array(b, word).view(kind))
    return layout.nan if np.isnan(result) else int(result.view(word))


@pytest.mark.parametrize("kind", NATIVE)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_boundary_operands(operation, kind):
    layout = NATIVE[kind][1]
    words = boundary_words(layout)
    assert len(words) > 60
    for a in words:
        for b in words[:: 1 if kind is np.float32 else 3]:
            assert OPERATIONS[operation](layout, a, b) == native_result(operation, kind, a, b), (
                hex(a),
                hex(b),
            )


@pytest.mark.parametrize("kind", NATIVE)
@pytest.mark.parametrize("operation", OPERATIONS)
@settings(deadline=None)
@given(data=st.data())
def test_random_operands(operation, kind, data):
    layout = NATIVE[kind][1]
    a, b = (data.draw(st.integers(0, (1 << layout.width) - 1)) for _ in range(2))
    assert OPERATIONS[operation](layout, a, b) == native_result(operation, kind, a, b)


def test_words_of_a_small_format():
    layout = FloatLayout(exponent_bits=3, mantissa_bits=2)
    assert (layout.width, layout.bias, layout.infinity, layout.nan) == (6, 3, 0b011100, 0b011110)
    assert reference.add(layout, 0b000001, 0b000011) == 0b000100  # subnormals to the smallest normal
    assert (
        reference.multiply(layout, 0b000001, 0b001000) == 0
    )  # a tie between zero and the smallest subnormal
    assert reference.multiply(layout, 0b000011, 0b001000) == 0b000010  # and one above it
    assert reference.relu(layout, 0b100000) == 0


@pytest.mark.parametrize("fields", [{"exponent_bits": 1}, {"mantissa_bits": 0}, {"mantissa_bits": 2.0}])
def test_impossible_layouts(fields):
    with pytest.raises(ValueError, match=f"{next(iter(fields))} must be an integer"):
        FloatLayout(**{"exponent_bits": 5, "mantissa_bits": 10, **fields})


@given(st.lists(st.integers(0, 0xFFFF), max_size=20), st.integers(0, 0xFFFF), st.booleans())
def test_exact_sums(terms, start, flush):
    """Against Python's fractions and one rounding of numpy's: the sum fits float64."""
    layout = FloatLayout(exponent_bits=5, mantissa_bits=10, flush=flush)
    values = np.array([start, *terms], np.uint16).view(np.float16).astype(np.float64)
    if flush:
        values[np.abs(values) < 2.0**-14] = 0
    if np.isfinite(values).all():
        values = np.array([float(sum(map(Fraction, values.tolist())))])
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.float16(values.sum())
    if flush and abs(total) < 2.0**-14:
        total = np.float16(0)
    expected = layout.nan if np.isnan(total) else int(total.view(np.uint16))
    assert reference.exact_sum(layout, start, terms) == expected


def test_conversions():
    fp16 = FloatLayout(exponent_bits=5, mantissa_bits=10)
    e4m3 = FloatLayout(exponent_bits=4, mantissa_bits=3, infinities=False)
    assert reference.convert(fp16, e4m3, 0x3C00) == 0x38
    assert reference.convert(fp16, e4m3, 0x5F80) == 0x7E  # 480, half way to where 512 would be
    assert reference.convert(fp16, e4m3, 0xFC00) == 0xFE
    assert reference.convert(fp16, e4m3, 0x7C01) == 0x7F
    assert reference.convert(e4m3, fp16, 0x01) == 0x1800  # 2^-9
    assert reference.convert(e4m3, fp16, 0xFF) == 0x7E00


@given(st.integers(-(1 << 17), (1 << 17) - 1), st.integers(-(1 << 15), (1 << 15) - 1))
def test_fixed_point(a, b):
    layout = FixedLayout(integer_bits=8, fraction_bits=9)
    scales = FixedLayout(integer_bits=3, fraction_bits=12)

    def clipped(value: int) -> int:
        return min(max(value, layout.lowest), layout.largest)

    word, other = a % (1 << 18), b % (1 << 18)
    assert layout.integer(word) == a
    assert layout.integer(reference.fixed_add(layout, word, other)) == clipped(a + b)
    assert layout.integer(reference.fixed_add(layout, word, other, subtract=True)) == clipped(a - b)
    product = reference.fixed_multiply(layout, scales, word, b % (1 << 16))
    assert layout.integer(product) == clipped(round(Fraction(a * b, 1 << 12)))
    assert layout.integer(reference.fixed_relu(layout, word)) == max(a, 0)
    assert layout.integer(reference.fixed_exact_sum(layout, word, [other] * 9)) == clipped(a + 9 * b)


def test_words_out_of_range():
    with pytest.raises(ValueError, match="word of 12 bits"):
        FixedLayout(integer_bits=2, fraction_bits=9).integer(0x1000)
    with pytest.raises(ValueError, match="fraction_bits must be an integer of at least 0"):
        FixedLayout(integer_bits=2, fraction_bits=-1)
    with pytest.raises(ValueError, match="word of 16 bits"):
        reference.add(FloatLayout(exponent_bits=5, mantissa_bits=10), 0x10000, 0)
