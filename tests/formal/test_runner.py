"""The runner itself: proves what is true, refutes what is not, refuses what it could not decide rightly."""

import pytest
from amaranth.hdl import Array, Assert, Assume, Cover, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hyperdrive_hdl.errors import ToolError
from hyperdrive_hdl.rtl.hierarchy import instantiate
from tests.support.formal import Equivalence, Substitutes, UndecidedError, mutant, prove


class Stopping(wiring.Component):
    """Counts to six."""

    step: In(1)
    count: Out(3)

    def elaborate(self, platform):
        m = Module()
        with m.If(self.step & (self.count != 6)):
            m.d.sync += self.count.eq(self.count + 1)
        m.d.sync += Assert(self.count != 7, "it stops at six")
        for number in (4, 6, 5):
            m.d.sync += Cover(self.count == number, f"it is {number}")
        return m


PAST_SIX = mutant(Stopping, ("self.step & (self.count != 6)", "self.step"))


@pytest.mark.parametrize("engine", ["pdr", "merge"])
def test_a_proof_holds_for_ever_and_its_mutant_is_refuted(engine, tmp_path):
    prove(Stopping(), engine=engine, directory=tmp_path).expect()
    trace = prove(PAST_SIX(), engine=engine, directory=tmp_path).expect_refuted()
    assert trace.end == "Assertion violated: it stops at six"


def test_a_bounded_proof_reaches_exactly_as_far_as_it_says(tmp_path):
    prove(PAST_SIX(), mode="bmc", depth=7, directory=tmp_path).expect()
    prove(PAST_SIX(), mode="bmc", depth=8, directory=tmp_path).expect_refuted()


def test_a_counterexample_can_be_read(tmp_path):
    verdict = prove(PAST_SIX(), mode="bmc", depth=8, directory=tmp_path)
    with pytest.raises(AssertionError) as error:
        verdict.expect()
    heading, *table = str(error.value).splitlines()[1:]
    assert heading.startswith("Assertion violated: it stops at six")
    rows = {name: values for name, *values in map(str.split, table)}
    assert rows["cycle"] == rows["count"] == list("01234567")
    assert rows["step"][:7] == ["1"] * 7
    trace = verdict.expect_refuted()
    assert [step["step"] for step in trace.inputs[:7]] == [1] * 7
    assert trace.waveform.parent == tmp_path
    assert "$enddefinitions" in trace.waveform.read_text()
    with pytest.raises(AssertionError, match="counterexample was expected"):
        prove(Stopping(), directory=tmp_path).expect_refuted()


@pytest.mark.parametrize(("depth", "reached"), [(4, []), (5, [4]), (6, [4, 5]), (7, [4, 5, 6])])
def test_covers_are_reached_one_by_one(depth, reached, tmp_path):
    verdict = prove(Stopping(), mode="cover", depth=depth, directory=tmp_path)
    assert [trace.signals[-1]["count"] for trace in verdict.traces] == reached
    assert verdict.holds == (len(reached) == 3)


class Assuming(wiring.Component):
    """Adds up inputs that are assumed to be even."""

    x: In(4)
    total: Out(8)

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.total.eq(self.total + self.x)
        m.d.sync += Assume(~self.x[0])
        m.d.sync += Assert(~self.total[0], "it is even")
        m.d.sync += Cover(self.total == 0x7E, "126")
        return m


def test_assumptions_hold_in_every_run(tmp_path):
    prove(Assuming(), directory=tmp_path).expect()
    verdict = prove(Assuming(), mode="cover", depth=12, directory=tmp_path).expect()
    assert all(step["x"] % 2 == 0 for trace in verdict.traces for step in trace.inputs)
    prove(
        mutant(Assuming, ("Assume(~self.x[0])", "Assume(~self.x[1])"))(), directory=tmp_path
    ).expect_refuted()


