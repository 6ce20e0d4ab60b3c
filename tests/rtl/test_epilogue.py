"""The epilogue's control against a timeline drawn from its docstring, for the sums of whole random layers."""

import random

import pytest

from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.rtl.epilogue import EpilogueControl
from tests.support.operations import operations, random_conv
from tests.support.streams import fields, simulate

STAGES = (4, 5, 6, 7, 8)
FLUSH = 3  # cycles between a pixel's last slot and the first read of stored sums: the write must be done
SETTLE = 3  # cycles between the last such read's slot and the next end: the held register must have it


def chip(lanes) -> ChipConfig:
    return ChipConfig(lanes=lanes, tile_rows=2, tile_cols=3, fmm_banks=4, fmm_bank_depth=1024, wbuf_depth=27)


def sums(config, rng, layers) -> list[list[dict]]:
    """The operations that end sums, layer by layer, with the layer's ``scratch`` and ``pixels``."""
    found = []
    while len(found) < layers:
        conv, place = random_conv(rng, config, largest=3)
        ends = [o for o in operations(conv, place, config) if o["last"]]
        if len(ends) <= 60:
            found.append(
                [o | {"layer_scratch": conv.scratch_base, "layer_pixels": conv.pixels} for o in ends]
            )
    return found


def observe(config, layers, rng, eager):
    """Give the sums as soon as, or some time after, the epilogue is ready; every cycle's outputs."""
    dut = EpilogueControl(config=config)
    ends: list[tuple[int, int, int]] = []  # cycle, layer, index
    cycles: list[dict] = []

    async def bench(ctx):
        names = ("ready", "access", "access_address", "release_parameters", "started", "layer_done")

        async def tick():
            cycles.append(
                {name: ctx.get(getattr(dut, name)) for name in names}
                | {stage: fields(ctx.get(getattr(dut, f"slot{stage}"))) for stage in STAGES}
            )
            await ctx.tick()

        for number, layer in enumerate(layers):
            for index, end in enumerate(layer):
                operation = {name: value for name, value in end.items() if not name.startswith("layer_s")}
                del operation["layer_pixels"]
                ctx.set(dut.scratch, end["layer_scratch"])
                ctx.set(dut.pixels, end["layer_pixels"])
                ctx.set(dut.operation, operation)
                wait = 0 if eager else rng.choice([0, 0, 1, 2, 30])
                while not ctx.get(dut.ready) or wait:
                    wait = max(0, wait - 1)
                    await tick()
                ends.append((len(cycles), number, index))
                ctx.set(dut.sum_ends, 1)
                await tick()
                ctx.set(dut.sum_ends, 0)
            while not ctx.get(dut.layer_done):
                await tick()
        for _ in range(10):
            await tick()

    simulate(dut, bench, limit=50_000)
    return cycles, ends


