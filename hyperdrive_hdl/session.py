"""Runs that the command line and the demo share: a network on an engine, with progress on the terminal."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .compiler.ir import CompiledNetwork
from .config import ChipConfig, MeshConfig
from .errors import ConfigError
from .perf.network import series_timing
from .presets import PRESETS, load_chip
from .report.facts import BOARD_SIM, REFERENCE
from .report.terminal import Terminal
from .simulate.backend import Backend, Counters, check_mesh
from .simulate.network import NetworkRun, simulate_network
from .tools import tool_is_warm, yosys_is_warm

if TYPE_CHECKING:
    from .host.client import Board

FIRST_YOSYS = (
    "first start of Yosys on this machine: its WebAssembly is compiled now, about a minute, "
    "and kept for later runs"
)


def announce_yosys(terminal: Terminal) -> None:
    """Tell why the next step takes a minute, where it will."""
    if not yosys_is_warm():
        terminal.say(FIRST_YOSYS)


def announce_place_and_route(terminal: Terminal, family: str) -> None:
    """The same of the tools for an FPGA of that family."""
    announce_yosys(terminal)
    if not tool_is_warm(f"nextpnr-{family}"):
        terminal.say("first start of nextpnr on this machine: it is compiled likewise, another minute")


def build_engine(
    engine: str,
    chip: ChipConfig,
    terminal: Terminal,
    *,
    mesh: MeshConfig | None = None,
    vcd: Path | None = None,
) -> Backend | None:
    """The simulator of that name, built or from the cache; None for the reference.

    Raises
    ------
    ConfigError : a mesh of chips without links, or on a simulated board
    """
    mesh = mesh or MeshConfig()
    check_mesh(chip, mesh)
    if engine == REFERENCE:
        return None
    if engine == BOARD_SIM:
        return _build_board(chip, terminal, mesh, vcd)
    from .simulate.engines import make_backend  # loads Amaranth

    if engine != "pysim":
        announce_yosys(terminal)
    with terminal.step(f"building the {engine} simulator of chip {chip.name!r}"):
        return make_backend(engine, chip, mesh=mesh, vcd=vcd)


def _build_board(chip: ChipConfig, terminal: Terminal, mesh: MeshConfig, vcd: Path | None) -> Backend:
    """A simulated board with the client at its port."""
    from .host.simulated import BoardSimBackend

    if mesh.chips > 1:
        raise ConfigError(f"--engine {BOARD_SIM} runs one chip: leave --mesh {mesh} away")
    if vcd:
        raise ConfigError(f"--engine {BOARD_SIM} writes no waveform: leave --vcd away")
    announce_yosys(terminal)
    with terminal.step(f"building the simulated board of chip {chip.name!r}"):
        return BoardSimBackend(chip)


def connect_board(port: str, baud: int, terminal: Terminal) -> "Board":
    """The board at a serial port.

    Raises
    ------
    UserError : the port cannot be opened
    ToolError : no board answers
    """
    from .host.client import Board
    from .host.port import open_port

    board = Board(open_port(port, baud))
    try:
        with terminal.step(f"looking for a board at {port}"):
            board.connect()
    except BaseException:
        board.close()
        raise
    return board


def board_chip(board: "Board", chosen: str | None, changes: dict) -> ChipConfig:
    """The chip that was ``chosen`` (a preset or a file), else the preset that the board says it has.

    Raises
    ------
    ConfigError : the board names no preset
    UserError : the board has another chip
    """
    preset = board.identity.preset
    if chosen is None and preset not in PRESETS:
        raise ConfigError(
            f"the board has chip {preset!r}, which is no preset ({', '.join(PRESETS)}): give the description "
            f"that its bitstream was made from with -c FILE.toml"
        )
    chip = load_chip(chosen or preset).replace(**changes)
    board.check(chip)
    return chip


def run_on_engine(
    compiled: CompiledNetwork,
    images: np.ndarray,
    backend: Backend | None,
    terminal: Terminal,
    *,
    stall_seed: int | None = None,
) -> NetworkRun:
    """Run a series of images under a progress bar with layer, cycles (or words) per second and time left."""
    programs = compiled.programs
    expected = {}
    if backend is not None and backend.unit == "words":
        from .host.backend import words_of

        expected = {name: words_of(program, len(images)) for name, program in programs.items()}
    elif backend is not None and stall_seed is None:  # random stalls, and the interpreter, have no length
        expected = {
            name: series_timing(program, len(images))[0]["cycles"] for name, program in programs.items()
        }
    done = dict.fromkeys(programs, 0)
    with terminal.cycles(sum(expected.values()) or None, backend.unit if backend else "cycles") as progress:

        def watch(stage: str, counters: Counters) -> None:
            done[stage] = backend.done() if backend else counters.cycles
            layers = programs[stage].layers
            image, layer = divmod(counters.layers, len(layers))
            if image < len(images):
                progress.update(
                    sum(done.values()), f"image {image + 1} of {len(images)}, {layers[layer].conv.name}"
                )

        return simulate_network(compiled, images, backend, stall_seed=stall_seed, watch=watch)
