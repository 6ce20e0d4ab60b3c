"""The scripts' networks: read, compiled, in range, the same for the same seed."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from hyperdrive_hdl.compiler.compile import compile_network
from hyperdrive_hdl.compiler.host import run_float
from hyperdrive_hdl.compiler.pipeline import import_network
from hyperdrive_hdl.errors import ModelError
from hyperdrive_hdl.model.network import run_network
from hyperdrive_hdl.perf.memory import fmm_words
from hyperdrive_hdl.perf.networks import resnet
from hyperdrive_hdl.presets import PRESETS
from tests.support.scripts import load_script

CHIP = PRESETS["paper"]
make_resnet = load_script("make_resnet")


def network_of(depth: int, tmp_path: Path, **options):
    path = tmp_path / f"{depth}.onnx"
    model = make_resnet.build(depth, **options)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return import_network(path)


def test_small_resnet18_against_float(tmp_path):
    network = network_of(18, tmp_path, height=32, width=64)
    images = make_resnet.random_images(2, 32, 64, seed=5)
    result = run_network(network, images, wbuf_depth=CHIP.wbuf_depth)
    exact = run_float(network, images)
    assert result.specials == {}
    assert result.output.shape == (2, 1000)
    assert np.corrcoef(result.output.ravel(), exact.ravel())[0, 1] > 0.999
    compile_network(network, CHIP)


@pytest.mark.parametrize("depth", [18, 34])
def test_imagenet_geometry(depth, tmp_path):
    network = network_of(depth, tmp_path)
    (program,) = compile_network(network, CHIP).programs.values()
    body = resnet(depth).layers
    assert network.notes == ()
    assert fmm_words(program) == 401_408
    shapes = sorted((layer.weights.shape, layer.stride, layer.output.shape) for layer in network.layers)
    assert shapes == sorted((layer.weights.shape, layer.stride, layer.output.shape) for layer in body)
    # Values of about 1 keep the unscaled sums of thousands of terms far from FP16's limit.
    scales = np.concatenate([layer.scale.view(np.float16) for layer in network.layers])
    assert 1e-3 < scales.min() < scales.max() < 1


def test_signs_are_stored_as_bytes(tmp_path):
    size = len(make_resnet.build(18, height=32, width=32).SerializeToString())
    float_weights = 4 * (9_408 + 512_000)  # of stem and classifier
    assert size < 1.02 * (11_157_504 + float_weights)


def test_bottlenecks_are_too_large_for_the_papers_memory(tmp_path):
    network = network_of(50, tmp_path)
    assert len(network.layers) == len(resnet(50).layers)
    with pytest.raises(ModelError) as error:
        compile_network(network, CHIP)
    message = str(error.value)
    for part in ("layer 'layer2.0.conv2'", "1304576 per chip", "401408", "fmm_bank_depth = 4096"):
        assert part in message


def test_same_seed_same_file():
    def build(seed):
        return make_resnet.build(18, height=32, width=32, seed=seed).SerializeToString(deterministic=True)

    assert build(1) == build(1)
    assert build(1) != build(2)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"depth": 20}, "depth must be one of"), ({"depth": 18, "height": 100}, "multiples of 32")],
)
def test_what_cannot_be_built(options, message):
    with pytest.raises(ValueError, match=message):
        make_resnet.build(**options)


def test_command_line(tmp_path, monkeypatch, capsys):
    model, image = tmp_path / "sub" / "m.onnx", tmp_path / "i.npy"
    arguments = ["18", "--height", "32", "--width", "32", "-o", str(model), "--input", str(image)]
    monkeypatch.setattr(sys, "argv", ["make_resnet.py", *arguments])
    make_resnet.main()
    assert str(model) in capsys.readouterr().out
    assert onnx.load(model).ir_version == 10
    images = np.load(image)
    assert (images.shape, images.dtype) == ((1, 3, 32, 32), np.float32)
    assert abs(images.mean()) < 1e-3
    assert images.std() == pytest.approx(1, abs=1e-3)
