"""The interpreter runs compiled programs exactly as a naive convolution computes them."""

from dataclasses import replace

import numpy as np
import pytest

from hyperdrive_hdl import isa
from hyperdrive_hdl.arith.formats import format_by_name
from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.compiler.ir import ChipProgram, ChipStage, FeatureMap
from hyperdrive_hdl.config import ChipConfig, MeshConfig
from hyperdrive_hdl.errors import ChipError
from hyperdrive_hdl.isa import Opcode
from hyperdrive_hdl.model import layout
from hyperdrive_hdl.model.chip import ChipRun, run_program
from hyperdrive_hdl.model.layers import run_stage
from hyperdrive_hdl.presets import PRESETS
from tests.support.convolution import naive_stage
from tests.support.resnet import random_conv, residual_stage, resnet
from tests.support.stages import compile_on, random_chip, random_map, random_mesh, random_stage

SMALL = ChipConfig(
    name="small",
    lanes=4,
    tile_rows=2,
    tile_cols=2,
    fmm_banks=4,
    fmm_bank_depth=256,
    wbuf_depth=36,
    link_width=4,
)


def streams(program: ChipProgram, images: list[dict[str, np.ndarray]]) -> layout.Chips:
    """``fm_in`` of every chip for a series of images."""
    parts = [
        layout.to_streams(image[load.map.map.name], load.map, program.chip, program.mesh)
        for image in images
        for load in program.loads
    ]
    return {at: np.concatenate([part[at] for part in parts]) for at in parts[0]}


def run(program: ChipProgram, images: list[dict[str, np.ndarray]]) -> ChipRun:
    return run_program(program.words(len(images)), program.chip, program.mesh, streams(program, images))


def check(program: ChipProgram, stage: ChipStage, images: list[dict[str, np.ndarray]]) -> None:
    """Every layer's picture and every stored map, of every image, against the naive convolution."""
    result = run(program, images)
    pictures = iter(result.pictures)
    taken = dict.fromkeys(result.outputs, 0)
    for image in images:
        expected = naive_stage(stage, image, program.chip.wbuf_depth)
        for layer in program.layers:
            picture = next(pictures)
            assert picture.instruction == layer.instruction
            np.testing.assert_array_equal(picture.map, expected[layer.conv.output.name], layer.conv.name)
        for store in program.stores:
            parts = {}
            for at, stream in result.outputs.items():
                count = layout.to_stream(expected[store.map.map.name], store.map, program.chip, *at).size
                parts[at] = stream[taken[at] : taken[at] + count]
                taken[at] += count
            found = layout.from_streams(parts, store.map, program.chip, program.mesh)
            np.testing.assert_array_equal(found, expected[store.map.map.name])
    assert next(pictures, None) is None
    assert taken == {at: len(stream) for at, stream in result.outputs.items()}


@pytest.mark.parametrize("seed", range(60))
def test_random_stages_equal_the_naive_convolution(seed):
    rng = np.random.default_rng(seed)
    stage = random_stage(rng, layers=int(rng.integers(1, 7)))
    program = compile_on(stage, random_chip(rng), random_mesh(rng))
    images = [
        {m.name: random_map(rng, m, special=0.01 if seed % 4 == 0 else 0) for m in stage.inputs}
        for _ in range(2)
    ]
    check(program, stage, images)


@pytest.mark.parametrize("mesh", [MeshConfig(), MeshConfig(rows=2), MeshConfig(rows=2, cols=3)])
@pytest.mark.parametrize("bottleneck", [False, True])
def test_residual_networks(mesh, bottleneck):
    chip = SMALL.replace(fmm_bank_depth=1024, wbuf_depth=40)
    stage = residual_stage((1, 2, 1), 4, 11, 9, bottleneck=bottleneck)
    rng = np.random.default_rng(1)
    check(compile_on(stage, chip, mesh), stage, [{m.name: random_map(rng, m) for m in stage.inputs}])


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [MeshConfig(), MeshConfig(rows=2, cols=2)])
def test_resnet18_at_224_equals_the_reference_layers(mesh):
    """The whole network on the paper's chip, against the model that works layer by layer."""
    chip = PRESETS["paper"]
    stage = resnet(18)
    image = {"input": random_map(np.random.default_rng(2), stage.inputs[0])}
    program = compile_on(stage, chip, mesh)
    expected = run_stage(stage, image, wbuf_depth=chip.wbuf_depth, format=format_by_name(chip.format))
    for picture, layer in zip(run(program, [image]).pictures, program.layers, strict=True):
        np.testing.assert_array_equal(picture.map, expected[layer.conv.output.name], layer.conv.name)


