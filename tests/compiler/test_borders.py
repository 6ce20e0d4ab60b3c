"""Border slots: every map that a 3x3 layer reads on a mesh has one, from its making to its last reader."""

import numpy as np
import pytest

from hyperdrive_hdl.compiler.borders import border_slots
from hyperdrive_hdl.compiler.compile import idle_chips
from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.compiler.ir import ChipStage, FeatureMap, PlacedLayer
from hyperdrive_hdl.config import ChipConfig, MeshConfig
from hyperdrive_hdl.errors import ModelError
from tests.support.resnet import random_conv, residual_stage
from tests.support.stages import compile_on, random_chip, random_stage

CHIP = ChipConfig(
    lanes=4, tile_rows=2, tile_cols=2, fmm_banks=4, fmm_bank_depth=256, wbuf_depth=36, link_width=4
)
MESH = MeshConfig(rows=2, cols=2)


def chain(kernels, *, channels=3, size=8):
    """Layers one after the other."""
    rng = np.random.default_rng(1)
    source = FeatureMap("in", channels, size, size)
    layers = []
    for index, kernel in enumerate(kernels):
        before = layers[-1].output if layers else source
        layers.append(random_conv(rng, before, f"l{index}", channels, kernel=kernel))
    return ChipStage("chain", (source,), tuple(layers), (layers[-1].output,))


def test_a_chain_alternates_and_one_by_one_layers_need_none():
    stage = chain([3, 3, 1, 3])
    borders = border_slots(["in"], stage.layers)
    assert {name: (b.slot, b.last_reader) for name, b in borders.items()} == {
        "in": (0, 0),
        "l0": (1, 1),
        "l2": (0, 3),
    }


def test_a_chip_alone_exchanges_nothing():
    program = compile_stage(residual_stage((1, 1), 4, 8, 8), CHIP, MeshConfig())
    for step in program.steps:
        assert not step.instruction.exports
        assert not getattr(step.instruction, "imports", 0)


@pytest.mark.parametrize("seed", range(30))
def test_slots_are_taken_once_and_released_by_the_last_reader(seed):
    """Followed through the program as the chip would, image after image."""
    rng = np.random.default_rng(seed)
    stage, chip = random_stage(rng), random_chip(rng)
    program = compile_on(stage, chip, MeshConfig(rows=2, cols=3))
    held: dict[int, str] = {}
    for _, index in program.sequence(3):
        step = program.steps[index]
        instruction = step.instruction
        if isinstance(step, PlacedLayer):
            reads = program.mesh.chips > 1 and step.conv.kernel == 3
            assert instruction.imports == reads
            if reads:
                assert held[instruction.import_slot] == step.input.map.name
        if instruction.exports:
            assert instruction.export_slot not in held
            made = step.output if isinstance(step, PlacedLayer) else step.map
            held[instruction.export_slot] = made.map.name
        if isinstance(step, PlacedLayer) and instruction.releases:
            del held[instruction.import_slot]
    assert not held


def test_a_load_ahead_waits_for_the_slot():
    """The next image is loaded beside the last layers, but not before they are done with its slot."""
    program = compile_stage(chain([3, 3, 1, 1]), CHIP, MESH)
    assert program.reload_after is not None
    load, *layers = program.steps[:-1]
    last = max(
        index
        for index, layer in enumerate(layers)
        if (layer.instruction.imports and layer.instruction.import_slot == load.instruction.export_slot)
        or (layer.instruction.exports and layer.instruction.export_slot == load.instruction.export_slot)
    )
    assert program.reload_after >= 1 + last


def test_three_borders_at_a_time_are_refused():
    rng = np.random.default_rng(0)
    source = FeatureMap("in", 2, 6, 6)
    first = random_conv(rng, source, "first", 2)
    second = random_conv(rng, first.output, "second", 2)
    joined = random_conv(rng, first.output, "joined", 2, bypass=second.output)
    last = random_conv(rng, source, "last", 2, bypass=joined.output)
    end = random_conv(rng, second.output, "end", 2, bypass=last.output)
    stage = ChipStage("s", (source,), (first, second, joined, last, end), (end.output,))
    with pytest.raises(
        ModelError, match=r"'second' makes 'second' while .* 'in' and 'first'.* 2 maps at a time"
    ):
        border_slots(["in"], stage.layers)
    with pytest.raises(ModelError, match="2 maps at a time"):
        compile_stage(stage, CHIP, MESH)
    assert compile_stage(stage, CHIP, MeshConfig())


def test_chips_without_links_and_borders_too_long_are_refused():
    with pytest.raises(ModelError, match=r"'in', chip 'custom' has none; use link_width = 4"):
        compile_stage(chain([3]), CHIP.replace(link_width=0), MESH)
    assert compile_stage(chain([1]), CHIP.replace(link_width=0), MESH)  # which needs no border
    with pytest.raises(ModelError, match=r"'in' has 6 border words .* keeps 4; use border_depth = 8 or"):
        compile_stage(chain([3]), CHIP.replace(border_depth=4), MESH)
    assert compile_stage(chain([3]), CHIP.replace(border_depth=8), MESH)


def test_chips_without_a_pixel_are_named():
    """8x8 pixels on 6x6 tiles are tiles of 2x2: four of the six rows and columns of tiles have pixels."""
    stage = chain([3])
    program = compile_stage(stage, CHIP, MeshConfig(rows=3, cols=3))
    [note] = idle_chips([program], CHIP, MeshConfig(rows=3, cols=3))
    assert note.startswith("5 of the 9 chips of mesh 3x3 have no pixel of any map: (0, 2), (1, 2), (2, 0), ")
    assert note.endswith("a mesh of 2x2 gives the same result")
    assert not idle_chips([compile_stage(stage, CHIP, MESH)], CHIP, MESH)
