"""Border slots: which maps' borders the chips of a mesh exchange, and where they keep them meanwhile.

A map that a 3x3 layer reads is exported: each chip sends the pixels at its edges to its neighbours as they
are made. A chip has two border slots, so that one map's border can come in while another's is read. A slot is
taken when the instruction starts that makes the map, and free after the last 3x3 layer that reads it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..config import ChipConfig, MeshConfig
from ..errors import ModelError
from .ir import BinaryConv, PlacedMap

SLOTS = 2


@dataclass(frozen=True)
class Border:
    """A map's border: its slot, and the index of the last layer that reads it."""

    slot: int
    last_reader: int


def border_slots(inputs: Sequence[str], layers: Sequence[BinaryConv]) -> dict[str, Border]:
    """The borders of a stage on a mesh, by map name, for layers in execution order.

    Raises
    ------
    ModelError : more than two borders are needed at a time
    """
    readers: dict[str, int] = {}
    for index, layer in enumerate(layers):
        if layer.kernel == 3:
            readers[layer.input.name] = index
    made = [(-1, name) for name in inputs] + [(i, layer.output.name) for i, layer in enumerate(layers)]
    borders: dict[str, Border] = {}
    for index, name in made:
        if name not in readers:
            continue
        taken = {b.slot: other for other, b in borders.items() if b.last_reader >= index}
        free = set(range(SLOTS)) - set(taken)
        if not free:
            where = f"layer {layers[index].name!r} makes" if index >= 0 else "the stage loads"
            others = " and ".join(repr(other) for other in taken.values())
            raise ModelError(
                f"{where} {name!r} while 3x3 layers have yet to read {others}: a chip of a mesh keeps the "
                f"borders of {SLOTS} maps at a time; use one chip, or split the network between the branches"
            )
        borders[name] = Border(min(free), readers[name])
    return borders


def check_borders(maps: Iterable[PlacedMap], chip: ChipConfig, mesh: MeshConfig) -> None:
    """Whether the chips have links, and their border memory room for each of these maps' borders.

    Raises
    ------
    ModelError : no; with the map, its words and the remedy
    """
    maps = list(maps)
    if not maps:
        return
    if not chip.links:
        raise ModelError(
            f"a mesh of {mesh} needs links for the border of map {maps[0].map.name!r}, chip {chip.name!r} "
            f"has none; use link_width = 4, for example"
        )
    for placed in maps:
        words = max(placed.tile_h, placed.tile_w) * placed.map.channels
        if words > chip.border_depth:
            raise ModelError(
                f"map {placed.map.name!r} has {words} border words along a tile of {placed.tile_h} x "
                f"{placed.tile_w} pixels, chip {chip.name!r} keeps {chip.border_depth}; use border_depth = "
                f"{1 << (words - 1).bit_length()} or a larger mesh"
            )
