"""``hyperdrive``: each command a few lines over a library call. Names, options, JSON keys are a contract."""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .arith.formats import ACCUMULATORS, FORMATS
from .config import MAX_ADDER_LATENCY, ChipConfig, MeshConfig
from .errors import ChipError, ConfigError, HyperdriveError
from .files import OutputFolder, json_text, read_images, replaced
from .host.port import DEFAULT_BAUD
from .presets import PRESETS, load_chip
from .report.terminal import Terminal

if TYPE_CHECKING:
    from .compiler.ir import CompiledNetwork
    from .report.facts import RunFacts
    from .simulate.network import NetworkRun
    from .targets.testbench import Testbench

DEFAULT_CHIP = "tiny"
ENGINES = ("cxxrtl", "verilator", "pysim", "board-sim", "reference")
OBSERVE = ("layers", "output")  # what a board stores
CELLS = ("generic", "asic")  # of exported Verilog

CHIP_CHANGES = ("format", "accumulator", "adder_latency")  # options that change the chip

DONE, DIFFERENT, INTERRUPTED = 0, 1, 130
EXIT_STATUS = (
    "Exit status: 0 done and equal, 1 a difference was found, 2 the input is at fault, "
    "3 a tool failed or the chip reports an error, 130 interrupted."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status (``EXIT_STATUS``)."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(_Job(arguments))
    except HyperdriveError as error:
        print(f"hyperdrive: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        warnings.simplefilter("ignore")  # Amaranth complains of hardware that was made and never used
        print("hyperdrive: interrupted", file=sys.stderr)
        return INTERRUPTED


class _Job:
    """What the common options say."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.mesh = MeshConfig.parse(arguments.mesh)
        given = {name: getattr(arguments, name) for name in CHIP_CHANGES}
        self.changes = {name: value for name, value in given.items() if value is not None}
        self.chip: ChipConfig = load_chip(arguments.chip or DEFAULT_CHIP).replace(**self.changes)
        self.terminal = Terminal(quiet=arguments.quiet)

    def folder(self) -> OutputFolder:
        return OutputFolder(self.arguments.output, self.chip, self.mesh)

    def write_json(self, values: dict) -> None:
        """The file of ``--json``, if it was asked for."""
        if self.arguments.json:
            with replaced(self.arguments.json) as path:
                path.write_text(json_text(values), encoding="utf-8")

    def verdict(self, lines: Sequence[str]) -> int:
        """The exit status of a comparison; ``lines`` tell of differences and go to stderr."""
        for line in lines:
            print(line, file=sys.stderr)
        return DIFFERENT if lines else DONE


def _demo(job: _Job) -> int:
    from .demo import run_demo
    from .report.tables import demo_lines, mismatch_lines

    with job.folder() as folder:
        facts = run_demo(job.chip, folder, job.terminal, mesh=job.mesh)
    job.write_json(facts.to_json())
    job.terminal.show(demo_lines(facts, str(folder.path)))
    return job.verdict(list(mismatch_lines(facts.run)))


def _run(job: _Job) -> int:
    if job.arguments.port:
        return _run_on_board(job)
    from .compiler.compile import compile_model
    from .report.facts import BOARD_SIM, REFERENCE
    from .session import build_engine, run_on_engine

    arguments = job.arguments
    if arguments.baud is not None:
        raise ConfigError("--baud is for boards: give --port too, or leave it away")
    arguments.engine = arguments.engine or ENGINES[0]
    if arguments.observe and arguments.engine != BOARD_SIM:
        raise ConfigError(
            f"--observe is for boards: give --port or --engine {BOARD_SIM} too, or leave it away"
        )
    if arguments.engine == REFERENCE and (arguments.vcd or arguments.stall_seed is not None):
        raise ConfigError(
            "--engine reference knows no cycles: leave --vcd and --stall-seed away, or take another engine"
        )
    if arguments.engine == BOARD_SIM and arguments.stall_seed is not None:
        raise ConfigError(
            f"--engine {BOARD_SIM} has its line to stall it: leave --stall-seed away, or take another engine"
        )
    observe = arguments.engine == BOARD_SIM and arguments.observe != "output"
    compiled = compile_model(arguments.model, job.chip, job.mesh, observe=observe)
    images = read_images(arguments.input, compiled.network.input_shape)
    with job.folder() as folder:
        # A chip's error is what a waveform is looked at for: it is kept then, though not after Ctrl-C.
        with replaced(arguments.vcd, keep=ChipError) if arguments.vcd else nullcontext() as vcd:
            backend = build_engine(arguments.engine, job.chip, job.terminal, mesh=job.mesh, vcd=vcd)
            with backend or nullcontext():
                run = run_on_engine(compiled, images, backend, job.terminal, stall_seed=arguments.stall_seed)
        facts, pictures = _run_results(folder, compiled, run, arguments.engine, len(images))
    return _show_run(job, folder, facts, pictures)


def _run_on_board(job: _Job) -> int:
    from .compiler.compile import compile_model
    from .host.backend import BoardBackend
    from .report.facts import BOARD
    from .session import board_chip, connect_board, run_on_engine

    arguments = job.arguments
    excluded = {"engine": arguments.engine, "vcd": arguments.vcd, "stall-seed": arguments.stall_seed}
    for option, value in excluded.items():
        if value is not None:
            raise ConfigError(f"--port runs on a board, --{option} is for simulators: leave one of them away")
    if job.mesh.chips > 1:
        raise ConfigError(f"--port runs on one chip: leave --mesh {job.mesh} away")
    observe = arguments.observe or OBSERVE[0]
    with connect_board(arguments.port, arguments.baud or DEFAULT_BAUD, job.terminal) as board:
        job.chip = board_chip(board, arguments.chip, job.changes)
        compiled = compile_model(arguments.model, job.chip, observe=observe == "layers")
        images = read_images(arguments.input, compiled.network.input_shape)
        with job.folder() as folder:
            run = run_on_engine(compiled, images, BoardBackend(job.chip, board), job.terminal)
            facts, pictures = _run_results(folder, compiled, run, BOARD, len(images))
    if run.timed and observe == "layers":
        note = "cycles are counted with the stores of every layer; --observe output goes without"
        facts = replace(facts, notes=(*facts.notes, note))
    return _show_run(job, folder, facts, pictures)


def _run_results(
    folder: OutputFolder, compiled: "CompiledNetwork", run: "NetworkRun", engine: str, images: int
) -> tuple["RunFacts", list[str]]:
    """Facts of a run, and the names of the timelines written beside its output."""
    from .report.facts import run_facts
    from .report.timeline import write_timelines

    folder.write("output.npy", run.output)
    return run_facts(compiled, run, engine, images), write_timelines(folder, compiled, images)


def _show_run(job: _Job, folder: OutputFolder, facts: "RunFacts", pictures: Sequence[str]) -> int:
    from .report.tables import mismatch_lines, run_lines

    job.write_json(facts.to_json())
    wrote = [folder.path / name for name in ("output.npy", *pictures)]
    job.terminal.show([*run_lines(facts), "", *(f"wrote {path}" for path in wrote)])
    return job.verdict(list(mismatch_lines(facts)))


def _selftest(job: _Job) -> int:
    from .host.backend import BoardBackend
    from .host.selftest import selftest
    from .report.tables import chip_line, selftest_lines
    from .session import board_chip, connect_board

    arguments = job.arguments
    with connect_board(arguments.port, arguments.baud or DEFAULT_BAUD, job.terminal) as board:
        job.chip = board_chip(board, arguments.chip, job.changes)
        job.terminal.say(chip_line(job.chip, job.mesh))
        with job.terminal.step("testing"):
            found = selftest(BoardBackend(job.chip, board))
    job.write_json(found.to_json())
    job.terminal.show(selftest_lines(found))
    return job.verdict([f"{part.name}: {part.first}" for part in found.parts if part.failed])


def _compile(job: _Job) -> int:
    from .compiler.compile import compile_network
    from .compiler.pipeline import import_network, import_steps
    from .report.facts import stage_facts
    from .report.program import compile_json, table_lines, write_programs, write_steps

    network = import_network(job.arguments.model, job.chip.format)
    compiled = compile_network(network, job.chip, job.mesh)
    with job.folder() as folder:
        names = write_programs(folder, compiled)
        if job.arguments.steps:
            names += write_steps(
                folder, import_steps(job.arguments.model, job.chip.format), stage_facts(network)
            )
    job.write_json(compile_json(compiled))
    notes = [f"note: {note}" for note in compiled.notes]
    job.terminal.show(
        [*table_lines(compiled), *notes, "", *(f"wrote {folder.path / name}" for name in names)]
    )
    return DONE


def _estimate(job: _Job) -> int:
    from .compiler.compile import compile_model
    from .perf.network import estimate_network
    from .report.facts import estimate_facts
    from .report.tables import estimate_lines

    compiled = compile_model(job.arguments.model, job.chip, job.mesh)
    facts = estimate_facts(compiled, estimate_network(compiled))
    with job.folder() as folder:
        folder.write("estimate.json", facts.to_json())
    job.write_json(facts.to_json())
    job.terminal.show(estimate_lines(facts))
    return DONE


def _verilog(job: _Job) -> int:
    from .cells.macros import Technology
    from .report.verilog import verilog_json
    from .session import announce_yosys
    from .targets.mesh import require_links
    from .targets.ports import ASIC, GENERIC
    from .targets.verilog import export_verilog

    arguments = job.arguments
    cells = arguments.cells or (ASIC if arguments.macros else GENERIC)
    if arguments.macros and cells != ASIC:
        raise ConfigError(f"--macros takes the place of ASIC cells: leave --cells {cells} away")
    require_links(job.chip, job.mesh)
    if arguments.macros:
        Technology.from_toml(arguments.macros)  # before anything takes time
    testbench = _testbench(job, cells)
    announce_yosys(job.terminal)
    with job.folder() as folder:
        with job.terminal.step(f"writing the Verilog of chip {job.chip.name!r}"):
            export = export_verilog(
                job.chip, job.mesh, cells=cells, split=arguments.split, macros=arguments.macros
            )
        files = export.files | (testbench.files if testbench else {})
        for name, text in files.items():
            folder.write(name, text)
    job.write_json(verilog_json(export, testbench))
    job.terminal.show(f"wrote {folder.path / name}" for name in [*files, "chip.toml"])
    return DONE


def _testbench(job: _Job, cells: str) -> "Testbench | None":
    """The testbench of ``--model`` and ``--input``, if they are there."""
    arguments = job.arguments
    if not arguments.model and not arguments.input:
        return None
    if not arguments.model or not arguments.input:
        raise ConfigError("a testbench needs both --model MODEL.onnx and --input INPUT.npy")
    from .compiler.compile import compile_model
    from .targets.testbench import export_testbench

    compiled = compile_model(arguments.model, job.chip, job.mesh)
    images = read_images(arguments.input, compiled.network.input_shape)
    with job.terminal.step("computing what the testbench expects"):
        return export_testbench(compiled, images, cells=cells)


def _fpga(job: _Job) -> int:
    from .report.fpga import board_table, fpga_facts, fpga_lines
    from .session import announce_place_and_route
    from .targets.boards import BOARDS, board_by_name

    arguments, started = job.arguments, time.monotonic()
    if arguments.list:
        job.terminal.show([board_table()])
        return DONE
    if not arguments.board:
        raise ConfigError(f"name a board: {', '.join(BOARDS)}; --list tells more")
    board = board_by_name(arguments.board)
    chip = load_chip(arguments.preset or board.default_preset)
    board.require_packages()
    from .targets.fpga import build_bitstream

    announce_place_and_route(job.terminal, board.family)
    # A bitstream is not mixed up with what only the synthesis of another chip has left.
    place = Path("build", "fpga", board.name, *(["synthesis"] if arguments.synth_only else []))
    with OutputFolder(arguments.output or place, chip) as folder:
        build = build_bitstream(
            board,
            chip,
            folder,
            job.terminal.step,
            clock_mhz=arguments.clock,
            baud=arguments.baud,
            seed=arguments.seed,
            synth_only=arguments.synth_only,
        )
        facts = fpga_facts(build, round(time.monotonic() - started, 1))
        folder.write("report.json", facts.to_json())
    job.write_json(facts.to_json())
    job.terminal.show(fpga_lines(facts))
    return DONE


def _asic(job: _Job) -> int:
    from .report.asic import asic_json, asic_lines
    from .session import announce_yosys
    from .targets.asic.build import build_asic
    from .targets.asic.equivalence import equality_lines
    from .targets.liberty import read_library, read_macros

    arguments, started = job.arguments, time.monotonic()
    library = read_library(arguments.liberty)
    macros = [macro for path in arguments.sram for macro in read_macros(path)]
    announce_yosys(job.terminal)
    per_bit = arguments.sram_area_per_bit
    with job.folder() as folder:
        build = build_asic(
            job.chip,
            library,
            macros,
            folder,
            job.terminal.step,
            per_bit=per_bit,
            placement=arguments.macros,
        )
        seconds = round(time.monotonic() - started, 1)
        facts = asic_json(build, seconds, per_bit_given=per_bit is not None)
        folder.write("report.json", facts)
    job.write_json(facts)
    wrote = [folder.path / name for name in [*build.files, "report.json", "chip.toml"]]
    job.terminal.show([*asic_lines(facts), "", *(f"wrote {path}" for path in wrote)])
    return job.verdict(list(equality_lines(build.equivalence)))


def _paper(job: _Job) -> int:
    from .report.paper import differences, paper_facts, render
    from .session import announce_yosys

    if job.arguments.measure:
        announce_yosys(job.terminal)
    facts = paper_facts(measure=job.arguments.measure, progress=job.terminal.say)
    job.write_json(facts)
    job.terminal.show(render(facts))
    return job.verdict(differences(facts))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hyperdrive",
        description="Binary-weight CNNs on the Hyperdrive engine: compile, simulate, estimate, export.",
        epilog=EXIT_STATUS,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    model = ("model", "MODEL.onnx", "a trained network with binary weights")
    images = ("input", "INPUT.npy", "images, float32, NCHW")

    _add(commands, "demo", _demo, "run the bundled digits network on the RTL and write a report")
    run = _add(commands, "run", _run, "compile, simulate the RTL, compare with the reference", model, images)
    run.add_argument("--engine", choices=ENGINES, help=f"who simulates it (default {ENGINES[0]})")
    _add_port(run, required=False)
    run.add_argument(
        "--observe",
        choices=OBSERVE,
        help=f"what the board stores and is compared by (default {OBSERVE[0]}, every layer's output)",
    )
    run.add_argument("--vcd", type=Path, metavar="FILE", help="write a waveform")
    run.add_argument("--stall-seed", type=_seed, metavar="N", help="random stalls on every stream and link")
    compile_ = _add(commands, "compile", _compile, "write the program, memory map and layer table", model)
    compile_.add_argument(
        "--steps", action="store_true", help="also write the graph after every compiler step"
    )
    _add(commands, "estimate", _estimate, "cycles, utilisation, memory, I/O by the performance model", model)
    verilog = _add(commands, "verilog", _verilog, "write the chip as Verilog, with file list and SDC")
    verilog.add_argument(
        "--model", type=Path, metavar="MODEL.onnx", help="with --input: also a testbench for it"
    )
    verilog.add_argument(
        "--input", type=Path, metavar="INPUT.npy", help="images for the testbench, float32, NCHW"
    )
    verilog.add_argument(
        "--cells",
        choices=CELLS,
        help=f"memories and clocks: arrays and enables (default {CELLS[0]}), or SRAM wrappers, latches and "
        "clock gates",
    )
    verilog.add_argument("--split", action="store_true", help="a file for each module")
    verilog.add_argument(
        "--macros",
        type=Path,
        metavar="FILE.toml",
        help="a vendor's SRAMs, latches and clock gates in the asic cells",
    )
    _add_fpga(commands)
    _add_asic(commands)
    test = commands.add_parser(
        "selftest",
        help="check a board's line, memories and arithmetic, and name what fails",
        description="Check the line, the memories and the arithmetic of a board; what fails is named.",
        allow_abbrev=False,
    )
    _add_port(test, required=True)
    _add_chip(test)
    _add_common(test, _selftest)
    test.set_defaults(mesh="1x1")
    paper = commands.add_parser(
        "paper", help="the paper's tables recomputed and measured, its misprints named", allow_abbrev=False
    )
    paper.add_argument(
        "--measure", action="store_true", help="also run Table I's layer on the RTL of the paper's chip"
    )
    _add_common(paper, _paper)
    paper.set_defaults(chip="paper", mesh="1x1", output=Path("build", "paper"), **dict.fromkeys(CHIP_CHANGES))
    return parser


def _add(
    commands, name: str, command: Callable[[_Job], int], summary: str, *positional: tuple[str, str, str]
) -> argparse.ArgumentParser:
    """A command with its positional arguments and the options that all have."""
    parser = commands.add_parser(
        name, help=summary, description=f"{summary.capitalize()}.", allow_abbrev=False
    )
    for argument, metavar, text in positional:
        parser.add_argument(argument, metavar=metavar, type=Path, help=text)
    _add_chip(parser)
    parser.add_argument("--mesh", default="1x1", metavar="RxC", help="rows x columns of chips (default 1x1)")
    place = Path("build", name)
    parser.add_argument("-o", "--output", type=Path, default=place, metavar="DIR", help=f"default {place}")
    _add_common(parser, command)
    return parser


def _add_chip(parser: argparse.ArgumentParser) -> None:
    chips = f"the chip: {', '.join(PRESETS)}, or a description file (default {DEFAULT_CHIP}, or the board's)"
    parser.add_argument("-c", "--chip", metavar="PRESET|FILE.toml", help=chips)
    _add_chip_changes(parser)


def _add_port(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """The options of a board; ``baud`` is None where it was not given."""
    parser.add_argument(
        "--port", required=required, metavar="PORT", help="serial port of a board, e.g. /dev/ttyUSB0"
    )
    parser.add_argument(
        "--baud", type=_baud, metavar="N", help=f"of that port (default {DEFAULT_BAUD}, the boards')"
    )


def _add_fpga(commands) -> None:
    fpga = commands.add_parser(
        "fpga",
        help="build a bitstream for a board",
        description="Build a bitstream of a chip for a board. Ends with status 3 where the clock is not met.",
        allow_abbrev=False,
    )
    fpga.add_argument("board", nargs="?", metavar="BOARD", help="see --list")
    chips = "the chip: a preset or a description file (default: the board's first preset)"
    fpga.add_argument("-c", "--chip", dest="preset", metavar="PRESET|FILE.toml", help=chips)
    fpga.add_argument("--list", action="store_true", help="boards, their presets, how far these have come")
    fpga.add_argument("--clock", type=float, metavar="MHZ", help="default: the preset's")
    fpga.add_argument("--baud", type=int, metavar="N", help="of the serial line (default: the board's)")
    fpga.add_argument(
        "--seed", type=_seed, default=1, metavar="N", help="of place and route (default %(default)s)"
    )
    fpga.add_argument("--synth-only", action="store_true", help="stop when the size is known")
    place = "default build/fpga/BOARD"
    fpga.add_argument("-o", "--output", type=Path, metavar="DIR", help=place)
    _add_common(fpga, _fpga)
    fpga.set_defaults(chip=DEFAULT_CHIP, mesh="1x1", **dict.fromkeys(CHIP_CHANGES))


def _add_asic(commands) -> None:
    asic = commands.add_parser(
        "asic",
        help="map the chip to an ASIC library: netlist, area by block, timing",
        description="Map the chip to the cells of a Liberty file; area by block, equivalence, longest path.",
        allow_abbrev=False,
    )
    asic.add_argument(
        "--liberty", type=Path, required=True, metavar="FILE.lib", help="standard cells, one corner"
    )
    asic.add_argument(
        "--sram",
        type=Path,
        action="append",
        default=[],
        metavar="MACRO.lib",
        help="a memory macro; may be repeated, each memory takes what is smallest",
    )
    asic.add_argument(
        "--macros",
        type=Path,
        metavar="FILE.toml",
        help="which macros memories are made of, as for `hyperdrive verilog`; --sram has their areas",
    )
    asic.add_argument(
        "--sram-area-per-bit",
        type=_area,
        metavar="UM2",
        help="of memories without a macro (default 0.97 NAND2, the paper's SRAM)",
    )
    _add_chip(asic)
    place = Path("build", "asic")
    asic.add_argument("-o", "--output", type=Path, default=place, metavar="DIR", help=f"default {place}")
    _add_common(asic, _asic)
    asic.set_defaults(mesh="1x1")


def _add_chip_changes(parser: argparse.ArgumentParser) -> None:
    """The options of ``CHIP_CHANGES``. The chip checks their values, so that a file's are checked alike."""
    names = f"{', '.join(FORMATS)}, or fixed point qI.F, for example q2.9"
    parser.add_argument("--format", metavar="NAME", help=f"number format, in place of the chip's: {names}")
    kinds = "|".join(ACCUMULATORS)
    parser.add_argument(
        "--accumulator", metavar=kinds, help="when sums are rounded, in place of the chip's setting"
    )
    stages = f"stages of the adders and the multiplier, 1 to {MAX_ADDER_LATENCY}, in place of the chip's"
    parser.add_argument("--adder-latency", type=int, metavar="N", help=stages)


def _add_common(parser: argparse.ArgumentParser, command: Callable[[_Job], int]) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors and differences")
    parser.set_defaults(command=command)


def _baud(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if not 1 <= value <= 100_000_000:
        raise argparse.ArgumentTypeError(f"must be a rate in bits per second, not {text!r}")
    return value


def _area(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"must be an area in um2, not {text!r}")
    return value


def _seed(text: str) -> int:
    value = int(text) if text.isdecimal() else -1
    if not 0 <= value < 1 << 32:
        raise argparse.ArgumentTypeError(f"must be an integer from 0 to {(1 << 32) - 1}, not {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
