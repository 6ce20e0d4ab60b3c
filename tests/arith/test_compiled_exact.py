"""What turns words into integers and sums of them back, as native code, against numpy's float64.

All words are converted. Totals are of up to 54 bits with their sign, which float64 holds exactly, so that
numpy's conversion to float16 is the one rounding.
"""

import ml_dtypes
import numpy as np
import pytest
from amaranth.hdl import Const

from hyperdrive_hdl.arith import hardware
from hyperdrive_hdl.arith.exact_sums import ExactRounder, ExactTerm
from hyperdrive_hdl.arith.formats import EXACT, FORMATS, FP16, FixedFormat, Format, format_by_name
from hyperdrive_hdl.errors import ConfigError
from tests.support.compiled_unit import CompiledUnit
from tests.support.streams import refuses
from tests.support.witness import FloatWitness, witness

NAMES = (*(name for name, format in FORMATS.items() if EXACT in format.accumulators), "q1.2", "q2.9", "q15.0")
SEED = 1804
TERMS = 8191


@pytest.fixture(params=NAMES)
def format(request):
    return format_by_name(request.param)


def unit_of(format: Format) -> float:
    """What integers count."""
    if isinstance(format, FixedFormat):
        return 1.0
    return float(ml_dtypes.finfo(witness(format.name).stored).smallest_subnormal)


def integers(format: Format, words: np.ndarray) -> dict[str, np.ndarray]:
    """What ``term_kind`` gives for words of sums."""
    with np.errstate(invalid="ignore"):
        values = witness(format.name).read_sums(words).astype(np.float64)
    finite = np.where(np.isfinite(values), values, 0)
    return {
        "term": np.floor(finite / unit_of(format)).astype(np.int64),
        "plus": (np.isnan(values) | np.isposinf(values)).astype(np.int64),
        "minus": (np.isnan(values) | np.isneginf(values)).astype(np.int64),
    }


def words(format: Format, total: np.ndarray, plus: np.ndarray, minus: np.ndarray) -> np.ndarray:
    """What ``rounder_kind`` gives."""
    by = witness(format.name)
    if not isinstance(by, FloatWitness):
        return by.sums(by.exact([total]))
    assert np.all(np.abs(total) <= 1 << 53)
    values = total * unit_of(format)
    values = np.where(plus, np.where(minus, np.nan, np.inf), np.where(minus, -np.inf, values))
    with np.errstate(over="ignore"):
        return by.sums(by.exact([values]))


def totals(width: int, count: int) -> dict[str, np.ndarray]:
    """Totals with any number of bits; half of them a short number with zeros below, or next to such a one."""
    rng = np.random.default_rng(SEED)
    bits = rng.integers(1, width, count)
    magnitudes = rng.integers(0, 1 << bits)
    places = np.maximum(bits - rng.integers(1, 15, count), 0)
    short = np.maximum((magnitudes >> places << places) + rng.integers(-1, 2, count), 0)
    magnitudes = np.where(rng.random(count) < 0.5, short, magnitudes)
    total = np.where(rng.random(count) < 0.5, magnitudes, -magnitudes)
    ends = [0, 1, -1, (1 << (width - 1)) - 1, -1 << (width - 1)]
    total = np.concatenate([np.clip(total, ends[-1], ends[-2])[: -len(ends)], ends])
    return {"total": total} | {
        name: (rng.random(count) < 1 / 64).astype(np.int64) for name in ("plus", "minus")
    }


