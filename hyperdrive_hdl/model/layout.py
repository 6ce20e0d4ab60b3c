"""Where the pixels of a map lie: in the tiles' memories of a mesh, and in the streams of one chip (isa.py).

A memory image is uint16 [tile rows of the mesh, tile columns, words per tile]. A stream holds the true pixels
of one chip in raster order, channels innermost; chip (row, col) owns the pixels from row * M * tile_h and
col * N * tile_w. Maps are uint16 [channels, height, width].
"""

import numpy as np

from ..compiler.ir import PlacedMap
from ..config import ChipConfig, MeshConfig

Chips = dict[tuple[int, int], np.ndarray]  # a stream of words for each chip (row, col) of a mesh


def empty_memory(chip: ChipConfig, mesh: MeshConfig) -> np.ndarray:
    """The memory image of a mesh, all zeros."""
    shape = mesh.rows * chip.tile_rows, mesh.cols * chip.tile_cols, chip.fmm_words_per_tile
    return np.zeros(shape, np.uint16)


def owned(placed: PlacedMap, chip: ChipConfig, row: int, col: int) -> tuple[slice, slice]:
    """Rows and columns of the true map that chip (row, col) owns; empty where the map ends before it."""
    high, wide = chip.tile_rows * placed.tile_h, chip.tile_cols * placed.tile_w
    rows = slice(min(row * high, placed.map.height), min((row + 1) * high, placed.map.height))
    cols = slice(min(col * wide, placed.map.width), min((col + 1) * wide, placed.map.width))
    return rows, cols


def to_stream(map_bits: np.ndarray, placed: PlacedMap, chip: ChipConfig, row: int, col: int) -> np.ndarray:
    """What one chip takes from ``fm_in``, or gives on ``fm_out``, for a map."""
    rows, cols = owned(placed, chip, row, col)
    return map_bits[:, rows, cols].transpose(1, 2, 0).flatten()


def to_streams(map_bits: np.ndarray, placed: PlacedMap, chip: ChipConfig, mesh: MeshConfig) -> Chips:
    """``to_stream`` of every chip of a mesh."""
    return {at: to_stream(map_bits, placed, chip, *at) for at in np.ndindex(mesh.rows, mesh.cols)}


def from_streams(streams: Chips, placed: PlacedMap, chip: ChipConfig, mesh: MeshConfig) -> np.ndarray:
    """The map that the chips of a mesh gave.

    Raises
    ------
    ValueError : a stream has not as many words as its chip has of the map
    """
    found = np.zeros(placed.map.shape, np.uint16)
    for at in np.ndindex(mesh.rows, mesh.cols):
        rows, cols = owned(placed, chip, *at)
        shape = rows.stop - rows.start, cols.stop - cols.start, placed.map.channels
        if len(streams[at]) != np.prod(shape):
            raise ValueError(
                f"map {placed.map.name!r}: chip {at} has {np.prod(shape)} words of it, not {len(streams[at])}"
            )
        found[:, rows, cols] = np.asarray(streams[at]).reshape(shape).transpose(2, 0, 1)
    return found


def segment(memory: np.ndarray, placed: PlacedMap) -> np.ndarray:
    """A view of a map's words [tile rows, tile columns, tile_h, tile_w, channels]."""
    words = memory[:, :, placed.base : placed.base + placed.words_per_tile]
    return words.reshape(*memory.shape[:2], placed.tile_h, placed.tile_w, placed.map.channels)


def read_padded(memory: np.ndarray, placed: PlacedMap) -> np.ndarray:
    """A copy of a map with the padding of its tiles [channels, tile rows * tile_h, tile columns * tile_w]."""
    tiles = segment(memory, placed)
    rows, cols, tile_h, tile_w, channels = tiles.shape
    return tiles.transpose(4, 0, 2, 1, 3).copy().reshape(channels, rows * tile_h, cols * tile_w)


def read_map(memory: np.ndarray, placed: PlacedMap) -> np.ndarray:
    """A copy of the true pixels of a map."""
    return read_padded(memory, placed)[:, : placed.map.height, : placed.map.width]


def write_map(memory: np.ndarray, placed: PlacedMap, map_bits: np.ndarray) -> None:
    """Place a map in the tiles, zeros outside its true pixels."""
    rows, cols = memory.shape[0], memory.shape[1]
    padded = np.zeros((placed.map.channels, rows * placed.tile_h, cols * placed.tile_w), np.uint16)
    padded[:, : placed.map.height, : placed.map.width] = map_bits
    tiles = padded.reshape(-1, rows, placed.tile_h, cols, placed.tile_w)
    segment(memory, placed)[:] = tiles.transpose(1, 3, 2, 4, 0)
