"""The networks and the layer that the paper's tables are about, on the paper's chip, timed once."""

from functools import cache

import numpy as np

from ..compiler.emit import compile_stage
from ..compiler.ir import ChipProgram, ChipStage, FeatureMap
from ..config import MeshConfig
from ..presets import PRESETS
from .cycles import ProgramTiming, program_timing
from .memory import fmm_words
from .networks import random_conv, resnet
from .schedule import PaperSchedule, paper_schedule
from .traffic import border_bits, weight_bits

CHIP = PRESETS["paper"]
LARGE_MAP = (1024, 2048)  # rows and columns of the object detection images
LARGE_MESH = MeshConfig(rows=5, cols=10)


def table_one_stage(outputs: int = 64) -> ChipStage:
    """Table I's layer: 16 input FMs, a 3x3 kernel and tiles of 8x8 pixels on the paper's 7x7 tiles."""
    source = FeatureMap("input", 16, 56, 56)
    layer = random_conv(np.random.default_rng(1804), source, "layer", outputs)
    return ChipStage("table_one", (source,), (layer,), (layer.output,))


@cache
def _program(depth: int) -> ChipProgram:
    return compile_stage(resnet(depth), CHIP, MeshConfig())


@cache
def large_program() -> ChipProgram:
    """ResNet-34's body on the mesh for images of 2048x1024."""
    return compile_stage(resnet(34, *LARGE_MAP), CHIP, LARGE_MESH)


@cache
def resnet34_timing() -> ProgramTiming:
    """One image through ResNet-34's body on the paper's chip."""
    return program_timing(_program(34))


@cache
def resnet34_schedule() -> PaperSchedule:
    """The same in the paper's schedule."""
    return paper_schedule(resnet(34).layers, CHIP)


def weight_total(depth: int) -> int:
    """Binary weights of a ResNet's body."""
    return sum(weight_bits(layer) for layer in resnet(depth).layers)


def at_large(bits: int) -> int:
    """Bits of feature maps of 224x224 images, for the object detection images."""
    return bits * LARGE_MAP[0] * LARGE_MAP[1] // 224**2


def large_memory() -> int:
    """Bits of ResNet-34's worst-case layer at 2048x1024."""
    return at_large(fmm_words(_program(34)) * CHIP.word_width)


def large_border() -> int:
    """Bits that the chips of the mesh receive from their neighbours for an image of 2048x1024."""
    return border_bits(large_program())


def moved_bits(depth: int) -> int:
    """Table II's "all FMs": what the layers read and write, by the rule that gives the table's other rows.

    Inputs and outputs of every convolution but the projections, and the bypass of the blocks that do not
    halve the map; bottlenecks halve it in their first layer.
    """
    stage = resnet(depth, stride_first=True)
    made_by = {layer.output.name: layer for layer in stage.layers}
    words = 0
    for layer in stage.layers:
        if layer.name.endswith(".proj"):
            continue
        words += layer.input.words + layer.output.words
        if layer.bypass:
            maker = made_by.get(layer.bypass.name)
            words += layer.bypass.words if maker is None or maker.stride == 1 else 0
    return words * CHIP.word_width
