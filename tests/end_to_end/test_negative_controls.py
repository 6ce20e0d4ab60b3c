"""The comparison notices: a flipped weight, a flipped program word, taps in another order."""

import dataclasses

import numpy as np
import pytest

import hyperdrive_hdl.model.layers as reference
from hyperdrive_hdl import isa
from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.compiler.ir import ChipStage, FeatureMap
from hyperdrive_hdl.config import MeshConfig
from hyperdrive_hdl.errors import ChipError
from tests.support.resnet import random_conv
from tests.support.simulated import CHIPS, random_inputs, run_and_compare

CHIP = CHIPS[0]


@pytest.fixture
def stage() -> ChipStage:
    rng = np.random.default_rng(7)
    first = random_conv(rng, FeatureMap("in", 8, 5, 5), "first", 9, kernel=3, scale=True, bias=True)
    second = random_conv(rng, first.output, "second", 8, kernel=3, scale=True)
    return ChipStage("stage", (first.input,), (first, second), (second.output,))


def altered(program, index: int, mask: int):
    words = np.concatenate(program.packets)
    words[index] ^= np.uint64(mask)
    ends = np.cumsum([len(packet) for packet in program.packets])
    return dataclasses.replace(program, packets=tuple(np.split(words, ends[:-1])))


def mismatches(stage, program=None) -> int:
    inputs = random_inputs(np.random.default_rng(8), stage, 1)
    return run_and_compare(stage, CHIP, inputs, program=program)[1].mismatches


def packets(body: np.ndarray, opcode: isa.Opcode, length) -> list[int]:
    """Indices of headers of a kind, found by walking the stream."""
    at, found = 0, []
    while at < len(body):
        kind, operand = int(body[at]) >> isa.OPERAND_BITS, int(body[at]) & ((1 << isa.OPERAND_BITS) - 1)
        if kind == opcode:
            found.append(at)
        at += 1 + length(kind, operand)
    return found


def packet_length(kind: int, operand: int) -> int:
    return operand.bit_count() * CHIP.lanes if kind == isa.Opcode.PARAMS else operand


def test_untouched_program_is_equal(stage):
    assert mismatches(stage) == 0


def test_flipped_weight_bit(stage):
    program = compile_stage(stage, CHIP, MeshConfig())
    headers = packets(np.concatenate(program.packets), isa.Opcode.WEIGHTS, packet_length)
    assert len(headers) == 6  # 9 and 8 output FMs by 3 lanes
    for header in headers:
        assert mismatches(stage, altered(program, header + 5, 1)) > 0


# Fields that a layer without bypass or groups, with one block of input channels, on a chip without links does
# not use; pixels are counted by rows and columns, their number is for stored partial sums.
UNUSED = {"bypass_base", "scratch_base", "block_channels", "group_channels", "in_last_edge", "pixels"}
FIRST_FIELDS = [word[0][0] for word in isa.CONV_LAYOUT]
# A row of pixels too many goes unseen beyond the map: take the tile's width, in the same word.
MASKS = {1 + FIRST_FIELDS.index("tile_h"): 1 << 8}


@pytest.mark.parametrize("word", [0] + [1 + i for i, name in enumerate(FIRST_FIELDS) if name not in UNUSED])
def test_flipped_program_word(stage, word):
    """One bit of the header, or of a word of the descriptor: the result differs, or the chip stops."""
    program = compile_stage(stage, CHIP, MeshConfig())
    assert program.layers[0].instruction.in_blocks == 1
    header = packets(np.concatenate(program.packets), isa.Opcode.CONV, packet_length)[0]
    try:
        found = mismatches(stage, altered(program, header + word, MASKS.get(word, 1)))
    except ChipError:
        return
    assert found > 0


def test_broken_tap_order(stage, monkeypatch):
    """Columns before rows: the same terms in another order round differently."""
    in_order = reference.term_order
    monkeypatch.setattr(
        reference,
        "term_order",
        lambda conv, depth: [
            sorted(block, key=lambda term: (term[2], term[1], term[0])) for block in in_order(conv, depth)
        ],
    )
    assert mismatches(stage) > 0
