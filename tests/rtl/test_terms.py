"""Sums in turn against the model of a ring (tests/support/operations.py), and what keeps the rows safe."""

import random

import pytest
from amaranth.hdl import Value

from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.rtl.layouts import SumLayout, row_bits
from hyperdrive_hdl.rtl.terms import TermWalker
from tests.support.operations import Comparison, Packing, Ring, random_conv, sums
from tests.support.streams import Stalls, simulate


def chip(latency, **changes) -> ChipConfig:
    return ChipConfig(
        lanes=3,
        tile_rows=1,
        tile_cols=2,
        fmm_banks=4,
        fmm_bank_depth=1024,
        wbuf_depth=18,
        adder_latency=latency,
    ).replace(**changes)


CHIPS = [
    chip(1),
    chip(1, memory_latency=2),
    chip(1, format="fp8_e4m3", lanes=2),  # two words for a stored sum
    chip(2, format="q2.9", wbuf_depth=9),
    chip(2, link_width=4, border_depth=256),
    chip(3, lanes=1, wbuf_depth=27),
    chip(4, format="fp8_e5m2"),
    chip(4, accumulator="exact"),  # one sum in turn all the same
]
chips = pytest.mark.parametrize("config", CHIPS, ids=lambda c: f"{c.accumulator}{c.adder_latency}-{c.format}")


def random_sums(config, rng, layers):
    """Of random layers, one with stored partial sums, and one whose rows alternate where they can."""
    drawn = [random_conv(rng, config, largest=rng.randint(1, 3), mesh=(0, 0)) for _ in range(layers)]
    turns = config.sums_in_turn
    one_pixel = {"tile_h": 1, "tile_w": 1, "in_blocks": 1, "interleave": turns, "out_blocks": turns + 1}
    drawn.insert(2, random_conv(rng, config, largest=2, mesh=(0, 0), in_blocks=2))
    drawn.insert(4, random_conv(rng, config, mesh=(0, 0), **one_pixel))
    return sums(drawn, config)


def run(config, todo, *, seed=None, refusals=0.3) -> dict[str, int]:
    """Give sums to the walker and take their operations; everything it shows is compared in every cycle.

    Refusals are random, apart from what ``Issue`` promises: only what is eligible is taken, sums end in
    order, and a layer's operations follow its first, which follows the layer before. Rows come at random
    too, where the ring of the weight buffer has room; it is played here, and every operation has to find its
    own row in it. Returns how often each case occurred.
    """
    dut = TermWalker(config=config)
    ring = Ring(config)
    rng = random.Random(f"terms {seed}")
    offering, arriving = (Stalls((seed, i)) if seed is not None else lambda: False for i in range(2))
    total = max(s.operations[-1]["row"] + 1 for s in todo)
    cases = (
        "taken", "gapless", "refused", "starved", "behind", "unstored", "restored", "full", "replaced",
        "ahead", "blocks",
    )  # fmt: skip
    counts = dict.fromkeys(cases, 0)
    rows = 1 << row_bits(config.wbuf_depth)  # row counts go round
    stored = [-1] * config.wbuf_depth  # row in every place of the weight buffer
    shown = Comparison(dut.operation)
    packing = Packing(SumLayout(config))

    async def bench(ctx):
        nonlocal refusals
        storing = 1.0  # how fast sums get into memory
        written = in_memory = 0  # rows, sums
        upcoming = None  # the sum that is offered
        accepted = False  # the last one was taken in the cycle before: its payload stays
        first_taken = -1  # layer
        cycle = last_taken = 0
        read = None  # operation taken in the cycle before
        for phase in range(rng.randint(1, 5)):  # turns are counted from ``restart`` on
            ctx.set(dut.restart, phase > 0)
            await ctx.tick()
        ctx.set(dut.restart, 1)
        await ctx.tick()
        ctx.set(dut.restart, 0)
        while ring.active or len(ring.begun) < len(todo) or ring.freed < total or read:
            if rng.random() < 0.01:
                refusals = rng.choice([0, 0.3, 0.9]) if seed is not None else 0
                storing = rng.choice([1, 0.3, 0.05]) if seed is not None else 1
            if upcoming is None and not accepted and len(ring.begun) < len(todo) and not offering():
                upcoming = todo[len(ring.begun)]
                ctx.set(Value.cast(dut.sums.payload), packing.word(upcoming.fields))
            ctx.set(dut.sums.valid, upcoming is not None)
            ctx.set(dut.written, written % rows)

            wanted = ring.operation
            where = f"sum {wanted and wanted['number']}, {len(ring.begun)} begun"
            assert ctx.get(dut.valid) == (wanted is not None), where
            assert ctx.get(dut.active) == ring.active, where
            assert ctx.get(dut.freed) == ring.freed % rows, where
            eligible = taken = False
            if wanted:
                shown.check(ctx, wanted, where)
                eligible = ring.eligible(written, in_memory)
                assert ctx.get(dut.eligible) == eligible, where
                assert ctx.get(dut.starved) == (not ring.there(written)), where
                in_order = (
                    (not wanted["last"] or wanted["number"] == ring.ended)
                    and (not wanted["first"] or min(ring.left) == wanted["number"])
                    and (wanted["first"] or wanted["layer"] == first_taken)
                )
                taken = eligible and in_order and rng.random() >= refusals
                counts["refused"] += eligible and in_order and not taken
                counts["starved"] += not ring.there(written)
                there = ring.there(written)
                counts["behind"] += there and not eligible and not wanted["restore"]
                counts["unstored"] += there and not eligible and wanted["restore"]
                blocks = {left[0]["block"] for left in ring.left.values()}
                counts["blocks"] = max(counts["blocks"], len(blocks))
            ctx.set(dut.taken, taken)
            assert ctx.get(dut.sums.ready) == ring.room(taken), where

            # The array is read in the cycle after; a row that is freed may be replaced in the same one.
            if read:
                assert stored[read["position"]] == read["row"], f"row {read['row']} is not there"
            arrives = written < total and written - ring.freed < config.wbuf_depth
            counts["full"] += written < total and not arrives
            arrives = arrives and not arriving()
            ctx.set(dut.arrives, arrives)
            if arrives:
                counts["replaced"] += bool(read) and read["position"] == written % config.wbuf_depth
                stored[written % config.wbuf_depth] = written
                written += 1
            assert ring.needed is None or ring.freed <= ring.needed, "a row was freed that is still needed"
            counts["ahead"] = max(counts["ahead"], written - ring.freed)

            if taken:
                counts["gapless"] += cycle == last_taken + 1
                last_taken = cycle
                counts["taken"] += 1
                counts["restored"] += wanted["restore"]
                first_taken = wanted["layer"] if wanted["first"] else first_taken
            read = wanted if taken and not wanted["restore"] else None
            accepted = upcoming is not None and ring.room(taken)
            sum_done = in_memory < ring.ended and rng.random() < storing
            ctx.set(dut.sum_done, sum_done)
            in_memory += sum_done
            ring.step(taken, upcoming)
            upcoming = None if accepted else upcoming
            cycle += 1
            await ctx.tick()

    simulate(dut, bench, limit=200_000)
    assert len(ring.begun) == len(todo)
    return counts


