"""Write ResNet-18, -34, -50, -101 or -152 with random binary weights as ONNX: the paper's workload.

ImageNet's geometry: float 7x7 stem with batch normalisation, ReLU and pooling, a body of binary-weight
convolutions, each with batch normalisation, and a float classifier of 1000 classes. Signs are random, one
int8 each in the file; scales are drawn, and the normalisation's mean and variance are those of random
images run through the network as it is built, so that values stay in the range that a trained network has.
Names are torchvision's; bottlenecks halve the map in their 3x3 layer, as torchvision's do.

    python sim/make_resnet.py 34 -o build/resnet34.onnx --input build/image.npy
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hyperdrive_hdl.perf.networks import BLOCKS, EXPANSION, STEM_STRIDE, WIDTH, is_bottleneck

OPSET, IR_VERSION = 17, 10  # written down, so that the file does not change with the installed onnx
QONNX = "qonnx.custom_op.general"
CLASSES = 1000
EPSILON = 1e-5
SAMPLES = 96  # pixels at least from which each channel's mean and variance are taken


def random_images(count: int, height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Smooth random images, float32 (N, 3, H, W) of mean 0 and variance 1, like ImageNet's preprocessed."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, 3, height, width))
    for octave in range(6):  # details of half the size have half the amplitude, as in natural images
        cells = 2 << octave
        grid = rng.normal(0, 0.5**octave, (count, 3, cells + 1, cells + 1))
        rows, cols = _stretch(height, cells), _stretch(width, cells)
        images += np.einsum("yi,ncij,xj->ncyx", rows, grid, cols, optimize=True)
    images -= images.mean(axis=(2, 3), keepdims=True)
    return (images / images.std(axis=(2, 3), keepdims=True)).astype(np.float32)


def _stretch(size: int, cells: int) -> np.ndarray:
    """Matrix (size, cells + 1) that interpolates a grid linearly."""
    at = np.linspace(0, cells, size)[:, None]
    return np.clip(1 - np.abs(at - np.arange(cells + 1)), 0, None)


def convolve(x: np.ndarray, weights: np.ndarray, stride: int) -> np.ndarray:
    """Convolution of (N, C, H, W) with padding kernel // 2: a matrix product for every tap."""
    kernel = weights.shape[-1]
    pad = kernel // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    height, width = -(-x.shape[2] // stride), -(-x.shape[3] // stride)
    total = np.zeros((len(x), len(weights), height * width), np.float32)
    for dy in range(kernel):
        for dx in range(kernel):
            seen = padded[:, :, dy : dy + height * stride : stride, dx : dx + width * stride : stride]
            total += weights[:, :, dy, dx] @ seen.reshape(*x.shape[:2], -1)
    return total.reshape(len(x), -1, height, width)


