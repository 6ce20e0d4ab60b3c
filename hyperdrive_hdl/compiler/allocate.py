"""Places the maps of a chip stage in the feature-map memory of the tiles.

Every tile has the same memory map, so one address per map will do. A layer's input should share no bank with
what the epilogue touches (output, bypass, partial sums), since banks have one port; where it must, the chip
stalls and stays right, and the layer is listed in ``conflicts``. The residual addition is done in place
wherever the bypass is not needed any more (paper section IV-A).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..config import ChipConfig, MeshConfig
from ..errors import ModelError
from .ir import BinaryConv, ChipStage, PlacedMap
from .schedule import Schedule, leanest_order
from .tiling import stage_maps, tile_sizes

# Placements of the live maps that the search remembers after each layer; the best are kept.
MAX_PLACEMENTS = 64


@dataclass(frozen=True, eq=False)
class Allocation:
    """Where everything lies. ``layers`` is the execution order; what lists layers goes by its index."""

    layers: tuple[BinaryConv, ...]
    maps: dict[str, PlacedMap]
    scratch: tuple[int, ...]  # base of each layer's partial sums, 0 where there are none
    scratch_words: tuple[int, ...]
    conflicts: tuple[int, ...]  # layers whose input shares a bank with output, bypass or partial sums
    live_words: tuple[int, ...]  # per tile, during each layer

    @property
    def words_per_tile(self) -> int:
        """Worst-case words of one tile."""
        return max(self.live_words)


def allocate(stage: ChipStage, chip: ChipConfig, mesh: MeshConfig) -> Allocation:
    """Place all maps of a stage.

    Raises
    ------
    ModelError : the maps do not fit; the message names the worst layer, the words and the remedy
    """
    if not stage.layers:
        raise ModelError(f"stage {stage.name!r} has no layers")
    found = _best(stage, chip, mesh)
    if found is None:
        raise _too_large(stage, chip, mesh)
    schedule, tiles, node = found
    bases, scratch = {}, [0] * len(schedule.layers)
    for index in range(len(schedule.layers), 0, -1):  # node `index` is the state after layer index - 1
        bases.update(node.placed)
        scratch[index - 1] = node.scratch
        node = node.before
    bases.update(node.placed)
    maps = {
        name: PlacedMap(map=m, tile_h=tiles[name][0], tile_w=tiles[name][1], base=bases[name])
        for name, m in stage_maps(stage).items()
    }
    early = Schedule.of(stage, schedule.layers, chip, tiles)
    return Allocation(
        layers=schedule.layers,
        maps=maps,
        scratch=tuple(scratch),
        scratch_words=schedule.scratch,
        conflicts=tuple(
            i for i, base in enumerate(scratch) if _conflict(schedule, i, bases, base, chip.fmm_bank_depth)
        ),
        live_words=tuple(early.live_words(placed_by=schedule)),
    )


def banks(base: int, words: int, depth: int) -> int:
    """The banks a segment touches, as a bit mask."""
    if not words:
        return 0
    first, last = base // depth, (base + words - 1) // depth
    return (2 << last) - (1 << first)


class _Node(NamedTuple):
    """A state of the search: where the live maps (and, to judge reloading, the inputs) lie after a layer."""

    cost: tuple[int, int]  # words written by layers with a bank conflict; words that delay the next load
    state: tuple[tuple[str, int], ...]
    placed: tuple[tuple[str, int], ...]  # maps placed in this step
    scratch: int
    before: "_Node | None"


def _best(stage: ChipStage, chip: ChipConfig, mesh: MeshConfig) -> tuple[Schedule, dict, _Node] | None:
    """The first way without an avoidable bank conflict, else the one with the fewest, else None."""
    tiles = tile_sizes(stage, chip, mesh)
    best = None
    unavoidable = 0  # a layer that adds its own input reads one segment twice
    for layer in stage.layers:
        if layer.bypass and layer.bypass.name == layer.input.name:
            tile_h, tile_w = tiles[layer.output.name]
            unavoidable += layer.output.channels * tile_h * tile_w
    for keep in (True, False):

        def schedule_of(layers: tuple[BinaryConv, ...], keep: bool = keep) -> Schedule:
            return Schedule.of(stage, layers, chip, tiles, keep_outputs=keep)

        given, lean = schedule_of(stage.layers), schedule_of(leanest_order(stage, schedule_of))
        for schedule in (given, lean) if lean.layers != given.layers else (given,):
            if max(schedule.live_words()) > chip.fmm_words_per_tile:
                continue
            for every_bank in (False, True):
                node = _search(schedule, chip, every_bank)
                if node and (best is None or node.cost[0] < best[2].cost[0]):
                    best = schedule, tiles, node
                if best and best[2].cost[0] == unavoidable:
                    return best
    return best


def _search(schedule: Schedule, chip: ChipConfig, every_bank: bool) -> _Node | None:
    """Dynamic programming over the layers; deterministic."""
    nodes = [_Node((0, 0), (), (), 0, None)]
    for name in schedule.inputs:
        words = schedule.sizes[name]
        nodes = _prune(
            node._replace(state=(*node.state, (name, base)), placed=(*node.placed, (name, base)))
            for node in nodes
            for base in _positions(_segments(schedule, node.state, -1), words, chip, every_bank)
        )
    for index in range(len(schedule.layers)):
        nodes = _prune(
            follower for node in nodes for follower in _place(schedule, index, node, chip, every_bank)
        )
    return nodes[0] if nodes else None


def _prune(nodes: Iterator[_Node]) -> list[_Node]:
    best: dict[tuple, _Node] = {}
    for node in nodes:
        if node.state not in best or node.cost < best[node.state].cost:
            best[node.state] = node
    return sorted(best.values(), key=lambda node: (node.cost, node.state))[:MAX_PLACEMENTS]


def _place(
    schedule: Schedule, index: int, node: _Node, chip: ChipConfig, every_bank: bool
) -> Iterator[_Node]:
    """All ways to place the output and the partial sums of one layer."""
    layer = schedule.layers[index]
    name = layer.output.name
    bases = dict(node.state)
    occupied = _segments(schedule, node.state, index)
    if schedule.in_place(index):
        options = [bases[layer.bypass.name]]
    else:
        options = _positions(occupied, schedule.sizes[name], chip, every_bank)
    depth, words = chip.fmm_bank_depth, schedule.scratch[index]
    source = banks(bases[layer.input.name], schedule.sizes[layer.input.name], depth)
    for base in options:
        here = {**bases, name: base}
        target = banks(base, schedule.sizes[name], depth)
        scratch = 0
        if words:
            free = _positions([*occupied, (base, base + schedule.sizes[name])], words, chip, every_bank)
            if not free:
                continue
            touched = {b: banks(b, words, depth) for b in free}
            scratch = min(free, key=lambda b: (touched[b] & source != 0, touched[b] & target != 0, b))
        stall = schedule.sizes[name] if _conflict(schedule, index, here, scratch, depth) else 0
        cost = node.cost[0] + stall, node.cost[1] + _reload_delay(schedule, index, here, scratch)
        state = tuple((n, b) for n, b in here.items() if schedule.last_use[n] > index or n in schedule.inputs)
        yield _Node(cost, state, ((name, base),), scratch, node)


def _segments(schedule: Schedule, state: tuple[tuple[str, int], ...], index: int) -> list[tuple[int, int]]:
    """Ranges of addresses in use when the layer of that index starts."""
    return [(base, base + schedule.sizes[n]) for n, base in state if schedule.last_use[n] >= index]


def _positions(occupied: list[tuple[int, int]], words: int, chip: ChipConfig, every_bank: bool) -> list[int]:
    """Bases worth trying: ends of the free ranges and the bank boundaries next to them, or all of these."""
    depth, found, start = chip.fmm_bank_depth, set(), 0
    for low, high in sorted([*occupied, (chip.fmm_words_per_tile,) * 2]):
        last = low - words  # the free range is start..low - 1
        aligned = -(-start // depth) * depth
        tries = {start, last, aligned, last // depth * depth, low // depth * depth - words}
        if every_bank:
            tries.update(range(aligned, last + 1, depth))
        found.update(base for base in tries if start <= base <= last)
        start = max(start, high)
    return sorted(found)


def _conflict(schedule: Schedule, index: int, bases: dict[str, int], scratch: int, depth: int) -> bool:
    """Whether a layer's input shares a bank with its output, bypass or partial sums."""
    layer = schedule.layers[index]
    mask = banks(scratch, schedule.scratch[index], depth)
    for name in (layer.output.name, layer.bypass.name if layer.bypass else layer.output.name):
        mask |= banks(bases[name], schedule.sizes[name], depth)
    return banks(bases[layer.input.name], schedule.sizes[layer.input.name], depth) & mask != 0


