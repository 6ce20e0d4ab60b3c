"""A whole network by the reference: host stages in float32, chip stages bit by bit."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..arith.formats import SEQUENTIAL, format_by_name
from ..compiler.host import HostRunner, check_images, stack
from ..compiler.ir import HostStage, Network
from .layers import run_stage


@dataclass(frozen=True)
class Specials:
    """How many words of a layer's output are infinite (or clipped) or NaN, over all images."""

    infinities: int
    nans: int


@dataclass(frozen=True, eq=False)
class NetworkResult:
    """What ``run_network`` found.

    ``output`` is the network's own, float32 (N, ...). ``layers`` has, for each image, every chip layer's
    output words by the map's name; ``chip_inputs`` the words sent to the chip, likewise. ``specials`` has the
    layers, by their own names, whose outputs hold infinities (or clipped words) or NaN, and only those.
    """

    output: np.ndarray
    layers: tuple[dict[str, np.ndarray], ...] = field(repr=False)
    chip_inputs: tuple[dict[str, np.ndarray], ...] = field(repr=False)
    specials: dict[str, Specials]


def run_network(
    network: Network,
    images: np.ndarray,
    *,
    wbuf_depth: int,
    accumulator: str = SEQUENTIAL,
    progress: Callable[[int, str], None] = lambda image, stage: None,
) -> NetworkResult:
    """Run float32 images (N, C, H, W) on chips with such a weight buffer and ``accumulator``.

    ``progress`` is called with the image's number before every stage.

    Raises
    ------
    ModelError : the images do not suit the network, or a host operator fails on them
    """
    check_images(network, images)
    number_format = format_by_name(network.format)
    runners = {s.name: HostRunner(s.model) for s in network.stages if isinstance(s, HostStage)}
    outputs, layers, chip_inputs = [], [], []
    for number, image in enumerate(images):
        values = {network.input: image[None]}  # float32 with a batch axis
        words: dict[str, np.ndarray] = {}  # maps from and to the chip
        computed: dict[str, np.ndarray] = {}
        for stage in network.stages:
            progress(number, stage.name)
            if isinstance(stage, HostStage):
                values |= runners[stage.name].run({name: values[name] for name in stage.inputs})
                continue
            for item in stage.inputs:
                if item.name not in words:
                    words[item.name] = number_format.encode(values[item.name][0])
            results = run_stage(
                stage, words, wbuf_depth=wbuf_depth, format=number_format, accumulator=accumulator
            )
            computed |= results
            for item in stage.outputs:
                words[item.name] = results[item.name]
                values[item.name] = number_format.decode(results[item.name])[None]
        outputs.append(values[network.output])
        layers.append(computed)
        chip_inputs.append({name: value for name, value in words.items() if name not in computed})
    return NetworkResult(
        output=stack(outputs),
        layers=tuple(layers),
        chip_inputs=tuple(chip_inputs),
        specials=count_specials(network, layers),
    )


def count_specials(network: Network, layers: list[dict[str, np.ndarray]]) -> dict[str, Specials]:
    """Infinities (or clipped words) and NaN over images, by layer name, where there are any."""
    number_format = format_by_name(network.format)
    found = {}
    for layer in network.layers:
        counts = [number_format.count_specials(image[layer.output.name]) for image in layers]
        infinities, nans = map(sum, zip(*counts, strict=True))
        if infinities or nans:
            found[layer.name] = Specials(infinities, nans)
    return found
