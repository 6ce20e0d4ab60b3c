"""Takes a program stream apart into instructions, weight rows and parameters, as the chip does (isa.py)."""

from dataclasses import dataclass, field

import numpy as np

from .. import isa
from ..config import ChipConfig
from ..errors import ChipError
from ..isa import ErrorCode, Opcode


@dataclass(frozen=True)
class Load:
    instruction: isa.Transfer


@dataclass(frozen=True)
class Store:
    instruction: isa.Transfer


Instruction = Load | Store | isa.Conv


@dataclass
class Queue:
    """Rows or parameter sets in the order of the stream, each taken once."""

    what: str
    parts: list = field(default_factory=list)
    items: np.ndarray | None = None
    taken: int = 0

    def put(self, part: np.ndarray) -> None:
        self.parts.append(part)

    def take(self, count: int) -> np.ndarray:
        """The next ``count`` items.

        Raises
        ------
        ChipError : the program sent fewer than its layers use; the chip would wait for ever
        """
        if self.items is None:
            self.items = np.concatenate(self.parts) if self.parts else np.zeros(0, np.uint64)
        if self.taken + count > len(self.items):
            raise ChipError(f"no progress: the layers use more than the {len(self.items)} {self.what} sent")
        self.taken += count
        return self.items[self.taken - count : self.taken]

    @property
    def left(self) -> int:
        return sum(map(len, self.parts)) - self.taken


@dataclass
class Program:
    """What lies between a CONFIG and its HALT. A weight row is a uint64, a parameter set (scales, biases)."""

    instructions: list[Instruction] = field(default_factory=list)
    rows: Queue = field(default_factory=lambda: Queue("weight rows"))
    params: Queue = field(default_factory=lambda: Queue("parameter sets"))


def fault(code: ErrorCode, why: str) -> ChipError:
    """The error that the chip raises with this code."""
    return ChipError(f"error {code.name}: {why}")


def decode(words: np.ndarray, chip: ChipConfig) -> list[Program]:
    """The programs of a stream.

    Raises
    ------
    ChipError : the chip would raise its error status (named), or wait for the rest of the stream for ever
    """
    words = np.asarray(words, np.uint64)
    low = (words & np.uint64(0xFFFF)).astype(np.int64)
    programs: list[Program] = []
    current: Program | None = None
    at = 0
    while at < len(low):
        opcode, operand = int(low[at]) >> isa.OPERAND_BITS, int(low[at]) & ((1 << isa.OPERAND_BITS) - 1)
        if current is None and opcode != Opcode.CONFIG:
            raise fault(ErrorCode.CONFIG, f"word {at}: the program does not start with CONFIG")
        length = _body_length(opcode, operand, chip)
        if length is None:
            raise fault(ErrorCode.OPCODE, f"word {at} is {int(low[at]):#06x}, no header")
        body = slice(at + 1, at + 1 + length)
        if body.stop > len(low):
            raise ChipError(f"no progress: the program ends within the packet of word {at}")
        if opcode == Opcode.CONFIG:
            if list(low[body]) != [isa.MAGIC, chip.signature & 0xFFFF, chip.signature >> 16]:
                raise fault(ErrorCode.CONFIG, f"the program was not made for chip {chip.name!r}")
            current = Program()
            programs.append(current)
        elif opcode == Opcode.HALT:
            current = None
        elif opcode == Opcode.WEIGHTS:
            current.rows.put(words[body] & np.uint64((1 << chip.lanes) - 1))
        elif opcode == Opcode.PARAMS:
            current.params.put(_params(operand, words[body], chip))
        elif opcode == Opcode.CONV:
            current.instructions.append(isa.Conv.decode(low[body]))
        else:
            kind = Load if opcode == Opcode.LOAD else Store
            current.instructions.append(kind(isa.Transfer.decode(low[body])))
        at = body.stop
    if current is not None:
        raise ChipError("no progress: the program ends without HALT")
    return programs


def _body_length(opcode: int, operand: int, chip: ChipConfig) -> int | None:
    """Words after a header; None if the header has no meaning."""
    fixed = {
        Opcode.CONFIG: isa.CONFIG_WORDS,
        Opcode.LOAD: len(isa.TRANSFER_LAYOUT),
        Opcode.STORE: len(isa.TRANSFER_LAYOUT),
        Opcode.CONV: len(isa.CONV_LAYOUT),
        Opcode.HALT: 0,
    }
    if opcode in fixed:
        return operand if operand == fixed[opcode] else None
    if opcode == Opcode.WEIGHTS:
        return operand if 1 <= operand <= chip.wbuf_depth else None
    if opcode == Opcode.PARAMS:
        return chip.lanes * operand.bit_count() if operand in (1, 2, 3) else None
    return None


def _params(operand: int, body: np.ndarray, chip: ChipConfig) -> np.ndarray:
    """One parameter set as uint32 [1, (scale, bias), lane]; what was not sent is zero."""
    values = np.zeros((1, 2, chip.lanes), np.uint32)
    widths = chip.number_format.scales.width, chip.number_format.sums.width
    kinds = [kind for kind in range(2) if operand >> kind & 1]
    for kind, words in zip(kinds, body.reshape(len(kinds), chip.lanes), strict=True):
        values[0, kind] = words & np.uint64((1 << widths[kind]) - 1)
    return values
