"""The paper's tables I, II, IV and VI beside our chip's figures.

Every figure stands in the column that says where it is from: ``printed`` is quoted from the paper (version 1
of arXiv 1804.00623), ``recomputed`` follows from shapes and sizes by the paper's own rules, ``estimated`` is
our chip's by the cycle model, which equals the RTL to the cycle, and ``measured`` our chip's by running its
RTL. Power in 22 nm cannot be reproduced here and is only quoted.
"""

from dataclasses import dataclass, replace

from ..compiler.emit import compile_stage
from ..config import MeshConfig
from .cycles import program_timing, run_clock
from .memory import border_memory_bits, corner_memory_bits, fmm_words
from .networks import resnet
from .traffic import input_bits, weight_bits
from .workloads import (
    CHIP,
    at_large,
    large_border,
    large_memory,
    large_program,
    moved_bits,
    resnet34_schedule,
    resnet34_timing,
    table_one_stage,
    weight_total,
)

LOW_VOLTAGE_MHZ = 160  # the operating point at 0.65 V
UM2_PER_BIT = 0.3  # of SRAM in 22FDX (section IV-A)
UM2_PER_GATE = 0.199


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of a table, from up to four sources. ``printed`` is the text of the paper."""

    figure: str
    unit: str
    printed: str | None = None
    recomputed: float | None = None
    estimated: float | None = None
    measured: float | None = None

    @property
    def follows(self) -> bool | None:
        """Whether the printed figure is the recomputed one, rounded or cut off; None where one is missing."""
        if self.printed is None or self.recomputed is None:
            return None
        value, step = printed_value(self.printed)
        return abs(value - self.recomputed) < step

    def to_json(self) -> dict:
        value = None if self.printed is None else printed_value(self.printed)[0]
        names = ("figure", "unit", "printed", "recomputed", "estimated", "measured", "follows")
        return {name: getattr(self, name) for name in names} | {"printed_value": value}


@dataclass(frozen=True)
class Table:
    """A table of the paper."""

    number: str
    title: str
    rows: tuple[Row, ...]

    def with_measured(self, values: dict[str, float]) -> "Table":
        """The table with figures measured on the RTL, by the rows' names."""
        unknown = set(values) - {row.figure for row in self.rows}
        if unknown:
            raise ValueError(f"table {self.number} has no row {', '.join(sorted(unknown))}")
        rows = (replace(row, measured=values.get(row.figure, row.measured)) for row in self.rows)
        return replace(self, rows=tuple(rows))

    def to_json(self) -> dict:
        rows = [row.to_json() for row in self.rows]
        return {"table": self.number, "title": self.title, "rows": rows}


def printed_value(text: str) -> tuple[float, float]:
    """A figure as printed, "4.52M", as its value and the worth of its last digit."""
    units = {"k": 1e3, "M": 1e6, "G": 1e9}
    unit = units.get(text[-1], 1.0)
    digits = text[:-1] if text[-1] in units else text
    decimals = len(digits.partition(".")[2])
    return float(digits) * unit, unit * 10.0**-decimals


# The tables.

BLOCK = "cycles of a block of 16 output FMs"
LAYER = "cycles of the layer"
TABLE_ONE_RATE = "operations per cycle"


