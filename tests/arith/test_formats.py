"""The formats' array operations against numpy, ml_dtypes, fractions and the integer operations."""

import math
import subprocess
import sys
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdrive_hdl.arith import reference
from hyperdrive_hdl.arith.formats import (
    BF16,
    FORMATS,
    FP8_E4M3,
    FP8_E5M2,
    FP16,
    FixedFormat,
    Float8,
    FloatFormat,
    Format,
    format_by_name,
)
from hyperdrive_hdl.arith.reference import FixedLayout, FloatLayout
from hyperdrive_hdl.errors import ConfigError
from tests.support.operands import boundary_words
from tests.support.witness import FLOAT_TYPES, FixedWitness, FloatWitness, witness

FIXED_NAMES = ("q2.9", "q7.8", "q1.2", "q0.3", "q15.0", "q0.11")
NAMES = (*FORMATS, *FIXED_NAMES)
EIGHT_BITS = [name for name, format in FORMATS.items() if isinstance(format, Float8)]
SUMMED = [name for name, format in FORMATS.items() if isinstance(format, FloatFormat)]
WORDS = np.array(boundary_words(FP16.layout), np.uint16)
word = st.integers(0, 0xFFFF)


def each(*names: str) -> pytest.MarkDecorator:
    """The test once for each of the formats."""
    return pytest.mark.parametrize("format", [format_by_name(name) for name in names], ids=names)


all_formats, float_formats, fixed_formats = each(*NAMES), each(*FORMATS), each(*FIXED_NAMES)
summed_formats, eight_bit_formats = each(*SUMMED), each(*EIGHT_BITS)
all_accumulators = pytest.mark.parametrize(
    ("format", "kind"),
    [(format, kind) for format in map(format_by_name, NAMES) for kind in format.accumulators],
    ids=lambda value: getattr(value, "name", value),
)


def every_word(format: Format) -> np.ndarray:
    return np.arange(1 << format.width).astype(format.dtype)


def witnessed_values(format: Float8 | FloatFormat) -> np.ndarray:
    """float64 values of all words, by numpy and ml_dtypes."""
    by = witness(format.name)
    assert isinstance(by, FloatWitness)
    with np.errstate(invalid="ignore"):
        values = every_word(format).astype(f"u{by.stored.itemsize}").view(by.stored).astype(np.float64)
    smallest_normal = float(ml_dtypes.finfo(by.stored).smallest_normal)
    return np.where(by.flush & (np.abs(values) < smallest_normal), np.copysign(0, values), values)


def sum_words(format: FloatFormat) -> np.ndarray:
    return np.array(boundary_words(format.layout), np.uint16)


def special_to_nan(format: Float8 | FloatFormat, words: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(witnessed_values(format)), format.layout.nan, words)


# Words and values.


@float_formats
def test_values_of_every_word(format):
    expected = witnessed_values(format)
    values = format.decode(every_word(format))
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(np.signbit(values), np.signbit(expected) & ~np.isnan(expected))
    assert format.largest == float(ml_dtypes.finfo(FLOAT_TYPES[format.name.removesuffix("_ftz")]).max)


@float_formats
def test_every_word_there_and_back(format):
    words = every_word(format)
    values = format.decode(words)
    expected = format.canonical(words)
    if format.saturates:
        expected = np.where(np.isposinf(values), format.layout.largest, expected)
        expected = np.where(np.isneginf(values), format.layout.largest | format.layout.sign_mask, expected)
    np.testing.assert_array_equal(format.encode(values), expected)
    np.testing.assert_array_equal(format.encode(values.astype(np.float64)), expected)


def test_special_words():
    """The words that the chip's documents name."""
    assert (FP16.layout.nan, FP16.layout.infinity) == (0x7E00, 0x7C00)
    assert (FP8_E4M3.layout.nan, FP8_E5M2.layout.nan) == (0x7F, 0x7E)
    assert (FP8_E4M3.largest, FP8_E5M2.largest) == (448, 57344)
    beyond = [1e6, -1e6, np.inf, -np.inf, np.nan, -np.nan]
    assert FP8_E4M3.encode(beyond).tolist() == [0x7E, 0xFE, 0x7E, 0xFE, 0x7F, 0x7F]
    assert FP8_E5M2.encode(beyond).tolist() == [0x7B, 0xFB, 0x7B, 0xFB, 0x7E, 0x7E]
    assert FP16.encode(beyond).tolist() == [0x7C00, 0xFC00, 0x7C00, 0xFC00, 0x7E00, 0x7E00]
    assert FP8_E5M2.widen([0x7C, 0xFC, 0x7D, 0xFF]).tolist() == [0x7C00, 0xFC00, 0x7E00, 0x7E00]
    q = format_by_name("q2.9")
    assert q.encode([*beyond, 1, -1]).tolist() == [0x7FF, 0x800, 0x7FF, 0x800, 0, 0, 0x200, 0xE00]


