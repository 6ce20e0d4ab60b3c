"""The self-checking testbench: its files, and its verdicts in Icarus, where installed, and Verilator."""

import re
from functools import cache

import numpy as np
import pytest

from hyperdrive_hdl.cli import main
from hyperdrive_hdl.compiler.compile import compile_model, compile_network
from hyperdrive_hdl.compiler.pipeline import import_network
from hyperdrive_hdl.data import digits_images, digits_model
from hyperdrive_hdl.model.network import run_network
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.targets.testbench import export_testbench
from hyperdrive_hdl.targets.verilog import export_verilog
from tests.support.chips import MINI
from tests.support.models import Builder, images_for, save
from tests.support.simulators import icarus, run_icarus, run_verilator, verilator, write

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


@pytest.mark.parametrize("cells", ["generic", "asic"])
def test_it_names_the_ports_of_the_chip(compiled, cells):
    bench = export_testbench(compiled, digits_images()[0][:1], cells=cells)
    export = export_verilog(compiled.chip, cells=cells)
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


RUN = {"icarus": run_icarus, "verilator": run_verilator}
SIMULATORS = [pytest.param("icarus", marks=icarus), pytest.param("verilator", marks=verilator)]
CELLS = pytest.mark.parametrize("cells", ["generic", "asic"])
SMALL = MINI.replace(name="small", lanes=3)


@pytest.fixture(scope="module")
def two_stages(tmp_path_factory):
    """A network of two programs, the first of which stores two maps; odd sizes; and two images."""
    build = Builder(np.random.default_rng(3), (3, 5, 3))
    x = build.relu(build.conv("image", 5))
    y = build.conv(x, 4, stride=2)
    x = build.conv(build.add(build.node("Sigmoid", [x]), build.node("Sigmoid", [x])), 2)
    z = build.node("Concat", [build.node("Flatten", [y]), build.node("Flatten", [x])], axis=1)
    model = build.model(z)
    network = import_network(save(model, tmp_path_factory.mktemp("model")))
    return compile_network(network, SMALL), images_for(model, build.rng, 2)


@pytest.fixture(scope="module")
def built(two_stages, tmp_path_factory):
    """For a simulator and cells: the testbench, its folder, and what it prints at first. Built once."""
    compiled, images = two_stages

    @cache
    def build(simulator: str, cells: str):
        folder = tmp_path_factory.mktemp(f"{simulator}_{cells}")
        bench = export_testbench(compiled, images, cells=cells)
        text = bench.files[f"{bench.module}.v"]
        if cells == "asic":  # the clocks of the first tile are counted
            text = text.replace("\nendmodule", COUNT.format(tile=f"{bench.module}.dut.tile0_0"))
        export = export_verilog(compiled.chip, cells=cells)
        write(folder, export.files, bench.files, {f"{bench.module}.v": text})
        return bench, folder, RUN[simulator](folder, bench.module, f"{bench.module}.v")

    return build


COUNT = """
  integer summing = 0, finishing = 0, macs = 0, loads = 0, wasted = 0;
  wire loads_only = dut.activity__loading && !dut.activity__computing;
  always @(posedge {tile}.summing_clk) if (!rst) begin
    summing = summing + 1;
    if (loads_only) wasted = wasted + 1;
  end
  always @(posedge {tile}.finishing_clk) if (!rst) begin
    finishing = finishing + 1;
    if (loads_only) wasted = wasted + 1;
  end
  always @(posedge clk) if (!rst) begin
    if (mac) macs <= macs + 1;
    if (loads_only) loads <= loads + 1;
    if (halted && halts == HALTS - 1)
      $display("CLOCKS: %0d %0d %0d %0d %0d", summing, finishing, macs, loads, wasted);
  end
endmodule"""


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_cells_of_an_asic_compute_the_same(built, simulator):
    """The same words in the same cycles, in the Verilog as a chip team gets it; and idle clocks stop."""
    generic, _, verdict = built(simulator, "generic")
    assert re.fullmatch(rf"PASS: {generic.words} words equal, \d+ cycles\n", verdict)
    *_, printed = built(simulator, "asic")
    clocks, found = re.fullmatch(r"CLOCKS: (.*)\n(.*\n)", printed).groups()
    assert found == verdict
    summing, finishing, macs, loads, wasted = map(int, clocks.split())
    # The TPUs' clock: a pulse for every term, one for the tiles' reset, which is a cycle late, no other.
    assert summing == macs + 1 > 1000
    assert 100 < finishing < int(verdict.split()[-2])
    assert loads > 100
    assert wasted == 0


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_a_difference_is_named(two_stages, built, simulator):
    """Whichever word of the expectation is changed, by its place in the array that it comes from."""
    compiled, images = two_stages
    bench, folder, verdict = built(simulator, "generic")
    assert "PASS" in verdict
    reference = run_network(compiled.network, images, wbuf_depth=SMALL.wbuf_depth)
    lines = bench.files["expected.hex"].splitlines()
    starts = [at for at, line in enumerate(lines) if line.startswith("//")]
    rng = np.random.default_rng(1)
    maps = [(code, image, step.map.map) for code in compiled.programs.values()
            for image in range(2) for step in code.stores]  # fmt: skip
    assert len(maps) == len(starts) == 6
    for number, ((code, image, stored), start) in enumerate(zip(maps, starts, strict=True)):
        values = reference.layers[image][stored.name]
        channel, y, x = (int(rng.integers(size)) for size in values.shape)
        at = start + 1 + (y * stored.width + x) * stored.channels + channel
        assert int(lines[at], 16) == values[channel, y, x]
        wrong = f"{int(lines[at], 16) ^ 0x8001:04x}"
        (folder / "expected.hex").write_text("\n".join([*lines[:at], wrong, *lines[at + 1 :], ""]))
        found = RUN[simulator](folder, bench.module, build=False)
        word = at - number - 1
        assert f"FAIL: word {word} of fm_out is {lines[at]}, expected {wrong}, in cycle" in found
        layer = next(layer.conv.name for layer in code.layers if layer.output.map.name == stored.name)
        assert f"layer {layer}, map {stored.name}, image {image}, channel {channel}, y {y}, x {x}\n" in found
        assert "PASS" not in found


@pytest.mark.slow
@CELLS
@pytest.mark.parametrize("simulator", SIMULATORS)
def test_digits_pass_and_fail(compiled, cells, simulator, tmp_path):
    bench = export_testbench(compiled, digits_images()[0][:1], cells=cells)
    write(tmp_path, export_verilog(compiled.chip, cells=cells).files, bench.files)
    run = RUN[simulator]
    assert run(tmp_path, bench.module, f"{bench.module}.v") == "PASS: 160 words equal, 59619 cycles\n"
    first = f"{words(bench.files['expected.hex'])[0]:04x}"
    (tmp_path / "expected.hex").write_text(bench.files["expected.hex"].replace(first, "1234", 1))
    found = run(tmp_path, bench.module, build=False)
    assert f"FAIL: word 0 of fm_out is {first}, expected 1234" in found
    assert "image 0, channel 0, y 0, x 0" in found
