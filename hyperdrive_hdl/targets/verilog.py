"""The chip as Verilog-2001 for other people's flows: each module once, the same text every time.

With generic cells, memories are arrays and registers have enables, for any tool. With an ASIC's, feature maps
and borders are in SRAM wrappers and weights in latches (``cells.leaf``), and the clocks of idle tiles stop;
a TOML file puts a vendor's cells into the wrappers (``cells.macros``).
"""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..cells.leaf import Cell, Sram
from ..cells.macros import Technology
from ..config import SOURCE, ChipConfig, MeshConfig
from ..errors import ConfigError
from ..files import json_text
from ..isa import ErrorCode, LinkFault, Side
from ..rtl.chip import Chip
from ..rtl.hierarchy import ModuleLibrary
from ..tools import yosys
from .constraints import lint_waivers, sdc_text
from .manifest import FLIP_FLOPS, manifest_of, module_parts, parts_first
from .mesh import mesh_text, require_links
from .ports import ASIC, CELLS, GENERIC

# Memories of one word become registers.
# Memories lose their initial contents: an SRAM has none, and nothing reads a word before writing it.
# Processes become registers and expressions, with ?: instead of functions; equal expressions are merged, and
# names that nothing reads go, with modules whose instances are gone.
# Of cells written by hand Yosys only sees the ports.
_SCRIPT = """
read_rtlil {top}.il
{cells}
hierarchy -check -top {top}
delete t:$meminit_v2
proc
memory_collect {top}_descriptor_buffer
memory_map {top}_descriptor_buffer
pmuxtree
opt_expr
opt_merge
opt_clean -purge
hierarchy -top {top}
write_verilog -noattr {top}.v
"""


@dataclass(frozen=True)
class VerilogExport:
    """A chip's files by name, ready to be written: Verilog, file list, constraints, lint waivers, manifest.

    Those of a mesh have one more file of Verilog, and it in the list. ``sources`` are the files of the list,
    in its order, children before parents where each module has its own.
    """

    top: str
    config: ChipConfig
    files: dict[str, str] = field(repr=False)
    manifest: dict = field(repr=False)
    sources: tuple[str, ...]

    @property
    def verilog(self) -> str:
        """Name of the Verilog file, or of the chip's top where each module has its own."""
        return f"{self.top}.v"


def top_name(config: ChipConfig) -> str:
    """Module name of a chip: ``hyperdrive_<name>``."""
    return f"hyperdrive_{config.name.replace('-', '_')}"


def mesh_name(config: ChipConfig, mesh: MeshConfig) -> str:
    """Module name of a mesh of chips: ``hyperdrive_<name>_mesh_<rows>x<columns>``."""
    return f"{top_name(config)}_mesh_{mesh}"


def export_verilog(
    config: ChipConfig,
    mesh: MeshConfig | None = None,
    *,
    cells: str = GENERIC,
    split: bool = False,
    macros: str | Path | None = None,
) -> VerilogExport:
    """Convert a chip; of a mesh, also write the module that joins its chips.

    Every module's name starts with the top's, so that several chips, or anything else, go into one design.

    Parameters
    ----------
    cells : one of ``CELLS``
    split : a file for each module
    macros : TOML file of a vendor's cells, with an ASIC's

    Raises
    ------
    ConfigError : several chips without links, no such cells, or macros that do not suit the chip
    ToolError : Yosys cannot be run
    """
    mesh = mesh or MeshConfig()
    require_links(config, mesh)
    if cells not in CELLS:
        raise ConfigError(f"cells must be one of {', '.join(CELLS)}, not {cells!r}")
    if macros is not None and cells != ASIC:
        raise ConfigError(f"macros take the place of ASIC cells: they need cells {ASIC!r}, not {cells!r}")
    technology = Technology.from_toml(macros) if macros is not None else None
    top = top_name(config)
    library = ModuleLibrary(cells=cells == ASIC)
    text = library.convert(Chip(config=config), name=top)
    if technology:
        technology.check([cell for cell in library.cells if isinstance(cell, Sram)])
    rtlil = prefixed(text, top, [cell.name for cell in library.cells])
    manifest = manifest_of(config, top, rtlil, library.cells, kind=cells, technology=technology)
    modules = _verilog_modules(rtlil, top, library.cells, technology)
    heading = _heading(config, top, manifest)
    if split:
        short = _short_heading(config, top)
        sources = {f"{name}.v": (heading if name == top else short) + body for name, body in modules.items()}
    else:
        sources = {f"{top}.v": heading + "\n".join([modules[top], *_others(modules, top)])}
    if mesh.chips > 1:
        name = mesh_name(config, mesh)
        sources[f"{name}.v"] = mesh_text(config, mesh, top, name, cells=cells)
    listed = "".join(f"{name}\n" for name in sources)
    files = {
        **sources,
        "hyperdrive.f": f"// Files of chip '{config.name}', relative to this one.\n{listed}",
        "hyperdrive.sdc": sdc_text(config, top, cells),
        "hyperdrive.vlt": lint_waivers(config, cells),
        "manifest.json": json_text(manifest),
    }
    return VerilogExport(top=top, config=config, files=files, manifest=manifest, sources=tuple(sources))