@float_formats
def test_encode_rounds_to_the_nearest_and_ties_to_even(format):
    """Half way between all neighbours, and float64's next numbers on either side, which are no float32."""
    layout = format.layout
    low = np.arange(layout.largest)
    value = witnessed_values(format)
    low_value, high_value = value[low], value[low + 1]
    if layout.flush:  # between zero and the smallest normal number subnormals decide, and then go
        low, low_value, high_value = (x[layout.smallest_normal :] for x in (low, low_value, high_value))
    middle = (low_value + high_value) / 2
    assert np.all((low_value < middle) & (middle < high_value))
    for sign, mask in ((1, 0), (-1, layout.sign_mask)):
        np.testing.assert_array_equal(format.encode(sign * middle), (low + (low & 1)) | mask)
        np.testing.assert_array_equal(format.encode(sign * np.nextafter(middle, 0)), low | mask)
        np.testing.assert_array_equal(format.encode(sign * np.nextafter(middle, 1e300)), (low + 1) | mask)


@float_formats
def test_encode_at_either_end(format):
    layout = format.layout
    unit, top = 2.0**layout.unit_exponent, format.largest
    half_step = (top - float(format.decode([layout.largest - 1])[0])) / 2
    beyond = layout.largest if format.saturates else layout.infinity
    words = format.encode([top, np.nextafter(top + half_step, 0), top + half_step, 1e300])
    assert words.tolist() == [layout.largest, layout.largest, beyond, beyond]
    tiny = format.encode([unit / 2, np.nextafter(unit / 2, 1), 1e-300, 0.0])
    assert tiny.tolist() == [0, 0 if layout.flush else 1, 0, 0]
    assert format.encode([-unit / 4, -0.0]).tolist() == [layout.sign_mask] * 2
    normal = layout.smallest_normal * unit
    words = format.encode([normal, normal - unit / 2, normal - unit * 0.51])
    below = 0 if layout.flush else layout.smallest_normal - 1
    assert words.tolist() == [layout.smallest_normal, layout.smallest_normal, below]


@float_formats
def test_encode_of_random_values(format):
    """float32 values, since ml_dtypes goes through them; clipped first where the format saturates."""
    rng = np.random.default_rng(1)
    values = (rng.normal(size=20_000) * 2.0 ** rng.integers(-30, 20, 20_000)).astype(np.float32)
    clipped = np.clip(values, -format.largest, format.largest) if format.saturates else values
    by = witness(format.name)
    assert isinstance(by, FloatWitness)
    with np.errstate(all="ignore"):
        expected = by._flushed(clipped.astype(by.stored))
    np.testing.assert_array_equal(format.decode(format.encode(values)), expected.astype(np.float32))


def test_integers_are_values_not_words():
    assert FP16.encode([1, 2]).tolist() == [0x3C00, 0x4000]
    assert FP16.encode(2049) == FP16.encode(2048)


@fixed_formats
def test_fixed_values_of_every_word(format):
    by = witness(format.name)
    assert isinstance(by, FixedWitness)
    words = every_word(format)
    exact = [Fraction(int(i), 1 << by.fraction) for i in by.read(words)]
    values = format.decode(words)
    assert values.dtype == np.float32
    assert [Fraction(float(v)) for v in values] == exact
    np.testing.assert_array_equal(format.encode(values), words)
    assert Fraction(format.largest) == max(exact)
    # Half way to the next, and float64's next numbers; Python rounds half to even too.
    middle = values.astype(np.float64) + 0.5 / (1 << by.fraction)
    for tie in (middle, np.nextafter(middle, -1e9), np.nextafter(middle, 1e9)):
        nearest = [round(Fraction(float(v)) * (1 << by.fraction)) for v in tie]
        expected = np.clip(nearest, format.layout.lowest, format.layout.largest) % (1 << format.width)
        np.testing.assert_array_equal(format.encode(tie), expected)