class Arbiter(wiring.Component):
    """Grants one of three requests at a time, in turn: each is answered within three cycles."""

    requests: In(3)
    grant: Out(3)

    def elaborate(self, platform):
        m = Module()
        turn = Signal(2)
        m.d.comb += self.grant.eq(self.requests & (1 << turn))
        m.d.sync += turn.eq(Mux(turn == 2, 0, turn + 1))
        for index in range(3):
            waiting = Signal(range(4), name=f"waiting{index}")
            unanswered = self.requests[index] & ~self.grant[index]
            m.d.sync += waiting.eq(Mux(unanswered, waiting + 1, 0))
            m.d.sync += Assert(waiting < 3, f"request {index} is answered within three cycles")
        return m


def test_some_time_is_a_bound(tmp_path):
    prove(Arbiter(), directory=tmp_path).expect()
    late = mutant(Arbiter, ("Mux(turn == 2, 0, turn + 1)", "turn + 1"))  # a turn for nobody
    trace = prove(late(), directory=tmp_path).expect_refuted()
    assert "is answered within three cycles" in trace.end
    assert len(trace.inputs) == 5  # the shortest


class Delay(wiring.Component):
    """Its input, inverted and back, three cycles later; without feedback."""

    x: In(2)
    y: Out(2)

    def elaborate(self, platform):
        m = Module()
        word = self.x
        for stage in range(3):
            later = Signal(2, name=f"later{stage}")
            m.d.sync += later.eq(~word)
            word = later
        m.d.comb += self.y.eq(~word)
        return m


class Wire(wiring.Component):
    x: In(2)
    y: Out(2)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.y.eq(self.x)
        return m


def test_of_a_design_without_feedback_a_bound_is_found_that_suffices(tmp_path):
    verdict = prove(Equivalence(Delay(), Wire(), delay=3), mode="bmc", directory=tmp_path).expect()
    assert verdict.what == "Equivalence, bmc in 4 cycles"
    for delay in (2, 4):
        top = Equivalence(Delay(), Wire(), delay=delay)
        trace = prove(top, mode="bmc", directory=tmp_path).expect_refuted()
        assert trace.end == "Assertion violated: y differs"
    # A difference that shows only after as many cycles as there are registers.
    slow = mutant(Delay, ("self.y.eq(~word)", "self.y.eq(~word ^ (word == 0))"))
    trace = prove(Equivalence(slow(), Wire(), delay=3), mode="bmc", directory=tmp_path).expect_refuted()
    assert len(trace.inputs) == 4
    assert trace.signals[-1]["dut.y"] == 2
    assert trace.signals[0]["x"] == 3


