"""Facts and their renderings."""

from dataclasses import replace
from io import StringIO
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from hyperdrive_hdl.compiler.compile import compile_model
from hyperdrive_hdl.data import digits_model
from hyperdrive_hdl.perf.network import estimate_network
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.report.facts import CycleFacts, DemoFacts, RunFacts, estimate_facts
from hyperdrive_hdl.report.markdown import demo_report
from hyperdrive_hdl.report.program import hex_lines
from hyperdrive_hdl.report.svg import layers_svg
from hyperdrive_hdl.report.tables import layer_table, mismatch_lines, run_lines, split_lines


@pytest.fixture(scope="module")
def facts() -> RunFacts:
    """A run of four images, made from the estimate."""
    compiled = compile_model(digits_model(), PRESETS["tiny"])
    estimate = estimate_facts(compiled, estimate_network(compiled, 4))
    return RunFacts(
        engine="cxxrtl",
        chip=estimate.chip,
        mesh=estimate.mesh,
        images=4,
        totals=estimate.totals,
        mismatches=0,
        words_compared=4 * 6272,
        simulated_cycles_per_second=1e5,
        layers=tuple(replace(layer, mismatches=0) for layer in estimate.layers),
        stages=estimate.stages,
    )


def shown(lines) -> str:
    console = Console(file=StringIO(), width=160, highlight=False, markup=False)
    for line in lines:
        console.print(line, soft_wrap=isinstance(line, str))
    return console.file.getvalue()


def test_cycles_add_up(facts):
    totals = facts.totals
    assert totals.compute_cycles == sum(layer.cycles for layer in facts.layers)
    parts = totals.compute_cycles + totals.load_exposed + totals.store_exposed + totals.idle_cycles
    assert totals.cycles == parts


def test_run_shows_every_layer_and_the_totals(facts):
    text = shown(run_lines(facts))
    for layer in facts.layers:
        assert f"{layer.cycles:,}" in text
    assert f"{facts.totals.macs:,}" in text
    assert "25,088 words compared" in text
    assert "Inf" not in text
    assert list(mismatch_lines(facts)) == []


def test_special_values_and_differences_are_shown(facts):
    layers = (replace(facts.layers[0], infinities=12, nans=3, mismatches=5), *facts.layers[1:])
    wrong = replace(
        facts, layers=layers, mismatches=15, first_mismatches=tuple(f"place {i}" for i in range(10))
    )
    text = shown(run_lines(wrong))
    assert "12 infinite and 3 NaN" in text
    lines = list(mismatch_lines(wrong))
    assert lines[0].startswith("15 of 25,088")
    assert lines[-1] == "  ... and 5 more"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bf16", "12 infinite and 3 NaN words; unscaled sums can overflow bf16"),
        ("fp8_e5m2", "12 clipped and 3 NaN words; fp8_e5m2 ends at 57344"),
        ("fp8_e4m3_ftz", "12 clipped and 3 NaN words; fp8_e4m3_ftz ends at 448"),
        ("q2.9", "12 clipped and 3 NaN words; q2.9 ends at 3.99805"),
    ],
)
def test_special_values_in_the_words_of_the_format(facts, name, expected):
    layers = (replace(facts.layers[0], infinities=12, nans=3), *facts.layers[1:])
    chip = facts.chip.replace(format=name, adder_latency=3)
    text = shown(run_lines(replace(facts, layers=layers, chip=chip)))
    assert expected in text
    assert f"{name}, adders of 3 stages" in text
    heading = next(line for line in text.splitlines() if line.startswith("layer"))
    assert ("clipped" in heading) == chip.number_format.saturates
    assert ("Inf" in heading) != chip.number_format.saturates


def test_exact_sums_are_named(facts):
    exact = replace(facts, chip=facts.chip.replace(accumulator="exact"))
    assert "fp16, exact sums" in shown(run_lines(exact))


def test_names_are_not_markup(facts):
    odd = replace(facts.layers[0], name="[red]conv[/red]")
    assert "[red]conv[/red]" in shown([layer_table(replace(facts, layers=(odd,)), compared=True)])
    assert "&lt;conv&gt;" in layers_svg(replace(facts, layers=(replace(odd, name="<conv>"),)))


def test_split(facts):
    lines = list(split_lines(facts.stages))
    assert [line.split()[:2] for line in lines] == [
        ["host", "host0:"],
        ["chip", "chip0:"],
        ["host", "host1:"],
    ]
    assert "10 layers" in lines[1]


def test_picture_is_svg_with_a_bar_per_layer(facts):
    root = ElementTree.fromstring(layers_svg(facts))
    assert root.tag.endswith("svg")
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    width, height = float(root.get("width")), float(root.get("height"))
    bars = [element for element in root.iter() if element.tag.endswith("rect")]
    assert len(bars) >= 2 * len(facts.layers) + 2
    for bar in bars:
        assert float(bar.get("width")) >= 0
        assert float(bar.get("x") or 0) + float(bar.get("width")) <= width
        assert float(bar.get("y") or 0) + float(bar.get("height")) <= height
    for layer in facts.layers:
        assert any(f"{round(layer.cycles / 4):,} cycles" in (text or "") for text in texts)


def test_no_picture_without_cycles(facts):
    unknown = CycleFacts(**dict.fromkeys(vars(facts.totals)) | {"macs": 1})
    with pytest.raises(ValueError, match="no cycles"):
        layers_svg(replace(facts, totals=unknown))


def test_report(facts):
    demo = DemoFacts(
        run=facts,
        accuracy_float=0.99,
        accuracy_reference=0.98,
        accuracy_rtl=0.97,
        seconds=12.5,
        verilog="verilog/chip.v",
        verilog_bytes=1000,
    )
    text = demo_report(demo)
    for part in ("99.0 %", "98.0 %", "97.0 %", "12.5 s", "bit for bit equal", "verilog/chip.v"):
        assert part in text
    assert "DIFFERENT" in demo_report(replace(demo, run=replace(facts, mismatches=1)))


def test_hex_words():
    assert hex_lines(np.array([0, 10, 0xFFFF], np.uint64), 16) == "0000\n000a\nffff\n"
    assert hex_lines(np.array([1], np.uint64), 20) == "00001\n"
