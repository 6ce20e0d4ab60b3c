"""The exported mesh and its testbench: wiring, files, and verdicts in Icarus Verilog where installed."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hyperdrive_hdl.cli import main
from hyperdrive_hdl.compiler.compile import compile_network
from hyperdrive_hdl.compiler.pipeline import import_network
from hyperdrive_hdl.config import SOURCE, ChipConfig, MeshConfig
from hyperdrive_hdl.errors import ConfigError
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.targets.mesh import mesh_text
from hyperdrive_hdl.targets.ports import chip_ports, connections
from hyperdrive_hdl.targets.testbench import Testbench, export_testbench
from hyperdrive_hdl.targets.verilog import export_verilog, mesh_name, top_name
from hyperdrive_hdl.tools import yosys
from tests.support.chips import MINI
from tests.support.models import Builder, images_for, save
from tests.support.simulators import icarus, verilate, verilator, write

LINKED = MINI.replace(link_width=4, border_depth=16)
WIDE = LINKED.replace(link_width=16)
CLOCKED = LINKED.replace(link_clock=SOURCE)
ROW, SQUARE = MeshConfig(cols=3), MeshConfig(rows=2, cols=2)
CHIPS = pytest.mark.parametrize("chip", [MINI, LINKED, CLOCKED], ids=["alone", "linked", "clocked"])


def bench_of(
    chip: ChipConfig,
    mesh: MeshConfig,
    folder: Path,
    size: tuple[int, int],
    *,
    parts: int = 1,
    cells: str = "generic",
) -> Testbench:
    """Two images through 3x3 layers with a bypass, in so many programs."""
    build = Builder(np.random.default_rng(3), (3, *size))
    x = "image"
    for part in range(parts):
        y = build.conv(build.relu(build.conv(x, 3)), 3)
        x = build.add(y, x)
        if part + 1 < parts:
            x = build.node("Sigmoid", [x])  # on the host
    model = build.model(x)
    compiled = compile_network(import_network(save(model, folder)), chip, mesh)
    assert len(compiled.programs) == parts
    return export_testbench(compiled, images_for(model, build.rng, 2), cells=cells)


def words(text: str) -> list[int]:
    return [int(line, 16) for line in text.splitlines() if not line.startswith("//")]


def ports_of(text: str, module: str) -> dict[str, tuple[str, int]]:
    """Direction and width of a module's ports, as the Verilog declares them."""
    body = text[text.index(f"module {module}") :].split("endmodule")[0]
    found = re.findall(r"^  (input|output) (?:\[(\d+):0\] )?(\w+)[,;]?$", body, re.MULTILINE)
    return {name: (direction, int(high or 0) + 1) for direction, high, name in found}


@CHIPS
@pytest.mark.parametrize("cells", ["generic", "asic"])
def test_the_ports_are_those_of_the_export(chip, cells):
    export = export_verilog(chip, cells=cells)
    found = ports_of(export.files[export.verilog], export.top)
    assert {p.name: ("input" if p.is_input else "output", p.width) for p in chip_ports(chip, cells)} == found
    assert ("scan_enable" in found) == (cells == "asic")


def test_a_wire_to_a_port_that_is_not_there():
    with pytest.raises(AssertionError, match="nowhere"):
        connections(chip_ports(MINI), {"nowhere": "clk"})


