"""Speed and utilisation of the demo's chip: `python sim/bench_demo_chip.py`. Prints figures, judges nothing.

- the digits network on CXXRTL: utilisation by layer, words that differ, cycles per second
- one small layer on CXXRTL and in Amaranth's own simulator: how much faster the compiled one is
"""

import argparse
import time

from one_layer import one_layer, simulate

from hyperdrive_hdl.compiler.compile import compile_model
from hyperdrive_hdl.compiler.ir import BinaryConv
from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.data import digits_images, digits_model
from hyperdrive_hdl.presets import load_chip
from hyperdrive_hdl.report.facts import run_facts
from hyperdrive_hdl.simulate.engines import make_backend
from hyperdrive_hdl.simulate.network import simulate_network


def is_regular(layer: BinaryConv, chip: ChipConfig) -> bool:
    """The layers that should use at least 97 % of the array: nothing about them leaves TPUs without work.

    Channels divide by K and maps by the grid of tiles, a sum has at least 64 terms, and the layer lasts at
    least 4,096 cycles, so that the first weights and the last epilogue do not count.
    """
    terms = layer.weights[0].size
    whole = layer.output.channels // layer.groups % chip.lanes == 0
    whole &= layer.output.height % chip.tile_rows == 0 and layer.output.width % chip.tile_cols == 0
    return bool(whole and terms >= 64 and layer.macs // chip.tpus >= 4096)


def bench_network(chip: ChipConfig, images: int) -> None:
    compiled = compile_model(digits_model(), chip)
    pictures = digits_images()[0][:images]
    start = time.perf_counter()
    with make_backend("cxxrtl", chip) as backend:
        print(f"simulator ready in {time.perf_counter() - start:.1f} s")
        run = simulate_network(compiled, pictures, backend)
    facts = run_facts(compiled, run, "cxxrtl", images)
    convs = {layer.name: layer for layer in compiled.network.layers}
    regular = [layer for layer in facts.layers if is_regular(convs[layer.name], chip)]
    for layer in facts.layers:
        mark = "regular" if layer in regular else ""
        print(
            f"  {layer.name:32} {layer.cycles:>10,} cycles  {100 * (layer.utilisation or 0):5.1f} %  {mark}"
        )
    print(
        f"utilisation: {100 * (facts.totals.utilisation or 0):.1f} % in all; the lowest of {len(regular)} "
        f"regular layers {100 * min(layer.utilisation or 0 for layer in regular):.1f} %"
    )
    print(f"{facts.words_compared:,} words compared, {facts.mismatches} differ")
    print(
        f"{facts.totals.cycles:,} cycles at {facts.simulated_cycles_per_second:,.0f} cycles/s, "
        f"the reference beside it"
    )


def bench_engines(chip: ChipConfig) -> None:
    rates = {}
    for engine, channels in (("cxxrtl", 64), ("pysim", 4)):  # each with enough cycles to measure
        with make_backend(engine, chip) as backend:
            start = time.perf_counter()
            run, differing = simulate(one_layer(channels, size=8), backend)
            seconds = time.perf_counter() - start
        cycles = run.counters.cycles
        rates[engine] = cycles / seconds
        print(f"  {engine:7} {cycles:>9,} cycles in {seconds:.2f} s: {rates[engine]:,.0f} cycles/s, ", end="")
        print(f"{differing} of {run.outputs[0]['output'].size} words differ")
    print(f"CXXRTL is {rates['cxxrtl'] / rates['pysim']:,.0f} times as fast as pysim")


def main() -> None:
    parser = argparse.ArgumentParser(description="figures of the demo's chip")
    parser.add_argument("--chip", default="tiny")
    parser.add_argument("--images", type=int, default=10)
    arguments = parser.parse_args()
    chip = load_chip(arguments.chip)
    bench_network(chip, arguments.images)
    bench_engines(chip)


if __name__ == "__main__":
    main()