class Stored(wiring.Component):
    """A memory of three rows; the fourth does not exist, and can be anything in a proof."""

    def __init__(self, *, fourth: bool):
        self._fourth = fourth
        super().__init__({"row": In(2), "x": In(1), "write": In(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.rows = rows = Memory(shape=1, depth=3, init=[])
        write, read = rows.write_port(), rows.read_port(domain="comb")
        shadow = Array(Signal(name=f"shadow{row}") for row in range(3))
        m.d.comb += [
            write.addr.eq(self.row),
            write.data.eq(self.x),
            write.en.eq(self.write & (self.row != 3)),
            read.addr.eq(self.row),
        ]
        with m.If(write.en):
            m.d.sync += shadow[self.row].eq(self.x)
        expected = 0 if self._fourth else shadow[self.row]
        m.d.sync += Assert(((self.row == 3) != self._fourth) | (read.data == expected), "as written")
        return m


def test_what_nothing_defines_can_be_anything(tmp_path):
    prove(Stored(fourth=False), directory=tmp_path).expect()
    with pytest.raises(ToolError, match="which ends with '' in the simulator"):  # where it is always 0
        prove(Stored(fourth=True), directory=tmp_path)


class Placing(wiring.Component):
    """A child that can be replaced."""

    x: In(2)

    def elaborate(self, platform):
        m = Module()
        child = instantiate(m, platform, "child", Wire)
        m.d.comb += child.x.eq(self.x)
        m.d.sync += Assert(child.y == self.x, "the child is a wire")
        return m


def test_components_are_replaced_and_a_replacement_that_has_no_place_is_noticed(tmp_path):
    inverting = mutant(Wire, ("self.y.eq(self.x)", "self.y.eq(~self.x)"))
    prove(Placing(), directory=tmp_path).expect()
    trace = prove(Placing(), platform=Substitutes({Wire: inverting}), directory=tmp_path).expect_refuted()
    assert trace.signals[-1]["child.y"] == 3 - trace.signals[-1]["x"]
    with pytest.raises(ValueError, match="Placing has no Delay to replace"):
        prove(Placing(), platform=Substitutes({Delay: Delay}), directory=tmp_path)


@pytest.mark.parametrize("old", ["not there", "self"])
def test_a_mutation_that_is_not_the_one_meant_is_refused(old):
    with pytest.raises(ValueError, match="must occur once in Wire, not"):
        mutant(Wire, (old, ""))


class Wrong(wiring.Component):
    """Properties that cannot be decided, or not rightly."""

    def __init__(self, kind: str):
        self._kind = kind
        super().__init__({"x": In(1)})

    def elaborate(self, platform):
        m = Module()
        if self._kind == "comb":
            m.d.comb += Assert(~self.x)
        elif self._kind == "silent":
            m.d.sync += Cover(self.x)
        else:
            m.d.sync += Assert(~self.x)
        return m


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("comb", {}, "must be in the domain sync"),
        ("silent", {}, "has no Assert"),
        ("silent", {"mode": "cover", "depth": 2}, "must have a message"),
        ("assert", {"mode": "cover", "depth": 2}, "has no Cover"),
        ("assert", {"mode": "cover"}, "depth must be given for mode cover"),
        ("assert", {"mode": "live"}, "mode must be prove, bmc or cover, not 'live'"),
        ("assert", {"engine": "magic"}, "engine must be one of pdr, merge, not 'magic'"),
    ],
)
def test_what_cannot_be_decided_is_refused(kind, options, message, tmp_path):
    top = Wrong(kind)
    top._MustUse__used = True  # Amaranth warns of components that nothing uses
    with pytest.raises(ValueError, match=message):
        prove(top, directory=tmp_path, **options)


def test_a_bound_is_not_made_up(tmp_path):
    with pytest.raises(ValueError, match="a design with feedback"):
        prove(Stopping(), mode="bmc", directory=tmp_path)
    with pytest.raises(ValueError, match="a design with assumptions"):
        prove(Assuming(), mode="bmc", directory=tmp_path)


class Constant(wiring.Component):
    """A property that Yosys knows the answer to."""

    def __init__(self, *, answer: bool):
        self._answer = answer
        super().__init__({"x": In(1)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += Assert((self.x & ~self.x) == (not self._answer), "constant")
        return m


@pytest.mark.parametrize("options", [{}, {"engine": "merge"}, {"mode": "bmc"}, {"mode": "bmc", "depth": 3}])
def test_properties_with_nothing_to_decide(options, tmp_path):
    prove(Constant(answer=True), directory=tmp_path, **options).expect()
    prove(Constant(answer=False), directory=tmp_path, **options).expect_refuted()


class Factoring(wiring.Component):
    """What ABC cannot know in a second: the factors of a product of two primes of 28 bits."""

    a: In(28)
    b: In(28)

    def elaborate(self, platform):
        m = Module()
        m.d.sync += Assert(self.a * self.b != 179_424_673 * 160_481_183, "there are factors")
        return m


@pytest.mark.parametrize("options", [{}, {"mode": "bmc", "depth": 1}])
def test_no_answer_is_not_taken_for_one(options, tmp_path):
    with pytest.raises(UndecidedError, match="ABC answers 'snl_UNK"):
        prove(Factoring(), directory=tmp_path, limit=1, **options)
