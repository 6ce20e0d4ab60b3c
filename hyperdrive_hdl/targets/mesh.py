"""A mesh of exported chips, as one module of plain Verilog that has nothing but instances and wires.

It is ``rtl.mesh.Mesh`` as text: the chips are the module that ``targets.verilog`` writes, not a copy with
another name, and chips with source-synchronous links each have a clock of their own.
"""

import textwrap

import numpy as np

from ..cells.leaf import SCAN_ENABLE
from ..config import SOURCE, ChipConfig, MeshConfig
from ..errors import ConfigError
from ..isa import Side
from .ports import GENERIC, SIDES, Port, chip_ports, connections

CONSTANTS = ("mesh_row", "mesh_col", "neighbours")
CLOCKING = ("clk", "rst")

# The chip next to a side, and the side with which that one faces this.
_STEPS = {
    Side.NORTH: (-1, 0, Side.SOUTH),
    Side.EAST: (0, 1, Side.WEST),
    Side.SOUTH: (1, 0, Side.NORTH),
    Side.WEST: (0, -1, Side.EAST),
}


def require_links(config: ChipConfig, mesh: MeshConfig) -> None:
    """Raises ``ConfigError`` for several chips without links."""
    if mesh.chips > 1 and not config.links:
        raise ConfigError(
            f"a mesh of {mesh} needs chips with links: set link_width of chip {config.name!r} "
            f"to 1, 2, 4, 8 or 16"
        )


def chip_name(row: int, col: int) -> str:
    """Of a chip in the mesh: its instance's name, and with two underscores the prefix of its ports."""
    return f"chip{row}_{col}"


def own_clocks(config: ChipConfig) -> bool:
    """Each chip of a mesh has its own ``clk`` and ``rst``."""
    return config.link_clock == SOURCE


def mesh_ports(config: ChipConfig, mesh: MeshConfig, cells: str = GENERIC) -> list[Port]:
    """The mesh's ports: those of each chip but links and position; clock and reset may be common."""
    ports = chip_ports(config, cells)
    common = [port for port in ports if port.name in _common(config)]
    hidden = {*CONSTANTS, *(port.name for port in common)}
    of_chips = [
        Port(f"{chip_name(row, col)}__{port.name}", port.width, port.is_input)
        for row, col in np.ndindex(mesh.rows, mesh.cols)
        for port in ports
        if port.name not in hidden and not port.is_link
    ]
    return common + of_chips


def _common(config: ChipConfig) -> tuple[str, ...]:
    """Ports that all chips of a mesh have in common."""
    return (SCAN_ENABLE,) if own_clocks(config) else (*CLOCKING, SCAN_ENABLE)


def mesh_text(config: ChipConfig, mesh: MeshConfig, chip: str, top: str, *, cells: str = GENERIC) -> str:
    """Module ``top``, a mesh of modules ``chip``."""
    ports = ",\n".join(
        f"  {'input' if port.is_input else 'output'} {port.bits}{port.name}"
        for port in mesh_ports(config, mesh, cells)
    )
    sent = [port for port in chip_ports(config) if port.is_link and not port.is_input]
    wires = "".join(
        f"  wire {port.bits}{chip_name(row, col)}__{port.name};\n"
        for row, col in np.ndindex(mesh.rows, mesh.cols)
        for port in sent
    )
    chips = "".join(
        _instance(config, mesh, chip, row, col, cells) for row, col in np.ndindex(mesh.rows, mesh.cols)
    )
    return (
        f"{_heading(config, mesh, chip, top)}module {top} (\n{ports}\n);\n"
        f"  // Links, named after the chip and the side that send.\n{wires}{chips}endmodule\n"
    )


def _instance(config: ChipConfig, mesh: MeshConfig, chip: str, row: int, col: int, cells: str) -> str:
    ports = chip_ports(config, cells)
    name = chip_name(row, col)
    wires = {port.name: f"{name}__{port.name}" for port in ports}
    wires |= {name: name for name in _common(config) if name in wires}
    wires |= {"mesh_row": f"8'd{row}", "mesh_col": f"8'd{col}"}
    wires["neighbours"] = f"4'b{mesh.neighbours(row, col):04b}"
    for side, (down, right, facing) in _STEPS.items():
        there = mesh.neighbours(row, col) >> side & 1
        source = f"{chip_name(row + down, col + right)}__{SIDES[facing]}__tx"
        for port in ports:
            if port.name.startswith(f"{SIDES[side]}__rx__"):
                what = port.name.rpartition("__")[2]
                wires[port.name] = f"{source}__{what}" if there else f"{port.width}'d0"
    return f"\n  {chip} {name} (\n{connections(ports, wires)}\n  );\n"


def _heading(config: ChipConfig, mesh: MeshConfig, chip: str, top: str) -> str:
    clocks = "clk and rst are common to all chips."
    if own_clocks(config):
        clocks = (
            "Links are source-synchronous: each chip has a clk and an rst of its own. Clocks may differ in "
            f"phase, and in frequency by {0.7 * config.link_width:.1f} %."
        )
    text = (
        f"{top}: {mesh} chips {chip}, joined by their border links. "
        "Written by `hyperdrive verilog`; do not edit. SPDX-License-Identifier: Apache-2.0\n"
        f"Chip (row, column) is chip<row>_<column>, as its ports' names begin; (0, 0) is north-west. "
        f"{clocks} All chips get the same program; each has its own pixels in fm_in and fm_out."
    )
    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, 107)]
    return "".join(f"// {line}\n" for line in lines) + "\n"
