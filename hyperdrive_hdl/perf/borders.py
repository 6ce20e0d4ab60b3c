"""When a map's border has been exchanged between the chips of a mesh, and what travels on the links for it.

The bits are exact. The cycles are those of a chip with neighbours all round, all chips being in step and
every link without delay; credits and heartbeats, which take a few beats now and then, are left out.
"""

import numpy as np

from ..compiler.ir import ChipProgram, PlacedMap
from ..config import ChipConfig, MeshConfig
from ..framing import CHECK_BITS, HEADER_BITS, frame_bits, frame_words
from .traffic import border_maps

# Cycles (rtl/border_export.py, rtl/link.py): from a word in memory until it is in its queue; from a pending
# frame to its first beat; from its last beat until the receiver has judged it.
TO_QUEUE, TO_LINK, TO_JUDGE = 4, 2, 4
CORNER_PACE = 2  # cycles from one forwarded word to the next


def link_bits(program: ChipProgram) -> int:
    """Bits of all border frames that the chips send for one image, headers and checksums among them."""
    return sum(map_link_bits(placed, program.chip, program.mesh) for placed in border_maps(program))


def map_link_bits(placed: PlacedMap, chip: ChipConfig, mesh: MeshConfig) -> int:
    """Of one map: every chip sends whole edges, whatever part of them lies inside the map."""
    channels = placed.map.channels
    vertical, horizontal = (mesh.rows - 1) * mesh.cols, mesh.rows * (mesh.cols - 1)
    corners = (mesh.rows - 1) * (mesh.cols - 1)
    return (
        2 * vertical * frame_bits(chip.tile_cols * placed.tile_w * channels, chip)
        + 2 * horizontal * frame_bits(chip.tile_rows * placed.tile_h * channels, chip)
        + 4 * corners * frame_bits(channels, chip)
    )


def exchanged(
    made: np.ndarray, lanes: np.ndarray, tile: tuple[int, int], chip: ChipConfig, mesh: MeshConfig
) -> int:
    """The cycle from which a layer may read the border.

    Parameters
    ----------
    made : cycle in which each pixel of a tile is in memory, [blocks of channels, tile_h * tile_w]
    lanes : channels of each block
    tile : tile_h, tile_w
    """
    y, x = np.divmod(np.arange(made.shape[1]), tile[1])
    ends = [int(made.max()) + TO_QUEUE]
    if mesh.rows > 1:
        last = 0
        for edge in (y == 0, y == tile[0] - 1):
            judged, ready = _sent(made[:, edge], lanes, chip.tile_cols, chip)
            last = max(last, judged)
            if mesh.cols > 1:  # the last words of both corners go on
                count = 1 + (int(lanes.sum()) - 1) % frame_words(chip)
                forwarded = judged + CORNER_PACE * min(count, ready) + TO_QUEUE
                ends.append(forwarded + TO_LINK + _beats(count, chip) + TO_JUDGE)
        ends.append(last)
    if mesh.cols > 1:
        for edge in (x == 0, x == tile[1] - 1):
            ends.append(_sent(made[:, edge], lanes, chip.tile_rows, chip)[0])
    return max(ends) + 1


def _sent(made: np.ndarray, lanes: np.ndarray, tiles: int, chip: ChipConfig) -> tuple[int, int]:
    """When an edge's last frame is judged, and how many channels its last frame can have of a corner."""
    full = frame_words(chip)
    times = np.repeat(made.ravel(), np.repeat(lanes, made.shape[1]) * tiles)
    order = np.arange(len(times))
    queued = np.maximum.accumulate(times - order) + order + TO_QUEUE  # a word per cycle
    last_words = np.append(np.arange(full, len(times), full), len(times)) - 1
    end = 0
    before = 0
    for word in last_words.tolist():
        beats = _beats(word + 1 - before, chip)
        end = max(end + 1, int(queued[word]) + TO_LINK) + beats
        before = word + 1
    count = 1 + (len(times) - 1) % full
    return end + TO_JUDGE, -(-count // tiles)


def _beats(words: int, chip: ChipConfig) -> int:
    return (HEADER_BITS + CHECK_BITS + words * chip.word_width) // chip.link_width