def pool(x: np.ndarray) -> np.ndarray:
    """3x3 maximum with stride 2 and padding 1."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    height, width = -(-x.shape[2] // 2), -(-x.shape[3] // 2)
    taps = [padded[:, :, y : y + 2 * height : 2, z : z + 2 * width : 2] for y in range(3) for z in range(3)]
    return np.maximum.reduce(taps)


@dataclass(frozen=True, eq=False)
class Tensor:
    """A map by name, with its values for the images that the statistics are taken from."""

    name: str
    values: np.ndarray


@dataclass(eq=False)
class Writer:
    """Adds layers to a graph and computes them at once."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def node(self, op_type: str, inputs: list[str], name: str, *, domain: str = "", **attributes) -> str:
        """An operator called ``name``; the name of its result."""
        result = f"{name}:out"
        node = helper.make_node(op_type, inputs, [result], name=name, domain=domain, **attributes)
        self.nodes.append(node)
        return result

    def conv(
        self, x: Tensor, name: str, channels: int, *, kernel: int, stride: int = 1, binary=True
    ) -> Tensor:
        """A convolution; ``binary`` weights are +-scale, one scale per output channel."""
        fan_in = x.values.shape[1] * kernel**2
        shape = (channels, x.values.shape[1], kernel, kernel)
        size = np.sqrt(2 / fan_in)  # He's initial weights
        if binary:
            signs = self.rng.integers(0, 2, shape, np.int8) * np.int8(2) - np.int8(1)
            scale = (size * self.rng.uniform(0.6, 1.0, (channels, 1, 1, 1))).astype(np.float32)
            weights = signs * scale
            stored = self.constant(f"{name}.sign", signs)
            latent = self.node("Cast", [stored], f"{name}.cast", to=TensorProto.FLOAT)
            inputs = [latent, self.constant(f"{name}.scale", scale)]
            source = self.node("BipolarQuant", inputs, f"{name}.binary", domain=QONNX)
        else:
            weights = self.rng.normal(0, size, shape).astype(np.float32)
            source = self.constant(f"{name}.weight", weights)
        result = self.node(
            "Conv",
            [x.name, source],
            name,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
        )
        return Tensor(result, convolve(x.values, weights, stride))

    def norm(self, x: Tensor, name: str, *, gain: float = 1.0) -> Tensor:
        """Batch normalisation with the mean and variance that its input has here."""
        channels = x.values.shape[1]
        gamma = (gain * self.rng.uniform(0.6, 1.4, channels)).astype(np.float32)
        beta = self.rng.normal(0, 0.2, channels).astype(np.float32)
        mean, var = x.values.mean(axis=(0, 2, 3)), x.values.var(axis=(0, 2, 3))
        parameters = {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": var}
        stored = [self.constant(f"{name}.{key}", value) for key, value in parameters.items()]
        result = self.node("BatchNormalization", [x.name, *stored], name, epsilon=EPSILON)
        factor = (gamma / np.sqrt(var + EPSILON))[:, None, None]
        return Tensor(result, (x.values - mean[:, None, None]) * factor + beta[:, None, None])

    def relu(self, x: Tensor, name: str) -> Tensor:
        return Tensor(self.node("Relu", [x.name], name), np.maximum(x.values, 0))

    def add(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        return Tensor(self.node("Add", [x.name, y.name], name), x.values + y.values)

    def block(self, x: Tensor, name: str, channels: int, stride: int, *, bottleneck: bool) -> Tensor:
        """A residual block; ``channels`` are those of its 3x3 layers."""
        # Output channels, kernel, stride of each convolution.
        layers = [(channels, 3, stride), (channels, 3, 1)]
        if bottleneck:
            layers = [(channels, 1, 1), (channels, 3, stride), (EXPANSION * channels, 1, 1)]
        bypass = x
        if stride != 1 or x.values.shape[1] != layers[-1][0]:
            bypass = self.conv(x, f"{name}.downsample.0", layers[-1][0], kernel=1, stride=stride)
            bypass = self.norm(bypass, f"{name}.downsample.1")
        y = x
        for number, (outputs, kernel, step) in enumerate(layers, 1):
            last = number == len(layers)
            y = self.conv(y, f"{name}.conv{number}", outputs, kernel=kernel, stride=step)
            # Branches add less than the bypass carries, else values would grow with the depth.
            y = self.norm(y, f"{name}.bn{number}", gain=0.4 if last else 1.0)
            y = self.relu(self.add(y, bypass, f"{name}.add") if last else y, f"{name}.relu{number}")
        return y


def build(
    depth: int, *, height: int = 224, width: int = 224, seed: int = 0, classes: int = CLASSES
) -> onnx.ModelProto:
    """A ResNet of that depth for images of that size, the same for the same seed.

    Parameters
    ----------
    depth : 18, 34, 50, 101 or 152
    height, width : of the image, multiples of 32 (each stride halves the map)
    """
    if depth not in BLOCKS:
        raise ValueError(f"depth must be one of {', '.join(map(str, BLOCKS))}, not {depth!r}")
    smallest = STEM_STRIDE << len(BLOCKS[depth]) - 1
    if min(height, width) < smallest or height % smallest or width % smallest:
        raise ValueError(f"height and width must be multiples of {smallest}, not {height} and {width}")
    rng = np.random.default_rng([seed, depth])
    pixels = (height // smallest) * (width // smallest)
    images = random_images(-(-SAMPLES // pixels), height, width, seed=seed + 1)
    writer = Writer(rng)
    x = writer.conv(Tensor("image", images), "conv1", WIDTH, kernel=7, stride=2, binary=False)
    x = writer.relu(writer.norm(x, "bn1"), "relu")
    window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
    x = Tensor(writer.node("MaxPool", [x.name], "maxpool", **window), pool(x.values))
    for group, blocks in enumerate(BLOCKS[depth]):
        for index in range(blocks):
            stride = 2 if group and not index else 1
            name = f"layer{group + 1}.{index}"
            x = writer.block(x, name, WIDTH << group, stride, bottleneck=is_bottleneck(depth))
    pooled = writer.node("Flatten", [writer.node("GlobalAveragePool", [x.name], "avgpool")], "flatten")
    channels = x.values.shape[1]
    weights = rng.normal(0, 1 / np.sqrt(channels), (classes, channels)).astype(np.float32)
    bias = np.zeros(classes, np.float32)
    inputs = [pooled, writer.constant("fc.weight", weights), writer.constant("fc.bias", bias)]
    writer.nodes.append(helper.make_node("Gemm", inputs, ["logits"], name="fc", transB=1))
    shape = ["N", 3, height, width]
    graph = helper.make_graph(
        writer.nodes,
        f"resnet{depth}",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        writer.constants,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(QONNX, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="make_resnet")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a ResNet with random binary weights as ONNX.")
    parser.add_argument("depth", type=int, choices=BLOCKS)
    parser.add_argument("--height", type=int, default=224, help="of the image, a multiple of 32")
    parser.add_argument("--width", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="default: resnetDEPTH.onnx")
    parser.add_argument("--input", type=Path, metavar="FILE", help="write a matching image, .npy")
    options = parser.parse_args()
    try:
        model = build(options.depth, height=options.height, width=options.width, seed=options.seed)
    except ValueError as error:
        parser.error(str(error))
    output = options.output or Path(f"resnet{options.depth}.onnx")
    output.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, output)
    print(f"written: {output}, {output.stat().st_size / 1e6:.1f} MB")
    if options.input:
        options.input.parent.mkdir(parents=True, exist_ok=True)
        np.save(options.input, random_images(1, options.height, options.width, seed=options.seed))
        print(f"written: {options.input}")


if __name__ == "__main__":
    main()
