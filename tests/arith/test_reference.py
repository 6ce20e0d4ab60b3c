"""The integer operations against the processor's own float32 and float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperdrive_hdl.arith import reference
from hyperdrive_hdl.arith.reference import FloatLayout
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


def test_words_out_of_range():
    with pytest.raises(ValueError, match="word of 16 bits"):
        reference.add(FloatLayout(exponent_bits=5, mantissa_bits=10), 0x10000, 0)
