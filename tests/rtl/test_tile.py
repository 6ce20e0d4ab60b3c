"""The tile's epilogue and the whole tile against the format's operations, for formats and accumulators."""

import random
from functools import cache
from itertools import product

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hyperdrive_hdl.arith import hardware
from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.latencies import latencies
from hyperdrive_hdl.rtl.hierarchy import instantiate
from hyperdrive_hdl.rtl.tile import Tile, TileEpilogue
from tests.support.operands import boundary_words
from tests.support.operations import trace_packed


def chip(format, accumulator, latency, lanes) -> ChipConfig:
    return ChipConfig(
        lanes=lanes,
        tile_rows=1,
        tile_cols=1,
        fmm_banks=2,
        fmm_bank_depth=16,
        wbuf_depth=20,
        format=format,
        accumulator=accumulator,
        adder_latency=latency,
    )


# With so many lanes, a sum can end in the very cycle in which the epilogue has taken the one before.
LANES = {1: 2, 2: 3, 3: 4, 4: 1}
CHIPS = [
    *(chip(f, "sequential", u, LANES[u]) for f, u in product(("fp16", "bf16", "fp8_e4m3", "q2.9"), LANES)),
    *(chip(f, "exact", u, 2) for f, u in product(("fp16", "fp8_e4m3", "q2.9"), (1, 2, 3))),
    chip("fp16", "sequential", 3, 4).replace(memory_latency=3),
    chip("fp8_e4m3", "exact", 2, 3).replace(memory_latency=2),
    chip("q0.3", "sequential", 3, 4),  # three words for a stored sum
    chip("fp8_e5m2_ftz", "sequential", 2, 3),
    chip("fp16_ftz", "exact", 4, 3),
]


def each(chips):
    return pytest.mark.parametrize(
        "config", chips, ids=lambda c: f"{c.accumulator}{c.adder_latency}-{c.format}-{c.lanes}"
    )


@cache
def pool(format) -> list[int]:
    """Words of a format that units may give: values of all sizes, and those that go wrong first."""
    layout = format.layout
    rng = random.Random(format.name)
    values = format.encode([rng.gauss(0, 1) * 4.0 ** rng.randint(-5, 5) for _ in range(400)]).tolist()
    if format.name.startswith("q"):
        specials = [layout.largest, layout.largest - 1, layout.largest + 1, 1, 0]
    else:
        specials = format.canonical(np.array(boundary_words(layout), np.uint16)).tolist()
    return values + specials + [values[0], layout.largest, 0] * 9


def word(format, rng) -> int:
    return rng.choice(pool(format))


def unit(format) -> float:
    """What exact sums are multiples of."""
    layout = format.layout
    return 2.0 ** (-layout.fraction_bits if format.name.startswith("q") else layout.unit_exponent)


def sum_word(config, rng) -> int:
    """A word of sums as accumulators leave it; no sum is -0."""
    format = config.number_format
    found = word(format.sums, rng)
    if config.accumulator == "exact":
        value = float(format.sums.decode([found])[0])
        if np.isfinite(value):
            found = int(format.sums.encode([round(value / unit(format)) * unit(format)])[0])
    return 0 if not format.name.startswith("q") and found == format.sums.layout.sign_mask else found


def random_job(format, rng) -> dict:
    """What happens to a finished sum."""
    partial = rng.random() < 0.25
    steps = ("use_scale", "use_bias", "use_bypass", "relu")
    return {
        **{name: 0 if partial else rng.getrandbits(1) for name in steps},
        "partial": int(partial),
        "true": int(rng.random() < 0.9),
    }


def random_slot(format, rng, lane, part=0) -> dict:
    """A lane's turn, and the words that come with it."""
    return {
        "lane": lane,
        "part": part,
        "scale": word(format.scales, rng),
        "bias": word(format.sums, rng),
        "bypass": word(format, rng),
    }


