"""The TPUs add the right terms to the right sums, whatever is enabled, whenever sums end, and for ever.

Exhaustion ends here: a TPU has state, and 2^34 inputs in each cycle. These proofs are about any number of
cycles and sums, with the adders that the chip has.
"""

import pytest
from amaranth.hdl import Array, Assert, Assume, Cat, Cover, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hyperdrive_hdl.arith import hardware
from hyperdrive_hdl.arith.float_adder import FloatAdder
from hyperdrive_hdl.arith.formats import Format, format_by_name
from hyperdrive_hdl.rtl.hierarchy import instantiate
from hyperdrive_hdl.rtl.tpu import TPU, ExactTPU
from tests.support.formal import Equivalence, Substitutes, mutant, prove

SUMS = ("fp16", "fp16_ftz", "bf16", "bf16_ftz", "q2.9")


class OneSum(wiring.Component):
    """What a TPU of one stage is to do: an accumulator; a sum ends with its last term."""

    def __init__(self, *, format: Format):
        self._format = format
        width = format.sums.width
        super().__init__(
            {"x": In(width), "weight": In(1), "enable": In(1), "ends": In(1), "held": Out(width)}
        )

    def elaborate(self, platform):
        m = Module()
        adder = instantiate(m, platform, "adder", hardware.adder_kind(self._format))
        acc = Signal(self._format.sums.width)
        total = Signal(self._format.sums.width)
        m.d.comb += [adder.a.eq(acc), adder.b.eq(self.x), adder.subtract.eq(~self.weight)]
        m.d.comb += total.eq(Mux(self.enable, adder.result, acc))
        m.d.sync += acc.eq(Mux(self.ends, 0, total))
        with m.If(self.ends):
            m.d.sync += self.held.eq(total)
        m.d.sync += Assume(~self.ends | self.enable)  # "with the sum's last term"
        m.d.sync += Cover(self.ends & self.held.any() & (total == self.held), "two sums have ended")
        return m


class SumsInTurn(wiring.Component):
    """What a TPU of P stages is to do: P accumulators, and an adder without stages.

    The sum of cycle t is number t modulo P. A term is added in the cycle after it was given; ``ends`` is of
    the sum of its own cycle, whose last term was given P cycles ago.
    """

    def __init__(self, *, format: Format, stages: int):
        self._format = format
        self._stages = stages
        width = format.sums.width
        super().__init__(
            {"x": In(width), "weight": In(1), "enable": In(1), "ends": In(1), "held": Out(width)}
        )

    def elaborate(self, platform):
        m = Module()
        adder = instantiate(m, platform, "adder", hardware.adder_kind(self._format))
        width = self._format.sums.width
        sums = Array(Signal(width, name=f"sum{slot}") for slot in range(self._stages))
        slot = Signal(range(self._stages))
        slot_before = Signal(range(self._stages))
        x = Signal(width)
        weight = Signal()
        enable = Signal()
        m.d.sync += [
            slot.eq(Mux(slot == self._stages - 1, 0, slot + 1)),
            slot_before.eq(slot),
            x.eq(self.x),
            weight.eq(self.weight),
            enable.eq(self.enable),
        ]
        m.d.comb += [
            adder.a.eq(sums[slot_before]),
            # Without a term it does not matter what the adder is given. What a TPU's is given makes the proof
            # easier: the registers of its pipeline then equal signals in here.
            adder.b.eq(Mux(enable, x, 0)),
            adder.subtract.eq(~(enable & weight)),
        ]
        with m.If(enable):
            m.d.sync += sums[slot_before].eq(adder.result)
        with m.If(self.ends):
            m.d.sync += [self.held.eq(sums[slot]), sums[slot].eq(0)]
        running = Cat(sum.any() for sum in sums).all()
        m.d.sync += Cover(self.ends & running & (self.held == sums[slot]), "two sums have ended")
        return m


def sequence(name: str, stages: int, tpu: type = TPU) -> Equivalence:
    format = format_by_name(name)
    golden = OneSum(format=format) if stages == 1 else SumsInTurn(format=format, stages=stages)
    return Equivalence(tpu(format=format, stages=stages), golden)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("name", SUMS)
def test_sums_are_those_of_independent_accumulators(name, stages, tmp_path):
    prove(sequence(name, stages), engine="merge", depth=stages, directory=tmp_path).expect()


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_there_are_sums_to_speak_of(stages, tmp_path):
    prove(sequence("fp16", stages), mode="cover", depth=12, directory=tmp_path).expect()


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize(
    "change",
    [
        ("acc.eq(0), ", ""),  # the next sum does not start from +0
        ("held.eq(adder.result)", "held.eq(acc)"),  # without the last term, or of another slot
        ("with m.If(self.ends)", "with m.If(self.ends & self.weight)"),
    ],
)
def test_a_sum_that_ends_wrong_is_noticed(stages, change, tmp_path):
    top = sequence("fp16", stages, mutant(TPU, change))
    prove(top, mode="bmc", depth=12, directory=tmp_path).expect_refuted()


@pytest.mark.parametrize(
    ("stages", "change"),
    [
        (1, ("with m.If(self.enable):", "if True:")),
        (2, ("x.eq(Mux(self.enable, self.x, 0))", "x.eq(self.x)")),
        (3, ("subtract.eq(~(self.enable & self.weight))", "subtract.eq(self.enable & self.weight)")),
        (3, ("adder_kind(self._format, stages=self._stages)", "adder_kind(self._format, stages=2)")),
    ],
)
def test_a_term_that_is_none_is_noticed(stages, change, tmp_path):
    top = sequence("fp16", stages, mutant(TPU, change))
    prove(top, mode="bmc", depth=12, directory=tmp_path).expect_refuted()


