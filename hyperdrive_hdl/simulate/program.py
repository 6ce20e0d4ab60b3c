"""Runs one chip program on a simulator: streams in and out, a picture of every layer's output."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..compiler.ir import ChipProgram, PlacedLayer
from ..config import MeshConfig
from ..errors import ChipError
from ..isa import ErrorCode
from ..model.layout import from_streams, read_map, to_stream
from .backend import Backend, Counters, Event, Stimulus

Picture = Callable[[int, PlacedLayer, np.ndarray], None]
Watch = Callable[[Counters], None]

STEP = 1 << 16  # cycles between two looks at the progress


@dataclass(frozen=True)
class LayerRun:
    """What one layer of one image took: cycles of computation, and those of them that waited for weights."""

    name: str
    image: int
    cycles: int
    starved: int


@dataclass(frozen=True, eq=False)
class ProgramRun:
    """Outputs of every image by map name, counters of the whole run, and every layer's share."""

    outputs: tuple[dict[str, np.ndarray], ...]
    counters: Counters
    layers: tuple[LayerRun, ...]


def run_program(
    backend: Backend,
    program: ChipProgram,
    inputs: Sequence[Mapping[str, np.ndarray]],
    *,
    stall_seed: int | None = None,
    picture: Picture = lambda image, layer, words: None,
    watch: Watch = lambda counters: None,
) -> ProgramRun:
    """Stream the program once per image.

    Parameters
    ----------
    backend : simulator of ``program.chip``
    inputs : for each image, the words of every loaded map, uint16 (C, H, W)
    stall_seed : random stalls on every stream
    picture : called with image, layer and output words as each layer ends, before anything overwrites them
    watch : called with the counters every so often

    Raises
    ------
    ChipError : the chip raised its error status, stopped making progress or gave too many words
    """
    chip = program.chip
    fm_in = [to_stream(image[t.map.map.name], t.map, chip, 0, 0) for image in inputs for t in program.loads]
    stimulus = Stimulus(
        program=program.words(len(inputs)),
        fm_in=np.concatenate(fm_in) if fm_in else np.zeros(0, np.uint16),
        output_words=len(inputs) * sum(t.map.map.words for t in program.stores),
        stall_seed=stall_seed,
    )
    layers: list[LayerRun] = []
    before = Counters()
    backend.start(stimulus)
    while (event := backend.run(STEP)) is not Event.HALTED:
        counters = backend.counters()
        if event is Event.LAYER_DONE:
            image, index = divmod(len(layers), len(program.layers))
            layer = program.layers[index]
            layers.append(
                LayerRun(
                    name=layer.conv.name,
                    image=image,
                    cycles=counters.computing - before.computing,
                    starved=counters.starved - before.starved,
                )
            )
            before = counters
            picture(image, layer, read_map(backend.memory(), layer.output))
        elif event is not Event.RUNNING:
            raise _failure(event, counters, program, len(layers))
        watch(counters)

    words = backend.outputs()
    if words.size != stimulus.output_words:
        raise ChipError(f"{program.name}: the chip gave {words.size} words, not {stimulus.output_words}")
    outputs, at = [], 0
    for _ in inputs:
        maps = {}
        for store in program.stores:
            size = store.map.map.words
            maps[store.map.map.name] = from_streams(
                {(0, 0): words[at : at + size]}, store.map, chip, MeshConfig()
            )
            at += size
        outputs.append(maps)
    return ProgramRun(outputs=tuple(outputs), counters=backend.counters(), layers=tuple(layers))


def _failure(event: Event, counters: Counters, program: ChipProgram, layers: int) -> ChipError:
    where = f"{program.name}: in cycle {counters.cycles}, after {layers} layers"
    if event is Event.ERROR:
        code = ErrorCode(counters.error)
        return ChipError(f"{where}: the chip reports error {code.value} ({code.name}): {ERROR_MEANING[code]}")
    if event is Event.OVERRUN:
        return ChipError(f"{where}: the chip gave more output words than the program stores")
    return ChipError(f"{where}: the chip makes no progress")


ERROR_MEANING = {
    ErrorCode.OPCODE: "a program word has no meaning, or a packet has the wrong length",
    ErrorCode.CONFIG: "the program was made for another chip configuration",
    ErrorCode.LEFTOVER: "the program sent more weight rows than its layers use",
}
