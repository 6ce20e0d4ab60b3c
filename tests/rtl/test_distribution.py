"""The DDU against a padded numpy grid moved by one place."""

import numpy as np
import pytest

from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.rtl.distribution import DataDistribution
from tests.support.streams import trace


def config(rows, cols, format="fp16", latency=1):
    return ChipConfig(
        lanes=2,
        tile_rows=rows,
        tile_cols=cols,
        fmm_banks=2,
        fmm_bank_depth=64,
        wbuf_depth=18,
        format=format,
        memory_latency=latency,
    )


@pytest.mark.parametrize("latency", [1, 2])  # of the memory: with 2, every tile has its own selection
@pytest.mark.parametrize(
    ("rows", "cols", "format"),
    [(1, 1, "fp16"), (1, 4, "q2.9"), (3, 1, "fp8_e4m3"), (2, 2, "fp16"), (3, 4, "q2.9")],
)
def test_windows(rows, cols, format, latency):
    rng = np.random.default_rng(rows * 8 + cols)
    chip = config(rows, cols, format, latency)
    dut = DataDistribution(config=chip)
    inputs, expected = [{}], []
    moves = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)] * 4
    rng.shuffle(moves)
    for dy, dx in moves:
        grid = rng.integers(1, 1 << chip.word_width, (rows + 2, cols + 2))
        inputs.append(
            {
                "north": grid[0],
                "south": grid[-1],
                "west": grid[1:-1, 0],
                "east": grid[1:-1, -1],
                "pixels": grid[1:-1, 1:-1],
            }
        )
        inputs[-2] |= {"up": dy < 0, "down": dy > 0, "left": dx < 0, "right": dx > 0}
        expected.append(np.roll(grid, (-dy, -dx), (0, 1))[1:-1, 1:-1])
    seen = trace(dut, inputs + [{}] * dut.latency, ["x"])
    found = [s["x"] for s in seen[dut.latency + 1 :]]
    np.testing.assert_array_equal(found, expected)


def test_a_ring_of_zeros_is_zero_padding():
    pixels = np.arange(1, 7).reshape(2, 3)
    dut = DataDistribution(config=config(2, 3))
    seen = trace(dut, [{"up": 1, "left": 1}, {"pixels": pixels}, {}], ["x"])
    np.testing.assert_array_equal(seen[2]["x"], [[0, 0, 0], [0, 1, 2]])
