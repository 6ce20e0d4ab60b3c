"""ResNet on a mesh of chips: the RTL of every chip, word for word, and what the links cost.

    python sim/bench_mesh.py               # ResNet-34, 224x224, 2x2 chips of 16 x 4x4 TPUs: a few minutes
    python sim/bench_mesh.py resnet18-448  # ResNet-18, 448x448, 2x2 chips `paper`: several minutes
    python sim/bench_mesh.py scaling       # ResNet-18 on 1, 4, 9 small chips, the map growing with the mesh

Each prints the cycles of the mesh beside those of one chip with all its tiles (by the estimate, which is
exact for one chip), the bits on the links beside the estimate, and how many words differ from the reference.
"""

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from make_resnet import build, random_images

from hyperdrive_hdl.compiler.compile import compile_model
from hyperdrive_hdl.compiler.ir import CompiledNetwork
from hyperdrive_hdl.config import ChipConfig, MeshConfig
from hyperdrive_hdl.perf.network import estimate_network
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.simulate.backend import Counters
from hyperdrive_hdl.simulate.engines import make_backend
from hyperdrive_hdl.simulate.network import simulate_network

SQUARE = MeshConfig(rows=2, cols=2)
QUARTER = PRESETS["paper"].replace(name="quarter", tile_rows=4, tile_cols=4)
RUNS = {"resnet34": (34, 224, QUARTER), "resnet18-448": (18, 448, PRESETS["paper"])}


def progress(stage: str, counters: Counters) -> None:
    if sys.stderr.isatty():
        print(f"\r{stage}: {counters.cycles:,} cycles, {counters.layers} layers", end="", file=sys.stderr)


def compiled_resnet(depth: int, size: int, chip: ChipConfig, mesh: MeshConfig, **options) -> CompiledNetwork:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"resnet{depth}.onnx"
        onnx.save(build(depth, height=size, width=size, **options), path)
        return compile_model(path, chip, mesh)


def measure(compiled: CompiledNetwork, images: np.ndarray) -> tuple[int, bool]:
    """Run on the RTL and print; the compute cycles, and whether all is as it should be."""
    chip, mesh = compiled.chip, compiled.mesh
    start = time.perf_counter()
    backend = make_backend("cxxrtl", chip, mesh=mesh)
    seconds = time.perf_counter() - start
    print(f"{chip.name}, mesh {mesh}: simulator built or taken from the cache in {seconds:.0f} s")
    with backend:
        run = simulate_network(compiled, images, backend, watch=progress)
    counters, comparison = run.counters, run.comparison
    estimate = estimate_network(compiled, len(images))
    border, link = counters.border_words * chip.word_width, counters.link_beats * chip.link_width
    print(f"  {run.seconds:.0f} s, {counters.cycles / run.seconds:,.0f} cycles/s of {mesh.chips} chips")
    print(f"  cycles {counters.cycles:,} (estimate {estimate.cycles:,})")
    print(f"  computing {counters.computing:,} (estimate {estimate.compute_cycles:,})")
    print(f"  border {border:,} bits (estimate {estimate.border_bits:,})")
    print(f"  links {link:,} bits (estimate {estimate.link_bits:,})")
    print(f"  {comparison.words:,} words compared, {comparison.mismatches:,} differ")
    for mismatch in comparison.first:
        print(f"    {mismatch}")
    as_estimated = (border, link) == (estimate.border_bits, estimate.link_bits)
    if not as_estimated:
        print("  the links carried other bits than estimated")
    return counters.computing, as_estimated and not comparison.mismatches


def network(name: str, seed: int) -> bool:
    """A whole network on 2x2 chips."""
    depth, size, chip = RUNS[name]
    compiled = compiled_resnet(depth, size, chip, SQUARE, seed=seed)
    images = random_images(1, *compiled.network.input_shape[1:], seed=seed)
    computing, right = measure(compiled, images)
    big = chip.replace(name="big", tile_rows=2 * chip.tile_rows, tile_cols=2 * chip.tile_cols)
    alone = estimate_network(compiled_resnet(depth, size, big, MeshConfig(), seed=seed))
    grid = f"{big.tile_rows} x {big.tile_cols}"
    print(f"one chip of {grid} tiles computes {alone.compute_cycles:,} cycles (estimate)")
    print(f"lost to the links: {computing / alone.compute_cycles - 1:.3%}")
    return right


def scaling(seed: int) -> bool:
    """The map grows with the mesh: every chip has the same work."""
    found, right = {}, True
    chip = PRESETS["tiny"].replace(name="scaled", lanes=16, fmm_bank_depth=1024, border_depth=512)
    for side in (1, 2, 3):
        compiled = compiled_resnet(18, 64 * side, chip, MeshConfig(rows=side, cols=side), seed=seed)
        images = random_images(1, *compiled.network.input_shape[1:], seed=seed)
        found[side], same = measure(compiled, images)
        right &= same
    for side, computing in found.items():
        print(f"{side * side} chips: {computing:,} compute cycles, {computing / found[1] - 1:+.3%}")
    return right


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", default="resnet34", choices=(*RUNS, "scaling"))
    parser.add_argument("--seed", type=int, default=0, help="weights and image")
    options = parser.parse_args()
    right = scaling(options.seed) if options.what == "scaling" else network(options.what, options.seed)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
