"""What travels between a host and a board with one chip: requests and replies in frames on a serial line.

Bytes on the line are 8N1. A frame is ``FLAG``, its bytes, ``FLAG``; a ``FLAG`` or ``ESCAPE`` among them is
sent as ``ESCAPE`` and the byte with bit 5 inverted, so that a receiver finds the next frame whatever it has
missed. The bytes of a frame are its kind, a body, and the CRC-32 of both (``zlib.crc32``); numbers are
little-endian.

The host speaks, the board answers; of itself it says nothing. Each good request brings a reply, except that
one reply may stand for several requests of a kind that arrived while another was on its way. A frame with a
wrong CRC, an unknown kind or a wrong length is dropped. All requests may be repeated:

========  =============================  =======================================================
request   body                           the board
========  =============================  =======================================================
IDENTIFY  none                           replies IDENTITY
RESET     session (2)                    resets the chip, empties the buffers, counts from 0, remembers
                                         the session; replies STATUS
PROGRAM   offset (2), words              takes the words into the chip's program buffer if ``offset`` is the
                                         number of words taken so far (mod 2^16); replies STATUS
MAPS      offset (2), words              the same for ``fm_in``
FETCH     offset (2), count (1)          forgets the words of ``fm_out`` before ``offset``; replies OUTPUT
                                         with those from there on, at most ``count``, perhaps none
STATUS    none                           replies STATUS
COUNTERS  none                           replies COUNTERS (where the identity has that feature)
========  =============================  =======================================================

A host keeps to the free words that STATUS tells. Offsets make a lost frame harmless: those behind it are not
taken, STATUS shows how far the board has come, and the host goes back to there.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Self

FLAG = 0x7E
ESCAPE = 0x7D
ESCAPED_BIT = 0x20

PROTOCOL_VERSION = 1
MAX_BODY = 256  # bytes of the longest frame's body, for receivers' buffers; escapes not counted
WRITE_BYTES = 128  # bytes of words in a full PROGRAM or MAPS frame


class Request(IntEnum):
    """Kinds of frames from the host."""

    IDENTIFY = 0x01
    RESET = 0x02
    PROGRAM = 0x03
    MAPS = 0x04
    FETCH = 0x05
    STATUS = 0x06
    COUNTERS = 0x07


class Reply(IntEnum):
    """Kinds of frames from the board."""

    IDENTITY = 0x81
    OUTPUT = 0x85  # session (2), offset (2), words
    STATUS = 0x86
    COUNTERS = 0x87  # session (2), a u32 per name of ``COUNTER_NAMES``


class Flags(IntFlag):
    """Of a STATUS."""

    BUSY = 1  # a program is running
    HALTED = 2  # a program has ended since the RESET, and none has begun after it


class Features(IntFlag):
    """Of an IDENTITY."""

    COUNTERS = 1  # the board counts cycles


# Cycles since RESET, modulo 2^32, as rtl ActivitySignature says; counted from the first program word on.
COUNTER_NAMES = ("cycles", "computing", "loading", "storing", "load_exposed", "store_exposed")

WORDS_HEADER = struct.Struct("<H")  # offset; before the words of PROGRAM and MAPS
FETCH_BODY = struct.Struct("<HB")  # offset, count
SESSION = struct.Struct("<H")
OUTPUT_HEADER = struct.Struct("<HH")  # session, offset; before the words of OUTPUT
_STATUS = struct.Struct("<HBBBHHHHHHH")
_IDENTITY = struct.Struct("<4sBIIIHHHBBB")

MAGIC = b"HYPD"


def word_bytes(width: int) -> int:
    """Bytes of a word of so many bits on the line."""
    return -(-width // 8)


@dataclass(frozen=True)
class Status:
    """Body of STATUS: ``*_taken`` words so far and ``*_free`` words in the buffers; offsets are mod 2^16.

    ``error``, side and fault are the chip's (isa.ErrorCode, Side, LinkFault); ``output_first`` is the offset
    of the first word of ``fm_out`` that is kept, ``output_words`` how many there are.
    """

    session: int
    flags: Flags
    error: int
    place: int  # side | fault << 4, of a failed link
    layers: int
    program_taken: int
    program_free: int
    maps_taken: int
    maps_free: int
    output_first: int
    output_words: int

    def encode(self) -> bytes:
        return _STATUS.pack(*vars(self).values())

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Raises ``ValueError`` for a body of the wrong length."""
        if len(body) != _STATUS.size:
            raise ValueError(f"STATUS must have {_STATUS.size} bytes, not {len(body)}")
        session, flags, *rest = _STATUS.unpack(body)
        return cls(session, Flags(flags), *rest)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Body of IDENTITY: what a host has to know before it sends anything.

    signature : ``ChipConfig.signature``
    clock_hz, baud : of the board
    program_buffer, maps_buffer, output_buffer : words
    program_bytes, map_bytes : of a word on the line
    preset, format : names, ``version`` of this package
    """

    signature: int
    clock_hz: int
    baud: int
    program_buffer: int
    maps_buffer: int
    output_buffer: int
    program_bytes: int
    map_bytes: int
    features: Features
    preset: str
    format: str
    version: str
    protocol: int = PROTOCOL_VERSION

    def encode(self) -> bytes:
        head = _IDENTITY.pack(
            MAGIC,
            self.protocol,
            self.signature,
            self.clock_hz,
            self.baud,
            self.program_buffer,
            self.maps_buffer,
            self.output_buffer,
            self.program_bytes,
            self.map_bytes,
            self.features,
        )
        names = (self.preset, self.format, self.version)
        return head + b"".join(name.encode("ascii")[:32] + b"\0" for name in names)

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Raises ``ValueError`` where this is no identity, or of another protocol."""
        if len(body) < _IDENTITY.size or not body.startswith(MAGIC):
            raise ValueError("this is not the identity of a Hyperdrive board")
        _, protocol, *values = _IDENTITY.unpack_from(body)
        if protocol != PROTOCOL_VERSION:
            raise ValueError(f"the board speaks protocol version {protocol}, this program {PROTOCOL_VERSION}")
        names = body[_IDENTITY.size :].split(b"\0")
        if len(names) != 4 or names[3]:
            raise ValueError("the identity's names are damaged")
        signature, clock_hz, baud, program, maps, output, program_bytes, map_bytes, features = values
        preset, format, version = (name.decode("ascii", "replace") for name in names[:3])
        return cls(
            signature=signature,
            clock_hz=clock_hz,
            baud=baud,
            program_buffer=program,
            maps_buffer=maps,
            output_buffer=output,
            program_bytes=program_bytes,
            map_bytes=map_bytes,
            features=Features(features),
            preset=preset,
            format=format,
            version=version,
            protocol=protocol,
        )


