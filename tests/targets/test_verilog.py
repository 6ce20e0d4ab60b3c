"""The exported Verilog: complete, the same every time, readable by other tools."""

import json
import re
from pathlib import Path

import pytest

from hyperdrive_hdl.cli import main
from hyperdrive_hdl.config import SOURCE, ChipConfig
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.targets.verilog import export_verilog, prefixed
from hyperdrive_hdl.tools import yosys
from tests.support.chips import MINI
from tests.support.simulators import verilate, verilator, write

CHIPS = {
    **PRESETS,
    "without_links": PRESETS["tiny"].replace(link_width=0),
    "source_clock": MINI.replace(link_width=1, border_depth=16, link_clock=SOURCE),
}


@pytest.fixture(scope="module", params=CHIPS)
def export(request):
    return export_verilog(CHIPS[request.param])


def modules(text: str) -> list[str]:
    return re.findall(r"^module (\S+?)\(", text, re.MULTILINE)


def test_each_module_once_and_named_after_the_top(export):
    text = export.files[export.verilog]
    names = modules(text)
    assert len(names) == len(set(names)) > 10
    assert "\nmodule \\" not in text  # an escaped name
    assert export.top in names
    assert all(name == export.top or name.startswith(f"{export.top}_") for name in names)
    # All instances are of modules that are there.
    used = set(re.findall(rf"^  ({export.top}\w*) \S+ +\($", text, re.MULTILINE))
    assert used == set(names) - {export.top}


def test_nothing_of_this_machine_in_it(export):
    for text in export.files.values():
        assert "/work" not in text
        assert "/tmp" not in text
        assert str(Path.home()) not in text
        assert ".py" not in text
        assert "src =" not in text


def test_the_configuration_stands_in_the_heading(export):
    heading = export.files[export.verilog].split("\nmodule ")[0]
    for line in export.config.to_toml().splitlines():
        assert line in heading
    assert f"0x{export.config.signature:08x}" in heading


def test_memories_have_no_initial_contents(export):
    text = export.files[export.verilog]
    assert "$readmem" not in text
    assert not re.search(r"^\s*initial", text, re.MULTILINE)


def test_it_is_small(export):
    assert len(export.files[export.verilog]) < 3_000_000


def test_repeated_export_is_identical(export):
    assert export_verilog(export.config).files == export.files


def test_yosys_reads_it_back(export, tmp_path):
    (tmp_path / "chip.v").write_text(export.files[export.verilog])
    log = yosys(
        f"read_verilog chip.v\nhierarchy -check -top {export.top}\nproc\ncheck -assert\n"
        f"select -assert-count {export.config.fmm_banks * export.config.tile_rows} "
        f"{export.top}_feature_memory/t:{export.top}_single_port_memory\n",
        cwd=tmp_path,
        what="test",
    )
    assert "Warning" not in log


def test_the_constraints_name_ports_that_exist(export):
    text = export.files[export.verilog]
    top = text[text.index(f"module {export.top}(") :].split(");")[0]
    ports = set(re.findall(r"\w+", top))
    sdc = export.files["hyperdrive.sdc"]
    named = set(re.findall(r"\b(\w+__\w+|mesh_\w+|neighbours|rst|clk)\b", sdc))
    assert named
    assert named <= ports
    for port in named:  # [*] for those that are buses
        is_bus = re.search(rf"^  (?:in|out)put \[\d+:0\] {port};", text, re.MULTILINE) is not None
        assert (f"{port}[*]" in sdc) == is_bus, port
    assert ("neighbours" in sdc) == export.config.links
    clocks = set(re.findall(r"^create_(?:generated_)?clock -name (\w+)", sdc, re.MULTILINE))
    groups = re.search(r"^set_clock_groups -asynchronous (.*)$", sdc, re.MULTILINE)
    if export.config.links and export.config.link_clock == SOURCE:
        assert len(clocks) == 9
        assert groups is not None
        assert set(re.findall(r"\w+", groups[1].replace("-group", ""))) == clocks
    else:
        assert clocks == {"clk"}
        assert groups is None


def test_the_heading_explains_links(export):
    heading = export.files[export.verilog].split("\nmodule ")[0]
    assert all(len(line) <= 120 for line in heading.splitlines())
    for word in ("north__", "neighbours", "status__side", "link_beats"):
        assert (word in heading) == export.config.links
    assert ("valid, clock" in heading) == (export.config.link_clock == SOURCE)


def test_file_list(export):
    lines = [line for line in export.files["hyperdrive.f"].splitlines() if not line.startswith("//")]
    assert lines == [export.verilog]


@verilator
@pytest.mark.slow
def test_verilator_has_nothing_to_say(export, tmp_path):
    write(tmp_path, export.files)
    assert "%Warning" not in verilate(
        tmp_path, "--lint-only", "-Wall", "-f", "hyperdrive.f", "hyperdrive.vlt"
    )


def test_names_of_modules_in_rtlil():
    text = "module \\tile\nend\nmodule \\tile.adder\nend\nmodule \\top\n"
    text += "  cell \\tile \\x\n  cell $add \\y\nend\n"
    found = prefixed(text, "top")
    assert re.findall(r"module \\(\S+)", found) == ["top_tile", "top_tile_adder", "top"]
    assert "cell \\top_tile \\x" in found
    assert "cell $add \\y" in found


def test_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-chip.toml").write_text(PRESETS["tiny"].replace(name="my-chip").to_toml())
    for folder in ("a", "b"):
        assert main(["verilog", "-c", "my-chip.toml", "-o", folder, "--json", "x.json", "--quiet"]) == 0
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == [
        "chip.toml",
        "hyperdrive.f",
        "hyperdrive.sdc",
        "hyperdrive.vlt",
        "hyperdrive_my_chip.v",
        "manifest.json",
    ]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    facts = json.loads((tmp_path / "x.json").read_text())
    assert facts["top"] == "hyperdrive_my_chip"
    assert facts["cells"] == "generic"
    assert facts["total"]["latches"] == 0
    written = ChipConfig.from_toml(tmp_path / "a/chip.toml")
    assert written == PRESETS["tiny"].replace(name="my-chip")
