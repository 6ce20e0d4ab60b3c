"""Issue against a model of its gates and delays, cycle by cycle."""

import random

import pytest
from amaranth.hdl import Value

from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.latencies import DISTRIBUTION, ISSUE_TO_ACCESS, latencies
from hyperdrive_hdl.rtl.issue import Issue
from hyperdrive_hdl.rtl.layouts import FENCE_BITS, number_bits
from tests.support.operations import Packing
from tests.support.streams import simulate

MODULUS = 1 << FENCE_BITS  # of instruction counts

DEPTH = 16
CONFIG = ChipConfig(lanes=3, tile_rows=1, tile_cols=2, fmm_banks=5, fmm_bank_depth=DEPTH, wbuf_depth=18)
CHIPS = [
    CONFIG,
    CONFIG.replace(adder_latency=2, lanes=1, format="q2.9"),
    CONFIG.replace(adder_latency=4, lanes=4),
    CONFIG.replace(adder_latency=3, accumulator="exact"),
    CONFIG.replace(memory_latency=2),
    CONFIG.replace(memory_latency=3, lanes=2),
]
WINDOW = ("up", "down", "left", "right")


def random_operation(rng, numbers, ended, parity, *, alone) -> dict:
    """Anything that the ring may show, close to what is allowed: ``numbers`` of them are told apart.

    Sums that come ``alone`` come in order, and so do layers.
    """
    number = ended + (0 if alone else rng.choice([0, 0, 0, 0, 1, 2, 3]))
    restore = rng.random() < 0.4
    return {
        "address": rng.randrange(5 * DEPTH),
        **{name: rng.getrandbits(1) for name in (*WINDOW, "complete")},
        "restore": restore,
        "lane": rng.randrange(4),
        "last": not restore and rng.random() < 0.5,
        "number": number % numbers,
        "first": rng.random() < 0.3,
        "layer": parity ^ (not alone and rng.random() < 0.2),
    }


