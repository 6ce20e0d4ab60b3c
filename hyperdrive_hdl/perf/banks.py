"""Which banks of the feature-map memory an instruction touches."""

import numpy as np

from .. import isa
from ..config import ChipConfig


def span_banks(base: int, words: int, config: ChipConfig) -> frozenset[int]:
    """Banks of a segment."""
    depth = config.fmm_bank_depth
    return frozenset(range(base // depth, (base + words - 1) // depth + 1)) if words else frozenset()


def mac_banks(conv: isa.Conv, config: ChipConfig) -> frozenset[int]:
    """Banks that the operations of a layer read: its input, and stored partial sums."""
    banks = span_banks(conv.in_base, conv.pixels * conv.stride**2 * conv.in_channels, config)
    return banks | _scratch_banks(conv, config)


def epilogue_banks(conv: isa.Conv, config: ChipConfig) -> frozenset[int]:
    """Banks that the epilogue of a layer reads and writes."""
    banks = span_banks(conv.out_base, conv.pixels * conv.out_channels, config)
    if conv.bypass:
        banks |= span_banks(conv.bypass_base, conv.pixels * conv.out_channels, config)
    return banks | _scratch_banks(conv, config)


def _scratch_banks(conv: isa.Conv, config: ChipConfig) -> frozenset[int]:
    if conv.in_blocks == 1:
        return frozenset()
    words = conv.pixels * config.lanes * config.number_format.words_per_sum
    return span_banks(conv.scratch_base, words, config)


def has_conflict(conv: isa.Conv, config: ChipConfig) -> bool:
    """The MACs and the epilogue of a layer can want one bank in one cycle; the MAC then waits."""
    return bool(mac_banks(conv, config) & epilogue_banks(conv, config))


def transfer_banks(transfer: isa.Transfer, config: ChipConfig) -> frozenset[int]:
    """Banks that a load or store touches."""
    return span_banks(transfer.base, transfer.tile_h * transfer.tile_w * transfer.channels, config)


def mac_addresses(conv: isa.Conv, group: int, block: int, pixel: int) -> np.ndarray:
    """Tile-local addresses of the terms of one sum's block of input channels, in order (README: Numbers)."""
    y, x = divmod(pixel, conv.tile_w)
    reach = (-1, 0, 1) if conv.kernel3 else (0,)
    rows = conv.in_last_row // conv.in_row_stride + 1
    cols = conv.in_last_col // conv.in_channels + 1
    first = conv.in_base + group * conv.group_channels + block * conv.block_channels
    run = first + np.arange(conv.channels_of_block(block))
    taps = [
        (y * conv.stride + dy) % rows * conv.in_row_stride + (x * conv.stride + dx) % cols * conv.in_channels
        for dy in reach
        for dx in reach
    ]
    return (np.array(taps)[:, None] + run).ravel()
