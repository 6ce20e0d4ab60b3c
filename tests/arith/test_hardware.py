"""The units in Amaranth's simulator: small formats, other widths, pipelines, and the formats' own operations.

Every operand of the formats with names is in the tests of compiled units.
"""

import random

import numpy as np
import pytest
from amaranth.hdl import ClockDomain, Module, Signal
from amaranth.sim import Simulator

from hyperdrive_hdl.arith import hardware
from hyperdrive_hdl.arith.exact_sums import ExactRounder, ExactTerm, FixedRounder, FixedTerm
from hyperdrive_hdl.arith.fixed_adder import FixedAdder
from hyperdrive_hdl.arith.fixed_multiplier import FixedMultiplier
from hyperdrive_hdl.arith.float_adder import FloatAdder
from hyperdrive_hdl.arith.float_multiplier import FloatMultiplier
from hyperdrive_hdl.arith.formats import FORMATS, FP16, FixedFormat, format_by_name
from hyperdrive_hdl.arith.reference import FixedLayout, FloatLayout
from tests.support.compiled_unit import CompiledUnit
from tests.support.operands import boundary_words
from tests.support.streams import refuses

NAMES = (*FORMATS, "q1.2", "q2.9", "q7.8")
FLOATS = [FloatAdder, FloatMultiplier]
flushing = pytest.mark.parametrize("flush", [False, True], ids=["subnormals", "flush"])


def float_layout(exponent_bits: int, mantissa_bits: int, *, flush: bool = False) -> FloatLayout:
    return FloatLayout(exponent_bits=exponent_bits, mantissa_bits=mantissa_bits, flush=flush)


def members(unit) -> list[Signal]:
    return [getattr(unit, name) for name in ("a", "b", "subtract") if hasattr(unit, name)]


def simulate(unit, operands) -> list[int]:
    """Results for tuples of operands, in the order a, b, subtract."""
    results = []

    async def testbench(ctx):
        for values in operands:
            for member, value in zip(members(unit), values, strict=True):
                ctx.set(member, value)
            results.append(ctx.get(unit.result))

    simulator = Simulator(unit)
    simulator.add_testbench(testbench)
    simulator.run()
    return results


def words_of(layout) -> list[int]:
    """Operands on which units go wrong first."""
    if isinstance(layout, FloatLayout):
        return boundary_words(layout)
    top = 1 << (layout.width - 1)
    near = {value + offset for value in (0, top, top >> 1, top + (top >> 1)) for offset in range(-3, 4)}
    return sorted(value % (2 * top) for value in near)


@pytest.mark.parametrize("name", NAMES)
def test_units_are_the_formats_operations(name):
    """What the model computes with, on all pairs of boundary words."""
    format = format_by_name(name)
    sums, words = format.sums, words_of(format.sums.layout)
    a, b = (x.ravel() for x in np.meshgrid(words, words))
    adder = CompiledUnit(hardware.adder_kind(format)())
    for subtract, operation in enumerate((sums.add, sums.subtract)):
        result = adder.evaluate(a=a, b=b, subtract=np.full(a.shape, subtract))["result"]
        np.testing.assert_array_equal(result, operation(a, b))
    a, b = (x.ravel() for x in np.meshgrid(words, words_of(format.scales.layout)))
    multiplier = CompiledUnit(hardware.multiplier_kind(format)())
    np.testing.assert_array_equal(multiplier.evaluate(a=a, b=b)["result"], sums.multiply(a, b))


@pytest.mark.parametrize("name", NAMES)
def test_relu(name):
    """On the words that operations return; -0 gives +0 and NaN stays."""
    format = format_by_name(name)
    value, result = Signal(format.sums.width), Signal(format.sums.width)
    m = Module()
    m.d.comb += result.eq(hardware.relu(value, format))
    words = np.unique(format.sums.canonical(np.array(words_of(format.sums.layout))))
    results = []

    async def testbench(ctx):
        for word in words.tolist():
            ctx.set(value, word)
            results.append(ctx.get(result))

    simulator = Simulator(m)
    simulator.add_testbench(testbench)
    simulator.run()
    np.testing.assert_array_equal(results, format.sums.relu(words))


@flushing
@pytest.mark.parametrize("unit", FLOATS)
def test_every_pair_of_a_small_format(unit, flush):
    """The same code at 6 bits, with all operands, against the integer model."""
    dut = unit(layout=float_layout(3, 2, flush=flush))
    operands = [(a, b) for a in range(64) for b in range(64)]
    if unit is FloatAdder:
        operands = [(*pair, subtract) for pair in operands for subtract in (0, 1)]
    assert simulate(dut, operands) == [dut.model(*values) for values in operands]


