"""The tile's epilogue and the whole tile against the format's operations."""

import itertools
import random

import numpy as np
import pytest

from hyperdrive_hdl.arith.formats import FP16
from hyperdrive_hdl.rtl.tile import Tile, TileEpilogue
from tests.support.streams import trace

SPECIALS = (0, 0x8000, 1, 0x8001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0xFE37, 0x7D01)
OPTIONS = list(itertools.product((0, 1), repeat=5))  # scale, bias, bypass, relu, true


def word(rng, special=0.3) -> int:
    if rng.random() < special:
        return rng.choice(SPECIALS)
    return int(FP16.encode([rng.gauss(0, 1) * 4.0 ** rng.randint(-5, 5)])[0])


def finished(held, options, scale, bias, bypass) -> int:
    """One word through the epilogue: the format's operations, in order (README: Numbers)."""
    use_scale, use_bias, use_bypass, relu, true = options
    value = np.array([held], np.uint16)
    for used, operation, operand in (
        (use_scale, FP16.multiply, scale),
        (use_bias, FP16.add, bias),
        (use_bypass, FP16.add, bypass),
    ):
        if used:
            value = operation(value, np.array([operand], np.uint16))
    if relu:
        value = FP16.relu(value)
    return int(value[0]) if true else 0


@pytest.mark.parametrize("lanes", [1, 3, 4])
def test_epilogue(lanes):
    """One word per cycle, each with its own options: nothing of a neighbour in the pipeline gets in."""
    rng = random.Random(lanes)
    dut = TileEpilogue(lanes=lanes, format=FP16)
    jobs = []
    for options in OPTIONS * 5:
        jobs.append(
            {
                "lane": rng.randrange(lanes),
                "held": [word(rng) for _ in range(lanes)],
                "options": options,
                "scale": word(rng),
                "bias": word(rng),
                "bypass": word(rng),
            }
        )
    rng.shuffle(jobs)
    inputs = []
    idle = {"lane": 0, "held": [0] * lanes, "options": (0, 0, 0, 0, 0), "scale": 0, "bias": 0, "bypass": 0}
    for cycle in range(len(jobs) + dut.latency):
        at = [jobs[cycle - stage] if 0 <= cycle - stage < len(jobs) else idle for stage in range(4)]
        inputs.append(
            {
                "held": at[0]["held"],
                "control.lane": at[0]["lane"],
                "control.use_scale": at[1]["options"][0],
                "control.scale": at[1]["scale"],
                "control.use_bias": at[2]["options"][1],
                "control.bias": at[2]["bias"],
                "control.use_bypass": at[3]["options"][2],
                "control.relu": at[3]["options"][3],
                "bypass": at[3]["bypass"],
                "true": at[3]["options"][4],
            }
        )
    seen = trace(dut, inputs, ["result"])
    results = set()
    for cycle, job in enumerate(jobs):
        wanted = finished(job["held"][job["lane"]], job["options"], job["scale"], job["bias"], job["bypass"])
        assert seen[cycle + dut.latency]["result"] == wanted, job
        results.add(wanted)
    assert {0x7E00, 0x7C00, 0xFC00, 0} < results, "the special results must occur"


def test_relu_of_minus_zero_and_of_nan():
    """-0 gives +0, NaN the canonical one; without ReLU the word passes unchanged."""
    for held, relu, wanted in (
        (0x8000, 1, 0),
        (0x8000, 0, 0x8000),
        (0x7E00, 1, 0x7E00),
        (0xFC00, 1, 0),
        (0xFE01, 1, 0x7E00),
    ):
        dut = TileEpilogue(lanes=1, format=FP16)
        seen = trace(
            dut, [{"held": [held], "control.relu": relu, "true": 1}] + [{}] * dut.latency, ["result"]
        )
        assert seen[-1]["result"] == wanted


@pytest.mark.parametrize("lanes", [1, 2, 5])
@pytest.mark.parametrize("seed", range(2))
def test_tile(lanes, seed):
    """Pixels one after the other through the sums and the epilogue; partial sums come back from memory."""
    rng = random.Random(f"{lanes} {seed}")
    pixels = 24
    timeline: dict[int, dict] = {}

    def at(cycle: int) -> dict:
        return timeline.setdefault(cycle, {})

    # A schedule with the distances of epilogue.py: swap in the cycle after a sum's last term, its lanes in
    # the select stage from then on, stored sums put in place before the next swap.
    cycle = 2
    held = [0] * lanes  # what a restore would find
    expected = {}
    restores = 0
    at(1)["swap"] = 1
    restore_next = False
    for pixel in range(pixels):
        start = held if restore_next else [0] * lanes
        restores += restore_next
        sums = np.array(start, np.uint16)
        for _ in range(rng.randint(1, 6)):
            x, weights = word(rng, 0.03), rng.getrandbits(lanes)
            at(cycle).update(x=x, weights=weights, accumulate=1)
            signs = np.array([weights >> k & 1 for k in range(lanes)], bool)
            x_words = np.full(lanes, x, np.uint16)
            sums = np.where(signs, FP16.add(sums, x_words), FP16.subtract(sums, x_words))
            cycle += 1 + (rng.random() < 0.2)
        swap = max(cycle, 3)
        restore_next = pixel > 0 and rng.random() < 0.5
        if restore_next:  # stored sums, before the swap, when the lanes before have been selected
            held = [word(rng, 0.03) for _ in range(lanes)]
            swap += lanes + 2
            for k in range(lanes):
                at(swap - lanes + k - 1)["read_data"] = held[k]
                at(swap - lanes + k).update({"control.preload": 1, "control.preload_lane": k})
        at(swap).update(swap=1, restore=restore_next)
        options = (*rng.choice(OPTIONS)[:4], rng.random() < 0.9)
        for k in range(lanes):  # the lane is selected in the cycle after held is valid
            scale, bias, bypass = (word(rng, 0.03) for _ in range(3))
            s = swap + 1 + k
            at(s)["control.lane"] = k
            at(s + 1).update({"control.use_scale": options[0], "control.scale": scale})
            at(s + 2).update({"control.use_bias": options[1], "control.bias": bias, "read_data": bypass})
            at(s + 3).update(
                {"control.use_bypass": options[2], "control.relu": options[3], "true": options[4]}
            )
            expected[s + 4] = finished(int(sums[k]), options, scale, bias, bypass)
        # ``read_data`` is the bypass of this pixel, or a stored sum, never both in a cycle.
        cycle = swap + lanes + 4
    rest = {
        "accumulate": 0,
        "swap": 0,
        "restore": 0,
        "control.preload": 0,
    }
    length = max(expected) + 1
    seen = trace(
        Tile(lanes=lanes, format=FP16), [rest | timeline.get(c, {}) for c in range(length)], ["result"]
    )
    assert len(expected) == pixels * lanes
    for c, wanted in expected.items():
        assert seen[c]["result"] == wanted, f"cycle {c}"
    assert restores > 3
    assert len(set(expected.values())) > pixels // 2
