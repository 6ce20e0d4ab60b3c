"""Facts of a chip on a board: what it takes, how fast it is, what the digits network would do on it."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from rich.table import Table

from ..compiler.compile import compile_model
from ..compiler.ir import ChipProgram, PlacedTransfer
from ..config import ChipConfig, MeshConfig
from ..data import digits_model
from ..errors import UserError
from ..host_link import MAX_BODY, OUTPUT_HEADER, WORDS_HEADER, WRITE_BYTES, Reply, Request, frame, word_bytes
from ..perf.network import estimate_network
from ..presets import PRESETS
from ..targets.boards import BOARDS, Board
from ..targets.fpga import FpgaBuild
from .tables import chip_line, number

BITS_PER_BYTE = 10  # on the line, with start and stop


@dataclass(frozen=True, kw_only=True)
class DigitsFacts:
    """The digits network on a chip: cycles of an image, operations (twice the MACs), bytes on the line."""

    cycles: int
    operations: int
    line_bytes: int


@dataclass(frozen=True, kw_only=True)
class FpgaFacts:
    """A build and its figures; ``digits`` is None where that network does not run on the chip: ``note``."""

    build: FpgaBuild
    seconds: float
    digits: DigitsFacts | None
    note: str | None = None

    @property
    def peak_gops(self) -> float:
        """An operation is an addition, or the multiplication by a weight counted with it, as in the paper."""
        return 2 * self.build.chip.tpus * self.build.clock_mhz / 1e3

    @property
    def frames_per_second(self) -> float | None:
        """Of the chip alone."""
        return self.digits and self.build.clock_mhz * 1e6 / self.digits.cycles

    @property
    def frames_per_second_line(self) -> float | None:
        """What the serial line lets through, one image after the other, the host losing no time."""
        return self.digits and self.build.baud / (BITS_PER_BYTE * self.digits.line_bytes)

    @property
    def effective_gops(self) -> float | None:
        """While computing, at ``frames_per_second``."""
        rate = self.frames_per_second
        return None if rate is None or self.digits is None else self.digits.operations * rate / 1e9

    def to_json(self) -> dict:
        """The keys of ``fpga --json``."""
        build, used = self.build, self.build.utilisation
        return {
            "board": build.board.name,
            "device": build.board.device,
            "preset": build.chip.name,
            "clock_mhz": build.clock_mhz,
            "fmax_mhz": build.fmax_mhz,
            "baud": build.baud,
            "tpus": build.chip.tpus,
            "luts": used.luts,
            "flipflops": used.flipflops,
            "block_rams": used.block_rams,
            "large_rams": used.large_rams,
            "dsps": used.dsps,
            "sites": {name: list(counts) for name, counts in used.sites.items()},
            "bitstream": str(build.bitstream) if build.bitstream else None,
            "peak_gops": self.peak_gops,
            "digits_cycles": self.digits.cycles if self.digits else None,
            "effective_gops": self.effective_gops,
            "frames_per_second": self.frames_per_second,
            "frames_per_second_line": self.frames_per_second_line,
            "seconds": self.seconds,
        }


def fpga_facts(build: FpgaBuild, seconds: float) -> FpgaFacts:
    """Facts of a build that took so long."""
    try:
        return FpgaFacts(build=build, seconds=seconds, digits=digits_facts(build.chip))
    except UserError as error:
        return FpgaFacts(build=build, seconds=seconds, digits=None, note=str(error))


def digits_facts(chip: ChipConfig) -> DigitsFacts:
    """Estimate an image of the bundled network.

    Raises
    ------
    UserError : it does not run on this chip
    """
    compiled = compile_model(digits_model(), chip)
    estimate = estimate_network(compiled)
    return DigitsFacts(
        cycles=estimate.cycles,
        operations=2 * estimate.macs,
        line_bytes=sum(map(_line_bytes, compiled.programs.values())),
    )


def _line_bytes(program: ChipProgram) -> int:
    """Frames with an image's program and maps, and with its results; requests for those are not counted."""
    each = word_bytes(program.chip.program_width)
    words = b"".join(int(word).to_bytes(each, "little") for word in program.words(1))
    written, header = WRITE_BYTES, WORDS_HEADER.pack(0)
    total = _framed(Request.PROGRAM, header, words, written)
    total += sum(_framed(Request.MAPS, header, _zeros(program, load), written) for load in program.loads)
    header = OUTPUT_HEADER.pack(0, 0)
    read = MAX_BODY - len(header)
    return total + sum(
        _framed(Reply.OUTPUT, header, _zeros(program, store), read) for store in program.stores
    )


def _zeros(program: ChipProgram, transfer: PlacedTransfer) -> bytes:
    """As many bytes as a map has on the line."""
    return bytes(prod(transfer.map.map.shape) * word_bytes(program.chip.word_width))


def _framed(kind: int, header: bytes, content: bytes, most: int) -> int:
    """Bytes of the frames that carry ``content``."""
    pieces = (content[start : start + most] for start in range(0, len(content), most))
    return sum(len(frame(kind, header + piece)) for piece in pieces)


def fpga_lines(facts: FpgaFacts) -> Iterator[str]:
    """What ``hyperdrive fpga`` shows."""
    build, used = facts.build, facts.build.utilisation
    board = build.board
    yield f"{board.name} ({board.device}), {build.clock_mhz:g} MHz, {build.baud} baud"
    yield chip_line(build.chip, MeshConfig())
    memories = f"{number(used.block_rams)} block RAMs"
    if used.large_rams:
        memories += f", {used.large_rams} large ones"
    yield (
        f"{number(used.luts)} LUTs, {number(used.flipflops)} flip-flops, {memories}, {used.dsps} DSP blocks"
    )
    sites = (
        f"{name} {number(count)} of {number(there)}"
        for name, (count, there) in used.sites.items()
        if count * 4 > there
    )
    yield f"a quarter or more used: {', '.join(sites) or 'nothing'}"
    if used.excess:
        yield f"this does NOT fit: too many {', '.join(used.excess)}"
    if build.fmax_mhz is not None:
        yield f"after routing: {build.fmax_mhz:.2f} MHz, the clock is met"
    yield f"peak: {facts.peak_gops:.2f} GOp/s ({build.chip.tpus} TPUs, 2 operations each)"
    if facts.digits is None:
        yield f"note: the digits network does not run on this chip: {facts.note}"
    else:
        yield (
            f"digits network: {number(facts.digits.cycles)} cycles, {facts.effective_gops:.2f} GOp/s, "
            f"{facts.frames_per_second:,.0f} images/s; "
            f"{facts.frames_per_second_line:.1f} over the serial line"
        )
    yield f"{facts.seconds:.1f} s in all"
    if build.bitstream is not None:
        yield f"load it, in {build.bitstream.parent}: {board.loader}"


def board_table() -> Table:
    """What ``hyperdrive fpga --list`` shows: a row per board and preset."""
    table = Table(box=None, pad_edge=False)
    for name in ("board", "FPGA", "preset"):
        table.add_column(name)
    for name in ("clock", "TPUs"):
        table.add_column(name, justify="right")
    table.add_column("status")
    for board in BOARDS.values():
        for preset, clock in board.presets.items():
            first = preset == board.default_preset
            table.add_row(
                board.name if first else "",
                board.device if first else "",
                preset,
                f"{clock:g} MHz",
                str(PRESETS[preset].tpus),
                _status(board, preset),
            )
    return table


def _status(board: Board, preset: str) -> str:
    measured = board.met_mhz.get(preset)
    return board.status(preset) + (f" ({measured:.1f} MHz)" if measured else "")
