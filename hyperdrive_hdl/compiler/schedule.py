"""Execution order of a stage's layers, and how long each map stays in the feature-map memory."""

from collections.abc import Callable
from dataclasses import dataclass

from ..config import ChipConfig
from .ir import BinaryConv, ChipStage

# The search for the best order visits sets of finished layers; a residual network has one or two per layer.
MAX_SETS = 4096


def block_channels(layer: BinaryConv, chip: ChipConfig) -> int:
    """Input channels of one group whose weights the weight buffer holds at a time (0: not even one)."""
    return min(layer.weights.shape[1], chip.wbuf_depth // layer.taps)


def scratch_words(layer: BinaryConv, chip: ChipConfig, tile: tuple[int, int]) -> int:
    """Words per tile for the partial sums of a layer, 0 if it needs none; ``tile`` is that of its output."""
    if block_channels(layer, chip) >= layer.weights.shape[1]:
        return 0
    return tile[0] * tile[1] * chip.lanes * chip.number_format.words_per_sum


@dataclass(frozen=True, eq=False)
class Schedule:
    """Layers in execution order, with what each step keeps in memory.

    ``sizes`` holds words per tile by map name, ``scratch`` those of the partial sums by layer index. All
    inputs are loaded before layer 0. A map is stored right after the layer that makes it; with
    ``keep_outputs`` its memory is not reused before the end all the same, so that no layer has to wait for
    the store.
    """

    layers: tuple[BinaryConv, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sizes: dict[str, int]
    scratch: tuple[int, ...]
    last_use: dict[str, int]  # index of the last layer that needs the map; -1: none

    @classmethod
    def of(
        cls,
        stage: ChipStage,
        layers: tuple[BinaryConv, ...],
        chip: ChipConfig,
        tiles: dict[str, tuple[int, int]],
        *,
        keep_outputs: bool = False,
    ) -> "Schedule":
        inputs = tuple(m.name for m in stage.inputs)
        outputs = tuple(m.name for m in stage.outputs)
        last_use = dict.fromkeys(inputs, -1)
        for index, layer in enumerate(layers):
            last_use[layer.output.name] = last_use[layer.input.name] = index
            if layer.bypass:
                last_use[layer.bypass.name] = index
        if keep_outputs:
            last_use.update(dict.fromkeys(outputs, len(layers)))
        maps = (*stage.inputs, *(layer.output for layer in layers))
        return cls(
            layers=layers,
            inputs=inputs,
            outputs=outputs,
            sizes={m.name: m.channels * tiles[m.name][0] * tiles[m.name][1] for m in maps},
            scratch=tuple(scratch_words(layer, chip, tiles[layer.output.name]) for layer in layers),
            last_use=last_use,
        )

    def in_place(self, index: int) -> bool:
        """Whether the output of a layer takes the segment of its bypass, which nothing needs any more."""
        layer = self.layers[index]
        if layer.bypass is None or layer.bypass.name == layer.input.name:
            return False
        return self.last_use[layer.bypass.name] == index

    def live_words(self, placed_by: "Schedule | None" = None) -> list[int]:
        """Words per tile in use during each layer: maps still needed, the output, partial sums.

        ``placed_by`` decides which outputs take their bypass' place, if not this schedule.
        """
        decides = placed_by or self
        peaks, alive = [], [name for name in self.inputs if self.last_use[name] >= 0]
        for index, layer in enumerate(self.layers):
            if decides.in_place(index):
                alive.remove(layer.bypass.name)
            alive.append(layer.output.name)
            peaks.append(sum(self.sizes[name] for name in alive) + self.scratch[index])
            alive = [name for name in alive if self.last_use[name] > index]
            if index == 0:  # the inputs lie there before anything is computed
                peaks[0] = max(peaks[0], sum(self.sizes[name] for name in self.inputs))
        return peaks


def leanest_order(stage: ChipStage, schedule_of: Callable[[tuple[BinaryConv, ...]], Schedule]) -> tuple:
    """The order of the layers with the lowest peak of live words; the given order among equals.

    Exact, by dynamic programming over the sets of finished layers, while these are few; else the given order.
    """
    given = schedule_of(stage.layers)
    makers = {layer.output.name: i for i, layer in enumerate(stage.layers)}
    readers: dict[str, int] = dict.fromkeys(given.sizes, 0)
    needs = []
    for i, layer in enumerate(stage.layers):
        read = {layer.input.name} | ({layer.bypass.name} if layer.bypass else set())
        needs.append(sum(1 << makers[name] for name in read if name in makers))
        for name in read:
            readers[name] |= 1 << i
    kept = {name for name in given.outputs if given.last_use[name] == len(stage.layers)}
    everything = (1 << len(stage.layers)) - 1

    def dead(name: str, done: int) -> bool:
        return name not in kept and readers[name] & ~done == 0

    def words(done: int, index: int) -> int:
        layer, after = stage.layers[index], done | 1 << index
        made = [n for n in readers if n not in makers or done >> makers[n] & 1]
        alive = sum(given.sizes[n] for n in made if not dead(n, done))
        bypass = layer.bypass.name if layer.bypass else layer.input.name
        in_place = bypass != layer.input.name and dead(bypass, after)
        return alive + given.scratch[index] + (0 if in_place else given.sizes[layer.output.name])

    level: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, ())}
    for _ in stage.layers:
        following: dict[int, tuple[int, tuple[int, ...]]] = {}
        for done, (peak, order) in level.items():
            for index, need in enumerate(needs):
                if done >> index & 1 or need & ~done:
                    continue
                after = done | 1 << index
                option = max(peak, words(done, index)), (*order, index)
                following[after] = min(following.get(after, option), option)
        if len(following) > MAX_SETS:
            return stage.layers
        level = following
    peak, order = level[everything]
    return tuple(stage.layers[i] for i in order) if peak < max(given.live_words()) else stage.layers
