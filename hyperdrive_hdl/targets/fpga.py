"""From a chip to a board's bitstream: Amaranth's build plan, run step by step with tools from pip."""

import json
import re
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..config import ChipConfig
from ..errors import ConfigError, ToolError
from ..files import OutputFolder
from ..rtl.hierarchy import ModuleLibrary
from ..tools import run, tool_command
from .boards import Board
from .floorplan import block_ram_places
from .fpga_top import CORE, FpgaTop, baud_divisor, board_pll

Progress = Callable[[str], AbstractContextManager]

TOP = "top"
MAX_CLOCK_MHZ = 1000
# Where the tools' logs and reports end up after a step has failed.
FAILED = "failed"

# Options of synthesis by family. iCE40: the large single-port RAMs and multipliers are used when asked for.
# Gowin: the pins have their buffers from Amaranth; Yosys would also give some to modules that are kept apart.
# With wide multiplexers nextpnr takes for ever to find a legal placement.
_SYNTHESIS = {"ecp5": "", "ice40": "-dsp -spram -device u", "gowin": "-noiopads -nowidelut"}
# Options of place and route. ECP5: its default router takes many times as long where timing is tight.
_ROUTING = {"ecp5": ("--router", "router2"), "ice40": (), "gowin": ()}
_CONSTRAINTS = {"ecp5": "lpf", "ice40": "pcf", "gowin": "cst"}

# Cells of Yosys' netlists by what they are; LUTs with how many each takes. CCU2C: two LUTs and their carries.
_LUTS = {
    "ecp5": {"LUT4": 1, "CCU2C": 2},
    "ice40": {"SB_LUT4": 1},
    "gowin": {"LUT1": 1, "LUT2": 1, "LUT3": 1, "LUT4": 1, "ALU": 1},
}
_FLIPFLOPS = {"ecp5": r"TRELLIS_FF", "ice40": r"SB_DFF\w*", "gowin": r"DFF\w*"}
_BLOCK_RAMS = {
    "ecp5": r"DP16KD|PDPW16KD",
    "ice40": r"SB_RAM40_4K\w*",
    "gowin": r"(SP|SPX9|SDPB|SDPX9B|DPB|DPX9B|pROM|pROMX9)",
}
_LARGE_RAMS = {"ecp5": r"(?!)", "ice40": r"SB_SPRAM256KA", "gowin": r"(?!)"}
_DSPS = {"ecp5": r"MULT18X18D", "ice40": r"SB_MAC16", "gowin": r"MULT\w+"}


@dataclass(frozen=True, kw_only=True)
class Utilisation:
    """What a design takes of its FPGA.

    ``luts`` are LUT4 and two for each pair of carries (ECP5), logic cells as packed (iCE40), LUTs and
    carries (Gowin); ``large_rams`` the iCE40's SPRAMs; ``sites`` what nextpnr counts: used and available.
    """

    luts: int
    flipflops: int
    block_rams: int
    large_rams: int
    dsps: int
    sites: dict[str, tuple[int, int]]

    @property
    def excess(self) -> dict[str, tuple[int, int]]:
        """Sites of which there are too few."""
        return {name: counts for name, counts in self.sites.items() if counts[0] > counts[1]}


@dataclass(frozen=True, kw_only=True)
class FpgaBuild:
    """A finished build; ``fmax_mhz`` and ``bitstream`` are None after ``synth_only``."""

    board: Board
    chip: ChipConfig
    clock_mhz: float
    baud: int
    utilisation: Utilisation
    fmax_mhz: float | None
    bitstream: Path | None


@dataclass(frozen=True)
class Core:
    """The board's core as RTLIL, equal modules once; ``chip_modules`` are those of the chip alone."""

    rtlil: str
    chip_modules: tuple[str, ...]


def make_core(board: Board, chip: ChipConfig, *, clock_hz: int, baud: int) -> Core:
    """Elaborate ``BoardCore`` with its chip."""
    from ..rtl.board import BoardCore, identity_of

    identity = identity_of(
        chip,
        clock_hz=clock_hz,
        baud=baud,
        program_buffer=board.program_buffer,
        maps_buffer=board.maps_buffer,
        output_buffer=board.output_buffer,
        counters=board.counters,
    )
    core = BoardCore(config=chip, divisor=baud_divisor(clock_hz, baud), identity=identity)
    text = ModuleLibrary().convert(core, name=CORE)
    return Core(text, tuple(modules_under(text, "chip")))


