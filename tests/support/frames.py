"""Frames of a link in plain Python: bit by bit, with a checksum of their own, apart from the RTL's."""

from dataclasses import dataclass

from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.framing import FrameKind, frame_words


def bits_of(value: int, width: int) -> list[int]:
    """The most significant one first."""
    return [value >> i & 1 for i in reversed(range(width))]


def number(bits: list[int]) -> int:
    return int("".join(map(str, bits)), 2)


def checksum(bits: list[int]) -> int:
    """CRC-16/IBM-3740, as its definition says: a bit at a time."""
    register = 0xFFFF
    for bit in bits:
        top = register >> 15
        register = (register << 1) & 0xFFFF
        if top ^ bit:
            register ^= 0x1021
    return register


@dataclass(frozen=True)
class Frame:
    kind: FrameKind
    slot: int = 0
    last: int = 0
    sequence: int = 0
    words: tuple[int, ...] = ()
    control: int = 0
    length: int | None = None  # if it is not the number of words

    def bits(self, config: ChipConfig) -> list[int]:
        length = len(self.words) if self.kind != FrameKind.CONTROL else self.control
        length = length if self.length is None else self.length
        header = number([*bits_of(self.kind, 2), self.slot, self.last])
        header = number(bits_of(header, 4) + bits_of(self.sequence, 4) + bits_of(length, 8))
        content = bits_of(header, 16) + [
            bit for word in self.words for bit in bits_of(word, config.word_width)
        ]
        return content + bits_of(checksum(content), 16)

    def beats(self, config: ChipConfig) -> list[int]:
        return beats(self.bits(config), config)


def beats(bits: list[int], config: ChipConfig) -> list[int]:
    width = config.link_width
    return [number(bits[i : i + width]) for i in range(0, len(bits), width)]


def read_wire(wire: list[int | None], config: ChipConfig) -> list[Frame]:
    """Frames from what was on the link in each cycle; checks their form and that they were numbered."""
    runs: list[list[int]] = [[]]
    for beat in wire:
        if beat is None:
            runs.append([])
        else:
            runs[-1] += bits_of(beat, config.link_width)
    found = []
    for bits in filter(None, runs):
        kind, slot, last = FrameKind(number(bits[:2])), bits[2], bits[3]
        sequence, length = number(bits[4:8]), number(bits[8:16])
        width = config.word_width
        content = bits[16:-16]
        assert number(bits[-16:]) == checksum(bits[:-16])
        assert sequence == len(found) % 16
        words = tuple(number(content[i : i + width]) for i in range(0, len(content), width))
        if kind == FrameKind.CONTROL:
            assert not words
            assert slot == 0
            found.append(Frame(kind, 0, last, sequence, control=length))
        else:
            assert len(content) == length * width
            assert 1 <= length <= frame_words(config)
            found.append(Frame(kind, slot, last, sequence, words))
    return found