def finished(format, held, job, slot) -> int:
    """One sum through the epilogue: the format's operations, in order (README: Numbers)."""
    sums = format.sums
    value = np.array([held], sums.dtype)
    if job["use_scale"]:
        value = sums.multiply(value, np.array([slot["scale"]], format.scales.dtype))
    if job["use_bias"]:
        value = sums.add(value, np.array([slot["bias"]], sums.dtype))
    if job["use_bypass"]:
        value = sums.add(value, format.widen(np.array([slot["bypass"]], format.dtype)))
    if job["relu"]:
        value = sums.relu(value)
    if not job["true"]:
        value = np.array([sums.zero], sums.dtype)
    return int(format.split(value)[slot["part"], 0] if job["partial"] else format.narrow(value)[0])


class Timeline:
    """A bench's inputs, cycle by cycle; nothing is told twice."""

    def __init__(self):
        self.cycles: dict[int, dict] = {}

    def tell(self, cycle: int, **values) -> None:
        now = self.cycles.setdefault(cycle, {})
        assert not now.keys() & values.keys()
        now |= values

    def inputs(self, rest: dict, length: int) -> list[dict]:
        return [rest | self.cycles.get(cycle, {}) for cycle in range(length)]


def control(timeline, at, cycle, job, slot) -> None:
    """The control of a slot that goes in a cycle, each signal in its own stage (``EpilogueSignature``)."""
    last = at.unit_stages - 1
    timeline.tell(cycle + at.select, **{"control.lane": slot["lane"]})
    timeline.tell(cycle + at.multiply, **{"control.scale": slot["scale"]})
    timeline.tell(cycle + at.multiply + last, **{"control.use_scale": job["use_scale"]})
    timeline.tell(cycle + at.bias, **{"control.bias": slot["bias"]})
    timeline.tell(cycle + at.bias + last, **{"control.use_bias": job["use_bias"]})
    timeline.tell(
        cycle + at.bypass + last,
        **{"control.use_bypass": job["use_bypass"], "control.relu": job["relu"], "true": job["true"]},
    )
    timeline.tell(cycle + at.write - 1, **{"control.partial": job["partial"], "control.part": slot["part"]})


def random_held(config, rng) -> tuple[dict, int]:
    """A held sum as the TPUs leave it, less what all lanes have in common, and the word it stands for."""
    format = config.number_format
    sums = format.sums
    if config.accumulator == "sequential":
        found = sum_word(config, rng)
        return {"word": found}, found
    plus, minus = rng.random() < 0.1, rng.random() < 0.1
    bits = min(52, hardware.exact_width(format, config.wbuf_depth) - 1)
    total = rng.choice([rng.getrandbits(rng.randint(1, bits)), 0]) * rng.choice([1, -1])
    # float64 has every such total; encoding rounds it once.
    nearest = int(sums.encode([total * unit(format)])[0])
    if format.name.endswith("_ftz") and abs(float(sums.decode([nearest])[0])) == 0:
        nearest = 0
    if plus or minus:
        if format.name.startswith("q"):
            plus = minus = False
        else:
            sign = 0 if plus else sums.layout.sign_mask
            nearest = sums.layout.nan if plus and minus else sums.layout.infinity | sign
    return {"total": total, "plus": plus, "minus": minus, "weight": rng.getrandbits(1)}, nearest


# Every format, every number of stages, and both accumulators.
@each([chip for i, chip in enumerate(CHIPS) if i % 5 in (0, 3) or i > 24])
def test_epilogue(config):
    """One word per cycle, each with its own options: nothing of a neighbour in the pipeline gets in."""
    rng = random.Random(f"epilogue {config}")
    format, at = config.number_format, latencies(config)
    dut = TileEpilogue(config=config)
    assert dut.latency == at.write - at.select
    timeline = Timeline()
    expected = {}
    exact = config.accumulator == "exact"
    width = hardware.exact_width(format, config.wbuf_depth) if exact else 0
    for cycle in range(90):
        job = random_job(format, rng)
        slot = random_slot(format, rng, rng.randrange(config.lanes), rng.randrange(format.words_per_sum))
        slot["part"] *= job["partial"]
        held = [random_held(config, rng) for _ in range(config.lanes)]
        control(timeline, at, cycle, job, slot)
        timeline.tell(cycle + at.bypass, bypass=slot["bypass"])
        common = rng.getrandbits(width) if exact else 0
        last = rng.getrandbits(width) if exact else 0
        given = [h for h, _ in held]
        for one in given if exact else ():
            one["total"] = (one["total"] + common + (-last if one["weight"] else last)) % (1 << width)
        shared = {"common": common, "last_term": last} if exact else {}
        timeline.tell(cycle + at.select, held=given, **shared)
        expected[cycle + at.write] = finished(format, held[slot["lane"]][1], job, slot)
    seen = trace_packed(dut, timeline.inputs({}, max(expected) + 1), ["result"])
    for cycle, wanted in expected.items():
        assert seen[cycle]["result"] == wanted, f"slot {cycle - at.write}"
    assert len(set(expected.values())) > 10


