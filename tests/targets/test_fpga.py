"""Builds for FPGAs: the plan, the tools' reports, the flow with real tools, and how it fails."""

import json
import re
import zlib
from contextlib import nullcontext

import pytest

from hyperdrive_hdl.errors import ConfigError, ToolError
from hyperdrive_hdl.files import OutputFolder
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.targets import fpga
from hyperdrive_hdl.targets.boards import BOARDS
from hyperdrive_hdl.targets.fpga import (
    build_bitstream,
    build_plan,
    check_timing,
    modules_under,
    read_fmax,
    read_sites,
    read_utilisation,
    with_dfu_suffix,
)
from tests.support.boards import ATOM, echo_core

# One board per family, the smallest; and one whose bitstream takes another step.
FAMILIES = ("ulx3s-45f", "icebreaker", "tang-nano-9k")


def build(name, folder, *, chip=ATOM, progress=lambda text: nullcontext(), **options):
    with OutputFolder(folder, chip) as output:
        return build_bitstream(BOARDS[name], chip, output, progress, **options)


# The plan


@pytest.fixture(scope="module")
def plans():
    made = {}

    def plan(name, preset):
        if (name, preset) not in made:
            made[name, preset] = build_plan(BOARDS[name], PRESETS[preset])[0]
        return made[name, preset]

    return plan


def test_only_memories_of_the_chip_lose_their_contents(plans):
    files = plans("icebreaker", "icebreaker")
    core = files["board_core.il"]
    chip = modules_under(core, "chip")
    deleted = re.findall(r"^delete (\w+)/t:\$meminit_v2$", files["top.ys"], re.MULTILINE)
    assert set(deleted) <= set(chip)
    assert "single_port_memory" in deleted
    filled = set()
    for name, body in re.findall(r"^module \\(\S+)$(.*?)^end$", core, re.MULTILINE | re.DOTALL):
        if "$meminit_v2" in body:
            filled.add(name)
    assert filled & set(chip) == set(deleted)
    assert filled - set(chip), "the core has no ROM any more: the selection is not needed"


def test_tiles_are_mapped_once_where_there_are_several(plans):
    several, one = plans("ulx3s-85f", "ulx3s-small")["top.ys"], plans("icebreaker", "icebreaker")["top.ys"]
    assert "setattr -mod -set keep_hierarchy 1 tile\n" in several
    assert "synth_ecp5 -noflatten" in several
    assert "keep_hierarchy" not in one
    assert "-noflatten" not in one
    assert re.search("synth_ice40 .*-spram", one)


def test_the_module_that_is_kept_is_a_tile_of_the_chip(plans):
    core = plans("ulx3s-85f", "ulx3s-small")["board_core.il"]
    assert "tile" in modules_under(core, "chip")
    assert len(re.findall(r"^  cell \\tile ", core, re.MULTILINE)) == PRESETS["ulx3s-small"].tiles


def test_modules_under_one():
    text = "module \\a\n  cell \\b \\x\n  end\nend\nmodule \\b\n  cell $add $1\n  end\nend\nmodule \\c\nend\n"
    assert modules_under(text, "a") == ["a", "b"]
    assert modules_under(text, "c") == ["c"]
    with pytest.raises(ValueError, match="no module 'd', only a, b, c"):
        modules_under(text, "d")


@pytest.mark.parametrize("clock", [0, -3, float("nan"), float("inf"), 5000])
def test_clocks_that_are_none_are_refused(clock):
    with pytest.raises(ConfigError, match="clock must be more than 0"):
        build_plan(BOARDS["icebreaker"], ATOM, clock_mhz=clock)


# Reports: as the tools have written them, shortened

