"""Several sums in turn through each adder, and exact sums: words, cycles and utilisation of the RTL."""

import numpy as np
import pytest

from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.config import ChipConfig, MeshConfig
from hyperdrive_hdl.errors import ModelError
from hyperdrive_hdl.perf.cycles import program_timing
from tests.support.resnet import residual_stage
from tests.support.simulated import CHIPS, random_inputs, run_and_compare
from tests.support.stages import random_stage

# Each with what makes its sums meet: small weight buffers, shared banks, one pixel per tile, few lanes.
BY_NAME = {chip.name: chip for chip in CHIPS}
VARIANTS = (
    BY_NAME["split"].replace(name="split2", adder_latency=2),
    BY_NAME["odd"].replace(name="odd3", adder_latency=3),
    BY_NAME["shared"].replace(name="shared4", adder_latency=4),
    BY_NAME["single"].replace(name="single_exact", accumulator="exact"),
    BY_NAME["split"].replace(name="split_exact", accumulator="exact", adder_latency=3),
)
variants = pytest.mark.parametrize("chip", VARIANTS, ids=lambda chip: chip.name)


def stages_for(chip: ChipConfig, count: int):
    for seed in range(count):
        rng = np.random.default_rng(seed)
        stage = random_stage(rng, layers=int(rng.integers(1, 6)), format=chip.number_format)
        try:
            yield seed, rng, stage, compile_stage(stage, chip, MeshConfig())
        except ModelError:
            continue  # too large for this chip


@variants
def test_words_and_cycles(chip):
    """Every layer of random stages; the cycles where no stream stalls."""
    compared = 0
    for seed, rng, stage, program in stages_for(chip, 20):
        images = 1 + seed % 2
        special = (0, 0.02, 0.3)[seed % 3]
        inputs = random_inputs(rng, stage, images, special=special, format=chip.number_format)
        stall_seed = seed if seed % 4 == 3 else None
        print(f"{chip.name}, seed {seed}")
        run, comparison = run_and_compare(stage, chip, inputs, program=program, stall_seed=stall_seed)
        assert comparison.mismatches == 0
        compared += comparison.words
        if stall_seed is None:
            timing = program_timing(program, images)
            assert [layer.cycles for layer in timing.layers] == [layer.cycles for layer in run.layers]
            assert (timing.cycles, timing.compute_cycles) == (run.counters.cycles, run.counters.computing)
            assert sum(layer.starved for layer in timing.layers) == run.counters.starved
            assert sum(layer.operations for layer in timing.layers) == run.counters.mac
    assert compared > 10_000


def test_the_stages_reach_the_cases_that_matter():
    cases = "one_pixel", "fewer_pixels_than_turns", "in_blocks", "bypass", "both", "interleaved"
    seen = dict.fromkeys(cases, 0)
    for chip in VARIANTS:
        for _, _, _, program in stages_for(chip, 20):
            for layer in program.layers:
                conv = layer.instruction
                seen["one_pixel"] += conv.pixels == 1
                seen["fewer_pixels_than_turns"] += conv.pixels < chip.sums_in_turn
                seen["in_blocks"] += conv.in_blocks > 1
                seen["bypass"] += conv.bypass
                seen["both"] += conv.in_blocks > 1 and bool(conv.bypass)
                seen["interleaved"] += conv.interleave > 1
    assert min(seen.values()) >= 5, seen


@pytest.mark.parametrize("turns", [1, 2, 3, 4])
@pytest.mark.parametrize("pixels", [1, 2, 3, 5, 8])
def test_utilisation(turns, pixels):
    """At least 97 % of what S sums, P at a time, allow; sums flow across the blocks' boundaries.

    The weight buffer holds two blocks. Where each row is used once, a block's parameters and headers, which
    are streamed between rows, come on top.
    """
    chip = ChipConfig(
        lanes=4,
        tile_rows=1,
        tile_cols=1,
        fmm_banks=4,
        fmm_bank_depth=1 << 13,
        wbuf_depth=2 * 64 * 9,
        adder_latency=turns,
    )
    stage = residual_stage((2,), 64, pixels, 1, bottleneck=False, seed=turns)
    program = compile_stage(stage, chip, MeshConfig())
    timing = program_timing(program)
    checked = 0
    for layer, placed in zip(timing.layers, program.layers, strict=True):
        conv = placed.instruction
        if conv.kernel3 and not conv.stride2:
            sums = conv.pixels * conv.out_blocks
            rounds = -(-sums // turns) * turns
            ideal = rounds * conv.group_channels * conv.taps
            parameters = 2 * chip.lanes + 2 if conv.pixels == 1 else 0
            assert ideal / (layer.cycles - parameters * conv.out_blocks) >= 0.97, conv
            checked += 1
    assert checked >= 3