def test_a_wrong_adder_is_noticed(tmp_path):
    """Of the TPU alone: its adder has stages, the golden one has none."""
    wrong = mutant(FloatAdder, ("invert.eq(summed.subtract & ~carry)", "invert.eq(summed.subtract)"))
    adders = Substitutes({FloatAdder: lambda **of: (wrong if of["stages"] > 1 else FloatAdder)(**of)})
    prove(sequence("fp16", 2), mode="bmc", depth=12, platform=adders, directory=tmp_path).expect_refuted()


class ExactLane(wiring.Component):
    """``ExactTPU`` and what a tile does around it, beside the plain sum of its terms, modulo 2^width.

    The lane adds 2x where the weight is +1, and its own stored partial sum as is. The tile sums every x once,
    and takes that sum from the lane's; it adds 2x of the last term, which no lane does, if the weight was +1.
    """

    def __init__(self, *, width: int, tpu: type = ExactTPU):
        self._width = width
        self._tpu = tpu
        members = {name: In(1) for name in ("plus", "minus", "weight", "enable", "restore", "ends")}
        super().__init__({"x": In(signed(width)), **members})

    def elaborate(self, platform):
        m = Module()
        m.submodules.tpu = tpu = self._tpu(width=self._width)
        m.d.sync += [
            Assume(~self.ends | (self.enable & ~self.restore)),  # with the last term
            Assume(~self.restore | self.weight),  # a stored partial sum is added
        ]
        term = Signal(signed(self._width))
        m.d.comb += [
            term.eq(Mux(self.restore, self.x, self.x << 1)),
            tpu.term.eq(term),
            tpu.plus.eq(self.plus),
            tpu.minus.eq(self.minus),
            tpu.weight.eq(self.weight),
            tpu.enable.eq(self.enable),
            tpu.ends.eq(self.ends),
        ]

        # The tile's part.
        common = Signal(self._width)
        held_common = Signal(self._width)
        held_last = Signal(self._width)
        result = Signal(self._width)
        with m.If(self.ends):
            m.d.sync += [common.eq(0), held_common.eq(common), held_last.eq(self.x)]
        with m.Elif(self.enable & ~self.restore):
            m.d.sync += common.eq(common + self.x)
        m.d.comb += result.eq(tpu.held - held_common + Mux(tpu.held_weight, held_last, -held_last))

        # What is meant.
        total = Signal(self._width)
        total_with = Signal(self._width)
        infinite = Signal(2)  # of positive, of negative sign
        infinite_with = Signal(2)
        held = Signal(self._width)
        held_infinite = Signal(2)
        ended = Signal()
        signs = Mux(self.weight, Cat(self.plus, self.minus), Cat(self.minus, self.plus))
        m.d.comb += [
            total_with.eq(Mux(self.weight, total + self.x, total - self.x)),
            infinite_with.eq(infinite | signs),
        ]
        with m.If(self.ends):
            m.d.sync += [
                total.eq(0),
                infinite.eq(0),
                held.eq(total_with),
                held_infinite.eq(infinite_with),
                ended.eq(1),
            ]
        with m.Elif(self.enable):
            m.d.sync += [total.eq(total_with), infinite.eq(infinite_with)]
        m.d.sync += [
            Assert(~ended | (result == held), "the sum is another"),
            Assert(Cat(tpu.held_plus, tpu.held_minus) == held_infinite, "infinities are others"),
            Cover(ended & (held == 5) & (held_common == 1) & ~tpu.held_weight, "a sum of both weights"),
            Cover(held_infinite.all(), "a sum of both infinities"),
        ]

        # The invariant: what the lane has added is the sum that is meant, and the common one.
        added = Signal(self._width)
        with m.If(self.ends):
            m.d.sync += added.eq(0)
        with m.Elif(self.enable & self.weight):
            m.d.sync += added.eq(added + term)
        m.d.sync += Assert(added == (total + common)[: self._width], "the lane's sum is another")
        return m


@pytest.mark.parametrize("width", [3, 12, pytest.param(54, marks=pytest.mark.slow)])
def test_exact_sums_are_the_sums(width, tmp_path):
    """54 bits are those of FP16; 45 seconds."""
    prove(ExactLane(width=width), engine="merge", directory=tmp_path).expect()
    prove(ExactLane(width=width), mode="cover", depth=4, directory=tmp_path).expect()


@pytest.mark.parametrize(
    "change",
    [
        ("with m.If(self.enable & self.weight)", "with m.If(self.enable)"),
        ("with m.If(self.enable):", "with m.If(self.weight):"),
        ("any_plus.eq(plus | Mux(self.weight, self.plus, self.minus))", "any_plus.eq(plus | self.plus)"),
        ("acc.eq(0),", ""),
        ("plus.eq(0),", ""),
        ("held.eq(acc)", "held.eq(acc + self.term)"),
        ("held_weight.eq(self.weight)", "held_weight.eq(1)"),
    ],
)
def test_an_exact_sum_that_is_another_is_noticed(change, tmp_path):
    top = ExactLane(width=6, tpu=mutant(ExactTPU, change))
    prove(top, mode="bmc", depth=6, directory=tmp_path).expect_refuted()
