"""The self-checking testbench: its files, and its verdicts in Icarus Verilog where that is installed."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from hyperdrive_hdl.cli import main
from hyperdrive_hdl.compiler.compile import compile_model
from hyperdrive_hdl.data import digits_images, digits_model
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.targets.testbench import export_testbench
from hyperdrive_hdl.targets.verilog import export_verilog

MODEL = str(digits_model())


@pytest.fixture(scope="module")
def compiled():
    return compile_model(MODEL, PRESETS["tiny"])


def words(text: str) -> list[int]:
    return [int(line, 16) for line in text.splitlines() if not line.startswith("//")]


def test_the_words_are_the_programs_and_the_references(compiled):
    images = digits_images()[0][:2]
    bench = export_testbench(compiled, images)
    program = compiled.programs["chip0"]
    assert words(bench.files["program.hex"]) == program.words(2).tolist()
    assert len(words(bench.files["fm_in.hex"])) == 2 * 16 * 8 * 8
    expected = words(bench.files["expected.hex"])
    assert len(expected) == bench.words == 2 * 40 * 2 * 2
    assert len(set(expected)) > 10
    text = bench.files[f"{bench.module}.v"]
    for name, count in (("PROGRAM", len(program.words(2))), ("FM_IN", 2048), ("EXPECTED", 320)):
        assert f"localparam {name}_WORDS = {count};" in text


def test_it_names_the_ports_of_the_chip(compiled):
    bench = export_testbench(compiled, digits_images()[0][:1])
    export = export_verilog(compiled.chip)
    text = export.files[export.verilog]
    ports = set(re.findall(r"\w+", text[text.index(f"module {export.top}(") :].split(");")[0].split("(")[1]))
    instance = bench.files[f"{bench.module}.v"].split(f"{export.top} dut (")[1].split(");")[0]
    assert set(re.findall(r"\.(\w+)\(", instance)) == ports


def test_command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", digits_images()[0][:1])
    assert main(["verilog", "--model", MODEL]) == 2
    assert "both --model" in capsys.readouterr().err
    assert main(["verilog", "--input", "images.npy"]) == 2
    assert "both --model" in capsys.readouterr().err
    assert main(["verilog", "--model", MODEL, "--input", "nowhere.npy"]) == 2
    assert "no such file" in capsys.readouterr().err
    assert not (tmp_path / "build").exists()
    assert main(["verilog", "--model", MODEL, "--input", "images.npy"]) == 0
    names = {path.name for path in (tmp_path / "build/verilog").iterdir()}
    assert {"hyperdrive_tiny_tb.v", "program.hex", "fm_in.hex", "expected.hex"} <= names


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("iverilog") is None, reason="iverilog is not installed")
def test_icarus_passes_and_fails(compiled, tmp_path):
    bench = export_testbench(compiled, digits_images()[0][:1])
    for name, text in (export_verilog(compiled.chip).files | bench.files).items():
        (tmp_path / name).write_text(text)
    sources = [f"{bench.module}.v", "hyperdrive_tiny.v"]
    subprocess.run(["iverilog", "-g2001", "-o", "testbench", *sources], cwd=tmp_path, check=True)

    def verdict() -> str:
        return subprocess.run(
            ["./testbench"], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    assert f"PASS: {bench.words} words equal" in verdict()
    first = f"{words(bench.files['expected.hex'])[0]:04x}"
    wrong = bench.files["expected.hex"].replace(first, "1234", 1)
    (tmp_path / "expected.hex").write_text(wrong)
    assert f"FAIL: word 0 of fm_out is {first}, expected 1234" in verdict()