CELLS = {
    "ecp5": {"CCU2C": 798, "DP16KD": 133, "LUT4": 6067, "PFUMX": 620, "TRELLIS_FF": 3692, "MULT18X18D": 16},
    "ice40": {"SB_CARRY": 1627, "SB_DFF": 327, "SB_DFFE": 1136, "SB_DFFESR": 1683, "SB_LUT4": 3762}
    | {"SB_MAC16": 2, "SB_RAM40_4K": 5, "SB_SPRAM256KA": 4},
    "gowin": {"ALU": 4265, "DFF": 1306, "DFFRE": 5168, "LUT1": 1356, "LUT4": 3944, "MUX2_LUT5": 1400}
    | {"MULT18X18": 4, "SPX9": 16, "DPX9B": 1, "RAM16SDP4": 12},
}
LOG = """\
Info: Device utilisation:
Info: \t         ICESTORM_LC:    8634/   5280   163%
Info: \t        ICESTORM_RAM:       4/     30    13%
Info: \t       ICESTORM_PLL:       0/      1     0%
Info: \t       ICESTORM_SPRAM:       4/      4   100%

Info: Placed 5 cells based on constraints.
Info: Max frequency for clock 'clk': 14.00 MHz (PASS at 12.00 MHz)
"""
TIMING = '{"critical_paths": [], "fmax": {"clk": {"achieved": 81.5, "constraint": 75.0}}, "utilization": {}}'


def statistics(family: str) -> str:
    return json.dumps({"creator": "Yosys", "design": {"num_cells_by_type": CELLS[family]}})


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("ecp5", (6067 + 2 * 798, 3692, 133, 0, 16)),
        ("ice40", (8634, 327 + 1136 + 1683, 5, 4, 2)),
        ("gowin", (4265 + 1356 + 3944, 1306 + 5168, 17, 0, 4)),
    ],
)
def test_utilisation(family, expected):
    used = read_utilisation(family, statistics(family), LOG)
    assert (used.luts, used.flipflops, used.block_rams, used.large_rams, used.dsps) == expected
    assert used.sites == {
        "ICESTORM_LC": (8634, 5280),
        "ICESTORM_RAM": (4, 30),
        "ICESTORM_SPRAM": (4, 4),
    }
    assert list(used.excess) == ["ICESTORM_LC"]


def test_sites_of_nothing():
    assert read_sites("Info: Max frequency for clock 'clk': 14.00 MHz\n") == {}
    with pytest.raises(ToolError, match="no device utilisation"):
        read_utilisation("ecp5", statistics("ecp5"), "")


@pytest.mark.parametrize("text", ["", "{}", '{"design": {}}', '{"design": 3}'])
def test_statistics_that_are_none(text):
    with pytest.raises(ToolError, match="statistics cannot be read"):
        read_utilisation("ecp5", text, LOG)


def test_fmax_is_that_of_the_slowest_clock():
    assert read_fmax(TIMING) == 81.5
    two = '{"fmax": {"a": {"achieved": 20, "constraint": 12}, "b": {"achieved": 19.5, "constraint": 12}}}'
    assert read_fmax(two) == 19.5


@pytest.mark.parametrize("text", ["", "{}", '{"fmax": {}}', '{"fmax": {"a": {}}}'])
def test_a_report_without_a_clock(text):
    with pytest.raises(ToolError, match="no clock"):
        read_fmax(text)


def test_a_clock_that_is_not_met():
    board = BOARDS["ulx3s-85f"]
    check_timing(board, ATOM, 75, 75.0)
    with pytest.raises(
        ToolError, match=r"74\.99 MHz after routing, the target is 75 MHz; try --clock 74"
    ) as e:
        check_timing(board, ATOM, 75, 74.99)
    assert e.value.status == 3


def test_dfu_suffix():
    file = with_dfu_suffix(b"bitstream", 0x1209, 0x5AF0)
    assert file[:9] == b"bitstream"
    assert file[9:25] == bytes.fromhex("ffff f05a 0912 0001 55 46 44 10") + file[21:25]
    assert len(file) == 9 + 16
    # CRC-32 of a message and its own CRC leaves the polynomial's constant, here without the final inversion.
    assert zlib.crc32(file) ^ 0xFFFFFFFF == 0


# The flow


