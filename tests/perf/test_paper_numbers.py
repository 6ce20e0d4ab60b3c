"""The paper's figures, recomputed from first principles, from compiled programs."""

import pytest

from hyperdrive_hdl.compiler.allocate import allocate
from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.config import MeshConfig
from hyperdrive_hdl.perf.memory import border_memory_bits, corner_memory_bits, fmm_words
from hyperdrive_hdl.perf.traffic import border_bits, input_bits, output_bits, weight_bits
from hyperdrive_hdl.presets import PRESETS
from tests.support.resnet import resnet

PAPER = PRESETS["paper"]


@pytest.mark.parametrize(
    ("depth", "layers", "weights", "macs"),
    [(18, 19, 11_157_504, 1_695_547_392), (34, 35, 21_258_240, 3_545_235_456)],
)
def test_resnet_at_224(depth, layers, weights, macs):
    program = compile_stage(resnet(depth), PAPER, MeshConfig())
    assert len(program.layers) == layers
    assert sum(weight_bits(step.conv) for step in program.layers) == weights
    assert sum(step.conv.macs for step in program.layers) == macs
    assert fmm_words(program) == 401_408
    assert border_bits(program) == 0
    assert input_bits(program) == 56 * 56 * 64 * 16
    assert output_bits(program) == 7 * 7 * 512 * 16


def test_resnet34_at_2048x1024_on_5x10_chips():
    program = compile_stage(resnet(34, 1024, 2048), PAPER, MeshConfig(rows=5, cols=10))
    # Ring words per channel of the four stages' maps, channels, maps read by a 3x3 layer: 301.6 Mbit.
    words = 8_848 * 64 * 7 + 4_496 * 128 * 8 + 2_320 * 256 * 12 + 1_232 * 512 * 5
    assert border_bits(program) == 16 * words == 301_580_288
    assert input_bits(program) == 134_217_728
    assert fmm_words(program) == 401_408


def test_resnet_weights_of_50():
    stem = 64 * 3 * 49
    assert sum(weight_bits(layer) for layer in resnet(50).layers) + stem == 23_454_912  # 23.5 M


def test_the_compiler_and_the_model_count_the_same_words():
    stage = resnet(34)
    program = compile_stage(stage, PAPER, MeshConfig())
    assert allocate(stage, PAPER, MeshConfig()).words_per_tile * PAPER.tiles == fmm_words(program)


def test_border_and_corner_memory():
    """A side of a 3x3 layer of ResNet-34 is 57,344 bits in every stage; four sides, input and output."""
    assert border_memory_bits(PAPER) == 2 * 4 * 57_344 == 458_752
    assert corner_memory_bits(PAPER) == 2 * 4 * 512 * 16 == 65_536
