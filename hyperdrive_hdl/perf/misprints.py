"""Figures that the paper prints and that do not follow, each with the arithmetic that shows it."""

from dataclasses import asdict, dataclass

from . import workloads
from .networks import resnet
from .paper import LOW_VOLTAGE_MHZ, UM2_PER_BIT, mm2

STEM_WEIGHTS = 64 * 3 * 7 * 7
STEM_PIXELS = 112 * 112
CLASSIFIER_WEIGHTS = 512 * 1000
PRINTED_OPERATIONS = 7.1e9  # of a frame, table VI


@dataclass(frozen=True)
class Misprint:
    """A figure of the paper, what it should be, and why."""

    where: str
    printed: str
    recomputed: str
    arithmetic: str

    def to_json(self) -> dict:
        return asdict(self)


def misprints() -> tuple[Misprint, ...]:
    """All that were found, table VI and what depends on it first."""
    return (*_schedule(), *_energy(), *_data(), *_compute())


def _schedule() -> tuple[Misprint, ...]:
    it, tiles = workloads.resnet34_schedule(), workloads.CHIP.tiles
    last = [layer for layer in resnet(34).layers if layer.bypass]
    per_stage = sum({layer.bypass.words for layer in last if layer.bypass})
    rate = LOW_VOLTAGE_MHZ * 1e6 / it.total
    return (
        Misprint(
            "Table VI, bypass",
            "7.68 k cycles",
            f"{it.bypass:,} cycles",
            f"{len(last)} blocks add {it.bypass_words:,} words, / {tiles} = {it.bypass:,}; the printed "
            f"{per_stage:,} words, / {tiles} = {per_stage // tiles:,}, are one block of each group",
        ),
        Misprint(
            "Table VI, total and utilisation",
            "4.65 M cycles, 97.5 %",
            f"{it.total / 1e6:.2f} M cycles, {100 * it.utilisation(workloads.CHIP):.1f} %",
            f"{it.conv:,} + {it.bnorm:,} + {it.bias:,} + {it.bypass:,} = {it.total:,}; "
            f"{it.operations:,} operations / ({it.total:,} x {2 * workloads.CHIP.tpus:,})",
        ),
        Misprint(
            "Section V-C, frame rate at 0.65 V",
            "35.9 frame/s",
            f"{rate:.1f} frame/s",
            f"{LOW_VOLTAGE_MHZ} MHz / {it.total:,} cycles",
        ),
    )


def _energy() -> tuple[Misprint, ...]:
    border, weights = workloads.large_border(), workloads.weight_total(34)
    chips = workloads.LARGE_MESH.chips
    return (
        Misprint(
            "Tables IV and V, 0.65 V",
            "250.9 GOp/s with 25.9 mW, 6.1 TOp/s/W",
            "156.8 GOp/s with 25.9 mW",
            f"250.9 / 25.9 = {250.9 / 25.9:.1f} TOp/s/W, not 6.1; 1568 Op x 100 MHz = 156.8 GOp/s, "
            f"/ 25.9 = {156.8 / 25.9:.2f}: the power belongs to 100 MHz",
        ),
        Misprint(
            "Abstract and table V, efficiency with I/O",
            "5.9 TOp/s/W",
            f"{PRINTED_OPERATIONS / 1.7e-3 / 1e12:.2f} TOp/s/W",
            "7.1 GOp / the printed 1.7 mJ per image (version 3 prints 4.3)",
        ),
        Misprint(
            "Table V, YodaNN at 1.20 and 0.60 V",
            "0.6 and 0.4 TOp/s/W",
            f"{7.1 / 4.5:.2f} and {7.1 / 3.7:.2f} TOp/s/W",
            "7.1 GOp / the printed 4.5 and 3.7 mJ",
        ),
        Misprint(
            "Table V, 64x32 tiles at 2048x1024",
            "0.49 mJ of I/O, as on one chip",
            f"{border / 1e6:.0f} Mbit of borders besides",
            f"{chips} chips ({workloads.LARGE_MESH}) exchange {border:,} bits per image, "
            f"{border / weights:.1f} times the {weights:,} bits of weights",
        ),
    )