@flushing
@pytest.mark.parametrize("unit", FLOATS)
@pytest.mark.parametrize("fields", [(3, 12), (4, 3), (8, 23)])
def test_other_widths(unit, fields, flush):
    """Boundary and random operands of other formats, against the integer model."""
    layout = float_layout(*fields, flush=flush)
    dut = unit(layout=layout)
    rng = random.Random(f"{unit.__name__} {fields} {flush}")
    words = boundary_words(layout)
    operands = []
    for _ in range(1000):
        a = rng.choice([rng.choice(words), rng.getrandbits(layout.width)])
        near = (
            (a + (rng.randint(-3, 3) << fields[1]))
            ^ rng.getrandbits(4)
            ^ rng.getrandbits(1) << (layout.width - 1)
        )
        b = rng.choice([rng.choice(words), near % (1 << layout.width), rng.getrandbits(layout.width)])
        operands.append((a, b, rng.getrandbits(1)) if unit is FloatAdder else (a, b))
    assert simulate(dut, operands) == [dut.model(*values) for values in operands]


@pytest.mark.parametrize("unit", FLOATS)
@pytest.mark.parametrize("fields", [{"exponent_bits": 2}, {"mantissa_bits": 1}, {"exponent_bits": 12}])
def test_impossible_widths(unit, fields):
    match = f"{next(iter(fields))} must be an integer from"
    refuses(unit, match, layout=FloatLayout(**{"exponent_bits": 5, "mantissa_bits": 10, **fields}))


@pytest.mark.parametrize("unit", FLOATS)
def test_no_arithmetic_without_infinities(unit):
    layout = FloatLayout(exponent_bits=4, mantissa_bits=3, infinities=False)
    refuses(unit, "layout must have infinities", layout=layout)


@pytest.mark.parametrize("stages", [0, 5, True, "2"])
def test_impossible_stages(stages):
    fixed = FixedLayout(integer_bits=2, fraction_bits=9)
    match = "stages must be an integer from 1 to"
    for unit in FLOATS:
        refuses(unit, match, layout=FP16.layout, stages=stages)
    refuses(FixedAdder, match, layout=fixed, stages=stages)
    refuses(FixedMultiplier, match, layout=fixed, scales=fixed, stages=stages)
    for unit in (FixedTerm, FixedRounder):
        refuses(unit, match, layout=fixed, width=20, stages=stages)
    for unit in (ExactTerm, ExactRounder):
        refuses(unit, match, layout=FP16.layout, unit_exponent=-24, width=54, stages=stages)


def test_totals_too_short():
    refuses(ExactRounder, "width must be at least 27", layout=FP16.layout, unit_exponent=-24, width=26)


def test_factors_without_fraction():
    fixed = FixedLayout(integer_bits=2, fraction_bits=9)
    match = "scales must have at least one fraction bit"
    refuses(FixedMultiplier, match, layout=fixed, scales=FixedLayout(integer_bits=9, fraction_bits=0))


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["fp16", "fp16_ftz", "bf16", "bf16_ftz", "q2.9"])
@pytest.mark.parametrize("kind", [hardware.adder_kind, hardware.multiplier_kind])
def test_pipelines(kind, name, stages):
    """New operands in random cycles, held in the others; each result ``latency`` cycles later."""
    format = format_by_name(name)
    dut = kind(format, stages=stages)()
    rng = random.Random(f"{kind.__name__} {stages} {name}")
    words = words_of(format.sums.layout)
    expected, results = [], []

    async def testbench(ctx):
        operands = [0] * len(members(dut))
        for cycle in range(400):
            if rng.random() < 0.7:
                operands = [
                    rng.choice([rng.choice(words), rng.getrandbits(64)]) % (1 << len(member))
                    for member in members(dut)
                ]
            for member, value in zip(members(dut), operands, strict=True):
                ctx.set(member, value)
            expected.append(dut.model(*operands))
            if cycle >= dut.latency:
                results.append(ctx.get(dut.result))
            await ctx.tick()

    m = Module()
    m.domains.sync = ClockDomain()
    m.submodules.dut = dut
    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    assert len(results) == 400 - dut.latency
    assert results == expected[: len(results)]


@pytest.mark.parametrize("name", NAMES)
def test_interfaces(name):
    format = format_by_name(name)
    assert len(hardware.zero(format)) == format.width
    assert hardware.zero(format).value == format.zero
    kinds = [hardware.adder_kind(format, stages=3), hardware.multiplier_kind(format, stages=3)]
    if "exact" in format.accumulators:
        kinds.append(hardware.rounder_kind(format, terms=100, stages=3))
        assert unused(hardware.term_kind(format, terms=100)).latency == 2
    for kind in kinds:
        unit = unused(kind)
        assert unit.latency == 2
        assert len(unit.result) == format.sums.width
    scale = unused(hardware.multiplier_kind(format)).b
    assert len(scale) == (16 if isinstance(format, FixedFormat) else format.sums.width)


def unused(kind):
    """A component that is only looked at; Amaranth warns of those."""
    unit = kind()
    unit._MustUse__used = True
    return unit
