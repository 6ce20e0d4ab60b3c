"""Reference interpreter: runs a program's words on the memories of a whole mesh, seen as one big chip.

It knows the stream (isa.py) and the numerics (README: Numbers) and nothing of how the compiler placed maps,
so that it finds the compiler's mistakes. Instructions run one after another: fences only order what the chip
overlaps. A segment that would be overwritten while it is read is refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from .. import isa
from ..arith.formats import Accumulator
from ..compiler.ir import FeatureMap, PlacedMap
from ..config import ChipConfig, MeshConfig
from ..errors import ChipError
from ..isa import ErrorCode
from . import layout
from .decode import Load, Program, Store, decode, fault

# Sums worked on at a time: enough to be fast, few enough to fit in memory.
SUMS_AT_A_TIME = 1 << 22


@dataclass(frozen=True, eq=False)
class Picture:
    """The output of one convolution, as it lies in memory when the layer ends: true pixels [C, H, W]."""

    instruction: isa.Conv
    map: np.ndarray


@dataclass(eq=False)
class ChipRun:
    """What a program did: words on every chip's ``fm_out``, a picture per CONV, the memories at the end."""

    outputs: layout.Chips
    memory: np.ndarray
    pictures: list[Picture] = field(default_factory=list)


def run_program(
    words: np.ndarray,
    chip: ChipConfig,
    mesh: MeshConfig,
    inputs: Mapping[tuple[int, int], np.ndarray],
    *,
    pictures: bool = True,
) -> ChipRun:
    """Run a program stream.

    Parameters
    ----------
    words : the stream, e.g. ``ChipProgram.words(images)``
    chip, mesh : what it runs on
    inputs : for each chip (row, col) all words of its ``fm_in``, uint16 (layout.to_streams)
    pictures : keep each layer's output

    Raises
    ------
    ChipError : the chip would raise its error status (its code is named), never end, or compute garbage
    """
    machine = _Machine(chip, mesh, inputs, pictures)
    for program in decode(words, chip):
        machine.run(program)
    for at, (stream, taken) in machine.inputs.items():
        if taken != len(stream):
            raise ChipError(f"chip {at}: {len(stream) - taken} words of fm_in were never loaded")
    outputs = {at: np.concatenate([np.zeros(0, np.uint16), *parts]) for at, parts in machine.outputs.items()}
    return ChipRun(outputs, machine.memory, machine.pictures)