def check(unit: CompiledUnit, operands: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> int:
    results = unit.evaluate(**operands)
    assert results.keys() == expected.keys()
    for name, result in results.items():
        wrong = np.flatnonzero(result != expected[name])
        if wrong.size:
            at = {key: hex(values[wrong[0]]) for key, values in operands.items()}
            first = f"{result[wrong[0]]:#x}, not {expected[name][wrong[0]]:#x}"
            pytest.fail(f"{wrong.size} wrong {name}, the first {at}: {first}")
    return len(operands[next(iter(operands))])


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_terms_of_every_word(format, stages):
    unit = CompiledUnit(hardware.term_kind(format, terms=TERMS, stages=stages)())
    x = np.arange(1 << format.sums.width)
    compared = check(unit, {"x": x}, integers(format, x))
    print(f"{format.name} terms, {stages} stages: {compared} words")
    assert compared == 1 << format.sums.width


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_rounding(format, stages):
    width = hardware.exact_width(format, TERMS)
    unit = CompiledUnit(hardware.rounder_kind(format, terms=TERMS, stages=stages)())
    operands = totals(width, 1 << (24 if format is FP16 and stages == 1 else 20))
    compared = check(unit, operands, {"result": words(format, **operands)})
    print(f"{format.name} rounder of {width} bits, {stages} stages: {compared} totals, seed {SEED}")
    assert compared >= 1 << 20


@pytest.mark.parametrize("terms", [1, 7, 31, 100])
def test_rounding_of_short_sums(format, terms):
    """Totals of other widths, which have other moves."""
    unit = CompiledUnit(hardware.rounder_kind(format, terms=terms, stages=1)())
    operands = totals(hardware.exact_width(format, terms), 1 << 16)
    check(unit, operands, {"result": words(format, **operands)})


def test_words_to_sums_to_words(format):
    """A converter, integers added by numpy, and a rounder are what the format calls an exact sum."""
    rng = np.random.default_rng(SEED)
    terms, sums = 40, 4000
    stored = rng.integers(0, 1 << format.width, (terms, sums)).astype(format.dtype)
    start = rng.integers(0, 1 << format.width, sums).astype(format.dtype)
    plus = rng.random(terms) < 0.5
    # Some sums without infinities and NaN, whose words have all ones in the exponent.
    if not isinstance(format, FixedFormat):
        specials = ~np.isfinite(format.decode(stored)) & (np.arange(sums) % 2 == 0)
        stored = np.where(specials, 0, stored).astype(format.dtype)
    converter = CompiledUnit(hardware.term_kind(format, terms=terms)())
    rounder = CompiledUnit(hardware.rounder_kind(format, terms=terms, stages=1)())
    wide_start = format.widen(start)
    total = {name: values.copy() for name, values in converter.evaluate(x=wide_start).items()}
    for x, positive in zip(stored, plus, strict=True):
        term = converter.evaluate(x=format.widen(x))
        total["term"] += term["term"] if positive else -term["term"]
        total["plus"] |= term["plus" if positive else "minus"]
        total["minus"] |= term["minus" if positive else "plus"]
    result = rounder.evaluate(total=total["term"], plus=total["plus"], minus=total["minus"])["result"]
    expected = format.accumulator(wide_start[np.newaxis], EXACT)
    expected.add_terms(format.operands(stored), plus[:, np.newaxis])
    np.testing.assert_array_equal(result, expected.result()[0])


@pytest.mark.parametrize("unit", ["term", "rounder"])
def test_models(format, unit):
    """The units' own models, on a sample."""
    if unit == "term":
        x = np.random.default_rng(SEED).integers(0, 1 << format.sums.width, 2000)
        model = hardware.term_kind(format, terms=TERMS)()
        expected = list(zip(*(values.tolist() for values in integers(format, x).values()), strict=True))
        assert [tuple(map(int, model.model(word))) for word in x.tolist()] == expected
    else:
        operands = totals(hardware.exact_width(format, TERMS), 2000)
        model = hardware.rounder_kind(format, terms=TERMS, stages=1)()
        results = [
            model.model(*values) for values in zip(*(v.tolist() for v in operands.values()), strict=True)
        ]
        assert results == words(format, **operands).tolist()
    model._MustUse__used = True  # Amaranth warns of components that nothing uses


def test_widths():
    assert hardware.exact_width(FP16, 8191) == 54
    assert hardware.exact_width(FP16, 8200) == 55
    assert hardware.exact_width(format_by_name("q2.9"), 1) == 19


class WithoutSticky(ExactRounder):
    """Rounds down what is just above a tie."""

    def _fine(self, m, middle):
        fine = super()._fine(m, middle)
        fine.word = (fine.word[1:] << 1) | fine.sign
        return fine


class WithoutNegation(ExactTerm):
    """Ones' complement."""

    def _unpack(self, m, operands):
        unpacked = super()._unpack(m, operands)
        unpacked.significand = unpacked.significand - operands.x[-1]
        return unpacked


class WithoutFlags(ExactTerm):
    """Takes NaN for +infinity."""

    def _far(self, m, near):
        term = super()._far(m, near)
        term.minus = Const(0, 1)
        return term


def test_broken_units_are_found():
    parameters = {"layout": FP16.layout, "unit_exponent": FP16.layout.unit_exponent, "width": 54}
    operands = totals(54, 1 << 16)
    with pytest.raises(pytest.fail.Exception, match="wrong result"):
        check(CompiledUnit(WithoutSticky(**parameters)), operands, {"result": words(FP16, **operands)})
    x = np.arange(1 << 16)
    for mutant, name in ((WithoutNegation, "term"), (WithoutFlags, "minus")):
        with pytest.raises(pytest.fail.Exception, match=f"wrong {name}"):
            check(CompiledUnit(mutant(**parameters)), {"x": x}, integers(FP16, x))


@pytest.mark.parametrize("stages", [0, 5, "2"])
def test_impossible_stages(stages):
    parameters = {"layout": FP16.layout, "unit_exponent": FP16.layout.unit_exponent, "width": 54}
    for unit in (ExactTerm, ExactRounder):
        refuses(unit, "stages must be an integer from 1 to", **parameters, stages=stages)


@pytest.mark.parametrize("name", ["bf16", "bf16_ftz"])
def test_no_exact_sums(name):
    with pytest.raises(ConfigError, match=f"format {name} has no exact accumulator"):
        hardware.exact_width(format_by_name(name), 1)
