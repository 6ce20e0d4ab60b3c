"""``hyperdrive run`` and ``demo``: equal words, differences, special values, interruptions."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hyperdrive_hdl.cli import main
from hyperdrive_hdl.data import digits_images, digits_model
from hyperdrive_hdl.demo import run_demo
from hyperdrive_hdl.files import OutputFolder
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.report.terminal import Terminal
from hyperdrive_hdl.simulate import network as simulated

MODEL = str(digits_model())
RUN_KEYS = {
    "engine",
    "chip",
    "mesh",
    "images",
    "cycles",
    "compute_cycles",
    "load_cycles",
    "store_cycles",
    "load_exposed",
    "store_exposed",
    "macs",
    "utilisation",
    "mismatches",
    "words_compared",
    "simulated_cycles_per_second",
    "border_bits",
    "link_bits",
    "layers",
}
LAYER_KEYS = {"name", "cycles", "macs", "utilisation"}
WORDS = 6272  # per image: the outputs of all ten layers, and the result once more


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def images(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, digits_images()[0][:2])
    return str(path)


def figures(path="figures.json") -> dict:
    with open(path) as file:
        return json.load(file)


def test_rtl_is_equal_to_the_reference(capsys, images, tmp_path):
    assert main(["run", MODEL, images, "--json", "figures.json"]) == 0
    found = figures()
    assert set(found) == RUN_KEYS
    assert all(set(layer) == LAYER_KEYS for layer in found["layers"])
    assert (found["engine"], found["chip"], found["mesh"], found["images"]) == ("cxxrtl", "tiny", "1x1", 2)
    assert found["mismatches"] == 0
    assert found["words_compared"] == 2 * WORDS
    assert found["macs"] == 2 * 928_000 == sum(layer["macs"] for layer in found["layers"])
    assert found["compute_cycles"] == sum(layer["cycles"] for layer in found["layers"])
    assert found["utilisation"] == found["macs"] / (found["compute_cycles"] * 16)
    output = np.load(tmp_path / "build/run/output.npy")
    assert output.dtype == np.float32
    assert output.shape == (2, 10)
    assert output.argmax(axis=1).tolist() == digits_images()[1][:2].tolist()
    captured = capsys.readouterr()
    assert captured.err == ""  # no progress bars where stderr is no terminal
    for layer in found["layers"]:
        assert layer["name"] in captured.out
    assert f"{2 * WORDS:,} words compared" in captured.out
    assert main(["run", MODEL, images, "--stall-seed", "7", "--json", "stalled.json", "--quiet"]) == 0
    assert figures("stalled.json")["cycles"] > found["cycles"]


def test_the_reference_engine_has_no_cycles(images, tmp_path):
    assert main(["run", MODEL, images, "--engine", "reference", "--json", "figures.json", "--quiet"]) == 0
    found = figures()
    assert set(found) == RUN_KEYS
    for key in ("cycles", "compute_cycles", "load_cycles", "store_cycles", "load_exposed", "store_exposed"):
        assert found[key] is None
    assert found["utilisation"] is None
    assert found["simulated_cycles_per_second"] is None
    assert all(layer["cycles"] is None for layer in found["layers"])
    assert (found["mismatches"], found["words_compared"]) == (0, 2 * WORDS)
    reference = np.load(tmp_path / "build/run/output.npy")
    assert reference.argmax(axis=1).tolist() == digits_images()[1][:2].tolist()


def test_a_difference_is_shown_and_ends_with_status_1(capsys, images, monkeypatch):
    true_reference = simulated.run_reference

    def wrong_reference(*args, **options):
        result = true_reference(*args, **options)
        result.layers[1][next(iter(result.layers[1]))][3, 4, 5] ^= 0x8001
        return result

    monkeypatch.setattr(simulated, "run_reference", wrong_reference)
    assert main(["run", MODEL, images, "--engine", "reference", "--json", "figures.json"]) == 1
    assert figures()["mismatches"] == 1
    captured = capsys.readouterr()
    assert "1 of 12,544 words differ" in captured.err
    assert "/block1/conv1/Conv: image 1, channel 3, y 4, x 5: found 0x" in captured.err
    assert ", expected 0x" in captured.err
    assert "1 differ" in captured.out
    assert main(["run", MODEL, images, "--engine", "reference", "--quiet"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "words differ" in captured.err


def test_infinities_and_nan_are_reported(capsys, tmp_path):
    np.save("large.npy", digits_images()[0][:1] * np.float32(1e6))
    assert main(["run", MODEL, "large.npy", "--engine", "reference"]) == 0
    shown = capsys.readouterr().out
    assert "warning: layer /block1/conv" in shown
    assert "Inf" in shown
    assert "NaN" in shown


@pytest.mark.parametrize(
    ("options", "beyond"),
    [
        (["--format", "bf16"], "Inf"),
        (["--format", "fp8_e4m3"], "clipped"),
        (["--format", "fp8_e5m2_ftz", "--accumulator", "exact"], "clipped"),
        (["--format", "q2.9"], "clipped"),
    ],
)
def test_formats_run_and_report(capsys, images, options, beyond):
    assert main(["run", MODEL, images, "--engine", "reference", "--json", "figures.json", *options]) == 0
    assert figures()["mismatches"] == 0
    assert figures()["words_compared"] == 2 * WORDS
    assert f", {options[1]}" in capsys.readouterr().out
    np.save("large.npy", digits_images()[0][:1] * np.float32(1e37))
    assert main(["run", MODEL, "large.npy", "--engine", "reference", *options]) == 0
    shown = capsys.readouterr().out
    assert beyond in shown
    assert "warning: layer /block1/conv" in shown


def test_a_chip_error_has_status_3(capsys, images, monkeypatch):
    from hyperdrive_hdl.errors import ChipError

    def broken(*_, **__):
        raise ChipError("chip0: the chip makes no progress")

    monkeypatch.setattr("hyperdrive_hdl.session.simulate_network", broken)
    assert main(["run", MODEL, images, "--engine", "reference"]) == 3
    assert capsys.readouterr().err == "hyperdrive: chip0: the chip makes no progress\n"


def test_a_missing_compiler_has_status_3(capsys, images, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("HYPERDRIVE_CACHE", str(tmp_path / "cache"))
    assert main(["run", MODEL, images]) == 3
    assert "no-such-compiler" in capsys.readouterr().err
    assert list((tmp_path / "cache").iterdir()) == []
    assert not (tmp_path / "build/run").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_leaves_nothing_behind(images, tmp_path):
    command = [sys.executable, "-m", "hyperdrive_hdl", "run", MODEL, images]
    command += ["--engine", "pysim", "--vcd", "wave.vcd", "--json", "x.json"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that started pytest in the background has made it deaf.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".wave.vcd-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == "hyperdrive: interrupted\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["build", "images.npy"]
    assert not list((tmp_path / "build").rglob("*.npy"))
    assert not list((tmp_path / "build").rglob(".unfinished*"))


def test_demo(tmp_path):
    with OutputFolder("demo", PRESETS["tiny"]) as folder:
        facts = run_demo(PRESETS["tiny"], folder, Terminal(quiet=True), images=3)
        assert not (tmp_path / "demo/report.md").exists()
    found = figures("demo/report.json")
    assert set(found) == RUN_KEYS | {"accuracy_float", "accuracy_reference", "accuracy_rtl", "seconds"}
    assert found["mismatches"] == 0
    assert found["words_compared"] == 3 * WORDS
    assert found["accuracy_rtl"] == found["accuracy_reference"] == facts.accuracy_rtl == 1.0
    report = (tmp_path / "demo/report.md").read_text()
    assert "bit for bit equal" in report
    for name in ("layers.svg", "verilog/hyperdrive_tiny.v", "report.json"):
        assert f"({name})" in report
        assert (tmp_path / "demo" / name).stat().st_size > 0


@pytest.mark.slow
def test_the_whole_demo(capsys, tmp_path):
    assert main(["demo", "--json", "figures.json"]) == 0
    found = figures()
    assert (found["images"], found["mismatches"], found["words_compared"]) == (100, 0, 100 * WORDS)
    assert found["accuracy_rtl"] == found["accuracy_reference"] >= 0.97
    assert found["utilisation"] >= 0.98
    assert (tmp_path / "build/demo/report.md").exists()
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.slow
def test_waveform(images, tmp_path):
    np.save("one.npy", np.load(images)[:1])
    assert main(["run", MODEL, "one.npy", "--vcd", "waves/chip.vcd", "--quiet"]) == 0
    text = (tmp_path / "waves/chip.vcd").read_text()
    assert text.startswith("$timescale")
    assert "$enddefinitions" in text
    assert [path.name for path in (tmp_path / "waves").iterdir()] == ["chip.vcd"]
