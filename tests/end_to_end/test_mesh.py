"""Meshes of chips compute what one large chip computes: every layer on every chip, every bit on the links."""

import numpy as np
import pytest

from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.compiler.ir import ChipStage, FeatureMap
from hyperdrive_hdl.config import ChipConfig, MeshConfig
from hyperdrive_hdl.errors import ModelError
from hyperdrive_hdl.perf.borders import link_bits
from hyperdrive_hdl.perf.cycles import program_timing
from hyperdrive_hdl.perf.traffic import border_bits
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.simulate.cxxrtl import CxxrtlBackend
from tests.support.chips import check_program
from tests.support.resnet import random_conv
from tests.support.stages import random_map, random_stage

SIZES = {"fmm_banks": 8, "fmm_bank_depth": 512, "border_depth": 256}
# A C++ build each; every mesh of a chip uses the same one.
CHIPS = (
    ChipConfig(name="square", lanes=4, tile_rows=2, tile_cols=2, wbuf_depth=30, link_width=4, **SIZES),
    ChipConfig(
        name="in_turn",
        lanes=3,
        tile_rows=1,
        tile_cols=3,
        wbuf_depth=64,
        link_width=1,
        adder_latency=3,
        **SIZES,
    ),
    ChipConfig(name="least", lanes=1, tile_rows=1, tile_cols=1, wbuf_depth=27, link_width=16, **SIZES),
    ChipConfig(
        name="bytes",
        lanes=5,
        tile_rows=3,
        tile_cols=2,
        wbuf_depth=200,
        link_width=8,
        format="fp8_e4m3",
        accumulator="exact",
        adder_latency=2,
        **SIZES,
    ),
)
MESHES = tuple(
    MeshConfig(rows=rows, cols=cols) for rows, cols in ((2, 2), (1, 3), (3, 1), (2, 3), (3, 3), (1, 2))
)
SEEDS = 12
chips = pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)


def drawn(chip, seed):
    """A stage that a mesh of these chips runs, its program, and images for it."""
    rng = np.random.default_rng([seed, *chip.name.encode()])
    mesh = MESHES[seed % len(MESHES)]
    for _ in range(50):
        stage = random_stage(rng, layers=int(rng.integers(1, 7)), format=chip.number_format)
        if sum(layer.kernel == 3 for layer in stage.layers) == 0:
            continue
        try:
            program = compile_stage(stage, chip, mesh)
        except ModelError:
            continue
        images = [
            {
                m.name: random_map(rng, m, special=0.02 * (seed % 3 == 1), format=chip.number_format)
                for m in stage.inputs
            }
            for _ in range(1 + seed % 3)
        ]
        return stage, program, images
    raise AssertionError("no stage fits the mesh")


@chips
@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_random_stages(chip, mesh):
    """With random stalls and delays for two seeds of three; bits on the links as estimated, to the bit."""
    with CxxrtlBackend(chip, mesh=mesh) as backend:
        for seed in range(MESHES.index(mesh), SEEDS, len(MESHES)):
            stage, program, images = drawn(chip, seed)
            stalls = None if seed % 4 == 0 else seed
            try:
                done = check_program(backend, program, stage, images, stall_seed=stalls)
            except Exception as error:
                error.add_note(f"chip {chip.name}, seed {seed}")
                raise
            counters = done.counters
            assert counters.border_words * chip.word_width == len(images) * border_bits(program), seed
            assert counters.link_beats * chip.link_width == len(images) * link_bits(program), seed
            timing = program_timing(program, len(images))
            if stalls is None:
                assert counters.cycles == pytest.approx(timing.cycles, rel=0.1, abs=300), seed


def test_the_stages_reach_the_cases_that_matter():
    cases = (
        "both_slots",
        "stride",
        "one_by_one",
        "bypass",
        "in_blocks",
        "rest",
        "empty_chips",
        "reload",
        "groups",
    )
    seen = dict.fromkeys(cases, 0)
    for chip in CHIPS:
        for seed in range(SEEDS):
            _, program, _ = drawn(chip, seed)
            mesh = program.mesh
            slots = set()
            for layer in program.layers:
                conv, output = layer.instruction, layer.output
                slots |= {conv.import_slot} if conv.imports else set()
                seen["stride"] += conv.stride2 and conv.imports
                seen["one_by_one"] += not conv.kernel3
                seen["bypass"] += conv.bypass
                seen["in_blocks"] += conv.in_blocks > 1 and conv.imports
                seen["groups"] += conv.groups > 1 and conv.exports
                seen["rest"] += bool(conv.rest_rows or conv.rest_cols)
                seen["empty_chips"] += output.map.height <= (mesh.rows - 1) * chip.tile_rows * output.tile_h
            seen["both_slots"] += len(slots) == 2
            seen["reload"] += program.reload_after is not None
    assert min(seen.values()) >= 4, seen


def test_as_one_large_chip():
    """Four chips of one tile, and one chip of four tiles: the same words, layer by layer."""
    chip, mesh = CHIPS[2], MESHES[0]
    large = chip.replace(name="large", tile_rows=2, tile_cols=2)
    stage, program, images = drawn(chip, 0)
    assert program.mesh == mesh
    found: list[list] = [[], []]
    runs = ((large, MeshConfig()), (chip, mesh))
    for (config, of), maps in zip(runs, found, strict=True):
        with CxxrtlBackend(config, mesh=of) as backend:
            done = check_program(backend, compile_stage(stage, config, of), stage, images)
        maps += [{name: words.tolist() for name, words in image.items()} for image in done.outputs]
    assert found[0] == found[1]


QUARTER = PRESETS["paper"].replace(name="quarter", tile_rows=4, tile_cols=4)


def block(channels: int, size: int) -> ChipStage:
    """A residual block of ResNet-34 at 224x224."""
    rng = np.random.default_rng(channels)
    source = FeatureMap("in", channels, size, size)
    first = random_conv(rng, source, "first", channels)
    second = random_conv(rng, first.output, "second", channels, bypass=source)
    return ChipStage(f"block{channels}", (source,), (first, second), (second.output,))


@pytest.mark.parametrize(("channels", "size"), [(64, 56), (128, 28), (256, 14), (512, 7)])
def test_blocks_of_resnet34(channels, size):
    """On 2x2 chips of 16 x 4 x 4 TPUs; what the exchange costs stays hidden but for a layer's last words."""
    stage = block(channels, size)
    program = compile_stage(stage, QUARTER, MESHES[0])
    rng = np.random.default_rng(size)
    images = [{m.name: random_map(rng, m) for m in stage.inputs}]
    with CxxrtlBackend(QUARTER, mesh=MESHES[0]) as backend:
        done = check_program(backend, program, stage, images)
    assert done.counters.border_words * 16 == border_bits(program)
    assert done.counters.link_beats * 4 == link_bits(program)
    assert done.counters.cycles == pytest.approx(program_timing(program).cycles, rel=0.02)