def modules_under(rtlil: str, module: str) -> list[str]:
    """A module and all those it instantiates, in the order of the text."""
    bodies = dict(re.findall(r"^module \\(\S+)$(.*?)^end$", rtlil, re.MULTILINE | re.DOTALL))
    if module not in bodies:
        raise ValueError(f"there is no module {module!r}, only {', '.join(bodies)}")
    found, open_ = {module}, [module]
    while open_:
        children = set(re.findall(r"^  cell \\(\S+) ", bodies[open_.pop()], re.MULTILINE)) & set(bodies)
        open_ += children - found
        found |= children
    return [name for name in bodies if name in found]


def preparation(board: Board, chip: ChipConfig, core: Core) -> str:
    """Yosys commands before synthesis.

    The chip's memories lose their initial contents, which large RAMs cannot have and nothing reads; ROMs
    around it keep theirs. Of several tiles one is mapped and the others are its copies: a sixth of the time.
    Registers that are to be apart (rtl/registers.py) are not made one for being equal.
    On a small FPGA words of a descriptor go to block RAM, of which there is more than of registers.
    """
    bodies = dict(re.findall(r"^module \\(\S+)$(.*?)^end$", core.rtlil, re.MULTILINE | re.DOTALL))
    filled = [name for name in core.chip_modules if "$meminit_v2" in bodies[name]]
    lines = [f"hierarchy -top {TOP}", *(f"delete {name}/t:$meminit_v2" for name in filled)]
    if chip.tiles > 1:
        lines += ["setattr -mod -set keep_hierarchy 1 tile", "proc", "flatten", "opt_clean -purge"]
        lines.append("setattr -set keep 1 a:apart %ci1 t:$*dff* %i")
    if board.descriptor_words:
        lines.append(f'setattr -set ram_style "block" m:* a:descriptor_word<={board.descriptor_words} %i')
    return "\n".join(lines)


def placement(device: str, chip: ChipConfig) -> str:
    """Yosys commands after synthesis: what is placed beforehand, if anything."""
    places = block_ram_places(device, chip)
    lines = [f'setattr -set BEL "{bel}" {TOP}/core.chip.{cell}' for cell, bel in places.items()]
    if places:
        lines.append(f"select -assert-count {len(places)} a:BEL")  # none has got another name
    return "".join(f"{line}\n" for line in lines)


def build_plan(
    board: Board, chip: ChipConfig, *, clock_mhz: float | None = None, baud: int | None = None
) -> tuple[dict[str, str], float, int]:
    """Files of the build, the clock that the board really has in MHz, and the baud rate.

    Raises
    ------
    ConfigError : no such clock, or no such baud rate with it
    UserError : a Python package is missing
    """
    target = board.clock_mhz(chip.name) if clock_mhz is None else clock_mhz
    if not 0 < target < MAX_CLOCK_MHZ:  # not a number is refused too
        raise ConfigError(f"a clock must be more than 0 and less than {MAX_CLOCK_MHZ} MHz, not {target:g}")
    pll = board_pll(board, target)
    clock_hz = round(board.oscillator_mhz * 1_000_000) if pll is None else round(pll.clock * 1_000_000)
    baud = board.baud if baud is None else baud
    baud_divisor(clock_hz, baud)
    platform = board.make_platform()
    core = make_core(board, chip, clock_hz=clock_hz, baud=baud)
    platform.add_file(f"{CORE}.il", core.rtlil)
    hierarchy = "-noflatten " if chip.tiles > 1 else ""
    plan = platform.build(
        FpgaTop(board, pll),
        name=TOP,
        do_build=False,
        emit_src=False,
        script_after_read=preparation(board, chip, core),
        synth_opts=hierarchy + _SYNTHESIS[board.family],
        script_after_synth=placement(getattr(platform, "device", ""), chip)
        + "tee -q -o cells.json stat -json",
    )
    files = {name: text.decode() if isinstance(text, bytes) else text for name, text in plan.files.items()}
    constraints = f"{TOP}.{_CONSTRAINTS[board.family]}"
    files[constraints] += board_constraints(board)
    return files, clock_hz / 1e6, baud


def board_constraints(board: Board) -> str:
    """What constraints/ has for the board; nothing for most."""
    if board.constraints is None:
        return ""
    # In a wheel the folder lies in the package, in the source tree beside it.
    package = Path(__file__).parent.parent
    for folder in (package, package.parent):
        path = folder / "constraints" / board.constraints
        if path.is_file():
            return "\n" + path.read_text(encoding="utf-8")
    raise ToolError(f"{package.parent / 'constraints' / board.constraints} is missing; reinstall the package")