def test_random_stages_reach_the_cases_that_matter():
    """The seeds above cover what they are meant to: each case occurs in several of them."""
    seen = dict.fromkeys(
        ("in_place", "elsewhere", "stride", "groups", "in_blocks", "scratch", "beyond", "stores"), 0
    )
    for seed in range(60):
        rng = np.random.default_rng(seed)
        stage = random_stage(rng, layers=int(rng.integers(1, 7)))
        program = compile_on(stage, random_chip(rng), random_mesh(rng))
        grid = program.mesh.rows * program.chip.tile_rows
        for layer in program.layers:
            conv = layer.instruction
            seen["in_place"] += bool(conv.bypass) and conv.bypass_base == conv.out_base
            seen["elsewhere"] += bool(conv.bypass) and conv.bypass_base != conv.out_base
            seen["stride"] += conv.stride2
            seen["groups"] += conv.groups > 1
            seen["in_blocks"] += conv.in_blocks > 1
            seen["scratch"] += conv.in_blocks > 1 and conv.pixels > 1
            seen["beyond"] += conv.full_rows + (conv.rest_rows > 0) < grid
        seen["stores"] += len(program.stores) > 1
    assert min(seen.values()) >= 5, seen


@pytest.fixture
def small():
    rng = np.random.default_rng(3)
    stage = residual_stage((1,), 6, 5, 4)
    image = {m.name: random_map(rng, m) for m in stage.inputs}
    return compile_stage(stage, SMALL, MeshConfig()), stage, image


def packets(words: np.ndarray, opcode: Opcode) -> list[int]:
    """Positions of the headers of one kind."""
    found, at = [], 0
    while at < len(words):
        kind, operand = int(words[at]) >> isa.OPERAND_BITS, int(words[at]) & 0x1FFF
        found += [at] if kind == opcode else []
        at += 1 + (SMALL.lanes * operand.bit_count() if kind == Opcode.PARAMS else operand)
    return found


def test_every_flipped_weight_row_changes_the_result(small):
    """Negative control: no row of weights is unused."""
    program, _, image = small
    expected = run(program, [image])
    words = program.words()
    for at in packets(words, Opcode.WEIGHTS):
        count = int(words[at]) & 0x1FFF
        for row in (at + 1, at + count):
            changed = words.copy()
            changed[row] ^= np.uint64(1)
            result = run_program(changed, program.chip, program.mesh, streams(program, [image]))
            assert any(
                (a.map != b.map).any() for a, b in zip(result.pictures, expected.pictures, strict=True)
            ), row


def test_every_flipped_instruction_bit_is_felt(small):
    """Negative control: any bit of a header or an instruction changes the result or is refused.

    Fences are left out, for the interpreter runs one instruction after another.
    """
    program, _, image = small
    expected = run(program, [image])
    words = program.words()
    bodies = {
        Opcode.LOAD: isa.TRANSFER_LAYOUT,
        Opcode.STORE: isa.TRANSFER_LAYOUT,
        Opcode.CONV: isa.CONV_LAYOUT,
    }
    unfelt, tried = [], 0
    for opcode, body in bodies.items():
        for at in packets(words, opcode):
            for word, fields in enumerate(body):
                bit = 0
                for name, bits in fields:
                    for _ in range(bits):
                        changed = words.copy()
                        changed[at + 1 + word] ^= np.uint64(1 << bit)
                        bit += 1
                        if name.startswith("wait_"):
                            continue
                        tried += 1
                        try:
                            result = run_program(changed, SMALL, program.mesh, streams(program, [image]))
                        except ChipError:
                            continue
                        same = np.array_equal(result.outputs[0, 0], expected.outputs[0, 0])
                        if same and (result.memory == expected.memory).all():
                            unfelt.append((opcode.name, name, bit))
    assert tried > 500
    unused = {("CONV", "bypass_base"), ("CONV", "scratch_base"), ("CONV", "block_channels")}
    assert {(opcode, name) for opcode, name, _ in unfelt} <= unused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w[1:], "error CONFIG"),
        (lambda w: np.r_[w[:1], w[1] ^ np.uint64(1), w[2:]], "error CONFIG"),
        (lambda w: np.r_[w[:3], w[3] ^ np.uint64(256), w[4:]], "error CONFIG"),
        (lambda w: np.r_[w[:4], np.uint64(0), w[4:]], "error OPCODE"),
        (lambda w: np.r_[w[:4], w[4] + np.uint64(1), w[5:]], "error OPCODE"),
        (lambda w: np.r_[w[:-1], w[-1] + np.uint64(1)], "error OPCODE"),
        (
            lambda w: np.r_[w[:-1], np.uint64(isa.header(Opcode.WEIGHTS, 1)), np.uint64(0), w[-1]],
            "error LEFTOVER",
        ),
        (lambda w: w[:-1], "without HALT"),
        (lambda w: w[:-4], "within the packet"),
    ],
)
def test_malformed_streams_are_refused(small, change, message):
    program, _, image = small
    with pytest.raises(ChipError, match=message):
        run_program(change(program.words()), program.chip, program.mesh, streams(program, [image]))


