"""Observed programs: what they store is every layer's output as a simulator sees it in memory."""

import numpy as np
import pytest

from hyperdrive_hdl.arith.formats import format_by_name
from hyperdrive_hdl.compiler.compile import compile_model
from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.compiler.ir import ChipProgram, ChipStage
from hyperdrive_hdl.config import ChipConfig, MeshConfig
from hyperdrive_hdl.data import digits_images, digits_model
from hyperdrive_hdl.errors import ModelError
from hyperdrive_hdl.model.decode import decode
from hyperdrive_hdl.model.layers import run_stage
from hyperdrive_hdl.perf.network import estimate_network
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.simulate.engines import make_backend
from hyperdrive_hdl.simulate.interpreted import interpret_program
from hyperdrive_hdl.simulate.network import simulate_network
from hyperdrive_hdl.simulate.program import run_program
from tests.support.chips import MINI, small_stage
from tests.support.hazards import unordered
from tests.support.resnet import residual_stage
from tests.support.simulated import CHIPS, random_inputs, simulator
from tests.support.stages import random_chip, random_mesh, random_stage

ONE = MeshConfig()


def observed(stage: ChipStage, chip: ChipConfig, mesh: MeshConfig = ONE) -> ChipProgram:
    return compile_stage(stage, chip, mesh, observe=True)


def check(stage: ChipStage, program: ChipProgram, inputs: list[dict], run) -> None:
    """Stored maps of every image against the pictures taken in the same run, and against the reference."""
    chip, pictures = program.chip, {}
    done = run(program, inputs, picture=lambda image, layer, words: pictures.update({(image, layer): words}))
    layers = program.layers
    assert len(pictures) == len(inputs) * len(layers) > 0
    for image, words in enumerate(inputs):
        expected = run_stage(
            stage,
            words,
            wbuf_depth=chip.wbuf_depth,
            format=chip.number_format,
            accumulator=chip.accumulator,
        )
        assert set(done.outputs[image]) == {layer.output.map.name for layer in layers}
        for layer in layers:
            name = layer.output.map.name
            np.testing.assert_array_equal(done.outputs[image][name], pictures[image, layer], name)
            np.testing.assert_array_equal(done.outputs[image][name], expected[name], name)


def on(engine: str):
    return lambda program, inputs, **options: run_program(
        simulator(program.chip, engine), program, inputs, **options
    )


@pytest.mark.parametrize("seed", range(24))
def test_random_stages_by_the_interpreter(seed):
    """In place, several inputs and outputs, blocks of input channels, meshes, several images."""
    rng = np.random.default_rng(seed)
    number_format = format_by_name(("fp16", "q2.9", "fp8_e4m3")[seed % 3])
    chip = random_chip(rng).replace(format=number_format.name)
    mesh = random_mesh(rng) if seed % 2 else ONE
    stage = random_stage(rng, layers=int(rng.integers(1, 8)), format=number_format)
    inputs = random_inputs(rng, stage, 3, special=0.1, format=number_format)
    try:
        program = observed(stage, chip, mesh)
    except ModelError as error:  # more borders than chips of a mesh keep
        if "the borders of" not in str(error):
            raise
        program = observed(stage, chip)
    check(stage, program, inputs, interpret_program)


@pytest.mark.parametrize("seed", range(60))
def test_fences_cover_every_hazard(seed):
    """The interpreter runs one instruction after another; this is about those that run beside each other."""
    rng = np.random.default_rng(seed)
    stage, chip = random_stage(rng, layers=int(rng.integers(1, 9))), random_chip(rng)
    [decoded] = decode(observed(stage, chip).words(3), chip)
    assert unordered(decoded.instructions, chip.lanes) == []


@pytest.mark.parametrize(("blocks", "banks"), [((1,), 2), ((2, 2), 2), ((3, 4, 6, 3), 8)])
def test_fences_of_residual_networks_in_a_tight_memory(blocks, banks):
    chip = ChipConfig(lanes=4, tile_rows=2, tile_cols=2, fmm_banks=banks, fmm_bank_depth=64, wbuf_depth=900)
    stage = residual_stage(blocks, 4, 8, 8)
    program = observed(stage, chip)
    assert any(layer.bypass and layer.bypass.base == layer.output.base for layer in program.layers)
    [decoded] = decode(program.words(3), chip)
    assert unordered(decoded.instructions, chip.lanes) == []


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)
@pytest.mark.parametrize("seed", range(3))
def test_random_stages_on_the_rtl(chip, seed):
    rng = np.random.default_rng(seed)
    stage = random_stage(rng)
    check(stage, observed(stage, chip), random_inputs(rng, stage, 2, special=0.05), on("cxxrtl"))


def test_a_stage_on_amaranths_simulator():
    rng = np.random.default_rng(1)
    stage = small_stage(rng)
    check(stage, observed(stage, MINI), random_inputs(rng, stage, 2), on("pysim"))


def test_a_mesh_on_the_rtl():
    rng = np.random.default_rng(2)
    chip = CHIPS[0].replace(link_width=4)
    stage = residual_stage((1, 1), 4, 9, 8)
    program = observed(stage, chip, MeshConfig(rows=1, cols=2))
    with make_backend("cxxrtl", chip, mesh=program.mesh) as backend:
        check(
            stage,
            program,
            random_inputs(rng, stage, 2),
            lambda program, inputs, **options: run_program(backend, program, inputs, **options),
        )


def test_the_digits_network():
    """Words compared and results are those of the plain programs; the next image still loads early."""
    chip = PRESETS["tiny"]
    plain = compile_model(digits_model(), chip)
    stored = compile_model(digits_model(), chip, observe=True)
    images = digits_images()[0][:2]
    for name, program in plain.programs.items():
        early, late = program.reload_after, stored.programs[name].reload_after
        assert early is not None
        assert late is not None
        # The same layer, or its output's store.
        layers = [s.conv.name for s in program.steps[: early + 1] if s in program.layers]
        steps = stored.programs[name].steps[: late + 1]
        assert layers == [s.conv.name for s in steps if s in stored.programs[name].layers]
    backend = simulator(chip)
    runs = [simulate_network(compiled, images, backend) for compiled in (plain, stored)]
    for run in runs:
        assert (run.comparison.mismatches, run.comparison.words) == (0, 2 * 6272)
    np.testing.assert_array_equal(runs[0].output, runs[1].output)
    for name, program in stored.programs.items():
        assert {s.map.map.name for s in program.stores} == {
            layer.output.map.name for layer in program.layers
        }, name


def test_programs_are_the_same_each_time_and_timed():
    chip = PRESETS["tiny"]
    once, again = (compile_model(digits_model(), chip, observe=True) for _ in range(2))
    for name, program in once.programs.items():
        np.testing.assert_array_equal(program.words(2), again.programs[name].words(2))
    plain = estimate_network(compile_model(digits_model(), chip))
    assert estimate_network(once).store_cycles > plain.store_cycles
