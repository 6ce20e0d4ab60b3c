"""What compiled simulators share: a shared library built once per content, driven through ctypes."""

import ctypes
import hashlib
import os
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..config import ChipConfig
from ..errors import ToolError
from ..tools import cache_dir
from .backend import COUNTERS, Backend, Counters, Event, Stimulus

CXX_SOURCES = Path(__file__).parent / "cxx"


def build_cached(key: bytes, build: Callable[[Path], None], *, kind: str) -> Path:
    """The folder that ``build`` fills, made once for each ``key`` and then taken from the cache.

    Built in a folder of its own and moved into place when complete, so that two processes, or an interrupted
    one, never leave half a build.
    """
    place = cache_dir() / f"{kind}-{hashlib.sha256(key).hexdigest()[:24]}"
    if place.is_dir():
        return place
    work = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=cache_dir()))
    try:
        build(work)
        try:
            os.rename(work, place)
        except OSError:
            if not place.is_dir():  # else another process was first: the same content
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return place


def bits_of_lines(lines: np.ndarray, start: int, width: int) -> np.ndarray:
    """Words of ``width`` bits from bit ``start`` on, of lines [lines, bytes] with the lowest byte first."""
    first, shift = divmod(start, 8)
    after = -(-(start + width) // 8)
    value = np.zeros(len(lines), np.uint32)
    for index, byte in enumerate(range(first, after)):
        value |= lines[:, byte].astype(np.uint32) << np.uint32(8 * index)
    return (value >> np.uint32(shift) & np.uint32((1 << width) - 1)).astype(np.uint16)


class CompiledBackend(Backend):
    """A chip in a shared library with the interface of cxx/api.h."""

    def __init__(self, config: ChipConfig, *, vcd: Path | None = None):
        super().__init__(config, vcd=vcd)
        library = self.build(config, vcd=vcd is not None)
        try:
            self._library = ctypes.CDLL(str(library))
        except OSError as error:
            raise ToolError(f"{self.name}: cannot load the compiled simulator {library}: {error}") from None
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        signatures = {
            "start": (
                pointer,
                [
                    *(pointer, size, pointer, size, pointer, size, ctypes.c_int64, ctypes.c_uint64),
                    *(ctypes.c_int, ctypes.c_int, ctypes.c_char_p),
                ],
            ),
            "run": (ctypes.c_int, [pointer, ctypes.c_uint64]),
            "counters": (pointer, [pointer]),
            "output_words": (size, [pointer]),
            "memory": (pointer, [pointer, ctypes.c_int, ctypes.c_int]),
            "finish": (None, [pointer]),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(self._library, f"hyperdrive_{name}")
            function.restype, function.argtypes = result, arguments
        self._driver = None

    @staticmethod
    @abstractmethod
    def build(config: ChipConfig, *, vcd: bool = False) -> Path:
        """The shared library for this chip, from the cache or built now."""

    def start(self, stimulus: Stimulus) -> None:
        self.close()
        # Kept alive here: the driver reads and writes them in place.
        self._program = np.ascontiguousarray(stimulus.program, np.uint64)
        self._fm_in = np.ascontiguousarray(stimulus.fm_in, np.uint16)
        self._fm_out = np.zeros(max(1, stimulus.output_words), np.uint16)
        self._driver = self._library.hyperdrive_start(
            self._program.ctypes.data,
            self._program.size,
            self._fm_in.ctypes.data,
            self._fm_in.size,
            self._fm_out.ctypes.data,
            stimulus.output_words,
            -1 if stimulus.stall_seed is None else stimulus.stall_seed,
            stimulus.patience,
            stimulus.mesh_row,
            stimulus.mesh_col,
            str(self.vcd).encode() if self.vcd else None,
        )

    def run(self, cycles: int) -> Event:
        return Event(self._library.hyperdrive_run(self._driver, cycles))

    def counters(self) -> Counters:
        values = (ctypes.c_uint64 * len(COUNTERS)).from_address(
            self._library.hyperdrive_counters(self._driver)
        )
        return Counters(**dict(zip(COUNTERS, map(int, values), strict=True)))

    def outputs(self) -> np.ndarray:
        return self._fm_out[: self._library.hyperdrive_output_words(self._driver)].copy()

    def memory(self) -> np.ndarray:
        config = self.config
        line_bytes = self._line_bytes()
        words = np.empty(
            (config.tile_rows, config.tile_cols, config.fmm_banks, config.fmm_bank_depth), np.uint16
        )
        for bank in range(config.fmm_banks):
            for row in range(config.tile_rows):
                address = self._library.hyperdrive_memory(self._driver, bank, row)
                raw = (ctypes.c_uint8 * (config.fmm_bank_depth * line_bytes)).from_address(address)
                lines = np.frombuffer(raw, np.uint8).reshape(config.fmm_bank_depth, line_bytes)
                for col in range(config.tile_cols):
                    words[row, col, bank] = bits_of_lines(lines, col * config.word_width, config.word_width)
        return words.reshape(config.tile_rows, config.tile_cols, config.fmm_words_per_tile)

    def _line_bytes(self) -> int:
        """Bytes from one line of an SRAM to the next: lines are whole 32-bit chunks."""
        return 4 * -(-self.config.word_width * self.config.tile_cols // 32)

    def close(self) -> None:
        if self._driver is not None:
            self._library.hyperdrive_finish(self._driver)
            self._driver = None
