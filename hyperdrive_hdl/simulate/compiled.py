"""What compiled simulators share: a shared library built once per content, driven through ctypes."""

import ctypes
import hashlib
import os
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..config import ChipConfig, MeshConfig
from ..errors import ToolError
from ..tools import cache_dir
from .backend import COUNTERS, Backend, Counters, Event, Place, Stimulus

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


def _structure(name: str, **members: type) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(members.items())})


# cxx/plan.h
_POINTER, _U64, _I64 = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int64
_ChipPlan = _structure("_ChipPlan", fm_in=_POINTER, fm_in_words=_U64, fm_out=_POINTER, fm_out_words=_U64)
_LINK_FAULT = ("chip", "side", "action", "cycle", "border_beat", "mask", "cycles")
_CHIP_FAULT = ("chip", "action", "cycle", "cycles")
_Plan = _structure(
    "_Plan",
    program=_POINTER,
    program_words=_U64,
    chips=_POINTER,
    rows=_U64,
    cols=_U64,
    first_row=_U64,
    first_col=_U64,
    stall_seed=_I64,
    patience=_U64,
    link_latency=_U64,
    link_faults=_POINTER,
    link_fault_count=_U64,
    chip_faults=_POINTER,
    chip_fault_count=_U64,
    threads=_U64,
    vcd=ctypes.c_char_p,
)

# cxx/api.h
_FUNCTIONS = {
    "start": (_POINTER, [ctypes.POINTER(_Plan)]),
    "run": (ctypes.c_int, [_POINTER, _U64, ctypes.POINTER(ctypes.c_size_t)]),
    "counters": (_POINTER, [_POINTER, ctypes.c_size_t]),
    "output_words": (ctypes.c_size_t, [_POINTER, ctypes.c_size_t]),
    "memory": (_POINTER, [_POINTER, ctypes.c_size_t, ctypes.c_int, ctypes.c_int]),
    "finish": (None, [_POINTER]),
}


def cores() -> int:
    """Processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # a system other than Linux
        return os.cpu_count() or 1


class CompiledBackend(Backend):
    """Chips in a shared library with the interface of cxx/api.h: one chip's code, once for any mesh.

    Parameters
    ----------
    config, mesh, vcd : as of ``Backend``
    threads : that share out the chips; a waveform is written by one
    """

    def __init__(
        self,
        config: ChipConfig,
        *,
        mesh: MeshConfig | None = None,
        vcd: Path | None = None,
        threads: int | None = None,
    ):
        super().__init__(config, mesh=mesh, vcd=vcd)
        self._threads = 1 if vcd else threads or cores()
        library = self.build(config, vcd=vcd is not None)
        try:
            self._library = ctypes.CDLL(str(library))
        except OSError as error:
            raise ToolError(f"{self.name}: cannot load the compiled simulator {library}: {error}") from None
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(self._library, f"hyperdrive_{name}")
            function.restype, function.argtypes = result, arguments
        self._driver = None

    @staticmethod
    @abstractmethod
    def build(config: ChipConfig, *, vcd: bool = False) -> Path:
        """The shared library for this chip, from the cache or built now."""

    def start(self, stimulus: Stimulus) -> None:
        self.close()
        stimulus.check(self.mesh)
        # Kept alive here: the driver reads and writes them in place.
        self._program = np.ascontiguousarray(stimulus.program, np.uint64)
        self._fm_in = [np.ascontiguousarray(stimulus.fm_in[chip], np.uint16) for chip in self.places]
        self._fm_out = [np.zeros(max(1, stimulus.output_words[chip]), np.uint16) for chip in self.places]
        self._chips = (_ChipPlan * self.mesh.chips)(
            *(
                _ChipPlan(given.ctypes.data, given.size, taken.ctypes.data, stimulus.output_words[chip])
                for chip, given, taken in zip(self.places, self._fm_in, self._fm_out, strict=True)
            )
        )
        self._faults = [
            self._table(stimulus.link_faults, _LINK_FAULT),
            self._table(stimulus.chip_faults, _CHIP_FAULT),
        ]
        plan = _Plan(
            program=self._program.ctypes.data,
            program_words=self._program.size,
            chips=ctypes.addressof(self._chips),
            rows=self.mesh.rows,
            cols=self.mesh.cols,
            first_row=stimulus.mesh_row,
            first_col=stimulus.mesh_col,
            stall_seed=-1 if stimulus.stall_seed is None else stimulus.stall_seed,
            patience=stimulus.patience,
            link_latency=stimulus.link_latency,
            link_faults=self._faults[0].ctypes.data,
            link_fault_count=len(stimulus.link_faults),
            chip_faults=self._faults[1].ctypes.data,
            chip_fault_count=len(stimulus.chip_faults),
            threads=self._threads,
            vcd=str(self.vcd).encode() if self.vcd else None,
        )
        self._driver = self._library.hyperdrive_start(ctypes.byref(plan))

    def _table(self, faults: Sequence, names: Sequence[str]) -> np.ndarray:
        """A row of numbers for each fault; chips by their index."""
        rows = [[self._index(fault.chip), *(getattr(fault, name) for name in names[1:])] for fault in faults]
        return np.array(rows, np.uint64).reshape(len(faults), len(names))

    def _index(self, chip: Place) -> int:
        return chip[0] * self.mesh.cols + chip[1]

    def run(self, cycles: int) -> Event:
        index = ctypes.c_size_t()
        event = Event(self._library.hyperdrive_run(self._driver, cycles, ctypes.byref(index)))
        self.chip = divmod(index.value, self.mesh.cols)
        return event

    def chip_counters(self, chip: Place) -> Counters:
        values = (ctypes.c_uint64 * len(COUNTERS)).from_address(
            self._library.hyperdrive_counters(self._driver, self._index(chip))
        )
        return Counters(**dict(zip(COUNTERS, map(int, values), strict=True)))

    def outputs(self, chip: Place = (0, 0)) -> np.ndarray:
        index = self._index(chip)
        return self._fm_out[index][: self._library.hyperdrive_output_words(self._driver, index)].copy()

    def memory(self, chip: Place = (0, 0)) -> np.ndarray:
        config = self.config
        line_bytes = self._line_bytes()
        words = np.empty(
            (config.tile_rows, config.tile_cols, config.fmm_banks, config.fmm_bank_depth), np.uint16
        )
        for bank in range(config.fmm_banks):
            for row in range(config.tile_rows):
                address = self._library.hyperdrive_memory(self._driver, self._index(chip), bank, row)
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
