"""Random chip stages: odd sizes, strides, groups, bypasses of all kinds, several inputs and outputs."""

import numpy as np

from hyperdrive_hdl.arith.formats import FP16, Format
from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.compiler.ir import BinaryConv, ChipProgram, ChipStage, FeatureMap
from hyperdrive_hdl.config import ChipConfig, MeshConfig
from hyperdrive_hdl.errors import ModelError

from .resnet import random_conv


def random_chip(rng: np.random.Generator) -> ChipConfig:
    """A small chip with plenty of memory and, often, a weight buffer that splits the input channels."""
    return ChipConfig(
        name="random",
        lanes=int(rng.integers(1, 7)),
        tile_rows=int(rng.integers(1, 4)),
        tile_cols=int(rng.integers(1, 4)),
        fmm_banks=int(rng.integers(3, 9)),
        fmm_bank_depth=1024,
        wbuf_depth=int(rng.choice([9, 18, 30, 64, 600])),
        link_width=4,
    )


def random_mesh(rng: np.random.Generator) -> MeshConfig:
    return MeshConfig(rows=int(rng.integers(1, 4)), cols=int(rng.integers(1, 4)))


def compile_on(stage: ChipStage, chip: ChipConfig, mesh: MeshConfig) -> ChipProgram:
    """Compile for the mesh, or for one chip where the stage needs more borders than chips of a mesh keep."""
    try:
        return compile_stage(stage, chip, mesh)
    except ModelError as error:
        if "the borders of" not in str(error):
            raise
        return compile_stage(stage, chip, MeshConfig())


def random_stage(rng: np.random.Generator, layers: int = 5, format: Format = FP16) -> ChipStage:
    """A random graph of layers; every map that no layer reads is an output, and now and then another."""
    height, width = (int(n) for n in rng.integers(1, 14, 2))
    shapes = [int(rng.integers(1, 9)) for _ in range(int(rng.integers(1, 3)))]
    inputs = tuple(FeatureMap(f"in{i}", channels, height, width) for i, channels in enumerate(shapes))
    levels = {m.name: 0 for m in inputs}
    maps, made = list(inputs), list[BinaryConv]()
    for index in range(layers):
        # One-pixel maps would let paths of different strides meet in one shape.
        source = maps[int(rng.integers(max(0, len(maps) - 2), len(maps)))]
        stride = 2 if rng.random() < 0.3 and levels[source.name] < 2 else 1
        level = levels[source.name] + stride - 1
        groups = int(rng.choice([g for g in (1, 1, 2, 3) if source.channels % g == 0]))
        shape = -(-source.height // stride), -(-source.width // stride)
        fits = [
            m for m in maps if levels[m.name] == level and m.shape[1:] == shape and m.channels % groups == 0
        ]
        bypass = fits[int(rng.integers(len(fits)))] if fits and rng.random() < 0.6 else None
        channels = bypass.channels if bypass else groups * int(rng.integers(1, 10))
        layer = random_conv(
            rng,
            source,
            f"layer{index}",
            channels,
            kernel=int(rng.choice([1, 3])),
            stride=stride,
            groups=groups,
            scale=rng.random() < 0.7,
            bias=rng.random() < 0.7,
            relu=rng.random() < 0.5,
            bypass=bypass,
            format=format,
        )
        made.append(layer)
        maps.append(layer.output)
        levels[layer.output.name] = level
    read = {layer.input.name for layer in made} | {layer.bypass.name for layer in made if layer.bypass}
    outputs = [layer.output for layer in made if layer.output.name not in read or rng.random() < 0.2]
    used = tuple(m for m in inputs if m.name in read)
    return ChipStage("random", used, tuple(made), tuple(outputs))


def random_map(
    rng: np.random.Generator, feature_map: FeatureMap, *, special: float = 0.0, format: Format = FP16
) -> np.ndarray:
    """Bit patterns of normal values; ``special`` is the share of arbitrary patterns among them."""
    bits = format.encode(rng.normal(0, 1, feature_map.shape))
    anything = rng.integers(0, 1 << format.width, feature_map.shape, dtype=np.uint16)
    return np.where(rng.random(feature_map.shape) < special, anything, bits)