@all_formats
def test_fits(format):
    step = 2.0 ** (-format.layout.fraction_bits if isinstance(format, FixedFormat) else -30)
    inside = step / 4
    if not isinstance(format, FixedFormat):
        inside = format.largest * 2.0**-format.layout.mantissa_bits / 8
    assert format.fits([0, 1e-30, format.largest, -format.largest, format.largest + inside]).all()
    beyond = [1.5 * format.largest + step, -2 * format.largest - 4 * step, np.inf, np.nan]
    assert not format.fits(beyond).any()


@all_formats
def test_count_specials(format):
    values = format.decode(every_word(format)).astype(np.float64)
    specials = np.count_nonzero(np.isnan(values))
    if isinstance(format, FixedFormat):
        assert format.count_specials(every_word(format)) == (2, 0)
    elif format.saturates:
        assert format.count_specials(every_word(format)) == (
            np.count_nonzero(np.abs(values) >= format.largest),
            specials,
        )
    else:
        assert format.count_specials(every_word(format)) == (2, specials)
    assert format.count_specials(format.encode([0, 0.25, -0.5])) == (0, 0)


# Stored words and sums.


@eight_bit_formats
def test_every_word_widened_and_narrowed(format):
    by = witness(format.name)
    assert isinstance(by, FloatWitness)
    np.testing.assert_array_equal(format.widen(every_word(format)), by.sums(by.read(every_word(format))))
    sums = every_word(format.sums)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(format.narrow(sums), by.write(by.read_sums(sums)))
    source, target = format.sums.layout, format.layout
    assert format.narrow(sums).tolist() == [reference.convert(source, target, w) for w in sums.tolist()]
    widened = [reference.convert(target, source, w) for w in every_word(format).tolist()]
    assert format.widen(every_word(format)).tolist() == widened


@fixed_formats
def test_every_fixed_word_widened_and_narrowed(format):
    by = witness(format.name)
    np.testing.assert_array_equal(format.widen(every_word(format)), by.sums(by.read(every_word(format))))
    sums = every_word(format.sums)
    np.testing.assert_array_equal(format.narrow(sums), by.write(by.read_sums(sums)))
    np.testing.assert_array_equal(format.narrow(format.widen(every_word(format))), every_word(format))


@summed_formats
def test_formats_of_sums_are_stored_as_they_are(format):
    assert format.sums is format
    assert format.scales is format
    assert format.words_per_sum == 1
    words = every_word(format)
    np.testing.assert_array_equal(format.widen(words), words)
    np.testing.assert_array_equal(format.narrow(words), words)


@pytest.mark.parametrize(
    ("name", "sums", "width", "parts"),
    [
        ("fp8_e4m3", "fp16", 16, 2),
        ("fp8_e5m2_ftz", "fp16_ftz", 16, 2),
        ("bf16", "bf16", 16, 1),
        ("q2.9", "q8.9", 18, 2),
        ("q7.8", "q13.8", 22, 2),
        ("q1.2", "q7.2", 10, 3),
    ],
)
def test_formats_of_sums(name, sums, width, parts):
    format = format_by_name(name)
    assert (format.sums.name, format.sums.width, format.words_per_sum) == (sums, width, parts)
    assert format.sums.sums is format.sums
    assert format.sums.dtype == (np.uint16 if width <= 16 else np.uint32)
    assert format.scales.name == ("q3.12" if name.startswith("q") else sums)


@all_formats
def test_split_and_join(format):
    rng = np.random.default_rng(2)
    sums = rng.integers(0, 1 << format.sums.width, (3, 4)).astype(format.sums.dtype)
    parts = format.split(sums)
    assert parts.shape == (format.words_per_sum, 3, 4)
    assert parts.dtype == np.uint16
    assert parts.max() < 1 << format.width
    for at in np.ndindex(3, 4):
        whole = sum(int(part[at]) << (index * format.width) for index, part in enumerate(parts))
        assert whole == int(sums[at])
    joined = format.join(parts)
    assert joined.dtype == format.sums.dtype
    np.testing.assert_array_equal(joined, sums)


# Arithmetic.


