"""A naive convolution in numpy's float16: the oracle of the interpreter and of compiled programs."""

import numpy as np

from hyperdrive_hdl.compiler.ir import BinaryConv, ChipStage


def _bits(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), np.uint16(0x7E00), values.view(np.uint16))


def naive_conv(
    layer: BinaryConv, x_bits: np.ndarray, bypass_bits: np.ndarray | None, wbuf_depth: int
) -> np.ndarray:
    """One layer on maps [C, H, W] of bit patterns, rounding after every addition (README: Numbers)."""
    outputs, fan_in, kernel, _ = layer.weights.shape
    _, height, width = layer.output.shape
    pad, stride = kernel // 2, layer.stride
    x = np.pad(x_bits.view(np.float16), ((0, 0), (pad, pad + 1), (pad, pad + 1)))
    block = wbuf_depth // kernel**2
    per_group = outputs // layer.groups
    result = np.zeros((outputs, height, width), np.float16)
    with np.errstate(all="ignore"):
        for out in range(outputs):
            total, first = result[out], out // per_group * fan_in
            for low in range(0, fan_in, block):
                for dy, dx in np.ndindex(kernel, kernel):
                    for c in range(low, min(low + block, fan_in)):
                        rows = slice(dy, dy + stride * height, stride)
                        at = x[first + c, rows, dx : dx + stride * width : stride]
                        total[:] = total + at if layer.weights[out, c, dy, dx] > 0 else total - at
        if layer.scale is not None:
            result = result * layer.scale.view(np.float16)[:, None, None]
        if layer.bias is not None:
            result = result + layer.bias.view(np.float16)[:, None, None]
        if bypass_bits is not None:
            result = result + bypass_bits.view(np.float16)
        if layer.relu:
            result = np.where(result > 0, result, np.where(np.isnan(result), result, np.float16(0)))
    return _bits(result)


def naive_stage(stage: ChipStage, inputs: dict[str, np.ndarray], wbuf_depth: int) -> dict[str, np.ndarray]:
    """Every map of a stage by name."""
    maps = dict(inputs)
    for layer in stage.layers:
        bypass = maps[layer.bypass.name] if layer.bypass else None
        maps[layer.output.name] = naive_conv(layer, maps[layer.input.name], bypass, wbuf_depth)
    return maps
