"""The floating-point units as native code: random operands through the RTL, all operands through the gates.

The oracle is the processor's arithmetic; numpy's and ml_dtypes' are compared with it on a sample.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from amaranth.back import rtlil
from amaranth.hdl import Const

from hyperdrive_hdl.arith import hardware
from hyperdrive_hdl.arith.float_adder import FloatAdder
from hyperdrive_hdl.arith.float_multiplier import FloatMultiplier
from hyperdrive_hdl.arith.formats import BF16, FORMATS, FP16, FloatFormat, format_by_name
from tests.support.compiled_unit import CXXRTL, CompiledFloat, run_yosys
from tests.support.operands import boundary_words

UNITS = {"add": hardware.adder_kind, "multiply": hardware.multiplier_kind}
SUMS = [name for name, format in FORMATS.items() if isinstance(format, FloatFormat)]
FP16_FTZ = format_by_name("fp16_ftz")
SEED = 1804  # of the operands; the generator is in compiled_float.cc
RANDOM_PAIRS = 1 << 25


def compiled(operation: str, format: FloatFormat, *, stages: int = 1, engine: str = "gates") -> CompiledFloat:
    return CompiledFloat(UNITS[operation](format, stages=stages)(), format=format, engine=engine)


@pytest.fixture(scope="module", params=SUMS)
def format(request):
    return FORMATS[request.param]


@pytest.fixture(scope="module", params=UNITS)
def operation(request):
    return request.param


@pytest.fixture(scope="module")
def rtl(operation, format):
    return compiled(operation, format, engine="cxxrtl")


@pytest.fixture(scope="module")
def gates(operation, format):
    return compiled(operation, format)


def check_all_pairs(unit: CompiledFloat, name: str) -> None:
    if not unit.has_oracle:
        pytest.skip("the C++ compiler knows no half precision")
    for subtract in (0, 1) if unit.operation == "add" else (0,):
        result = unit.check_all(subtract=subtract)
        print(f"{name} {unit.operation}, subtract={subtract}: {result.compared} pairs")
        assert result.compared == 1 << 32
        assert result.failures == 0, f"{result.failures} pairs, the first {result.first}"


def test_random_pairs(rtl, format):
    count = RANDOM_PAIRS if rtl.has_oracle else RANDOM_PAIRS >> 4
    result = rtl.check_random(seed=SEED, count=count)
    print(f"{format.name} {rtl.operation}: {result.compared} pairs, seed {SEED}")
    assert result.compared == count
    assert result.failures == 0, f"seed {SEED}, {result.failures} pairs, the first {result.first}"


def test_all_pairs(gates, format):
    """2^32 pairs, which proves the unit as synthesised; seconds where vectors are wide."""
    check_all_pairs(gates, format.name)


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_all_pairs_pipelined(operation, stages):
    """The same gates with registers between them; that no operands of two cycles meet is checked too."""
    check_all_pairs(compiled(operation, FP16, stages=stages), f"fp16, {stages} stages,")


@pytest.mark.slow
@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("name", [name for name in SUMS if name != "fp16"])
def test_all_pairs_of_other_formats_pipelined(operation, stages, name):
    check_all_pairs(compiled(operation, FORMATS[name], stages=stages), f"{name}, {stages} stages,")


def test_oracle_and_evaluation_agree_with_others(rtl, gates, format):
    """The processor's arithmetic and numpy's or ml_dtypes' on a sample, and the units' results as arrays."""
    a, b, subtract = rtl.random_operands(SEED, 300_003)  # not a whole number of blocks
    words = np.array(boundary_words(format.layout), np.uint16)
    for more in (0, 1):
        x, y = (grid.ravel() for grid in np.meshgrid(words, words))
        a, b = np.concatenate([a, x]), np.concatenate([b, y])
        subtract = np.concatenate([subtract, np.full(x.shape, more, np.uint16)])
    witness = rtl.witness(a, b, subtract)
    np.testing.assert_array_equal(rtl.results(a, b, subtract), witness)
    np.testing.assert_array_equal(gates.results(a, b, subtract), witness)
    if rtl.has_oracle:
        np.testing.assert_array_equal(rtl.oracle(a, b, subtract), witness)


def test_random_operands_cover_signs_and_distances(rtl, format):
    bits, largest = format.layout.mantissa_bits, (1 << format.layout.exponent_bits) - 1
    a, b, subtract = rtl.random_operands(SEED, 8 * (2 * largest + 1) * 1000)
    signs = (a >> 15) | (b >> 15) << 1 | subtract << 2
    distances = (a >> bits & largest).astype(int) - (b >> bits & largest).astype(int)
    counts = np.zeros((8, 2 * largest + 1), int)
    np.add.at(counts, (signs, distances + largest), 1)
    assert (counts == 1000).all()
    assert set((a & 0x7FFF).tolist()) > {0, format.layout.infinity}


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_rtl_needs_one_pass(operation, format, stages, tmp_path):
    """CXXRTL finds no feedback, which it would simulate in several passes, 784 times a cycle."""
    unit = UNITS[operation](format, stages=stages)()
    (tmp_path / "unit.il").write_text(rtlil.convert(unit, name="top", emit_src=False))
    run_yosys(CXXRTL, tmp_path)
    assert "bool converged = true;" in (tmp_path / "unit.inc").read_text()


class WithoutSticky(FloatAdder):
    """Forgets what was shifted out."""

    def _align(self, m, ordered):
        aligned = super()._align(m, ordered)
        aligned.below = aligned.below & 0b110
        return aligned


class WithoutNan(FloatAdder):
    """Takes infinity minus infinity, and NaN, for infinity."""

    def _coarse(self, m, summed):
        coarse = super()._coarse(m, summed)
        coarse.nan = Const(0, 1)
        return coarse


class WithoutSubnormals(FloatAdder):
    """Normalises as if the exponent did not end."""

    def _add(self, m, aligned):
        summed = super()._add(m, aligned)
        summed.exponent = summed.exponent | 0b10000
        return summed


class WithNegativeZero(FloatAdder):
    """Gives x - x the sign of the subtracted operand."""

    def _coarse(self, m, summed):
        coarse = super()._coarse(m, summed)
        coarse.sign = coarse.sign | (summed.subtract & ~coarse.word.any())
        return coarse


class WithNegativeFlushedSums(FloatAdder):
    """Flushes small negative sums to -0."""

    def _round(self, m, fine):
        fine.subtract = Const(0, 1)
        return super()._round(m, fine)


class WithoutUnderflow(FloatMultiplier):
    """Takes exponents below zero for zero."""

    def _multiply(self, m, factors):
        product = super()._multiply(m, factors)
        product.zero = factors.zero
        return product


class WithEarlySign(FloatAdder):
    """Pipelined, but for one signal."""

    def _coarse(self, m, summed):
        return super()._coarse(m, SimpleNamespace(**{**vars(summed), "sign": self.a[-1]}))


@pytest.mark.parametrize(
    ("mutant", "format"),
    [
        *((WithoutSticky, format) for format in (FP16, BF16, FP16_FTZ)),
        *((WithoutNan, format) for format in (FP16, BF16)),
        *((mutant, FP16) for mutant in (WithoutSubnormals, WithNegativeZero)),
        *((mutant, FP16_FTZ) for mutant in (WithNegativeFlushedSums, WithoutUnderflow)),
    ],
    ids=lambda value: getattr(value, "name", None) or value.__name__,
)
@pytest.mark.parametrize("engine", ["cxxrtl", "gates"])
def test_broken_units_are_found(mutant, format, engine):
    unit = CompiledFloat(mutant(layout=format.layout), format=format, engine=engine)
    assert unit.check_random(seed=SEED, count=1 << 20).failures > 0
    if engine == "gates" and unit.has_oracle:
        result = unit.check_all(first=0x0400, last=0x04FF) + unit.check_all(first=0x7C00, last=0x7FFF)
        if unit.operation == "add":
            result += unit.check_all(subtract=1, first=0x0400, last=0x04FF)
        assert 0 < result.failures < result.compared
        assert "expected 0x" in result.first


def test_unbalanced_pipeline_is_found():
    unit = WithEarlySign(layout=FP16.layout, stages=2)
    with pytest.raises(ValueError, match="operands of different cycles meet"):
        CompiledFloat(unit, format=FP16)
