"""Facts as tables and lines for a terminal."""

from collections.abc import Iterable, Iterator

from rich.table import Table
from rich.text import Text

from ..arith.formats import SEQUENTIAL
from ..config import ChipConfig, MeshConfig
from ..host.selftest import Part, SelftestResult
from .facts import CycleFacts, DemoFacts, EstimateFacts, RunFacts, StageFacts

NODES_SHOWN = 4  # of a stage, before the line is cut


def number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def shape(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def chip_line(chip: ChipConfig, mesh: MeshConfig) -> str:
    """The chip in a line."""
    text = (
        f"chip {chip.name!r}: {chip.lanes} lanes x {chip.tile_rows}x{chip.tile_cols} tiles = "
        f"{chip.tpus} TPUs, {number(chip.fmm_words)} words of feature maps, {chip.wbuf_depth} weight rows, "
        f"{chip.format}"
    )
    if chip.accumulator != SEQUENTIAL:
        text += f", {chip.accumulator} sums"
    if chip.adder_latency > 1:
        text += f", adders of {chip.adder_latency} stages"
    return text if mesh.chips == 1 else f"{text}; mesh {mesh} = {mesh.chips} chips"


def split_lines(stages: Iterable[StageFacts]) -> Iterator[str]:
    """Which operators run where, a line per stage."""
    for stage in stages:
        shown = ", ".join(stage.nodes[:NODES_SHOWN])
        more = len(stage.nodes) - NODES_SHOWN
        if more > 0:
            shown += f", ... {stage.nodes[-1]}" if more > 1 else f", {stage.nodes[-1]}"
        where = "chip" if stage.on_chip else "host"
        unit = "layers" if stage.on_chip else "operators"
        yield f"  {where}  {stage.name}: {len(stage.nodes)} {unit}: {shown}"


def layer_table(facts: RunFacts | EstimateFacts, *, compared: bool) -> Table:
    """A row per layer and the totals below; ``compared`` adds the column of mismatches."""
    layers, totals = facts.layers, facts.totals
    special = any(layer.infinities or layer.nans for layer in layers)
    table = Table(title_justify="left", box=None, pad_edge=False, show_footer=True)
    table.add_column("layer", footer="total", overflow="fold")
    table.add_column("kernel")
    table.add_column("in")
    table.add_column("out")
    table.add_column("MACs", number(totals.macs), justify="right")
    table.add_column("cycles", number(totals.compute_cycles), justify="right")
    table.add_column("utilisation", percent(totals.utilisation), justify="right")
    if compared:
        differing = sum(layer.mismatches or 0 for layer in layers)
        table.add_column("mismatches", number(differing), justify="right")
    if special:
        beyond = "clipped" if facts.chip.number_format.saturates else "Inf"
        for name, values in ((beyond, [x.infinities for x in layers]), ("NaN", [x.nans for x in layers])):
            table.add_column(name, number(sum(values)), justify="right")
    for layer in layers:
        kernel = f"{layer.kernel}x{layer.kernel}" + (f" /{layer.stride}" if layer.stride > 1 else "")
        row = [layer.name, kernel, shape(layer.input), shape(layer.output), number(layer.macs)]
        row += [number(layer.cycles), percent(layer.utilisation)]
        if compared:
            row.append(number(layer.mismatches))
        if special:
            row += [number(layer.infinities), number(layer.nans)]
        table.add_row(*map(Text, row))
    return table


def cycle_line(totals: CycleFacts) -> str:
    """Where all cycles went."""
    return (
        f"{number(totals.cycles)} cycles in all: {number(totals.compute_cycles)} computing, "
        f"{number(totals.load_exposed)} + {number(totals.store_exposed)} of load and store not hidden "
        f"(of {number(totals.load_cycles)} + {number(totals.store_cycles)}), "
        f"{number(totals.idle_cycles)} idle"
    )


def run_lines(facts: RunFacts) -> Iterator[str | Table]:
    """What ``hyperdrive run`` shows."""
    yield chip_line(facts.chip, facts.mesh)
    yield from split_lines(facts.stages)
    yield from (f"note: {note}" for note in facts.notes)
    yield ""
    yield layer_table(facts, compared=True)
    yield ""
    yield f"engine {facts.engine}, {facts.images} image{'s' if facts.images > 1 else ''}"
    if facts.totals.cycles is not None:
        rate = facts.simulated_cycles_per_second
        yield cycle_line(facts.totals) + ("" if rate is None else f"; {rate:,.0f} cycles/s simulated")
    if facts.mesh.chips > 1 and facts.border_bits is not None:
        yield (
            f"borders between chips: {number(facts.border_bits)} bits, {number(facts.link_bits)} on the "
            f"links; cycles are those of the slowest chip"
        )
    yield from special_lines(facts)
    compared, differing = number(facts.words_compared), number(facts.mismatches)
    yield f"{compared} words compared with the reference, {differing} differ"


def special_lines(facts: RunFacts) -> Iterator[str]:
    """A warning where values have left the format."""
    number_format = facts.chip.number_format
    if number_format.saturates:
        beyond = "clipped"
        why = f"{number_format.name} ends at {number_format.largest:g}"
    else:
        beyond = "infinite"
        why = f"unscaled sums can overflow {number_format.sums.name}"
    for layer in facts.layers:
        if layer.infinities or layer.nans:
            yield (
                f"warning: layer {layer.name}: {number(layer.infinities)} {beyond} and "
                f"{number(layer.nans)} NaN words; {why}, look at this layer's scale"
            )


def selftest_lines(found: SelftestResult) -> Iterator[str | Table]:
    """What ``hyperdrive selftest`` shows: a row per kind of part, and one per part that fails."""
    table = Table(title_justify="left", box=None, pad_edge=False)
    for name, justify in (("part", "left"), ("parts", "right"), ("words", "right"), ("failed", "right")):
        table.add_column(name, justify=justify)
    groups: dict[str, list[Part]] = {}
    for part in found.parts:
        kind = "lanes" if ", lane " in part.name else part.name.split(",")[0]
        groups.setdefault(kind, []).append(part)
    for kind, parts in groups.items():
        words, failed = sum(part.words for part in parts), sum(part.failed for part in parts)
        table.add_row(kind, number(len(parts)), number(words), number(failed))
        for part in parts:
            if part.failed:
                table.add_row(Text(f"  {part.name}"), "", number(part.words), number(part.failed))
    yield ""
    yield table
    yield ""
    yield from (f"note: {note}" for note in found.notes)
    failing = sum(part.failed > 0 for part in found.parts)
    verdict = "passed" if found.passed else f"{number(failing)} of {number(len(found.parts))} parts fail"
    yield f"{verdict}; {number(found.sent)} words sent, {number(found.received)} received"


def mismatch_lines(facts: RunFacts) -> Iterator[str]:
    """The first words that differ, for stderr; nothing where all are equal."""
    if not facts.mismatches:
        return
    yield f"{number(facts.mismatches)} of {number(facts.words_compared)} words differ from the reference"
    yield from (f"  {line}" for line in facts.first_mismatches)
    more = facts.mismatches - len(facts.first_mismatches)
    if more > 0:
        yield f"  ... and {number(more)} more"


def estimate_lines(facts: EstimateFacts) -> Iterator[str | Table]:
    """What ``hyperdrive estimate`` shows."""
    yield chip_line(facts.chip, facts.mesh)
    yield from split_lines(facts.stages)
    yield from (f"note: {note}" for note in facts.notes)
    yield ""
    yield layer_table(facts, compared=False)
    yield ""
    yield f"{cycle_line(facts.totals)}; streams that never stall, one image"
    used, there = number(facts.fmm_words), number(facts.chip.fmm_words)
    yield f"feature-map memory: {used} of {there} words per chip in the worst case"
    weights, borders = number(facts.weight_bits), number(facts.border_bits)
    yield f"weights: {weights} bits; borders between chips: {borders} bits"
    if facts.mesh.chips > 1:
        yield f"links: {number(facts.link_bits)} bits, frames and edges beyond the map's end among them"


def demo_lines(facts: DemoFacts, folder: str) -> Iterator[str | Table]:
    """What ``hyperdrive demo`` shows."""
    run = facts.run
    yield from run_lines(run)
    yield (
        f"accuracy: {percent(facts.accuracy_float)} in float32, "
        f"{percent(facts.accuracy_reference)} by the reference, {percent(facts.accuracy_rtl)} by the RTL"
    )
    if run.totals.cycles is not None:
        per_image = number(run.totals.cycles // run.images)
        yield f"{per_image} cycles per image, {percent(run.totals.utilisation)} utilisation"
    yield f"report: {folder}/report.md, figures: {folder}/report.json, picture: {folder}/layers.svg"
    yield f"Verilog of the chip: {folder}/{facts.verilog}"
    yield f"{facts.seconds:.1f} s in all"
