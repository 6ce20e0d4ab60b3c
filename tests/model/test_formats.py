"""Every number format and accumulator: layers, programs and a naive convolution in others' arithmetic."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperdrive_hdl import isa
from hyperdrive_hdl.arith.formats import FORMATS, format_by_name
from hyperdrive_hdl.compiler.compile import compile_model, compile_network
from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.compiler.ir import ChipStage, FeatureMap
from hyperdrive_hdl.compiler.pipeline import import_network
from hyperdrive_hdl.config import ChipConfig, MeshConfig
from hyperdrive_hdl.data import digits_images, digits_model
from hyperdrive_hdl.errors import ChipError, ModelError
from hyperdrive_hdl.model import layout
from hyperdrive_hdl.model.chip import run_program
from hyperdrive_hdl.model.layers import run_stage
from hyperdrive_hdl.model.network import run_network
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.simulate.network import simulate_network
from tests.support.chips import MINI, small_program
from tests.support.convolution import naive_stage
from tests.support.resnet import random_conv
from tests.support.stages import compile_on, random_chip, random_map, random_mesh, random_stage

NAMES = (*FORMATS, "q2.9", "q7.8", "q1.2")
KINDS = [(name, kind) for name in NAMES for kind in format_by_name(name).accumulators]
every_kind = pytest.mark.parametrize(("name", "kind"), KINDS)


def run(program, image: dict[str, np.ndarray]):
    parts = [
        layout.to_streams(image[load.map.map.name], load.map, program.chip, program.mesh)
        for load in program.loads
    ]
    streams = {at: np.concatenate([part[at] for part in parts]) for at in parts[0]}
    return run_program(program.words(1), program.chip, program.mesh, streams)


def drawn(seed: int, name: str, kind: str):
    rng = np.random.default_rng(seed)
    number_format = format_by_name(name)
    stage = random_stage(rng, layers=int(rng.integers(1, 5)), format=number_format)
    chip = random_chip(rng).replace(format=name, accumulator=kind, fmm_bank_depth=4096)
    special = float(rng.choice([0, 0, 0.02, 0.3]))
    image = {m.name: random_map(rng, m, special=special, format=number_format) for m in stage.inputs}
    return stage, compile_on(stage, chip, random_mesh(rng)), image


@every_kind
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_programs_and_layers_equal_the_naive_convolution(name, kind, seed):
    stage, program, image = drawn(seed, name, kind)
    chip = program.chip
    expected = naive_stage(stage, image, chip.wbuf_depth, name, kind)
    layers = run_stage(
        stage, image, wbuf_depth=chip.wbuf_depth, format=format_by_name(name), accumulator=kind
    )
    for picture, layer in zip(run(program, image).pictures, program.layers, strict=True):
        output = layer.conv.output.name
        np.testing.assert_array_equal(layers[output], expected[output], output)
        np.testing.assert_array_equal(picture.map, expected[output], output)
        assert picture.map.dtype == np.uint16


def test_random_stages_reach_the_cases_that_matter():
    """Blocks of input channels in tiles of one and of many pixels, all parameters, specials."""
    seen = dict.fromkeys(("blocks of one pixel", "blocks of many", "scale", "bias", "bypass", "stride"), 0)
    for seed in range(60):
        _, program, _ = drawn(seed, "q2.9", "sequential")
        for layer in program.layers:
            conv = layer.instruction
            seen["blocks of one pixel"] += conv.in_blocks > 1 and conv.pixels == 1
            seen["blocks of many"] += conv.in_blocks > 1 and conv.pixels > 1
            seen["scale"] += conv.scale
            seen["bias"] += conv.bias
            seen["bypass"] += conv.bypass
            seen["stride"] += conv.stride2
    assert min(seen.values()) >= 5, seen


def one_pixel(name: str, kind: str, channels: int = 4):
    """A 1x1 layer whose input channels come one per block, in tiles of one pixel."""
    number_format = format_by_name(name)
    source = FeatureMap("in", channels, 1, 1)
    conv = random_conv(
        np.random.default_rng(0), source, "out", 1, kernel=1, scale=False, bias=False, relu=False
    )
    conv.weights[:] = 1
    chip = MINI.replace(format=name, accumulator=kind, tile_cols=1, wbuf_depth=2)
    stage = ChipStage("stage", (source,), (conv,), (conv.output,))
    return stage, compile_stage(stage, chip, MeshConfig()), number_format


def test_a_block_ends_with_a_rounding():
    """2048 + 1 and 0.5 + 0.5 by blocks of two: exact sums are rounded once per block, not once in all."""
    stage, program, fp16 = one_pixel("fp16", "exact")
    image = {"in": fp16.encode(np.array([2048, 1, 0.5, 0.5])).reshape(4, 1, 1)}
    picture = run(program, image).pictures[0]
    assert picture.instruction.in_blocks == 2
    assert fp16.decode(picture.map) == 2048
    whole = run_stage(stage, image, wbuf_depth=4, format=fp16, accumulator="exact")["out"]
    assert fp16.decode(whole) == 2050
    halves = run_stage(stage, image, wbuf_depth=2, format=fp16, accumulator="exact")["out"]
    assert fp16.decode(halves) == 2048


@pytest.mark.parametrize(("name", "largest"), [("q2.9", 15.9921875), ("fp8_e4m3", 1792), ("q1.2", 7)])
def test_partial_sums_keep_what_a_stored_word_cannot(name, largest):
    """Four times the largest word, in scratch words of a tile of one pixel; then -1 for all but one."""
    _, program, number_format = one_pixel(name, "sequential")
    conv = program.layers[0].instruction
    assert conv.in_blocks == 2
    assert number_format.words_per_sum > 1
    result = run(program, {"in": number_format.encode(np.full((4, 1, 1), 1e6))})
    # The first block's sum, low part first, lane by lane.
    lanes = program.chip.lanes
    words = result.memory[0, 0, conv.scratch_base :][: lanes * number_format.words_per_sum]
    partial = number_format.sums.decode(number_format.join(words.reshape(lanes, -1).T))
    assert partial.tolist() == [largest / 2, -largest / 2]  # lane 1 has weights of 0: it subtracts
    assert number_format.decode(result.pictures[0].map) == number_format.largest


@every_kind
def test_segments_of_partial_sums_must_be_there(name, kind):
    _, program, number_format = one_pixel(name, kind)
    image = {"in": number_format.encode(np.ones((4, 1, 1)))}
    at = program.layers[0].instruction.scratch_base
    words = program.words(1)
    place = words.tolist().index(isa.header(isa.Opcode.CONV, len(isa.CONV_LAYOUT)))
    body = list(map(int, words[place + 1 : place + 1 + len(isa.CONV_LAYOUT)]))
    index = [name for word in isa.CONV_LAYOUT for name, _ in word[:1]].index("scratch_base")
    assert body[index] == at
    for base, message in (
        (program.chip.fmm_words_per_tile - 1, "ends beyond a tile's memory"),
        (program.layers[0].output.base, "overlap"),
    ):
        words[place + 1 + index] = base
        with pytest.raises(ChipError, match=message):
            run_program(words, program.chip, program.mesh, {(0, 0): image["in"].ravel()})


@pytest.mark.parametrize(
    "changes",
    [{"format": "bf16"}, {"format": "q7.8"}, {"accumulator": "exact"}, {"adder_latency": 2}],
    ids=str,
)
def test_a_program_for_another_chip_is_refused(changes):
    program, _, image = small_program(1)
    other = MINI.replace(**changes)
    with pytest.raises(ChipError, match="error CONFIG: the program was not made for chip 'mini'"):
        run_program(program.words(1), other, MeshConfig(), {(0, 0): np.zeros(0, np.uint16)})
    assert image


def test_words_of_fm_in_must_be_the_formats():
    program, _, image = small_program(1, MINI.replace(format="fp8_e4m3"))
    words = image["in"].transpose(1, 2, 0).ravel() | np.uint16(0x100)
    with pytest.raises(ValueError, match="fp8_e4m3 words must be integers of 8 bits"):
        run_program(program.words(1), program.chip, program.mesh, {(0, 0): words})


def test_a_network_for_another_format_is_refused():
    network = import_network(digits_model(), "fp16")
    chip = PRESETS["tiny"].replace(format="q2.9")
    with pytest.raises(ModelError, match=r"imported for format fp16, chip 'tiny' has q2\.9: import it for"):
        compile_network(network, chip)


@every_kind
def test_digits(name, kind):
    """The bundled network by layers and by programs; all formats but the narrowest keep its accuracy."""
    images, labels = (part[:30] for part in digits_images())
    chip = PRESETS["tiny"].replace(format=name, accumulator=kind)
    if name == "q1.2":
        chip = chip.replace(fmm_banks=16)
    compiled = compile_model(digits_model(), chip)
    reference = run_network(compiled.network, images, wbuf_depth=chip.wbuf_depth, accumulator=kind)
    accuracy = np.mean(reference.output.argmax(1) == labels)
    assert accuracy >= (0.97 if name != "q1.2" else 0.5)
    programs = simulate_network(compiled, images[:2], None)
    assert programs.comparison.mismatches == 0, programs.comparison.first
    np.testing.assert_array_equal(programs.output, reference.output[:2])


def test_chips_of_every_format_describe_themselves():
    seen = set()
    for name, kind in KINDS:
        chip = ChipConfig.from_dict(MINI.replace(format=name, accumulator=kind, adder_latency=3).to_dict())
        number_format = format_by_name(name)
        assert chip.word_width == number_format.width
        assert chip.parameter_width == max(number_format.sums.width, number_format.scales.width)
        assert chip.program_width >= max(16, chip.parameter_width, chip.lanes)
        assert chip.sums_in_turn == (3 if kind == "sequential" else 1)
        seen.add(chip.signature)
    assert len(seen) == len(KINDS)