def build_bitstream(
    board: Board,
    chip: ChipConfig,
    folder: OutputFolder,
    progress: Progress,
    *,
    clock_mhz: float | None = None,
    baud: int | None = None,
    seed: int = 1,
    synth_only: bool = False,
) -> FpgaBuild:
    """Elaborate, synthesise, place, route and pack; bitstream, logs and reports go into ``folder``.

    Parameters
    ----------
    progress : makes a context around each step from its description
    clock_mhz, baud : None for the board's
    seed : of placement
    synth_only : stop when the utilisation is known

    Raises
    ------
    ConfigError : the board's PLL or UART cannot do that
    ToolError : a tool fails, the design does not fit, or the clock is not met; logs go to ``failed/`` then
    """
    with progress(f"elaborating chip {chip.name!r} for {board.name}"):
        files, clock, baud = build_plan(board, chip, clock_mhz=clock_mhz, baud=baud)
    commands = {command[0]: command for command in json.loads(files[f"build_{TOP}.json"])["commands"]}
    synthesis, routing, packing = _named(commands, board.family)
    with tempfile.TemporaryDirectory(prefix="hyperdrive-fpga-") as name, _kept(Path(name), folder):
        work = Path(name)
        for file, text in files.items():
            (work / file).write_text(text, encoding="utf-8")
        with progress(f"synthesis with Yosys, {chip.tpus} TPUs"):
            _tool(synthesis, work, "synthesis")
        routing = [
            *_himbaechel(routing),
            "--seed",
            str(seed),
            "--freq",
            f"{clock:.6f}",
            *_ROUTING[board.family],
        ]
        if synth_only:
            with progress("packing into the FPGA's cells"):
                log = _tool([*_without_output(routing), "--pack-only"], work, "packing")
            used = read_utilisation(board.family, (work / "cells.json").read_text(), log)
            _publish(work, folder, ())
            return _build(board, chip, clock, baud, used)
        options = ("--timing-allow-fail", "--report", "timing.json")  # judged below, for all families alike
        with progress(f"place and route for {clock:g} MHz with nextpnr, seed {seed}"):
            try:
                _tool([*routing, *options], work, "place and route")
            except ToolError as error:
                raise ToolError(_no_fit(work, board, chip) or str(error)) from None
        log = (work / f"{TOP}.tim").read_text(encoding="utf-8", errors="replace")
        used = read_utilisation(board.family, (work / "cells.json").read_text(), log)
        fmax = read_fmax((work / "timing.json").read_text())
        check_timing(board, chip, clock, fmax)
        with progress("packing the bitstream"):
            for command in packing:
                _tool(command, work, "packing the bitstream")
        product = work / f"{TOP}{Path(board.bitstream).suffix}"
        if product.suffix == ".dfu":
            product.write_bytes(with_dfu_suffix((work / f"{TOP}.bit").read_bytes(), *ORANGECRAB_USB))
        shutil.copy(product, folder.file(board.bitstream))
        _publish(work, folder, ("timing.json",))
    return _build(board, chip, clock, baud, used, fmax, folder.path / board.bitstream)


def _build(board, chip, clock, baud, used, fmax=None, bitstream=None) -> FpgaBuild:
    return FpgaBuild(
        board=board,
        chip=chip,
        clock_mhz=clock,
        baud=baud,
        utilisation=used,
        fmax_mhz=fmax,
        bitstream=bitstream,
    )


def _named(commands: dict[str, list[str]], family: str) -> tuple[list[str], list[str], list[list[str]]]:
    """Synthesis, place and route, and packing among a plan's commands."""
    packers = {"ecp5": "ecppack", "ice40": "icepack", "gowin": "gowin_pack"}
    # OrangeCrab's dfu-suffix, a program that is not on PyPI, is with_dfu_suffix here.
    return commands["yosys"], commands[f"nextpnr-{family}"], [commands[packers[family]]]


def _himbaechel(command: list[str]) -> list[str]:
    """Amaranth calls the former nextpnr-gowin; its successor takes two of the options with ``--vopt``."""
    if command[0] != "nextpnr-gowin":
        return command
    renamed = []
    for argument in command:
        if argument in ("--family", "--cst"):
            renamed += ["--vopt", f"{argument.removeprefix('--')}="]
        elif renamed and renamed[-1].endswith("="):
            renamed[-1] += argument
        else:
            renamed.append(argument)
    return renamed


def _without_output(command: list[str]) -> list[str]:
    """Without the options that name files of a finished placement."""
    outputs = {"--textcfg", "--asc", "--write"}
    pairs = zip(command, ["", *command], strict=False)
    return [argument for argument, before in pairs if argument not in outputs and before not in outputs]


def _tool(command: list[str], work: Path, what: str) -> str:
    """Run a command of the plan; its output, which also goes into ``<tool>.log``."""
    name, *arguments = [argument for argument in command if argument != "--quiet"]
    output = run([*tool_command(name), *arguments], cwd=work, what=what, name=name)
    (work / f"{name}.log").write_text(output, encoding="utf-8")
    return output


