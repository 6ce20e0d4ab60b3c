"""The fixed-point units as native code, against numpy's integers and its rounding of float64."""

import numpy as np
import pytest

from hyperdrive_hdl.arith import hardware
from hyperdrive_hdl.arith.fixed_adder import FixedAdder
from hyperdrive_hdl.arith.fixed_multiplier import FixedMultiplier
from hyperdrive_hdl.arith.formats import format_by_name
from hyperdrive_hdl.arith.formats.fixed import SCALE_LAYOUT
from hyperdrive_hdl.arith.reference import FixedLayout
from tests.support.compiled_unit import CompiledUnit

SEED = 1804
SMALL = FixedLayout(integer_bits=6, fraction_bits=5)  # 12 bits
STAGES = (1, 2, 3, 4)


def signed(words, width: int) -> np.ndarray:
    words = np.asarray(words).astype(np.int64)
    return np.where(words >> (width - 1) & 1, words - (1 << width), words)


def clipped(values, width: int) -> np.ndarray:
    """Words of values, saturated."""
    return np.clip(values, -1 << (width - 1), (1 << (width - 1)) - 1) & ((1 << width) - 1)


def stratified(rng: np.random.Generator, width: int, count: int) -> np.ndarray:
    """Words whose magnitudes have any number of bits, and both ends of the range."""
    magnitudes = rng.integers(0, 1 << rng.integers(0, width, count))
    words = np.where(rng.random(count) < 0.5, magnitudes, -magnitudes)
    ends = rng.choice(np.array([-1 << (width - 1), (1 << (width - 1)) - 1]), count)
    return np.where(rng.random(count) < 1 / 64, ends, words) & ((1 << width) - 1)


def sums(a, b, subtract, width: int) -> np.ndarray:
    a, b = signed(a, width), signed(b, width)
    return clipped(np.where(subtract, a - b, a + b), width)


def products(a, b, width: int) -> np.ndarray:
    """Below 2^34, hence exact in float64, and so is the division; rint takes ties to the even one."""
    exact = signed(a, width) * signed(b, SCALE_LAYOUT.width)
    return clipped(np.rint(exact / float(1 << SCALE_LAYOUT.fraction_bits)).astype(np.int64), width)


def compare(unit: CompiledUnit, operands: dict[str, np.ndarray], expected: np.ndarray) -> int:
    result = unit.evaluate(**operands)["result"]
    wrong = np.flatnonzero(result != expected)
    if wrong.size:
        at = {name: hex(values[wrong[0]]) for name, values in operands.items()}
        pytest.fail(f"{wrong.size} wrong, the first {at}: {result[wrong[0]]:#x}, not {expected[wrong[0]]:#x}")
    return result.size


@pytest.mark.parametrize("stages", STAGES)
def test_adder_on_all_pairs(stages):
    unit = CompiledUnit(FixedAdder(layout=SMALL, stages=stages))
    words = np.arange(1 << SMALL.width)
    compared = 0
    for subtract in (0, 1):
        for part in np.split(words, 16):
            a, b = (grid.ravel() for grid in np.meshgrid(part, words))
            operands = {"a": a, "b": b, "subtract": np.full(a.shape, subtract)}
            compared += compare(unit, operands, sums(a, b, subtract, SMALL.width))
    print(f"fixed-point adder of {SMALL.width} bits, {stages} stages: {compared} pairs")
    assert compared == 2 << 2 * SMALL.width


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("name", ["q1.2", "q2.9", "q7.8", "q15.0"])
def test_adder_on_random_pairs(name, stages):
    format = format_by_name(name)
    width = format.sums.width
    unit = CompiledUnit(hardware.adder_kind(format, stages=stages)())
    rng = np.random.default_rng(SEED)
    a, b = (stratified(rng, width, 1 << 20) for _ in "ab")
    subtract = rng.integers(0, 2, a.shape)
    compare(unit, {"a": a, "b": b, "subtract": subtract}, sums(a, b, subtract, width))


def test_multiplier_on_all_pairs():
    """Sums of 10 bits (q1.2's) by all scale factors."""
    format = format_by_name("q1.2")
    width = format.sums.width
    unit = CompiledUnit(hardware.multiplier_kind(format)())
    scales = np.arange(1 << SCALE_LAYOUT.width)
    compared = 0
    for part in np.split(np.arange(1 << width), 64):
        a, b = (grid.ravel() for grid in np.meshgrid(part, scales))
        compared += compare(unit, {"a": a, "b": b}, products(a, b, width))
    print(f"fixed-point multiplier of {width} x {SCALE_LAYOUT.width} bits: {compared} pairs")
    assert compared == 1 << (width + SCALE_LAYOUT.width)


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("name", ["q1.2", "q2.9", "q7.8", "q15.0"])
def test_multiplier_on_random_pairs(name, stages):
    """A quarter of the products made to be ties, or next to one."""
    format = format_by_name(name)
    width = format.sums.width
    unit = CompiledUnit(hardware.multiplier_kind(format, stages=stages)())
    rng = np.random.default_rng(SEED)
    count = 1 << (23 if name == "q2.9" and stages == 1 else 19)
    a, b = stratified(rng, width, count), stratified(rng, SCALE_LAYOUT.width, count)
    half = SCALE_LAYOUT.fraction_bits - 1
    tie = rng.random(count) < 0.25
    a = np.where(tie, a >> 4 << 4 | 8, a)
    b = np.where(tie, b >> (half - 3) << (half - 3), b)
    ties = np.count_nonzero((signed(a, width) * signed(b, 16)) % (2 << half) == 1 << half)
    compared = compare(unit, {"a": a, "b": b}, products(a, b, width))
    print(f"{name} multiplier, {stages} stages: {compared} pairs, {ties} ties, seed {SEED}")
    assert ties > count // 16


class WithoutEven(FixedMultiplier):
    """Rounds ties up."""

    def _round(self, m, multiplied):
        multiplied.product = multiplied.product | 1
        return super()._round(m, multiplied)


class WrappingAdder(FixedAdder):
    """Does not saturate."""

    def _saturate(self, m, summed):
        summed.result = summed.total[:-1]
        return summed


def test_broken_units_are_found():
    words = np.arange(1 << SMALL.width)
    factors = {"a": words, "b": np.full(words.shape, 1 << (SCALE_LAYOUT.fraction_bits - 1))}
    unit = CompiledUnit(WithoutEven(layout=SMALL, scales=SCALE_LAYOUT))
    with pytest.raises(pytest.fail.Exception, match="wrong, the first"):
        compare(unit, factors, products(**factors, width=SMALL.width))
    addends = {"a": words, "b": words, "subtract": words * 0}
    unit = CompiledUnit(WrappingAdder(layout=SMALL))
    with pytest.raises(pytest.fail.Exception, match="wrong, the first"):
        compare(unit, addends, sums(**addends, width=SMALL.width))