def test_relu_of_minus_zero_and_of_nan():
    """-0 gives +0, NaN stays; without ReLU the word passes unchanged."""
    config = CHIPS[0]
    for held, relu, wanted in (
        (0x8000, 1, 0),
        (0x8000, 0, 0x8000),
        (0x7E00, 1, 0x7E00),
        (0xFC00, 1, 0),
    ):
        dut = TileEpilogue(config=config)
        steady = {"held": [{"word": held}] * config.lanes, "control.relu": relu, "true": 1}
        seen = trace_packed(dut, [steady] + [{}] * dut.latency, ["result"])
        assert seen[-1]["result"] == wanted


@each(CHIPS)
def test_tile(config):
    """Sums in turn with gaps, begun from stored partial sums, and the epilogue right behind them.

    The schedule is the chip's: sums end in order, a sum's slots go from two cycles before its last term is
    at the tile, and the next one ends when they have gone, as early as it may.
    """
    rng = random.Random(f"tile {config}")
    format, at, lanes = config.number_format, latencies(config), config.lanes
    parts, turns = format.words_per_sum, config.sums_in_turn
    slot_of_term = 1 - at.term
    timeline = Timeline()
    expected = {}
    counts = dict.fromkeys(("restored", "gap", "tight", "single", "partial", "sums", "gap_in_restore"), 0)
    places: list[dict | None] = [None] * turns
    number = ended = 0
    ready = 0  # the next sum may end
    cycle = 2
    gaps = 0.2
    while (
        counts["sums"] < 25
        or len(set(expected.values())) <= 10
        or (lanes * parts > 1 and not counts["gap_in_restore"])
    ):
        place = places[cycle % turns]
        if place is None:
            count = rng.choice([1, 1, 2, 3, 7])
            start = np.zeros((lanes, 1), format.sums.dtype)
            restores = []
            if rng.random() < 0.4:
                start = np.array([[sum_word(config, rng)] for _ in range(lanes)], format.sums.dtype)
                restores = [
                    (k, p, int(format.split(start)[p, k, 0])) for k in range(lanes) for p in range(parts)
                ]
            terms = [(word(format, rng), rng.getrandbits(lanes)) for _ in range(count)]
            if rng.random() < 0.3:
                terms = [(0, w) for _, w in terms]  # the partial sum shows
            place = places[cycle % turns] = {
                "number": number,
                "start": start,
                "restores": restores,
                "terms": terms,
                "left": list(terms),
            }
            number += 1
        ends = not place["restores"] and len(place["left"]) == 1
        if rng.random() < gaps or (ends and (place["number"] != ended or cycle < ready)):
            # Anything may pass by; it is no term.
            timeline.tell(cycle, x=rng.getrandbits(format.width), weights=rng.getrandbits(lanes))
            counts["gap"] += 1
            counts["gap_in_restore"] += 0 < len(place["restores"]) < lanes * parts
            gaps = rng.choice([0, 0, 0.2, 0.6]) if rng.random() < 0.1 else gaps
        elif place["restores"]:
            lane, part, x = place["restores"].pop(0)
            enable = 1 << lane if part == parts - 1 else 0
            timeline.tell(cycle, x=x, restore=1, weights=(1 << lanes) - 1, enable=enable)
            counts["restored"] += 1
        else:
            x, weights = place["left"].pop(0)
            timeline.tell(cycle, x=x, weights=weights, enable=(1 << lanes) - 1, ends=int(ends))
            gaps = 0.2 if gaps == 0 and rng.random() < 0.05 else gaps
        if ends and not place["left"]:
            plus = np.array([[w >> k & 1 for k in range(lanes)] for _, w in place["terms"]], bool)
            accumulator = format.accumulator(place["start"], config.accumulator)
            operands = format.operands(np.array([[x] for x, _ in place["terms"]], format.dtype))
            accumulator.add_terms(operands, plus)
            sums = accumulator.result()[:, 0]
            job = random_job(format, rng)
            slot_cycle = cycle + slot_of_term
            for lane, part in product(range(lanes), range(parts if job["partial"] else 1)):
                slot = random_slot(format, rng, lane, part)
                control(timeline, at, slot_cycle - at.broadcast, job, slot)
                timeline.tell(slot_cycle + at.read + at.memory, read_data=slot["bypass"])
                expected[slot_cycle + at.write] = finished(format, int(sums[lane]), job, slot)
                slot_cycle += 1
            counts["tight"] += cycle == ready
            counts["single"] += len(place["terms"]) == 1
            counts["partial"] += job["partial"]
            counts["sums"] += 1
            ready = cycle + slot_cycle - (cycle + slot_of_term)
            ended += 1
            places[cycle % turns] = None
        cycle += 1
    dut = Tile(config=config)
    assert dut.latency == at.accumulate
    rest = {"enable": 0, "ends": 0, "restore": 0}
    seen = trace_packed(dut, timeline.inputs(rest, max(expected) + 1), ["result"])
    for c, wanted in expected.items():
        assert seen[c]["result"] == wanted, f"cycle {c}"
    if lanes * parts == 1:
        assert counts.pop("gap_in_restore") == 0
    assert min(counts.values()) > 0, counts
    assert len(set(expected.values())) > 10


