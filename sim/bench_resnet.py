"""Run ResNet-18 or -34 at 224x224 from ONNX to verdict on the RTL of the paper's chip, and time it.

Every layer's output is compared with the bit-exact reference, the cycles with the estimate, with the limit
(every TPU adds in every cycle) and with the paper's schedule, which stops for scale, bias and bypass.

    python sim/bench_resnet.py 18        # two or three minutes, of them one to build the simulator once
"""

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from make_resnet import build, random_images

from hyperdrive_hdl.compiler.compile import compile_model
from hyperdrive_hdl.compiler.host import run_float
from hyperdrive_hdl.model.network import run_network
from hyperdrive_hdl.perf.cycles import program_timing
from hyperdrive_hdl.perf.schedule import paper_schedule
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.simulate.engines import make_backend
from hyperdrive_hdl.simulate.network import simulate_network


class Stopwatch:
    """Seconds of one step after the other."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return seconds


def progress(stage: str, counters) -> None:
    if sys.stderr.isatty():
        print(f"\r{stage}: {counters.cycles:,} cycles, {counters.layers} layers", end="", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description="ResNet on the RTL of the paper's chip, compared and timed.")
    parser.add_argument("depth", type=int, nargs="?", default=18, choices=(18, 34))
    parser.add_argument("--seed", type=int, default=0, help="weights and image")
    options = parser.parse_args()
    chip = PRESETS["paper"]
    watch = Stopwatch()

    with TemporaryDirectory() as folder:
        path = Path(folder) / f"resnet{options.depth}.onnx"
        onnx.save(build(options.depth, seed=options.seed), path)
        print(f"ResNet-{options.depth} written: {path.stat().st_size / 1e6:.1f} MB, {watch.lap():.1f} s")
        compiled = compile_model(path, chip)
    program = next(iter(compiled.programs.values()))
    print(
        f"compiled: {len(program.layers)} layers, {len(program.words()):,} program words, {watch.lap():.1f} s"
    )

    backend = make_backend("cxxrtl", chip)
    print(f"simulator built or taken from the cache: {watch.lap():.1f} s")
    images = random_images(1, *compiled.network.input_shape[1:], seed=options.seed)
    exact = run_float(compiled.network, images)
    print(f"float32 network: {watch.lap():.1f} s")
    run_network(compiled.network, images, wbuf_depth=chip.wbuf_depth, accumulator=chip.accumulator)
    reference = watch.lap()
    with backend:
        run = simulate_network(compiled, images, backend, watch=progress)
    counters, comparison = run.counters, run.comparison
    rate = counters.cycles / run.seconds
    print(f"RTL: {run.seconds:.1f} s, {rate:,.0f} cycles/s; reference alone: {reference:.1f} s")

    timing = program_timing(program)
    paper = paper_schedule([step.conv for step in program.layers], chip)
    macs = sum(step.conv.macs for step in program.layers)
    print(f"cycles: {counters.cycles:,} in all (estimate {timing.cycles:,})")
    print(f"  computing {counters.computing:,} (estimate {timing.compute_cycles:,})")
    print(f"  load {counters.loading:,}, of them {counters.load_exposed:,} not hidden")
    print(
        f"  store {counters.storing:,}, of them {counters.store_exposed:,} not hidden; idle {counters.idle:,}"
    )
    print(f"  array waiting for weights {counters.starved:,}")
    print(f"utilisation: {macs / (counters.computing * chip.tpus):.2%} of the limit of {paper.conv:,} cycles")
    print(f"  the paper's schedule: {paper.total:,} cycles, {paper.conv / paper.total:.2%}")
    classes = [int(values.argmax()) for values in (exact, run.reference.output, run.output)]
    print("highest output: float {}, reference {}, RTL {}".format(*classes))
    print(f"{comparison.words:,} words compared with the reference, {comparison.mismatches:,} differ")
    for mismatch in comparison.first:
        print(f"  {mismatch}")
    same_cycles = (timing.cycles, timing.compute_cycles) == (counters.cycles, counters.computing)
    if not same_cycles:
        print("the estimate differs from the RTL")
    return 0 if same_cycles and not comparison.mismatches else 1


if __name__ == "__main__":
    sys.exit(main())
