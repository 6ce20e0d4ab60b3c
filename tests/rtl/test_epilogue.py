"""The epilogue's control against a timeline drawn from its docstring, for the sums of whole random layers."""

import random

import pytest
from amaranth.hdl import Value

from hyperdrive_hdl.arith.formats import format_by_name
from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.latencies import PARAMETER_LOOKUP, latencies
from hyperdrive_hdl.rtl.epilogue import EpilogueControl
from hyperdrive_hdl.rtl.layouts import parameter_sets
from tests.support.operations import Comparison, Packing, random_conv, sums
from tests.support.streams import simulate


def chip(lanes, latency=1, **changes) -> ChipConfig:
    return ChipConfig(
        lanes=lanes,
        tile_rows=2,
        tile_cols=3,
        fmm_banks=4,
        fmm_bank_depth=1024,
        wbuf_depth=27,
        adder_latency=latency,
    ).replace(**changes)


CHIPS = [
    chip(1),
    chip(4, 2),
    chip(7, 3),
    chip(2, 4),
    chip(3, format="fp8_e4m3"),
    chip(1, 2, format="q2.9"),
    chip(4, 3, format="q0.3"),
    chip(2, 4, format="fp8_e5m2"),
    chip(3, accumulator="exact"),
    chip(2, 2, format="q2.9", accumulator="exact"),
    chip(3, 3, accumulator="exact"),
    chip(2, memory_latency=2),
    chip(3, 3, memory_latency=3),
    chip(3, format="fp8_e4m3", accumulator="exact", memory_latency=3),
]
chips = pytest.mark.parametrize(
    "config", CHIPS, ids=lambda c: f"{c.accumulator}{c.adder_latency}-{c.memory_latency}-{c.format}-{c.lanes}"
)


def stages(config) -> dict[str, int]:
    """Members that show a slot, and how many cycles after it."""
    at = latencies(config)
    ahead = at.broadcast  # what goes to the tiles
    last = at.unit_stages - 1 - ahead
    return {
        "select": at.select - ahead,
        "scale_lookup": at.multiply - PARAMETER_LOOKUP - ahead,
        "multiply": at.multiply + last,
        "bias_lookup": at.bias - PARAMETER_LOOKUP - ahead,
        "bias": at.bias + last,
        "bypass": at.bypass + last,
        "store": at.write - 1 - ahead,
        "read": at.read,
        "write": at.write,
    }


def finishes(config, rng, layers) -> list[list[dict]]:
    """What the epilogue is told of sums, layer by layer; the first stores partial sums and reads a bypass."""
    found = []
    while len(found) < layers:
        conv = random_conv(rng, config, largest=3, **({} if found else {"in_blocks": 2, "bypass": 1}))
        one = [s.fields["finish"] for s in sums([conv], config)]
        if len(one) <= 60:
            found.append(one)
    return found


def observe(config, layers, rng, eager):
    """Give the sums as soon as, or some time after, the epilogue is ready, and compare the slots.

    Returns every cycle's outputs, each sum's cycle with that of its layer's begin, and the slots by cycle.
    """
    dut = EpilogueControl(config=config)
    packing = Packing(dut.finish.shape())
    ends: list[tuple[int, int]] = []
    cycles: list[dict] = []
    shown = {name: Value.cast(getattr(dut, name)) for name in stages(config)}
    names = (
        "ready",
        "access",
        "access_address",
        "address",
        "release_parameters",
        "started",
        "sum_done",
        "layer_done",
    )
    shown |= {name: getattr(dut, name) for name in names}
    checks = {name: Comparison(getattr(dut, name)) for name in stages(config)}
    slots: dict[int, tuple[dict, dict]] = {}  # by cycle, as they become known
    assert dut.write_latency == latencies(config).write

    async def bench(ctx):
        async def tick():
            """Look at everything, and compare the slots on their way."""
            cycle = len(cycles)
            cycles.append({name: ctx.get(value) for name, value in shown.items()})
            for name, stage in stages(config).items():
                wanted = slots.get(cycle - stage, ({"valid": 0}, {}))[0]
                checks[name].check(ctx, wanted, f"{name} in cycle {cycle}")
            await ctx.tick()

        parameter_set = 0
        for layer in layers:
            begin = None
            for index, finish in enumerate(layer):
                ctx.set(Value.cast(dut.finish), packing.word(finish))
                wait = 0 if eager else rng.choice([0, 0, 1, 2, 30])
                before = rng.choice([0, 1, 2, 5]) if index == 0 else 0  # operations of the layer's first sum
                while not ctx.get(dut.ready) or wait:
                    wait = max(0, wait - 1)
                    await tick()
                if begin is None:
                    begin = len(cycles)
                    ctx.set(dut.begin, 1)
                    for _ in range(before):
                        await tick()
                        ctx.set(dut.begin, 0)
                ends.append((len(cycles), begin))
                found = _slots(config, finish, *ends[-1], parameter_set)
                parameter_set = (parameter_set + found[-1][1][0]["release_parameters"]) % parameter_sets(
                    config
                )
                slots.update(found)
                ctx.set(dut.sum_ends, 1)
                await tick()
                ctx.set(dut.sum_ends, 0)
                ctx.set(dut.begin, 0)
            while not ctx.get(dut.layer_done):
                await tick()
        for _ in range(10):
            await tick()

    simulate(dut, bench, limit=50_000)
    return cycles, ends, slots


