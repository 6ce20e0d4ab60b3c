"""Feature-map memory that a program needs, from the places of its maps and the order of its steps."""

from ..compiler.ir import ChipProgram, PlacedLayer, PlacedMap, PlacedTransfer
from ..config import ChipConfig

Step = PlacedLayer | PlacedTransfer


def scratch_words(step: Step, chip: ChipConfig) -> int:
    """Words per tile of the partial sums of a step."""
    if isinstance(step, PlacedTransfer):
        return 0
    conv = step.instruction
    return conv.pixels * chip.lanes * chip.number_format.words_per_sum if conv.in_blocks > 1 else 0


def step_words(program: ChipProgram) -> list[int]:
    """Words per tile in use during each step: maps still to be read or stored, the output, partial sums.

    Counts what has to be there; memory that nothing needs any more is free. An output in its bypass' place
    is counted once.
    """
    last: dict[str, int] = {}
    for index, step in enumerate(program.steps):
        for placed in _touched(step):
            last[placed.map.name] = index
    alive: dict[str, PlacedMap] = {}
    words = []
    for index, step in enumerate(program.steps):
        alive |= {placed.map.name: placed for placed in _touched(step)}
        segments = {placed.base: placed.words_per_tile for placed in alive.values()}
        words.append(sum(segments.values()) + scratch_words(step, program.chip))
        alive = {name: placed for name, placed in alive.items() if last[name] > index}
    return words


def _touched(step: Step) -> list[PlacedMap]:
    if isinstance(step, PlacedTransfer):
        return [step.map]
    return [step.input, step.output, *([step.bypass] if step.bypass else [])]


def fmm_words(program: ChipProgram) -> int:
    """Worst-case words per chip, all tiles together (the paper's worst-case layer)."""
    return max(step_words(program)) * program.chip.tiles


def border_memory_bits(chip: ChipConfig) -> int:
    """Bits of border memory: two slots, of each a row of words per tile at each side."""
    return 2 * 2 * (chip.tile_rows + chip.tile_cols) * chip.border_depth * chip.word_width


def corner_memory_bits(chip: ChipConfig) -> int:
    """Bits of corner memory: two slots, of each the channels of four pixels."""
    return 2 * 4 * chip.border_depth * chip.word_width
