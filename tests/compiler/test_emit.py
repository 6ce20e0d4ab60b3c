"""Programs: fields, fences, weights and parameters as isa.py says; sizes that do not fit are refused."""

from dataclasses import replace

import numpy as np
import pytest

from hyperdrive_hdl import isa
from hyperdrive_hdl.arith.formats import format_by_name
from hyperdrive_hdl.compiler.emit import access, compile_stage
from hyperdrive_hdl.compiler.ir import ChipStage, FeatureMap
from hyperdrive_hdl.config import ChipConfig, MeshConfig
from hyperdrive_hdl.errors import ModelError
from hyperdrive_hdl.isa import Opcode
from hyperdrive_hdl.model.decode import Load, Store, decode
from hyperdrive_hdl.perf.memory import scratch_words
from hyperdrive_hdl.presets import PRESETS
from tests.support.hazards import unordered
from tests.support.resnet import random_conv, residual_stage
from tests.support.stages import compile_on, random_chip, random_mesh, random_stage

ONE = MeshConfig()
CHIP = ChipConfig(lanes=4, tile_rows=2, tile_cols=2, fmm_banks=4, fmm_bank_depth=256, wbuf_depth=36)


def one_layer(channels: int, outputs: int, **options) -> ChipStage:
    source = FeatureMap("in", channels, 5, 6)
    layer = random_conv(np.random.default_rng(1), source, "c", outputs, **options)
    return ChipStage("s", (source,), (layer,), (layer.output,))


def test_packets_and_weight_rows_one_by_one():
    """A grouped layer in blocks of 3 + 1 input channels and 4 + 1 output FMs, word by word."""
    chip = CHIP.replace(wbuf_depth=27)
    stage = one_layer(8, 10, groups=2)
    layer = stage.layers[0]
    program = compile_stage(stage, chip, ONE)
    conv = program.layers[0].instruction
    assert (conv.groups, conv.group_channels, conv.out_blocks, conv.last_lanes) == (2, 4, 2, 1)
    assert (conv.in_blocks, conv.block_channels, conv.last_channels) == (2, 3, 1)
    words = list(np.concatenate(program.packets))
    expected = [isa.header(Opcode.LOAD, len(isa.TRANSFER_LAYOUT)), *program.loads[0].instruction.encode()]
    expected += [isa.header(Opcode.CONV, len(isa.CONV_LAYOUT)), *conv.encode()]
    for group in range(2):
        for block in ([0, 1, 2, 3], [4]):
            outputs = [group * 5 + b for b in block]
            unused = [0] * (4 - len(block))
            expected += [isa.header(Opcode.PARAMS, 0b11), *layer.scale[outputs], *unused]
            expected += [*layer.bias[outputs], *unused]
            for channels in ([0, 1, 2], [3]):
                expected += [isa.header(Opcode.WEIGHTS, 9 * len(channels))]
                for dy, dx in np.ndindex(3, 3):
                    for c in channels:
                        bits = [int(layer.weights[o, c, dy, dx] == 1) for o in outputs]
                        expected += [sum(bit << lane for lane, bit in enumerate(bits))]
    expected += [isa.header(Opcode.STORE, len(isa.TRANSFER_LAYOUT)), *program.stores[0].instruction.encode()]
    assert words == expected


def test_head_and_tail():
    program = compile_stage(one_layer(3, 5), CHIP, ONE)
    signature = CHIP.signature
    head = [isa.header(Opcode.CONFIG, 3), isa.MAGIC, signature & 0xFFFF, signature >> 16]
    assert list(program.head) == head
    assert list(program.tail) == [isa.header(Opcode.HALT)]
    image = np.concatenate(program.packets)
    assert list(program.words(2)) == [*head, *image, *image, *program.tail]