def _slots(config, finish, cycle, begin, parameter_set) -> list[tuple[int, tuple[dict, dict]]]:
    """The slots of a sum that ends in a cycle, each with its own, and with what it accesses."""
    parts = format_by_name(config.format).words_per_sum if finish["partial"] else 1
    found = []
    at = cycle
    for lane in range(finish["lanes"]):
        for part in range(parts):
            at += 1
            if finish["paced"] and (at - begin) % 2 == 0:
                at += 1
            last = lane == finish["lanes"] - 1 and part == parts - 1
            parameters = finish["scale"] or finish["bias"]
            word = lane * parts + part
            slot = {
                "valid": 1,
                "lane": lane,
                "part": part,
                **{
                    name: finish[name]
                    for name in ("partial", "scale", "bias", "bypass", "relu", "rows", "cols")
                },
                "parameters": parameter_set,
                "release_parameters": int(last and finish["block_last"] and parameters),
                "sum_last": int(last),
                "layer_last": int(last and finish["layer_last"]),
            }
            access = {"write": finish["result"] + word, "read": finish.get("bypass_address", 0) + word}
            found.append((at, (slot, access)))
    return found


@chips
@pytest.mark.parametrize("eager", [True, False])
def test_slots(config, eager):
    """Every slot in every stage, and what follows from it; no cycle has two memory accesses."""
    rng = random.Random(f"{config} {eager}")
    layers = finishes(config, rng, 12)
    every = [finish for layer in layers for finish in layer]
    cycles, ends, slots = observe(config, layers, rng, eager)
    at = latencies(config)
    assert len(ends) == len(every)
    busy = set()  # a sum must not end
    last_slots = [cycle for cycle, (slot, _) in slots.items() if slot["sum_last"]]
    for (cycle, _), last_slot in zip(ends, last_slots, strict=True):
        busy.update(range(cycle + 1, last_slot))

    nothing = dict.fromkeys(("valid", "bypass", "release_parameters", "sum_last", "layer_last"), 0), {}
    counts = dict.fromkeys(("read", "write", "paced", "partial", "release", "last"), 0)
    for cycle, seen in enumerate(cycles):
        assert seen["ready"] == (cycle not in busy), f"ready in cycle {cycle}"
        assert seen["started"] == (cycle in slots)
        (reading, read_at), (writing, write_at) = (
            slots.get(cycle - stage, nothing) for stage in (at.read, at.write)
        )
        read, write = bool(reading["bypass"]), bool(writing["valid"])
        assert not (read and write), f"two accesses in cycle {cycle}"
        # The access is told one cycle before.
        told = cycles[cycle - 1] if cycle else {"access": 0, "access_address": 0}
        assert told["access"] == (read or write), f"cycle {cycle}"
        if read or write:
            assert told["access_address"] == (read_at["read"] if read else write_at["write"])
            assert seen["address"] == told["access_address"]
        assert seen["sum_done"] == writing["sum_last"], f"cycle {cycle}"
        assert seen["layer_done"] == slots.get(cycle - at.done, nothing)[0]["layer_last"], f"cycle {cycle}"
        release = slots.get(cycle - at.release, nothing)[0]["release_parameters"]
        assert seen["release_parameters"] == release
        counts["read"] += read
        counts["write"] += write
        counts["release"] += release
        counts["last"] += seen["layer_done"]
    counts["paced"] = sum(finish["paced"] and finish["partial"] for finish in every)
    counts["partial"] = sum(finish["partial"] for finish in every)
    assert min(counts.values()) > 0, counts
    assert counts["last"] == len(layers)
    assert counts["write"] == len(slots)
    assert counts["release"] > parameter_sets(config), "the sets have gone round"


def test_restart_counts_parameter_sets_from_zero():
    config = chip(2, 2)
    dut = EpilogueControl(config=config)
    used = []

    async def bench(ctx):
        for restart in (0, 0, 0, 1, 0, 0, 0, 0, 0):
            ctx.set(dut.restart, restart)
            await ctx.tick()
            ctx.set(dut.restart, 0)
            ctx.set(dut.finish, {"lanes": 1, "scale": 1, "block_last": 1, "layer_last": 1})
            ctx.set(dut.sum_ends, 1)
            await ctx.tick()
            ctx.set(dut.sum_ends, 0)
            while not ctx.get(dut.scale_lookup.valid):
                await ctx.tick()
            used.append(ctx.get(dut.scale_lookup.parameters))
            while not ctx.get(dut.layer_done):
                await ctx.tick()

    simulate(dut, bench, limit=500)
    assert used == [0, 1, 2, 0, 1, 2, 3, 0, 1]
