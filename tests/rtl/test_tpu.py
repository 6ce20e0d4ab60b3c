"""The TPU against the format's accumulators: sums without a gap, several in turn. The exact one: integers."""

import random

import numpy as np
import pytest

from hyperdrive_hdl.arith.formats import FP16, format_by_name
from hyperdrive_hdl.rtl.tpu import TPU, ExactTPU
from tests.support.operands import boundary_words
from tests.support.operations import trace_packed

FORMATS = ("fp16", "bf16", "fp16_ftz", "q2.9")  # fp8 sums are fp16


def pools(format, rng: random.Random) -> list[list[int]]:
    """Words for a sum to be made of: of all sizes, also any; small; large; those that go wrong first."""
    sums, layout = format.sums, format.sums.layout
    values = sums.encode([rng.gauss(0, 1) * 4.0 ** rng.randint(-5, 5) for _ in range(300)]).tolist()
    if format.name.startswith("q"):
        small = [word % (1 << sums.width) for word in range(-3, 4)]
        large = [layout.largest, layout.largest - 1, layout.largest + 1]  # and the lowest
        specials = [*large, *small]
    else:
        smallest = 2 * layout.smallest_normal  # times one
        small = [rng.randrange(smallest) | rng.choice([0, layout.sign_mask]) for _ in range(50)]
        large = [layout.largest, layout.largest - 5, layout.largest, layout.infinity]
        specials = boundary_words(layout)
    return [values, values + [rng.getrandbits(sums.width) for _ in range(30)], small, large, specials]


def summed(format, terms) -> int:
    """A sum of (word, weight), one rounded addition after the other."""
    sums = format.sums
    accumulator = sums.accumulator(np.zeros((1, 1), sums.dtype))
    accumulator.add_terms(
        sums.operands(np.array([[x] for x, _ in terms], sums.dtype)), np.array([[w] for _, w in terms], bool)
    )
    return int(accumulator.result()[0, 0])


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("name", FORMATS)
def test_sums_in_turn(name, stages):
    """As many sums in turn as stages, each with its own gaps and length; the next begins without a gap."""
    format = format_by_name(name)
    rng = random.Random(f"{name} {stages}")
    dut = TPU(format=format, stages=stages)
    assert dut.latency == (1 if stages == 1 else stages + 1)
    wait = 0 if stages == 1 else stages  # from the last term to ``ends``
    cycles = 500
    sources = pools(format, rng)
    steps = [{} for _ in range(cycles + wait + 2)]
    held: dict[int, int] = {}  # from the cycle on
    kinds = dict.fromkeys(("gap", "single", "long", "turns", "sums"), 0)
    places = [{"terms": [], "left": 0, "pool": []} for _ in range(stages)]
    gaps = rng.choice([0.0, 0.3])
    for cycle in range(cycles):
        place = places[cycle % stages]
        if not place["left"]:
            place |= {"terms": [], "left": rng.choice([1, 1, 2, 3, 9, 20]), "pool": rng.choice(sources)}
        # What is not enabled is not to be seen, whatever it is.
        x, weight = rng.choice(place["pool"]), rng.getrandbits(1)
        steps[cycle] |= {"x": x, "weight": weight, "enable": rng.random() >= gaps}
        step = steps[cycle]
        if not step["enable"]:
            kinds["gap"] += bool(place["terms"])
            gaps = rng.choice([0.0, 0.0, 0.3, 0.9]) if rng.random() < 0.05 else gaps
            continue
        gaps = 0.3 if rng.random() < 0.02 else gaps
        place["terms"].append((x, weight))
        place["left"] -= 1
        if not place["left"]:
            steps[cycle + wait]["ends"] = 1
            held[cycle + wait + 1] = summed(format, place["terms"])
            kinds["sums"] += 1
            kinds["single"] += len(place["terms"]) == 1
            kinds["long"] += len(place["terms"]) > 8
            kinds["turns"] += any(p["terms"] and p is not place for p in places) or stages == 1
    for step in steps[cycles:]:
        step |= {"enable": 0}
    seen = [s["held"] for s in trace_packed(dut, [{"ends": 0} | step for step in steps], ["held"])]
    wanted = None
    for cycle, found in enumerate(seen):
        wanted = held.get(cycle, wanted)
        if wanted is not None:
            assert found == wanted, f"cycle {cycle}"
    assert min(kinds.values()) > 3, kinds
    values = set(held.values())
    assert len(values) > 15
    if not name.startswith("q"):
        layout = format.sums.layout
        assert layout.nan in values
        assert values & {layout.infinity, layout.infinity | layout.sign_mask}
        assert any(0 < value & ~layout.sign_mask < layout.smallest_normal for value in values) != layout.flush
        assert layout.sign_mask not in values, "no sum is -0"


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_the_first_term_after_a_pause(stages):
    """``held`` stays, and what went through the adder meanwhile leaves nothing behind."""
    dut = TPU(format=FP16, stages=stages)
    one, two, three = (int(FP16.encode([n])[0]) for n in (1.0, 2.0, 3.0))
    wait = 0 if stages == 1 else stages
    steps = [{"enable": 0, "ends": 0, "x": 0x7E00} for _ in range(30)]
    steps[0] |= {"enable": 1, "weight": 1, "x": one}
    steps[stages] |= {"enable": 1, "x": two}
    steps[stages + wait] |= {"ends": 1}
    steps[5 * stages] |= {"enable": 1, "x": three, "ends": stages == 1}
    if wait:
        steps[5 * stages + wait] |= {"ends": 1}
    held = [s["held"] for s in trace_packed(dut, steps, ["held"])]
    first, second = stages + wait + 1, 5 * stages + wait + 1
    assert first == stages + dut.latency
    assert held[first:second] == [three] * (second - first)  # 1 + 2
    assert held[second:] == [three] * (30 - second)  # the sum of one term, 3


