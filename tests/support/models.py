"""ONNX models for tests, built with onnx.helper alone: layers by hand, and random residual networks.

``evaluate`` runs a model in float32 by onnx's reference evaluator: the oracle outside the code under test.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

IR_VERSION = 10
QONNX = "qonnx.custom_op.general"

# The ways to write binary weights that real exports have.
STYLES = (
    "plain",  # a tensor of +-alpha
    "unit",  # a tensor of +-1, no scale
    "bipolar",  # BipolarQuant of a latent tensor
    "where",  # Where(latent >= 0, 1, -1) x mean |latent| per output channel
    "sign",  # Sign of a clipped latent tensor x mean |latent| of the whole tensor
    "straight_through",  # (alpha sign(latent) - latent) + latent: off by a rounding error
)


class BipolarQuant(OpRun):
    op_domain = QONNX

    def _run(self, x, scale):
        return (((x >= 0) * np.float32(2) - np.float32(1)) * scale,)


def evaluate(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """The model's output for images (N, C, H, W), one at a time."""
    evaluator = ReferenceEvaluator(model, new_ops=[BipolarQuant])
    name = next(v.name for v in model.graph.input if v.name not in {t.name for t in model.graph.initializer})
    return np.concatenate([evaluator.run(None, {name: image[None]})[0] for image in images])


