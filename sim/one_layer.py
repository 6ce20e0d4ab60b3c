"""One convolution on the tiny chip, with a waveform to look at: `python sim/one_layer.py`.

A 3x3 layer, 8 to 8 feature maps of 8x8 pixels, scale, bias and ReLU, without any ONNX file: the layer is
built by hand, compiled, run on the RTL, compared with the reference. About 3,400 cycles. Worth a look in the
waveform: `issue` (the operation stream, `go`), `weight_buffer`, `tile0_0`, `epilogue`, `load`, `store`.
"""

import argparse
from pathlib import Path

import numpy as np

from hyperdrive_hdl.arith.formats import format_by_name
from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.compiler.ir import BinaryConv, ChipStage, FeatureMap
from hyperdrive_hdl.config import MeshConfig
from hyperdrive_hdl.model.layers import conv_layer
from hyperdrive_hdl.presets import load_chip
from hyperdrive_hdl.simulate.backend import Backend
from hyperdrive_hdl.simulate.engines import ENGINES, make_backend
from hyperdrive_hdl.simulate.program import ProgramRun, run_program


def one_layer(channels: int, size: int, seed: int = 0) -> ChipStage:
    """A stage of one 3x3 layer with random weights; the scale keeps its values in the input's range."""
    rng = np.random.default_rng(seed)
    source = FeatureMap("input", channels, size, size)
    layer = BinaryConv(
        name="conv",
        input=source,
        output=FeatureMap("output", channels, size, size),
        weights=(rng.integers(0, 2, (channels, channels, 3, 3)) * 2 - 1).astype(np.int8),
        scale=np.full(channels, 1 / np.sqrt(9 * channels), np.float16).view(np.uint16),
        bias=rng.normal(0, 0.1, channels).astype(np.float16).view(np.uint16),
        relu=True,
    )
    return ChipStage("stage", (source,), (layer,), (layer.output,))


def simulate(stage: ChipStage, backend: Backend) -> tuple[ProgramRun, int]:
    """Run a stage of one layer on random values; the run, and how many words differ from the reference."""
    chip, (source,), (layer,) = backend.config, stage.inputs, stage.layers
    number_format = format_by_name(chip.format)
    values = np.random.default_rng(1).normal(0, 1, source.shape).astype(np.float32)
    words = number_format.encode(values)
    run = run_program(backend, compile_stage(stage, chip, MeshConfig()), [{source.name: words}])
    expected = conv_layer(layer, words, wbuf_depth=chip.wbuf_depth, format=number_format)
    return run, int((run.outputs[0][layer.output.name] != expected).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description="one convolution on the RTL, with a waveform")
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0])
    parser.add_argument("--chip", default="tiny")
    parser.add_argument("--vcd", type=Path, default=Path("build/one_layer.vcd"))
    arguments = parser.parse_args()
    arguments.vcd.parent.mkdir(parents=True, exist_ok=True)
    chip, stage = load_chip(arguments.chip), one_layer(channels=8, size=8)
    with make_backend(arguments.engine, chip, vcd=arguments.vcd) as backend:
        run, differing = simulate(stage, backend)
    counters = run.counters
    print(
        f"{counters.cycles} cycles: {counters.computing} computing, {counters.mac} with a MAC, "
        f"{counters.starved} waiting for weights; load {counters.loading}, store {counters.storing}"
    )
    print(f"{stage.layers[0].output.words} words compared with the reference, {differing} differ")
    print(f"waveform: {arguments.vcd}")
    raise SystemExit(bool(differing))


if __name__ == "__main__":
    main()
