"""A run over time as plain SVG: layers, units and feature-map memory on one axis of cycles."""

from functools import partial

import numpy as np

from ..compiler.ir import ChipProgram, CompiledNetwork
from ..files import OutputFolder
from ..perf.activity import Activity, program_activity
from ..perf.cycles import LayerTiming
from ..perf.residence import BYPASS, COMPUTED, LOADED, PARTIAL, Resident, residents, words_in_use
from .svg import FAINT, GRID, INK, text_at
from .tables import number, percent, shape

WIDTH, LEFT, RIGHT, TOP = 1400, 290, 270, 104
PLOT = WIDTH - LEFT - RIGHT
ROW, LANE, MEMORY, USE, GAP = 17, 30, 224, 60, 52
COLUMNS = (LEFT + PLOT + 84, LEFT + PLOT + 142, LEFT + PLOT + 200, LEFT + PLOT + 258)  # right edges

ADDING, WAITING, TURNING, MOVING, ENDING = "#2f6f9f", "#e0663a", "#f2c14e", "#7b8794", "#5aa08a"
KINDS = {LOADED: "#9aa5b1", COMPUTED: "#8fbcd9", BYPASS: "#f0b67f", PARTIAL: "#b8a1d9"}
BACKGROUND = "#f4f6f8"


_text = partial(text_at, size=11)
SHOWN_IMAGES = 3  # of a series: the first, and how the others follow


def write_timelines(folder: OutputFolder, compiled: CompiledNetwork, images: int) -> list[str]:
    """A timeline for every chip stage, as files of the folder; their names."""
    names = []
    for program in compiled.programs.values():
        names.append(f"timeline_{program.name}.svg")
        title = f"{compiled.network.name}, {program.name} on chip {compiled.chip.name}"
        folder.write(names[-1], timeline_svg(program, min(images, SHOWN_IMAGES), title=title))
    return names


def timeline_svg(program: ChipProgram, images: int = 1, *, title: str = "") -> str:
    """The timeline of a program streamed for a series of images, by the cycle model that equals the RTL."""
    activity = program_activity(program, images, slices=PLOT)
    return _Timeline(program, activity, images, title or program.name).draw()