def table_one() -> Table:
    """Time schedule of a 3x3 convolution."""
    stage = table_one_stage()
    (conv,) = stage.layers
    clock = run_clock(compile_stage(stage, CHIP, MeshConfig()))
    (layer,), timing = clock.layers, clock.timing()
    shorter = program_timing(compile_stage(table_one_stage(48), CHIP, MeshConfig()))
    rows = conv.weights.shape[1] * conv.taps
    cycles = timing.compute_cycles
    pixels = conv.output.height * conv.output.width // CHIP.tiles
    blocks = conv.output.channels // CHIP.lanes

    def until_pixel(pixel: int) -> int:
        return int(layer.issued[pixel - 1][-1] - layer.issued[0][0]) + 1

    return Table(
        "I",
        "Time schedule: 16 to 64 FMs, 3x3, tiles of 8x8 pixels",
        (
            Row(figure="weight rows of a block", unit="rows", printed="144", recomputed=rows),
            Row(
                figure="first pixel complete",
                unit="cycle",
                printed="144",
                recomputed=rows,
                estimated=until_pixel(1),
            ),
            Row(
                figure="second pixel complete",
                unit="cycle",
                printed="288",
                recomputed=2 * rows,
                estimated=until_pixel(2),
            ),
            Row(
                figure=BLOCK,
                unit="cycles",
                printed="9216",
                recomputed=rows * pixels,
                estimated=cycles - shorter.compute_cycles,
            ),
            Row(
                figure=LAYER,
                unit="cycles",
                printed="36.8k",
                recomputed=rows * pixels * blocks,
                estimated=cycles,
            ),
            Row(
                figure=TABLE_ONE_RATE,
                unit="Op/cycle",
                recomputed=2 * CHIP.tpus,
                estimated=2 * conv.macs / cycles,
            ),
        ),
    )


def table_two() -> Table:
    """Data of typical networks."""
    rows = []
    printed = {18: ("11M", "60M", "6.4M"), 34: ("21M", "100M", "6.4M")}
    printed |= {50: ("66M", "343M", "21M"), 152: ("170M", "831M", "21M")}
    deep = CHIP.replace(name="deep", fmm_bank_depth=4096)  # the paper's memory holds no bottlenecks
    for depth, (weights, moved, memory) in printed.items():
        chip = CHIP if depth < 50 else deep
        program = compile_stage(resnet(depth), chip, MeshConfig())
        name = f"ResNet-{depth} 224x224"
        bits = sum(weight_bits(step.conv) for step in program.layers)
        rows += [
            Row(figure=f"{name}: weights", unit="bit", printed=weights, recomputed=bits),
            Row(figure=f"{name}: all FMs", unit="bit", printed=moved, recomputed=moved_bits(depth)),
            Row(
                figure=f"{name}: worst-case memory",
                unit="bit",
                printed=memory,
                recomputed=fmm_words(program) * chip.word_width,
            ),
        ]
    large, name = large_program(), "ResNet-34 2048x1024"
    rows += [
        Row(
            figure=f"{name}: weights",
            unit="bit",
            printed="21M",
            recomputed=sum(weight_bits(step.conv) for step in large.layers),
        ),
        Row(figure=f"{name}: all FMs", unit="bit", printed="14.67G", recomputed=at_large(moved_bits(34))),
        Row(figure=f"{name}: worst-case memory", unit="bit", printed="940M", recomputed=large_memory()),
        Row(figure=f"{name}: input FM of the chips", unit="bit", recomputed=input_bits(large)),
        Row(figure=f"{name}: borders between 5x10 chips", unit="bit", recomputed=large_border()),
    ]
    return Table("II", "Data of networks with binary weights and 16-bit FMs, per image", tuple(rows))


def table_four() -> Table:
    """Key figures of the chip."""
    peak = 2 * CHIP.tpus
    fmm, wbuf = CHIP.fmm_words * CHIP.word_width, CHIP.wbuf_depth * CHIP.lanes
    achieved = 2 * resnet34_schedule().macs / resnet34_timing().compute_cycles
    points = (("0.65", 160, "250.9", 25.9, "6.1"), ("0.8", 282, "442.2", 108.6, "4.1"))
    points += (("0.9", 344, "539.4", 171.0, "3.2"),)
    rows = [
        Row(figure="TPUs", unit="adders", recomputed=CHIP.tpus),
        Row(figure="multipliers", unit="", printed="49", recomputed=CHIP.tiles),
        Row(figure="operations per cycle", unit="Op", printed="1568", recomputed=peak, estimated=achieved),
    ]
    for volt, mhz, rate, power, efficiency in points:
        rows += [
            Row(
                figure=f"throughput at {volt} V, {mhz} MHz",
                unit="GOp/s",
                printed=rate,
                recomputed=peak * mhz / 1e3,
                estimated=achieved * mhz / 1e3,
            ),
            Row(
                figure=f"efficiency at {volt} V with the printed {power} mW",
                unit="TOp/s/W",
                printed=efficiency,
                recomputed=peak * mhz / 1e3 / power,
            ),
        ]
    rows += [
        Row(figure="FM memory", unit="bit", printed="6.4M", recomputed=fmm),
        Row(figure="weight buffer", unit="bit", printed="74k", recomputed=wbuf),
        Row(figure="border memory, input and output", unit="bit", recomputed=border_memory_bits(CHIP)),
        Row(figure="corner memory, likewise", unit="bit", recomputed=corner_memory_bits(CHIP)),
        *(
            Row(figure=f"{what} at {UM2_PER_BIT} um2/bit", unit="mm2", printed=area, recomputed=mm2(bits))
            for what, area, bits in (
                ("FM memory", "1.24", fmm),
                ("ResNet-18's weights", "3", weight_total(18)),
                ("ResNet-34's weights", "6.3", weight_total(34)),
            )
        ),
        Row(figure="core area", unit="mm2", printed="1.92"),
        Row(figure="core area in gates", unit="GE", printed="9.6M", recomputed=round(1.92e6 / UM2_PER_GATE)),
    ]
    return Table("IV", "Key figures of the chip; power is the paper's", tuple(rows))


