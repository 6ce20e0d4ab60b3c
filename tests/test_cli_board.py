"""``hyperdrive run --port`` and ``selftest`` with a board behind a pseudo-terminal."""

import json

import numpy as np
import pytest

from hyperdrive_hdl.cli import main
from hyperdrive_hdl.data import digits_images, digits_model
from hyperdrive_hdl.host_link import Features
from hyperdrive_hdl.presets import PRESETS
from tests.support.board import FakeBoard, InterpretedChip, PtyLine
from tests.support.chips import MINI

MODEL = str(digits_model())
TINY = PRESETS["tiny"]
WORDS = 6272  # per image, of all layers and the result


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def images(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, digits_images()[0][:2])
    return str(path)


def line(chip=TINY, kind=InterpretedChip, **options) -> PtyLine:
    return PtyLine(FakeBoard(chip, kind(chip), **options))


class Wrong(InterpretedChip):
    """One bit of all that it gives is stuck."""

    def run(self, room):
        before = len(self.outputs)
        super().run(room)
        for index in range(before, len(self.outputs)):
            self.outputs[index] |= 2


def figures() -> dict:
    with open("figures.json") as file:
        return json.load(file)


def test_a_network_on_a_board(capsys, images, tmp_path):
    with line() as board:
        assert main(["run", MODEL, images, "--port", board.name, "--json", "figures.json"]) == 0
    found = figures()
    assert (found["engine"], found["chip"], found["mesh"], found["images"]) == ("board", "tiny", "1x1", 2)
    assert (found["mismatches"], found["words_compared"]) == (0, 2 * WORDS)
    assert found["cycles"] > 0
    assert found["simulated_cycles_per_second"] is None
    assert all(layer["cycles"] is None for layer in found["layers"])
    output = np.load(tmp_path / "build/run/output.npy")
    assert output.argmax(axis=1).tolist() == digits_images()[1][:2].tolist()
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "stores of every layer" in captured.out
    assert f"{2 * WORDS:,} words compared with the reference, 0 differ" in captured.out


def test_only_the_output(capsys, images):
    with line(features=Features(0)) as board:
        arguments = ["--port", board.name, "--observe", "output", "--json", "figures.json"]
        assert main(["run", MODEL, images, *arguments]) == 0
    found = figures()
    assert 0 < found["words_compared"] < WORDS
    assert found["cycles"] is None
    assert "stores of every layer" not in capsys.readouterr().out


def test_a_board_that_computes_wrong(capsys, images):
    with line(kind=Wrong) as board:
        assert main(["run", MODEL, images, "--port", board.name, "--quiet"]) == 1
    captured = capsys.readouterr()
    assert "words differ from the reference" in captured.err
    assert captured.out == ""


def refused(capsys, *arguments: str, status: int = 2) -> str:
    assert main(list(arguments)) == status
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    "option",
    [["--engine", "cxxrtl"], ["--vcd", "x.vcd"], ["--stall-seed", "0"], ["--mesh", "1x2"]],
    ids=lambda option: option[0],
)
def test_what_does_not_go_with_a_board(capsys, images, option):
    assert option[0] in refused(capsys, "run", MODEL, images, "--port", "/dev/ttyNONE", *option)


@pytest.mark.parametrize("option", [["--baud", "9600"], ["--observe", "layers"]], ids=lambda o: o[0])
def test_what_goes_with_a_board_only(capsys, images, option):
    assert "--port" in refused(capsys, "run", MODEL, images, *option)


def test_no_board(capsys, images):
    assert "no such port" in refused(capsys, "run", MODEL, images, "--port", "/dev/ttyNONE")
    assert "no such port" in refused(capsys, "selftest", "--port", "/dev/ttyNONE")


def test_a_silent_board(capsys):
    board = line()
    board.board.deaf = True
    with board:
        assert "no board answers" in refused(capsys, "selftest", "--port", board.name, status=3)


def test_another_chip(capsys, images):
    with line() as board:
        text = refused(capsys, "run", MODEL, images, "--port", board.name, "-c", "paper")
        assert "'tiny'" in text
        assert "'paper'" in text
        text = refused(capsys, "run", MODEL, images, "--port", board.name, "--format", "q2.9")
        assert "format q2.9" in text
    with line(MINI) as board:
        text = refused(capsys, "selftest", "--port", board.name)
        assert "'mini', which is no preset" in text
        assert "-c FILE.toml" in text


def test_the_self_test(capsys):
    with line() as board:
        assert main(["selftest", "--port", board.name, "--json", "figures.json"]) == 0
    found = figures()
    assert (found["board"], found["passed"]) == ("tiny", True)
    captured = capsys.readouterr()
    assert "passed; " in captured.out
    assert captured.err == ""


def test_the_self_test_of_a_chip_in_a_file(capsys, tmp_path):
    (tmp_path / "mini.toml").write_text(MINI.to_toml())
    with line(MINI, kind=Wrong) as board:
        arguments = ["selftest", "--port", board.name, "-c", "mini.toml", "--json", "figures.json"]
        assert main(arguments) == 1
    found = figures()
    assert not found["passed"]
    assert [part["name"] for part in found["parts"] if part["failed"]] == ["line"]
    captured = capsys.readouterr()
    assert captured.err.startswith("line: word ")
    assert "1 of 1 parts fail" in captured.out