@pytest.mark.parametrize("width", [4, 18, 54])
def test_exact_sums(width):
    """Positive terms are added, negative ones not, nor the last, whatever its weight. Sums wrap round."""
    rng = random.Random(width)
    dut = ExactTPU(width=width)
    assert dut.latency == 1
    inputs, expected = [], []
    kinds = dict.fromkeys(("sums", "gap", "wrapped", "single", "plus", "minus", "neither", "last_minus"), 0)
    total = plus = minus = terms = 0
    held = None
    for _ in range(1500):
        enable = rng.random() < 0.8
        x = rng.choice([rng.getrandbits(width), rng.getrandbits(3), -1, 1 << (width - 1)])
        x = (x + (1 << (width - 1))) % (1 << width) - (1 << (width - 1))
        step = {
            "term": x,
            "plus": rng.random() < 0.1,
            "minus": rng.random() < 0.1,
            "weight": rng.getrandbits(1),
            "enable": enable,
            "ends": enable and rng.random() < 0.25,
        }
        inputs.append(step)
        expected.append(held)
        kinds["gap"] += not enable and terms > 0
        if not enable:
            continue
        terms += 1
        w = step["weight"]
        plus |= step["plus"] if w else step["minus"]
        minus |= step["minus"] if w else step["plus"]
        if step["ends"]:
            held = (total % (1 << width), int(plus), int(minus), w)
            kinds["sums"] += 1
            kinds["wrapped"] += not -1 << (width - 1) <= total < 1 << (width - 1)
            kinds["single"] += terms == 1
            kinds["plus"] += bool(plus and not minus)
            kinds["minus"] += bool(minus and not plus)
            kinds["neither"] += not plus and not minus
            kinds["last_minus"] += not w
            total = plus = minus = terms = 0
        elif w:
            total += x
    seen = trace_packed(dut, inputs, ["held", "held_plus", "held_minus", "held_weight"])
    for cycle, (found, wanted) in enumerate(zip(seen, expected, strict=True)):
        if wanted is not None:
            mine = found["held"] % (1 << width), found["held_plus"], found["held_minus"], found["held_weight"]
            assert mine == wanted, f"cycle {cycle}"
    assert min(kinds.values()) > 10, kinds