class _Timeline:
    """Draws the sections from top to bottom; ``y`` is where the next one goes."""

    def __init__(self, program: ChipProgram, activity: Activity, images: int, title: str):
        self.program, self.activity, self.images, self.title = program, activity, images, title
        self.timing = activity.timing
        self.parts: list[str] = []
        self.y = TOP

    def draw(self) -> str:
        axis = len(self.parts)
        self._layers()
        self._units()
        self._memory()
        self._use()
        height = self.y + 10
        self.parts[axis:axis] = [*self._head(), *self._axis(TOP - 8, self.y - 24)]
        frame = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" font-family="Helvetica, Arial, sans-serif" fill="{INK}">'
        )
        return "\n".join([frame, _rect(0, 0, WIDTH, height, "#ffffff"), *self.parts, "</svg>\n"])

    def _x(self, cycle: float) -> float:
        return LEFT + PLOT * cycle / self.timing.cycles

    def _head(self) -> list[str]:
        timing, chip = self.timing, self.program.chip
        adding = percent(sum(layer.operations for layer in timing.layers) / timing.compute_cycles)
        exposed = timing.load_exposed + timing.store_exposed
        images = "one image" if self.images == 1 else f"{self.images} images"
        line = (
            f"{images} on chip '{chip.name}': {number(timing.cycles)} cycles, "
            f"{number(timing.compute_cycles)} of them computing (the array adds in {adding} of these), "
            f"{number(exposed)} of load and store not hidden, {number(timing.idle_cycles)} idle"
        )
        return [_text(16, 30, self.title, size=18, weight="bold"), _text(16, 52, line, size=12, fill=FAINT)]

    def _axis(self, top: float, bottom: float) -> list[str]:
        """Vertical lines at round numbers of cycles, through all sections."""
        total = self.timing.cycles
        step = 10 ** len(str(total // 8))
        step = next((s for s in (step // 10, step // 5, step // 2) if s and total / s <= 10), step)
        parts = []
        for tick in range(0, total + 1, step):
            x = self._x(tick)
            parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="{GRID}"/>')
            for y in (top - 5, bottom + 15):
                parts.append(_text(x, y, number(tick), anchor="middle", fill=FAINT))
        return [*parts, _text(LEFT - 12, bottom + 15, "cycle", anchor="end", fill=FAINT)]

    def _section(self, name: str, legend: list[tuple[str, str]]) -> None:
        """A heading at the left edge, its colours below each other's line."""
        self.parts.append(_text(16, self.y - 8, name, size=13, weight="bold"))
        x = 30 + 8 * len(name)
        for colour, meaning in legend:
            self.parts += [
                _rect(x, self.y - 17, 10, 10, colour),
                _text(x + 14, self.y - 8, meaning, fill=FAINT),
            ]
            x += 28 + 5.7 * len(meaning)

    def _layers(self) -> None:
        """A row per layer and image: when it runs, and what the array does meanwhile."""
        self.y += 22
        legend = [(ADDING, "adds"), (WAITING, "waits for weights"), (TURNING, "turns around")]
        self._section("Layers", legend)
        heads = ("cycles", "adds", "waits", "turns")
        for x, text in zip(COLUMNS, heads, strict=True):
            self.parts.append(_text(x, self.y - 8, text, anchor="end", fill=FAINT))
        count = len(self.program.layers)
        for index, layer in enumerate(self.timing.layers):
            before = self.timing.layers[index - 1].end if index else -1
            self._layer_row(index % count, layer, before)
            self.y += ROW
        self.y += GAP

    def _layer_row(self, index: int, layer: LayerTiming, before: int) -> None:
        conv = self.program.layers[index].conv
        y = self.y
        if index % 2 == 0:
            self.parts.append(_rect(8, y, LEFT - 16, ROW, BACKGROUND))
            self.parts.append(_rect(LEFT + PLOT + 8, y, RIGHT - 16, ROW, BACKGROUND))
        stride = f"/{conv.stride}" if conv.stride > 1 else ""
        image = f" [{layer.image}]" if self.images > 1 else ""
        name = _cut(layer.name, 25 - len(image)) + image
        self.parts.append(_text(34, y + 12.5, str(index + 1), anchor="end", fill=FAINT))
        self.parts.append(_text(42, y + 12.5, name))
        kind = f"{conv.kernel}x{conv.kernel}{stride} {shape(conv.output.shape)}"
        self.parts.append(_text(LEFT - 12, y + 12.5, kind, anchor="end", fill=FAINT))
        # From the first cycle that counts as this layer's to its last.
        first = max(before + 1, layer.end + 1 - layer.cycles)
        begin, end = self._x(first), self._x(layer.end + 1)
        self.parts.append(_rect(begin, y + 2, max(end - begin, 0.8), ROW - 4, TURNING))
        self.parts.append(self._shares(layer, y + 2, ROW - 4))
        turning = layer.cycles - layer.operations - layer.starved
        figures = (
            number(layer.cycles),
            percent(layer.operations / layer.cycles),
            number(layer.starved),
            number(turning),
        )
        for x, text in zip(COLUMNS, figures, strict=True):
            self.parts.append(_text(x, y + 12.5, text, anchor="end"))

    def _shares(self, layer: LayerTiming, y: float, height: float) -> str:
        """The layer from its first operation to its last: in which share of the cycles the array adds."""
        edges, mac = self.activity.edges, self.activity.mac
        stop = layer.last + 1
        inside = np.flatnonzero((edges[:-1] < stop) & (edges[1:] > layer.begin))
        low, high = self._x(layer.begin), self._x(stop)
        back = _rect(low, y, max(high - low, 0.8), height, WAITING)
        points = [f"{low:.1f},{y + height:.1f}"]
        # A slice that a neighbouring layer shares says nothing about this one: take the layer's mean there.
        mean = layer.operations / (stop - layer.begin)
        for i in inside:
            whole = edges[i] >= layer.begin and edges[i + 1] <= stop
            top = y + height * (1 - min(1.0, mac[i] if whole else mean))
            start = max(low, self._x(edges[i]))
            points += [f"{start:.1f},{top:.1f}", f"{min(high, self._x(edges[i + 1])):.1f},{top:.1f}"]
        points.append(f"{max(high, low + 0.8):.1f},{y + height:.1f}")
        return back + f'<polygon points="{" ".join(_without_repeats(points))}" fill="{ADDING}"/>'

    def _units(self) -> None:
        """How busy the array, the epilogue and the transfers are, slice by slice."""
        activity, timing = self.activity, self.timing
        self._section("Units", [])
        self.parts.append(_text(LEFT, self.y - 8, "share of the cycles in use, from 0 to 1", fill=FAINT))
        lanes = (
            ("array adds", activity.mac, ADDING),
            ("epilogue at the memory", activity.epilogue, ENDING),
            ("load", activity.load, MOVING),
            ("store", activity.store, MOVING),
        )
        lengths = np.diff(activity.edges)
        for name, shares, colour in lanes:
            self.parts.append(_rect(LEFT, self.y, PLOT, LANE - 6, BACKGROUND))
            self.parts.append(_text(LEFT - 12, self.y + 16, name, anchor="end"))
            points = [f"{LEFT},{self.y + LANE - 6}"]
            for i, share in enumerate(shares):
                top = self.y + (LANE - 6) * (1 - min(1.0, share))
                points += [
                    f"{self._x(activity.edges[i]):.1f},{top:.1f}",
                    f"{self._x(activity.edges[i + 1]):.1f},{top:.1f}",
                ]
            points.append(f"{LEFT + PLOT},{self.y + LANE - 6}")
            self.parts.append(f'<polygon points="{" ".join(_without_repeats(points))}" fill="{colour}"/>')
            used = round(float((shares * lengths).sum()))
            note = f"{number(used)} cycles, {percent(used / timing.cycles)}"
            self.parts.append(_text(LEFT + PLOT + 12, self.y + 16, note, fill=FAINT))
            self.y += LANE
        self.y += GAP

    def _memory(self) -> None:
        """Addresses of a tile from bottom to top, bank by bank: which map lies there when."""
        chip = self.program.chip
        legend = [
            (KINDS[LOADED], "loaded"),
            (KINDS[COMPUTED], "computed"),
            (KINDS[BYPASS], "computed, added again later"),
            (KINDS[PARTIAL], "partial sums"),
        ]
        self.segments = residents(self.program, self.timing, self.images)
        kinds = {KINDS[segment.kind] for segment in self.segments}
        self._section("Memory of a tile", [item for item in legend if item[0] in kinds])
        self.parts.append(_rect(LEFT, self.y, PLOT, MEMORY, BACKGROUND))
        for segment in self.segments:
            self.parts += self._segment(segment)
        bank = MEMORY / chip.fmm_banks
        for index in range(chip.fmm_banks):
            y = self.y + MEMORY - bank * (index + 1)
            self.parts.append(_text(LEFT - 12, y + bank / 2 + 4, f"bank {index}", anchor="end", fill=FAINT))
            self.parts.append(
                f'<line x1="{LEFT}" y1="{y:.1f}" x2="{LEFT + PLOT}" y2="{y:.1f}" stroke="{FAINT}" '
                f'stroke-width="0.5" stroke-dasharray="2 3"/>'
            )
        note = f"{number(chip.fmm_bank_depth)} words each"
        self.parts.append(_text(LEFT + PLOT + 12, self.y + 14, note, fill=FAINT))
        self.parts.append(_text(LEFT + PLOT + 12, self.y + 30, "numbers: the layer that", fill=FAINT))
        self.parts.append(_text(LEFT + PLOT + 12, self.y + 44, "writes the map", fill=FAINT))
        self.y += MEMORY + GAP

    def _segment(self, segment: Resident) -> list[str]:
        scale = MEMORY / self.program.chip.fmm_words_per_tile
        x, end = self._x(segment.begin), self._x(segment.end)
        y, height = self.y + MEMORY - scale * (segment.base + segment.words), scale * segment.words
        parts = [_rect(x, y, max(end - x, 0.8), height, KINDS[segment.kind], outline="#ffffff")]
        label = "in" if segment.source is None else str(segment.source + 1)
        if end - x > 5 + 6 * len(label) and height > 11:
            parts.append(_text(x + 3, y + 11, label, size=10))
        return parts

    def _use(self) -> None:
        """Words of a tile in use, against those there are."""
        limit = self.program.chip.fmm_words_per_tile
        self._section("Words in use", [])
        changes = words_in_use(self.segments)
        self.parts.append(_rect(LEFT, self.y, PLOT, USE, BACKGROUND))
        points = [f"{LEFT},{self.y + USE}"]
        for (begin, words), (end, _) in zip(changes, [*changes[1:], (self.timing.cycles, 0)], strict=True):
            top = self.y + USE * (1 - words / limit)
            points += [f"{self._x(begin):.1f},{top:.1f}", f"{self._x(end):.1f},{top:.1f}"]
        points.append(f"{LEFT + PLOT},{self.y + USE}")
        self.parts.append(
            f'<polygon points="{" ".join(_without_repeats(points))}" fill="{KINDS[COMPUTED]}"/>'
        )
        peak = max(words for _, words in changes)
        self.parts.append(_text(LEFT - 12, self.y + 10, number(limit), anchor="end", fill=FAINT))
        self.parts.append(_text(LEFT - 12, self.y + USE, "0", anchor="end", fill=FAINT))
        note = f"at most {number(peak)} of {number(limit)} words"
        self.parts.append(_text(LEFT + PLOT + 12, self.y + 12, note, fill=FAINT))
        self.parts.append(
            _text(LEFT + PLOT + 12, self.y + 28, f"per tile, {percent(peak / limit)}", fill=FAINT)
        )
        self.y += USE + 40


def _cut(text: str, length: int) -> str:
    """A name's end says more than its beginning."""
    return text if len(text) <= length else f"...{text[3 - length :]}"


def _without_repeats(points: list[str]) -> list[str]:
    """Corners only: points between two of the same height are left out."""
    heights = [point.partition(",")[2] for point in points]
    return [
        point
        for i, point in enumerate(points)
        if i in (0, len(points) - 1) or not heights[i - 1] == heights[i] == heights[i + 1]
    ]


def _rect(x: float, y: float, width: float, height: float, colour: str, *, outline: str = "") -> str:
    stroke = f' stroke="{outline}" stroke-width="0.7"' if outline else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"{stroke}/>'
    )