def _reload_delay(schedule: Schedule, index: int, bases: dict[str, int], scratch: int) -> int:
    """Words of the inputs' memory that are still in use when the next image could be loaded."""
    layer = schedule.layers[index]
    names = {layer.output.name} if layer.output.name in schedule.outputs else set()
    segments = []
    if index == len(schedule.layers) - 1:
        names |= {layer.output.name, layer.input.name}
        segments.append((scratch, schedule.scratch[index]))
    segments += [(bases[name], schedule.sizes[name]) for name in sorted(names)]
    homes = [(bases[name], schedule.sizes[name]) for name in schedule.inputs]
    return sum(max(0, min(a + m, b + n) - max(a, b)) for a, m in segments for b, n in homes)


def _too_large(stage: ChipStage, chip: ChipConfig, mesh: MeshConfig) -> ModelError:
    """The message for a stage that does not fit."""
    tiles = tile_sizes(stage, chip, mesh)

    def schedule_of(layers: tuple[BinaryConv, ...]) -> Schedule:
        return Schedule.of(stage, layers, chip, tiles)

    schedule = schedule_of(leanest_order(stage, schedule_of))
    live = schedule.live_words()
    worst = max(range(len(live)), key=live.__getitem__)
    need, there = live[worst], chip.fmm_words_per_tile
    how = f"needs {need} words per tile ({need * chip.tiles} per chip)"
    if need <= there:
        how += ", in pieces that cannot be placed"
    remedies = []
    if larger := _mesh_that_fits(stage, chip, mesh):
        remedies.append(f"a mesh of {larger} chips")
    if deeper := _depth_that_fits(stage, chip, mesh):
        remedies.append(f"fmm_bank_depth = {deeper}")
    remedy = f"use {' or '.join(remedies)}" if remedies else "use a smaller input or a chip with more tiles"
    return ModelError(
        f"stage {stage.name!r} does not fit chip {chip.name!r} (mesh {mesh}): layer "
        f"{schedule.layers[worst].name!r} {how}, there are {there} ({there * chip.tiles}); {remedy}"
    )


def _mesh_that_fits(stage: ChipStage, chip: ChipConfig, mesh: MeshConfig) -> MeshConfig | None:
    """The smallest mesh, at most twice as wide as high or the other way round, on which the stage fits."""
    shapes = [(r, c) for r in range(1, 17) for c in range(1, 17) if max(r, c) <= 2 * min(r, c)]
    for rows, cols in sorted(shapes, key=lambda s: (s[0] * s[1], abs(s[0] - s[1]), s)):
        if rows * cols > mesh.chips and _best(stage, chip, MeshConfig(rows=rows, cols=cols)):
            return MeshConfig(rows=rows, cols=cols)
    return None


def _depth_that_fits(stage: ChipStage, chip: ChipConfig, mesh: MeshConfig) -> int | None:
    """The smallest depth of the memory banks with which the stage fits."""
    depth = chip.fmm_bank_depth * 2
    while depth * chip.fmm_banks <= 1 << 16:
        if _best(stage, chip.replace(fmm_bank_depth=depth), mesh):
            return depth
        depth *= 2
    return None
