"""Runs a whole network on a chip, simulated or real, and compares every layer with the reference."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..compiler.host import HostRunner, check_images, stack
from ..compiler.ir import CompiledNetwork, HostStage, PlacedLayer
from ..model.network import NetworkResult
from ..model.network import run_network as run_reference
from .backend import Backend, Counters
from .beside import Beside
from .interpreted import interpret_program
from .program import LayerRun, run_program

Watch = Callable[[str, Counters], None]  # stage, counters of the running program


@dataclass(frozen=True)
class Mismatch:
    """A word that differs from the reference."""

    where: str  # a layer's name, or "output" for a stored map
    image: int
    channel: int
    y: int
    x: int
    found: int
    expected: int

    def __str__(self) -> str:
        return (
            f"{self.where}: image {self.image}, channel {self.channel}, y {self.y}, x {self.x}: "
            f"found {self.found:#06x}, expected {self.expected:#06x}"
        )


@dataclass
class Comparison:
    """Words compared so far, how many differ, in all and by place, and the first few that do.

    ``by_place`` has every place that was compared.
    """

    KEPT = 10

    words: int = 0
    mismatches: int = 0
    by_place: dict[str, int] = field(default_factory=dict)
    first: list[Mismatch] = field(default_factory=list)

    def compare(self, where: str, image: int, found: np.ndarray, expected: np.ndarray) -> None:
        """Compare two maps of words (C, H, W)."""
        self.words += expected.size
        places = np.argwhere(found != expected)
        self.mismatches += len(places)
        self.by_place[where] = self.by_place.get(where, 0) + len(places)
        for c, y, x in places[: self.KEPT - len(self.first)]:
            self.first.append(
                Mismatch(where, image, int(c), int(y), int(x), int(found[c, y, x]), int(expected[c, y, x]))
            )


@dataclass(frozen=True, eq=False)
class NetworkRun:
    """A network on the chip.

    ``output`` is the network's own, float32 (N, ...); ``counters`` add up the chip stages, of a mesh as in
    ``Backend.counters``, and have cycles if it is ``timed``; ``seconds`` is the time spent running programs;
    ``reference`` what it was compared with.
    """

    output: np.ndarray
    counters: Counters
    layers: tuple[LayerRun, ...]
    seconds: float
    comparison: Comparison
    reference: NetworkResult
    timed: bool = True


def simulate_network(
    compiled: CompiledNetwork,
    images: np.ndarray,
    backend: Backend | None,
    *,
    stall_seed: int | None = None,
    watch: Watch = lambda stage, counters: None,
) -> NetworkRun:
    """Run float32 images (N, C, H, W) as one series; the reference runs beside, on another core.

    Without a backend the programs are run by the reference interpreter (model/chip.py), which has no cycles.
    Of a backend that sees no memory those layers are compared whose output the program stores.

    Raises
    ------
    ModelError : the images do not suit the network
    ChipError : the chip raised its error status or stopped making progress
    """
    network, chip = compiled.network, compiled.chip
    check_images(network, images)
    number_format = chip.number_format
    values = [{network.input: image[None]} for image in images]
    words: list[dict[str, np.ndarray]] = [{} for _ in images]
    pictures: list[tuple[str, str, int, np.ndarray]] = []  # name, map, image, words
    totals, layers, seconds = Counters(), [], 0.0

    with Beside(
        lambda check: run_reference(
            network,
            images,
            wbuf_depth=chip.wbuf_depth,
            accumulator=chip.accumulator,
            progress=lambda *_: check(),
        )
    ) as beside:
        for stage in network.stages:
            if isinstance(stage, HostStage):
                runner = HostRunner(stage.model)
                for known in values:
                    known |= runner.run({name: known[name] for name in stage.inputs})
                continue
            for item in stage.inputs:
                for known, sent in zip(values, words, strict=True):
                    if item.name not in sent:
                        sent[item.name] = number_format.encode(known[item.name][0])

            def picture(image: int, layer: PlacedLayer, found: np.ndarray) -> None:
                pictures.append((layer.conv.name, layer.output.map.name, image, found))

            start = time.perf_counter()
            program = compiled.programs[stage.name]
            options = {"picture": picture, "watch": lambda counters, name=stage.name: watch(name, counters)}
            if backend is None:
                run = interpret_program(program, words, **options)
            else:
                run = run_program(backend, program, words, stall_seed=stall_seed, **options)
            seconds += time.perf_counter() - start
            layers += run.layers
            _add(totals, run.counters)
            results = [item.name for item in stage.outputs]  # an observed program stores other maps too
            for image, stored in enumerate(run.outputs):
                for name in results:
                    found = stored[name]
                    pictures.append(("output", name, image, found))
                    words[image][name] = found
                    values[image][name] = number_format.decode(found)[None]
        reference = beside.result()

    comparison = Comparison()
    for where, name, image, found in pictures:
        comparison.compare(where, image, found, reference.layers[image][name])
    return NetworkRun(
        output=stack([known[network.output] for known in values]),
        counters=totals,
        layers=tuple(layers),
        seconds=seconds,
        comparison=comparison,
        reference=reference,
        timed=backend is not None and backend.counts_cycles,
    )


def _add(totals: Counters, counters: Counters) -> None:
    for name, value in vars(counters).items():
        setattr(totals, name, getattr(totals, name) + value)
