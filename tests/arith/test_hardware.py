"""The units of each format, in Amaranth's simulator, against the format's array operations."""

import random

import numpy as np
import pytest
from amaranth.hdl import ClockDomain, Module, Signal
from amaranth.sim import Simulator

from hyperdrive_hdl.arith import hardware
from hyperdrive_hdl.arith.float_adder import FloatAdder
from hyperdrive_hdl.arith.float_multiplier import FloatMultiplier
from hyperdrive_hdl.arith.formats import FORMATS, FP16, Format
from hyperdrive_hdl.errors import ConfigError
from tests.support.operands import boundary_words
from tests.support.streams import refuses


def simulate(unit, operands) -> list[int]:
    """Results for tuples of operands, in the order a, b, subtract."""
    results = []
    members = [getattr(unit, name) for name in ("a", "b", "subtract") if hasattr(unit, name)]

    async def testbench(ctx):
        for values in operands:
            for member, value in zip(members, values, strict=True):
                ctx.set(member, value)
            results.append(ctx.get(unit.result))

    simulator = Simulator(unit)
    simulator.add_testbench(testbench)
    simulator.run()
    return results


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("subtract", [0, 1])
def test_adder_on_every_pair_of_boundary_words(name, subtract):
    format = FORMATS[name]
    words = np.array(boundary_words(format.layout), format.dtype)
    assert len(words) > 60
    a, b = (x.ravel() for x in np.meshgrid(words, words))
    results = simulate(
        hardware.adder(format), [(*pair, subtract) for pair in zip(a.tolist(), b.tolist(), strict=True)]
    )
    np.testing.assert_array_equal(results, (format.subtract if subtract else format.add)(a, b))


@pytest.mark.parametrize("name", FORMATS)
def test_multiplier_on_every_pair_of_boundary_words(name):
    format = FORMATS[name]
    words = np.array(boundary_words(format.layout), format.dtype)
    a, b = (x.ravel() for x in np.meshgrid(words, words))
    results = simulate(hardware.multiplier(format), list(zip(a.tolist(), b.tolist(), strict=True)))
    np.testing.assert_array_equal(results, format.multiply(a, b))


@pytest.mark.parametrize("name", FORMATS)
def test_relu_on_every_word(name):
    format = FORMATS[name]
    value, result = Signal(format.width), Signal(format.width)
    m = Module()
    m.d.comb += result.eq(hardware.relu(value, format))
    words = np.arange(1 << format.width).astype(format.dtype)
    results = []

    async def testbench(ctx):
        for word in words.tolist():
            ctx.set(value, word)
            results.append(ctx.get(result))

    simulator = Simulator(m)
    simulator.add_testbench(testbench)
    simulator.run()
    np.testing.assert_array_equal(results, format.relu(words))


@pytest.mark.parametrize("unit", [FloatAdder, FloatMultiplier])
def test_every_pair_of_a_small_format(unit):
    """The same code at 6 bits, with all operands, against the integer model."""
    dut = unit(exponent_bits=3, mantissa_bits=2)
    operands = [(a, b) for a in range(64) for b in range(64)]
    if unit is FloatAdder:
        operands = [(*pair, subtract) for pair in operands for subtract in (0, 1)]
    assert simulate(dut, operands) == [dut.model(*values) for values in operands]


@pytest.mark.parametrize("unit", [FloatAdder, FloatMultiplier])
@pytest.mark.parametrize("fields", [(3, 12), (4, 3), (8, 7), (8, 23)])
def test_other_widths(unit, fields):
    """Boundary and random operands of other formats, against the integer model."""
    dut = unit(exponent_bits=fields[0], mantissa_bits=fields[1])
    rng = random.Random(f"{unit.__name__} {fields}")
    words = boundary_words(dut.layout)
    operands = []
    for _ in range(1500):
        a = rng.choice([rng.choice(words), rng.getrandbits(dut.layout.width)])
        near = (
            (a + (rng.randint(-3, 3) << fields[1]))
            ^ rng.getrandbits(4)
            ^ rng.getrandbits(1) << (dut.layout.width - 1)
        )
        b = rng.choice([rng.choice(words), near % (1 << dut.layout.width), rng.getrandbits(dut.layout.width)])
        operands.append((a, b, rng.getrandbits(1)) if unit is FloatAdder else (a, b))
    assert simulate(dut, operands) == [dut.model(*values) for values in operands]


@pytest.mark.parametrize("unit", [FloatAdder, FloatMultiplier])
@pytest.mark.parametrize("fields", [{"exponent_bits": 2}, {"mantissa_bits": 1}, {"mantissa_bits": "10"}])
def test_impossible_widths(unit, fields):
    match = f"{next(iter(fields))} must be an integer from"
    refuses(unit, match, **{"exponent_bits": 5, "mantissa_bits": 10, **fields})


@pytest.mark.parametrize("unit", [FloatAdder, FloatMultiplier])
@pytest.mark.parametrize("stages", [0, 5, True, "2"])
def test_impossible_stages(unit, stages):
    match = "stages must be an integer from 1 to 4"
    refuses(unit, match, exponent_bits=5, mantissa_bits=10, stages=stages)


@pytest.mark.parametrize("unit", [FloatAdder, FloatMultiplier])
@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("fields", [(5, 10), (3, 2), (8, 7)])
def test_pipelines(unit, stages, fields):
    """New operands in random cycles, held in the others; each result ``latency`` cycles later."""
    dut = unit(exponent_bits=fields[0], mantissa_bits=fields[1], stages=stages)
    rng = random.Random(f"{unit.__name__} {stages} {fields}")
    words = boundary_words(dut.layout)
    members = [getattr(dut, name) for name in ("a", "b", "subtract") if hasattr(dut, name)]
    expected, results = [], []

    async def testbench(ctx):
        operands = [0] * len(members)
        for cycle in range(1000):
            if rng.random() < 0.7:
                operands = [rng.choice([rng.choice(words), rng.getrandbits(dut.layout.width)]) for _ in "ab"]
                operands += [rng.getrandbits(1)] * (len(members) - 2)
            for member, value in zip(members, operands, strict=True):
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
    assert len(results) == 1000 - dut.latency
    assert results == expected[: len(results)]


@pytest.mark.parametrize("stages", [1, 3])
def test_interfaces(stages):
    for unit in (hardware.adder(FP16, stages=stages), hardware.multiplier(FP16, stages=stages)):
        unit._MustUse__used = True  # Amaranth warns of components that nothing uses
        assert unit.latency == stages - 1
        assert unit.layout == FP16.layout
    assert hardware.zero(FP16).shape().width == 16
    assert hardware.zero(FP16).value == FP16.zero


def test_format_without_units():
    class Other(Format):
        name = "other"

    Other.__abstractmethods__ = frozenset()
    with pytest.raises(ConfigError, match="other has no hardware units"):
        hardware.adder(Other())
