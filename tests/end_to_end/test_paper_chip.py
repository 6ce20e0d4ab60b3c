"""The paper's chip as RTL, 16 x 7 x 7 TPUs: every layer shape of ResNet-34, and, slow, all of ResNet-34.

The shapes run with one block of 16 output FMs; further blocks do the same again. The simulator takes a minute
to build, once.
"""

import numpy as np
import onnx
import pytest

from hyperdrive_hdl.compiler.compile import compile_model
from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.compiler.ir import BinaryConv, ChipStage, FeatureMap
from hyperdrive_hdl.config import MeshConfig
from hyperdrive_hdl.perf.cycles import program_timing
from hyperdrive_hdl.perf.schedule import paper_schedule
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.simulate.network import simulate_network
from tests.support.resnet import random_conv, resnet
from tests.support.scripts import load_script
from tests.support.simulated import random_inputs, run_and_compare, simulator

CHIP = PRESETS["paper"]
INPUTS = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels and size of the four groups' maps


def shape_of(layer: BinaryConv) -> tuple:
    return (layer.input.shape, layer.kernel, layer.stride, layer.bypass is not None, layer.relu)


def group_stage(channels: int, size: int) -> ChipStage:
    """All layers of ResNet-34 that read a map of that shape, 16 output FMs each, on one map loaded once."""
    rng = np.random.default_rng(channels)
    source = FeatureMap("input", channels, size, size)
    plain = random_conv(rng, source, "plain", CHIP.lanes)
    layers = [plain, random_conv(rng, source, "bypass", CHIP.lanes, bypass=plain.output)]
    if size > 7:
        layers.append(random_conv(rng, source, "halving", CHIP.lanes, stride=2))
        layers.append(random_conv(rng, source, "projection", CHIP.lanes, kernel=1, stride=2, relu=False))
    outputs = tuple(layer.output for layer in layers[1:])
    return ChipStage(f"group{channels}", (source,), tuple(layers), outputs)


def test_the_groups_have_every_shape_of_resnet34():
    ours = {shape_of(layer) for group in INPUTS for layer in group_stage(*group).layers}
    assert ours == {shape_of(layer) for layer in resnet(34).layers}


@pytest.mark.parametrize(
    ("group", "stall_seed"),
    [
        *(pytest.param(group, None, id=str(group[0])) for group in INPUTS),
        pytest.param(INPUTS[3], 34, id="stalls"),
    ],
)
def test_layer_shapes(group, stall_seed):
    stage = group_stage(*group)
    program = compile_stage(stage, CHIP, MeshConfig())
    inputs = random_inputs(np.random.default_rng(group[1]), stage, 1)
    run, comparison = run_and_compare(stage, CHIP, inputs, program=program, stall_seed=stall_seed)
    assert comparison.mismatches == 0, comparison.first[0]
    assert comparison.words >= sum(layer.output.words for layer in stage.layers)
    timing, counters = program_timing(program), run.counters
    assert counters.mac == sum(layer.operations for layer in timing.layers)
    if stall_seed is not None:
        assert counters.cycles > timing.cycles
        return
    assert [layer.cycles for layer in run.layers] == [layer.cycles for layer in timing.layers]
    assert (counters.cycles, counters.computing) == (timing.cycles, timing.compute_cycles)
    assert (counters.loading, counters.storing) == (timing.load_cycles, timing.store_cycles)


@pytest.mark.slow
def test_resnet34_from_onnx(tmp_path):
    make_resnet = load_script("make_resnet")
    path = tmp_path / "resnet34.onnx"
    onnx.save(make_resnet.build(34), path)
    compiled = compile_model(path, CHIP)
    (program,) = compiled.programs.values()
    run = simulate_network(compiled, make_resnet.random_images(1, 224, 224), simulator(CHIP))
    assert run.comparison.mismatches == 0, run.comparison.first[0]
    assert run.reference.specials == {}
    timing, counters = program_timing(program), run.counters
    assert [layer.cycles for layer in run.layers] == [layer.cycles for layer in timing.layers]
    assert (counters.cycles, counters.computing) == (timing.cycles, timing.compute_cycles)
    paper = paper_schedule(compiled.network.layers, CHIP)
    assert paper.conv == counters.mac == 4_521_984
    assert counters.computing < 1.003 * paper.conv < paper.total