@pytest.mark.parametrize("name", [*FAMILIES, "orangecrab-85f"])
def test_a_few_cells_become_a_bitstream(name, tmp_path, monkeypatch):
    monkeypatch.setattr(fpga, "make_core", echo_core)
    board, steps = BOARDS[name], []

    def progress(text):
        steps.append(text)
        return nullcontext()

    clock = 24 if name == "icebreaker" else None  # with its PLL
    made = build(name, tmp_path / "out", progress=progress, clock_mhz=clock)
    assert made.bitstream == tmp_path / "out" / board.bitstream
    assert made.bitstream.stat().st_size > 1000
    assert made.fmax_mhz is not None
    assert made.clock_mhz < made.fmax_mhz < 1000
    assert 12 < made.utilisation.luts < 200
    assert 12 < made.utilisation.flipflops < 100
    assert [step.split()[0] for step in steps] == ["elaborating", "synthesis", "place", "packing"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"chip.toml", "yosys.log", "nextpnr.log", "synthesis.ys", "timing.json", "cells.json"} < names
    log = (tmp_path / "out" / "nextpnr.log").read_text()
    # Found out by nextpnr from the PLL's parameters, and not by us.
    assert "out of legal range" not in log
    if board.family != "gowin":
        assert f"Derived frequency constraint of {made.clock_mhz:.1f} MHz for net " in log
    assert "Warning" not in log


def test_the_seed_and_the_clock_reach_the_tools(tmp_path, monkeypatch):
    monkeypatch.setattr(fpga, "make_core", echo_core)
    called = []
    run = fpga.run
    monkeypatch.setattr(fpga, "run", lambda command, **more: called.append(command) or run(command, **more))
    build("icebreaker", tmp_path / "out", seed=7)
    routing = called[1]
    assert routing[routing.index("--seed") + 1] == "7"
    assert float(routing[routing.index("--freq") + 1]) == 12
    assert len(called) == 3


def test_timing_that_is_not_met_leaves_logs_and_no_bitstream(tmp_path, monkeypatch):
    monkeypatch.setattr(fpga, "make_core", echo_core)
    out = tmp_path / "out"
    build("tang-nano-9k", out)  # of before
    before = (out / "hyperdrive.fs").read_bytes()
    with pytest.raises(ToolError, match="MHz after routing, the target is 580"):
        build("tang-nano-9k", out, clock_mhz=580, baud=1_000_000)
    assert (out / "hyperdrive.fs").read_bytes() == before
    assert "Max frequency" in (out / "failed" / "nextpnr.log").read_text()
    with pytest.raises(ToolError, match="after routing"):
        build("tang-nano-9k", tmp_path / "new", clock_mhz=580, baud=1_000_000)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["failed"]
    build("tang-nano-9k", out)
    assert not (out / "failed").exists()


def test_a_design_that_does_not_fit_says_what_ran_out(tmp_path, monkeypatch):
    def run(command, *, cwd, **more):
        if "top.ys" in command:
            return ""
        (cwd / "top.tim").write_text(LOG)
        raise ToolError("place and route: nextpnr-ice40 failed")

    monkeypatch.setattr(fpga, "make_core", echo_core)
    monkeypatch.setattr(fpga, "run", run)
    message = r"'atom' does not fit icebreaker \(iCE40 UP5K\): it needs 8634 of 5280 ICESTORM_LC; take"
    with pytest.raises(ToolError, match=message) as error:
        build("icebreaker", tmp_path / "out")
    assert error.value.status == 3


@pytest.mark.parametrize("name", FAMILIES)
def test_a_chip_is_synthesised(name, tmp_path):
    made = build(name, tmp_path / "out", synth_only=True)
    used = made.utilisation
    assert made.bitstream is None
    assert made.fmax_mhz is None
    assert used.luts > 1000
    assert used.flipflops > 1000
    assert used.block_rams > 0
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"chip.toml", "yosys.log", "cells.json"}


def test_a_chip_becomes_a_bitstream(tmp_path):
    made = build("icebreaker", tmp_path / "out", chip=ATOM.replace(format="q2.9", accumulator="exact"))
    assert made.bitstream is not None
    assert made.bitstream.stat().st_size > 100_000
    assert made.fmax_mhz is not None
    assert made.fmax_mhz >= made.clock_mhz == 12
    assert made.utilisation.sites["ICESTORM_LC"][0] > 2000, "there is a chip in it"
