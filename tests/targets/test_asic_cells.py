"""Verilog with an ASIC's cells: what other tools make of it, what the manifest says of it, and its files."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hyperdrive_hdl.cli import main
from hyperdrive_hdl.config import SOURCE, MeshConfig
from hyperdrive_hdl.errors import ConfigError
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.targets.verilog import export_verilog
from hyperdrive_hdl.tools import yosys
from tests.support.chips import MINI
from tests.support.simulators import verilate, verilator, write

SG13G2 = Path(__file__).parents[2] / "constraints/asic/sg13g2.toml"
CHIPS = {
    "tiny": PRESETS["tiny"],
    "clocked": MINI.replace(link_width=1, border_depth=16, link_clock=SOURCE, wbuf_depth=70),
    "exact": MINI.replace(accumulator="exact", adder_latency=3, memory_latency=5),
    "in_turn": MINI.replace(adder_latency=3, format="fp8_e4m3", fmm_bank_depth=2),
}


@pytest.fixture(scope="module", params=CHIPS)
def export(request):
    return export_verilog(CHIPS[request.param], cells="asic")


def entries(export, kind: str) -> dict[str, dict]:
    return {entry["module"]: entry for entry in export.manifest["memories"] if entry["kind"] == kind}


def test_yosys_finds_the_manifests_latches_and_no_others(export, tmp_path):
    """Counted in the flat netlist, bit by bit; and no loop and no second driver anywhere in it."""
    write(tmp_path, export.files)
    latches = " ".join(f"{export.top}_{name}/t:$dlatch" for name in ("clock_gate", "latch_row"))
    yosys(
        f"read_verilog {export.verilog}\nhierarchy -check -top {export.top}\nproc\ncheck -assert\n"
        f"select -assert-count 2 {latches}\nselect -assert-count 2 t:$dlatch\n"
        f"flatten\ncheck -assert\nsimplemap t:$dlatch\ntee -o found.txt select -list t:$_DLATCH_?_\n",
        cwd=tmp_path,
        what="test",
    )
    found = len((tmp_path / "found.txt").read_text().split())
    total, config = export.manifest["total"], export.config
    assert found == total["latches"] == config.wbuf_depth * config.lanes + total["clock_gates"]
    assert total["clock_gates"] == config.wbuf_depth + 2 * config.tiles


def test_the_manifest_has_every_memory(export, tmp_path):
    """By depth, width and number, as Yosys counts them in the flat netlist."""
    write(tmp_path, export.files)
    yosys(
        f"read_verilog {export.verilog}\nhierarchy -top {export.top}\nproc\nflatten\nopt_clean\n"
        "memory_collect\nwrite_json flat.json\n",
        cwd=tmp_path,
        what="test",
    )
    cells = json.loads((tmp_path / "flat.json").read_text())["modules"][export.top]["cells"].values()
    sizes = [
        (int(cell["parameters"]["SIZE"], 2), int(cell["parameters"]["WIDTH"], 2))
        for cell in cells
        if cell["type"].startswith("$mem")
    ]
    config = export.config
    told = [
        (entry["depth"], entry["width"])
        for entry in export.manifest["memories"]
        if entry["kind"] != "latches"
        for _ in range(entry["count"])
    ]
    assert sorted(size for size in sizes if size[0] > 1) == sorted(told)
    srams = entries(export, "sram")
    line = config.word_width * config.tile_cols
    feature = srams[f"{export.top}_sram_{config.fmm_bank_depth}x{line}"]
    assert feature["mask_bits"] == config.tile_cols
    assert feature["within"].keys() == {f"{export.top}_single_port_memory"}
    assert (
        sum(entry["bits"] * entry["count"] for entry in srams.values())
        >= config.fmm_words * config.word_width
    )
    (rows,) = entries(export, "latches").values()
    assert (rows["depth"], rows["width"], rows["count"]) == (config.wbuf_depth, config.lanes, 1)
    for cell in export.manifest["special_cells"]:
        assert sum(cell["within"].values()) <= cell["count"]
    gates, row = export.manifest["special_cells"]
    assert (gates["kind"], row["kind"], row["count"]) == ("clock gate", "latch row", config.wbuf_depth)
    assert gates["within"][f"{export.top}_tile"] == 2
    assert json.loads(export.files["manifest.json"]) == export.manifest


def test_ports_of_memories_are_those_of_the_verilog(export):
    text = export.files[export.verilog]
    for entry in [*entries(export, "sram").values(), *export.manifest["special_cells"]]:
        head = re.search(rf"^module {entry['module']} \((.*?)\);", text, re.MULTILINE | re.DOTALL)[1]
        found = re.findall(r"(input|output) (?:\[(\d+):0\] )?(\w+)", head)
        assert [
            {"name": name, "direction": direction, "width": int(high or 0) + 1}
            for direction, high, name in found
        ] == entry["ports"]


def test_clocks_are_gated_in_one_module(export):
    text = export.files[export.verilog]
    assert text.count("clk &") == 1
    assert len(re.findall(r"always @\*", text)) == 2
    assert not re.search(r"\binitial\b", text)
    assert "scan_enable" in export.files["hyperdrive.sdc"]
    assert "set_clock_gating_check" in export.files["hyperdrive.sdc"]


@verilator
@pytest.mark.slow
def test_verilator_has_nothing_to_say(export, tmp_path):
    write(tmp_path, export.files)
    said = verilate(tmp_path, "--lint-only", "-Wall", "-f", "hyperdrive.f", "hyperdrive.vlt")
    assert "%Warning" not in said


@pytest.mark.parametrize("cells", ["generic", "asic"])
def test_a_file_for_each_module(cells):
    """The same modules, each file headed by the chip's parameters; in the list, nothing before its parts."""
    whole, split = (export_verilog(CHIPS["clocked"], cells=cells, split=split) for split in (False, True))
    pattern = re.compile(r"^module .*?^endmodule$", re.MULTILINE | re.DOTALL)
    listed = [line for line in split.files["hyperdrive.f"].splitlines() if not line.startswith("//")]
    assert listed == list(split.sources)
    assert listed[-1] == split.verilog
    modules = {}
    for name in listed:
        (text,) = pattern.findall(split.files[name])
        modules[name] = text
        assert text.startswith(f"module {name.removesuffix('.v')}")
        heading = split.files[name].split("\nmodule ")[0]
        assert all(f"//   {line}" in heading for line in split.config.to_toml().splitlines())
        assert "SPDX-License-Identifier" in heading
        placed = re.findall(rf"^ +({split.top}\w*) \w+ \(", text, re.MULTILINE)
        assert {f"{part}.v" for part in placed} <= modules.keys()
    assert sorted(modules.values()) == sorted(pattern.findall(whole.files[whole.verilog]))
    assert split.manifest == whole.manifest
    mesh = export_verilog(CHIPS["clocked"], MeshConfig(cols=2), cells=cells, split=True)
    assert mesh.sources == (*split.sources, f"{split.top}_mesh_1x2.v")