def frame(kind: int, body: bytes = b"") -> bytes:
    """A frame as it goes on the line."""
    content = bytes([kind]) + body
    content += zlib.crc32(content).to_bytes(4, "little")
    line = bytearray([FLAG])
    for byte in content:
        if byte in (FLAG, ESCAPE):
            line += bytes([ESCAPE, byte ^ ESCAPED_BIT])
        else:
            line.append(byte)
    line.append(FLAG)
    return bytes(line)


class Deframer:
    """Finds frames in bytes from the line; damaged ones are counted and dropped."""

    LONGEST = 1 + MAX_BODY + 4

    def __init__(self) -> None:
        self._content: bytearray | None = None  # None: before the first flag
        self._escaped = False
        self.dropped = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The kind and body of every good frame that ends in ``data``."""
        for byte in data:
            if byte == FLAG:
                content, escaped = self._content, self._escaped
                self._content, self._escaped = bytearray(), False
                if not content and not escaped:
                    continue  # the flag that ends a frame may begin the next
                if content is None:
                    continue
                good = not escaped and 5 <= len(content) <= self.LONGEST
                if good and zlib.crc32(content[:-4]) == int.from_bytes(content[-4:], "little"):
                    yield content[0], bytes(content[1:-4])
                else:
                    self.dropped += 1
            elif self._content is None:
                continue
            elif byte == ESCAPE:
                self._escaped = True
            elif len(self._content) <= self.LONGEST:
                self._content.append(byte ^ ESCAPED_BIT if self._escaped else byte)
                self._escaped = False
