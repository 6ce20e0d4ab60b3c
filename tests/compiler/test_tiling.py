"""Tile sizes: the smallest map decides, strides double upwards."""

import numpy as np
import pytest

from hyperdrive_hdl.compiler.ir import ChipStage, FeatureMap
from hyperdrive_hdl.compiler.tiling import stage_maps, tile_sizes, whole_and_rest
from hyperdrive_hdl.config import MeshConfig
from hyperdrive_hdl.errors import ModelError
from hyperdrive_hdl.presets import PRESETS
from tests.support.resnet import random_conv, residual_stage, resnet
from tests.support.stages import random_chip, random_mesh, random_stage

PAPER, ONE = PRESETS["paper"], MeshConfig()


def test_resnet_on_the_papers_chip():
    tiles = tile_sizes(resnet(18), PAPER, ONE)
    assert tiles["input"] == tiles["g0b1.conv2"] == (8, 8)
    assert [tiles[f"g{g}b0.conv2"] for g in range(4)] == [(8, 8), (4, 4), (2, 2), (1, 1)]


def test_a_mesh_of_chips_shares_the_map():
    tiles = tile_sizes(resnet(34, 1024, 2048), PAPER, MeshConfig(rows=5, cols=10))
    assert tiles["input"] == (8, 8)


def test_odd_maps_are_rounded_up_from_the_smallest():
    stage = residual_stage((1, 1, 1), 2, 9, 17)  # 9 x 17, 5 x 9, 3 x 5
    tiles = tile_sizes(stage, PAPER.replace(tile_rows=2, tile_cols=2), ONE)
    assert [tiles[f"g{g}b0.conv2"] for g in range(3)] == [(8, 12), (4, 6), (2, 3)]


def test_separate_graphs_are_tiled_apart():
    rng = np.random.default_rng(0)
    a, b = FeatureMap("a", 1, 14, 14), FeatureMap("b", 1, 14, 14)
    layers = (random_conv(rng, a, "c", 1), random_conv(rng, b, "d", 1, stride=2))
    tiles = tile_sizes(ChipStage("s", (a, b), layers, tuple(layer.output for layer in layers)), PAPER, ONE)
    assert tiles == {"a": (2, 2), "c": (2, 2), "b": (2, 2), "d": (1, 1)}


def test_a_branch_with_a_stride_is_found_upstream():
    """A map whose smaller relative hangs on a side branch still gets tiles twice as large."""
    rng = np.random.default_rng(0)
    a = FeatureMap("a", 1, 9, 9)
    straight, half = random_conv(rng, a, "straight", 1), random_conv(rng, a, "half", 1, stride=2)
    tiles = tile_sizes(
        ChipStage("s", (a,), (straight, half), (straight.output, half.output)),
        PAPER.replace(tile_rows=3, tile_cols=3),
        ONE,
    )
    assert tiles == {"a": (4, 4), "straight": (4, 4), "half": (2, 2)}


@pytest.mark.parametrize("seed", range(50))
def test_tiles_cover_every_map_and_follow_the_strides(seed):
    rng = np.random.default_rng(seed)
    stage, chip, mesh = random_stage(rng, layers=8), random_chip(rng), random_mesh(rng)
    tiles, maps = tile_sizes(stage, chip, mesh), stage_maps(stage)
    for name, (tile_h, tile_w) in tiles.items():
        assert tile_h * chip.tile_rows * mesh.rows >= maps[name].height
        assert tile_w * chip.tile_cols * mesh.cols >= maps[name].width
    for layer in stage.layers:
        assert tiles[layer.input.name] == tuple(layer.stride * n for n in tiles[layer.output.name])
        if layer.bypass:
            assert tiles[layer.bypass.name] == tiles[layer.output.name]


def test_paths_with_different_strides_are_refused():
    rng = np.random.default_rng(0)
    a = FeatureMap("a", 1, 1, 1)
    first = random_conv(rng, a, "first", 1, stride=2)
    second = random_conv(rng, first.output, "second", 1, bypass=a)
    with pytest.raises(ModelError, match=r"'second'.*different strides"):
        tile_sizes(ChipStage("s", (a,), (first, second), (second.output,)), PAPER, ONE)


def test_a_map_from_nowhere_is_refused():
    rng = np.random.default_rng(0)
    layer = random_conv(rng, FeatureMap("ghost", 1, 4, 4), "c", 1)
    with pytest.raises(ModelError, match="'c' reads 'ghost'"):
        tile_sizes(ChipStage("s", (), (layer,), (layer.output,)), PAPER, ONE)


def test_whole_tiles_and_the_rest():
    assert whole_and_rest(13, 4) == (3, 1)
    assert whole_and_rest(3, 4) == (0, 3)
