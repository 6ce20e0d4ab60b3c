"""The chip's memories and what covers them: macros side by side and stacked, or an area per bit."""

import re
from dataclasses import dataclass

from ...errors import UserError
from ..liberty import Cell

# Of the paper's chip: 1.24 mm2 of SRAM for 6,422,528 bits, at 0.199 um2 per NAND2 of 22FDX (section VI).
PAPER_NAND2_PER_BIT = 1.24e6 / 6_422_528 / 0.199
PER_BIT_SOURCE = "the paper's SRAM: 1.24 mm2 for 6,422,528 bits = 0.97 NAND2 of 22FDX (0.199 um2) per bit"
# A macro of which less than this is used does not suit.
LEAST_USE = 1 / 4


@dataclass(frozen=True, kw_only=True)
class Memory:
    """A module that is a memory: a single-port SRAM of ``depth`` words, or rows of the weight buffer."""

    module: str
    depth: int
    width: int
    kind: str = "sram"

    @property
    def bits(self) -> int:
        return self.depth * self.width


@dataclass(frozen=True, kw_only=True)
class Cover:
    """What stands for a memory: ``across`` x ``deep`` of a macro, or bits. ``area`` in um2, of one memory."""

    memory: Memory
    area: float
    macro: str | None = None
    across: int = 0
    deep: int = 0


def find_memories(verilog: str) -> list[Memory]:
    """The memory modules of an exported chip, by their names; other arrays become registers."""
    found = []
    for module, body in re.findall(r"^module (\w+)\s*\((.*?)^endmodule", verilog, re.MULTILINE | re.DOTALL):
        if sized := re.search(r"_sram_(\d+)x(\d+)$", module):
            found.append(Memory(module=module, depth=int(sized[1]), width=int(sized[2])))
            continue
        kind = re.search(r"_(single_port_memory|weight_rows)(_\d+)?$", module)
        array = re.search(r"^  reg \[(\d+):0\] \w+ \[(\d+):0\];", body, re.MULTILINE)
        if kind and array:
            name = {"single_port_memory": "sram", "weight_rows": "latches"}[kind[1]]
            width, depth = (int(number) + 1 for number in array.groups())
            found.append(Memory(module=module, depth=depth, width=width, kind=name))
    return found


def memory_models(verilog: str, memories: list[Memory]) -> str:
    """The memory modules of an exported chip, which are models for simulation."""
    texts = [
        found[0]
        for memory in memories
        if (
            found := re.search(
                rf"^module {memory.module}\b.*?^endmodule\n", verilog, re.MULTILINE | re.DOTALL
            )
        )
    ]
    return "\n".join(texts)


def cover(memory: Memory, macros: list[Cell], per_bit: float) -> Cover:
    """The least area of the macros that suit, else ``per_bit`` um2 for each bit."""
    found = []
    for macro in macros:
        depth, width = macro.size or (0, 0)
        across, deep = -(-memory.width // width), -(-memory.depth // depth)
        area = across * deep * (macro.area or 0.0)
        if memory.bits >= LEAST_USE * across * deep * depth * width:
            found.append(Cover(memory=memory, area=area, macro=macro.name, across=across, deep=deep))
    return min(found, key=lambda c: c.area, default=Cover(memory=memory, area=per_bit * memory.bits))


def check_macros(memories: list[Memory], macros: list[Cell]) -> None:
    """Refuse a macro that suits no memory of the chip.

    Raises
    ------
    UserError : so it is
    """
    srams = [memory for memory in memories if memory.kind == "sram"]
    for macro in macros:
        if not any(cover(memory, [macro], 0.0).macro for memory in srams):
            depth, width = macro.size or (0, 0)
            sizes = ", ".join(sorted({f"{memory.depth} x {memory.width}" for memory in srams}))
            raise UserError(
                f"macro {macro.name} has the wrong size: {depth} words of {width} bits; the chip's memories "
                f"are {sizes}, and none of them would use {LEAST_USE:.0%} of it. Leave it away, or give a "
                f"smaller one"
            )
