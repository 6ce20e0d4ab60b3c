"""Facts of a chip in an ASIC library, beside the paper's."""

from collections.abc import Iterator

from rich.table import Table

from ..targets.asic.blocks import PAPER_CORE_MM2, PAPER_MM2, PAPER_NAND2_UM2, Part
from ..targets.asic.build import AsicBuild
from ..targets.asic.memories import PER_BIT_SOURCE
from .tables import number


def asic_json(build: AsicBuild, seconds: float, *, per_bit_given: bool = False) -> dict:
    """The keys of ``asic --json``; areas in um2. The paper's figures are of 22FDX, its NAND2 0.199 um2."""
    areas = build.areas
    blocks = []
    for name, parts in areas.blocks.items():
        counts = sum(part.instances for part in parts.values())
        paper = PAPER_MM2.get((name, ""))
        listed = [
            _area(build, part, Part(parts[part].area, parts[part].instances), PAPER_MM2.get((name, part)))
            for part in parts
            if part
        ]
        block = _area(build, name, Part(areas.of(name), counts), paper)
        blocks.append(block | {"parts": listed} if listed else block)
    instances = build.netlist.instances()
    memories = [
        {
            "module": (module := f"{build.netlist.top}_{cover.sram.name}"),
            "depth": cover.sram.depth,
            "width": cover.sram.width,
            "instances": instances[module],
            "macro": cover.macro,
            "macros": cover.stacked * cover.beside,
            "area_um2": cover.area,
        }
        for cover in build.covers
    ]
    return {
        "chip": build.config.name,
        "library": build.library.name,
        "nand2_area_um2": areas.nand2,
        "area_um2": areas.total,
        "gate_equivalents": areas.total / areas.nand2,
        "paper_gate_equivalents": PAPER_CORE_MM2 * 1e6 / PAPER_NAND2_UM2,
        "blocks": blocks,
        "arithmetic_mge": areas.arithmetic_mge,
        "sram_area_per_bit_um2": build.per_bit,
        "sram_area_per_bit_source": "given" if per_bit_given else PER_BIT_SOURCE,
        "seconds": seconds,
        "longest_path_ns": build.timing.longest_path_ns,
        "timer": build.timing.timer,
        "equivalence": [
            {"module": found.module, "equal": found.equal, "points": found.points, "differs": found.differs}
            for found in build.equivalence
        ],
        "storage": build.netlist.storage(build.library),
        "memories": memories,
    }


def _area(build: AsicBuild, name: str, part: Part, paper_mm2: float | None) -> dict:
    return {
        "name": name,
        "area_um2": part.area,
        "gate_equivalents": part.area / build.areas.nand2,
        "instances": part.instances,
        "paper_area_mm2": paper_mm2,
        "paper_gate_equivalents": None if paper_mm2 is None else paper_mm2 * 1e6 / PAPER_NAND2_UM2,
    }


def asic_lines(facts: dict) -> Iterator[str | Table]:
    """What ``hyperdrive asic`` shows, from ``asic_json``."""
    table = Table(box=None, pad_edge=False)
    table.add_column("block")
    for heading in ("mm2", "kGE", "modules", "paper's kGE (22FDX)"):
        table.add_column(heading, justify="right")
    for block in facts["blocks"]:
        table.add_row(*_row(block, ""))
        for part in block.get("parts", ()):
            table.add_row(*_row(part, "  "))
    core = {"name": "core", "instances": 1, **facts}
    table.add_row(*_row(core, ""))
    yield table
    yield f"GE: a NAND2 of {facts['library']}, {facts['nand2_area_um2']:g} um2"
    storage = facts["storage"]
    yield ", ".join(f"{number(count)} {kind}" for kind, count in storage.items())
    for memory in facts["memories"]:
        size = f"{memory['instances']} x {memory['depth']} x {memory['width']}"
        if memory["macro"]:
            what = f"{memory['macros']} of macro {memory['macro']} each"
        else:
            what = f"{facts['sram_area_per_bit_um2']:.2f} um2 per bit ({facts['sram_area_per_bit_source']})"
        yield f"memory {memory['module']}: {size}, {what}"
    yield f"longest path: {facts['longest_path_ns']:.2f} ns ({facts['timer']})"
    equal = [module for module in facts["equivalence"] if module["equal"]]
    points = sum(module["points"] for module in equal)
    yield (
        f"equivalence with the RTL: {len(equal)} of {len(facts['equivalence'])} modules equal, "
        f"{number(points)} points"
    )
    yield f"{facts['seconds']:.1f} s in all"
    yield "librelane/: configurations for a tile and the chip, to run where LibreLane is; not run here"


def _row(area: dict, indent: str) -> tuple[str, ...]:
    paper = area.get("paper_gate_equivalents")
    return (
        f"{indent}{area['name']}",
        f"{area['area_um2'] / 1e6:.3f}",
        f"{area['gate_equivalents'] / 1e3:,.1f}",
        number(area["instances"]),
        "" if paper is None else f"{paper / 1e3:,.0f}",
    )
