"""The compiler's data: a network of chip and host stages, then programs with everything placed.

``Network`` is what the front end (onnx_import, passes) makes of an ONNX file: stages in execution order, each
either ``HostStage`` (float32, run by onnx's reference evaluator) or ``ChipStage`` (binary convolutions).
``ChipProgram`` is what the back end (tiling, allocate, emit) makes of a ``ChipStage`` for one chip or mesh.
Tensors go by their ONNX names. Maps are one image: (channels, height, width).
"""

from dataclasses import dataclass, field

import numpy as np
import onnx

from .. import isa
from ..config import ChipConfig, MeshConfig


@dataclass(frozen=True)
class FeatureMap:
    """The shape of one feature map, by tensor name."""

    name: str
    channels: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    @property
    def words(self) -> int:
        return self.channels * self.height * self.width


@dataclass(frozen=True, eq=False)
class BinaryConv:
    """One layer of the chip: convolution with weights +1/-1, then scale, bias, bypass, ReLU (each optional).

    ``weights`` is int8 (C_out, C_in / groups, kernel, kernel) of +1 and -1. ``scale`` and ``bias`` are words
    of the chip's formats of scales and of sums, one per output channel; they fold the weights' scaling factor
    and the batch normalisation, computed in float64 and rounded once. 3x3 kernels have padding 1, 1x1 none.
    """

    name: str
    input: FeatureMap
    output: FeatureMap
    weights: np.ndarray
    stride: int = 1
    groups: int = 1
    scale: np.ndarray | None = None
    bias: np.ndarray | None = None
    bypass: FeatureMap | None = None
    relu: bool = False

    @property
    def kernel(self) -> int:
        return self.weights.shape[2]

    @property
    def taps(self) -> int:
        return self.kernel**2

    @property
    def macs(self) -> int:
        """Multiply-accumulates: true output pixels x C_out x C_in / groups x taps, padding taps included."""
        return self.output.words * self.weights.shape[1] * self.taps


@dataclass(frozen=True, eq=False)
class ChipStage:
    """Convolutions that run on the chip without leaving it, in execution order."""

    name: str
    inputs: tuple[FeatureMap, ...]
    layers: tuple[BinaryConv, ...]
    outputs: tuple[FeatureMap, ...]


@dataclass(frozen=True, eq=False)
class HostStage:
    """Operators that run on the host, as an ONNX model of their own."""

    name: str
    model: onnx.ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[str, ...]  # "name (op_type)" of every node, for the report of the split


Stage = ChipStage | HostStage


@dataclass(frozen=True, eq=False)
class Network:
    """A whole network as stages in execution order. One input, one output, as the ONNX graph names them.

    ``format`` is the number format of the chips that it is for; ``notes`` what the user should be told
    although it is no error; ``float_model`` the whole network in float32 with its constants folded, for one
    image.
    """

    name: str
    input: str
    input_shape: tuple[int, ...]  # of one image, without the batch axis
    output: str
    stages: tuple[Stage, ...]
    format: str = "fp16"
    notes: tuple[str, ...] = ()
    float_model: onnx.ModelProto | None = field(default=None, repr=False)

    @property
    def chip_stages(self) -> tuple[ChipStage, ...]:
        return tuple(s for s in self.stages if isinstance(s, ChipStage))

    @property
    def layers(self) -> tuple[BinaryConv, ...]:
        return tuple(layer for stage in self.chip_stages for layer in stage.layers)


# What the back end adds: where everything lies.


@dataclass(frozen=True)
class PlacedMap:
    """A feature map cut into tiles and placed: tile (i, j) of the mesh starts at (i tile_h, j tile_w)."""

    map: FeatureMap
    tile_h: int
    tile_w: int
    base: int = 0

    @property
    def words_per_tile(self) -> int:
        return self.map.channels * self.tile_h * self.tile_w


@dataclass(frozen=True, eq=False)
class PlacedLayer:
    """A layer with its maps placed and its instruction ready."""

    conv: BinaryConv
    input: PlacedMap
    output: PlacedMap
    bypass: PlacedMap | None
    instruction: isa.Conv


@dataclass(frozen=True, eq=False)
class PlacedTransfer:
    """A load or store with its instruction; ``load`` tells which."""

    load: bool
    map: PlacedMap
    instruction: isa.Transfer


@dataclass(frozen=True, eq=False)
class ChipProgram:
    """One chip stage, compiled: ``steps`` in order for one image, and the words of each in ``packets``.

    The stream is ``head`` (CONFIG), the packets of every image, ``tail`` (HALT). With ``reload_after`` the
    next image's map is loaded beside the layers that follow that step, into memory that they leave alone;
    it is None where no layer does, or where several maps are loaded.
    """

    name: str
    chip: ChipConfig
    mesh: MeshConfig
    steps: tuple[PlacedLayer | PlacedTransfer, ...]
    packets: tuple[np.ndarray, ...] = field(repr=False)
    head: np.ndarray = field(repr=False)
    tail: np.ndarray = field(repr=False)
    reload_after: int | None = None

    @property
    def layers(self) -> tuple[PlacedLayer, ...]:
        return tuple(s for s in self.steps if isinstance(s, PlacedLayer))

    @property
    def loads(self) -> tuple[PlacedTransfer, ...]:
        return tuple(s for s in self.steps if isinstance(s, PlacedTransfer) and s.load)

    @property
    def stores(self) -> tuple[PlacedTransfer, ...]:
        return tuple(s for s in self.steps if isinstance(s, PlacedTransfer) and not s.load)

    def sequence(self, images: int = 1) -> list[tuple[int, int]]:
        """Image and index of every step, in the order of the stream for a series of images."""
        if self.reload_after is None:
            return [(image, index) for image in range(images) for index in range(len(self.steps))]
        order = [(0, 0)] if images else []  # step 0 is the load
        for image in range(images):
            for index in range(1, len(self.steps)):
                order.append((image, index))
                if index == self.reload_after and image + 1 < images:
                    order.append((image + 1, 0))
        return order

    def words(self, images: int = 1) -> np.ndarray:
        """The whole stream for a series of images, uint64."""
        packets = [self.packets[index] for _, index in self.sequence(images)]
        return np.concatenate([self.head, *packets, self.tail])


@dataclass(frozen=True, eq=False)
class CompiledNetwork:
    """A network with a program for each of its chip stages, for one chip or mesh.

    ``notes`` is what the user should be told although it is no error.
    """

    network: Network
    chip: ChipConfig
    mesh: MeshConfig
    programs: dict[str, ChipProgram]  # by stage name
    notes: tuple[str, ...] = ()
