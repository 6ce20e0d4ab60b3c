"""The paper's workloads without a trained file: residual networks' bodies as chip stages of random weights.

Everything between the 7x7 stem with its pooling and the classifier: the part that runs on the chip. Cycles,
memory and traffic depend on the shapes alone.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from ..arith.formats import FP16, Format
from ..compiler.ir import BinaryConv, ChipStage, FeatureMap

# Residual blocks in the four groups of each depth; from 50 on they are bottlenecks.
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
WIDTH = 64  # channels of the first group; each further one doubles them
EXPANSION = 4  # of a bottleneck's last layer
STEM_STRIDE = 4  # of the convolution and the pooling before the body

Conv = Callable[..., BinaryConv]  # ``random_conv`` with its generator and format


def is_bottleneck(depth: int) -> bool:
    """Whether a ResNet of that depth is made of bottlenecks (1x1, 3x3, 1x1) or of basic blocks (3x3, 3x3)."""
    return depth >= 50


def random_conv(
    rng: np.random.Generator,
    source: FeatureMap,
    name: str,
    channels: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    scale: bool = True,
    bias: bool = True,
    bypass: FeatureMap | None = None,
    relu: bool = True,
    format: Format = FP16,
) -> BinaryConv:
    """A layer with random weights; the scale keeps values in range."""
    height, width = -(-source.height // stride), -(-source.width // stride)
    fan_in = source.channels // groups
    weights = rng.integers(0, 2, (channels, fan_in, kernel, kernel), np.int8) * 2 - 1
    factors = rng.uniform(0.5, 1.5, channels) / np.sqrt(fan_in * kernel**2)
    return BinaryConv(
        name=name,
        input=source,
        output=FeatureMap(name, channels, height, width),
        weights=weights.astype(np.int8, copy=False),
        stride=stride,
        groups=groups,
        scale=format.scales.encode(factors) if scale else None,
        bias=format.sums.encode(rng.normal(0, 0.5, channels)) if bias else None,
        bypass=bypass,
        relu=relu,
    )


def resnet(
    depth: int, height: int = 224, width: int = 224, *, stride_first: bool = False, seed: int = 0
) -> ChipStage:
    """The body of a ResNet for images of that size.

    ``stride_first`` halves the map in a bottleneck's first 1x1 layer, as first published; else in its 3x3
    layer.
    """
    return residual_stage(
        BLOCKS[depth],
        WIDTH,
        height // STEM_STRIDE,
        width // STEM_STRIDE,
        bottleneck=is_bottleneck(depth),
        stride_first=stride_first,
        seed=seed,
    )


def residual_stage(
    blocks: tuple[int, ...],
    channels: int,
    height: int,
    width: int,
    *,
    bottleneck: bool = False,
    stride_first: bool = False,
    seed: int = 0,
    format: Format = FP16,
) -> ChipStage:
    """Groups of residual blocks; each group after the first halves the map and doubles the channels."""
    conv = partial(random_conv, np.random.default_rng(seed), format=format)
    source = value = FeatureMap("input", channels, height, width)
    layers: list[BinaryConv] = []
    for group, count in enumerate(blocks):
        for block in range(count):
            stride = 2 if group and not block else 1
            name = f"g{group}b{block}"
            if bottleneck:
                layers += _bottleneck(conv, value, name, channels << group, stride, stride_first)
            else:
                layers += _basic(conv, value, name, channels << group, stride)
            value = layers[-1].output
    return ChipStage("body", (source,), tuple(layers), (value,))


def _basic(conv: Conv, value: FeatureMap, name: str, channels: int, stride: int) -> Iterator[BinaryConv]:
    first = conv(value, f"{name}.conv1", channels, stride=stride)
    yield first
    bypass = value
    if value.shape != first.output.shape:
        projection = conv(value, f"{name}.proj", channels, kernel=1, stride=stride, relu=False)
        yield projection
        bypass = projection.output
    yield conv(first.output, f"{name}.conv2", channels, bypass=bypass)


def _bottleneck(
    conv: Conv, value: FeatureMap, name: str, channels: int, stride: int, stride_first: bool
) -> Iterator[BinaryConv]:
    strides = (stride, 1) if stride_first else (1, stride)
    first = conv(value, f"{name}.conv1", channels, kernel=1, stride=strides[0])
    second = conv(first.output, f"{name}.conv2", channels, stride=strides[1])
    yield from (first, second)
    bypass, expanded = value, EXPANSION * channels
    if value.channels != expanded or stride != 1:
        projection = conv(value, f"{name}.proj", expanded, kernel=1, stride=stride, relu=False)
        yield projection
        bypass = projection.output
    yield conv(second.output, f"{name}.conv3", expanded, kernel=1, bypass=bypass)