def _data() -> tuple[Misprint, ...]:
    weights = {depth: workloads.weight_total(depth) for depth in (34, 50, 152)}
    moved, scale = workloads.moved_bits(34), workloads.LARGE_MAP[0] * workloads.LARGE_MAP[1] / 224**2
    low, high = 100e6 * scale, moved * scale
    memory = workloads.large_memory()
    fmm = workloads.CHIP.fmm_words * workloads.CHIP.word_width
    return (
        Misprint(
            "Table II, ResNet-34, all FMs",
            "100 Mbit",
            f"{moved / 1e6:.0f} Mbit",
            f"inputs, outputs and bypasses are {moved:,} bits; the same rule gives the table's "
            f"{workloads.moved_bits(18) / 1e6:.1f}, {workloads.moved_bits(50) / 1e6:.1f} and "
            f"{workloads.moved_bits(152) / 1e6:.1f} Mbit",
        ),
        Misprint(
            "Table II, ResNet-34 at 2048x1024",
            "940 Mbit, 14.67 Gbit, 710x",
            f"{memory / 1e6:.0f} Mbit, {low / 1e9:.1f} to {high / 1e9:.1f} Gbit, about 200x",
            f"2048 x 1024 / 224^2 = {scale:.1f}; {fmm:,} x {scale:.1f}; 100 to {moved / 1e6:.0f} Mbit x "
            f"{scale:.1f}; by {weights[34]:,} weights {low / weights[34]:.0f} to {high / weights[34]:.0f}",
        ),
        Misprint(
            "Table II, weights of ResNet-50 and -152",
            "66 M, 170 M",
            f"{(weights[50] + STEM_WEIGHTS) / 1e6:.1f} M, {(weights[152] + STEM_WEIGHTS) / 1e6:.1f} M",
            f"{weights[50]:,} and {weights[152]:,} in the body, {STEM_WEIGHTS:,} in the stem",
        ),
        Misprint(
            "Sections IV-A and V-A, area of the FM memory",
            "0.3 um2/bit, 1.24 mm2",
            f"{mm2(fmm):.2f} mm2",
            f"{fmm:,} bits x {UM2_PER_BIT} um2, the whole core of 1.92 mm2; 1.24 mm2 are "
            f"{1.24e6 / fmm:.2f} um2/bit",
        ),
        Misprint(
            "Section V, weight buffer",
            "5 x 8 blocks of 128 rows",
            "36 blocks",
            f"40 blocks of 128 x 16 bits are {40 * 128 * 16:,}; 512 kernels x 9 x 16 = {512 * 9 * 16:,} "
            f"bits, the printed 74 kbit, are 36",
        ),
    )


def _compute() -> tuple[Misprint, ...]:
    outside = STEM_WEIGHTS * STEM_PIXELS + CLASSIFIER_WEIGHTS
    ours = _macs(34) + outside
    others = [_macs(50, stride_first) + outside + 3 * CLASSIFIER_WEIGHTS for stride_first in (True, False)]
    more = [100 * (other / ours - 1) for other in others]
    return (
        Misprint(
            "Section V-B, first and last layer",
            "226 MOp",
            f"{2 * outside / 1e6:.0f} MOp",
            f"2 x ({STEM_WEIGHTS:,} weights x {STEM_PIXELS:,} pixels + {CLASSIFIER_WEIGHTS:,})",
        ),
        Misprint(
            "Section V-B, ResNet-50 against ResNet-34",
            "50 % more compute",
            f"{more[0]:.0f} to {more[1]:.0f} % more",
            f"{others[0]:,} (stride in the first 1x1 layer) or {others[1]:,} (in the 3x3 layer) against "
            f"{ours:,} multiply-accumulates",
        ),
    )


def _macs(depth: int, stride_first: bool = False) -> int:
    return sum(layer.macs for layer in resnet(depth, stride_first=stride_first).layers)
