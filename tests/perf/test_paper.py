"""The paper's tables and misprints as recomputed from first principles, and what the columns say."""

import json
from io import StringIO

import pytest
from rich.console import Console

from hyperdrive_hdl.perf.misprints import misprints
from hyperdrive_hdl.perf.paper import (
    BLOCK,
    LAYER,
    Row,
    printed_value,
    table_four,
    table_one,
    table_six,
    table_two,
)
from hyperdrive_hdl.perf.workloads import resnet34_schedule, resnet34_timing
from hyperdrive_hdl.report.paper import differences, paper_facts, render


def rows_of(table) -> dict[tuple[str, str], Row]:
    found = {(row.figure, row.unit): row for row in table.rows}
    assert len(found) == len(table.rows)
    return found


@pytest.mark.parametrize(
    ("text", "value", "step"),
    [("9216", 9216, 1), ("36.8k", 36_800, 100), ("4.52M", 4_520_000, 10_000), ("14.67G", 14.67e9, 1e7)],
)
def test_printed_figures(text, value, step):
    assert printed_value(text) == pytest.approx((value, step))


@pytest.mark.parametrize(
    ("printed", "recomputed", "follows"),
    [("11M", 11_157_504, True), ("100M", 110_387_200, False), ("7.68k", 28_160, False), (None, 1, None)],
)
def test_whether_a_figure_follows(printed, recomputed, follows):
    assert Row(figure="x", unit="", printed=printed, recomputed=recomputed).follows is follows


def test_table_one():
    rows = rows_of(table_one())
    assert all(row.follows is not False for row in rows.values())
    assert [rows[name, "cycle"].estimated for name in ("first pixel complete", "second pixel complete")] == [
        144,
        288,
    ]
    assert rows[BLOCK, "cycles"].recomputed == rows[BLOCK, "cycles"].estimated == 9_216
    layer = rows[LAYER, "cycles"]
    assert layer.recomputed == 36_864
    assert 36_864 < layer.estimated < 36_864 + 40  # filling and draining the pipeline, once


def test_table_two():
    rows = rows_of(table_two())
    recomputed = {name: row.recomputed for (name, _), row in rows.items()}
    assert recomputed["ResNet-34 224x224: weights"] == 21_258_240
    assert round(recomputed["ResNet-34 224x224: all FMs"] / 1e6) == 110
    assert recomputed["ResNet-34 224x224: worst-case memory"] == 6_422_528
    assert round(recomputed["ResNet-34 2048x1024: worst-case memory"] / 1e6) == 268
    assert recomputed["ResNet-34 2048x1024: borders between 5x10 chips"] == 301_580_288
    wrong = {name for (name, _), row in rows.items() if row.follows is False}
    assert wrong == {
        "ResNet-34 224x224: all FMs",
        "ResNet-50 224x224: weights",
        "ResNet-152 224x224: weights",
        "ResNet-34 2048x1024: all FMs",
        "ResNet-34 2048x1024: worst-case memory",
    }


def test_table_four():
    rows = rows_of(table_four())
    assert rows["operations per cycle", "Op"].recomputed == 1568
    assert rows["FM memory", "bit"].recomputed == 6_422_528
    assert rows["weight buffer", "bit"].recomputed == 73_728
    assert rows["FM memory at 0.3 um2/bit", "mm2"].recomputed == pytest.approx(1.9268, abs=1e-4)
    assert rows["ResNet-34's weights at 0.3 um2/bit", "mm2"].follows
    wrong = {name for (name, _), row in rows.items() if row.follows is False}
    assert wrong == {"efficiency at 0.65 V with the printed 25.9 mW", "FM memory at 0.3 um2/bit"}


def test_table_six():
    rows = rows_of(table_six())
    cycles = {name: row for (name, unit), row in rows.items() if unit == "cycles"}
    recomputed = {name: row.recomputed for name, row in cycles.items() if row.recomputed is not None}
    assert recomputed == {
        "conv": 4_521_984,
        "bnorm": 59_904,
        "bias": 59_904,
        "bypass": 28_160,
        "total": 4_669_952,
    }
    assert cycles["conv"].estimated == 4_521_984
    assert sum(row.estimated for name, row in cycles.items() if name != "total") == cycles["total"].estimated
    assert rows["utilisation by all operations", "%"].recomputed == pytest.approx(96.93, abs=0.01)
    assert rows["utilisation by multiply-accumulates", "%"].estimated > 99.8
    assert rows["frames at 160 MHz", "1/s"].recomputed == pytest.approx(34.26, abs=0.01)


def test_the_chip_beats_the_papers_schedule():
    schedule, timing = resnet34_schedule(), resnet34_timing()
    assert schedule.macs == 3_545_235_456
    assert schedule.conv < timing.compute_cycles < 1.002 * schedule.conv < schedule.total


def test_misprints():
    found = {misprint.where: misprint for misprint in misprints()}
    assert len(found) == len(misprints()) >= 13
    recomputed = " | ".join(misprint.recomputed for misprint in found.values())
    for figure in (
        "28,160",
        "96.9 %",
        "34.3",
        "156.8",
        "4.18",
        "268 Mbit",
        "110 Mbit",
        "23.5 M, 58.0 M",
        "302 Mbit",
        "1.58 and 1.92",
        "237 MOp",
        "5 to 12 %",
    ):
        assert figure in recomputed
    assert all(misprint.arithmetic for misprint in found.values())


@pytest.fixture(scope="module")
def facts():
    return paper_facts()


def test_facts_are_plain_values(facts):
    assert json.loads(json.dumps(facts)) == facts
    assert [table["table"] for table in facts["tables"]] == ["I", "II", "IV", "VI"]
    assert facts["measurement"] is None
    assert differences(facts) == []


def test_rendering_shows_every_table_and_misprint(facts):
    console = Console(width=160, file=StringIO())
    for line in render(facts):
        console.print(line)
    text = console.file.getvalue()
    for wanted in ("Table I:", "Table II:", "Table IV:", "Table VI:", "7.68k*", "4,669,952", "arithmetic"):
        assert wanted in text


def test_a_measured_difference_is_told():
    table = table_one().with_measured({LAYER: 1})
    facts = {"tables": [table.to_json()], "measurement": {"mismatches": 0}}
    assert len(differences(facts)) == 1
    measured = {"mismatches": 2, "words_compared": 9, "first_mismatches": ["here"]}
    assert len(differences({"tables": [], "measurement": measured})) == 2
    with pytest.raises(ValueError, match="no row"):
        table.with_measured({"nothing": 1})