@pytest.mark.parametrize("config", CHIPS, ids=lambda c: f"{c.adder_latency}-{c.memory_latency}-{c.lanes}")
@pytest.mark.parametrize("seed", range(2))
def test_gates_and_delays(config, seed):
    rng = random.Random(f"{config} {seed}")
    dut = Issue(config=config)
    busyness = rng.choice([0.1, 0.5])
    numbers = 1 << number_bits(config)
    alone = config.sums_in_turn == 1
    to_term = latencies(config).term
    packing = Packing(dut.operation.shape())
    history: list[dict] = []  # of issued operations, one entry per cycle
    cases = (
        "fence", "border", "layer", "other_layer", "epilogue", "order", "conflict",
        "eligible", "stopped",
        "go", "waits", "first_with_layer_done", "restored", "part", "wrapped",
    )  # fmt: skip
    counts = dict.fromkeys(cases, 0)
    assert dut.latency == latencies(config).term

    async def bench(ctx):
        in_layer, layer, parity = False, 0, 1
        ended = 0  # sums
        before = False  # the fences had been passed
        need = {"loads": 0, "stores": 0}
        done = {"loads": 0, "stores": 0}
        for _ in range(2000):
            valid = rng.random() < 0.9
            op = random_operation(rng, numbers, ended, parity, alone=alone)
            op["lane"] %= config.lanes
            if rng.random() < 0.3:
                for unit in need:  # anywhere around the present count
                    need[unit] = done[unit] + rng.choice([-60, -40, -15, -1, 0, 0, 0, 1, 3])
            for unit in done:
                done[unit] += rng.random() < 0.3
                ctx.set(getattr(dut, f"{unit}_done"), done[unit] % MODULUS)
                ctx.set(getattr(dut, f"need_{unit}"), need[unit] % MODULUS)
            layer_done = in_layer and rng.random() < 0.2
            starved = rng.random() < busyness / 2
            eligible = not starved and rng.random() > busyness / 3
            ready = rng.random() > busyness / 3
            access, address = rng.random() < busyness, rng.randrange(5 * DEPTH)
            border, stop = rng.random() > busyness / 3, rng.random() < 0.03
            restart = rng.random() < 0.01
            ctx.set(dut.border_ready, border)
            ctx.set(dut.stop, stop)
            ctx.set(dut.valid, valid)
            ctx.set(Value.cast(dut.operation), packing.word(op))
            ctx.set(dut.eligible, eligible)
            ctx.set(dut.starved, starved)
            ctx.set(dut.epilogue_ready, ready)
            ctx.set(dut.epilogue_access, access)
            ctx.set(dut.epilogue_address, address)
            ctx.set(dut.layer_done, layer_done)
            ctx.set(dut.restart, restart)

            present = all(done[unit] >= need[unit] for unit in done)
            fences, before = (before, present) if latencies(config).fence else (present, present)
            order = {
                "fence": fences or not op["first"],
                "border": border or not op["first"],
                "layer": not in_layer or layer_done or not op["first"],
                "other_layer": op["layer"] == parity or op["first"],
                "epilogue": ready or not op["last"],
                "order": op["number"] == ended % numbers or not op["last"],
            }
            conflict = access and address // DEPTH == op["address"] // DEPTH
            gates = order | {"conflict": not conflict, "eligible": eligible, "stopped": not stop}
            closed = [name for name, is_open in gates.items() if not is_open]
            if valid and len(closed) == 1:  # this gate alone holds the operation
                counts[closed[0]] += 1
            go = valid and not closed
            waits = valid and all(order.values()) and starved
            assert ctx.get(dut.go) == go
            assert ctx.get(dut.waits_for_row) == waits
            assert ctx.get(dut.computing) == (in_layer or (go and op["first"]))
            assert ctx.get(dut.layer) == layer % (1 << 16)

            issued = [*[{}] * 8, *history][-1::-1]  # issued[i]: what went i + 1 cycles ago
            access_now, term = issued[ISSUE_TO_ACCESS - 1], issued[to_term - 1]
            assert ctx.get(dut.mac_enable) == bool(access_now)
            if access_now:
                assert ctx.get(dut.mac_address) == access_now["address"]
            if in_window := issued[to_term - DISTRIBUTION - 2]:
                for name in WINDOW:
                    assert ctx.get(getattr(dut, name)) == in_window[name]
            lanes = (1 << config.lanes) - 1 if term else 0
            if term and term["restore"]:
                lanes = 1 << term["lane"] if term["complete"] else 0
            assert ctx.get(dut.enable) == lanes
            assert ctx.get(dut.restore) == bool(term.get("restore"))
            assert ctx.get(dut.ends) == bool(term.get("last"))

            counts["go"] += go
            counts["waits"] += waits
            counts["first_with_layer_done"] += bool(go and op["first"] and layer_done)
            counts["restored"] += bool(go and op["restore"] and op["complete"])
            counts["part"] += bool(go and op["restore"] and not op["complete"])
            history.append(op if go else {})
            if layer_done:
                in_layer, layer = False, layer + 1
            if go and op["first"]:
                in_layer, parity = True, op["layer"]
            ended += bool(go and op["last"])
            counts["wrapped"] += ended >= numbers
            if restart:
                layer = 0
            await ctx.tick()

    simulate(dut, bench)
    if alone:
        assert counts.pop("other_layer") == counts.pop("order") == 0
    assert min(counts.values()) > 0, counts
    assert counts["go"] > 200


@pytest.mark.parametrize("base", [0, 1, 100, 127, 128, 200, 255])
def test_fences_count_modulo_a_power_of_two(base):
    """Up to half the modulus either side of the needed count."""
    dut = Issue(config=CONFIG)
    checked = 0

    async def bench(ctx):
        nonlocal checked
        ctx.set(dut.valid, 1)
        ctx.set(dut.operation, {"first": 1})
        ctx.set(dut.border_ready, 1)
        ctx.set(dut.need_loads, base)
        ctx.set(dut.need_stores, base)
        ctx.set(dut.epilogue_ready, 1)
        ctx.set(dut.starved, 1)  # no row: nothing goes, and ``waits_for_row`` tells that all else is there
        for unit, other in (("loads", "stores"), ("stores", "loads")):
            ctx.set(getattr(dut, f"{other}_done"), base)
            for distance in range(-MODULUS // 2, MODULUS // 2):
                ctx.set(getattr(dut, f"{unit}_done"), (base + distance) % MODULUS)
                assert ctx.get(dut.waits_for_row) == (distance >= 0), (unit, distance)
                checked += 1

    simulate(dut, bench)
    assert checked == 2 * MODULUS