@contextmanager
def _kept(work: Path, folder: OutputFolder) -> Iterator[None]:
    """Where a step fails, what it has written so far is kept for the user to look at."""
    failed = folder.path / FAILED
    try:
        yield
    except ToolError:
        shutil.rmtree(failed, ignore_errors=True)
        failed.mkdir(parents=True)
        for source, name in _reports(work, ("timing.json",)):
            shutil.copy(source, failed / name)
        raise
    shutil.rmtree(failed, ignore_errors=True)


def _publish(work: Path, folder: OutputFolder, more: tuple[str, ...]) -> None:
    for source, name in _reports(work, more):
        shutil.copy(source, folder.file(name))


def _reports(work: Path, more: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    """Files worth keeping and their names in the results: logs, reports, scripts, constraints."""
    names = {f"{TOP}.rpt": "yosys.log", f"{TOP}.tim": "nextpnr.log", f"{TOP}.ys": "synthesis.ys"}
    names |= {f"{TOP}.{suffix}": f"constraints.{suffix}" for suffix in _CONSTRAINTS.values()}
    names |= {name: name for name in ("cells.json", *more)}
    for file, name in names.items():
        if (work / file).is_file():
            yield work / file, name


def _no_fit(work: Path, board: Board, chip: ChipConfig) -> str | None:
    """The message where nextpnr has failed because something ran out; None where that was not it."""
    log = work / f"{TOP}.tim"
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    sites = read_sites(text)
    excess = [f"{used} of {there} {name}" for name, (used, there) in sites.items() if used > there]
    if not excess:
        return None
    return (
        f"chip {chip.name!r} does not fit {board.name} ({board.device}): it needs {', '.join(excess)}; "
        f"take fewer lanes or tiles, or a narrower format"
    )


def read_sites(log: str) -> dict[str, tuple[int, int]]:
    """Used and available sites by kind, from the utilisation in nextpnr's log."""
    found = re.findall(r"^Info:\s+(\w+):\s+(\d+)/\s*(\d+)\s+\d+%$", log, re.MULTILINE)
    return {name: (int(used), int(there)) for name, used, there in found}


def read_utilisation(family: str, cells_json: str, log: str) -> Utilisation:
    """What a design takes, from Yosys' ``stat -json`` and nextpnr's log.

    Raises
    ------
    ToolError : one of them is not as expected
    """
    try:
        # A log before the JSON, which begins a line.
        cells = json.loads(cells_json)["design"]["num_cells_by_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ToolError(f"Yosys' statistics cannot be read: {error!r}") from None
    sites = read_sites(log)
    if not sites:
        raise ToolError("nextpnr's log has no device utilisation")

    def count(pattern: str) -> int:
        return sum(number for name, number in cells.items() if re.fullmatch(pattern, name))

    luts = sum(each * cells.get(name, 0) for name, each in _LUTS[family].items())
    return Utilisation(
        luts=sites["ICESTORM_LC"][0] if family == "ice40" else luts,
        flipflops=count(_FLIPFLOPS[family]),
        block_rams=count(_BLOCK_RAMS[family]),
        large_rams=count(_LARGE_RAMS[family]),
        dsps=count(_DSPS[family]),
        sites={name: counts for name, counts in sites.items() if counts[0]},
    )


def read_fmax(timing_json: str) -> float:
    """The slowest clock after routing, MHz, from nextpnr's report; the chip's is the only one with logic.

    Raises
    ------
    ToolError : the report has none
    """
    try:
        clocks = json.loads(timing_json)["fmax"]
        return min(float(clock["achieved"]) for clock in clocks.values())
    except (ValueError, KeyError, TypeError) as error:
        raise ToolError(f"nextpnr's report has no clock: {error!r}") from None


def check_timing(board: Board, chip: ChipConfig, clock_mhz: float, fmax_mhz: float) -> None:
    """Raises ``ToolError`` for a clock that is not met."""
    if fmax_mhz < clock_mhz:
        raise ToolError(
            f"chip {chip.name!r} does not meet its clock on {board.name}: {fmax_mhz:.2f} MHz after routing, "
            f"the target is {clock_mhz:g} MHz; try --clock {int(fmax_mhz)}, another --seed or a smaller chip"
        )


ORANGECRAB_USB = 0x1209, 0x5AF0  # vendor and product for which its loader takes files


def with_dfu_suffix(image: bytes, vendor: int, product: int) -> bytes:
    """An image as dfu-util takes it: USB DFU 1.1 appendix B, the CRC of all before it at the end."""
    fields = image + struct.pack("<HHHH3sB", 0xFFFF, product, vendor, 0x0100, b"UFD", 16)
    return fields + struct.pack("<I", zlib.crc32(fields) ^ 0xFFFFFFFF)
