"""The scenario of one layer runs and finds no difference."""

import subprocess
import sys
from pathlib import Path

import pytest

SIM = Path(__file__).parent.parent.parent / "sim"


@pytest.mark.slow  # compiles a simulator with waveforms
def test_one_layer(tmp_path):
    command = [
        sys.executable,
        str(SIM / "one_layer.py"),
        "--engine",
        "cxxrtl",
        "--vcd",
        str(tmp_path / "x.vcd"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "512 words compared with the reference, 0 differ" in done.stdout
    assert (tmp_path / "x.vcd").read_text().startswith("$timescale")
