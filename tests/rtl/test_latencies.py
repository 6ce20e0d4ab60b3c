"""The table of latencies against the RTL, measured: what the performance model counts with is what is built.

The stages of the control are compared in test_issue.py and test_epilogue.py; here are those of the datapath,
each of which has to get its control in its own cycle.
"""

from itertools import product

import pytest

from hyperdrive_hdl.arith.formats import ACCUMULATORS, FORMATS, format_by_name
from hyperdrive_hdl.config import MAX_ADDER_LATENCY, ChipConfig
from hyperdrive_hdl.latencies import (
    EXACT_TERM_STAGES,
    ISSUE_TO_ACCESS,
    PARAMETER_LOOKUP,
    WEIGHT_READ,
    latencies,
)
from hyperdrive_hdl.rtl.distribution import DataDistribution
from hyperdrive_hdl.rtl.feature_memory import FeatureMemory
from hyperdrive_hdl.rtl.tile import Tile, TileEpilogue
from hyperdrive_hdl.rtl.weight_buffer import WeightBuffer
from tests.support.operations import trace_packed
from tests.support.streams import trace


def chip(format="fp16", accumulator="sequential", latency=1) -> ChipConfig:
    return ChipConfig(
        lanes=2,
        tile_rows=1,
        tile_cols=1,
        fmm_banks=2,
        fmm_bank_depth=16,
        wbuf_depth=20,
        format=format,
        accumulator=accumulator,
        adder_latency=latency,
    )


MEASURED = [
    *(chip(latency=u) for u in (1, 2, 3, 4)),
    *(chip("fp16", "exact", u) for u in (1, 2, 3)),
    chip("fp8_e4m3", latency=1),
    chip("fp8_e4m3", latency=2),
    chip("q2.9", latency=3),
    chip("q2.9", "exact", 2),
    chip("q2.9", "exact", 4),
    chip(latency=2).replace(memory_latency=2),
    chip(latency=3).replace(memory_latency=3),
    chip("fp8_e4m3", latency=1).replace(memory_latency=3),
    chip("fp16", "exact", 3).replace(memory_latency=4),
    chip("q2.9", "exact", 3).replace(memory_latency=5),
]
measured = pytest.mark.parametrize(
    "config", MEASURED, ids=lambda c: f"{c.accumulator}{c.adder_latency}-{c.memory_latency}-{c.format}"
)
SETTLED = 25  # cycles after which everything steady has come through


def delays(dut, phases: list[tuple[dict, dict]]) -> list[int]:
    """For each (steady, change): cycles until ``result`` is another one, because a member has changed.

    Members that a phase does not name are zero.
    """
    names = {name: value for steady, change in phases for name, value in (steady | change).items()}
    zero = {name: [{}] * len(value) if isinstance(value, list) else 0 for name, value in names.items()}
    inputs = []
    for steady, change in phases:
        inputs += [zero | steady] + [{}] * (SETTLED - 1) + [change] + [{}] * (SETTLED - 1)
    seen = [s["result"] for s in trace_packed(dut, inputs, ["result"])]
    found = []
    for number, (_, change) in enumerate(phases):
        start = (2 * number + 1) * SETTLED
        part = seen[start : start + SETTLED]
        assert part[0] != part[-1], f"{change} makes no difference, or at once"
        found.append(part.index(part[-1]))
        assert part == [part[0]] * found[-1] + [part[-1]] * (SETTLED - found[-1])
    return found


@measured
def test_the_stages_of_the_datapath(config):
    """Each member of the epilogue counts in its own cycle."""
    format, at = config.number_format, latencies(config)
    exact = config.accumulator == "exact"
    one, two, below = (int(format.sums.encode([value])[0]) for value in (1.0, 2.0, -2.0))
    unit = 1 << 24 if format.name == "fp16" else 512  # what exact sums count in

    def held(word, total=0):
        exactly = {"total": total, "weight": 1, "plus": 0, "minus": 0}
        return [exactly if exact else {"word": word}] * config.lanes

    steady = {
        "held": held(one, unit),
        "true": 1,
        "bypass": int(format.encode([1.0])[0]),
        "control.scale": int(format.scales.encode([2.0])[0]),
        "control.bias": one,
    }
    use = {name: {f"control.use_{name}": 1} for name in ("scale", "bias", "bypass")}
    last = at.unit_stages - 1
    cases = [
        ({}, {"held": held(two, 2 * unit)}, at.select),
        (use["scale"], {"control.scale": int(format.scales.encode([0.5])[0])}, at.multiply),
        ({}, use["scale"], at.multiply + last),
        (use["bias"], {"control.bias": two}, at.bias),
        ({}, use["bias"], at.bias + last),
        (use["bypass"], {"bypass": int(format.encode([0.5])[0])}, at.bypass),
        ({}, use["bypass"], at.bypass + last),
        ({}, {"true": 0}, at.bypass + last),
        (use["bias"] | {"control.bias": below}, {"control.relu": 1}, at.bypass + last),
    ]
    if format.words_per_sum > 1:
        # A word whose two parts differ, and from what it is narrowed to.
        word = int(format.sums.encode([5.0])[0]) | 1
        odd = {"held": held(0), "control.bias": word} | use["bias"]
        cases += [
            (odd, {"control.partial": 1}, at.write - 1),
            (odd | {"control.partial": 1}, {"control.part": 1}, at.write - 1),
        ]
    dut = TileEpilogue(config=config)
    found = delays(dut, [(steady | more, change) for more, change, _ in cases])
    for cycles, (_, change, stage) in zip(found, cases, strict=True):
        assert cycles == at.write - stage, change
    assert dut.latency == found[0]


