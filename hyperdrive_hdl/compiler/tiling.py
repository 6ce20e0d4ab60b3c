"""Tile sizes of every map of a chip stage (README: How it works).

All maps of one connected graph share the tile grid of the mesh: M x mesh rows by N x mesh columns tiles. The
smallest map decides: its tiles are just large enough to cover it, and every stride-2 step upwards doubles
them, so that an output pixel and its input pixels always lie in the same or in a neighbouring tile.
"""

from ..config import ChipConfig, MeshConfig
from ..errors import ModelError
from .ir import BinaryConv, ChipStage, FeatureMap


def stage_maps(stage: ChipStage) -> dict[str, FeatureMap]:
    """Every map of the stage by name: inputs first, then the layers' outputs in execution order."""
    return {m.name: m for m in (*stage.inputs, *(layer.output for layer in stage.layers))}


def whole_and_rest(size: int, tile: int) -> tuple[int, int]:
    """Whole tiles in ``size`` pixels, and the pixels left for the next tile."""
    return divmod(size, tile)


def tile_sizes(stage: ChipStage, chip: ChipConfig, mesh: MeshConfig) -> dict[str, tuple[int, int]]:
    """Tile height and width of every map of the stage, by map name.

    Raises
    ------
    ModelError : the strides of two paths to one map differ, so that no tiling serves both
    """
    grid_rows, grid_cols = chip.tile_rows * mesh.rows, chip.tile_cols * mesh.cols
    maps = stage_maps(stage)
    sizes: dict[str, tuple[int, int]] = {}
    for levels in _components(stage, maps):
        deepest = max(levels.values())
        height = max(_ceil(maps[n].height, 2 ** (deepest - level)) for n, level in levels.items())
        width = max(_ceil(maps[n].width, 2 ** (deepest - level)) for n, level in levels.items())
        tile_h, tile_w = _ceil(height, grid_rows), _ceil(width, grid_cols)
        for name, level in levels.items():
            factor = 2 ** (deepest - level)
            sizes[name] = tile_h * factor, tile_w * factor
    return {name: sizes[name] for name in maps}


def _ceil(value: int, divisor: int) -> int:
    return -(-value // divisor)


def _components(stage: ChipStage, maps: dict[str, FeatureMap]) -> list[dict[str, int]]:
    """Connected sets of maps, each with its downsampling exponents (relative; the smallest is anywhere)."""
    edges: dict[str, list[tuple[str, int, BinaryConv]]] = {name: [] for name in maps}
    for layer in stage.layers:
        for other, steps in ((layer.input, layer.stride - 1), (layer.bypass, 0)):
            if other is None:
                continue
            if other.name not in edges:
                raise ModelError(f"layer {layer.name!r} reads {other.name!r}, which its stage does not make")
            edges[other.name].append((layer.output.name, steps, layer))
            edges[layer.output.name].append((other.name, -steps, layer))
    components, seen = [], set()
    for start in maps:
        if start in seen:
            continue
        levels, todo = {start: 0}, [start]
        while todo:
            name = todo.pop()
            for other, steps, layer in edges[name]:
                level = levels[name] + steps
                if levels.setdefault(other, level) != level:
                    raise ModelError(
                        f"layer {layer.name!r}: map {other!r} is reached with different strides, "
                        f"so its tiles cannot be matched; run one of the paths outside this stage"
                    )
                if other not in seen:
                    seen.add(other)
                    todo.append(other)
            seen.add(name)
        components.append(levels)
    return components