def _verilog_modules(
    rtlil: str, top: str, cells: Sequence[Cell], technology: Technology | None
) -> dict[str, str]:
    """The text of each module, by name, children before parents."""
    with tempfile.TemporaryDirectory(prefix="hyperdrive-verilog-") as folder:
        work = Path(folder)
        (work / f"{top}.il").write_text(rtlil)
        read_cells = ""
        if cells:
            (work / "cells.v").write_text("".join(cell.stub(top) for cell in cells))
            read_cells = "read_verilog -lib cells.v"
        yosys(_SCRIPT.format(top=top, cells=read_cells), cwd=work, what="Verilog export")
        body = (work / f"{top}.v").read_text()
    body = re.sub(r"\A/\* Generated by Yosys.*?\*/\n", "", body, flags=re.DOTALL)
    texts = re.split(r"^(?=module )", body.lstrip("\n"), flags=re.MULTILINE)[1:]
    written = {re.split(r"[ (]", text, maxsplit=2)[1]: text.rstrip("\n") + "\n" for text in texts}
    modules = {f"{top}_{cell.name}": cell.verilog(top, technology) for cell in cells}
    modules |= written
    in_order = parts_first(module_parts(rtlil, top, cells), top)
    return {name: modules[name] for name in in_order if name in modules}


def _others(modules: dict[str, str], top: str) -> list[str]:
    """The texts of all modules but the top, by name."""
    return [modules[name] for name in sorted(modules) if name != top]


def prefixed(rtlil: str, top: str, cells: Sequence[str] = ()) -> str:
    """RTLIL text with every module but the top named after it, and without dots; ``cells`` are not in it.

    Amaranth numbers a submodule that has the name of a signal, ``crc$41``: modules go without.
    """
    names = re.findall(r"^module \\(\S+)$", rtlil, re.MULTILINE)
    new = {name: name if name == top else f"{top}_{_plain(name.removeprefix(f'{top}.'))}" for name in names}
    new |= {name: f"{top}_{name}" for name in cells}
    if len(set(new.values())) != len(names) + len(cells):
        raise AssertionError(f"two modules of {top} would get one name")  # a slip in rtl/, not of the user
    rtlil = re.sub(r"^module \\(\S+)$", lambda m: f"module \\{new[m[1]]}", rtlil, flags=re.MULTILINE)
    # Cells of a module type; those of Yosys itself begin with $ instead of a backslash.
    return re.sub(r"^(  cell) \\(\S+) ", lambda m: f"{m[1]} \\{new[m[2]]} ", rtlil, flags=re.MULTILINE)


def _plain(name: str) -> str:
    return re.sub(r"\$\d+(?=$|\.|_)", "", name).replace(".", "_")


