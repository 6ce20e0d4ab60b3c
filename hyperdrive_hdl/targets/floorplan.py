"""Where the block RAMs of the feature maps go: nextpnr's placer finds the rest of each tile around them.

Without it a chip of many tiles is drawn to the middle of the device and spread from there, with wires a third
longer.
"""

from ..config import ChipConfig

# Block RAMs of a device: columns from left to right, and rows, the most useful first: evenly over the device.
_EBR_COLUMNS_85F = tuple(9 * k + (4, 6, 8, 10)[n] + (2 if k > 6 else 0) for k in range(13) for n in range(4))
_DEVICES = dict.fromkeys(("LFE5U-85F", "LFE5UM5G-85F"), (_EBR_COLUMNS_85F, (22, 46, 70, 82)))
FEW_TILES = 4  # so many the placer does well by itself


def block_ram_places(device: str, chip: ChipConfig) -> dict[str, str]:
    """The site (nextpnr's BEL) of each block RAM of the feature-map memory, by its cell below the chip.

    Tile (i, j) has its banks side by side on a row of the device, in the order of the tiles. Empty where the
    device is not known, a bank is not one block RAM, or the tiles do not fit so.
    """
    if device not in _DEVICES or chip.tiles <= FEW_TILES:
        return {}
    columns, rows = _DEVICES[device]
    share = len(columns) // chip.tile_cols
    if chip.tile_rows > len(rows) or chip.fmm_banks > share or chip.fmm_bank_depth > 1024:
        return {}
    places = {}
    for i, y in zip(range(chip.tile_rows), rows, strict=False):
        for j in range(chip.tile_cols):
            first = j * share + (share - chip.fmm_banks) // 2
            for bank in range(chip.fmm_banks):
                x = columns[first + bank]
                cell = f"feature_memory.bank{bank}_row{i}.cells.0.{j}"
                places[cell] = f"X{x}/Y{y}/EBR{(first + bank) % 4}"
    return places
