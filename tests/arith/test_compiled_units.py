"""The FP16 units as native code: random operands through the RTL, all operands through the gates.

The oracle is the C++ compiler's half precision; numpy's is compared with it on a sample.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from amaranth.back import rtlil
from amaranth.hdl import Const

from hyperdrive_hdl.arith import hardware
from hyperdrive_hdl.arith.float_adder import FloatAdder
from hyperdrive_hdl.arith.formats import FP16
from tests.support.compiled_unit import CXXRTL, CompiledUnit, run_yosys
from tests.support.operands import boundary_words

UNITS = {"add": hardware.adder, "multiply": hardware.multiplier}
SEED = 1804  # of the operands; the generator is in compiled_unit.cc
RANDOM_PAIRS = 1 << 26


@pytest.fixture(scope="module", params=UNITS)
def operation(request):
    return request.param


@pytest.fixture(scope="module")
def rtl(operation):
    return CompiledUnit(UNITS[operation](FP16), operation=operation, engine="cxxrtl")


@pytest.fixture(scope="module")
def gates(operation):
    return CompiledUnit(UNITS[operation](FP16), operation=operation, engine="gates")


def test_random_pairs(rtl):
    result = rtl.check_random(seed=SEED, count=RANDOM_PAIRS if rtl.has_oracle else RANDOM_PAIRS >> 4)
    print(f"{rtl.operation}: {result.compared} pairs, seed {SEED}")
    assert result.compared >= RANDOM_PAIRS >> (0 if rtl.has_oracle else 4)
    assert result.failures == 0, f"seed {SEED}, {result.failures} pairs, the first {result.first}"


def test_all_pairs(gates):
    """2^32 pairs, which proves the unit as synthesised; seconds where vectors are wide."""
    if not gates.has_oracle:
        pytest.skip("the C++ compiler knows no half precision")
    for subtract in (0, 1) if gates.operation == "add" else (0,):
        result = gates.check_all(subtract=subtract)
        assert result.compared == 1 << 32
        assert result.failures == 0, f"{result.failures} pairs, the first {result.first}"


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_all_pairs_pipelined(operation, stages):
    """The same gates with registers between them; that no operands of two cycles meet is checked too."""
    unit = CompiledUnit(UNITS[operation](FP16, stages=stages), operation=operation, engine="gates")
    if not unit.has_oracle:
        pytest.skip("the C++ compiler knows no half precision")
    for subtract in (0, 1) if operation == "add" else (0,):
        result = unit.check_all(subtract=subtract)
        assert result.compared == 1 << 32
        assert result.failures == 0, f"{result.failures} pairs, the first {result.first}"


def test_oracle_and_evaluation_agree_with_numpy(rtl, gates):
    """The compiler's arithmetic and numpy's on a sample, and the units' own results by way of arrays."""
    a, b, subtract = rtl.random_operands(SEED, 1_000_003)  # not a whole number of blocks
    words = np.array(boundary_words(FP16.layout), np.uint16)
    for more in (0, 1):
        x, y = (grid.ravel() for grid in np.meshgrid(words, words))
        a, b = np.concatenate([a, x]), np.concatenate([b, y])
        subtract = np.concatenate([subtract, np.full(x.shape, more, np.uint16)])
    witness = rtl.witness(a, b, subtract)
    np.testing.assert_array_equal(rtl.evaluate(a, b, subtract), witness)
    np.testing.assert_array_equal(gates.evaluate(a, b, subtract), witness)
    if rtl.has_oracle:
        np.testing.assert_array_equal(rtl.oracle(a, b, subtract), witness)


def test_random_operands_cover_signs_and_distances(rtl):
    a, b, subtract = rtl.random_operands(SEED, 8 * 63 * 1000)
    signs = (a >> 15) | (b >> 15) << 1 | subtract << 2
    distances = (a >> 10 & 31).astype(int) - (b >> 10 & 31).astype(int)
    counts = np.zeros((8, 63), int)
    np.add.at(counts, (signs, distances + 31), 1)
    assert (counts == 1000).all()
    assert set((a & 0x7FFF).tolist()) > {0, 0x7C00}


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_rtl_needs_one_pass(operation, stages, tmp_path):
    """CXXRTL finds no feedback, which it would simulate in several passes, 784 times a cycle."""
    unit = UNITS[operation](FP16, stages=stages)
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


class WithEarlySign(FloatAdder):
    """Pipelined, but for one signal."""

    def _coarse(self, m, summed):
        return super()._coarse(m, SimpleNamespace(**{**vars(summed), "sign": self.a[-1]}))


@pytest.mark.parametrize("mutant", [WithoutSticky, WithoutNan, WithoutSubnormals, WithNegativeZero])
@pytest.mark.parametrize("engine", ["cxxrtl", "gates"])
def test_broken_adders_are_found(mutant, engine):
    unit = CompiledUnit(mutant(exponent_bits=5, mantissa_bits=10), operation="add", engine=engine)
    assert unit.check_random(seed=SEED, count=1 << 20).failures > 0
    if engine == "gates" and unit.has_oracle:
        result = unit.check_all(first=0x0400, last=0x04FF) + unit.check_all(first=0x7C00, last=0x7CFF)
        result += unit.check_all(subtract=1, first=0x0400, last=0x04FF)
        assert 0 < result.failures < result.compared
        assert "expected 0x" in result.first


def test_unbalanced_pipeline_is_found():
    unit = WithEarlySign(exponent_bits=5, mantissa_bits=10, stages=2)
    with pytest.raises(ValueError, match="operands of different cycles meet"):
        CompiledUnit(unit, operation="add", engine="gates")
