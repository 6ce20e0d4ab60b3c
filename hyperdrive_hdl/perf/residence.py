"""Which map lies where in the feature-map memory, and from when to when."""

from dataclasses import dataclass

from ..compiler.ir import ChipProgram, PlacedLayer, PlacedMap, PlacedTransfer
from .cycles import ProgramTiming
from .memory import scratch_words

LOADED, COMPUTED, BYPASS, PARTIAL = "loaded", "computed", "bypass", "partial sums"


@dataclass(frozen=True)
class Resident:
    """A segment in use: ``words`` of every tile from ``base`` on, from cycle ``begin`` until before ``end``.

    ``kind`` tells maps loaded, maps computed, those of them that a later layer adds, and partial sums.
    ``source`` is the index among the program's layers of the one that writes it, None for a load.
    """

    name: str
    image: int
    kind: str
    source: int | None
    base: int
    words: int
    begin: int
    end: int


def residents(program: ChipProgram, timing: ProgramTiming, images: int = 1) -> list[Resident]:
    """All segments of a series of images, in the order in which they come into use.

    A map is in use from the start of what writes it to the end of what reads it last.
    """
    spans = _spans(program, timing, images)
    added = {layer.bypass.map.name for layer in program.layers if layer.bypass}
    makers = {layer.output.map.name: index for index, layer in enumerate(program.layers)}
    last: dict[tuple[int, str], int] = {}
    for (image, index), (_, end) in spans.items():
        for placed in _touched(program.steps[index]):
            key = image, placed.map.name
            last[key] = max(end, last.get(key, 0))
    found = []
    for (image, index), (begin, end) in spans.items():
        step = program.steps[index]
        loads = isinstance(step, PlacedTransfer)
        if loads and not step.load:
            continue
        placed = step.map if loads else step.output
        name = placed.map.name
        kind = LOADED if loads else BYPASS if name in added else COMPUTED
        source = makers.get(name)
        found.append(
            Resident(name, image, kind, source, placed.base, placed.words_per_tile, begin, last[image, name])
        )
        if words := scratch_words(step, program.chip):
            base = step.instruction.scratch_base
            found.append(Resident(f"{name} sums", image, PARTIAL, source, base, words, begin, end))
    return found


def words_in_use(segments: list[Resident]) -> list[tuple[int, int]]:
    """Cycle from which, and words of a tile: the words that at least one segment covers, change by change."""
    times = sorted({time for segment in segments for time in (segment.begin, segment.end)})
    changes = []
    for time in times:
        covered, reach = 0, 0
        for segment in sorted((s for s in segments if s.begin <= time < s.end), key=lambda s: s.base):
            low, high = max(reach, segment.base), segment.base + segment.words
            covered += max(0, high - low)
            reach = max(reach, high)
        changes.append((time, covered))
    return changes


def _spans(
    program: ChipProgram, timing: ProgramTiming, images: int
) -> dict[tuple[int, int], tuple[int, int]]:
    """First cycle of every step (a layer's first MAC), and the one after its last, by image and index."""
    layers, loads, stores = iter(timing.layers), iter(timing.loads), iter(timing.stores)
    spans = {}
    for image, index in program.sequence(images):
        step = program.steps[index]
        if isinstance(step, PlacedLayer):
            layer = next(layers)
            spans[image, index] = layer.begin, layer.end + 1
        else:
            first, final = next(loads if step.load else stores)
            spans[image, index] = first, final + 1
    return spans


def _touched(step: PlacedLayer | PlacedTransfer) -> list[PlacedMap]:
    if isinstance(step, PlacedTransfer):
        return [step.map]
    return [step.input, step.output, *([step.bypass] if step.bypass else [])]
