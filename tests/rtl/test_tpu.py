"""The TPU against the format's integer operations: sums without a gap, partial sums put back."""

import random

import pytest

from hyperdrive_hdl.arith import reference
from hyperdrive_hdl.arith.formats import FP16
from hyperdrive_hdl.rtl.tpu import TPU
from tests.support.streams import trace

SPECIALS = (0, 0x8000, 1, 0x8001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0x7D01, 0xFE37)


def word(rng: random.Random, special: float) -> int:
    if rng.random() < special:
        return rng.choice(SPECIALS)
    return rng.getrandbits(16) & 0xBFFF | rng.getrandbits(1) << 14  # any exponent, also infinite


def model(steps: list[dict]) -> list[int]:
    """``held`` in every cycle, from the docstring: what is written in a cycle is seen in the next."""
    acc = held = None
    found = []
    for step in steps:
        found.append(held)
        start = (held if step["restore"] else 0) if step["swap"] else acc
        finished = acc
        if step["accumulate"]:
            acc = reference.add(FP16.layout, start, step["x"], subtract=not step["weight"])
        elif step["swap"]:
            acc = start
        if step["swap"]:
            held = finished
        elif step["preload"]:
            held = step["stored"]
    return found


@pytest.mark.parametrize("gaps", [0.0, 0.4])
@pytest.mark.parametrize("special", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(2))
def test_sums(seed, special, gaps):
    rng = random.Random(f"{seed} {special} {gaps}")
    idle = {"accumulate": 0, "swap": 1, "restore": 0, "preload": 0, "x": 0, "weight": 0, "stored": 0}
    steps = [idle, idle]  # acc and held are known from here on
    kinds = {"gapless": 0, "restored": 0, "preloaded": 0, "single": 0}
    for _ in range(150):
        terms = rng.choice([1, 1, 2, 3, 9])
        restore = rng.random() < 0.4
        ending = True  # the swap of the sum before is still due
        preload_at = rng.randrange(terms) if rng.random() < 0.5 else None
        for term in range(terms):
            while True:
                gap = rng.random() < gaps
                # A swap comes in the cycle after the last term, with or without the next sum's first.
                swap = ending
                ending = False
                step = {
                    "accumulate": not gap,
                    "swap": swap,
                    "restore": swap and restore,
                    "preload": 0,
                    "x": word(rng, special),
                    "weight": rng.getrandbits(1),
                    "stored": word(rng, special),
                }
                kinds["gapless"] += swap and not gap
                kinds["restored"] += swap and restore
                steps.append(step)
                if not gap:
                    break
            if term == preload_at and not swap:
                steps[-1]["preload"] = 1
                kinds["preloaded"] += 1
        kinds["single"] += terms == 1
    dut = TPU(format=FP16)
    seen = trace(dut, steps, ["held"])
    expected = model(steps)
    compared = 0
    for cycle, (found, wanted) in enumerate(zip(seen, expected, strict=True)):
        if cycle > 1 and wanted is not None:
            assert found["held"] == wanted, f"cycle {cycle}"
            compared += 1
    assert compared > 300
    assert min(kinds.values()) > 10, kinds
    assert len({w for w in expected if w is not None}) > 50


def test_the_docstring_table():
    dut = TPU(format=FP16)
    one, two, three = (int(FP16.encode([n])[0]) for n in (1.0, 2.0, 3.0))
    steps = [
        {"swap": 1, "accumulate": 1, "weight": 1, "x": one},
        {"swap": 0, "x": two},
        {"swap": 1, "x": three},  # t+1
        {"swap": 1, "accumulate": 0},
        {"swap": 0},
    ]
    held = [s["held"] for s in trace(dut, steps, ["held"])]
    assert held[3] == three  # 1 + 2
    assert held[4] == three  # the sum of one term, 3
    assert dut.latency == 1
