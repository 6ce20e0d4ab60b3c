"""Runs one chip program on a backend: streams in and out, a picture of every layer's output."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..compiler.ir import ChipProgram, PlacedLayer
from ..errors import ChipError
from ..isa import ErrorCode, LinkFault, Side
from .backend import Backend, ChipFault, Counters, Event, LinkFaultInjection, Place, Stimulus
from .pictures import Pictures
from .streams import loaded_streams, stored_maps, stored_words

Picture = Callable[[int, PlacedLayer, np.ndarray], None]
Watch = Callable[[Counters], None]

MAX_STEP = 1 << 16  # cycles between two looks at the progress
SECONDS = 0.2  # or as many as take so long


@dataclass(frozen=True)
class LayerRun:
    """What one layer of one image took: cycles of computation, and those of them that waited for weights.

    Of a mesh, on its slowest chip.
    """

    name: str
    image: int
    cycles: int
    starved: int


@dataclass(frozen=True, eq=False)
class ProgramRun:
    """Outputs of every image by map name, counters of the whole run, and every layer's share.

    ``layers`` is empty where the backend does not see layers end.
    """

    outputs: tuple[dict[str, np.ndarray], ...]
    counters: Counters
    layers: tuple[LayerRun, ...]


def run_program(
    backend: Backend,
    program: ChipProgram,
    inputs: Sequence[Mapping[str, np.ndarray]],
    *,
    stall_seed: int | None = None,
    link_latency: int = 1,
    link_faults: Sequence[LinkFaultInjection] = (),
    chip_faults: Sequence[ChipFault] = (),
    picture: Picture = lambda image, layer, words: None,
    watch: Watch = lambda counters: None,
) -> ProgramRun:
    """Stream the program once per image.

    Parameters
    ----------
    backend : runs ``program.chip`` and ``program.mesh``
    inputs : for each image, the words of every loaded map, uint16 (C, H, W)
    stall_seed, link_latency, link_faults, chip_faults : of the ``Stimulus``
    picture : called with image, layer and output words as each layer ends on the last chip; each chip's part
        is from when it ended there, before anything overwrites it. From a backend that sees no memory, of
        the layers that the program stores, at the end
    watch : called with the counters every so often

    Raises
    ------
    ChipError : a chip raised its error status, gave too many words or too few, or all stopped making progress
    """
    stimulus = Stimulus(
        program=program.words(len(inputs)),
        fm_in=loaded_streams(program, inputs),
        output_words=stored_words(program, len(inputs)),
        stall_seed=stall_seed,
        link_latency=link_latency,
        link_faults=tuple(link_faults),
        chip_faults=tuple(chip_faults),
    )
    pictures = Pictures(backend, program)
    backend.start(stimulus)
    step = 1 << 8
    while True:
        start = time.perf_counter()
        event = backend.run(step)
        if event is Event.HALTED:
            break
        if event is Event.RUNNING:
            seconds = time.perf_counter() - start
            step = max(1, min(MAX_STEP, 2 * step, int(step * SECONDS / max(seconds, 1e-9))))
        elif event is Event.LAYER_DONE:
            complete = pictures.layer_done(backend.chip)
            if complete is None:
                continue
            picture(*complete)
        else:
            raise _failure(event, backend, program)
        watch(backend.counters())

    outputs = {at: backend.outputs(at) for at in backend.places}
    for at, words in outputs.items():
        if words.size != stimulus.output_words[at]:
            raise ChipError(
                f"{program.name}: {_the_chip(backend, at)} gave {words.size} words, "
                f"not {stimulus.output_words[at]}"
            )
    stored = stored_maps(program, outputs, len(inputs))
    if not backend.sees_memory:
        for image, maps in enumerate(stored):
            for layer in program.layers:
                if layer.output.map.name in maps:
                    picture(image, layer, maps[layer.output.map.name])
    return ProgramRun(
        outputs=stored,
        counters=backend.counters(),
        layers=_layer_runs(program, pictures.ends(backend.slowest)),
    )


def _layer_runs(program: ChipProgram, ends: Sequence[Counters]) -> tuple[LayerRun, ...]:
    runs = []
    for number, (before, after) in enumerate(zip([Counters(), *ends], ends, strict=False)):
        image, index = divmod(number, len(program.layers))
        runs.append(
            LayerRun(
                name=program.layers[index].conv.name,
                image=image,
                cycles=after.computing - before.computing,
                starved=after.starved - before.starved,
            )
        )
    return tuple(runs)


def _the_chip(backend: Backend, at: Place) -> str:
    return "the chip" if backend.mesh.chips == 1 else f"chip {at[0]},{at[1]}"


def _failure(event: Event, backend: Backend, program: ChipProgram) -> ChipError:
    counters, chip = backend.chip_counters(backend.chip), _the_chip(backend, backend.chip)
    cycle = f"in cycle {counters.cycles}, " if backend.counts_cycles else ""
    where = f"{program.name}: {cycle}after {counters.layers} layers"
    if event is Event.ERROR:
        return ChipError(
            f"{where}: {chip} reports {error_meaning(counters.error, counters.side, counters.fault)}"
        )
    if event is Event.OVERRUN:
        return ChipError(f"{where}: {chip} gave more output words than the program stores")
    others = "" if backend.mesh.chips == 1 else ", nor any other"
    return ChipError(f"{where}: {chip} makes no progress{others}")


def error_meaning(error: int, side: int = 0, fault: int = 0) -> str:
    """A chip's error status in words; one that isa.py does not know as it is."""
    if error not in set(ErrorCode):
        return f"error {error}, which has no meaning"
    code = ErrorCode(error)
    meaning = ERROR_MEANING[code]
    if code is ErrorCode.LINK:
        meaning += f" {Side(side).name.lower()}: {LinkFault(fault).name}, {FAULT_MEANING[LinkFault(fault)]}"
    return f"error {code.value} ({code.name}): {meaning}"


ERROR_MEANING = {
    ErrorCode.OPCODE: "a program word has no meaning, or a packet has the wrong length",
    ErrorCode.CONFIG: "the program was made for another chip configuration",
    ErrorCode.LEFTOVER: "the program sent more weight rows than its layers use",
    ErrorCode.LINK: "the link fails in the",
}

FAULT_MEANING = {
    LinkFault.FRAME: "beats of a frame were lost or repeated",
    LinkFault.CHECK: "a checksum is wrong",
    LinkFault.SEQUENCE: "a frame was lost or repeated",
    LinkFault.SILENCE: "nothing has come for a long time",
    LinkFault.EPOCH: "the neighbour has been reset",
    LinkFault.PROTOCOL: "words came that are not of the map expected, or not all of it",
}
