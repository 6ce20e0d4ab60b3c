"""What each number format costs and keeps, on the digits network: one table.

    python sim/bench_formats.py                       # all 450 images by the reference
    python sim/bench_formats.py --rtl 10              # also 10 images on CXXRTL, word by word
    python sim/bench_formats.py fp16 q2.9:exact --images 100

``q2.9:exact`` is the format with exact sums. Columns:

- *accuracy*: on the held-out images, by the reference, which the RTL equals in every bit
- *error*: of the network's output against float32, root mean square over that of the outputs
- *beyond*: words of the feature maps that are infinite or clipped
- *map memory*: bits of feature-map memory in use at most, on the chip
- *weights*, *parameters*: bits of weights, and of scales and biases, streamed in per image
- *RTL*: words that differ from the reference, of those compared
"""

import argparse
import sys

import numpy as np
from rich.console import Console
from rich.table import Table

from hyperdrive_hdl.compiler.compile import compile_model
from hyperdrive_hdl.compiler.host import run_float
from hyperdrive_hdl.compiler.ir import CompiledNetwork
from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.data import digits_images, digits_model
from hyperdrive_hdl.errors import HyperdriveError
from hyperdrive_hdl.model.network import run_network
from hyperdrive_hdl.perf.memory import fmm_words
from hyperdrive_hdl.perf.traffic import parameter_bits, weight_bits
from hyperdrive_hdl.presets import load_chip
from hyperdrive_hdl.simulate.engines import make_backend
from hyperdrive_hdl.simulate.network import simulate_network

KINDS = (
    "fp16",
    "bf16",
    "fp8_e5m2",
    "fp8_e4m3",
    "q2.9",
    "q7.8",
    "fp16:exact",
    "fp8_e4m3:exact",
    "q2.9:exact",
)
COLUMNS = ("accuracy", "error", "beyond", "map memory", "weights", "parameters")


def configure(chip: ChipConfig, kind: str) -> ChipConfig:
    """The chip with the format, and the accumulator if one is named."""
    name, colon, accumulator = kind.partition(":")
    return chip.replace(format=name, **({"accumulator": accumulator} if colon else {}))


def by_reference(compiled: CompiledNetwork, images: np.ndarray, labels: np.ndarray) -> list[str]:
    """The cells of ``COLUMNS``."""
    chip, network = compiled.chip, compiled.network
    result = run_network(network, images, wbuf_depth=chip.wbuf_depth, accumulator=chip.accumulator)
    exact = run_float(network, images)
    error = np.sqrt(np.mean((result.output - exact) ** 2) / np.mean(exact**2))
    accuracy = np.mean(result.output.argmax(axis=1) == labels)
    beyond = sum(specials.infinities for specials in result.specials.values())
    words = len(images) * sum(layer.output.words for layer in network.layers)
    memory = max(map(fmm_words, compiled.programs.values())) * chip.word_width
    return [
        f"{100 * accuracy:.2f} %",
        f"{100 * error:.3f} %",
        f"{beyond:,} of {words:,}",
        f"{memory:,}",
        f"{sum(map(weight_bits, network.layers)):,}",
        f"{sum(parameter_bits(layer, chip) for layer in network.layers):,}",
    ]


def on_rtl(compiled: CompiledNetwork, images: np.ndarray) -> str:
    """Words that differ, of those compared."""
    with make_backend("cxxrtl", compiled.chip) as backend:
        comparison = simulate_network(compiled, images, backend).comparison
    return f"{comparison.mismatches:,} of {comparison.words:,}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", metavar="FORMAT[:exact]", default=KINDS)
    parser.add_argument("--chip", default="tiny")
    parser.add_argument("--images", type=int, help="how many of the held-out images (default all)")
    parser.add_argument("--rtl", type=int, default=0, metavar="N", help="images through the RTL, on CXXRTL")
    arguments = parser.parse_args()
    images, labels = (part[: arguments.images] for part in digits_images())
    console = Console()
    title = f"{len(images)} images, chip {arguments.chip!r}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("format")
    for heading in (*COLUMNS, *(["RTL"] if arguments.rtl else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    try:
        for kind in arguments.kinds:
            with console.status(f"{kind} ..."):
                compiled = compile_model(digits_model(), configure(load_chip(arguments.chip), kind))
                cells = by_reference(compiled, images, labels)
                if arguments.rtl:
                    cells.append(on_rtl(compiled, images[: arguments.rtl]))
            table.add_row(kind, *cells)
    except HyperdriveError as error:
        sys.exit(f"bench_formats: {error}")
    console.print(table)


if __name__ == "__main__":
    main()