def pairs(words: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
    a, b = (x.ravel() for x in np.meshgrid(words, words))
    return a, b, list(zip(a.tolist(), b.tolist(), strict=True))


@summed_formats
def test_boundary_operands(format):
    a, b, both = pairs(sum_words(format))
    assert len(both) > 3600
    layout = format.layout
    assert format.add(a, b).tolist() == [reference.add(layout, *pair) for pair in both]
    assert format.subtract(a, b).tolist() == [reference.add(layout, *pair, subtract=True) for pair in both]
    assert format.multiply(a, b).tolist() == [reference.multiply(layout, *pair) for pair in both]


@summed_formats
def test_many_operands_by_others(format):
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 1 << 16, (2, 200_000)).astype(np.uint16)
    near = rng.integers(-3 << format.layout.mantissa_bits, 3 << format.layout.mantissa_bits, a.size)
    near = ((a.astype(int) + near) & 0xFFFF).astype(np.uint16)  # of about the same size as a
    by = witness(format.name)
    with np.errstate(all="ignore"):
        for other in (b, near):
            x, y = by.read_sums(a), by.read_sums(other)
            np.testing.assert_array_equal(format.add(a, other), by.sums(by.add(x, y)))
            np.testing.assert_array_equal(format.subtract(a, other), by.sums(by.add(x, -y)))
            np.testing.assert_array_equal(format.multiply(a, other), by.sums(by.multiply(x, y)))


