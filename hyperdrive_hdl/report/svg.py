"""The demo's picture: where one image's cycles go, layer by layer, as plain SVG."""

from xml.sax.saxutils import escape

from .facts import LayerFacts, RunFacts
from .tables import number, percent, shape

WIDTH, LEFT, RIGHT, ROW, TOP = 960, 250, 190, 26, 84
INK, FAINT, GRID = "#1f2933", "#6b7785", "#e1e6eb"
USED, LOST, MOVED = "#2f6f9f", "#d98c3f", "#9aa5b1"


def layers_svg(facts: RunFacts) -> str:
    """A row per layer on the time axis of one image; in each bar the part in which the array is used.

    Cycles are those measured, divided by the number of images. Needs an engine with cycles.
    """
    if facts.totals.cycles is None:
        raise ValueError(f"engine {facts.engine!r} knows no cycles to draw")
    rows = _rows(facts)
    total = sum(cycles for _, cycles, _, _ in rows)
    plot = WIDTH - LEFT - RIGHT
    height = TOP + ROW * len(rows) + 46
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="12" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        text_at(
            16,
            28,
            f"One image on chip '{facts.chip.name}': {number(round(total))} cycles",
            size=17,
            weight="bold",
        ),
        text_at(
            16,
            48,
            f"{facts.chip.tpus} TPUs, {percent(facts.totals.utilisation)} of their additions used while "
            f"computing; measured on the RTL ({facts.engine}, mean of {facts.images} images)",
            fill=FAINT,
        ),
        *_legend(66),
        *_axis(total, plot, height),
    ]
    start = 0.0
    for index, (label, cycles, used, note) in enumerate(rows):
        y = TOP + ROW * index
        x, width = LEFT + plot * start / total, plot * cycles / total
        parts.append(text_at(LEFT - 10, y + 17, label, anchor="end"))
        if used is None:
            parts.append(_bar(x, y, width, MOVED))
        else:
            parts.append(_bar(x, y, width, LOST))
            parts.append(_bar(x, y, width * used, USED))
        parts.append(text_at(WIDTH - RIGHT + 12, y + 17, note, fill=FAINT))
        start += cycles
    return "\n".join([*parts, "</svg>\n"])


def _rows(facts: RunFacts) -> list[tuple[str, float, float | None, str]]:
    """Label, cycles per image, used part (None: a transfer), note."""
    n, totals = facts.images, facts.totals
    load, store, idle = totals.load_exposed or 0, totals.store_exposed or 0, totals.idle_cycles or 0
    rows: list[tuple[str, float, float | None, str]] = [
        ("load image", load / n, None, f"{number(round(load / n))} cycles")
    ]
    for layer in facts.layers:
        cycles = (layer.cycles or 0) / n
        note = f"{number(round(cycles))} cycles, {percent(layer.utilisation)}"
        rows.append((_label(layer), cycles, layer.utilisation or 0.0, note))
    rows.append(
        ("store result, idle", (store + idle) / n, None, f"{number(round((store + idle) / n))} cycles")
    )
    return rows


def _label(layer: LayerFacts) -> str:
    name = layer.name if len(layer.name) <= 26 else f"...{layer.name[-23:]}"
    return f"{name}  {shape(layer.output)}"


def _legend(y: int) -> list[str]:
    parts, x = [], 16
    for colour, text in ((USED, "additions used"), (LOST, "lost"), (MOVED, "transfer not hidden, idle")):
        parts.append(f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(text_at(x + 15, y, text, fill=FAINT))
        x += 40 + 7 * len(text)
    return parts


def _axis(total: float, plot: int, height: int) -> list[str]:
    """Vertical lines at round numbers of cycles."""
    step = 10 ** len(str(int(total / 6)))
    step = next((s for s in (step / 10, step / 5, step / 2) if total / s <= 7), step)
    parts = []
    for tick in range(int(total / step) + 1):
        x = LEFT + plot * tick * step / total
        parts.append(f'<line x1="{x:.1f}" y1="{TOP - 4}" x2="{x:.1f}" y2="{height - 34}" stroke="{GRID}"/>')
        parts.append(text_at(x, height - 18, number(round(tick * step)), anchor="middle", fill=FAINT))
    parts.append(text_at(LEFT + plot + 12, height - 18, "cycles", fill=FAINT))
    return parts


def _bar(x: float, y: int, width: float, colour: str) -> str:
    return (
        f'<rect x="{x:.2f}" y="{y + 5}" width="{max(width, 0.5):.2f}" height="{ROW - 10}" fill="{colour}"/>'
    )


def text_at(
    x: float,
    y: float,
    text: str,
    *,
    size: float = 12,
    anchor: str = "start",
    fill: str = INK,
    weight: str = "normal",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{fill}" '
        f'font-weight="{weight}">{escape(text)}</text>'
    )
