"""The timeline is well-formed, shows every layer, and its memory is the one the compiler counted."""

from xml.etree import ElementTree

import numpy as np
import pytest

from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.compiler.ir import ChipStage, FeatureMap
from hyperdrive_hdl.config import MeshConfig
from hyperdrive_hdl.perf.cycles import program_timing
from hyperdrive_hdl.perf.memory import step_words
from hyperdrive_hdl.perf.residence import PARTIAL, residents, words_in_use
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.report.timeline import timeline_svg
from tests.support.resnet import random_conv, resnet
from tests.support.simulated import CHIPS

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def small_program(chip):
    rng = np.random.default_rng(3)
    first = random_conv(rng, FeatureMap("in", 8, 6, 6), 'a<"&>', 8)
    second = random_conv(rng, first.output, "b", 8, bypass=first.input)
    stage = ChipStage("stage", (first.input,), (first, second), (second.output,))
    return compile_stage(stage, chip, MeshConfig())


@pytest.mark.parametrize("chip", CHIPS[:3], ids=lambda chip: chip.name)
@pytest.mark.parametrize("images", [1, 2])
def test_small_runs(chip, images):
    program = small_program(chip)
    found = texts(timeline_svg(program, images, title="a < b"))
    assert "a < b" in found
    suffix = " [0]" if images > 1 else ""
    assert {f'a<"&>{suffix}', f"b{suffix}"} <= set(found)
    assert [f"bank {i}" for i in range(chip.fmm_banks)] == [t for t in found if t.startswith("bank ")]


def test_resnet34_on_the_papers_chip():
    program = compile_stage(resnet(34), PRESETS["paper"], MeshConfig())
    svg = timeline_svg(program, title="ResNet-34")
    found = texts(svg)
    assert {layer.conv.name for layer in program.layers} <= set(found)
    assert "at most 8,192 of 8,192 words" in found
    assert len(svg) < 200_000
    numbers = [
        float(value)
        for element in ElementTree.fromstring(svg).iter(f"{SVG}rect")
        for value in (element.get("x"), element.get("y"), element.get("width"), element.get("height"))
    ]
    assert min(numbers) >= 0


@pytest.mark.parametrize("chip", CHIPS[:3], ids=lambda chip: chip.name)
def test_memory_in_use_is_what_the_steps_need(chip):
    program = small_program(chip)
    segments = residents(program, program_timing(program))
    assert max(words for _, words in words_in_use(segments)) == max(step_words(program))
    split = any(layer.instruction.in_blocks > 1 for layer in program.layers)
    assert any(segment.kind == PARTIAL for segment in segments) == split
    assert words_in_use(segments)[-1][1] == 0