@pytest.mark.parametrize("chip", [LINKED, CLOCKED], ids=["linked", "clocked"])
@pytest.mark.parametrize("cells", ["generic", "asic"])
def test_every_link_goes_to_the_neighbour_and_back(chip, cells):
    mesh = MeshConfig(rows=2, cols=3)
    text = mesh_text(chip, mesh, "the_chip", "the_mesh", cells=cells)
    instances = dict(re.findall(r"^  the_chip chip(\d_\d) \((.*?)^  \);", text, re.MULTILINE | re.DOTALL))
    assert len(instances) == 6
    facing = {"north": "south", "east": "west", "south": "north", "west": "east"}
    links = 0
    for at, body in instances.items():
        row, col = map(int, at.split("_"))
        pins = dict(re.findall(r"\.(\w+)\((.*?)\)", body))
        assert set(pins) == {port.name for port in chip_ports(chip, cells)}
        assert pins.get("scan_enable") == ("scan_enable" if cells == "asic" else None)
        assert (pins["mesh_row"], pins["mesh_col"]) == (f"8'd{row}", f"8'd{col}")
        assert pins["clk"] == (f"chip{at}__clk" if chip is CLOCKED else "clk")
        there = {
            "north": (row - 1, col), "east": (row, col + 1), "south": (row + 1, col), "west": (row, col - 1)
        }  # fmt: skip
        bits = ""
        for side, (r, c) in there.items():
            inside = f"{r}_{c}" in instances
            bits = f"{inside:d}{bits}"
            for what in ("data", "valid", *(["clock"] if chip is CLOCKED else [])):
                got = pins[f"{side}__rx__{what}"]
                assert pins[f"{side}__tx__{what}"] == f"chip{at}__{side}__tx__{what}"
                if inside:
                    assert got == f"chip{r}_{c}__{facing[side]}__tx__{what}"
                else:
                    assert re.fullmatch(r"\d+'d0", got)
            links += inside
        assert pins["neighbours"] == f"4'b{bits}"
    assert links == 14


@pytest.mark.parametrize("chip", [LINKED, CLOCKED], ids=["linked", "clocked"])
def test_yosys_reads_the_mesh(chip, tmp_path):
    export = export_verilog(chip, SQUARE)
    top = mesh_name(chip, SQUARE)
    listed = [line for line in export.files["hyperdrive.f"].splitlines() if not line.startswith("//")]
    assert listed == [export.verilog, f"{top}.v"]
    for name in listed:
        (tmp_path / name).write_text(export.files[name])
    sources = " ".join(listed)
    log = yosys(
        f"read_verilog {sources}\nhierarchy -check -top {top}\nproc\ncheck -assert\n"
        f"select -assert-count 4 {top}/t:{export.top}\n",
        cwd=tmp_path,
        what="test",
    )
    assert "Warning" not in log
    assert export_verilog(chip).files[export.verilog] == export.files[export.verilog]


def test_each_chip_has_its_pixels_and_all_one_program(tmp_path):
    bench = bench_of(LINKED, ROW, tmp_path, (2, 3))
    assert bench.module == "hyperdrive_mini_mesh_1x3_tb"
    assert set(bench.files) == {
        f"{bench.module}.v",
        "program.hex",
        *(f"{what}_0_{col}.hex" for what in ("fm_in", "expected") for col in range(3)),
    }
    # Three columns on chips of two: the second has one, the third none. 3 channels, 2 rows, 2 images.
    for what in ("fm_in", "expected"):
        counts = [len(words(bench.files[f"{what}_0_{col}.hex"])) for col in range(3)]
        assert counts == [24, 12, 0]
    assert bench.words == 36
    alone = bench_of(LINKED, MeshConfig(), tmp_path, (2, 3))
    assert alone.module == "hyperdrive_mini_tb"
    for what in ("fm_in", "expected"):
        rows = [np.reshape(words(bench.files[f"{what}_0_{col}.hex"]), (2, 2, -1, 3)) for col in range(3)]
        assert np.concatenate(rows, axis=2).flatten().tolist() == words(alone.files[f"{what}.hex"])


def test_chips_without_a_common_clock_get_different_ones(tmp_path):
    bench = bench_of(CLOCKED, SQUARE, tmp_path, (3, 7))
    text = bench.files[f"{bench.module}.v"]
    halves = dict(re.findall(r"forever #([\d.]+) chip(\d_\d)__clk", text)[i][::-1] for i in range(4))
    assert len(set(re.findall(r"^    #([\d.]+);", text, re.MULTILINE))) == 4
    for one, other in (("0_0", "0_1"), ("0_0", "1_0"), ("1_0", "1_1"), ("0_1", "1_1")):
        assert halves[one] != halves[other]
    assert " clk = " not in text


