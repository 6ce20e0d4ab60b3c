"""The table of boards: complete, with pins that exist, and each gives a build plan."""

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hyperdrive_hdl.compiler.compile import compile_model
from hyperdrive_hdl.data import digits_model
from hyperdrive_hdl.errors import ConfigError, UserError
from hyperdrive_hdl.perf.network import estimate_network
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.targets import boards, fpga
from hyperdrive_hdl.targets.boards import BOARDS, MET, PACKAGES, SYNTHESISED, board_by_name
from hyperdrive_hdl.targets.fpga_top import FpgaTop, baud_divisor, board_pll
from tests.support.boards import echo_core

ROOT = Path(__file__).parents[2]
PAIRS = [(board.name, preset) for board in BOARDS.values() for preset in board.presets]


@pytest.fixture(params=BOARDS.values(), ids=BOARDS)
def board(request):
    return request.param


def test_presets_exist_and_figures_are_of_presets(board):
    assert set(board.presets) <= set(PRESETS)
    assert set(board.met_mhz) <= set(board.presets)
    assert board.default_preset == list(board.presets)[0]  # noqa: RUF015
    assert board.loader.endswith(f" {board.bitstream}")


@pytest.mark.parametrize(("name", "preset"), PAIRS)
def test_the_digits_network_runs_on_every_preset(name, preset):
    compiled = compile_model(digits_model(), PRESETS[preset])
    estimate = estimate_network(compiled)
    assert estimate.fmm_words <= compiled.chip.fmm_words
    assert estimate.utilisation > 0.2


@pytest.mark.parametrize(("name", "preset"), PAIRS)
def test_the_clock_and_the_baud_rate_can_be_made(name, preset):
    board = BOARDS[name]
    pll = board_pll(board, board.presets[preset])
    clock = board.oscillator_mhz if pll is None else pll.clock
    assert clock == pytest.approx(board.presets[preset])
    divisor = baud_divisor(round(clock * 1_000_000), board.baud)
    assert clock * 1e6 / divisor == pytest.approx(board.baud, rel=0.02)


def test_the_platform_has_that_oscillator(board):
    platform = board.make_platform()
    assert platform.default_clk_frequency == board.oscillator_mhz * 1e6


def test_the_clock_comes_by_preset():
    board = BOARDS["ulx3s-85f"]
    assert board.clock_mhz("ulx3s-paper") == board.presets["ulx3s-paper"]
    assert board.clock_mhz("somebody's") == board.presets["ulx3s"]


def test_the_status_is_what_was_measured(board):
    for preset, clock in board.presets.items():
        met = board.met_mhz.get(preset, 0) >= clock
        assert board.status(preset) == (MET if met else SYNTHESISED)
        assert preset not in board.met_mhz or met, "a figure below the clock is no figure"


# Where every wire goes, once more by hand. ULX3S: FTDI's TXD at M1, its RXD at L4, the ESP32's GPIO0 at L2.
# OrangeCrab: pins 0 and 1 of the header.
SITES = {
    "ulx3s-85f": {"clk25": "G2", "rx": "M1", "tx": "L4", "led_0": "B2", "led_2": "C1", "gpio0": "L2"},
    "ulx3s-45f": {"clk25": "G2", "rx": "M1", "tx": "L4"},
    "orangecrab-85f": {"clk": "A9", "rx": "N17", "tx": "M18", "__g": "M3", "__b": "J3", "__r": "K4"},
    "ecpix5-85f": {"clk100": "K23", "rx": "R26", "tx": "R24"},
    "icebreaker": {"clk12": "35", "rx": "6", "tx": "9", "led_g": "37", "led_r": "11"},
    "icesugar": {"clk12": "35", "rx": "4", "tx": "6", "led_g": "41", "led_b": "39", "led_r": "40"},
    "tang-nano-9k": {"clk27": "52", "rx": "18", "tx": "17", "led_0": "10"},
    "tang-primer-20k": {"clk27": "H11", "rx": "T13", "tx": "M11", "led_0": "C13"},
}
SITE = {
    "ecp5": r'LOCATE COMP "(\w+)" SITE "(\w+)";',
    "ice40": r"^set_io (\w+) (\w+)$",
    "gowin": r'IO_LOC "(\w+)" (\w+);',
}


@pytest.mark.parametrize("pll", [False, True], ids=["oscillator", "pll"])
def test_every_board_gives_a_plan_with_its_pins(board, pll, monkeypatch):
    monkeypatch.setattr(fpga, "make_core", echo_core)
    clock = board.oscillator_mhz * (1.5 if pll else 1)
    files, real, baud = fpga.build_plan(board, PRESETS[board.default_preset], clock_mhz=clock)
    assert real == pytest.approx(clock, rel=0.01)
    assert baud == board.baud
    text = next(text for name, text in files.items() if name.endswith((".lpf", ".pcf", ".cst")))
    sites = dict(re.findall(SITE[board.family], text, re.MULTILINE))
    for wire, site in SITES[board.name].items():
        assert [at for name, at in sites.items() if re.search(rf"{wire}(_0)?(__io)?$", name)] == [site], wire
    leds = [pin for pin in (board.alive, board.busy, board.error) if pin]
    button = not pll and board.name.startswith("ecpix5")  # its reset
    assert len(sites) == 3 + len(leds) + len(board.high) + button
    assert ("EHXPLLL" in files["top.il"] or "PLL40" in files["top.il"] or "rPLL" in files["top.il"]) == pll
    if board.constraints:
        own = (ROOT / "constraints" / board.constraints).read_text()
        assert text.endswith(own)
        ports = set(re.findall(r'PORT "(\w+)"', own))
        assert ports
        assert ports <= set(sites)


def test_every_file_of_constraints_is_used():
    there = {path.name for path in (ROOT / "constraints").iterdir()} - {"README.md", "asic"}
    assert there == {board.constraints for board in BOARDS.values() if board.constraints}


def test_leds_that_are_low_when_lit_are_inverted():
    platform = BOARDS["icebreaker"].make_platform()
    plan = platform.build(FpgaTop(BOARDS["icebreaker"], None), do_build=False, emit_src=False)
    pin = re.search(r"module \\top\.alive_pin\n(.*?)\nend\n", plan.files["top.il"], re.DOTALL)
    assert pin
    assert "$not" in pin[1]


def test_an_unknown_board_is_refused_with_all_names():
    with pytest.raises(UserError, match=r"no board 'ulx4'.*ulx3s-85f.*tang-nano-9k"):
        board_by_name("ulx4")


def test_a_missing_package_is_named_with_the_remedy(board, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        boards.importlib.util,
        "find_spec",
        lambda name: None if name.startswith("yowasp_next") else find(name),
    )
    with pytest.raises(UserError, match=r"pip install yowasp-nextpnr-\w+"):
        board.make_platform()


def test_pyproject_has_what_boards_need():
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["fpga"]
    names = {re.split("[<>=]", line)[0] for line in extra}
    assert names == {pip for packages in PACKAGES.values() for pip in packages.values()}


@pytest.mark.parametrize("baud", [0, -5, 10_000_000, 5_000_000])
def test_baud_rates_that_do_not_fit_the_clock_are_refused(baud):
    with pytest.raises(ConfigError, match="baud"):
        baud_divisor(12_000_000, baud)


def test_the_table_loads_without_amaranth():
    code = (
        "import sys, hyperdrive_hdl.targets.boards; "
        "assert not [m for m in sys.modules if m.startswith('amaranth')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