@measured
def test_the_stages_of_the_tile(config):
    """From a term to the result, and from a word of the memory, which is the bypass."""
    format, at = config.number_format, latencies(config)
    one = int(format.encode([1.0])[0])
    dut = Tile(config=config)
    term = {"x": one, "weights": 3, "enable": 3, "ends": 1}
    inputs = [{"true": 1, "control.use_bypass": 0, "read_data": 0}] + [{}] * SETTLED
    inputs += [term, {"enable": 0, "ends": 0}] + [{}] * SETTLED  # 1, and 1 + 1 at the end
    inputs += [{"control.use_bypass": 1}] + [{}] * SETTLED + [{"read_data": one}] + [{}] * SETTLED
    found = [s["result"] for s in trace_packed(dut, inputs, ["result"])]
    assert found.index(one) - inputs.index(term) == at.accumulate + at.write - at.select
    assert dut.latency == at.accumulate
    # The first lane is selected in the very cycle in which its sum is there.
    assert 1 + at.select == at.term + at.accumulate
    two = int(format.encode([2.0])[0])
    assert found.index(two) - inputs.index({"read_data": one}) == at.write - at.read - at.memory


@measured
def test_the_stages_in_order(config):
    at = latencies(config)
    assert at.unit_stages == config.adder_latency
    assert at.exact == at.select + 1
    assert at.multiply == at.exact + at.exact_stages
    assert (at.exact_stages > 0) == (config.accumulator == "exact")
    assert at.store == at.bypass + at.unit_stages
    assert at.done == at.write + 1 + [0, 0, 0, 1, 1, 2][config.memory_latency]
    assert at.read + at.memory < at.bypass
    assert (at.write > at.store) == (config.number_format.sums is not config.number_format)


@pytest.mark.parametrize("memory", [1, 2, 3, 4, 5])
def test_the_way_from_issue_to_the_term(memory):
    """Address, memory, window; and a weight row takes as long, or less."""
    config = chip().replace(memory_latency=memory)
    at = latencies(config)
    write = {"enable": 1, "write": 1, "address": 3, "rows": 1, "cols": 1, "results": [[5]]}
    memory = [write, {"enable": 0, "mac_enable": 1, "mac_address": 3}, {"mac_address": 4}, {}, {}, {}, {}, {}]
    seen = trace(FeatureMemory(config=config), memory, ["mac_data"])
    in_memory = [s["mac_data"] for s in seen].index([[5]]) - 1
    seen = trace(DataDistribution(config=config), [{"pixels": [[5]]}, {"pixels": [[0]]}, {}], ["x"])
    in_window = [s["x"] for s in seen].index([[5]])
    row = [{"write.valid": 1, "write.payload": 2}, {"write.valid": 0, "read": 1}] + [{}] * 5
    seen = trace(WeightBuffer(depth=4, lanes=2), row, ["row"])
    in_buffer = [s["row"] for s in seen].index(2) - 1
    assert ISSUE_TO_ACCESS + in_memory + in_window == at.term
    assert in_buffer == WEIGHT_READ <= at.term
    assert in_memory == at.memory
    assert latencies(chip("fp16", "exact")).accumulate == EXACT_TERM_STAGES + 1


def test_reads_never_meet_writes_and_nothing_comes_too_late():
    """Slots with a bypass go in every second cycle: of an odd distance, no read meets a write. Every chip."""
    kinds = 0
    for name, accumulator in product([*FORMATS, "q2.9", "q7.8", "q0.3"], ACCUMULATORS):
        if accumulator not in format_by_name(name).accumulators:
            continue
        for latency in range(1, MAX_ADDER_LATENCY + 1):
            at = latencies(chip(name, accumulator, latency))
            assert (at.write - at.read) % 2 == 1
            assert at.read >= 1
            assert at.bypass_wait in (1, 2)  # a register behind the memory, and one more for the distance
            assert at.multiply - PARAMETER_LOOKUP >= 1
            # A set is given back after its last parameter was looked up, and no later than needed.
            assert at.bias - PARAMETER_LOOKUP < at.release <= at.bypass
            kinds += 1
    assert kinds == 4 * (2 * 11 - 2), "no exact sums for bf16"


def test_delays_measure():
    """Negative control: what makes no difference has none."""
    config = chip()
    with pytest.raises(AssertionError, match="no difference"):
        delays(TileEpilogue(config=config), [({"true": 1}, {"control.scale": 3})])
