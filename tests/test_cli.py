"""The command line's messages and exit statuses, without simulating."""

import json
import subprocess
import sys

import numpy as np
import pytest

from hyperdrive_hdl.cli import main
from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.data import digits_images, digits_model
from hyperdrive_hdl.presets import PRESETS

MODEL = str(digits_model())
SHAPE = (1, 8, 8)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Default outputs go into ``build`` under a folder of their own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def images(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, digits_images()[0][:2])
    return str(path)


def refused(capsys, *argv: str, status: int = 2) -> str:
    """The message of a command that must fail with one line and no traceback."""
    assert main(argv) == status
    captured = capsys.readouterr()
    assert captured.err.startswith("hyperdrive: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    return captured.err


def array(name: str, values: np.ndarray, **options) -> str:
    np.save(name, values, **options)
    return name


# INPUT.npy


def test_missing_input(capsys):
    assert "nowhere.npy: no such file" in refused(capsys, "run", MODEL, "nowhere.npy")


def test_input_that_is_no_npy_file(capsys, tmp_path):
    (tmp_path / "x.npy").write_text("1 2 3")
    assert "not a .npy file" in refused(capsys, "run", MODEL, "x.npy")
    np.savez("x.npz", x=np.zeros(3))
    assert ".npz archive" in refused(capsys, "run", MODEL, "x.npz")
    (tmp_path / "empty.npy").touch()
    assert "not a .npy file" in refused(capsys, "run", MODEL, "empty.npy")
    assert "cannot be read" in refused(capsys, "run", MODEL, ".")


def test_pickled_objects_are_refused(capsys):
    name = array("x.npy", np.array([{}, 1], object), allow_pickle=True)
    assert "pickled Python objects" in refused(capsys, "run", MODEL, name)


def test_truncated_input(capsys, images, tmp_path):
    whole = (tmp_path / "images.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:200])
    assert "damaged" in refused(capsys, "run", MODEL, "cut.npy")
    (tmp_path / "cut.npy").write_bytes(whole[:20])
    assert "damaged" in refused(capsys, "run", MODEL, "cut.npy")


@pytest.mark.parametrize("dtype", ["float64", "float16", "uint8", ">f4"])
def test_wrong_type_says_how_to_convert(capsys, dtype):
    message = refused(capsys, "run", MODEL, array("x.npy", np.zeros((1, *SHAPE), dtype)))
    assert str(np.dtype(dtype)) in message
    assert "astype(numpy.float32)" in message


def test_wrong_shape_shows_both(capsys):
    message = refused(capsys, "run", MODEL, array("x.npy", np.zeros((2, 3, 8, 8), np.float32)))
    assert "(2, 3, 8, 8)" in message
    assert "(N, 1, 8, 8)" in message
    assert "images[None]" in refused(capsys, "run", MODEL, array("x.npy", np.zeros(SHAPE, np.float32)))
    assert "()" in refused(capsys, "run", MODEL, array("x.npy", np.float32(1)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(capsys, bad):
    values = np.zeros((3, *SHAPE), np.float32)
    values[1, 0, 2, 5] = values[2, 0, 0, 0] = bad
    message = refused(capsys, "run", MODEL, array("x.npy", values))
    assert "(1, 0, 2, 5)" in message
    assert "2 of 192" in message


def test_no_images(capsys):
    assert "no image" in refused(capsys, "run", MODEL, array("x.npy", np.zeros((0, *SHAPE), np.float32)))


# MODEL.onnx


@pytest.mark.parametrize("command", ["run", "compile", "estimate"])
def test_missing_and_damaged_models(capsys, images, tmp_path, command):
    more = [images] if command == "run" else []
    assert "nowhere.onnx: no such file" in refused(capsys, command, "nowhere.onnx", *more)
    whole = digits_model().read_bytes()
    for size in (0, 10, 5000, len(whole) - 100):
        (tmp_path / "cut.onnx").write_bytes(whole[:size])
        assert "cut.onnx" in refused(capsys, command, "cut.onnx", *more)
    assert not (tmp_path / "build").exists()


def test_a_network_that_does_not_fit(capsys, tmp_path):
    small = PRESETS["tiny"].replace(name="small", fmm_banks=2, fmm_bank_depth=64)
    (tmp_path / "small.toml").write_text(small.to_toml())
    message = refused(capsys, "compile", MODEL, "-c", "small.toml")
    assert "does not fit" in message
    assert not (tmp_path / "build").exists()


# Chip and mesh


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lanes = 4\nspeed = 3\n", "unknown key speed"),
        (PRESETS["tiny"].to_toml().replace("lanes = 4", "lanes = 0"), "lanes must be an integer from 1"),
        (PRESETS["tiny"].to_toml().replace('"fp16"', '"fp99"'), "format must be one of fp16"),
        ("lanes = 4\n", "missing"),
        ("lanes = = 4", "not valid TOML"),
        ("\0\xff", "not valid TOML"),
    ],
)
def test_bad_chip_files(capsys, tmp_path, text, expected):
    (tmp_path / "chip.toml").write_text(text, encoding="latin-1")
    message = refused(capsys, "estimate", MODEL, "-c", "chip.toml")
    assert "chip.toml" in message
    assert expected in message


@pytest.mark.parametrize("argv", [["estimate", MODEL], ["compile", MODEL], ["verilog"], ["demo"]])
def test_bad_options_of_the_chip(capsys, tmp_path, argv):
    """The same checks and words as for a chip's file."""
    message = refused(capsys, *argv, "--format", "fp99")
    assert "chip 'tiny': format must be one of fp16, bf16, fp8_e5m2" in message
    assert "or qI.F (fixed point" in message
    assert "not 'fp99'" in message
    message = refused(capsys, *argv, "--accumulator", "some")
    assert "accumulator must be one of sequential, exact, not 'some'" in message
    message = refused(capsys, *argv, "--format", "bf16", "--accumulator", "exact")
    assert "'exact' does not go with format 'bf16'" in message
    assert "hundreds of bits" in message
    message = refused(capsys, *argv, "--adder-latency", "5")
    assert "adder_latency must be an integer from 1 to 4, not 5" in message
    assert not (tmp_path / "build").exists()


def test_options_change_the_chip(capsys, tmp_path):
    options = ["--format", "q2.9", "--accumulator", "exact", "--adder-latency", "2"]
    assert main(["compile", MODEL, *options]) == 0
    written = ChipConfig.from_toml(tmp_path / "build/compile/chip.toml")
    chip = PRESETS["tiny"].replace(format="q2.9", accumulator="exact", adder_latency=2)
    assert written.signature == chip.signature
    # Program words have room for an 18-bit bias.
    assert "words of 18 bits" in capsys.readouterr().out


def test_unknown_presets_and_files(capsys):
    message = refused(capsys, "verilog", "--chip", "huge")
    assert "tiny, paper" in message
    assert "cannot be read" in refused(capsys, "verilog", "--chip", "nowhere.toml")


@pytest.mark.parametrize("mesh", ["2", "0x2", "2x", "x", "2x2x2", "-1x2", "65x1", "axb"])
def test_bad_meshes(capsys, mesh):
    assert "mesh" in refused(capsys, "estimate", MODEL, f"--mesh={mesh}")


def test_a_mesh_of_chips_without_links(capsys, tmp_path, images):
    chip = tmp_path / "alone.toml"
    chip.write_text(PRESETS["tiny"].replace(name="alone", link_width=0).to_toml())
    for argv in (["run", MODEL, images], ["verilog"], ["demo"], ["estimate", MODEL]):
        message = refused(capsys, *argv, "--chip", str(chip), "--mesh", "2x1")
        assert "2x1" in message
        assert "link_width" in message


def test_a_link_width_that_does_not_divide_the_word(capsys, tmp_path):
    chip = tmp_path / "odd.toml"
    chip.write_text(PRESETS["tiny"].to_toml().replace("link_width = 4", "link_width = 16"))
    message = refused(capsys, "estimate", MODEL, "--chip", str(chip), "--format", "q2.9")
    assert "link_width must divide the 12 bits of a word" in message


# Outputs


def test_output_places_that_cannot_be_written(capsys, tmp_path, images):
    (tmp_path / "file").touch()
    for argv in (["estimate", MODEL], ["compile", MODEL], ["run", MODEL, images, "--engine", "reference"]):
        assert "cannot be written" in refused(capsys, *argv, "-o", "file")
        assert "cannot be written" in refused(capsys, *argv, "-o", "file/deeper")
    assert "cannot be written" in refused(capsys, "estimate", MODEL, "--json", "file/x.json")
    assert "a folder" in refused(capsys, "estimate", MODEL, "--json", ".")


def test_json_may_go_to_a_device(capsys):
    assert main(["estimate", MODEL, "--quiet", "--json", "/dev/null"]) == 0


# Command lines


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["no-such-command"],
        ["run", MODEL],
        ["run", MODEL, "x.npy", "--engine", "verilog"],
        ["run", MODEL, "x.npy", "--stall-seed", "-1"],
        ["run", MODEL, "x.npy", "--stall-seed", "many"],
        ["run", MODEL, "x.npy", "--stall"],
        ["estimate", MODEL, "--engine", "cxxrtl"],
    ],
)
def test_bad_command_lines(capsys, argv):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    assert "usage: hyperdrive" in capsys.readouterr().err


