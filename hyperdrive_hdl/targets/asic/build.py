"""All of it in order: export, mapping, equivalence, timing, areas, files."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from ...config import ChipConfig
from ...files import OutputFolder
from ..liberty import Cell, Library
from ..ports import ASIC
from ..verilog import export_verilog
from .blocks import Areas, block_areas
from .equivalence import Equality, check_equivalence
from .layout import librelane_files
from .mapping import Netlist, Progress, synthesise
from .memories import PAPER_NAND2_PER_BIT, Cover, check_macros, cover, find_memories, memory_models, placed
from .timing import Timing, longest_path


@dataclass(frozen=True, kw_only=True)
class AsicBuild:
    """A mapped chip; ``per_bit`` is what memories without a macro count for, in um2, and ``files`` what was
    written."""

    config: ChipConfig
    library: Library
    netlist: Netlist = field(repr=False)
    covers: list[Cover]
    areas: Areas
    equivalence: list[Equality]
    timing: Timing
    per_bit: float
    files: list[str]


def build_asic(
    config: ChipConfig,
    library: Library,
    macros: list[Cell],
    folder: OutputFolder,
    progress: Progress,
    *,
    per_bit: float | None = None,
    placement: Path | None = None,
) -> AsicBuild:
    """Map a chip to a library; netlist, cell models, logs and configurations go into ``folder``.

    Parameters
    ----------
    macros : memory macros to cover memories with
    progress : makes a context around each step from its description
    per_bit : um2 for a bit of memory without a macro; None for ``PAPER_NAND2_PER_BIT`` of this library
    placement : TOML file that says which macros, and how, the RTL for the layout has (``cells.macros``);
        without, its memories have behavioural bodies

    Raises
    ------
    UserError : a macro that suits nothing or is not known, a cell whose function is not known
    ToolError : a tool fails
    """
    with progress(f"elaborating chip {config.name!r}"):
        export = written = export_verilog(config, cells=ASIC)
        if placement:
            written = export_verilog(config, cells=ASIC, macros=placement)
    top, rtl = export.top, export.files[export.verilog]
    memories = find_memories(export.manifest)
    area_of_bit = PAPER_NAND2_PER_BIT * (library.nand2.area or 0.0) if per_bit is None else per_bit
    if placement and any("macro" in entry for entry in written.manifest["memories"]):
        covers = placed(written.manifest, macros)
    else:
        check_macros(memories, macros)
        covers = [cover(sram, macros, area_of_bit) for sram in memories]
    with tempfile.TemporaryDirectory(prefix="hyperdrive-asic-") as name:
        places = [Path(name, step) for step in ("mapping", "equivalence", "timing")]
        for place in places:
            place.mkdir()
        with progress(f"mapping {config.tpus} TPUs to {library.name}"):
            netlist = synthesise(rtl, top, library, memories, places[0])
        with progress("comparing the netlist with the RTL"):
            equal = check_equivalence(rtl, netlist, library, memories, places[1])
        with progress("static timing"):
            timing = longest_path(netlist, library, places[2])
    results = {f"rtl/{file}": text for file, text in written.files.items()}
    results |= {
        f"{top}_netlist.v": netlist.verilog,
        f"{top}_sta.v": netlist.timing_verilog,
        "cells.v": netlist.models,
        "memories.v": memory_models(memories, top),
        "mapping.log": netlist.log,
    }
    if timing.log:
        results["timing.log"] = timing.log
    results |= librelane_files(netlist, library, covers, timing, [f"rtl/{name}" for name in written.sources])
    for file, text in results.items():
        folder.write(file, text)
    return AsicBuild(
        config=config,
        library=library,
        netlist=netlist,
        covers=covers,
        areas=block_areas(netlist, library, covers),
        equivalence=equal,
        timing=timing,
        per_bit=area_of_bit,
        files=list(results),
    )
