"""Bit-exact reference of the chip's layers: order and rounding of every operation are in README: Numbers.

Written from that text, apart from the RTL and from the code that emits programs, so that it can judge both.
"""

import numpy as np

from ..arith.formats import SEQUENTIAL, Format
from ..compiler.ir import BinaryConv, ChipStage

_GATHERED_WORDS = 1 << 24  # input words gathered at a time, against memory running out on large maps


def conv_layer(
    conv: BinaryConv,
    x_bits: np.ndarray,
    bypass_bits: np.ndarray | None = None,
    *,
    wbuf_depth: int,
    format: Format,
    accumulator: str = SEQUENTIAL,
) -> np.ndarray:
    """One layer: uint16 words (C_in, H, W) to (C_out, H', W').

    The sum starts at +0 and takes one term at a time: outermost the block of input channels, then the tap in
    raster order, then the channel. Padding is a term like any other. ``accumulator`` says when it is rounded:
    after each term, or at the end of each block. Then come x scale, + bias, + bypass and ReLU, where the
    layer has them, each rounded in the format of sums, and the rounding to a stored word.
    """
    x_bits = _checked("input", x_bits, conv.input.shape, format)
    sums = format.sums
    result = _convolve(conv, x_bits, term_order(conv, wbuf_depth), format, accumulator)
    if conv.scale is not None:
        result = sums.multiply(result, conv.scale[:, None, None])
    if conv.bias is not None:
        result = sums.add(result, conv.bias[:, None, None])
    if conv.bypass is not None:
        if bypass_bits is None:
            raise ValueError(f"layer {conv.name!r} needs its bypass {conv.bypass.name!r}")
        bypass = _checked("bypass", bypass_bits, conv.output.shape, format)
        result = sums.add(result, format.widen(bypass))
    return format.narrow(sums.relu(result) if conv.relu else result)


def _convolve(
    conv: BinaryConv,
    x_bits: np.ndarray,
    blocks: list[list[tuple[int, int, int]]],
    format: Format,
    kind: str,
) -> np.ndarray:
    """The sums alone, as words of ``format.sums`` in the output's shape."""
    pad = conv.kernel // 2
    padded = np.pad(format.operands(x_bits), ((0, 0), (pad, pad), (pad, pad)))
    _, height, width = conv.output.shape
    group_in, group_out = conv.weights.shape[1], len(conv.weights) // conv.groups
    step = max(1, _GATHERED_WORDS // (height * width))
    sums = []
    for group in range(conv.groups):
        plus = conv.weights[group * group_out : (group + 1) * group_out] > 0
        maps = padded[group * group_in : (group + 1) * group_in]
        result = np.full((group_out, height, width), format.sums.zero, format.sums.dtype)
        for terms in blocks:
            accumulator = format.accumulator(result, kind)
            for start in range(0, len(terms), step):
                some = terms[start : start + step]
                seen = [_seen_by_tap(maps[c], dy, dx, conv.stride, height, width) for c, dy, dx in some]
                accumulator.add_terms(np.array(seen), np.array([plus[:, c, dy, dx] for c, dy, dx in some]))
            result = accumulator.result()
        sums.append(result)
    return np.concatenate(sums)


def _seen_by_tap(padded: np.ndarray, dy: int, dx: int, stride: int, height: int, width: int) -> np.ndarray:
    """The input pixel that a tap multiplies, for every output pixel."""
    bottom, right = dy + (height - 1) * stride + 1, dx + (width - 1) * stride + 1
    return padded[dy:bottom:stride, dx:right:stride]


def term_order(conv: BinaryConv, wbuf_depth: int) -> list[list[tuple[int, int, int]]]:
    """For each block of input channels, (channel within the group, tap row, tap column) of a sum's terms, in
    the order of addition."""
    channels = conv.weights.shape[1]
    block = wbuf_depth // conv.taps
    if block < 1:
        raise ValueError(
            f"wbuf_depth must be at least {conv.taps}, the taps of {conv.name!r}, not {wbuf_depth!r}"
        )
    return [
        [
            (channel, dy, dx)
            for dy in range(conv.kernel)
            for dx in range(conv.kernel)
            for channel in range(start, min(start + block, channels))
        ]
        for start in range(0, channels, block)
    ]


def run_stage(
    stage: ChipStage,
    inputs: dict[str, np.ndarray],
    *,
    wbuf_depth: int,
    format: Format,
    accumulator: str = SEQUENTIAL,
) -> dict[str, np.ndarray]:
    """Every layer's output by the map's name, from the words of the stage's inputs by name."""
    maps = {item.name: inputs[item.name] for item in stage.inputs}
    results: dict[str, np.ndarray] = {}
    for conv in stage.layers:
        bypass = None if conv.bypass is None else maps[conv.bypass.name]
        maps[conv.output.name] = results[conv.output.name] = conv_layer(
            conv,
            maps[conv.input.name],
            bypass,
            wbuf_depth=wbuf_depth,
            format=format,
            accumulator=accumulator,
        )
    return results


def _checked(what: str, words: np.ndarray, shape: tuple[int, ...], format: Format) -> np.ndarray:
    if words.shape != shape:
        raise ValueError(f"{what} must be words of shape {shape}, not {words.shape}")
    return format.words(words)