def test_the_next_image_is_loaded_beside_the_layers_that_leave_its_memory_alone():
    chip = CHIP.replace(fmm_banks=8, fmm_bank_depth=64, wbuf_depth=900)
    program = compile_stage(residual_stage((1, 1), 4, 8, 8), chip, ONE)
    index = program.reload_after
    assert index is not None
    load = program.loads[0].map
    home = range(load.base, load.base + load.words_per_tile)

    def in_home(step) -> bool:
        maps = (step.input, step.output, step.bypass) if step in program.layers else (step.map,)
        return any(m and m.base < home.stop and m.base + m.words_per_tile > home.start for m in maps)

    assert in_home(program.steps[index])
    assert not any(in_home(step) for step in program.steps[index + 1 :])
    steps = [step for _, step in program.sequence(2)]
    assert steps[: index + 2] == [*range(index + 1), 0]
    assert steps.count(0) == 2
    assert sorted(program.sequence(2)) == [(i, s) for i in range(2) for s in range(len(program.steps))]


@pytest.mark.parametrize(("scale", "bias"), [(False, False), (True, False), (False, True), (True, True)])
def test_parameters_are_sent_where_there_are_any(scale, bias):
    program = compile_stage(one_layer(3, 9, scale=scale, bias=bias), CHIP, ONE)
    [decoded] = decode(program.words(), CHIP)
    assert decoded.params.left == (3 if scale or bias else 0)
    conv = program.layers[0].instruction
    assert (conv.scale, conv.bias, conv.has_params) == (scale, bias, scale or bias)


def test_wide_weight_rows():
    chip = CHIP.replace(lanes=64)
    stage = one_layer(1, 64, kernel=1)
    program = compile_stage(stage, chip, ONE)
    [decoded] = decode(program.words(), chip)
    row = int(decoded.rows.take(1)[0])
    assert [row >> k & 1 for k in range(64)] == [int(w == 1) for w in stage.layers[0].weights[:, 0, 0, 0]]


def test_true_pixels_of_an_odd_map():
    program = compile_stage(one_layer(3, 5, stride=2), CHIP.replace(link_width=4), MeshConfig(rows=2, cols=1))
    conv, load = program.layers[0].instruction, program.loads[0].instruction
    # 5 x 6 on 4 x 2 tiles of 2 x 4; output 3 x 3 on tiles of 1 x 2.
    assert (load.tile_h, load.tile_w, load.full_rows, load.rest_rows) == (2, 4, 2, 1)
    assert (load.full_cols, load.rest_cols, load.row_stride) == (1, 2, 12)
    assert (conv.tile_h, conv.tile_w, conv.full_rows, conv.rest_rows) == (1, 2, 3, 0)
    assert (conv.full_cols, conv.rest_cols, conv.pixels) == (1, 1, 2)
    assert (conv.in_row_stride, conv.in_last_row, conv.in_last_col) == (12, 12, 9)


def test_instructions_decode_to_what_was_placed():
    program = compile_stage(residual_stage((1, 1), 4, 6, 5), CHIP, ONE)
    [decoded] = decode(program.words(), CHIP)
    expected = [
        step.instruction
        if step in program.layers
        else (Load if step in program.loads else Store)(step.instruction)
        for step in program.steps
    ]
    assert decoded.instructions == expected


@pytest.mark.parametrize("seed", range(60))
def test_fences_cover_every_hazard(seed):
    rng = np.random.default_rng(seed)
    number_format = format_by_name(("fp16", "q2.9", "q1.2")[seed % 3])
    stage = random_stage(rng, layers=int(rng.integers(1, 9)), format=number_format)
    chip = random_chip(rng).replace(format=number_format.name)
    [decoded] = decode(compile_on(stage, chip, random_mesh(rng)).words(3), chip)
    assert unordered(decoded.instructions, chip.lanes, number_format.words_per_sum) == []


