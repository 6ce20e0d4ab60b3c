"""A naive convolution in others' arithmetic: the oracle of the interpreter and of compiled programs."""

import numpy as np

from hyperdrive_hdl.compiler.ir import BinaryConv, ChipStage

from .witness import witness


def naive_conv(
    layer: BinaryConv,
    x_bits: np.ndarray,
    bypass_bits: np.ndarray | None,
    wbuf_depth: int,
    format: str = "fp16",
    accumulator: str = "sequential",
) -> np.ndarray:
    """One layer on maps [C, H, W] of words, addition by addition (README: Numbers)."""
    with np.errstate(all="ignore"):
        return _naive_conv(layer, x_bits, bypass_bits, wbuf_depth, witness(format), accumulator == "exact")


def _naive_conv(layer, x_bits, bypass_bits, wbuf_depth, by, exact):
    outputs, fan_in, kernel, _ = layer.weights.shape
    _, height, width = layer.output.shape
    pad, stride = kernel // 2, layer.stride
    x = by.read(np.pad(x_bits, ((0, 0), (pad, pad + 1), (pad, pad + 1))))
    block = wbuf_depth // kernel**2
    per_group = outputs // layer.groups
    result = []
    for out in range(outputs):
        total, first = by.read_sums(np.zeros((height, width), np.uint16)), out // per_group * fan_in
        for low in range(0, fan_in, block):
            terms = []
            for dy, dx in np.ndindex(kernel, kernel):
                for c in range(low, min(low + block, fan_in)):
                    at = x[first + c, dy : dy + stride * height : stride, dx : dx + stride * width : stride]
                    terms.append(at if layer.weights[out, c, dy, dx] > 0 else -at)
            if exact:
                total = by.exact([total, *terms])
            else:
                for term in terms:
                    total = by.add(total, term)
        result.append(total)
    result = np.stack(result)
    if layer.scale is not None:
        result = by.multiply(result, by.read_scales(layer.scale)[:, None, None])
    if layer.bias is not None:
        result = by.add(result, by.read_sums(layer.bias)[:, None, None])
    if bypass_bits is not None:
        result = by.add(result, by.read(bypass_bits))
    return by.write(by.relu(result) if layer.relu else result)


def naive_stage(
    stage: ChipStage,
    inputs: dict[str, np.ndarray],
    wbuf_depth: int,
    format: str = "fp16",
    accumulator: str = "sequential",
) -> dict[str, np.ndarray]:
    """Every map of a stage by name."""
    maps = dict(inputs)
    for layer in stage.layers:
        bypass = maps[layer.bypass.name] if layer.bypass else None
        x = maps[layer.input.name]
        maps[layer.output.name] = naive_conv(layer, x, bypass, wbuf_depth, format, accumulator)
    return maps