@dataclass(eq=False)
class Builder:
    """Collects nodes and constants. Each method adds operators and returns its result's name.

    Parameters
    ----------
    rng : source of weights
    shape : of the input, (channels, height, width)
    batch : of the input's batch axis, a number or a name
    """

    rng: np.random.Generator
    shape: tuple[int, int, int]
    batch: int | str = "N"
    opset: int = 17
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shapes = {"image": self.shape}

    def constant(self, name: str, value) -> str:
        array = np.asarray(value)
        self.constants[name] = array.astype(np.float32) if array.dtype == np.float64 else array
        return name

    def node(
        self, op_type: str, inputs: list[str], *, name: str = "", shape=None, domain="", **attributes
    ) -> str:
        """Any operator; ``shape`` of its result defaults to that of its first input."""
        name = name or f"{op_type.lower()}_{len(self.nodes)}"
        result = f"{name}_out"
        self.nodes.append(helper.make_node(op_type, inputs, [result], name=name, domain=domain, **attributes))
        self.shapes[result] = shape or self.shapes.get(inputs[0])
        return result

    def weights(self, name: str, shape: tuple[int, ...], style: str) -> str:
        """Binary weights of that shape, written in one of ``STYLES``."""
        rng = self.rng
        latent = rng.normal(size=shape).astype(np.float32)
        signs = np.where(latent >= 0, 1, -1).astype(np.float32)
        fan_in = int(np.prod(shape[1:]))
        if style == "unit":
            return self.constant(f"{name}_w", signs)
        if style == "plain":
            alpha = rng.uniform(0.5, 1.5, (shape[0], 1, 1, 1)) / np.sqrt(fan_in)
            return self.constant(f"{name}_w", signs * alpha)
        if style == "bipolar":
            latent.flat[0] = 0  # means +1
            alpha = rng.uniform(0.5, 1.5) / np.sqrt(fan_in)
            inputs = [
                self.constant(f"{name}_latent", latent),
                self.constant(f"{name}_alpha", np.float32(alpha)),
            ]
            return self.node("BipolarQuant", inputs, domain=QONNX, name=f"{name}_quant")
        latent /= np.float32(np.sqrt(fan_in))
        shared = self.constant(f"{name}_latent", latent)
        one = self.constant("one", np.float32(1))
        minus = self.constant("minus_one", np.float32(-1))
        size = self.node("Abs", [shared])
        if style == "sign":
            clipped = self.node("Clip", [shared, minus, one])
            mean = self.node("ReduceMean", [size], keepdims=0)
            return self.node("Mul", [self.node("Sign", [clipped]), mean])
        mean = self.node("ReduceMean", [size], axes=[1, 2, 3], keepdims=1)
        positive = self.node("GreaterOrEqual", [shared, self.constant("zero", np.float32(0))])
        binary = self.node("Mul", [self.node("Where", [positive, one, minus]), mean])
        if style == "where":
            return binary
        return self.node("Add", [self.node("Sub", [binary, shared]), shared])

    def conv(
        self,
        x: str,
        channels: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        style: str = "plain",
        bias: bool = False,
        name: str = "",
        **attributes,
    ) -> str:
        """A convolution, binary unless ``style`` is "float"; ``attributes`` override its own."""
        name = name or f"conv_{len(self.nodes)}"
        fan_in, height, width = self.shapes[x]
        shape = (channels, fan_in // groups, kernel, kernel)
        if style == "float":
            values = self.rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
            weights = self.constant(f"{name}_w", values)
        else:
            weights = self.weights(name, shape, style)
        inputs = [x, weights]
        if bias:
            inputs.append(self.constant(f"{name}_b", self.rng.normal(size=channels)))
        out = (channels, -(-height // stride), -(-width // stride))
        given = {"strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": groups} | attributes
        return self.node(
            "Conv", inputs, name=name, shape=out, **{k: v for k, v in given.items() if v is not None}
        )

    def batch_norm(self, x: str) -> str:
        channels = self.shapes[x][0]
        name = f"bn_{len(self.nodes)}"
        draw = self.rng.uniform
        values = {
            "gamma": draw(0.5, 1.5, channels) * self.rng.choice([-1, 1], channels),
            "beta": self.rng.normal(size=channels),
            "mean": self.rng.normal(size=channels),
            "var": draw(0.5, 2, channels),
        }
        inputs = [self.constant(f"{name}_{key}", value) for key, value in values.items()]
        return self.node("BatchNormalization", [x, *inputs], name=name, epsilon=1e-3)

    def relu(self, x: str) -> str:
        return self.node("Relu", [x])

    def add(self, a: str, b: str) -> str:
        return self.node("Add", [a, b])

    def classifier(self, x: str, classes: int = 5) -> str:
        """Global average pool, Flatten, Gemm."""
        channels = self.shapes[x][0]
        pooled = self.node("GlobalAveragePool", [x], shape=(channels, 1, 1))
        flat = self.node("Flatten", [pooled], shape=(channels,))
        weights = self.constant("classifier_w", self.rng.normal(size=(classes, channels)))
        bias = self.constant("classifier_b", self.rng.normal(size=classes))
        return self.node("Gemm", [flat, weights, bias], name="classifier", shape=(classes,), transB=1)

    def model(self, result: str, *, list_initializers: bool = False) -> onnx.ModelProto:
        """The model that gives ``result``; ``list_initializers`` names constants as graph inputs too."""
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [self.batch, *self.shape])
        shape = self.shapes.get(result)
        dims = None if shape is None else [self.batch, *shape]
        tensors = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        listed = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
        graph = helper.make_graph(
            self.nodes,
            "test",
            [image, *(listed if list_initializers else [])],
            [helper.make_tensor_value_info(result, TensorProto.FLOAT, dims)],
            tensors,
        )
        domains = {node.domain for node in self.nodes} - {""}
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, 1) for d in sorted(domains))]
        return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets)


def images_for(model: onnx.ModelProto, rng: np.random.Generator, count: int = 1) -> np.ndarray:
    """Random float32 images as the model takes them."""
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    return rng.normal(size=(count, *dims[1:])).astype(np.float32)


