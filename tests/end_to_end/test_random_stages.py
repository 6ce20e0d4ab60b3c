"""Random networks' stages on compiled chips, every layer and output word against the reference model."""

import numpy as np
import pytest

from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.config import ChipConfig, MeshConfig
from hyperdrive_hdl.errors import ModelError
from hyperdrive_hdl.simulate.cxxrtl import CxxrtlBackend
from tests.support.chips import check_program
from tests.support.resnet import residual_stage
from tests.support.stages import random_map, random_stage

# A C++ build each, so few; each stands for something.
CHIPS = (
    ChipConfig(
        name="square", lanes=4, tile_rows=2, tile_cols=2, fmm_banks=8, fmm_bank_depth=256, wbuf_depth=30
    ),
    ChipConfig(
        name="uneven", lanes=3, tile_rows=1, tile_cols=3, fmm_banks=5, fmm_bank_depth=512, wbuf_depth=19
    ),
    ChipConfig(
        name="least", lanes=1, tile_rows=1, tile_cols=1, fmm_banks=3, fmm_bank_depth=4096, wbuf_depth=9
    ),
    ChipConfig(
        name="wide", lanes=17, tile_rows=3, tile_cols=1, fmm_banks=4, fmm_bank_depth=1024, wbuf_depth=200
    ),
)
SEEDS = 12
chips = pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)


def drawn(chip, seed):
    """A stage that fits the chip, its program, and images for it."""
    rng = np.random.default_rng([seed, *chip.name.encode()])
    for _ in range(20):
        stage = random_stage(rng, layers=int(rng.integers(1, 7)))
        try:
            program = compile_stage(stage, chip, MeshConfig())
        except ModelError:
            continue
        special = (0, 0, 0.02, 0.3)[seed % 4]  # arbitrary words: NaN, infinities
        images = [
            {m.name: random_map(rng, m, special=special) for m in stage.inputs} for _ in range(1 + seed % 2)
        ]
        if seed % 4 == 1:  # subnormals and what is next to them
            images = [{name: words & np.uint16(0x87FF) for name, words in image.items()} for image in images]
        return stage, program, images
    raise AssertionError("no stage fits the chip")


@chips
def test_random_stages(chip):
    """Seeds are in the messages: ``drawn(chip, seed)`` gives the case back."""
    words = set()
    with CxxrtlBackend(chip) as backend:
        for seed in range(SEEDS):
            stage, program, images = drawn(chip, seed)
            try:
                done = check_program(
                    backend, program, stage, images, stall_seed=None if seed % 3 == 0 else seed
                )
            except Exception as error:
                error.add_note(f"chip {chip.name}, seed {seed}")
                raise
            for maps in (*images, *done.outputs):
                words.update(int(word) for values in maps.values() for word in values.flat)
    assert {0x7E00, 0x7C00} <= words, "NaN and infinity must occur"
    assert any(0 < word & 0x7FFF < 0x400 for word in words), "subnormals must occur"
    assert len(words) > 300


def test_the_stages_reach_the_cases_that_matter():
    cases = (
        "in_place",
        "elsewhere",
        "stride",
        "groups",
        "in_blocks",
        "scratch",
        "ragged",
        "one_pixel",
        "stores",
    )
    seen = dict.fromkeys(cases, 0)
    for chip in CHIPS:
        for seed in range(SEEDS):
            _, program, _ = drawn(chip, seed)
            for layer in program.layers:
                conv = layer.instruction
                seen["in_place"] += bool(conv.bypass) and conv.bypass_base == conv.out_base
                seen["elsewhere"] += bool(conv.bypass) and conv.bypass_base != conv.out_base
                seen["stride"] += conv.stride2
                seen["groups"] += conv.groups > 1
                seen["in_blocks"] += conv.in_blocks > 1
                seen["scratch"] += conv.in_blocks > 1 and conv.pixels > 1
                seen["ragged"] += conv.out_blocks > 1 and conv.last_lanes < chip.lanes
                seen["one_pixel"] += conv.pixels == 1
            seen["stores"] += len(program.stores) > 1
    assert min(seen.values()) >= 5, seen


@chips
@pytest.mark.parametrize("bottleneck", [False, True])
def test_residual_networks(chip, bottleneck):
    stage = residual_stage((1, 2), 4, 7, 6, bottleneck=bottleneck, seed=3)
    program = compile_stage(stage, chip, MeshConfig())
    rng = np.random.default_rng(3)
    image = {m.name: random_map(rng, m) for m in stage.inputs}
    with CxxrtlBackend(chip) as backend:
        plain = check_program(backend, program, stage, [image])
        stalled = check_program(backend, program, stage, [image], stall_seed=3)
    assert plain.counters.mac == stalled.counters.mac > 1000
    assert plain.counters.cycles < stalled.counters.cycles
