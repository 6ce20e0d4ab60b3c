"""The paper's tables beside this chip's figures, for ``hyperdrive paper``: collected, measured, shown."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from ..arith.formats import format_by_name
from ..compiler.emit import compile_stage
from ..config import MeshConfig
from ..model.layers import run_stage
from ..perf.misprints import misprints
from ..perf.paper import BLOCK, LAYER, TABLE_ONE_RATE, tables
from ..perf.workloads import CHIP, table_one_stage
from ..simulate.engines import make_backend
from ..simulate.network import Comparison
from ..simulate.program import run_program

SOURCES = {
    "printed": "quoted from the paper",
    "recomputed": "recomputed from shapes and sizes by the paper's rules",
    "estimated": "estimated for this chip by the cycle model, which equals the RTL to the cycle",
    "measured": "measured on this chip's RTL",
}
SHORTER = 48  # output FMs of a second layer: the difference of the two is a block's cycles

Facts = dict[str, Any]


def paper_facts(*, measure: bool = False, progress: Callable[[str], None] = lambda text: None) -> Facts:
    """Tables I, II, IV and VI, figure by figure, and what does not follow: plain values, ready for JSON.

    Parameters
    ----------
    measure : run table I's layer on the RTL of the paper's chip and compare it with the reference; a minute
        or two, most of it for building the simulator, once
    progress : told what is being done

    Raises
    ------
    ToolError : ``measure``, and the simulator cannot be built
    ChipError : ``measure``, and the chip reports an error
    """
    measurement = None
    first, *others = tables()
    if measure:
        measurement = _measure(progress)
        cycles = measurement["cycles"]
        operations = 2 * table_one_stage().layers[0].macs
        values = {LAYER: cycles, BLOCK: cycles - measurement["cycles_shorter"]}
        first = first.with_measured(values | {TABLE_ONE_RATE: operations / cycles})
    return {
        "chip": CHIP.name,
        "sources": SOURCES,
        "tables": [table.to_json() for table in (first, *others)],
        "misprints": [misprint.to_json() for misprint in misprints()],
        "measurement": measurement,
    }


def _measure(progress: Callable[[str], None]) -> Facts:
    """Table I's layer on the RTL, with 64 and with fewer output FMs."""
    progress("building the simulator of the paper's chip")
    start = time.perf_counter()
    comparison, cycles = Comparison(), []
    with make_backend("cxxrtl", CHIP) as backend:
        build = time.perf_counter() - start
        for outputs in (64, SHORTER):
            progress(f"running table I's layer with {outputs} output FMs")
            cycles.append(_run_layer(backend, outputs, comparison))
    return {
        "engine": backend.name,
        "cycles": cycles[0],
        "cycles_shorter": cycles[1],
        "words_compared": comparison.words,
        "mismatches": comparison.mismatches,
        "first_mismatches": [str(mismatch) for mismatch in comparison.first],
        "build_seconds": build,
        "seconds": time.perf_counter() - start,
    }


def _run_layer(backend, outputs: int, comparison: Comparison) -> int:
    """Computing cycles of the layer; its output is compared with the reference."""
    stage = table_one_stage(outputs)
    number_format = format_by_name(CHIP.format)
    (source,), (target,) = stage.inputs, stage.outputs
    values = np.random.default_rng(outputs).normal(0, 1, (1, *source.shape)).astype(np.float32)
    words = {source.name: number_format.encode(values[0])}
    expected = run_stage(stage, words, wbuf_depth=CHIP.wbuf_depth, format=number_format)
    run = run_program(backend, compile_stage(stage, CHIP, MeshConfig()), [words])
    comparison.compare(f"{outputs} output FMs", 0, run.outputs[0][target.name], expected[target.name])
    return run.counters.computing


def differences(facts: Facts) -> list[str]:
    """What was measured and is not as it should be, for the exit status; empty where all is well."""
    measured = facts["measurement"]
    if measured is None:
        return []
    lines = []
    if measured["mismatches"]:
        lines.append(
            f"{measured['mismatches']:,} of {measured['words_compared']:,} words differ from the reference"
        )
        lines += [f"  {line}" for line in measured["first_mismatches"]]
    for table in facts["tables"]:
        for row in table["rows"]:
            if None not in (row["measured"], row["estimated"]) and row["measured"] != row["estimated"]:
                lines.append(
                    f"table {table['table']}, {row['figure']}: measured {row['measured']}, "
                    f"estimated {row['estimated']}"
                )
    return lines


def render(facts: Facts) -> Iterator[str | Table]:
    """Lines and tables for a terminal."""
    yield "Columns:"
    yield from (f"  {name}: {meaning}" for name, meaning in facts["sources"].items())
    yield "  Figures that the paper prints and that do not follow are marked with *."
    for table in facts["tables"]:
        yield ""
        yield _table(table)
    if measured := facts["measurement"]:
        yield ""
        yield (
            f"measured on the RTL ({measured['engine']}): {measured['words_compared']:,} words compared with "
            f"the reference, {measured['mismatches']:,} differ; {measured['seconds']:.0f} s, of them "
            f"{measured['build_seconds']:.0f} s for the simulator"
        )
    yield ""
    yield _misprint_table(facts["misprints"])


def _table(table: Facts) -> Table:
    shown = Table(
        title=f"Table {table['table']}: {table['title']}", title_justify="left", box=None, pad_edge=False
    )
    shown.add_column("figure", overflow="fold")
    shown.add_column("unit")
    for name in SOURCES:
        if name != "measured" or any(row[name] is not None for row in table["rows"]):
            shown.add_column(name, justify="right")
    for row in table["rows"]:
        cells = [row["figure"], row["unit"], _printed(row)]
        cells += [_figure(row[name]) for name in list(SOURCES)[1 : len(shown.columns) - 2]]
        shown.add_row(*map(Text, cells))
    return shown


def _printed(row: Facts) -> str:
    """The paper's text; a mark, or its place, behind it."""
    return "-" if row["printed"] is None else row["printed"] + ("*" if row["follows"] is False else " ")


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _misprint_table(lines: list[Facts]) -> Table:
    shown = Table(title="Printed, but does not follow", title_justify="left", box=box.SIMPLE, pad_edge=False)
    for name, width in (("where", 22), ("printed", 20), ("recomputed", 20), ("arithmetic", None)):
        shown.add_column(name, overflow="fold", width=width)
    for line in lines:
        shown.add_row(*(Text(line[name]) for name in ("where", "printed", "recomputed", "arithmetic")))
    return shown
