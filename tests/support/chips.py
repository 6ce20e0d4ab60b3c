"""Small programs for simulators, and the check that a simulated chip computes what the model says."""

import numpy as np

from hyperdrive_hdl.arith.formats import FP16, Format
from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.compiler.ir import ChipProgram, ChipStage, FeatureMap
from hyperdrive_hdl.config import ChipConfig, MeshConfig
from hyperdrive_hdl.model.layers import run_stage
from hyperdrive_hdl.simulate.backend import Backend, Stimulus
from hyperdrive_hdl.simulate.program import ProgramRun, run_program
from hyperdrive_hdl.simulate.streams import loaded_streams, stored_words

from .resnet import random_conv
from .stages import random_map

# As small as a chip can be and still have everything: neighbours, blocks of input channels, ragged lanes.
MINI = ChipConfig(
    name="mini", lanes=2, tile_rows=1, tile_cols=2, fmm_banks=4, fmm_bank_depth=64, wbuf_depth=18
)


def small_stage(
    rng: np.random.Generator, *, height: int = 3, width: int = 2, format: Format = FP16
) -> ChipStage:
    """A 3x3 layer, its input channels in blocks of two and one, and a 1x1 one with a bypass."""
    source = FeatureMap("in", 3, height, width)
    first = random_conv(rng, source, "first", 3, format=format)
    second = random_conv(rng, first.output, "second", 3, kernel=1, bypass=source, format=format)
    return ChipStage("small", (source,), (first, second), (second.output,))


def small_program(
    seed: int, chip: ChipConfig = MINI, *, mesh: MeshConfig | None = None, **size: int
) -> tuple[ChipProgram, ChipStage, dict[str, np.ndarray]]:
    """``small_stage`` compiled, and one random input."""
    rng = np.random.default_rng(seed)
    stage = small_stage(rng, format=chip.number_format, **size)
    image = {m.name: random_map(rng, m, format=chip.number_format) for m in stage.inputs}
    return compile_stage(stage, chip, mesh or MeshConfig()), stage, image


def stimulus(program: ChipProgram, images: list[dict[str, np.ndarray]], /, **changes) -> Stimulus:
    """What ``run_program`` feeds, for tests of single events; plain values are those of one chip."""
    values = {
        "program": program.words(len(images)),
        "fm_in": loaded_streams(program, images),
        "output_words": stored_words(program, len(images)),
    }
    for name in ("fm_in", "output_words"):
        if name in changes and not isinstance(changes[name], dict):
            changes[name] = {(0, 0): changes[name]}
    return Stimulus(**(values | changes))


def check_program(
    backend: Backend,
    program: ChipProgram,
    stage: ChipStage,
    images: list[dict[str, np.ndarray]],
    **options,
) -> ProgramRun:
    """Every layer's picture and every stored map, against the reference; ``options`` of ``run_program``."""
    chip = program.chip
    expected = [
        run_stage(
            stage,
            image,
            wbuf_depth=chip.wbuf_depth,
            format=chip.number_format,
            accumulator=chip.accumulator,
        )
        for image in images
    ]
    seen = []

    def picture(image, layer, words):
        np.testing.assert_array_equal(
            words, expected[image][layer.output.map.name], f"image {image}, layer {layer.conv.name}"
        )
        seen.append((image, layer.conv.name))

    done = run_program(backend, program, images, picture=picture, **options)
    assert len(seen) == len(images) * len(stage.layers)
    stored = {store.map.map.name for store in program.stores}
    assert stored
    for image, maps in enumerate(done.outputs):
        assert set(maps) == stored
        for name, words in maps.items():
            wanted = expected[image][name] if name in expected[image] else images[image][name]
            np.testing.assert_array_equal(words, wanted, f"image {image}, stored map {name}")
    return done