class _Machine:
    """State of a run."""

    def __init__(self, chip: ChipConfig, mesh: MeshConfig, inputs: Mapping, pictures: bool):
        self.chip = chip
        self.mesh = mesh
        self.format = chip.number_format
        self.memory = layout.empty_memory(chip, mesh)
        chips = list(np.ndindex(mesh.rows, mesh.cols))
        self.inputs = {at: (self.format.words(inputs[at]), 0) for at in chips}
        self.outputs: dict[tuple[int, int], list[np.ndarray]] = {at: [] for at in chips}
        self.pictures: list[Picture] = []
        self.keep_pictures = pictures
        self.borders: dict[int, PlacedMap] = {}  # by slot

    def run(self, program: Program) -> None:
        for step in program.instructions:
            if isinstance(step, Load):
                placed = self._map_of_transfer(step.instruction)
                self.load(placed)
                self._export(step.instruction, placed)
            elif isinstance(step, Store):
                if step.instruction.exports or step.instruction.export_slot:
                    raise ChipError("STORE: exports is set, but a store makes no map")
                self.store(self._map_of_transfer(step.instruction))
            else:
                self.convolve(step, program)
        if program.rows.left:
            raise fault(ErrorCode.LEFTOVER, f"{program.rows.left} weight rows are left at HALT")
        if program.params.left:
            raise ChipError(f"{program.params.left} parameter sets are left at HALT")
        if self.borders:
            raise ChipError(f"no progress: the borders in slots {sorted(self.borders)} are in use at HALT")

    def _export(self, step: isa.Conv | isa.Transfer, placed: PlacedMap) -> None:
        """Take the border slot of a map that is made; here all chips are one, and nothing need be sent."""
        if not step.exports:
            if step.export_slot:
                raise ChipError("export_slot is set without exports")
            return
        if step.export_slot in self.borders:
            raise ChipError(f"no progress: border slot {step.export_slot} is in use")
        self.borders[step.export_slot] = placed

    def _import(self, conv: isa.Conv, source: PlacedMap) -> None:
        """Refuse a layer whose taps would meet other pixels of the neighbours than its map's."""
        if not conv.imports:
            if conv.import_slot or conv.releases:
                raise ChipError("CONV: import_slot or releases is set without imports")
            if conv.kernel3 and self.mesh.chips > 1:
                raise ChipError("CONV: a 3x3 layer on a mesh needs its input's border")
            return
        border = self.borders.get(conv.import_slot)
        if border is None:
            raise ChipError(f"no progress: border slot {conv.import_slot} is never complete")
        if not conv.kernel3 or (border.base, border.words_per_tile) != (source.base, source.words_per_tile):
            raise ChipError(f"CONV: the border in slot {conv.import_slot} is not its input's")

    def load(self, placed: PlacedMap) -> None:
        streams = {}
        for at, (stream, taken) in self.inputs.items():
            rows, cols = layout.owned(placed, self.chip, *at)
            count = (rows.stop - rows.start) * (cols.stop - cols.start) * placed.map.channels
            if taken + count > len(stream):
                raise ChipError(f"no progress: chip {at} has {len(stream)} words of fm_in and waits for more")
            streams[at] = stream[taken : taken + count]
            self.inputs[at] = stream, taken + count
        layout.write_map(self.memory, placed, layout.from_streams(streams, placed, self.chip, self.mesh))

    def store(self, placed: PlacedMap) -> None:
        bits = layout.read_map(self.memory, placed)
        for at, stream in layout.to_streams(bits, placed, self.chip, self.mesh).items():
            self.outputs[at].append(stream)

    def convolve(self, conv: isa.Conv, program: Program) -> None:
        _check_conv(conv, self.chip)
        source = self._place(
            conv.in_base, conv.in_channels, conv.stride * conv.tile_h, conv.stride * conv.tile_w
        )
        height, width = _size(conv)
        target = self._place(conv.out_base, conv.out_channels, conv.tile_h, conv.tile_w, (height, width))
        bypass = scratch = None
        if conv.bypass:
            bypass = self._place(conv.bypass_base, conv.out_channels, conv.tile_h, conv.tile_w)
        if conv.in_blocks > 1:
            words = self.chip.lanes * self.format.words_per_sum
            scratch = self._place(conv.scratch_base, words, conv.tile_h, conv.tile_w)
        _check_segments(source, bypass, target, scratch)
        self._import(conv, source)
        self._export(conv, target)
        values = self.format.operands(layout.read_padded(self.memory, source))
        values = np.pad(values, ((0, 0), (1, 1), (1, 1)))
        shape = self.memory.shape[0] * conv.tile_h, self.memory.shape[1] * conv.tile_w
        true = np.zeros(shape, bool)
        true[:height, :width] = True

        together = 1 if scratch else max(1, SUMS_AT_A_TIME // (self.chip.lanes * true.size))
        together = -(-together // conv.interleave) * conv.interleave
        for group in range(conv.groups):
            first = group * conv.group_channels
            inputs = values[first : first + conv.group_channels]
            for block in range(0, conv.out_blocks, together):
                blocks = range(block, min(block + together, conv.out_blocks))
                self._blocks(conv, program, inputs, group, blocks, scratch, true)
        if conv.releases:
            del self.borders[conv.import_slot]
        if self.keep_pictures:
            self.pictures.append(Picture(conv, layout.read_map(self.memory, target)))

    def _blocks(
        self,
        conv: isa.Conv,
        program: Program,
        inputs: np.ndarray,
        group: int,
        blocks: range,
        scratch: PlacedMap | None,
        true: np.ndarray,
    ) -> None:
        """Some blocks of K output FMs of one group, from the weights to memory."""
        lanes = self.chip.lanes
        rows = np.concatenate(
            [
                program.rows.take(len(some) * conv.group_channels * conv.taps).reshape(-1, len(some)).T
                for some in conv.blocks_together()
                if some.start in blocks
            ]
        )
        weights = (rows[:, :, None] >> np.arange(lanes, dtype=np.uint64) & np.uint64(1)).astype(bool)
        weights = weights.transpose(1, 0, 2).reshape(-1, len(blocks) * lanes)
        sums = self._accumulator(np.zeros((weights.shape[1], *true.shape), self.format.sums.dtype))
        row = channel = 0
        for in_block in range(conv.in_blocks):
            count = conv.channels_of_block(in_block)
            for window in _windows(inputs[channel : channel + count], conv, true.shape):
                sums.add_terms(window, weights[row : row + count])
                row += count
            channel += count
            if scratch is not None and in_block < conv.in_blocks - 1:
                self._write_sums(scratch, sums.result())
                sums = self._accumulator(self._read_sums(scratch))

        first = group * ((conv.out_blocks - 1) * lanes + conv.last_lanes) + blocks.start * lanes
        count = sum(conv.lanes_of_block(block, lanes) for block in blocks)
        params = program.params.take(len(blocks)) if conv.has_params else np.zeros((len(blocks), 2, lanes))
        params = params.astype(np.uint32).transpose(1, 0, 2).reshape(2, -1)[:, :count, None, None]
        self._epilogue(conv, sums.result()[:count], params, first, true)

    def _epilogue(
        self, conv: isa.Conv, sums: np.ndarray, params: np.ndarray, first: int, true: np.ndarray
    ) -> None:
        """Scale, bias, bypass, ReLU; true pixels to memory, zeros elsewhere."""
        arithmetic = self.format.sums
        if conv.scale:
            sums = arithmetic.multiply(sums, params[0])
        if conv.bias:
            sums = arithmetic.add(sums, params[1])
        channels = slice(first, first + len(sums))
        target = self._place(conv.out_base, conv.out_channels, conv.tile_h, conv.tile_w)
        if conv.bypass:
            bypass = self._place(conv.bypass_base, conv.out_channels, conv.tile_h, conv.tile_w)
            stored = layout.read_padded(self.memory, bypass)[channels]
            sums = arithmetic.add(sums, self.format.widen(stored))
        if conv.relu:
            sums = arithmetic.relu(sums)
        results = np.where(true, self.format.narrow(sums), np.uint16(0))
        tile_rows, tile_cols = self.memory.shape[:2]
        tiles = results.reshape(-1, tile_rows, conv.tile_h, tile_cols, conv.tile_w).transpose(1, 3, 2, 4, 0)
        layout.segment(self.memory, target)[..., channels] = tiles

    def _accumulator(self, start: np.ndarray) -> Accumulator:
        return self.format.accumulator(start, self.chip.accumulator)

    def _write_sums(self, scratch: PlacedMap, sums: np.ndarray) -> None:
        """Partial sums [K, ...] to memory: the parts of a lane's next to each other, low part first."""
        parts = self.format.split(sums).swapaxes(0, 1)
        layout.write_map(self.memory, scratch, parts.reshape(-1, *sums.shape[1:]))

    def _read_sums(self, scratch: PlacedMap) -> np.ndarray:
        words = layout.read_padded(self.memory, scratch)
        parts = words.reshape(self.chip.lanes, self.format.words_per_sum, *words.shape[1:])
        return self.format.join(parts.swapaxes(0, 1))

    def _map_of_transfer(self, transfer: isa.Transfer) -> PlacedMap:
        if transfer.row_stride != transfer.tile_w * transfer.channels:
            raise ChipError(f"row_stride of {transfer} is not tile_w * channels")
        return self._place(
            transfer.base, transfer.channels, transfer.tile_h, transfer.tile_w, _size(transfer)
        )

    def _place(
        self, base: int, channels: int, tile_h: int, tile_w: int, size: tuple[int, int] | None = None
    ) -> PlacedMap:
        """A map by its place; without a size (height, width), all of its tiles."""
        rows, cols = self.memory.shape[0] * tile_h, self.memory.shape[1] * tile_w
        height, width = size or (rows, cols)
        placed = PlacedMap(FeatureMap(f"at {base:#06x}", channels, height, width), tile_h, tile_w, base)
        if not placed.words_per_tile or height > rows or width > cols:
            raise ChipError(
                f"map {placed.map.name}: {placed.map.shape} has no room in tiles of {tile_h, tile_w}"
            )
        if base + placed.words_per_tile > self.chip.fmm_words_per_tile:
            raise ChipError(
                f"map {placed.map.name} ends beyond a tile's memory of {self.chip.fmm_words_per_tile} words"
            )
        return placed


def _windows(values: np.ndarray, conv: isa.Conv, shape: tuple[int, int]) -> Iterator[np.ndarray]:
    """For each filter tap in raster order the inputs [channel, rows, columns] that it meets."""
    rows, cols, stride = *shape, conv.stride
    for dy, dx in np.ndindex(3, 3) if conv.kernel3 else ((1, 1),):
        yield values[:, dy : dy + rows * stride : stride, dx : dx + cols * stride : stride]


def _size(owner: isa.Conv | isa.Transfer) -> tuple[int, int]:
    """Height and width of the true map."""
    if owner.rest_rows >= owner.tile_h or owner.rest_cols >= owner.tile_w:
        raise ChipError(f"the rest of {owner} is no less than a tile")
    return (
        owner.full_rows * owner.tile_h + owner.rest_rows,
        owner.full_cols * owner.tile_w + owner.rest_cols,
    )


def _check_conv(conv: isa.Conv, chip: ChipConfig) -> None:
    """Refuse fields that contradict each other: the chip trusts them and would compute garbage."""
    group_outputs = (conv.out_blocks - 1) * chip.lanes + conv.last_lanes
    in_tile_h, in_tile_w = conv.stride * conv.tile_h, conv.stride * conv.tile_w
    expected = {
        "out_channels": conv.groups * group_outputs,
        "in_channels": conv.groups * conv.group_channels,
        "group_channels": (conv.in_blocks - 1) * conv.block_channels + conv.last_channels,
        "in_row_stride": in_tile_w * conv.in_channels,
        "in_last_row": (in_tile_h - 1) * conv.in_row_stride,
        "in_last_col": (in_tile_w - 1) * conv.in_channels,
        "in_last_edge": (in_tile_h - 1) * conv.in_channels,
        "pixels": conv.tile_h * conv.tile_w,
    }
    for name, value in expected.items():
        if getattr(conv, name) != value:
            raise ChipError(f"CONV: {name} is {getattr(conv, name)}, the other fields make it {value}")
    if not 1 <= conv.last_lanes <= chip.lanes:
        raise ChipError(f"CONV: last_lanes is {conv.last_lanes}, the chip has {chip.lanes}")
    counts = conv.groups, conv.out_blocks, conv.in_blocks, conv.last_channels, conv.pixels
    if not all((*counts, conv.group_channels)):
        raise ChipError("CONV: a count is zero")
    if conv.interleave not in range(1, 1 + min(chip.sums_in_turn, chip.wbuf_depth)):
        raise ChipError(
            f"CONV: interleave is {conv.interleave}, the chip has {chip.sums_in_turn} sums in turn"
        )
    if conv.interleave > 1 and (conv.pixels > 1 or conv.in_blocks > 1):
        raise ChipError("CONV: weight rows alternate, but each is used more than once")
    if conv.block_channels * conv.taps > chip.wbuf_depth:
        raise ChipError(
            f"CONV: {conv.block_channels} channels do not fit the {chip.wbuf_depth} rows of weights"
        )


def _check_segments(
    source: PlacedMap, bypass: PlacedMap | None, target: PlacedMap, scratch: PlacedMap | None
) -> None:
    """Refuse a layer that overwrites what it still reads; in place, bypass and output are one."""
    in_place = bypass is not None and bypass.base == target.base
    pairs = [(target, source), (target, None if in_place else bypass)]
    pairs += [(scratch, other) for other in (source, bypass, target)]
    for one, other in pairs:
        if one is None or other is None:
            continue
        low = max(one.base, other.base)
        if low < min(one.base + one.words_per_tile, other.base + other.words_per_tile):
            raise ChipError(f"CONV: segments {one.map.name} and {other.map.name} overlap")
