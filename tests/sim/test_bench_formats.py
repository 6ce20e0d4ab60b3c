"""The table of formats, on few images."""

import sys

import pytest

from tests.support.scripts import load_script


def run(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_formats.py", *arguments])
    monkeypatch.setenv("COLUMNS", "160")
    load_script("bench_formats").main()


def test_table(capsys, monkeypatch):
    run(monkeypatch, "fp8_e4m3", "q7.8:exact", "--images", "20")
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[2:]}
    assert set(rows) == {"fp8_e4m3", "q7.8:exact"}
    for kind, cells in (("fp8_e4m3", ["16,384", "50,752", "8,960"]), ("q7.8:exact", ["32,768", "10,640"])):
        assert all(f" {cell}" in rows[kind] for cell in cells)
        assert float(rows[kind].split()[1]) > 90


def test_bad_formats(monkeypatch):
    for kind, message in (("fp17", "not 'fp17'"), ("bf16:exact", "does not go with"), ("q2.9:", "not ''")):
        with pytest.raises(SystemExit, match=message):
            run(monkeypatch, kind, "--images", "1")
