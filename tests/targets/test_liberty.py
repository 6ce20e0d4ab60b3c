"""Liberty files: what is read of them, and what is said of files that will not do."""

from pathlib import Path

import pytest

from hyperdrive_hdl.errors import UserError
from hyperdrive_hdl.targets.liberty import Function, parse_liberty, read_library, read_macros

SUPPORT = Path(__file__).parents[1] / "support"
SMALL = SUPPORT / "small.lib"
SRAM = SUPPORT / "small_sram.lib"
PDK = Path(__file__).parents[3] / "shared" / "pdk"
SG13G2 = PDK / "sg13g2_stdcell_typ_1p20V_25C.lib"


def changed(tmp_path: Path, *changes: tuple[str, str], source: Path = SMALL) -> Path:
    """A copy with some text replaced; every text must be there."""
    text = source.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "changed.lib"
    path.write_text(text)
    return path


def test_the_cells_that_mapping_needs():
    library = read_library(SMALL)
    assert library.name == "small"
    assert len(library.cells) == 15
    assert (library.nand2.name, library.nand2.area) == ("nand2", 4)
    assert library.flipflop.name == "dff"
    assert library.latch.name == "latch"
    assert library.clock_gate.name == "gate"
    assert library.clock_gate_with_test.name == "gate_test"
    assert library.clock_gate_with_test.pin_of("test") == "SE"
    ties = [library.tie(value) for value in (0, 1)]
    assert [tie and tie.name for tie in ties] == ["tielo", "tiehi"]
    assert library.cells["nand2"].pins["A"].capacitance * library.femtofarads == 2.0


def test_one_kind_of_clock_gate_stands_for_the_other(tmp_path):
    library = read_library(changed(tmp_path, ("cell (gate)", "cell (other)"), ('"latch_posedge"', '"none"')))
    assert library.clock_gate.name == library.clock_gate_with_test.name == "gate_test"


@pytest.mark.parametrize(
    ("text", "verilog"),
    [
        ("!(A B)", "(~(A & B))"),
        ("(A*B)'", "(~(A & B))"),
        ("A+B C", "(A | (B & C))"),
        ("A ^ B & C", "((A ^ B) & C)"),
        ("!A|1", "((~A) | 1'b1)"),
    ],
)
def test_functions(text, verilog):
    assert Function(text).verilog == verilog


def test_values_of_functions():
    mux = Function("(A !S) | (B S)")
    assert [mux.value(A=a, B=b, S=s) for s in (0, 1) for a in (0, 1) for b in (0, 1)] == [
        *(0, 0, 1, 1),
        *(0, 1, 0, 1),
    ]


@pytest.mark.parametrize("text", ["", "A +", "(A", "A B)", "A ? B", "!"])
def test_no_functions(text):
    with pytest.raises(ValueError, match=r"expression|parenthesis"):
        Function(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "0 library groups"),
        ("library (a) {", "ends within library"),
        ("library (a) { }\n}", "line 2: a brace"),
        ("hello", "line 1: cannot be read"),
        ("library (a) {\n cell (b) { area 5; }\n}", "line 2: cannot be read"),
    ],
)
def test_what_is_no_liberty(text, message):
    with pytest.raises(ValueError, match=message):
        parse_liberty(text)


def test_comments_and_continued_lines():
    group = parse_liberty('library (a) { /* cell (x) { } */ b ("1, 2", \\\n "3"); c : "d e"; }')
    assert group.attributes == {"b": "1, 2, 3", "c": "d e"}


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (("latch (IQ, IQN)", "nothing (IQ, IQN)"), "latch"),
        (("clock_gating_integrated_cell", "something"), "clock gate"),
        (("clocked_on", "something"), "flip-flop"),
        (("!(A B)", "A B"), "flip"),
    ],
)
def test_a_library_without_something(tmp_path, change, missing):
    if missing == "flip":  # both of the NAND2s
        path = changed(tmp_path, change, ("(A*B)'", "A*B"))
        missing = "NAND2"
    else:
        path = changed(tmp_path, change)
    with pytest.raises(UserError, match=f"'small' has no {missing}"):
        read_library(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_library(tmp_path / "nowhere.lib")
    (tmp_path / "binary.lib").write_bytes(b"\x1f\x8b\xff\xfe")
    with pytest.raises(UserError, match="binary"):
        read_library(tmp_path / "binary.lib")
    with pytest.raises(UserError, match=r"small.lib: holds no memory macro"):
        read_macros(SMALL)
    with pytest.raises(UserError, match="area of nand2 must be a number, not 'big'"):
        read_library(changed(tmp_path, ("cell (nand2) {\n    area : 4;", "cell (nand2) {\n    area : big;")))
    with pytest.raises(UserError, match="cell nand2"):
        read_library(changed(tmp_path, ("!(A B)", "!(A B")))


def test_macros(tmp_path):
    (macro,) = read_macros(SRAM)
    assert (macro.name, macro.area, macro.size) == ("ram64x16", 5000, (64, 16))
    assert macro.pins["DIN"].width == 16
    with pytest.raises(UserError, match="ram64x16 has no area"):
        read_macros(changed(tmp_path, ("area : 5000;", ""), source=SRAM))
    with pytest.raises(UserError, match="lacks address_width"):
        read_macros(changed(tmp_path, ("word_width : 16;", ""), source=SRAM))


@pytest.mark.skipif(not SG13G2.is_file(), reason="IHP's library is not here")
def test_sg13g2():
    library = read_library(SG13G2)
    assert (library.nand2.name, library.nand2.area) == ("sg13g2_nand2_1", 7.2576)
    assert library.latch.name == "sg13g2_dlhq_1"
    assert library.clock_gate.name == "sg13g2_lgcp_1"
    assert library.clock_gate_with_test.pin_of("test") == "SCE"
    sizes = {macro.size for path in PDK.glob("RM_*.lib") for macro in read_macros(path)}
    assert {(1024, 16), (8192, 32)} <= sizes
