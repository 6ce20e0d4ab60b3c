"""The arithmetic units, for all operands in all orders: pipelines, and laws of addition and multiplication.

That a combinational unit computes the right function of one pair of operands, exhaustive runs can show. They
cannot show that a pipeline, with operands of several cycles in it at a time, computes the same function of
each: there are 2^64 ways to give a pipelined FP16 adder two pairs of operands.
"""

from functools import partial

import pytest
from amaranth.hdl import Assert, Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from hyperdrive_hdl.arith import hardware, pipelined
from hyperdrive_hdl.arith.float_adder import FloatAdder
from hyperdrive_hdl.arith.float_multiplier import FloatMultiplier
from hyperdrive_hdl.arith.formats import FP16, format_by_name
from tests.support.formal import Equivalence, mutant, prove

TERMS = 600  # of exact sums, which decides about their width
SUMS = ("fp16", "fp16_ftz", "bf16", "bf16_ftz", "q2.9")
EXACT = ("fp16", "fp8_e4m3", "fp8_e5m2_ftz", "q2.9")
UNITS = {
    "adder": (hardware.adder_kind, SUMS, (2, 3, 4)),
    "multiplier": (hardware.multiplier_kind, SUMS, (2, 3, 4)),
    "term": (partial(hardware.term_kind, terms=TERMS), EXACT, (2, 3)),
    "rounder": (partial(hardware.rounder_kind, terms=TERMS), EXACT, (2, 3, 4)),
}


def pipeline(unit: str, name: str, stages: int) -> Equivalence:
    """A pipelined unit beside the one of a single stage; for ``term`` even that one has a register."""
    kind = UNITS[unit][0]
    format = format_by_name(name)
    return Equivalence(kind(format, stages=stages)(), kind(format, stages=1)(), delay=stages - 1)


@pytest.mark.parametrize(
    ("unit", "name", "stages"),
    [(unit, name, count) for unit, (_, names, stages) in UNITS.items() for name in names for count in stages],
)
def test_a_pipeline_computes_what_one_stage_does(unit, name, stages, tmp_path):
    """In every cycle, for every stream of operands: without feedback the bound that is found suffices."""
    verdict = prove(pipeline(unit, name, stages), mode="bmc", directory=tmp_path).expect()
    assert verdict.what.startswith("Equivalence, bmc in")


@pytest.mark.parametrize("name", ["fp16", "q2.9"])
@pytest.mark.parametrize("unit", UNITS)
def test_a_register_less_is_noticed(unit, name, monkeypatch, tmp_path):
    registered = pipelined.registered

    def leaking(m, signals, name):
        later = registered(m, signals, name)
        first = next(iter(vars(signals)))
        setattr(later, first, getattr(signals, first))
        return later

    monkeypatch.setattr(pipelined, "registered", leaking)
    prove(pipeline(unit, name, 3), mode="bmc", directory=tmp_path).expect_refuted()


def test_operands_of_another_cycle_are_noticed(tmp_path):
    """The same function as long as there is one stage: nothing but a pipeline shows the slip."""
    slip = mutant(
        FloatAdder,
        (
            "invert.eq(summed.subtract & ~carry)",
            "invert.eq((self.a[-1] ^ self.b[-1] ^ self.subtract) & ~summed.special & ~carry)",
        ),
    )
    golden = hardware.adder_kind(FP16)
    layout = FP16.layout
    prove(Equivalence(slip(layout=layout, stages=1), golden()), mode="bmc", directory=tmp_path).expect()
    for stages in (2, 3, 4):
        top = Equivalence(slip(layout=layout, stages=stages), golden(), delay=stages - 1)
        trace = prove(top, mode="bmc", directory=tmp_path).expect_refuted()
        assert trace.end == "Assertion violated: result differs"
        assert len(trace.inputs) == stages