@summed_formats
def test_products_below_the_normal_range_are_rounded_once(format):
    """Of bfloat16, float32 would round them to 2^-149 first."""
    layout = format.layout
    rng = np.random.default_rng(4)
    significands = rng.integers(1 << layout.mantissa_bits, 2 << layout.mantissa_bits, (2, 3000))
    exponent = 1 - layout.bias - rng.integers(2, layout.mantissa_bits + 4, 3000)  # the product's, or one less
    a = np.ldexp(significands[0] / layout.smallest_normal, exponent // 2)
    b = np.ldexp(significands[1] / layout.smallest_normal, exponent - exponent // 2)
    words = format.multiply(format.encode(a), format.encode(b))
    unit = Fraction(2) ** layout.unit_exponent
    for x, y, found in zip(a.tolist(), b.tolist(), words.tolist(), strict=True):
        places = round(Fraction(x) * Fraction(y) / unit)
        assert found == (0 if layout.flush and places < layout.smallest_normal else places)


@given(word, word)
def test_random_operands(a, b):
    for format in (FP16, BF16, FORMATS["fp16_ftz"], FORMATS["bf16_ftz"]):
        layout = format.layout
        assert format.add(a, b) == reference.add(layout, a, b)
        assert format.subtract(a, b) == reference.add(layout, a, b, subtract=True)
        assert format.multiply(a, b) == reference.multiply(layout, a, b)


@summed_formats
def test_unary_operations_on_every_word(format):
    words = every_word(format)
    layout = format.layout
    assert format.relu(words).tolist() == [reference.relu(layout, x) for x in words.tolist()]
    flushed = np.where(
        layout.flush & (words & 0x7FFF < layout.smallest_normal), words & np.uint16(0x8000), words
    )
    np.testing.assert_array_equal(format.canonical(words), special_to_nan(format, flushed))


def test_flushed_sums_are_plus_zero_and_products_keep_their_sign():
    ftz = FORMATS["fp16_ftz"]
    normal, three = 0x0400, 0x0600  # the smallest normal number, and one and a half of it
    assert ftz.subtract(normal, three) == 0x0000  # the difference is subnormal
    assert FP16.subtract(normal, three) == 0x8200
    assert ftz.multiply(three, 0xB800) == 0x8000  # times -0.5
    assert ftz.add(0x0001, 0x0400) == 0x0400  # a subnormal operand
    assert ftz.add(0x8001, 0x8000) == 0x8000  # two zeros of their sign
    assert ftz.multiply(0x0001, 0x7C00) == 0x7E00  # zero times infinity


@each("q2.9", "q1.2")
def test_fixed_operands(format):
    rng = np.random.default_rng(5)
    sums, layout = format.sums, format.sums.layout
    ends = [0, 1, 2, layout.largest, layout.largest - 1, layout.lowest, layout.lowest + 1, -1, -2]
    values = np.array([*ends, *rng.integers(layout.lowest, layout.largest, 60)])
    a, b, both = pairs((values % (1 << sums.width)).astype(sums.dtype))
    assert sums.add(a, b).tolist() == [reference.fixed_add(layout, *pair) for pair in both]
    differences = [reference.fixed_add(layout, *pair, subtract=True) for pair in both]
    assert sums.subtract(a, b).tolist() == differences
    assert sums.relu(a).tolist() == [reference.fixed_relu(layout, x) for x in a.tolist()]
    factors = rng.integers(0, 1 << 16, a.size).astype(np.uint16)
    factors[::3] = rng.choice([0x0800, 0x1000, 0xF800, 0x7FFF, 0x8000, 1], factors[::3].size)  # ties, ends
    scales = FixedLayout(integer_bits=3, fraction_bits=12)
    found = sums.multiply(a, factors)
    both = list(zip(a.tolist(), factors.tolist(), strict=True))
    assert found.tolist() == [reference.fixed_multiply(layout, scales, *pair) for pair in both]
    by = witness(format.name)
    np.testing.assert_array_equal(found, by.sums(by.multiply(by.read_sums(a), by.read_scales(factors))))
    np.testing.assert_array_equal(sums.add(a, b), by.sums(by.add(by.read_sums(a), by.read_sums(b))))


def test_fixed_products_by_hand():
    """q8.9 x q3.12, in last places: 3 x 0.5 and 5 x 0.5 are ties, -3 x 0.5 too."""
    sums = format_by_name("q2.9").sums
    half, most, least = 0x0800, 0x7FFF, 0x8000
    assert sums.multiply([3, 5, (1 << 18) - 3], half).tolist() == [2, 2, (1 << 18) - 2]
    assert sums.multiply([0x1FFFF, 0x20000], most).tolist() == [0x1FFFF, 0x20000]
    assert sums.multiply([0x1FFFF, 0x20000], least).tolist() == [0x20000, 0x1FFFF]


# Accumulators.


def add_one_by_one(format, start, maps, plus):
    """What a sequential accumulator means, with the format's own additions."""
    by = format.sums
    maps = format.widen(maps)
    sums = list(start)
    for x, row in zip(maps, plus, strict=True):
        sums = [by.add(s, x) if p else by.subtract(s, x) for s, p in zip(sums, row, strict=True)]
    return np.stack(sums)


def add_exactly(format, start, maps, plus):
    """What an exact one means, in Python's integers."""
    layout = format.sums.layout
    maps = format.widen(maps)
    if isinstance(layout, FloatLayout):
        flipped = maps ^ np.uint16(layout.sign_mask)
        total = reference.exact_sum
    else:
        # -lowest is no word of the sums: negate the integers instead.
        def total(layout, first, terms):
            return layout.saturate(layout.integer(first) + sum(terms))

        maps = np.vectorize(layout.integer, otypes=[np.int64])(maps)
        flipped = -maps
    result = np.zeros_like(start)
    for lane, *at in np.ndindex(start.shape):
        chosen = [
            int(m[tuple(at)]) for m in (maps[t] if plus[t][lane] else flipped[t] for t in range(len(maps)))
        ]
        result[(lane, *at)] = total(layout, int(start[(lane, *at)]), chosen)
    return result


def drawn(format, rng, shape, spread):
    if spread == "any word":
        return rng.integers(0, 1 << format.width, shape).astype(np.uint16)
    scale = {"normal": 1.0, "tiny": 2.0**-14 if format.width == 8 else 2.0**-14.5, "large": 0.4}[spread]
    if format.name.startswith("bf16") and spread == "tiny":
        scale = 2.0**-125.5
    if spread == "large":
        scale *= min(format.largest, 3e38)
    return format.encode(rng.standard_normal(shape) * scale)


@all_accumulators
@pytest.mark.parametrize("spread", ["normal", "tiny", "large", "any word"])
def test_accumulator(format, kind, spread):
    """In two calls, from zero and from any word of the sums' format."""
    rng = np.random.default_rng(8)
    terms, lanes, shape = 40, 5, (3, 5)
    maps = drawn(format, rng, (terms, *shape), spread)
    if spread == "any word" and not format.saturates:  # mostly numbers
        maps = np.where(maps & 0x7C00 == 0x7C00, maps & 0x83FF, maps)
        maps[7, 0, :] = [0x7F80, 0xFF80, 0x7FFF, 0x7C00, 0xFC00]
    start = rng.integers(0, 1 << format.sums.width, (lanes, *shape)).astype(format.sums.dtype)
    start[:2] = 0
    plus = rng.random((terms, lanes)) < 0.5
    sums = format.accumulator(start, kind)
    half = terms // 2
    sums.add_terms(format.operands(maps[:half]), plus[:half])
    sums.add_terms(format.operands(maps[half:]), plus[half:])
    expected = (add_one_by_one if kind == "sequential" else add_exactly)(format, start, maps, plus)
    assert sums.result().dtype == format.sums.dtype
    np.testing.assert_array_equal(sums.result(), expected)


@summed_formats
def test_accumulator_of_many_sums(format):
    """So many that they are worked on in several blocks."""
    rng = np.random.default_rng(9)
    maps = format.encode(rng.standard_normal((6, 70, 1000)))
    plus = rng.random((6, 2)) < 0.5
    start = np.zeros((2, 70, 1000), np.uint16)
    sums = format.accumulator(start)
    sums.add_terms(format.operands(maps), plus)
    np.testing.assert_array_equal(sums.result(), add_one_by_one(format, start, maps, plus))


@summed_formats
@pytest.mark.parametrize("positive", [True, False])
def test_accumulator_on_every_pair_of_boundary_words(format, positive):
    words = np.concatenate([sum_words(format), np.arange(0x3BF8, 0x3C08, dtype=np.uint16)])
    sums = format.accumulator(np.repeat(words[:, np.newaxis], len(words), axis=1))
    sums.add_terms(format.operands(words[np.newaxis]), np.full((1, len(words)), positive))
    expected = (format.add if positive else format.subtract)(words[:, np.newaxis], words)
    np.testing.assert_array_equal(sums.result(), expected)


@each("fp16", "fp16_ftz")
@pytest.mark.parametrize("positive", [True, False])
def test_exact_sum_of_every_pair_of_boundary_words(format, positive):
    """As an addition, but for -0."""
    words = sum_words(format)
    sums = format.accumulator(np.repeat(words[:, np.newaxis], len(words), axis=1), "exact")
    sums.add_terms(format.operands(words[np.newaxis]), np.full((1, len(words)), positive))
    expected = (format.add if positive else format.subtract)(words[:, np.newaxis], words)
    np.testing.assert_array_equal(sums.result(), np.where(expected == 0x8000, 0, expected))


@each("fp16", "fp8_e5m2", "fp8_e4m3")
def test_exact_sums_by_fsum(format):
    """8,191 terms, the most that a weight buffer holds: math.fsum knows the sum, numpy rounds it once."""
    rng = np.random.default_rng(10)
    maps = drawn(format, rng, (8191, 4), "any word")
    values = format.decode(maps).astype(np.float64)
    maps = np.where(np.isfinite(values), maps, 0)
    values[~np.isfinite(values)] = 0
    maps[:, 3], values[:, 3] = format.layout.largest, format.largest  # the largest sum there is
    plus = rng.random((8191, 2)) < 0.5
    plus[:, 1] = True
    sums = format.accumulator(np.zeros((2, 4), np.uint16), "exact")
    sums.add_terms(format.operands(maps), plus)
    for lane, pixel in np.ndindex(2, 4):
        total = math.fsum(np.where(plus[:, lane], values[:, pixel], -values[:, pixel]))
        with np.errstate(over="ignore"):
            assert sums.result()[lane, pixel] == np.float16(total).view(np.uint16), (lane, pixel)
    # Half of the terms with either sign leave nothing, not even a rounding error; one more leaves itself.
    sums = format.accumulator(np.zeros((1, 4), np.uint16), "exact")
    sums.add_terms(format.operands(np.tile(maps[:4095], (2, 1))), [[True]] * 4095 + [[False]] * 4095)
    assert not sums.result().any()
    sums.add_terms(format.operands(maps[:1]), [[False]])
    np.testing.assert_array_equal(sums.result()[0], FP16.subtract(0, format.widen(maps[0])))


def test_exact_sums_of_more_terms_than_float64_holds():
    """A last place, then so much that 2^53 of them are passed, and all that away again."""
    terms = np.array([0x0001, *[0x7BFF] * 18_000], np.uint16)[:, np.newaxis]
    plus = np.arange(18_001)[:, np.newaxis] <= 9000
    sums = FP16.accumulator(np.zeros((1, 1), np.uint16), "exact")
    sums.add_terms(FP16.operands(terms), plus)
    assert sums.result() == 0x0001


def test_exact_sums_differ_from_sequential_ones():
    """2048 + 1 + 1: rounded after each addition the ones are lost."""
    maps = FP16.operands(FP16.encode([[2048.0], [1.0], [1.0]]))
    results = {}
    for kind in ("sequential", "exact"):
        sums = FP16.accumulator(np.zeros((1, 1), np.uint16), kind)
        sums.add_terms(maps, [[True]] * 3)
        results[kind] = float(FP16.decode(sums.result())[0, 0])
    assert results == {"sequential": 2048, "exact": 2050}


def test_fixed_sums_saturate_at_each_addition_or_once():
    """q0.3: sums reach 63.875, which nine terms of 0.875 do not; from near the end they do."""
    format = format_by_name("q0.3")
    start = format.sums.encode([[63.0]])
    results = {}
    for kind in ("sequential", "exact"):
        sums = format.accumulator(start, kind)
        sums.add_terms(format.operands(format.encode([[0.875]] * 4)), [[True], [True], [False], [False]])
        results[kind] = float(format.sums.decode(sums.result())[0, 0])
    assert results == {"sequential": 63.875 - 2 * 0.875, "exact": 63.0}


@all_accumulators
def test_accumulator_takes_slices_and_padding(format, kind):
    rng = np.random.default_rng(11)
    maps = format.encode(rng.standard_normal((2, 6, 6)))
    prepared = np.pad(format.operands(maps), ((0, 0), (1, 1), (1, 1)))
    window = np.pad(maps, ((0, 0), (1, 1), (1, 1)))[:, ::2, 1::2]
    zeros = np.zeros((3, *window.shape[1:]), format.sums.dtype)
    plus = [[True, False, True], [False, False, True]]
    sums = format.accumulator(zeros, kind)
    sums.add_terms(prepared[:, ::2, 1::2], plus)
    expected = (add_one_by_one if kind == "sequential" else add_exactly)(format, zeros, window, plus)
    np.testing.assert_array_equal(sums.result(), expected)


@all_accumulators
def test_accumulator_refuses_other_shapes(format, kind):
    sums = format.accumulator(np.zeros((3, 4, 4), format.sums.dtype), kind)
    operands = format.operands(np.zeros((1, 4, 5), np.uint16))
    with pytest.raises(ValueError, match="must be of shapes"):
        sums.add_terms(operands, [[True] * 3])
    with pytest.raises(ValueError, match="must be of shapes"):
        sums.add_terms(operands[:, :, :4], [[True] * 2])


def test_bfloat16_has_no_exact_sums():
    for name in ("bf16", "bf16_ftz"):
        with pytest.raises(ValueError, match="has accumulators sequential, not 'exact'"):
            FORMATS[name].accumulator(np.zeros((1, 1), np.uint16), "exact")


# Names and misuse.


@pytest.mark.parametrize("words", [[0x10000], [-1], [1.0]])
def test_words_must_fit(words):
    with pytest.raises(ValueError, match="integers of 16 bits"):
        FP16.add(words, 0)


def test_words_of_narrow_formats_must_fit():
    with pytest.raises(ValueError, match="integers of 8 bits"):
        FP8_E4M3.widen(np.array([0x100], np.uint16))
    with pytest.raises(ValueError, match="integers of 12 bits"):
        format_by_name("q2.9").operands(np.array([0x1000], np.uint16))


def test_names():
    assert all(format_by_name(name).name == name for name in NAMES)
    assert format_by_name("q2.9") is format_by_name("q2.9")
    assert format_by_name("q2.9").width == 12
    widths = {format_by_name(f"q{i}.{f}").width for i in range(16) for f in range(16) if 3 <= i + f <= 15}
    assert widths == set(range(4, 17))


@pytest.mark.parametrize("name", ["fp12", "q2.14", "q1.1", "q02.9", "q2", "q-1.9", "Q2.9", "q2.9_ftz", "", 7])
def test_unknown_names(name):
    with pytest.raises(ConfigError, match=f"fp16, bf16, .*, or qI.F .*, not {name!r}"):
        format_by_name(name)


def test_formats_do_not_load_amaranth():
    program = "import sys, hyperdrive_hdl.arith.formats; sys.exit('amaranth' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