def test_command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nolinks.toml").write_text(PRESETS["tiny"].replace(link_width=0).to_toml())
    assert main(["verilog", "-c", "nolinks.toml", "--mesh", "2x2"]) == 2
    assert "link_width" in capsys.readouterr().err
    assert not Path("build").exists()
    with pytest.raises(ConfigError, match="link_width"):
        export_verilog(MINI, SQUARE)

    Path("mini.toml").write_text(LINKED.to_toml())
    build = Builder(np.random.default_rng(0), (3, 3, 7))
    model = build.model(build.conv("image", 3))
    np.save("images.npy", images_for(model, build.rng))
    argv = ["verilog", "-c", "mini.toml", "--mesh", "2x2", "-o", "out", "--json", "facts.json"]
    assert main([*argv, "--model", str(save(model, tmp_path)), "--input", "images.npy"]) == 0
    names = {path.name for path in Path("out").iterdir()}
    assert {"hyperdrive_mini.v", "hyperdrive_mini_mesh_2x2.v", "hyperdrive_mini_mesh_2x2_tb.v"} <= names
    assert {"program.hex", "fm_in_1_1.hex", "expected_0_1.hex"} <= names
    facts = json.loads(Path("facts.json").read_text())
    assert facts["testbench"] == "hyperdrive_mini_mesh_2x2_tb"
    assert facts["expected_words"] == 3 * 3 * 7


# In Icarus Verilog


def build_in_icarus(
    chip: ChipConfig,
    mesh: MeshConfig,
    folder: Path,
    size: tuple[int, int],
    *,
    parts: int = 1,
    cells: str = "generic",
) -> Testbench:
    bench = bench_of(chip, mesh, folder, size, parts=parts, cells=cells)
    write(folder, export_verilog(chip, mesh, cells=cells).files, bench.files)
    compile_in_icarus(bench, chip, mesh, folder)
    return bench


def compile_in_icarus(bench: Testbench, chip: ChipConfig, mesh: MeshConfig, folder: Path, *more: str) -> None:
    sources = [f"{bench.module}.v", f"{mesh_name(chip, mesh)}.v", f"{top_name(chip)}.v", *more]
    tops = [option for top in (bench.module, *(Path(name).stem for name in more)) for option in ("-s", top)]
    subprocess.run(["iverilog", "-g2001", *tops, "-o", "testbench", *sources], cwd=folder, check=True)


def verdict(folder: Path) -> str:
    return subprocess.run(["./testbench"], cwd=folder, check=True, capture_output=True, text=True).stdout


@icarus
@pytest.mark.parametrize(
    ("chip", "mesh", "size", "parts"),
    [
        (LINKED, ROW, (2, 3), 1),
        (CLOCKED, ROW, (2, 3), 1),
        pytest.param(LINKED, SQUARE, (3, 7), 2, marks=pytest.mark.slow),
        pytest.param(WIDE, SQUARE, (3, 7), 1, marks=pytest.mark.slow),
        pytest.param(CLOCKED, SQUARE, (3, 7), 1, marks=pytest.mark.slow),
        pytest.param(WIDE.replace(link_clock=SOURCE), SQUARE, (3, 7), 1, marks=pytest.mark.slow),
        pytest.param(CLOCKED.replace(link_width=1), SQUARE, (3, 7), 1, marks=pytest.mark.slow),
    ],
    ids=lambda value: (
        f"{value.link_clock}-{value.link_width}" if isinstance(value, ChipConfig) else str(value)
    ),
)
def test_icarus_passes(chip, mesh, size, parts, tmp_path):
    bench = build_in_icarus(chip, mesh, tmp_path, size, parts=parts)
    assert bench.words == parts * 2 * 3 * size[0] * size[1]
    assert f"PASS: {bench.words} words equal on {mesh.chips} chips" in verdict(tmp_path)


