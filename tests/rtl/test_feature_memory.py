"""The feature-map memory against numpy arrays: two ports on different banks, write masks."""

import numpy as np
import pytest

from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.rtl.feature_memory import FeatureMemory, SinglePortMemory
from tests.support.streams import trace


@pytest.mark.parametrize(("depth", "width", "tiles"), [(2, 16, 1), (5, 8, 3), (16, 12, 4)])
def test_single_port_memory(depth, width, tiles):
    rng = np.random.default_rng(depth)
    dut = SinglePortMemory(depth=depth, width=width, tiles=tiles)
    model = np.zeros((depth, tiles), np.int64)
    known = np.zeros((depth, tiles), bool)
    inputs, expected = [], []
    for _ in range(300):
        enable, write = rng.random() < 0.8, rng.random() < 0.5
        address, mask = int(rng.integers(depth)), rng.random(tiles) < 0.6
        words = rng.integers(0, 1 << width, tiles)
        inputs.append(
            {
                "enable": enable,
                "write": write,
                "address": address,
                "mask": sum(1 << j for j in range(tiles) if mask[j]),
                "write_data": [int(word) for word in words],
            }
        )
        read = enable and not write
        expected.append((model[address].copy(), known[address].copy()) if read else None)
        if enable and write:
            model[address, mask] = words[mask]
            known[address, mask] = True
    seen = trace(dut, [*inputs, {}], ["read_data"])
    compared = 0
    for wanted, found in zip(expected, seen[1:], strict=True):
        if wanted is not None:
            words, valid = wanted
            np.testing.assert_array_equal(np.array(found["read_data"])[valid], words[valid])
            compared += valid.sum()
    assert compared > 60


CHIPS = [(1, 1, 2, 4), (2, 3, 3, 8), (3, 2, 5, 2), (2, 2, 8, 4)]  # tile rows, columns, banks, depth


@pytest.mark.parametrize("latency", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("rows", "cols", "banks", "depth"), CHIPS)
def test_two_ports_on_different_banks(rows, cols, banks, depth, latency):
    config = ChipConfig(
        lanes=2,
        tile_rows=rows,
        tile_cols=cols,
        fmm_banks=banks,
        fmm_bank_depth=depth,
        wbuf_depth=18,
        memory_latency=latency,
    )
    rng = np.random.default_rng(banks)
    dut = FeatureMemory(config=config)
    assert dut.latency == latency
    total = banks * depth
    model = np.zeros((total, rows, cols), np.int64)
    inputs, expected = [], []
    # Fill all words first, so that every later read is of known contents.
    for address in range(total):
        words = rng.integers(0, 1 << 16, (rows, cols))
        model[address] = words
        inputs.append(
            {
                "enable": 1,
                "write": 1,
                "address": address,
                "rows": (1 << rows) - 1,
                "cols": (1 << cols) - 1,
                "results": words,
                "load": 0,
                "mac_enable": 0,
            }
        )
        expected.append((None, None))
    kinds = {"both": 0, "masked": 0, "write_while_mac": 0, "loaded": 0}
    for _ in range(400):
        mac, other, write = (bool(b) for b in rng.random(3) < (0.7, 0.7, 0.5))
        mac_address = int(rng.integers(total))
        address = int(rng.integers(total))
        if mac and other and mac_address // depth == address // depth:
            address = (address + depth) % total
        row_mask, col_mask = rng.random(rows) < 0.7, rng.random(cols) < 0.7
        words = rng.integers(0, 1 << 16, (rows, cols))
        load, word = bool(rng.random() < 0.3), int(rng.integers(1 << 16))
        inputs.append(
            {
                "mac_enable": mac,
                "mac_address": mac_address,
                "enable": other,
                "write": write,
                "address": address,
                "rows": sum(1 << i for i in range(rows) if row_mask[i]),
                "cols": sum(1 << j for j in range(cols) if col_mask[j]),
                "results": words,
                "load": load,
                "load_word": word,
            }
        )
        expected.append(
            (
                model[mac_address].copy() if mac else None,
                model[address].copy() if other and not write else None,
            )
        )
        if other and write:
            mask = np.outer(row_mask, col_mask)
            model[address][mask] = word if load else words[mask]
            kinds["loaded"] += load
            kinds["masked"] += not mask.all()
        kinds["both"] += mac and other
        kinds["write_while_mac"] += mac and other and write
    seen = trace(dut, [*inputs, *[{"enable": 0, "mac_enable": 0}] * latency], ["mac_data", "read_data"])
    compared = 0
    for (mac_words, words), found in zip(expected, seen[dut.latency :], strict=True):
        for wanted, name in ((mac_words, "mac_data"), (words, "read_data")):
            if wanted is not None:
                np.testing.assert_array_equal(found[name], wanted)
                compared += 1
    assert compared > 200
    assert kinds["both"] > 50
    assert kinds["write_while_mac"] > 20
    assert kinds["loaded"] > 20
    assert kinds["masked"] > 20 or rows * cols == 1
