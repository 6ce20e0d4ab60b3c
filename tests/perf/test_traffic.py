"""Border words against a count pixel by pixel; peak words against the compiler's own count."""

from dataclasses import replace

import numpy as np
import pytest

from hyperdrive_hdl.arith.formats import format_by_name
from hyperdrive_hdl.compiler.allocate import allocate
from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.compiler.ir import ChipStage, FeatureMap, PlacedMap
from hyperdrive_hdl.config import ChipConfig, MeshConfig
from hyperdrive_hdl.perf.memory import fmm_words
from hyperdrive_hdl.perf.traffic import border_maps, border_words, map_bits, parameter_bits
from tests.support.resnet import random_conv
from tests.support.stages import compile_on, random_chip, random_mesh, random_stage

CHIP = ChipConfig(lanes=2, tile_rows=2, tile_cols=3, fmm_banks=4, fmm_bank_depth=256, wbuf_depth=36)


@pytest.mark.parametrize("height", [1, 2, 4, 5, 6])
@pytest.mark.parametrize("width", [1, 3, 6])
@pytest.mark.parametrize("tile", [(1, 1), (2, 1), (2, 2)])
def test_border_words_pixel_by_pixel(height, width, tile):
    mesh = MeshConfig(rows=3, cols=2)
    height, width = height * tile[0] - (tile[0] > 1), width * tile[1]
    placed = PlacedMap(FeatureMap("m", 5, height, width), *tile)
    high, wide = 2 * tile[0], 3 * tile[1]
    pairs = 0
    for row, col in np.ndindex(mesh.rows, mesh.cols):
        for y, x in np.ndindex(height, width):
            mine = row * high <= y < (row + 1) * high and col * wide <= x < (col + 1) * wide
            ring = row * high - 1 <= y <= (row + 1) * high and col * wide - 1 <= x <= (col + 1) * wide
            pairs += ring and not mine
    assert border_words(placed, CHIP, mesh) == 5 * pairs


@pytest.mark.parametrize(
    ("name", "scale", "bias", "word"),
    [("fp16", 16, 16, 16), ("fp8_e4m3", 16, 16, 8), ("q2.9", 16, 18, 12), ("q1.2", 16, 10, 4)],
)
def test_bits_of_words_and_parameters(name, scale, bias, word):
    chip = CHIP.replace(format=name)
    source = FeatureMap("in", 2, 4, 6)
    layer = random_conv(np.random.default_rng(0), source, "a", 5, format=chip.number_format)
    assert parameter_bits(layer, chip) == 5 * (scale + bias)
    assert parameter_bits(replace(layer, bias=None), chip) == 5 * scale
    assert parameter_bits(replace(layer, scale=None), chip) == 5 * bias
    assert map_bits(PlacedMap(source, 2, 2), chip) == 2 * 4 * 6 * word


def test_one_chip_has_no_borders():
    assert border_words(PlacedMap(FeatureMap("m", 5, 4, 6), 2, 2), CHIP, MeshConfig()) == 0


def test_only_maps_read_by_3x3_layers_have_borders():
    source = FeatureMap("in", 2, 4, 6)
    rng = np.random.default_rng(0)
    first = random_conv(rng, source, "a", 2, kernel=1)
    second = random_conv(rng, first.output, "b", 2)
    third = random_conv(rng, first.output, "c", 2, bypass=second.output)
    stage = ChipStage("s", (source,), (first, second, third), (third.output,))
    program = compile_stage(stage, CHIP, MeshConfig())
    assert [placed.map.name for placed in border_maps(program)] == ["a"]


@pytest.mark.parametrize("seed", range(20))
def test_the_compiler_and_the_model_count_the_same_words(seed):
    rng = np.random.default_rng(seed)
    number_format = format_by_name(("fp16", "q2.9", "q1.2")[seed % 3])
    stage = random_stage(rng, format=number_format)
    chip, mesh = random_chip(rng).replace(format=number_format.name), random_mesh(rng)
    allocation = allocate(stage, chip, mesh)
    assert fmm_words(compile_on(stage, chip, mesh)) == allocation.words_per_tile * chip.tiles
