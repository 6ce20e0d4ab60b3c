"""Chip and mesh descriptions: frozen, validated, in and out of JSON and TOML.

``ChipConfig`` sizes the RTL; every other module reads its numbers from here. The symbols K, M, N
are the paper's (section III): K output feature maps in parallel, M x N spatial tiles.
"""

import dataclasses
import json
import tomllib
import zlib
from dataclasses import dataclass
from pathlib import Path

from .arith.formats import ACCUMULATORS, SEQUENTIAL, Format, format_by_name
from .errors import ConfigError

MAX_ADDER_LATENCY = 4
MAX_MEMORY_LATENCY = 5

# Limits set by the instruction fields (isa.py): a 16-bit address, a 13-bit row count.
MAX_LANES = 64
MAX_TILES = 64
MAX_FMM_WORDS = 1 << 16
MAX_WBUF_DEPTH = (1 << 13) - 1
MAX_BORDER_DEPTH = 1 << 15

LINK_WIDTHS = (0, 1, 2, 4, 8, 16)
SYNCHRONOUS, SOURCE = "synchronous", "source"


def _check_int(owner: str, name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(f"{owner}: {name} must be an integer from {low} to {high}, not {value!r}")


def _check_choice(owner: str, name: str, value: object, choices: tuple) -> None:
    if value not in choices or isinstance(value, bool):
        listed = ", ".join(map(str, choices))
        raise ConfigError(f"{owner}: {name} must be one of {listed}, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class ChipConfig:
    """One chip: K x M x N tile processing units and their memories.

    Parameters
    ----------
    name : label used in reports and file names
    lanes : K, output feature maps computed in parallel (TPUs per tile)
    tile_rows, tile_cols : M, N, spatial tiles on the chip
    fmm_banks, fmm_bank_depth : single-port banks of feature-map memory per tile, and words in each
    wbuf_depth : rows of K weight bits in the weight buffer
    format : number format of the feature maps, by its name in ``arith.formats``
    accumulator : ``sequential``, one rounding per addition (the paper's), or ``exact``, one per block of
        input channels
    adder_latency : stages of the adders and the multiplier; of a sequential accumulator also the number of
        sums that go through it in turn
    memory_latency : cycles from an access to the feature-map memory to its word. 1; 2 with a register behind
        the selection of the bank, 3 also where the accesses come in, 4 and 5 also behind and before every
        SRAM. From 2 on, what all tiles get alike is registered in each, and what is decided late in a cycle
        counts in the next. For FPGAs, whose wires are slow
    link_width : data bits of a border link; 0 builds no links, no border and no corner memory
    link_clock : ``synchronous``, all chips of a mesh have one clock, or ``source``, the sender's clock
        travels along
    border_depth : words of border memory per tile column (or row), side and slot; a map's pixels along a side
        of a tile times its channels must fit

    Raises
    ------
    ConfigError : a value is of the wrong type, out of range or not supported
    """

    name: str = "custom"
    lanes: int
    tile_rows: int
    tile_cols: int
    fmm_banks: int
    fmm_bank_depth: int
    wbuf_depth: int
    format: str = "fp16"
    accumulator: str = "sequential"
    adder_latency: int = 1
    memory_latency: int = 1
    link_width: int = 0
    link_clock: str = SYNCHRONOUS
    border_depth: int = 512

    def __post_init__(self) -> None:
        owner = f"chip {self.name!r}"
        if not isinstance(self.name, str) or not self.name.replace("_", "").replace("-", "").isalnum():
            raise ConfigError(f"chip name must be letters, digits, '-' and '_', not {self.name!r}")
        _check_int(owner, "lanes", self.lanes, 1, MAX_LANES)
        _check_int(owner, "tile_rows", self.tile_rows, 1, MAX_TILES)
        _check_int(owner, "tile_cols", self.tile_cols, 1, MAX_TILES)
        _check_int(owner, "fmm_banks", self.fmm_banks, 2, 64)
        _check_int(owner, "fmm_bank_depth", self.fmm_bank_depth, 2, MAX_FMM_WORDS // 2)
        _check_int(owner, "wbuf_depth", self.wbuf_depth, 2, MAX_WBUF_DEPTH)
        if self.fmm_bank_depth & (self.fmm_bank_depth - 1):
            raise ConfigError(
                f"{owner}: fmm_bank_depth must be a power of two (the bank is the upper part of an address), "
                f"not {self.fmm_bank_depth}"
            )
        if self.fmm_words_per_tile > MAX_FMM_WORDS:
            raise ConfigError(
                f"{owner}: fmm_banks x fmm_bank_depth must be at most {MAX_FMM_WORDS} words per tile "
                f"(16-bit addresses), not {self.fmm_words_per_tile}"
            )
        try:
            number_format = format_by_name(self.format)
        except ConfigError as error:
            raise ConfigError(f"{owner}: {error}") from None
        _check_choice(owner, "accumulator", self.accumulator, ACCUMULATORS)
        if self.accumulator not in number_format.accumulators:
            raise ConfigError(
                f"{owner}: accumulator {self.accumulator!r} does not go with format {self.format!r}, whose "
                f"exponents span so much that an exact sum would take hundreds of bits per lane; use "
                f"accumulator = {SEQUENTIAL!r}, or another format"
            )
        _check_int(owner, "adder_latency", self.adder_latency, 1, MAX_ADDER_LATENCY)
        _check_int(owner, "memory_latency", self.memory_latency, 1, MAX_MEMORY_LATENCY)
        self._check_links(owner)

    def _check_links(self, owner: str) -> None:
        _check_choice(owner, "link_width", self.link_width, LINK_WIDTHS)
        if self.links and self.word_width % self.link_width:
            raise ConfigError(
                f"{owner}: link_width must divide the {self.word_width} bits of a word of format "
                f"{self.format!r}, not {self.link_width}"
            )
        _check_choice(owner, "link_clock", self.link_clock, (SYNCHRONOUS, SOURCE))
        _check_int(owner, "border_depth", self.border_depth, 2, MAX_BORDER_DEPTH)
        if self.border_depth & (self.border_depth - 1):
            raise ConfigError(f"{owner}: border_depth must be a power of two, not {self.border_depth}")

    @property
    def tiles(self) -> int:
        """M x N."""
        return self.tile_rows * self.tile_cols

    @property
    def tpus(self) -> int:
        """K x M x N, additions per cycle."""
        return self.lanes * self.tiles

    @property
    def fmm_words_per_tile(self) -> int:
        return self.fmm_banks * self.fmm_bank_depth

    @property
    def fmm_words(self) -> int:
        """Words of feature-map memory on the chip."""
        return self.fmm_words_per_tile * self.tiles

    @property
    def number_format(self) -> Format:
        """What ``format`` names."""
        return format_by_name(self.format)

    @property
    def links(self) -> bool:
        """The chip has border links, so that it can be one of a mesh."""
        return self.link_width > 0

    @property
    def word_width(self) -> int:
        """Bits of a feature-map word."""
        return self.number_format.width

    @property
    def parameter_width(self) -> int:
        """Bits of a scale or a bias."""
        return max(self.number_format.sums.width, self.number_format.scales.width)

    @property
    def program_width(self) -> int:
        """Bits of a word of the program stream: a row of K weights, a parameter, or a 16-bit instruction
        word."""
        return max(16, self.lanes, self.parameter_width)

    @property
    def sums_in_turn(self) -> int:
        """P, sums that each lane has under way at a time: as many as its adder has stages."""
        return self.adder_latency if self.accumulator == SEQUENTIAL else 1

    @property
    def signature(self) -> int:
        """32-bit CRC of everything a program depends on; the chip refuses a program made for another."""
        facts = {k: v for k, v in self.to_dict().items() if k != "name"}
        return zlib.crc32(json.dumps(facts, sort_keys=True).encode())

    def replace(self, **changes) -> "ChipConfig":
        """The same chip with some values changed, validated again."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict, *, source: str = "chip description") -> "ChipConfig":
        """Build from plain values.

        Raises
        ------
        ConfigError : an unknown key, a missing one, or an impossible value; ``source`` is named
        """
        if not isinstance(values, dict):
            raise ConfigError(f"{source}: expected a table of values, not {type(values).__name__}")
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise ConfigError(f"{source}: unknown key {', '.join(unknown)}; known are {', '.join(fields)}")
        missing = sorted(n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in values)
        if missing:
            raise ConfigError(f"{source}: missing {', '.join(missing)}")
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    @classmethod
    def from_toml(cls, path: str | Path) -> "ChipConfig":
        """Read a chip description file; the name defaults to the file's."""
        path = Path(path)
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from None
        return cls.from_dict({"name": path.stem, **values}, source=str(path))

    def to_toml(self) -> str:
        return "".join(f"{key} = {json.dumps(value)}\n" for key, value in self.to_dict().items())


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """A mesh of m x n equal chips, m rows and n columns (paper section IV-B)."""

    rows: int = 1
    cols: int = 1

    def __post_init__(self) -> None:
        _check_int("mesh", "rows", self.rows, 1, 64)
        _check_int("mesh", "cols", self.cols, 1, 64)

    @property
    def chips(self) -> int:
        return self.rows * self.cols

    def neighbours(self, row: int, col: int) -> int:
        """Sides on which a chip has a neighbour: bit 0 north, 1 east, 2 south, 3 west."""
        there = row > 0, col < self.cols - 1, row < self.rows - 1, col > 0
        return sum(yes << side for side, yes in enumerate(there))

    def __str__(self) -> str:
        return f"{self.rows}x{self.cols}"

    @classmethod
    def parse(cls, text: str) -> "MeshConfig":
        """``RxC``, rows by columns."""
        rows, by, cols = text.partition("x")
        if not (by and rows.isdecimal() and cols.isdecimal()):
            raise ConfigError(f"mesh must be written ROWSxCOLS, for example 2x3, not {text!r}")
        return cls(rows=int(rows), cols=int(cols))