def mm2(bits: float) -> float:
    """Area of memory bits."""
    return bits * UM2_PER_BIT / 1e6


def table_six() -> Table:
    """Cycles and throughput for ResNet-34."""
    paper, timing = resnet34_schedule(), resnet34_timing()
    activity = [(layer.operations, layer.starved, layer.cycles) for layer in timing.layers]
    operations, starved, computing = map(sum, zip(*activity, strict=True))
    rate = LOW_VOLTAGE_MHZ * 1e6
    rows = (
        Row(figure="conv", unit="cycles", printed="4.52M", recomputed=paper.conv, estimated=operations),
        Row(figure="bnorm", unit="cycles", printed="59.90k", recomputed=paper.bnorm, estimated=0),
        Row(figure="bias", unit="cycles", printed="59.90k", recomputed=paper.bias, estimated=0),
        Row(figure="bypass", unit="cycles", printed="7.68k", recomputed=paper.bypass, estimated=0),
        Row(figure="array waits for weights", unit="cycles", estimated=starved),
        Row(
            figure="first weights and last sums of a layer",
            unit="cycles",
            estimated=computing - operations - starved,
        ),
        Row(
            figure="total",
            unit="cycles",
            printed="4.65M",
            recomputed=paper.total,
            estimated=timing.compute_cycles,
        ),
        Row(figure="conv", unit="Op", printed="7.09G", recomputed=2 * paper.macs),
        Row(figure="bnorm", unit="Op", printed="2.94M", recomputed=paper.words),
        Row(figure="bias", unit="Op", printed="2.94M", recomputed=paper.words),
        Row(figure="bypass", unit="Op", printed="376.32k", recomputed=paper.bypass_words),
        Row(figure="total", unit="Op", printed="7.10G", recomputed=paper.operations),
        Row(
            figure="operations per cycle",
            unit="Op/cycle",
            printed="1.53k",
            recomputed=paper.operations / paper.total,
            estimated=paper.operations / timing.compute_cycles,
        ),
        Row(
            figure="utilisation by all operations",
            unit="%",
            printed="97.5",
            recomputed=100 * paper.utilisation(CHIP),
        ),
        Row(
            figure="utilisation by multiply-accumulates",
            unit="%",
            recomputed=100 * paper.conv / paper.total,
            estimated=100 * paper.conv / timing.compute_cycles,
        ),
        Row(
            figure="frames at 160 MHz",
            unit="1/s",
            printed="35.9",
            recomputed=rate / paper.total,
            estimated=rate / timing.compute_cycles,
        ),
        Row(figure="frames at 160 MHz, load and store included", unit="1/s", estimated=rate / timing.cycles),
    )
    return Table("VI", "ResNet-34 at 224x224", rows)


def tables() -> tuple[Table, ...]:
    """Tables I, II, IV and VI."""
    return table_one(), table_two(), table_four(), table_six()
