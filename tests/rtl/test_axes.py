"""Offsets of filter taps and true pixels along an axis, against plain arithmetic on pixels.

``MapWalker`` is in test_transfer.py, with the units that use it.
"""

import random

import pytest

from hyperdrive_hdl.rtl.axes import TapAxis, TruePixels
from tests.support.streams import trace


@pytest.mark.parametrize("step", [1, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("base", [0, 1000])
def test_tap_axis(step, stride, base):
    """Every length of an axis, pixel after pixel, twice."""
    inputs, expected = [], []
    for length in range(stride, 9 * stride, stride):
        offsets = [i * step for i in range(length)]
        present = {"base": base, "step": step, "last": offsets[-1], "stride2": stride == 2}
        for _ in range(2):
            inputs.append({**present, "restart": 1, "advance": 1})
            expected.append(None)
            for at in range(0, length, stride):
                inputs.append({"restart": 0, "advance": at + stride < length})
                expected.append(
                    {
                        "previous": base + offsets[at - 1],
                        "at": base + offsets[at],
                        "following": base + offsets[(at + 1) % length],
                        "previous_wraps": at == 0,
                        "following_wraps": at == length - 1,
                    }
                )
    dut = TapAxis()
    seen = trace(dut, inputs, ["previous", "at", "following", "previous_wraps", "following_wraps"])
    compared = [(found, wanted) for found, wanted in zip(seen, expected, strict=True) if wanted]
    assert len(compared) == 2 * sum(range(1, 9))
    for found, wanted in compared:
        assert found == wanted


@pytest.mark.parametrize("tiles", [1, 2, 5])
def test_true_pixels(tiles):
    rng = random.Random(tiles)
    inputs, expected = [], []
    for _ in range(300):
        size = rng.randint(1, 8)
        position, pixel = rng.randint(0, 3), rng.randrange(size)
        length = rng.randint(0, min(255 * size, 5 * tiles * size))
        present = {"position": position, "full": length // size, "rest": length % size}
        inputs += [present, {"pixel": pixel + 1}]  # in the cycle before it is steady
        expected.append(sum(1 << i for i in range(tiles) if (position * tiles + i) * size + pixel < length))
    seen = trace(TruePixels(tiles=tiles), inputs, ["true"])
    assert [s["true"] for s in seen[1::2]] == expected
    assert len(set(expected)) > tiles