DIGEST = """
import hashlib, sys
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.targets.verilog import export_verilog
files = export_verilog(PRESETS["tiny"], cells="asic", split=True, macros=sys.argv[1]).files
print(hashlib.sha256(repr(list(files.items())).encode()).hexdigest())
"""


def test_every_process_writes_the_same():
    found = {
        subprocess.run(
            [sys.executable, "-c", DIGEST, str(SG13G2)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_macros_in_the_manifest_and_in_the_verilog(tmp_path):
    export = export_verilog(PRESETS["tiny"], cells="asic", macros=SG13G2)
    srams = entries(export, "sram")
    feature, border = srams["hyperdrive_tiny_sram_256x32"], srams["hyperdrive_tiny_sram_512x16"]
    assert feature["macro"] | {"name": ""} == {
        "name": "", "depth": 256, "width": 16, "stacked": 1, "side_by_side": 2
    }  # fmt: skip
    assert (border["macro"]["stacked"], border["macro"]["side_by_side"]) == (2, 1)
    assert [cell["cell"] for cell in export.manifest["special_cells"]] == ["sg13g2_slgcp_1", "sg13g2_dlhq_1"]
    # Linked with the vendor's ports, there are no arrays or latches left in the wrappers.
    text = SG13G2.read_text()
    assert "A_BIST_EN" in export.files[export.verilog]
    assert "always @*" not in export.files[export.verilog]
    assert feature["macro"]["name"] in text
    found = re.findall(rf"^  {feature['macro']['name']} macro", export.files[export.verilog], re.MULTILINE)
    assert len(found) == 4


def test_command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mini.toml").write_text(MINI.to_toml())
    argv = ["verilog", "-c", "mini.toml", "--quiet"]
    assert main([*argv, "--cells", "asic", "--split", "-o", "a", "--json", "a.json"]) == 0
    names = {path.name for path in Path("a").iterdir()}
    assert {"manifest.json", "hyperdrive_mini.v", "hyperdrive_mini_clock_gate.v"} <= names
    assert json.loads(Path("a.json").read_text())["total"]["latches"] == 18 * 2 + 18 + 4
    assert main([*argv, "--macros", str(SG13G2), "-o", "b"]) == 0
    assert "RM_IHPSG13_1P_256x16_c2_bm_bist" in Path("b/hyperdrive_mini.v").read_text()

    assert main([*argv, "--cells", "generic", "--macros", str(SG13G2), "-o", "c"]) == 2
    assert "--macros takes the place of ASIC cells" in capsys.readouterr().err
    chosen = f"{SG13G2.read_text()}\n[sram]\n"
    for name, text, message in (
        ("no.toml", None, "no.toml: cannot be read"),
        ("bad.toml", "macros =", "bad.toml: not valid TOML"),
        ("key.toml", "srams = {}", "key.toml: the file: unknown key srams"),
        (
            "wrapper.toml",
            f'{SG13G2.read_text()}\n[sram]\nsram_9x9 = "RM_IHPSG13_1P_8192x32_c4"',
            "sram_64x32",
        ),
        (
            "name.toml",
            f'{chosen}sram_64x32 = "RM_NONE"',
            "sram.sram_64x32 must name one of macros (RM_IHPSG13",
        ),
        (
            "size.toml",
            f'{chosen}sram_64x32 = "RM_IHPSG13_1P_512x64_c2_bm_bist"',
            "its words of 64 bits are wider than the wrapper's 32",
        ),
    ):
        if text is not None:
            Path(name).write_text(text)
        assert main([*argv, "--macros", name, "-o", "c"]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert len(said.splitlines()) == 1
    assert not Path("c").exists()


def test_what_export_refuses():
    with pytest.raises(ConfigError, match="cells must be one of generic, asic, not 'fpga'"):
        export_verilog(MINI, cells="fpga")
    with pytest.raises(ConfigError, match="they need cells 'asic'"):
        export_verilog(MINI, macros=SG13G2)
