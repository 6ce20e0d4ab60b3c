"""What travels on a link between two chips: words in frames, each with a header and a checksum.

Sizes are counted here for all: for transmitter and receiver (rtl/link.py), for the estimate, for tests.
"""

from enum import IntEnum

from .config import ChipConfig

HEADER_BITS = 16
CHECK_BITS = 16  # CRC-16/IBM-3740, of the header and the words
FRAME_WORD_BITS = 512  # of words in a full frame: header and checksum add a sixteenth


class FrameKind(IntEnum):
    """What a frame carries."""

    CONTROL = 0  # no words: 8 bits in place of the number of words
    EDGE = 1
    NORTH_CORNERS = 2
    SOUTH_CORNERS = 3


def frame_words(config: ChipConfig) -> int:
    """F, the words of a full frame."""
    return -(-FRAME_WORD_BITS // config.word_width)


def frames(words: int, config: ChipConfig) -> int:
    """Frames that a run of words makes: all but the last are full."""
    return -(-words // frame_words(config))


def frame_bits(words: int, config: ChipConfig) -> int:
    """Bits on the link for a run of words, headers and checksums among them."""
    return words * config.word_width + frames(words, config) * (HEADER_BITS + CHECK_BITS)
