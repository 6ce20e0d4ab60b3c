"""``hyperdrive asic``: the whole flow on a small chip, its netlist in simulation, messages, exit statuses."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hyperdrive_hdl.cli import main
from hyperdrive_hdl.compiler.compile import compile_model
from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.presets import load_chip
from hyperdrive_hdl.targets.asic import build as asic_build
from hyperdrive_hdl.targets.asic.cells import cell_models
from hyperdrive_hdl.targets.liberty import read_library
from hyperdrive_hdl.targets.testbench import Testbench, export_testbench
from hyperdrive_hdl.targets.verilog import VerilogExport
from tests.support.models import Builder, images_for, save
from tests.support.simulators import icarus, run_icarus, run_verilator, verilator, write
from tests.targets.test_asic import MEMORY, RTL

SUPPORT = Path(__file__).parent / "support"
LIBERTY, SRAM = str(SUPPORT / "small.lib"), str(SUPPORT / "small_sram.lib")
KEYS = {
    *(
        "chip",
        "library",
        "nand2_area_um2",
        "area_um2",
        "gate_equivalents",
        "blocks",
        "arithmetic_mge",
        "seconds",
    ),
    *("longest_path_ns", "timer", "equivalence", "memories"),
}
CHIP = """\
lanes = 2
tile_rows = 1
tile_cols = 1
fmm_banks = 2
fmm_bank_depth = 64
wbuf_depth = 70
"""
RAM = """\
[macros.ram64x16]
depth = 64
width = 16
mask = "word"
ports = { clk = "CLK", enable = "CE", write = "WE", address = "ADDR", write_data = "DIN", read_data = "DOUT" }
"""


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """The folder with the results of a run, which ended well."""
    folder = tmp_path_factory.mktemp("asic")
    (folder / "small.toml").write_text(CHIP)
    (folder / "ram.toml").write_text(RAM)
    command = ["asic", "-c", str(folder / "small.toml"), "--liberty", LIBERTY, "--sram", SRAM, "--quiet"]
    command += ["--macros", str(folder / "ram.toml")]
    assert main([*command, "-o", str(folder), "--json", str(folder / "facts.json")]) == 0
    return folder


def test_the_facts(mapped):
    facts = json.loads((mapped / "facts.json").read_text())
    assert facts.keys() >= KEYS
    assert facts == json.loads((mapped / "report.json").read_text())
    blocks = {block["name"]: block for block in facts["blocks"]}
    assert blocks.keys() >= {
        *("arithmetic", "registers of tiles", "rest of tiles", "weight buffer", "feature memory"),
        *("distribution", "control"),
    }
    assert facts["area_um2"] == pytest.approx(sum(block["area_um2"] for block in blocks.values()))
    assert facts["gate_equivalents"] == pytest.approx(facts["area_um2"] / 4)
    parts = {part["name"]: part["instances"] for part in blocks["arithmetic"]["parts"]}
    assert parts == {"TPU adders": 2, "multipliers": 1, "epilogue adders": 2}
    assert blocks["arithmetic"]["paper_gate_equivalents"] == pytest.approx(1.6e6, rel=0.01)
    assert facts["arithmetic_mge"] == pytest.approx(blocks["arithmetic"]["gate_equivalents"] / 1e6)
    sram = next(memory for memory in facts["memories"] if memory["depth"] == 64)
    assert (sram["macro"], sram["macros"], sram["instances"]) == ("ram64x16", 1, 2)
    told = json.loads((mapped / "rtl" / "manifest.json").read_text())["total"]
    assert facts["storage"]["latches"] == told["latches"] - told["clock_gates"] == 70 * 2
    assert facts["storage"]["clock gates"] > told["clock_gates"] == 70 + 2
    rows = {part["name"]: part for part in blocks["weight buffer"]["parts"]}
    assert rows["latches"]["area_um2"] == 70 * 2 * 12
    assert rows["clock gates"]["area_um2"] == 70 * 16
    assert all(module["equal"] for module in facts["equivalence"])
    assert sum(module["points"] for module in facts["equivalence"]) > 5000
    assert 1 < facts["longest_path_ns"] < 100
    assert facts["timer"].startswith(("ABC stime", "OpenSTA"))


def test_the_layout_configurations(mapped):
    for kind, design in (("tile", "hyperdrive_small_tile"), ("chip", "hyperdrive_small")):
        path = mapped / "librelane" / kind / "config.json"
        config = json.loads(path.read_text())
        assert config["DESIGN_NAME"] == design
        facts = json.loads((mapped / "report.json").read_text())
        assert config["CLOCK_PERIOD"] >= 1.5 * facts["longest_path_ns"]
        for file in config["VERILOG_FILES"]:
            text = (path.parent / file.removeprefix("dir::")).read_text()
            assert f"module {design}(" in text
            assert "  ram64x16 macro0_0 (" in text
        assert ("MACROS" in config) == (kind == "chip")


def one_layer(chip: ChipConfig, folder: Path) -> Testbench:
    rng = np.random.default_rng(7)
    build = Builder(rng, (2, 4, 4))
    model = build.model(build.conv("image", 3, bias=True, name="conv"))
    compiled = compile_model(save(model, folder), chip)
    return export_testbench(compiled, images_for(model, rng), cells="asic")


# Verilator's C++ takes half a minute: where Icarus is, too, it is for the slow tests.
EITHER = [pytest.mark.slow] if shutil.which("iverilog") else []
SIMULATORS = [
    pytest.param(run_icarus, marks=icarus, id="icarus"),
    pytest.param(run_verilator, marks=[verilator, *EITHER], id="verilator"),
]


@pytest.mark.parametrize("simulate", SIMULATORS)
def test_a_layer_in_gates(mapped, tmp_path, simulate):
    bench = one_layer(load_chip(str(mapped / "small.toml")), tmp_path)
    assert bench.words == 3 * 4 * 4
    netlist, *_ = sources = ["hyperdrive_small_netlist.v", "cells.v", "memories.v"]
    write(tmp_path, bench.files, {name: (mapped / name).read_text() for name in sources})
    assert f"PASS: {bench.words} words equal" in simulate(
        tmp_path, bench.module, f"{bench.module}.v", *sources
    )
    if simulate is run_verilator:
        return  # its compiler takes a while
    text = (tmp_path / netlist).read_text()
    assert "module nor2 " in (tmp_path / "cells.v").read_text()
    for module, right, wrong in (
        ("float_adder", "  nand2 ", "  nor2 "),
        ("latch_row", ".D(write_data[0])", ".D(write_data[1])"),
        ("clock_gate", ".E(enable)", ".E(scan_enable)"),
    ):
        start = text.index(f"module hyperdrive_small_{module}(")
        assert right in text[start : text.index("endmodule", start)]
        write(tmp_path, {netlist: text[:start] + text[start:].replace(right, wrong, 1)})
        assert "FAIL" in simulate(tmp_path, bench.module, f"{bench.module}.v", *sources)


def test_a_flipped_cell_ends_with_status_1(tmp_path, monkeypatch, capsys):
    mapping = asic_build.synthesise

    def flipped(*arguments):
        netlist = mapping(*arguments)
        models = cell_models(read_library(LIBERTY), read_library(LIBERTY).cells)
        wrong = netlist.verilog.replace("xor2 ", "nor2 ", 1)
        assert wrong != netlist.verilog
        return dataclasses.replace(netlist, verilog=wrong, models=models)

    memory = {"kind": "sram", "depth": MEMORY.depth, "width": MEMORY.width, "mask_bits": MEMORY.masks}
    monkeypatch.setattr(
        asic_build,
        "export_verilog",
        lambda config, cells: VerilogExport(
            "demo", config, {"demo.v": RTL}, {"memories": [memory]}, ("demo.v",)
        ),
    )
    monkeypatch.setattr(asic_build, "synthesise", flipped)
    assert main(["asic", "--liberty", LIBERTY, "-o", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert "demo_float_adder: the netlist differs from the RTL in result" in captured.err
    assert "7 of 8 modules equal" in captured.out
    assert "0.97 NAND2" in captured.out  # no macro was given


def refused(capsys, *argv: str) -> str:
    assert main(["asic", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("hyperdrive: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_bad_input(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "nowhere.lib: cannot be read" in refused(capsys, "--liberty", "nowhere.lib")
    Path("text.lib").write_text("hello\n")
    assert "text.lib: not Liberty: line 1" in refused(capsys, "--liberty", "text.lib")
    assert "has no NAND2" in refused(capsys, "--liberty", SRAM)
    small = Path(LIBERTY).read_text()
    for without, change in (
        ("latch", ("latch (IQ, IQN)", "nothing (IQ, IQN)")),
        ("clock gate", ("clock_gating_integrated_cell", "something")),
    ):
        Path("less.lib").write_text(small.replace(*change))
        message = refused(capsys, "--liberty", "less.lib")
        assert f"less.lib: library 'small' has no {without}" in message
        assert "give one with --liberty" in message
    assert "holds no memory macro" in refused(capsys, "--liberty", LIBERTY, "--sram", LIBERTY)
    Path("huge.lib").write_text(Path(SRAM).read_text().replace("address_width : 6", "address_width : 20"))
    (tmp_path / "small.toml").write_text(CHIP)
    message = refused(capsys, "-c", "small.toml", "--liberty", LIBERTY, "--sram", "huge.lib")
    assert "macro ram64x16 has the wrong size: 1048576 words of 16 bits" in message
    Path("ram.toml").write_text(RAM)
    with_macros = ["-c", "small.toml", "--liberty", LIBERTY, "--macros", "ram.toml"]
    message = refused(capsys, *with_macros)
    assert "hyperdrive_small_sram_64x16 is made of macro ram64x16, whose area is not known" in message
    Path("other.lib").write_text(Path(SRAM).read_text().replace("cell (ram64x16)", "cell (ram)"))
    assert "with --sram (given: ram)" in refused(capsys, *with_macros, "--sram", "other.lib")
    Path("ram.toml").write_text(f'{RAM}[sram]\nsram_64x16 = "ram"\n')
    assert "sram.sram_64x16 must name one of macros (ram64x16), not 'ram'" in refused(capsys, *with_macros)
    Path("file").write_text("")
    assert "cannot be written" in refused(capsys, "-c", "small.toml", "--liberty", LIBERTY, "-o", "file/x")
    assert not Path("build", "asic").exists()
    with pytest.raises(SystemExit) as status:
        main(["asic", "--liberty", LIBERTY, "--sram-area-per-bit", "-1"])
    assert status.value.code == 2