def timeline(layers, ends, parity):
    """Slots by cycle of issue, and the cycles in which a sum must not end; ``parity`` of the bypass slots."""
    slots: dict[int, dict] = {}
    busy: set[int] = set()
    parameter_set = 0
    for cycle, number, index in ends:
        end = layers[number][index]
        at = cycle
        for lane in range(end["lanes"]):
            at += 1
            if end["bypass"] and at % 2 != parity:  # every second cycle, always the same ones
                at += 1
            last = lane == end["lanes"] - 1
            release = last and end["block_last"] and bool(end["scale"] or end["bias"])
            slots[at] = {
                "valid": 1,
                "preload": 0,
                "lane": lane,
                "write_address": end["result"] + lane,
                **({"read_address": end["bypass_address"] + lane} if end["bypass"] else {}),
                **{name: end[name] for name in ("scale", "bias", "bypass", "relu", "rows", "cols")},
                "parameters": parameter_set,
                "release_parameters": int(release),
                "layer_last": int(last and end["layer_last"]),
            }
            parameter_set ^= release
        busy.update(range(cycle + 1, at))
        if end["preload"]:
            # What the sum after the next starts from was stored by the same pixel, one pass before it.
            stored = layers[number][index + 2 - end["layer_pixels"]]["result"]
            busy.add(at)
            at += FLUSH
            for lane in range(end["lanes"]):
                at += 1
                slots[at] = {"valid": 0, "preload": 1, "lane": lane, "read_address": stored + lane}
            at += SETTLE
            busy.update(range(cycle + 1, at + 1))
    return slots, busy


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("lanes", [1, 2, 3, 4, 7])
def test_slots(lanes, eager):
    config = chip(lanes)
    rng = random.Random(f"{lanes} {eager}")
    layers = sums(config, rng, 16)
    every = [end for layer in layers for end in layer]
    assert sum(end["preload"] for end in every) > 4
    assert sum(end["bypass"] for end in every) > 10
    assert sum(not end["bypass"] for end in every) > 10
    cycles, ends = observe(config, layers, rng, eager)
    assert len(ends) == len(every)

    parity = next(cycle for cycle, seen in enumerate(cycles) if seen[4]["valid"] and seen[4]["bypass"]) % 2
    slots, busy = timeline(layers, ends, parity)
    nothing = {"valid": 0, "preload": 0}
    for cycle, seen in enumerate(cycles):
        assert seen["ready"] == (cycle not in busy), f"ready in cycle {cycle}"
        assert seen["started"] == slots.get(cycle, nothing)["valid"]
        for stage in STAGES:
            for name, value in slots.get(cycle - stage, nothing).items():
                assert seen[stage][name] == value, f"{name} in stage {stage}, cycle {cycle}"
        read = bool(seen[5]["preload"] or (seen[5]["valid"] and seen[5]["bypass"]))
        write = bool(seen[8]["valid"])
        assert not (read and write), f"two accesses in cycle {cycle}"
        # The access is told one cycle before.
        told = cycles[cycle - 1] if cycle else {"access": 0, "access_address": 0}
        assert told["access"] == (read or write), f"cycle {cycle}"
        if read or write:
            assert told["access_address"] == (seen[5]["read_address"] if read else seen[8]["write_address"])
        assert seen["layer_done"] == slots.get(cycle - 9, {}).get("layer_last", 0), f"cycle {cycle}"
        assert seen["release_parameters"] == slots.get(cycle - 6, {}).get("release_parameters", 0)
    assert sum(seen["layer_done"] for seen in cycles) == len(layers)
    assert sum(seen["started"] for seen in cycles) == sum(end["lanes"] for end in every)
    assert any(seen["release_parameters"] for seen in cycles)


@pytest.mark.parametrize("lanes", [1, 3, 4])
def test_stored_sums_are_written_before_they_are_read_and_settled_before_they_are_used(lanes):
    """The distances, from memory accesses and the stages of ``Issue`` alone."""
    config = chip(lanes)
    rng = random.Random(lanes)
    layers = [layer for layer in sums(config, rng, 40) if any(end["preload"] for end in layer)][:6]
    cycles, ends = observe(config, layers, rng, True)
    written: dict[int, int] = {}
    last_preload = None
    reads = 0
    swaps = {cycle + 4 for cycle, _, _ in ends}  # Issue: stage 4
    for cycle, seen in enumerate(cycles):
        if seen[5]["preload"]:
            assert written[seen[5]["read_address"]] < cycle
            reads += 1
        if seen[7]["preload"]:  # the word is written to the held register at the end of this cycle
            last_preload = cycle
            assert cycle not in swaps, "swap and preload in one cycle"
        if seen[4][
            "valid"
        ]:  # the tiles select this lane now: no swap or preload has touched it since its own
            own = max(swap for swap in swaps if swap < cycle)
            assert cycle - own <= 2 * lanes + 1
            assert last_preload is None or not own <= last_preload < cycle
        if seen[8]["valid"]:
            written[seen[8]["write_address"]] = cycle
    assert reads > 10


def test_restart_counts_parameter_sets_from_zero():
    config = chip(2)
    dut = EpilogueControl(config=config)
    used = []

    async def bench(ctx):
        for restart in (0, 1, 0, 0):
            ctx.set(dut.restart, restart)
            await ctx.tick()
            ctx.set(dut.restart, 0)
            ctx.set(dut.operation, {"lanes": 1, "scale": 1, "block_last": 1, "layer_last": 1})
            ctx.set(dut.sum_ends, 1)
            await ctx.tick()
            ctx.set(dut.sum_ends, 0)
            while not ctx.get(dut.slot4.valid):
                await ctx.tick()
            used.append(ctx.get(dut.slot4.parameters))
            while not ctx.get(dut.layer_done):
                await ctx.tick()

    simulate(dut, bench, limit=200)
    assert used == [0, 0, 1, 0]
