"""Bits in and out of the chips, per image: weights, feature maps, borders between chips (paper table II)."""

from ..compiler.ir import BinaryConv, ChipProgram, PlacedMap
from ..config import ChipConfig, MeshConfig


def weight_bits(layer: BinaryConv) -> int:
    """Binary weights of a layer, one bit each; every chip of a mesh gets the same."""
    return layer.weights.size


def parameter_bits(layer: BinaryConv, chip: ChipConfig) -> int:
    """Bits of a layer's scales and biases."""
    number_format = chip.number_format
    scales = 0 if layer.scale is None else layer.scale.size * number_format.scales.width
    return scales + (0 if layer.bias is None else layer.bias.size * number_format.sums.width)


def map_bits(placed: PlacedMap, chip: ChipConfig) -> int:
    """Bits of a whole map's true pixels, over all chips."""
    return placed.map.words * chip.word_width


def input_bits(program: ChipProgram) -> int:
    """Bits of the maps loaded."""
    return sum(map_bits(step.map, program.chip) for step in program.loads)


def output_bits(program: ChipProgram) -> int:
    """Bits of the maps stored."""
    return sum(map_bits(step.map, program.chip) for step in program.stores)


def border_words(placed: PlacedMap, chip: ChipConfig, mesh: MeshConfig) -> int:
    """Words inside the true map that the chips of a mesh receive from their neighbours, corners once.

    Each chip receives the ring of one pixel round its own area, as far as the map reaches.
    """
    rows, rows_with_ring = _owned(placed.map.height, chip.tile_rows * placed.tile_h, mesh.rows)
    cols, cols_with_ring = _owned(placed.map.width, chip.tile_cols * placed.tile_w, mesh.cols)
    return (rows_with_ring * cols_with_ring - rows * cols) * placed.map.channels


def _owned(size: int, pitch: int, chips: int) -> tuple[int, int]:
    """Pixels that the chips along one axis own, and these with those next to them, summed over the chips."""
    areas = [(i * pitch, (i + 1) * pitch) for i in range(chips)]
    own = sum(max(0, min(high, size) - low) for low, high in areas)
    return own, sum(max(0, min(high + 1, size) - max(low - 1, 0)) for low, high in areas)


def border_maps(program: ChipProgram) -> list[PlacedMap]:
    """Maps whose borders are exchanged: those that a 3x3 layer reads."""
    return list({s.input.map.name: s.input for s in program.layers if s.conv.kernel == 3}.values())


def border_bits(program: ChipProgram) -> int:
    """Bits that neighbours receive, the first layer's input included."""
    words = sum(border_words(placed, program.chip, program.mesh) for placed in border_maps(program))
    return words * program.chip.word_width
