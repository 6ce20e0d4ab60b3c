"""Places of maps: no live words overlap, the paper's networks fit exactly, errors say what would do."""

import numpy as np
import pytest

from hyperdrive_hdl.compiler.allocate import Allocation, allocate, banks
from hyperdrive_hdl.compiler.ir import ChipStage, FeatureMap
from hyperdrive_hdl.config import ChipConfig, MeshConfig
from hyperdrive_hdl.errors import ModelError
from hyperdrive_hdl.presets import PRESETS
from tests.support.resnet import random_conv, residual_stage, resnet
from tests.support.stages import random_chip, random_mesh, random_stage

PAPER, ONE = PRESETS["paper"], MeshConfig()


def overlap_faults(stage: ChipStage, allocation: Allocation) -> list[str]:
    """Replays the layers word by word: every map read must still be what its layer wrote."""
    owner: dict[int, str] = {}
    faults = []

    def write(name: str, base: int, words: int) -> None:
        owner.update(dict.fromkeys(range(base, base + words), name))

    def read(name: str, by: str) -> None:
        placed = allocation.maps[name]
        if any(owner.get(a) != name for a in range(placed.base, placed.base + placed.words_per_tile)):
            faults.append(f"{by} reads {name} overwritten")

    for m in stage.inputs:
        write(m.name, allocation.maps[m.name].base, allocation.maps[m.name].words_per_tile)
    for index, layer in enumerate(allocation.layers):
        placed = allocation.maps[layer.output.name]
        scratch = (allocation.scratch[index], allocation.scratch_words[index])
        if layer.bypass:
            read(layer.bypass.name, layer.name)
        write(f"scratch{index}", *scratch)
        if layer.bypass and allocation.maps[layer.bypass.name].base != placed.base:
            read(layer.bypass.name, layer.name)
        write(layer.output.name, placed.base, placed.words_per_tile)
        read(layer.input.name, layer.name)  # after the output: it is read until the last block
        read(layer.output.name, layer.name)
        if any(owner[a] != f"scratch{index}" for a in range(scratch[0], sum(scratch))):
            faults.append(f"{layer.name} overwrites its partial sums")
    return faults


@pytest.mark.parametrize("seed", range(60))
def test_random_stages_never_overlap(seed):
    rng = np.random.default_rng(seed)
    stage, chip = random_stage(rng, layers=8), random_chip(rng)
    allocation = allocate(stage, chip, random_mesh(rng))
    assert overlap_faults(stage, allocation) == []
    assert allocation.words_per_tile <= chip.fmm_words_per_tile
    for placed in allocation.maps.values():
        assert placed.base + placed.words_per_tile <= chip.fmm_words_per_tile
    for index, layer in enumerate(allocation.layers):
        source = allocation.maps[layer.input.name]
        others = [(allocation.scratch[index], allocation.scratch_words[index])]
        for m in (layer.output, *([layer.bypass] if layer.bypass else [])):
            others.append((allocation.maps[m.name].base, allocation.maps[m.name].words_per_tile))
        shared = any(
            banks(source.base, source.words_per_tile, chip.fmm_bank_depth) & banks(*o, chip.fmm_bank_depth)
            for o in others
        )
        assert shared == (index in allocation.conflicts)


def test_the_replay_finds_an_overlap():
    """Negative control of ``overlap_faults``."""
    stage = residual_stage((2,), 4, 4, 4)
    allocation = allocate(stage, PAPER, ONE)
    moved = {**allocation.maps, "g0b0.conv1": allocation.maps["input"]}
    faulty = Allocation(
        layers=allocation.layers,
        maps=moved,
        scratch=allocation.scratch,
        scratch_words=allocation.scratch_words,
        conflicts=(),
        live_words=allocation.live_words,
    )
    assert overlap_faults(stage, faulty)


@pytest.mark.parametrize("depth", [18, 34])
def test_resnet_fits_the_papers_chip_exactly(depth):
    stage = resnet(depth)
    allocation = allocate(stage, PAPER, ONE)
    assert allocation.words_per_tile == PAPER.fmm_words_per_tile == 8192
    assert allocation.conflicts == ()
    assert overlap_faults(stage, allocation) == []
    for layer in allocation.layers:
        if layer.bypass:
            assert allocation.maps[layer.output.name].base == allocation.maps[layer.bypass.name].base
    with pytest.raises(ModelError):
        allocate(stage, PAPER.replace(fmm_banks=7), ONE)


def test_the_stride_2_transition_splits_a_segment_in_two():
    """Paper section IV-A item 2: M1 holds the input, projection and first layer fill the halves of M2."""
    maps = allocate(resnet(18), PAPER, ONE).maps
    source, half, projected = maps["g0b1.conv2"], maps["g1b0.conv1"], maps["g1b0.proj"]
    assert source.words_per_tile == 4096
    assert {half.base, projected.base} == {(source.base + 4096) % 8192 + n for n in (0, 2048)}
    assert maps["g1b0.conv2"].base == projected.base


def test_either_order_of_projection_and_first_layer():
    stage = resnet(18)
    layers = list(stage.layers)
    for i, layer in enumerate(layers):
        if layer.name.endswith("proj"):
            layers[i - 1], layers[i] = layer, layers[i - 1]
    swapped = ChipStage(stage.name, stage.inputs, tuple(layers), stage.outputs)
    allocation = allocate(swapped, PAPER, ONE)
    assert allocation.conflicts == ()
    assert allocation.layers == swapped.layers  # the given order is kept where it fits


