"""Clocks of the tiles' TPUs and epilogues that stop whenever they may: no word and no cycle is another one.

Amaranth's simulator knows no gated clocks; here what has no clock is held by an enable, which is the same.
"""

import random
from collections import Counter

import numpy as np
import pytest
from amaranth.hdl import EnableInserter, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hyperdrive_hdl.rtl.hierarchy import ModuleLibrary, gates_clocks
from hyperdrive_hdl.rtl.registers import delayed
from hyperdrive_hdl.rtl.tile import TileActivity
from hyperdrive_hdl.rtl.tpu import TPU
from hyperdrive_hdl.simulate.python import PysimBackend
from tests.support.chips import MINI, check_program, small_program
from tests.support.formal import mutant
from tests.support.streams import simulate

CHIPS = {
    "paper": MINI,
    "in_turn": MINI.replace(adder_latency=3),
    "two_words": MINI.replace(adder_latency=2, format="fp8_e4m3"),
    "exact": MINI.replace(accumulator="exact", adder_latency=3),
    "far": MINI.replace(accumulator="exact", memory_latency=5, adder_latency=2),
    "far_in_turn": MINI.replace(memory_latency=3, adder_latency=4, lanes=3),
}


class Stopping(ModuleLibrary):
    """As ``platform``: plain submodules, which do nothing but reset while they are not ``active``."""

    active: dict = {}  # by name, of the chip that was elaborated last

    def __init__(self):
        super().__init__()
        self.components = {}

    @property
    def gates_clocks(self):
        return True

    def instantiate(self, m, name, kind, parameters, reset=None, active=None):
        assert reset is None or active is None
        component = kind(**parameters)
        m.submodules[name] = component if active is None else EnableInserter(active)(component)
        self.components[name] = component
        if active is not None:
            Stopping.active[active.name] = active
        return component


class Watching(PysimBackend):
    """Counts cycles by what the chip does and which clocks run."""

    def start(self, stimulus):
        super().start(stimulus)
        self.seen = Counter()
        chip = self._chips[0, 0]._chip

        async def watch(ctx):
            await ctx.tick().repeat(12)  # pipelines empty after reset
            while True:
                running = tuple(name for name, clock in Stopping.active.items() if ctx.get(clock))
                activity = chip.activity
                self.seen[ctx.get(activity.computing), ctx.get(activity.loading), running] += 1
                await ctx.tick()

        self._simulator.add_testbench(watch, background=True)


def run(chip, monkeypatch, *, stall_seed=None):
    """What a chip with stopping clocks stores and counts, and the cycles by what ran."""
    monkeypatch.setattr("hyperdrive_hdl.simulate.python.ComponentRecord", Stopping)
    Stopping.active.clear()
    program, stage, image = small_program(5, chip)
    with Watching(chip) as backend:
        done = check_program(backend, program, stage, [image], stall_seed=stall_seed)
        return done, backend.seen


@pytest.mark.parametrize(("name", "stall_seed"), [("paper", None), *((name, 7) for name in CHIPS)])
def test_stopping_changes_nothing(name, stall_seed, monkeypatch):
    chip = CHIPS[name]
    program, stage, image = small_program(5, chip)
    with PysimBackend(chip) as backend:
        plain = check_program(backend, program, stage, [image], stall_seed=stall_seed)
    stopping, seen = run(chip, monkeypatch, stall_seed=stall_seed)
    assert set(Stopping.active) == {"summing", "finishing"}
    assert vars(stopping.counters) == vars(plain.counters)
    for one, other in zip(stopping.outputs, plain.outputs, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])
    # While maps come in and nothing is computed, no clock runs; both run at some time.
    loads = [
        (running, cycles) for (computing, loading, running), cycles in seen.items() if loading > computing
    ]
    assert sum(cycles for _, cycles in loads) > 10
    assert all(running == () for running, _ in loads), loads
    assert any("summing" in running for *_, running in seen)
    assert any("finishing" in running for *_, running in seen)
    # And the TPUs' never long: a term's cycle and what follows it, or a sum under way.
    if name == "paper":
        summing = sum(cycles for (*_, running), cycles in seen.items() if "summing" in running)
        assert summing == plain.counters.mac


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("paper", ("self.enable.any() | self.ends", "self.ends")),
        ("paper", ("slots = at.write - at.select", "slots = at.write - at.select - 1")),
        ("paper", ("Cat(self.selects, selected)[at.broadcast :]", "selected")),
        ("in_turn", ("behind = at.accumulate - 1", "behind = at.accumulate - 2")),
        ("exact", ("behind = at.accumulate - 1", "behind = at.accumulate - 2")),
        ("far", ("slots = at.write - at.select", "slots = at.write - at.select - 1")),
        ("far", ("[at.broadcast :].any()", "[at.broadcast + 1 :].any()")),
    ],
)
def test_clocks_that_stop_too_early_are_noticed(name, change, monkeypatch):
    monkeypatch.setattr("hyperdrive_hdl.rtl.chip.TileActivity", mutant(TileActivity, change))
    with pytest.raises(AssertionError) as caught:
        run(CHIPS[name], monkeypatch)
    assert "image 0" in str(caught.value)


