"""``hyperdrive fpga``: the list, the results and their figures, messages and exit statuses."""

import json
from pathlib import Path

import pytest

from hyperdrive_hdl.cli import main
from hyperdrive_hdl.compiler.compile import compile_model
from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.data import digits_model
from hyperdrive_hdl.host_link import FLAG
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.report.fpga import digits_facts, fpga_facts, fpga_lines
from hyperdrive_hdl.targets import fpga
from hyperdrive_hdl.targets.boards import BOARDS
from hyperdrive_hdl.targets.fpga import FpgaBuild, Utilisation
from tests.support.boards import ATOM, echo_core

KEYS = {"board", "clock_mhz", "fmax_mhz", "tpus", "luts", "bitstream", "flipflops", "block_rams", "dsps"} | {
    *("preset", "peak_gops", "digits_cycles", "effective_gops", "frames_per_second"),
    *("frames_per_second_line", "seconds", "device", "baud", "large_rams", "sites"),
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fpga, "make_core", echo_core)
    return tmp_path


def refused(capsys, *argv: str, status: int = 2) -> str:
    assert main(("fpga", *argv)) == status
    captured = capsys.readouterr()
    assert captured.err.startswith("hyperdrive: ")
    assert captured.err.count("\n") == 1
    return captured.err


def a_build(chip: ChipConfig, *, clock: float = 50, baud: int = 1_000_000) -> FpgaBuild:
    used = Utilisation(luts=9, flipflops=8, block_rams=7, large_rams=0, dsps=6, sites={"LUT": (9, 5)})
    board = BOARDS["ulx3s-85f"]
    return FpgaBuild(
        board=board, chip=chip, clock_mhz=clock, baud=baud, utilisation=used, fmax_mhz=None, bitstream=None
    )


def test_the_list_has_every_board_and_preset(capsys):
    assert main(["fpga", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for board in BOARDS.values():
        row = next(line for line in lines if line.startswith(f"{board.name} "))
        assert board.default_preset in row
        assert f"{board.presets[board.default_preset]:g} MHz" in row
        assert str(PRESETS[board.default_preset].tpus) in row
        assert board.status(board.default_preset) in row
    assert len(lines) == 1 + sum(len(board.presets) for board in BOARDS.values())


def test_boards_that_are_not_there(capsys):
    assert "no board 'ulx4s'; there are ulx3s-85f, " in refused(capsys, "ulx4s")
    assert "name a board: ulx3s-85f, " in refused(capsys)


def test_chips_clocks_and_baud_rates_that_cannot_be(capsys):
    assert "neither a preset" in refused(capsys, "icebreaker", "-c", "nothing")
    assert "cannot make 7 MHz from 12 MHz" in refused(capsys, "icebreaker", "--clock", "7")
    assert "more than 0" in refused(capsys, "icebreaker", "--clock", "nan")
    assert "nearest is 3000000 baud" in refused(capsys, "icebreaker", "--baud", "7000000")
    assert not [path for path in Path("build").rglob("*") if path.is_file()]


def test_a_bitstream_and_its_report(capsys, tmp_path):
    status = main(["fpga", "tang-nano-9k", "--seed", "3", "--json", "facts.json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    folder = tmp_path / "build" / "fpga" / "tang-nano-9k"
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts == json.loads((folder / "report.json").read_text())
    assert set(facts) == KEYS
    assert facts["board"] == facts["preset"] == "tang-nano-9k"
    chip = PRESETS["tang-nano-9k"]
    assert ChipConfig.from_toml(folder / "chip.toml") == chip
    assert facts["tpus"] == chip.tpus
    assert facts["fmax_mhz"] > facts["clock_mhz"] == BOARDS["tang-nano-9k"].presets["tang-nano-9k"]
    assert facts["peak_gops"] == pytest.approx(2 * chip.tpus * facts["clock_mhz"] / 1000)
    assert (tmp_path / facts["bitstream"]).is_file()
    assert "openFPGALoader -b tangnano9k hyperdrive.fs" in captured.out
    assert f"{facts['luts']} LUTs" in captured.out


def test_synthesis_only(capsys, tmp_path):
    (tmp_path / "atom.toml").write_text(ATOM.to_toml())
    assert main(["fpga", "icebreaker", "-c", "atom.toml", "--synth-only", "--json", "facts.json"]) == 0
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["fmax_mhz"] is facts["bitstream"] is None
    assert facts["luts"] > 0
    assert (tmp_path / "build" / "fpga" / "icebreaker" / "synthesis" / "report.json").is_file()
    # The digits network is too large for this chip.
    assert facts["digits_cycles"] is facts["effective_gops"] is facts["frames_per_second_line"] is None
    out = capsys.readouterr().out
    assert "note: the digits network does not run on this chip" in out
    assert "iceprog" not in out


def test_a_clock_that_is_not_met_ends_with_status_3(capsys, tmp_path):
    error = refused(capsys, "tang-nano-9k", "--clock", "580", "--quiet", status=3)
    assert "MHz after routing, the target is 58" in error
    assert "--clock" in error
    folder = tmp_path / "build" / "fpga" / "tang-nano-9k"
    assert [path.name for path in folder.iterdir()] == ["failed"]


def test_a_tool_that_fails_ends_with_status_3_and_its_log(capsys, monkeypatch):
    monkeypatch.setenv("NEXTPNR_ICE40", "false")
    assert main(["fpga", "icebreaker"]) == 3
    assert "place and route: nextpnr-ice40 failed with status 1" in capsys.readouterr().err
    monkeypatch.setenv("NEXTPNR_ICE40", "no-such-program")
    assert "$NEXTPNR_ICE40 names 'no-such-program'" in refused(capsys, "icebreaker", status=3)


def test_figures_of_the_digits_network():
    chip = PRESETS["ulx3s-small"]
    facts = fpga_facts(a_build(chip), 1.0)
    assert facts.digits is not None
    rate = 50e6 / facts.digits.cycles
    assert facts.frames_per_second == pytest.approx(rate)
    # Almost all TPUs are in use on this chip, and none does more than it can.
    assert facts.effective_gops == pytest.approx(facts.digits.operations * rate / 1e9)
    assert 0.9 * facts.peak_gops < facts.effective_gops <= facts.peak_gops
    assert facts.peak_gops == pytest.approx(2 * 32 * 50e6 / 1e9)


def test_bytes_on_the_line():
    chip = PRESETS["ulx3s-small"]
    compiled = compile_model(digits_model(), chip)
    (program,) = compiled.programs.values()
    words = program.words(1)
    payload = 2 * len(words)
    for transfer in (*program.loads, *program.stores):
        channels, height, width = transfer.map.map.shape
        payload += 2 * channels * height * width
    digits = digits_facts(chip)
    # A write of 128 bytes has 9 more, and about one byte in 128 is escaped.
    assert payload * (1 + 9 / 256) < digits.line_bytes < payload * (1 + 9 / 128 + 4 / 128)
    facts = fpga_facts(a_build(chip, baud=115_200), 1.0)
    assert facts.frames_per_second_line == pytest.approx(115_200 / 10 / digits.line_bytes)
    assert FLAG in words.astype("<u2").tobytes()  # or escapes are not tried


def test_a_chip_that_does_not_fit_is_told():
    lines = list(fpga_lines(fpga_facts(a_build(ATOM), 1.0)))
    assert "this does NOT fit: too many LUT" in lines
