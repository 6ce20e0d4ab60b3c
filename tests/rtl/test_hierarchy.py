"""Equal modules once: what the library emits is complete, deterministic, and does not grow with the tiles."""

import re

import pytest
from amaranth.hdl import Fragment, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.errors import ToolError
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.rtl.chip import Chip
from hyperdrive_hdl.rtl.hierarchy import ComponentRecord, ModuleLibrary, instantiate
from hyperdrive_hdl.tools import yosys

SMALL = ChipConfig(lanes=2, tile_rows=1, tile_cols=2, fmm_banks=3, fmm_bank_depth=16, wbuf_depth=18)
ODD = {
    "one_tpu": SMALL.replace(lanes=1, tile_rows=1, tile_cols=1),
    "one_lane": SMALL.replace(lanes=1, adder_latency=2, format="fp8_e4m3"),
    "one_tile": SMALL.replace(tile_rows=1, tile_cols=1, adder_latency=3, format="q0.3"),
    "tall": SMALL.replace(tile_rows=5, tile_cols=1, accumulator="exact"),
    "wide": SMALL.replace(tile_rows=1, tile_cols=3, adder_latency=4),
    "two_banks": SMALL.replace(fmm_banks=2, fmm_bank_depth=2, format="bf16"),
    "five_banks": SMALL.replace(fmm_banks=5, accumulator="exact", format="fp8_e5m2", adder_latency=3),
    "odd_weight_buffer": SMALL.replace(wbuf_depth=11, format="fp16_ftz", adder_latency=2),
    "least_weight_buffer": SMALL.replace(wbuf_depth=2, adder_latency=4, format="q2.9"),
    "wide_rows": SMALL.replace(lanes=17, format="q7.8", accumulator="exact", adder_latency=2),
    "most_lanes": SMALL.replace(lanes=64),
    "whole_address_space": SMALL.replace(fmm_banks=2, fmm_bank_depth=1 << 15),
    "most_banks": SMALL.replace(fmm_banks=64, fmm_bank_depth=4),
}
AGAIN = {"tiny", "wide", "wide_rows"}  # elaborated twice


def modules(text: str) -> list[str]:
    return re.findall(r"^module \\(\S+)", text, re.MULTILINE)


@pytest.mark.parametrize("name", [*PRESETS, *ODD])
def test_every_configuration_elaborates(name):
    """Presets and odd ones: every module defined once, every one used; the same text to the byte."""
    config = (PRESETS | ODD)[name]
    text = ModuleLibrary().convert(Chip(config=config), "chip")
    if name in AGAIN:
        assert text == ModuleLibrary().convert(Chip(config=config), "chip")
    names = modules(text)
    assert len(set(names)) == len(names)
    placed = set(re.findall(r"^  cell \\(\S+) ", text, re.MULTILINE))
    assert placed == set(names) - {"chip"}
    tpu = "exact_tpu" if config.accumulator == "exact" else "tpu"
    tpus = re.findall(rf"^  cell \\{tpu} ", text, re.MULTILINE)
    assert len(tpus) == config.lanes, "one tile's"
    tiles = re.findall(r"^  cell \\tile ", text, re.MULTILINE)
    assert len(tiles) == config.tiles


def test_modules_do_not_grow_with_the_array():
    counts = set()
    for rows, cols, lanes in ((1, 2, 2), (2, 3, 2), (4, 2, 5)):
        library = ModuleLibrary()
        text = library.convert(
            Chip(config=SMALL.replace(tile_rows=rows, tile_cols=cols, lanes=lanes)), "chip"
        )
        counts.add((len(library.module_names), len(modules(text))))
    assert len(counts) == 1, counts