@chips
def test_operations_of_random_layers(config):
    """Restores by lane and part, then taps in raster order, channels innermost; P sums in turn, in order."""
    total: dict[str, int] = {"alternating": 0}
    for seed in range(8):
        todo = random_sums(config, random.Random(f"{seed} {config}"), 5)
        total["alternating"] += sum(s.fields["stride"] > 1 for s in todo)
        for name, count in run(config, todo, seed=seed).items():
            total[name] = total.get(name, 0) + count
    if config.sums_in_turn == 1:
        assert total.pop("behind") == total.pop("alternating") == 0
    assert min(total.values()) > 3, total
    assert total["full"] > 100


@chips
@pytest.mark.parametrize("restores", [0, 1])
def test_an_operation_per_cycle(config, restores):
    """Nothing is lost between sums, or between a sum's stored partial sums and its terms.

    Only at the start, until there is a sum in every turn: they come in every second cycle.
    """
    conv = random_conv(
        random.Random(1),
        config,
        kernel3=1,
        tile_h=3,
        tile_w=4,
        in_blocks=1 + restores,
        out_blocks=1,
        groups=1,
        last_lanes=config.lanes,
        block_channels=config.wbuf_depth // 9,
        last_channels=config.wbuf_depth // 9,
    )
    todo = sums([conv], config)
    counts = run(config, todo, refusals=0)
    assert counts["taken"] == sum(len(s.operations) for s in todo)
    assert counts["taken"] - 1 - counts["gapless"] <= config.sums_in_turn * (config.sums_in_turn - 1)
    assert (counts["restored"] > 0) == restores


@pytest.mark.parametrize("latency", [2, 3, 4])
def test_blocks_of_one_pixel_take_turns(latency):
    """Their rows alternate, so that one operation per cycle uses the rows as they come, one per cycle."""
    config = chip(latency)
    conv = random_conv(
        random.Random(1),
        config,
        kernel3=1,
        tile_h=1,
        tile_w=1,
        in_blocks=1,
        out_blocks=latency,
        interleave=latency,
        groups=3,
        block_channels=2,
        last_channels=2,
    )
    counts = run(config, sums([conv], config), refusals=0)
    assert counts["taken"] == 3 * latency * 18
    assert counts["taken"] - 1 - counts["gapless"] <= latency * (latency - 1)