def test_layers_are_reordered_where_that_lowers_the_peak():
    """Three wide maps made early, each to be narrowed at once: only depth first fits."""
    rng = np.random.default_rng(0)
    source = FeatureMap("in", 1, 2, 2)
    wide = [random_conv(rng, source, f"wide{i}", 8, kernel=1) for i in range(3)]
    narrow = [random_conv(rng, w.output, f"narrow{i}", 1, kernel=1) for i, w in enumerate(wide)]
    chip = ChipConfig(lanes=2, tile_rows=2, tile_cols=2, fmm_banks=7, fmm_bank_depth=2, wbuf_depth=18)
    outputs = tuple(layer.output for layer in narrow)
    allocation = allocate(ChipStage("s", (source,), (*wide, *narrow), outputs), chip, ONE)
    order = [layer.name for layer in allocation.layers]
    assert order == ["wide0", "narrow0", "wide1", "narrow1", "wide2", "narrow2"]
    assert allocation.words_per_tile <= 12


def test_a_bypass_still_needed_or_read_is_not_overwritten():
    rng = np.random.default_rng(0)
    source = FeatureMap("in", 4, 4, 4)
    own = random_conv(rng, source, "own", 4, bypass=source)  # adds its own input
    again = random_conv(rng, own.output, "again", 4, bypass=source)  # the last reader
    stage = ChipStage("s", (source,), (own, again), (again.output,))
    allocation = allocate(stage, PAPER, ONE)
    assert allocation.maps["own"].base != allocation.maps["in"].base
    assert allocation.maps["again"].base == allocation.maps["in"].base
    assert allocation.conflicts == (0,)
    assert overlap_faults(stage, allocation) == []


def test_partial_sums_get_a_segment():
    rng = np.random.default_rng(0)
    source = FeatureMap("in", 8, 14, 14)
    layer = random_conv(rng, source, "c", 20)
    stage = ChipStage("s", (source,), (layer,), (layer.output,))
    assert allocate(stage, PAPER, ONE).scratch_words == (0,)
    small = PAPER.replace(wbuf_depth=63)
    allocation = allocate(stage, small, ONE)
    assert allocation.scratch_words == (16 * 4,)
    assert allocation.live_words == (4 * (8 + 20 + 16),)
    source = FeatureMap("in", 8, 7, 7)
    one_pixel = ChipStage("s", (source,), (random_conv(rng, source, "c", 2),), ())
    assert allocate(one_pixel, small, ONE).scratch_words == (16,)
    # A sum of q8.9 takes two words of q2.9, one of q7.2 three of q1.2.
    for name, parts in (("q2.9", 2), ("fp8_e4m3", 2), ("q1.2", 3), ("bf16", 1)):
        assert allocate(stage, small.replace(format=name), ONE).scratch_words == (16 * 4 * parts,)


def test_too_large_names_layer_words_and_remedy():
    with pytest.raises(ModelError) as error:
        allocate(resnet(34, 1024, 2048), PAPER, ONE)
    message = str(error.value)
    assert "'g0b0.conv1' needs 409600 words per tile (20070400 per chip)" in message
    assert "there are 8192 (401408)" in message
    assert "a mesh of 5x10 chips" in message


def test_remedies_hold():
    """The chip and the mesh that the message names do work, and nothing smaller of the kind."""
    stage = residual_stage((1,), 64, 16, 16)
    tiny = PRESETS["tiny"]
    with pytest.raises(ModelError, match="use a mesh of 2x2 chips or fmm_bank_depth = 1024") as error:
        allocate(stage, tiny, ONE)
    message = str(error.value)
    depth = int(message.split("fmm_bank_depth = ")[1])
    mesh = MeshConfig.parse(message.split("a mesh of ")[1].split()[0])
    allocate(stage, tiny.replace(fmm_bank_depth=depth), ONE)
    allocate(stage, tiny, mesh)
    with pytest.raises(ModelError):
        allocate(stage, tiny.replace(fmm_bank_depth=depth // 2), ONE)


def test_bottlenecks_need_a_larger_memory_and_no_mesh_helps():
    with pytest.raises(ModelError, match="fmm_bank_depth = 4096") as error:
        allocate(resnet(50), PAPER, ONE)
    assert "mesh of" not in str(error.value)
    assert allocate(resnet(50), PAPER.replace(fmm_bank_depth=4096), ONE).words_per_tile <= 8 * 4096


def test_deterministic():
    stage = random_stage(np.random.default_rng(9), layers=8)
    chip = random_chip(np.random.default_rng(9))
    first, second = allocate(stage, chip, ONE), allocate(stage, chip, ONE)
    assert first.maps == second.maps
    assert first.scratch == second.scratch


def test_a_stage_without_layers_is_refused():
    with pytest.raises(ModelError, match="no layers"):
        allocate(ChipStage("s", (), (), ()), PAPER, ONE)


def test_bank_masks():
    assert banks(0, 1024, 1024) == 0b1
    assert banks(1023, 2, 1024) == 0b11
    assert banks(2048, 2048, 1024) == 0b1100
    assert banks(5, 0, 1024) == 0