@pytest.mark.parametrize(("name", "parts"), [("fp16", 1), ("fp8_e4m3", 2), ("q2.9", 2), ("q1.2", 3)])
@pytest.mark.parametrize("size", [1, 2, 6])
def test_partial_sums_are_memory_that_a_layer_writes(name, parts, size):
    """Of tiles of one pixel too; in as many words as a sum has."""
    chip = CHIP.replace(format=name, wbuf_depth=9)
    source = FeatureMap("in", 3, size, size)
    layer = random_conv(np.random.default_rng(0), source, "out", 5, format=chip.number_format)
    program = compile_stage(ChipStage("stage", (source,), (layer,), (layer.output,)), chip, ONE)
    step, pixels = program.layers[0], (-(-size // 2)) ** 2
    base = step.instruction.scratch_base
    segment = (base, base + 4 * pixels * parts)
    assert segment in access(step, chip).writes
    assert scratch_words(step, chip) == 4 * pixels * parts
    for placed in (step.input, step.output):
        assert segment[1] <= placed.base or placed.base + placed.words_per_tile <= segment[0]
    whole = compile_stage(
        ChipStage("stage", (source,), (layer,), (layer.output,)), chip.replace(wbuf_depth=27), ONE
    )
    assert len(access(whole.layers[0], chip).writes) == 1
    assert scratch_words(whole.layers[0], chip) == 0


@pytest.mark.parametrize(("blocks", "banks"), [((1,), 2), ((2, 2), 2), ((3, 4, 6, 3), 8)])
def test_fences_of_residual_networks_in_a_tight_memory(blocks, banks):
    chip = CHIP.replace(fmm_banks=banks, fmm_bank_depth=64, wbuf_depth=900)
    stage = residual_stage(blocks, 4, 8, 8)
    [decoded] = decode(compile_stage(stage, chip, ONE).words(3), chip)
    assert unordered(decoded.instructions, chip.lanes) == []


def test_the_checker_finds_a_missing_fence():
    """Negative control: without its fences, or with any one weakened, a load-compute-store body races."""
    [decoded] = decode(compile_stage(one_layer(3, 5), CHIP, ONE).words(3), CHIP)
    steps = decoded.instructions
    assert unordered(steps, CHIP.lanes) == []
    load, conv, store = steps[3:6]
    for index, changed in (
        (3, Load(replace(load.instruction, wait_convs=isa.NO_WAIT))),
        (4, replace(conv, wait_loads=1)),
        (4, replace(conv, wait_stores=1)),
        (5, Store(replace(store.instruction, wait_convs=isa.NO_WAIT))),
    ):
        assert unordered([*steps[:index], changed, *steps[index + 1 :]], CHIP.lanes), changed


def test_a_load_waits_for_the_image_before():
    """Only the first of three layers reads the input: the next image is loaded as soon as that is done."""
    rng = np.random.default_rng(0)
    source = FeatureMap("in", 4, 8, 8)
    first = random_conv(rng, source, "a", 4)
    second = random_conv(rng, first.output, "b", 4)
    third = random_conv(rng, second.output, "c", 4)
    stage = ChipStage("s", (source,), (first, second, third), (third.output,))
    roomy = CHIP.replace(fmm_banks=8)
    program = compile_stage(stage, roomy, ONE)
    load, convs, store = program.loads[0].instruction, program.layers, program.stores[0].instruction
    assert load.wait_transfers == isa.NO_WAIT
    assert program.reload_after == 1
    assert load.wait_convs == 0  # of those before it in the stream: the first layer
    assert convs[0].instruction.wait_loads == 0
    assert store.wait_convs == 0


def test_one_kernel_must_fit_the_weight_buffer():
    with pytest.raises(ModelError, match=r"'c'.*9 rows.*wbuf_depth = 9"):
        compile_stage(one_layer(3, 5), CHIP.replace(wbuf_depth=8), ONE)
    compile_stage(one_layer(3, 5, kernel=1), CHIP.replace(wbuf_depth=8), ONE)


def test_fields_that_overflow_name_the_layer():
    source = FeatureMap("in", 1, 1, 600)
    layer = random_conv(np.random.default_rng(0), source, "long", 1)
    stage = ChipStage("s", (source,), (layer,), (layer.output,))
    chip = PRESETS["tiny"].replace(tile_cols=1)
    with pytest.raises(ModelError, match=r"input 'in'.*tile_w = 600 does not fit"):
        compile_stage(stage, chip, ONE)
