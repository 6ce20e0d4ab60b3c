"""The digits network and the self-test through a board's pins: client, line, bridge and chip."""

import json

import numpy as np
import pytest

from hyperdrive_hdl.cli import main
from hyperdrive_hdl.compiler.compile import compile_model
from hyperdrive_hdl.data import digits_images, digits_model
from hyperdrive_hdl.host.selftest import selftest
from hyperdrive_hdl.host.simulated import BoardSimBackend
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.simulate.board import SimulatedBoard, simulated_board
from hyperdrive_hdl.simulate.network import simulate_network
from tests.support.pins import PINS

CHIP = PRESETS["icebreaker"]
WORDS = 6272  # per image, of all layers and the result


def test_one_image(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("image.npy", digits_images()[0][:1])
    arguments = ["run", str(digits_model()), "image.npy", "-c", CHIP.name, "--engine", "board-sim"]
    assert main([*arguments, "--json", "figures.json"]) == 0
    assert capsys.readouterr().err == ""
    found = json.loads((tmp_path / "figures.json").read_text())
    assert (found["engine"], found["chip"], found["images"]) == ("board-sim", CHIP.name, 1)
    assert (found["mismatches"], found["words_compared"]) == (0, WORDS)
    assert found["cycles"] > 0
    output = np.load("build/run/output.npy")
    assert output.argmax(axis=1).tolist() == digits_images()[1][:1].tolist()


@pytest.mark.slow  # a minute
def test_twenty_images():
    images, digits = digits_images()
    with BoardSimBackend(CHIP) as backend:
        for count in (1, 2, 20):
            run = simulate_network(compile_model(digits_model(), CHIP, observe=True), images[:count], backend)
            assert run.comparison.words == count * WORDS
            assert run.comparison.mismatches == 0
            np.testing.assert_array_equal(run.output, run.reference.output)
            assert run.output.argmax(axis=1).tolist() == digits[:count].tolist()
            assert not backend.simulated.error
            assert backend.simulated.framing_errors == 0


def failing(board: SimulatedBoard) -> set[str]:
    with BoardSimBackend(PINS, board=board, timeout=0.5) as backend:
        result = selftest(backend)
    assert sum(part.words for part in result.parts) > 2 * PINS.fmm_words
    return {part.name for part in result.parts if part.failed}


def test_the_self_test():
    assert failing(simulated_board(PINS)) == set()


def test_the_self_test_names_a_stuck_bit():
    def stuck(rtlil: str) -> str:
        """Bit 5 of what bank 2 gives is 1."""
        data = r"\bank2_row0__read_data"
        cell = rtlil.index("  cell \\single_port_memory \\bank2_row0\n")
        end = rtlil.index("  end\n", cell) + len("  end\n")
        before = f"    connect \\read_data {data}\n"
        after = f"    connect \\read_data {{ {data} [15:6] \\unused {data} [4:0] }}\n"
        assert rtlil[cell:end].count(before) == 1
        changed = rtlil[cell:end].replace(before, after)
        return f"{rtlil[:cell]}  wire \\unused\n{changed}  connect {data} [5] 1'1\n{rtlil[end:]}"

    assert failing(simulated_board(PINS, change=stuck)) == {"feature memory, tile (0, 0), bank 2"}