def _written(top: str) -> str:
    return f"""\
// {top}: Hyperdrive, a CNN engine for binary weights (Andri et al., arXiv 1804.00623).
// Written by `hyperdrive verilog`; do not edit. SPDX-License-Identifier: Apache-2.0
"""


def _parameters(config: ChipConfig) -> str:
    """The chip's description, as comments."""
    values = "".join(f"//   {line}\n" for line in config.to_toml().splitlines())
    return f"""\
// Chip description ({config.tpus} TPUs, {config.fmm_words} words of feature maps):
{values}// Program signature: 0x{config.signature:08x} (a program for another configuration is refused)
"""


def _short_heading(config: ChipConfig, top: str) -> str:
    return f"{_written(top)}//\n{_parameters(config)}\n"


def _heading(config: ChipConfig, top: str, manifest: dict) -> str:
    width, word = config.program_width, config.word_width
    scan = ""
    if manifest["cells"] == ASIC:
        scan = "//   scan_enable  opens all clock gates while test patterns are shifted; 0 in operation\n"
    return f"""\
{_written(top)}//
{_parameters(config)}//
// Ports: clk; rst, synchronous, active high. A stream moves a word in each cycle with valid and ready high:
//   program  [{width - 1}:0]  in   instructions, parameters, weights: what `hyperdrive compile` writes
//   fm_in    [{word - 1}:0]  in   feature-map words: own pixels in raster order, channels innermost
//   fm_out   [{word - 1}:0]  out  the same of stored maps
//   mesh_row, mesh_col  position in a mesh of chips, constant; 0 for one chip
//   status__*   busy, error (0: none, kept until reset), layer, layer_done and halted (pulses)
//   activity__* what this cycle is spent on, for performance counters
{scan}{_link_ports(config)}//
{_memories(config, top, manifest)}

"""


def _memories(config: ChipConfig, top: str, manifest: dict) -> str:
    """Where memories and special cells are; manifest.json has them all."""
    if manifest["cells"] == GENERIC:
        if config.links:
            arrays = ", also with a number (feature maps, borders,\n// corners; one port, a write"
        else:
            arrays = " (feature maps; one port, a write\n//"
        return f"""\
// Memories are plain arrays in {top}_single_port_memory{arrays} mask per word),
// {top}_weight_rows and {top}_parameter_buffer;
// manifest.json has them all.
"""
    lines = []
    for entry in manifest["memories"]:
        if entry["kind"] != FLIP_FLOPS:
            size = f"{entry['depth']} words of {entry['width']} bits"
            lines.append(f"//   {entry['count']} {entry['module']}: {entry['kind']}, {size}")
    lines += [f"//   {cell['count']} {cell['module']}" for cell in manifest["special_cells"]]
    listed = "\n".join(lines)
    return f"""\
// Cells (manifest.json has their ports, and the small memories, which are of flip-flops):
{listed}
"""


def _link_ports(config: ChipConfig) -> str:
    if not config.links:
        return ""
    data = f"data [{config.link_width - 1}:0]" if config.link_width > 1 else "data"
    sides = ", ".join(f"{side.value} {side.name.lower()}" for side in Side)
    faults = ", ".join(f"{fault.value} {fault.name.lower()}" for fault in LinkFault if fault)
    clock, how = "", "All chips have clk in common"
    if config.link_clock == SOURCE:
        clock = ", clock"
        how = "clock is the sender's, rising in the middle of a beat: chips need no clk in common"
    return f"""\
// Border links, one on each side of the chip, join the chips of a mesh:
//   north__, east__, south__, west__  tx__ (out) and rx__ (in), each {data}, valid{clock}:
//     to the neighbour's rx, and from its tx, of the side that faces this one; where there is none, rx is 0.
//     {how}.
//   neighbours [3:0]  constant, a bit per side with a neighbour: {sides}; 0 for one chip
//   status__side, status__fault  with error {ErrorCode.LINK.value}: which side's link failed, and how:
//     {faults}
//   activity__border_words, activity__link_beats  words of neighbours stored, links with a beat of such words
"""