def test_the_reference_has_no_waveform_and_no_stalls(capsys, images):
    for option in (["--vcd", "x.vcd"], ["--stall-seed", "0"]):
        assert "reference" in refused(capsys, "run", MODEL, images, "--engine", "reference", *option)


def test_it_starts_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "hyperdrive_hdl", "estimate", "nowhere.onnx"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "hyperdrive: nowhere.onnx: no such file\n"
    done = subprocess.run([sys.executable, "-m", "hyperdrive_hdl", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for command in ("demo", "run", "compile", "estimate", "verilog"):
        assert command in done.stdout


# compile and estimate

ESTIMATE_KEYS = {
    "chip",
    "mesh",
    "images",
    "cycles",
    "compute_cycles",
    "load_cycles",
    "store_cycles",
    "load_exposed",
    "store_exposed",
    "macs",
    "utilisation",
    "layers",
    "weight_bits",
    "border_bits",
    "link_bits",
    "fmm_words",
}


def test_estimate(capsys, tmp_path):
    assert main(["estimate", MODEL, "--json", "figures.json"]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert set(figures) == ESTIMATE_KEYS
    assert all(set(layer) == {"name", "cycles", "macs", "utilisation"} for layer in figures["layers"])
    assert figures["macs"] == sum(layer["macs"] for layer in figures["layers"]) == 928_000
    assert figures["utilisation"] == figures["macs"] / (figures["compute_cycles"] * PRESETS["tiny"].tpus)
    assert figures["weight_bits"] == 50_752
    assert figures["border_bits"] == figures["link_bits"] == 0
    shown = capsys.readouterr().out
    for layer in figures["layers"]:
        assert layer["name"] in shown
    assert json.loads((tmp_path / "build/estimate/estimate.json").read_text()) == figures
    assert (tmp_path / "build/estimate/chip.toml").exists()


def test_estimate_of_a_mesh(capsys, tmp_path):
    assert main(["estimate", MODEL, "--mesh", "2x2", "--json", "figures.json"]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["mesh"] == "2x2"
    assert figures["border_bits"] > 0
    assert figures["link_bits"] > figures["border_bits"]
    assert "links: 145,792 bits" in capsys.readouterr().out


def test_quiet_says_nothing(capsys):
    assert main(["estimate", MODEL, "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_compile(capsys, tmp_path):
    assert main(["compile", MODEL, "--json", "program.json"]) == 0
    folder = tmp_path / "build/compile"
    words = np.load(folder / "program_chip0.npy")
    lines = (folder / "program_chip0.hex").read_text().split()
    assert [int(line, 16) for line in lines] == words.tolist()
    facts = json.loads((tmp_path / "program.json").read_text())
    assert facts == json.loads((folder / "layers.json").read_text())
    (program,) = facts["programs"]
    assert program["words"] == len(words)
    kinds = [step["kind"] for step in program["steps"]]
    assert kinds == ["load", *["conv"] * 10, "store"]
    for step in program["steps"]:
        places = [step[key] for key in ("map", "input", "output", "bypass") if step.get(key)]
        assert all(p["base"] + p["words_per_tile"] <= program["fmm_words_per_tile"] for p in places)
    shown = capsys.readouterr().out
    assert "host0" in shown
    assert "/block1/conv1/Conv" in shown
    assert not list(tmp_path.rglob(".unfinished*"))


def test_compile_shows_every_step(tmp_path):
    from hyperdrive_hdl.compiler.pipeline import STEPS

    assert main(["compile", MODEL, "--steps", "--quiet"]) == 0
    folder = tmp_path / "build/compile/steps"
    names = [path.stem.split("_", 1)[1] for path in sorted(folder.glob("*.txt"))]
    assert names == ["read", *STEPS, "partition"]
    assert len(list(folder.glob("*.onnx"))) == len(STEPS) + 1
    assert "hyperdrive::BinaryConv" in (folder / f"{len(STEPS):02d}_round_parameters.txt").read_text()


def test_results_replace_old_ones_only_at_the_end(capsys, tmp_path, monkeypatch):
    assert main(["compile", MODEL, "--quiet"]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("hyperdrive_hdl.report.program.table_lines", interrupted)
    assert main(["compile", MODEL, "-c", "paper"]) == 130
    assert capsys.readouterr().err == "hyperdrive: interrupted\n"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