def save(model: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def random_network(
    rng: np.random.Generator,
    *,
    blocks: int = 3,
    max_channels: int = 11,
    max_size: int = 12,
    style: str | None = None,
    stem: bool | None = None,
    head: bool | None = None,
    host: bool = False,
) -> onnx.ModelProto:
    """A random network of binary convolutions within the chip's limits: 1 to 3 layers per block.

    Channels need not be multiples of K; groups, strides 1 and 2, 1x1 and 3x3 kernels, maps of 1 to
    ``max_size`` pixels a side, bypass by identity and by projection, with and without ReLU, batch
    normalisation, bias.

    Parameters
    ----------
    style : how weights are written (``STYLES``); None draws one per layer
    stem, head : a float convolution before and a classifier after on the host; None draws
    host : put host operators between some blocks, so that the network becomes several chip programs
    """
    height, width = (int(rng.integers(1, max_size + 1)) for _ in range(2))
    build = Builder(
        rng, (int(rng.integers(1, max_channels + 1)), height, width), batch=_pick(rng, ["N", 1, 3])
    )
    x = "image"
    if _coin(rng, 0.4) if stem is None else stem:
        stem_channels = int(rng.integers(1, max_channels + 1))
        x = build.relu(build.conv(x, stem_channels, style="float", bias=True, name="stem"))
    for _ in range(blocks):
        block = _pick(rng, [_plain_block, _identity_block, _projection_block])
        x = block(build, x, max_channels, style)
        if host and _coin(rng, 0.5):
            x = _host_block(build, x)
    if _coin(rng, 0.4) if head is None else head:
        x = build.classifier(x)
    return build.model(x, list_initializers=_coin(rng, 0.2))


def _coin(rng: np.random.Generator, chance: float) -> bool:
    return bool(rng.random() < chance)


def _pick(rng: np.random.Generator, choices):
    return choices[int(rng.integers(len(choices)))]


def _layer(
    build: Builder, x: str, channels: int, style: str | None, *, stride: int = 1, relu: bool = True
) -> str:
    """A binary convolution with what usually follows it; unscaled weights mostly get a Mul."""
    rng = build.rng
    kernel = _pick(rng, [1, 3, 3])
    groups = _pick(rng, [g for g in range(1, 5) if build.shapes[x][0] % g == 0 and channels % g == 0])
    style = style or _pick(rng, STYLES)
    y = build.conv(
        x, channels, kernel=kernel, stride=stride, groups=groups, style=style, bias=_coin(rng, 0.3)
    )
    if style == "unit" and (kernel == 3 or _coin(rng, 0.5)):  # many unscaled sums in a row overflow FP16
        gain = rng.uniform(0.5, 1.5, (channels, 1, 1)) / np.sqrt(build.shapes[x][0] // groups * kernel**2)
        y = build.node("Mul", [build.constant(f"gain_{len(build.nodes)}", gain), y], shape=build.shapes[y])
    if _coin(rng, 0.6):
        y = build.batch_norm(y)
    return build.relu(y) if relu and _coin(rng, 0.7) else y


def _plain_block(build: Builder, x: str, max_channels: int, style: str | None) -> str:
    channels = int(build.rng.integers(1, max_channels + 1))
    return _layer(build, x, channels, style, stride=_pick(build.rng, [1, 1, 2]))


def _identity_block(build: Builder, x: str, max_channels: int, style: str | None) -> str:
    rng = build.rng
    y = x
    if _coin(rng, 0.6):
        y = _layer(build, y, int(rng.integers(1, max_channels + 1)), style)
    y = _layer(build, y, build.shapes[x][0], style, relu=False)
    y = build.add(x, y) if _coin(rng, 0.5) else build.add(y, x)
    return build.relu(y) if _coin(rng, 0.7) else y


def _projection_block(build: Builder, x: str, max_channels: int, style: str | None) -> str:
    rng = build.rng
    channels = int(rng.integers(1, max_channels + 1))
    stride = _pick(rng, [1, 2])
    first = _coin(rng, 0.5)
    bypass = _projection(build, x, channels, stride, style) if first else ""
    y = _layer(build, x, channels, style, stride=stride)
    y = _layer(build, y, channels, style, relu=False)
    bypass = bypass or _projection(build, x, channels, stride, style)
    y = build.add(y, bypass)
    return build.relu(y) if _coin(rng, 0.7) else y


def _host_block(build: Builder, x: str) -> str:
    """A pool over 3x3 pixels, or a ReLU6 that the chip does not have."""
    if _coin(build.rng, 0.5):
        bounds = [build.constant("zero", np.float32(0)), build.constant("six", np.float32(6))]
        return build.node("Clip", [x, *bounds])
    pool = _pick(build.rng, ["MaxPool", "AveragePool"])
    return build.node(pool, [x], kernel_shape=[3, 3], pads=[1] * 4)


def _projection(build: Builder, x: str, channels: int, stride: int, style: str | None) -> str:
    y = build.conv(x, channels, kernel=1, stride=stride, style=style or _pick(build.rng, STYLES))
    return build.batch_norm(y) if _coin(build.rng, 0.5) else y
