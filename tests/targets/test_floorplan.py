"""Places of block RAMs: each once, on a site of the device, a tile's banks side by side."""

import re
from collections import defaultdict

import pytest

from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.targets.floorplan import block_ram_places

# X of the block RAMs of an LFE5U-85F, as nextpnr places 208 of them; all its rows are alike.
COLUMNS = """4 6 8 10 13 15 17 19 22 24 26 28 31 33 35 37 40 42 44 46 49 51 53 55 58 60 62 64 69 71 73 75
78 80 82 84 87 89 91 93 96 98 100 102 105 107 109 111 114 116 118 120"""
SITES = {f"X{x}/Y{y}/EBR{n % 4}" for y in (22, 46, 70, 82) for n, x in enumerate(COLUMNS.split())}


@pytest.mark.parametrize("name", ["ulx3s", "ulx3s-paper", "orangecrab"])
def test_every_bank_of_every_tile_has_a_site(name):
    chip = PRESETS[name]
    places = block_ram_places("LFE5U-85F", chip)
    assert len(places) == chip.fmm_banks * chip.tiles
    assert len(set(places.values())) == len(places)
    assert set(places.values()) <= SITES
    tiles = defaultdict(list)
    for cell, site in places.items():
        bank, row, col = re.fullmatch(r"feature_memory\.bank(\d)_row(\d)\.cells\.0\.(\d)", cell).groups()
        x, y = re.match(r"X(\d+)/Y(\d+)/", site).groups()
        tiles[int(row), int(col)].append((int(y), int(x), int(bank)))
    for banks in tiles.values():
        assert len({y for y, _, _ in banks}) == 1
        assert max(x for _, x, _ in banks) - min(x for _, x, _ in banks) <= 22
    for i, j in tiles:
        if (i, j + 1) in tiles:
            assert max(x for _, x, _ in tiles[i, j]) < min(x for _, x, _ in tiles[i, j + 1])
        if (i + 1, j) in tiles:
            assert tiles[i, j][0][0] < tiles[i + 1, j][0][0]


@pytest.mark.parametrize(
    ("device", "chip"),
    [
        ("LFE5U-45F", PRESETS["ulx3s"]),  # not in the table
        ("LFE5U-85F", PRESETS["ulx3s-small"]),  # placed well without
        ("LFE5U-85F", PRESETS["ulx3s"].replace(tile_rows=5)),
        ("LFE5U-85F", PRESETS["ulx3s"].replace(fmm_banks=16)),
        ("LFE5U-85F", PRESETS["ulx3s"].replace(fmm_bank_depth=2048)),  # two block RAMs a bank
    ],
)
def test_none_where_they_do_not_fit(device, chip):
    assert block_ram_places(device, chip) == {}