@pytest.mark.parametrize("config", [SMALL, PRESETS["tiny"], ODD["one_lane"], ODD["wide_rows"]])
def test_yosys_finds_nothing_wrong(config, tmp_path):
    """Every port connected with its width, one driver for each wire, no combinational loop."""
    (tmp_path / "chip.il").write_text(ModuleLibrary().convert(Chip(config=config), "chip"))
    log = yosys(
        "read_rtlil chip.il; hierarchy -check -top chip; proc; check -assert; stat",
        cwd=tmp_path,
        what="check",
    )
    assert "Found and reported 0 problems" in log
    assert "Warning" not in log
    # And through the hierarchy, where loops over several modules would show.
    log = yosys(
        "read_rtlil chip.il; hierarchy -top chip; proc; flatten; check -assert", cwd=tmp_path, what="check"
    )
    assert "Found and reported 0 problems" in log


def test_yosys_would_find_something_wrong(tmp_path):
    """Negative control of the check above: a missing module, and a port of the wrong width."""
    text = ModuleLibrary().convert(Chip(config=SMALL), "chip")
    (tmp_path / "chip.il").write_text(text.replace("module \\tpu\n", "module \\other\n"))
    with pytest.raises(ToolError):
        yosys("read_rtlil chip.il; hierarchy -check -top chip", cwd=tmp_path, what="check")
    start = text.index("module \\tpu\n")
    broken = text[:start] + text[start:].replace("wire width 16 output", "wire width 15 output", 1)
    assert broken != text
    (tmp_path / "chip.il").write_text(broken)
    with pytest.raises(ToolError):
        yosys(
            "read_rtlil chip.il; hierarchy -check -top chip; proc; check -assert", cwd=tmp_path, what="check"
        )


class Child(wiring.Component):
    def __init__(self, *, width: int, clocked: bool = True):
        self._clocked = clocked
        super().__init__({"a": In(width), "b": Out(width)})

    def elaborate(self, platform):
        m = Module()
        (m.d.sync if self._clocked else m.d.comb).__iadd__(self.b.eq(self.a + 1))
        return m


class Parent(wiring.Component):
    def __init__(self, widths):
        self._widths = widths
        super().__init__({"a": In(8), "b": Out(8).array(len(widths))})

    def elaborate(self, platform):
        m = Module()
        for i, (width, clocked) in enumerate(self._widths):
            child = instantiate(m, platform, f"child{i}", Child, width=width, clocked=clocked)
            m.d.comb += [child.a.eq(self.a), self.b[i].eq(child.b)]
        return m


def test_names_follow_the_order_of_first_use():
    library = ModuleLibrary()
    text = library.convert(Parent([(8, True), (4, True), (8, True), (4, False), (4, True)]), "top")
    assert library.module_names == ["child", "child_2", "child_3"]
    assert modules(text) == ["child", "child_2", "child_3", "top"]
    cells = re.findall(r"^  cell \\(\S+) \\(\S+)$", text, re.MULTILINE)
    assert cells == [
        ("child", "child0"),
        ("child_2", "child1"),
        ("child", "child2"),
        ("child_3", "child3"),
        ("child_2", "child4"),
    ]


def test_only_clocked_modules_get_a_clock():
    text = ModuleLibrary().convert(Parent([(4, False), (4, True)]), "top")
    without, clocked, _ = text.split("module \\")[1:]
    assert "\\clk" not in without
    assert "\\clk" in clocked
    assert len(re.findall(r"connect \\clk ", text)) == 1


def test_without_a_library_children_are_ordinary_submodules():
    record = ComponentRecord()
    parent = Parent([(8, True), (8, False)])
    m = Fragment.get(parent, record)
    assert set(record.components) == {"child0", "child1"}
    assert all(isinstance(child, Child) for child in record.components.values())
    simulator = Simulator(m)
    simulator.add_clock(1e-9)

    async def bench(ctx):
        ctx.set(parent.a, 41)
        assert ctx.get(parent.b[1]) == 42
        await ctx.tick()
        assert ctx.get(parent.b[0]) == 42

    simulator.add_testbench(bench)
    simulator.run()