def test_a_program_for_another_chip_is_refused(small):
    program, _, image = small
    with pytest.raises(ChipError, match="error CONFIG"):
        run_program(program.words(), SMALL.replace(wbuf_depth=37), program.mesh, streams(program, [image]))


def test_too_few_and_too_many_inputs_are_refused(small):
    program, _, image = small
    inputs = streams(program, [image])[0, 0]
    with pytest.raises(ChipError, match="waits for more"):
        run_program(program.words(), SMALL, program.mesh, {(0, 0): inputs[:-1]})
    with pytest.raises(ChipError, match="1 words of fm_in were never loaded"):
        run_program(program.words(), SMALL, program.mesh, {(0, 0): np.r_[inputs, inputs[:1]]})


def test_two_programs_in_one_stream(small):
    program, _, image = small
    once = run(program, [image])
    words = np.concatenate([program.words(), program.words()])
    twice = run_program(words, SMALL, program.mesh, streams(program, [image, image]))
    np.testing.assert_array_equal(twice.outputs[0, 0], np.tile(once.outputs[0, 0], 2))


def test_a_mesh_computes_what_one_big_chip_computes():
    rng = np.random.default_rng(5)
    stage = residual_stage((1, 1), 4, 11, 13)
    image = {m.name: random_map(rng, m) for m in stage.inputs}
    big = SMALL.replace(tile_rows=6, tile_cols=4, fmm_bank_depth=1024)
    mesh = MeshConfig(rows=3, cols=2)
    one = compile_stage(stage, big, MeshConfig())
    many = compile_stage(stage, big.replace(tile_rows=2, tile_cols=2), mesh)
    for alone, meshed in zip(
        one.steps, many.steps, strict=True
    ):  # but for borders, and fences that wait for them
        a, b = vars(alone.instruction), vars(meshed.instruction)
        own = {name for name in a if "port" not in name and not name.startswith(("wait_", "releases"))}
        assert {name: a[name] for name in own} == {name: b[name] for name in own}
    np.testing.assert_array_equal(run(one, [image]).memory, run(many, [image]).memory)


def test_layout_round_trip():
    rng = np.random.default_rng(6)
    for _ in range(20):
        chip, mesh = random_chip(rng), random_mesh(rng)
        shape = FeatureMap("m", *(int(n) for n in rng.integers(1, 12, 3)))
        program = compile_stage(
            ChipStage(
                "s", (shape,), (random_conv(rng, shape, "o", 2),), (FeatureMap("o", 2, *shape.shape[1:]),)
            ),
            chip,
            mesh,
        )
        placed = replace(program.loads[0].map, base=3)
        bits = rng.integers(0, 1 << 16, shape.shape, dtype=np.uint16)
        parts = layout.to_streams(bits, placed, chip, mesh)
        assert sum(map(len, parts.values())) == bits.size
        np.testing.assert_array_equal(layout.from_streams(parts, placed, chip, mesh), bits)
        memory = layout.empty_memory(chip, mesh)
        layout.write_map(memory, placed, bits)
        np.testing.assert_array_equal(layout.read_map(memory, placed), bits)
        # Word by word, as isa.py says.
        c, y, x = (int(rng.integers(n)) for n in shape.shape)
        address = 3 + (y % placed.tile_h * placed.tile_w + x % placed.tile_w) * shape.channels + c
        assert memory[y // placed.tile_h, x // placed.tile_w, address] == bits[c, y, x]