class Commutes(wiring.Component):
    """a + b = b + a, or a x b = b x a: two units of one kind, the operands of one of them swapped."""

    def __init__(self, unit: wiring.Component, swapped: wiring.Component):
        self._unit = unit
        self._swapped = swapped
        super().__init__({"a": In(len(unit.a)), "b": In(len(unit.b))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self._unit
        m.submodules.swapped = swapped = self._swapped
        m.d.comb += [unit.a.eq(self.a), unit.b.eq(self.b), swapped.a.eq(self.b), swapped.b.eq(self.a)]
        m.d.sync += Assert(unit.result == swapped.result, "the order of the operands matters")
        return m


class Subtracts(wiring.Component):
    """a - b = a + (-b), of floats."""

    def __init__(self, subtracting: wiring.Component, adding: wiring.Component):
        self._subtracting = subtracting
        self._adding = adding
        super().__init__({"a": In(len(adding.a)), "b": In(len(adding.b))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.subtracting = subtracting = self._subtracting
        m.submodules.adding = adding = self._adding
        m.d.comb += [subtracting.a.eq(self.a), subtracting.b.eq(self.b), subtracting.subtract.eq(1)]
        m.d.comb += [adding.a.eq(self.a), adding.b.eq(Cat(self.b[:-1], ~self.b[-1]))]
        m.d.sync += Assert(subtracting.result == adding.result, "to subtract is not to add the negative")
        return m


class Neutral(wiring.Component):
    """What a TPU's idle cycle does: (a + b) + (-0) = a + b for every sum."""

    def __init__(self, first: wiring.Component, idle: wiring.Component):
        self._first = first
        self._idle = idle
        super().__init__({"a": In(len(first.a)), "b": In(len(first.b)), "subtract": In(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.first = first = self._first
        m.submodules.idle = idle = self._idle
        m.d.comb += [first.a.eq(self.a), first.b.eq(self.b), first.subtract.eq(self.subtract)]
        m.d.comb += [idle.a.eq(first.result), idle.subtract.eq(1)]  # idle.b is +0
        m.d.sync += Assert(idle.result == first.result, "-0 changes a sum")
        return m


@pytest.mark.parametrize("name", SUMS)
def test_addition_commutes(name, tmp_path):
    kind = hardware.adder_kind(format_by_name(name))
    prove(Commutes(kind(), kind()), mode="bmc", directory=tmp_path).expect()


@pytest.mark.parametrize("name", ["fp16", "fp16_ftz", "bf16", "bf16_ftz"])
def test_multiplication_commutes(name, tmp_path):
    """Yosys knows that multiplication of integers does, which leaves ABC the rest of the unit."""
    kind = hardware.multiplier_kind(format_by_name(name))
    prove(Commutes(kind(), kind()), mode="bmc", directory=tmp_path).expect()


@pytest.mark.parametrize("name", ["fp16", "fp16_ftz", "bf16", "bf16_ftz"])
def test_to_subtract_is_to_add_the_negative(name, tmp_path):
    """Not in fixed point, where the lowest number has no negative."""
    kind = hardware.adder_kind(format_by_name(name))
    prove(Subtracts(kind(), kind()), mode="bmc", directory=tmp_path).expect()


@pytest.mark.parametrize("name", SUMS)
def test_a_minus_zero_changes_no_sum(name, tmp_path):
    kind = hardware.adder_kind(format_by_name(name))
    prove(Neutral(kind(), kind()), mode="bmc", directory=tmp_path).expect()


@pytest.mark.parametrize(
    ("top", "kind", "change"),
    [
        (Commutes, FloatAdder, ("ordered.sign.eq(Mux(swap, b_sign, a[-1]))", "ordered.sign.eq(a[-1])")),
        (Commutes, FloatMultiplier, ("(b_special & (b_fraction | a_zero))", "(b_special & b_fraction)")),
        (Subtracts, FloatAdder, ("b_sign.eq(b[-1] ^ operands.subtract)", "b_sign.eq(operands.subtract)")),
        (Neutral, FloatAdder, ("b_sign.eq(b[-1] ^ operands.subtract)", "b_sign.eq(b[-1])")),
    ],
)
def test_a_law_broken_is_noticed(top, kind, change, tmp_path):
    broken = mutant(kind, change)
    units = [broken(layout=FP16.layout) for _ in range(2)]
    prove(top(*units), mode="bmc", directory=tmp_path).expect_refuted()
