"""Issue against a model of its gates and delays, cycle by cycle."""

import random

import pytest

from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.rtl.issue import Issue
from hyperdrive_hdl.rtl.layouts import FENCE_BITS
from tests.support.streams import simulate

MODULUS = 1 << FENCE_BITS  # of instruction counts

DEPTH = 16
CONFIG = ChipConfig(lanes=2, tile_rows=1, tile_cols=2, fmm_banks=5, fmm_bank_depth=DEPTH, wbuf_depth=18)
WINDOW = ("up", "down", "left", "right")


@pytest.mark.parametrize("seed", range(6))
def test_gates_and_delays(seed):
    rng = random.Random(seed)
    dut = Issue(config=CONFIG)
    busyness = rng.choice([0.1, 0.5, 0.9])
    history: list[dict] = []  # of issued operations, one entry per cycle
    reasons = dict.fromkeys(
        ("fence", "layer", "row", "epilogue", "conflict", "go", "starved", "first_with_layer_done"), 0
    )

    async def bench(ctx):
        in_layer, layer, offered = False, 0, None
        need = {"loads": 0, "stores": 0}
        done = {"loads": 0, "stores": 0}
        for _ in range(1500):
            if offered is None and rng.random() < 0.9:
                offered = {
                    "address": rng.randrange(5 * DEPTH),
                    **{name: rng.getrandbits(1) for name in (*WINDOW, "restore")},
                    "first": rng.random() < 0.3,
                    "last": rng.random() < 0.4,
                }
                if offered["first"]:
                    for unit in need:  # anywhere around the present count, modulo 256
                        need[unit] = done[unit] + rng.choice([-60, -40, -15, -1, 0, 0, 0, 1, 3])
            for unit in done:
                done[unit] += rng.random() < 0.3
                ctx.set(getattr(dut, f"{unit}_done"), done[unit] % MODULUS)
                ctx.set(getattr(dut, f"need_{unit}"), need[unit] % MODULUS)
            layer_done = in_layer and rng.random() < 0.2
            row, ready = rng.random() > busyness / 3, rng.random() > busyness / 3
            access, address = rng.random() < busyness, rng.randrange(5 * DEPTH)
            restart = rng.random() < 0.01
            ctx.set(dut.operations.valid, offered is not None)
            ctx.set(
                dut.operations.payload, offered or {"first": rng.getrandbits(1), "last": rng.getrandbits(1)}
            )
            ctx.set(dut.row_available, row)
            ctx.set(dut.epilogue_ready, ready)
            ctx.set(dut.epilogue_access, access)
            ctx.set(dut.epilogue_address, address)
            ctx.set(dut.layer_done, layer_done)
            ctx.set(dut.restart, restart)

            fences = all(done[unit] >= need[unit] for unit in done)
            complete = not in_layer or layer_done
            allowed = offered is not None
            if allowed:
                conflict = access and address // DEPTH == offered["address"] // DEPTH
                gates = {
                    "fence": fences or not offered["first"],
                    "layer": complete or not offered["first"],
                    "epilogue": ready or not offered["last"],
                    "conflict": not conflict,
                }
                allowed = all(gates.values())
                closed = [name for name, is_open in ({**gates, "row": row}).items() if not is_open]
                if len(closed) == 1:  # this gate alone holds the operation
                    reasons[closed[0]] += 1
            go = allowed and row
            assert ctx.get(dut.go) == go
            assert ctx.get(dut.operations.ready) == go
            assert ctx.get(dut.starved) == (allowed and not row)
            assert ctx.get(dut.computing) == (in_layer or (go and offered["first"]))
            assert ctx.get(dut.layer) == layer % (1 << 16)

            issued = [{}, {}, {}, {}, *history][-1::-1]  # issued[i]: what went i + 1 cycles ago
            assert ctx.get(dut.mac_enable) == bool(issued[0])
            if issued[0]:
                assert ctx.get(dut.mac_address) == issued[0]["address"]
            if issued[1]:
                for name in WINDOW:
                    assert ctx.get(getattr(dut, name)) == issued[1][name]
            assert ctx.get(dut.accumulate) == bool(issued[dut.latency - 1])
            swap = bool(issued[dut.latency].get("last"))
            assert ctx.get(dut.swap) == swap
            if swap:
                assert ctx.get(dut.restore) == issued[dut.latency]["restore"]

            reasons["go"] += go
            reasons["starved"] += allowed and not row
            reasons["first_with_layer_done"] += bool(go and offered["first"] and layer_done)
            history.append(offered if go else {})
            if layer_done:
                in_layer, layer = False, layer + 1
            if go and offered["first"]:
                in_layer = True
            if restart:
                layer = 0
            if go:
                offered = None
            await ctx.tick()

    simulate(dut, bench)
    assert min(reasons.values()) > 0, reasons
    assert reasons["go"] > 50


@pytest.mark.parametrize("base", [0, 100, 127, 128, 200, 250, 255])
def test_fences_count_modulo_256(base):
    """Up to 127 instructions either side of the needed count."""
    dut = Issue(config=CONFIG)
    checked = 0

    async def bench(ctx):
        nonlocal checked
        ctx.set(dut.operations.valid, 1)
        ctx.set(dut.operations.payload, {"first": 1})
        ctx.set(dut.need_loads, base)
        ctx.set(dut.need_stores, base)
        ctx.set(dut.epilogue_ready, 1)  # no row: nothing goes, ``starved`` tells that all else is there
        for unit, other in (("loads", "stores"), ("stores", "loads")):
            ctx.set(getattr(dut, f"{other}_done"), base)
            for distance in range(-127, 128):
                ctx.set(getattr(dut, f"{unit}_done"), (base + distance) % MODULUS)
                assert ctx.get(dut.starved) == (distance >= 0), (unit, distance)
                checked += 1

    simulate(dut, bench)
    assert checked == 510
