"""Benches in Amaranth's simulator: a time limit, streams with random stalls, traces cycle by cycle.

What a bench does not see it does not check: every helper returns what happened, and the tests count it.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest
from amaranth.hdl import ClockDomain, Fragment, Module, Value
from amaranth.lib import data
from amaranth.sim import Simulator


def simulate(dut, *benches: Callable, background: Sequence[Callable] = (), limit: int = 20_000) -> None:
    """Run until every bench has ended.

    Raises
    ------
    TimeoutError : they have not after ``limit`` cycles
    """

    running = len(benches)

    def ending(bench):
        async def run(ctx):
            nonlocal running
            await bench(ctx)
            running -= 1

        return run

    m = Module()
    m.domains.sync = ClockDomain()
    m.submodules.dut = dut
    simulator = Simulator(Fragment.get(m, None))
    simulator.add_clock(1e-9)
    for bench in benches:
        simulator.add_testbench(ending(bench))
    for bench in background:
        simulator.add_testbench(bench, background=True)
    for _ in range(2 * limit):  # two edges per cycle
        if not running:
            return
        simulator.advance()
    raise TimeoutError(f"{running} benches still run after {limit} cycles")


def trace(
    dut, inputs: Iterable[Mapping[str, Any]], outputs: Sequence[str], *, limit: int = 100_000
) -> list[dict[str, Any]]:
    """Set members each cycle and look at others in the same cycle, before the clock edge.

    Members go by name, with dots into interfaces; a value stays until it is set again.
    """
    seen: list[dict[str, Any]] = []

    async def bench(ctx):
        for values in inputs:
            for name, value in values.items():
                write(ctx, member(dut, name), value)
            seen.append({name: read(ctx, member(dut, name)) for name in outputs})
            await ctx.tick()

    simulate(dut, bench, limit=limit)
    if not seen:
        raise AssertionError("the bench ran no cycle")
    return seen


def member(dut, name: str):
    """A member by its path, for example ``operations.p``."""
    for part in name.split("."):
        dut = getattr(dut, part)
    return dut


def write(ctx, target, value) -> None:
    """Set a signal, a struct (from a mapping or a sequence) or an array member (nested sequences)."""
    if isinstance(target, list):
        if len(target) != len(value):
            raise ValueError(f"an array of {len(target)} needs as many values, not {len(value)}")
        for part, item in zip(target, value, strict=True):
            write(ctx, part, item)
    elif isinstance(target, data.View):
        ctx.set(target, value)
    else:
        ctx.set(target, int(value))


def read(ctx, source):
    """A signal's value, a struct's as a dictionary, an array member's as nested lists."""
    if isinstance(source, list):
        return [read(ctx, part) for part in source]
    if isinstance(source, data.View):
        return fields(ctx.get(source))
    return ctx.get(Value.cast(source))


def fields(struct) -> dict[str, int] | list:
    """A struct constant's fields by name, an array constant's elements."""
    if isinstance(struct, data.Const):
        layout = struct.shape()
        if isinstance(layout, data.ArrayLayout):
            return [fields(item) for item in struct]
        return {name: fields(struct[name]) for name, _ in layout}
    return struct


class Stalls:
    """Random spells of idling: free running, half of the time, nearly dead."""

    def __init__(self, seed: object):
        self._random = random.Random(f"stalls {seed}")
        self._chance = 0.0

    def __call__(self) -> bool:
        """Whether to idle for this cycle."""
        if self._random.random() < 0.05:
            self._chance = self._random.choice((0.0, 0.0, 0.5, 0.95))
        return self._random.random() < self._chance


async def put(ctx, stream, payloads: Iterable, stalls: Callable[[], bool] = lambda: False) -> None:
    """Offer payloads one after the other; an offered one stays until it is taken.

    What the other side does is sampled at the clock edge, when every bench has set its part.
    """
    for payload in payloads:
        while stalls():
            await ctx.tick()
        write(ctx, stream.payload, payload)
        ctx.set(stream.valid, 1)
        taken = False
        while not taken:
            *_, taken = await ctx.tick().sample(stream.ready)
        ctx.set(stream.valid, 0)


async def get(ctx, stream, count: int, stalls: Callable[[], bool] = lambda: False) -> list:
    """Take so many payloads; checks that an offered one stays the same until it is taken."""
    taken: list = []
    offered = None
    while len(taken) < count:
        ready = not stalls()
        ctx.set(stream.ready, ready)
        *_, valid, payload = await ctx.tick().sample(stream.valid, stream.payload)
        if valid:
            payload = fields(payload)
            if offered is not None and payload != offered:
                raise AssertionError(f"an offered payload changed from {offered} to {payload}")
            offered = payload
            if ready:
                taken.append(payload)
                offered = None
        elif offered is not None:
            raise AssertionError(f"an offered payload was withdrawn: {offered}")
    ctx.set(stream.ready, 0)
    return taken


def refuses(kind: type, match: str, **parameters) -> None:
    """Check that a component cannot be made with these parameters."""
    component = kind.__new__(kind)
    component._MustUse__used = True  # Amaranth warns of components that nothing uses
    with pytest.raises(ValueError, match=match):
        component.__init__(**parameters)