class TileWithReset(wiring.Component):
    """A tile and, as its only reset, the input ``reset``."""

    def __init__(self, *, config):
        self._config = config
        super().__init__({"tile": Out(Tile(config=config).signature), "reset": In(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        tile = instantiate(m, platform, "inner", Tile, reset=self.reset, config=self._config)
        connect(m, flipped(self.tile), tile)
        return m


@each([chip for i, chip in enumerate(CHIPS) if i % 4 == 1 or i > 24])
def test_reset_forgets_the_sums_in_progress(config):
    """All sums in turn are begun, then a cycle of reset comes for each: the next has its own terms only."""
    rng = random.Random(f"reset {config}")
    format, at, lanes = config.number_format, latencies(config), config.lanes
    every = (1 << lanes) - 1
    one, two = (int(format.encode([value])[0]) for value in (1.0, 2.0))
    timeline = Timeline()
    for cycle in range(20):
        timeline.tell(cycle, x=rng.choice([one, two]), weights=every, enable=every)
    for cycle in range(20, 20 + config.sums_in_turn):
        timeline.tell(cycle, reset=1)
    last = 40
    for turn, x in enumerate((one, two, two)):
        ends = int(turn == 2)
        timeline.tell(last - (2 - turn) * config.sums_in_turn, x=x, weights=every, enable=every, ends=ends)
    expected = {}
    job = dict.fromkeys(("use_scale", "use_bias", "use_bypass", "relu", "partial"), 0) | {"true": 1}
    for lane in range(lanes):
        slot = random_slot(format, rng, lane)
        control(timeline, at, last + 1 - at.term + lane - at.broadcast, job, slot)
        expected[last + 1 - at.term + lane + at.write] = int(format.encode([5.0])[0])
    rest = {"enable": 0, "ends": 0, "restore": 0}
    cycles = timeline.inputs(rest | {"reset": 0}, max(expected) + 1)
    inputs = [{name if name == "reset" else f"tile.{name}": v for name, v in c.items()} for c in cycles]
    seen = trace_packed(TileWithReset(config=config), inputs, ["tile.result"])
    assert {cycle: seen[cycle]["tile.result"] for cycle in expected} == expected