@icarus
@pytest.mark.parametrize(
    "chip", [LINKED, pytest.param(CLOCKED, marks=pytest.mark.slow)], ids=["linked", "clocked"]
)
def test_icarus_passes_with_asic_cells(chip, tmp_path):
    """In as many cycles as with generic ones."""
    verdicts = []
    for cells in ("generic", "asic"):
        (tmp_path / cells).mkdir()
        build_in_icarus(chip, ROW, tmp_path / cells, (2, 3), cells=cells)
        verdicts.append(verdict(tmp_path / cells))
    assert "PASS: 36 words equal on 3 chips" in verdicts[0]
    assert verdicts[0] == verdicts[1]


@icarus
def test_icarus_names_the_chip_of_a_difference(tmp_path):
    """And the pixel: in the map, not in the chip's part of it."""
    bench = build_in_icarus(LINKED, ROW, tmp_path, (2, 3))
    lines = bench.files["expected_0_1.hex"].splitlines()
    assert lines[0].startswith("//")
    # Column 2 is all that the chip has: 2 rows of 3 channels, after a comment for each image.
    for at, where in ((1 + 1, "image 0, channel 1, y 0, x 2"), (8 + 5, "image 1, channel 2, y 1, x 2")):
        wrong = [*lines]
        wrong[at] = "1234"
        (tmp_path / "expected_0_1.hex").write_text("\n".join(wrong))
        found = verdict(tmp_path)
        word = at - 1 - (at > 7)
        assert f"FAIL: chip (0, 1): word {word} of fm_out is {lines[at]}, expected 1234" in found
        assert re.search(rf"^  .*map \S+, {where}$", found, re.MULTILINE), found
        assert "PASS" not in found


CORRUPT = """\
module corrupt;
  reg {bits}beat;
  initial begin
    @(negedge {bench}.{clk});
    while ({dut}.chip0_0__activity__link_beats == 0 || !{dut}.chip0_0__east__tx__valid)
      @(negedge {bench}.{clk});
    repeat (5) @(negedge {bench}.{clk});  // past the header
    beat = ~{dut}.chip0_0__east__tx__{what};
    force {dut}.chip0_0__east__tx__{what} = beat;
    @(negedge {bench}.{clk});
    release {dut}.chip0_0__east__tx__{what};
  end
endmodule
"""


@icarus
@pytest.mark.parametrize(
    ("chip", "what", "fault"),
    [
        (LINKED, "data", "2 (check)"),
        pytest.param(LINKED, "valid", "1 (frame)", marks=pytest.mark.slow),
        pytest.param(CLOCKED, "data", "2 (check)", marks=pytest.mark.slow),
    ],
)
def test_icarus_names_side_and_fault_of_a_broken_link(chip, what, fault, tmp_path):
    bench = build_in_icarus(chip, ROW, tmp_path, (2, 3))
    text = CORRUPT.format(
        bench=bench.module,
        dut=f"{bench.module}.dut",
        clk="chip0_0__clk" if chip is CLOCKED else "clk",
        what=what,
        bits="[3:0] " if what == "data" else "",
    )
    (tmp_path / "corrupt.v").write_text(text)
    compile_in_icarus(bench, chip, ROW, tmp_path, "corrupt.v")
    found = verdict(tmp_path)
    assert "FAIL: chip (0, 1) reports error 4" in found
    assert f"its west link failed, fault {fault}" in found
    assert "PASS" not in found


@verilator
@pytest.mark.slow
@pytest.mark.parametrize("cells", ["generic", "asic"])
@pytest.mark.parametrize("chip", [LINKED, CLOCKED], ids=["linked", "clocked"])
def test_verilator_has_nothing_to_say(chip, cells, tmp_path):
    write(tmp_path, export_verilog(chip, SQUARE, cells=cells).files)
    assert "%Warning" not in verilate(
        tmp_path, "--lint-only", "-Wall", "-f", "hyperdrive.f", "hyperdrive.vlt"
    )
