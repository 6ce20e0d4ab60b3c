"""The formats' array operations against the integer ones."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdrive_hdl.arith import reference
from hyperdrive_hdl.arith.formats import FORMATS, FP16, format_by_name
from hyperdrive_hdl.config import FORMATS as CONFIGURABLE
from hyperdrive_hdl.errors import ConfigError
from tests.support.operands import boundary_words

WORDS = np.array(boundary_words(FP16.layout), np.uint16)
word = st.integers(0, 0xFFFF)


def test_boundary_operands():
    a, b = (x.ravel() for x in np.meshgrid(WORDS, WORDS))
    pairs = list(zip(a.tolist(), b.tolist(), strict=True))
    assert len(pairs) > 3600
    layout = FP16.layout
    assert FP16.add(a, b).tolist() == [reference.add(layout, *pair) for pair in pairs]
    assert FP16.subtract(a, b).tolist() == [reference.add(layout, *pair, subtract=True) for pair in pairs]
    assert FP16.multiply(a, b).tolist() == [reference.multiply(layout, *pair) for pair in pairs]


@given(word, word)
def test_random_operands(a, b):
    layout = FP16.layout
    assert FP16.add(a, b) == reference.add(layout, a, b)
    assert FP16.subtract(a, b) == reference.add(layout, a, b, subtract=True)
    assert FP16.multiply(a, b) == reference.multiply(layout, a, b)


def test_unary_operations_on_every_word():
    words = np.arange(0x10000).astype(np.uint16)
    layout = FP16.layout
    assert FP16.relu(words).tolist() == [reference.relu(layout, x) for x in words.tolist()]
    assert FP16.canonical(words).tolist() == [0x7E00 if layout.is_nan(x) else x for x in words.tolist()]
    assert FP16.count_specials(words) == (2, 2 * 1023)
    values = FP16.decode(words)
    assert values.dtype == np.float32
    finite = [x for x in words.tolist() if not layout.is_nan(x) and not layout.is_infinite(x)]
    assert len(finite) == 63488
    for x in finite:
        assert abs(values[x]) == layout.magnitude(x) * 2.0**-24
        assert np.signbit(values[x]) == (x >= 0x8000)
    assert np.array_equal(FP16.encode(values), FP16.canonical(words))  # there and back


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_encode_rounds_once_to_nearest_even(kind):
    """2049 and 2051 are ties; a float64 just past a tie must not be rounded to float32 first."""
    values = np.array(
        [2049, 2051, 65519.99, 65520, -1e30, 2.0**-25, 2.0**-25 * 1.01, -0.0, np.nan, -np.inf], kind
    )
    expected = [2048, 2052, 65504, np.inf, -np.inf, 0, 2.0**-24, -0.0, np.nan, -np.inf]
    np.testing.assert_array_equal(FP16.decode(FP16.encode(values)), np.array(expected, np.float32))
    assert FP16.encode(np.array(2049 + 2.0**-30, np.float64)) == FP16.encode(2050)
    assert FP16.encode([1, 2]).tolist() == [0x3C00, 0x4000]  # integers are values, not words


def add_one_by_one(start, maps, plus):
    """What an accumulator means, with the format's own additions."""
    sums = list(start)
    for x, row in zip(maps, plus, strict=True):
        sums = [FP16.add(s, x) if p else FP16.subtract(s, x) for s, p in zip(sums, row, strict=True)]
    return np.stack(sums)


@pytest.mark.parametrize("spread", ["normal", "subnormal", "overflowing", "any word"])
@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (70, 1000)])
def test_accumulator(spread, shape):
    """Term by term what additions give; the largest shape is worked on in several blocks."""
    rng = np.random.default_rng(8)
    terms, lanes = (40, 5) if shape != (70, 1000) else (6, 2)
    if spread == "any word":
        maps = rng.integers(0, 0x10000, (terms, *shape)).astype(np.uint16)
        maps = np.where(maps & 0x7C00 == 0x7C00, maps & 0x83FF, maps) if shape == (1, 1) else maps
    else:
        scale = {"normal": 1.0, "subnormal": 1e-6, "overflowing": 2e4}[spread]
        maps = FP16.encode(rng.standard_normal((terms, *shape)) * scale)
    start = np.concatenate([np.zeros((1, *shape), np.uint16), rng.choice(WORDS, (lanes - 1, *shape))])
    plus = rng.random((terms, lanes)) < 0.5
    sums = FP16.accumulator(start)
    half = terms // 2
    sums.add_terms(FP16.operands(maps[:half]), plus[:half])
    sums.add_terms(FP16.operands(maps[half:]), plus[half:])
    np.testing.assert_array_equal(sums.result(), add_one_by_one(start, maps, plus))


def test_accumulator_on_every_pair_of_boundary_words():
    words = np.concatenate([WORDS, np.arange(0x3BF8, 0x3C08, dtype=np.uint16)])
    for positive in (True, False):
        sums = FP16.accumulator(np.repeat(words[:, np.newaxis], len(words), axis=1))
        sums.add_terms(FP16.operands(words[np.newaxis]), np.full((1, len(words)), positive))
        expected = (FP16.add if positive else FP16.subtract)(words[:, np.newaxis], words)
        np.testing.assert_array_equal(sums.result(), expected)


def test_accumulator_takes_slices_and_padding():
    rng = np.random.default_rng(9)
    maps = FP16.encode(rng.standard_normal((2, 6, 6)))
    prepared = np.pad(FP16.operands(maps), ((0, 0), (1, 1), (1, 1)))
    window = np.pad(maps, ((0, 0), (1, 1), (1, 1)))[:, ::2, 1::2]
    sums = FP16.accumulator(np.zeros((3, *window.shape[1:]), np.uint16))
    plus = [[True, False, True], [False, False, True]]
    sums.add_terms(prepared[:, ::2, 1::2], plus)
    np.testing.assert_array_equal(sums.result(), add_one_by_one(np.zeros((3, 4, 4), np.uint16), window, plus))


def test_accumulator_refuses_other_shapes():
    sums = FP16.accumulator(np.zeros((3, 4, 4), np.uint16))
    with pytest.raises(ValueError, match="must be of shapes"):
        sums.add_terms(np.zeros((1, 4, 5), np.float32), [[True] * 3])
    with pytest.raises(ValueError, match="must be of shapes"):
        sums.add_terms(np.zeros((1, 4, 4), np.float32), [[True] * 2])


@pytest.mark.parametrize("words", [[0x10000], [-1], [1.0]])
def test_words_must_fit(words):
    with pytest.raises(ValueError, match="integers of 16 bits"):
        FP16.add(words, 0)


def test_names():
    assert tuple(FORMATS) == CONFIGURABLE
    assert all(format_by_name(name).name == name for name in FORMATS)
    with pytest.raises(ConfigError, match="fp16, not 'fp12'"):
        format_by_name("fp12")


def test_formats_do_not_load_amaranth():
    program = "import sys, hyperdrive_hdl.arith.formats; sys.exit('amaranth' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
