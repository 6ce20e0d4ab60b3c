"""Words of less than 16 bits in the simulators' memories."""

import numpy as np
import pytest

from hyperdrive_hdl.simulate.compiled import bits_of_lines
from hyperdrive_hdl.simulate.engines import make_backend
from tests.support.chips import MINI, check_program, small_program


@pytest.mark.parametrize("width", range(4, 17))
def test_every_word_of_a_line(width):
    """Seven words to a line, in lines of whole bytes and of whole 32-bit chunks."""
    rng = np.random.default_rng(width)
    words = rng.integers(0, 1 << width, (20, 7))
    lines = [sum(int(word) << (width * col) for col, word in enumerate(row)) for row in words]
    for size in (-(-7 * width // 8), 4 * -(-7 * width // 32)):
        raw = np.frombuffer(b"".join(line.to_bytes(size, "little") for line in lines), np.uint8)
        for col in range(7):
            found = bits_of_lines(raw.reshape(20, size), col * width, width)
            assert found.dtype == np.uint16
            np.testing.assert_array_equal(found, words[:, col])


# Lines of 4, 24, 36, 48 and 110 bits: each C type that a simulator may take for one.
@pytest.mark.parametrize("engine", ["pysim", "verilator", "cxxrtl"])
@pytest.mark.parametrize(
    ("name", "cols"), [("q0.3", 1), ("fp8_e4m3", 3), ("q2.9", 3), ("q3.8", 4), ("q0.10", 10)]
)
@pytest.mark.slow
def test_pictures_of_narrow_words(engine, name, cols):
    chip = MINI.replace(format=name, accumulator="exact", tile_cols=cols)
    program, stage, image = small_program(5, chip)
    with make_backend(engine, chip) as backend:
        check_program(backend, program, stage, [image])
