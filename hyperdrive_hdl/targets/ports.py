"""The ports of an exported chip, for text that instantiates it."""

from dataclasses import dataclass

from amaranth.hdl import Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..cells.leaf import SCAN_ENABLE
from ..config import ChipConfig
from ..isa import Side
from ..rtl.border import PortSignature
from ..rtl.layouts import ActivitySignature, StatusSignature

GENERIC, ASIC = CELLS = ("generic", "asic")  # arrays and enables; SRAM wrappers, latches, clock gates

SIDES = tuple(side.name.lower() for side in Side)  # the prefixes of the links' ports


@dataclass(frozen=True)
class Port:
    """A port of the chip, from its side."""

    name: str
    width: int
    is_input: bool

    @property
    def bits(self) -> str:
        """Its range in a declaration, with a space behind; empty for a single bit."""
        return f"[{self.width - 1}:0] " if self.width > 1 else ""

    @property
    def is_link(self) -> bool:
        return self.name.startswith(SIDES)


def chip_ports(config: ChipConfig, cells: str = GENERIC) -> list[Port]:
    """All ports of a chip with cells of that kind, as Amaranth names them in Verilog."""
    links = {side: Out(PortSignature(config)) for side in SIDES} | {"neighbours": In(4)}
    signature = wiring.Signature(
        {
            "clk": In(1),
            "rst": In(1),
            "mesh_row": In(8),
            "mesh_col": In(8),
            **(links if config.links else {}),
            "program": In(stream.Signature(config.program_width)),
            "fm_in": In(stream.Signature(config.word_width)),
            "fm_out": Out(stream.Signature(config.word_width)),
            "status": Out(StatusSignature()),
            "activity": Out(ActivitySignature()),
            **({SCAN_ENABLE: In(1)} if cells == ASIC else {}),
        }
    )
    return [
        Port("__".join(map(str, path)), len(Value.cast(value)), member.flow is In)
        for path, member, value in signature.flatten(signature.create())
    ]


def connections(ports: list[Port], wires: dict[str, str], indent: str = "    ") -> str:
    """An instance's connections, one a line. Of ports without a wire, inputs are zero and outputs open."""
    unknown = wires.keys() - {port.name for port in ports}
    if unknown:
        raise AssertionError(f"no such ports: {', '.join(sorted(unknown))}")  # a slip in targets/
    default = {port.name: f"{port.width}'d0" if port.is_input else "" for port in ports}
    return ",\n".join(f"{indent}.{name}({wire})" for name, wire in (default | wires).items())