class TwoTPUs(wiring.Component):
    """A TPU, and one whose clock stops."""

    def __init__(self, *, config, activity=TileActivity):
        self._config = config
        self._activity = activity
        super().__init__(
            {"x": In(16), "weight": In(1), "enable": In(1), "ends": In(1), "one": Out(16), "other": Out(16)}
            | {"running": Out(1)}
        )

    def elaborate(self, platform):
        m = Module()
        config, format = self._config, self._config.number_format
        m.submodules.activity = activity = self._activity(config=config)
        one, other = (TPU(format=format, stages=config.adder_latency) for _ in range(2))
        m.submodules.one = one
        m.submodules.other = EnableInserter(activity.summing)(other)
        m.d.comb += [activity.enable.eq(self.enable), activity.ends.eq(self.ends)]
        m.d.comb += [self.running.eq(activity.summing), self.one.eq(one.held), self.other.eq(other.held)]
        ends = delayed(
            m, self.ends, config.adder_latency if config.adder_latency > 1 else 0, name="e", init=0
        )
        for tpu in (one, other):
            m.d.comb += [getattr(tpu, name).eq(getattr(self, name)) for name in ("x", "weight", "enable")]
            m.d.comb += tpu.ends.eq(ends)
        return m


def sums_in_turn(stages, activity=TileActivity):
    """Sums in turn, with gaps between them and in them, long and short; cycles in which the clock stopped."""
    rng = random.Random(stages)
    dut = TwoTPUs(config=MINI.replace(adder_latency=stages, lanes=1), activity=activity)
    seen = Counter()

    async def bench(ctx):
        left = [0] * stages  # terms of the sum in each turn
        begins = goes = 0.0
        for cycle in range(2000):
            if rng.random() < 0.02:
                begins, goes = rng.choice([(0.0, 1.0), (0.2, 1.0), (1.0, 1.0), (0.3, 0.05), (0.05, 0.3)])
            turn = cycle % stages
            if not left[turn] and rng.random() < begins:
                left[turn] = rng.choice([1, 1, 2, 9])
            go = left[turn] > 0 and rng.random() < goes
            left[turn] -= go
            ctx.set(dut.enable, go)
            ctx.set(dut.ends, go and not left[turn])
            ctx.set(dut.x, rng.getrandbits(14))
            ctx.set(dut.weight, rng.getrandbits(1))
            seen[bool(ctx.get(dut.running))] += 1
            await ctx.tick()
            seen["sums"] += go and not left[turn]
            assert ctx.get(dut.one) == ctx.get(dut.other), cycle

    simulate(dut, bench)
    return seen


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_sums_wait_without_a_clock(stages):
    seen = sums_in_turn(stages)
    assert min(seen[True], seen[False], seen["sums"]) > 100


@pytest.mark.parametrize(
    "change", [("taken | under_way.any()", "taken"), ("(under_way[0] | taken)", "under_way[0]")]
)
def test_sums_without_a_clock_are_noticed(change):
    with pytest.raises(AssertionError):
        sums_in_turn(3, mutant(TileActivity, change))


def test_only_who_gates_clocks_gets_gates():
    assert not gates_clocks(None)
    assert not gates_clocks(ModuleLibrary())
    assert gates_clocks(ModuleLibrary(cells=True))
