"""Checks a chip piece by piece through its streams, and names the piece that fails; for any ``Backend``.

Expected words come from the reference interpreter. A test that finds nothing wrong clears its pieces; what
fails is put down to the smallest piece that explains it, and later tests stay clear of memory that failed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from .. import isa
from ..arith.formats import Format
from ..compiler.emit import (
    PROGRAM_TAIL,
    conv_instruction,
    operands,
    packet,
    program_head,
    transfer_instruction,
)
from ..compiler.ir import BinaryConv, FeatureMap, PlacedMap
from ..config import ChipConfig, MeshConfig
from ..model.chip import run_program
from ..simulate.backend import Backend, Event, Stimulus

STEP = 1 << 16  # cycles between two looks at a simulator
ROUNDS = 3  # of random operands per kind of layer

Say = Callable[[str], None]


@dataclass
class Part:
    """A piece of the chip: words that tell of it, how many are wrong, and the first that is."""

    name: str
    words: int = 0
    failed: int = 0
    first: str | None = None

    def judge(self, words: int, wrong: int, first: str | None) -> None:
        self.words += words
        self.failed += wrong
        if wrong and self.first is None:
            self.first = first

    def to_json(self) -> dict:
        return vars(self)


@dataclass(frozen=True)
class SelftestResult:
    """``parts`` in the order of testing; ``sent`` and ``received`` count the words of the streams."""

    board: str
    parts: tuple[Part, ...]
    sent: int
    received: int
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not any(part.failed for part in self.parts)

    def to_json(self) -> dict:
        """The keys of ``selftest --json``."""
        return {
            "board": self.board,
            "passed": self.passed,
            "words_sent": self.sent,
            "words_received": self.received,
            "notes": list(self.notes),
            "parts": [part.to_json() for part in self.parts],
        }


def selftest(backend: Backend, *, seed: int = 1, say: Say = lambda text: None) -> SelftestResult:
    """Run all tests; ``say`` is told what is tested next.

    Raises
    ------
    ChipError : the board has stopped answering, so that nothing can be told of its chip
    """
    return _Selftest(backend, seed, say).run()


class _Program:
    """A program under construction, with its ``fm_in``. Every instruction waits for those before it."""

    def __init__(self, chip: ChipConfig):
        self.chip = chip
        self.packets = [program_head(chip)]
        self.fm_in = [np.zeros(0, np.uint16)]

    def load(self, placed: PlacedMap, words: np.ndarray) -> None:
        """``words`` in the stream's order."""
        self.fm_in.append(words.astype(np.uint16))
        instruction = replace(transfer_instruction(placed), wait_convs=0, wait_transfers=0)
        self.packets.append(packet(isa.Opcode.LOAD, instruction, "selftest"))

    def store(self, placed: PlacedMap) -> None:
        instruction = replace(transfer_instruction(placed), wait_convs=0, wait_transfers=0)
        self.packets.append(packet(isa.Opcode.STORE, instruction, "selftest"))

    def conv(self, layer: BinaryConv, instruction: isa.Conv) -> None:
        instruction = replace(instruction, wait_loads=0, wait_stores=0)
        self.packets.append(packet(isa.Opcode.CONV, instruction, "selftest"))
        self.packets += operands(layer, instruction, self.chip.lanes)

    def streams(self) -> tuple[np.ndarray, np.ndarray]:
        return np.concatenate([*self.packets, PROGRAM_TAIL]), np.concatenate(self.fm_in)


@dataclass(frozen=True)
class _Run:
    """What a program gave, filled up to the ``expected`` words; ``broken`` says why some are ``missing``."""

    found: np.ndarray
    expected: np.ndarray
    missing: np.ndarray
    broken: str

    @property
    def wrong(self) -> np.ndarray:
        return (self.found != self.expected) | self.missing

    def describe(self, index: int) -> str:
        if self.missing[index]:
            return self.broken
        return f"word {index} is {self.found[index]:#06x}, not {self.expected[index]:#06x}"


class _Selftest:
    def __init__(self, backend: Backend, seed: int, say: Say):
        self.backend = backend
        self.chip = backend.config
        self.format = self.chip.number_format
        self.rng = np.random.default_rng(seed)
        self.say = say
        self.parts: list[Part] = []
        self.notes: list[str] = []
        self.sent = self.received = 0
        self.good_banks = list(range(self.chip.fmm_banks))

    def run(self) -> SelftestResult:
        self.say("line")
        if self._line():
            self.say("feature memory")
            self._feature_memory()
            self.say("arithmetic")
            lanes = self._arithmetic()
            self.say("weight buffer")
            self._weight_buffer(lanes)
        else:
            self.notes.append("words do not pass unchanged, so that nothing else can be told")
        return SelftestResult(self.chip.name, tuple(self.parts), self.sent, self.received, tuple(self.notes))

    def _part(self, name: str) -> Part:
        self.parts.append(Part(name))
        return self.parts[-1]

    def _try(self, program: _Program) -> _Run:
        """Run a program, whatever comes of it."""
        words, fm_in = program.streams()
        expected = run_program(words, self.chip, MeshConfig(), {(0, 0): fm_in}, pictures=False).outputs[0, 0]
        backend, broken = self.backend, None
        backend.start(Stimulus(program=words, fm_in={(0, 0): fm_in}, output_words={(0, 0): expected.size}))
        while (event := backend.run(STEP)) in (Event.RUNNING, Event.LAYER_DONE):
            pass
        if event is not Event.HALTED:
            error = backend.chip_counters((0, 0)).error
            broken = {
                Event.ERROR: f"the chip reports error {error}",
                Event.STUCK: "the chip makes no progress",
                Event.OVERRUN: "the chip gives too many words",
            }[event]
        given = backend.outputs()[: expected.size]
        found = np.zeros(expected.size, np.uint16)
        found[: given.size] = given
        missing = np.arange(expected.size) >= given.size
        if broken:
            missing[:] = True  # it did not end: nothing of it counts
        self.sent += words.size + fm_in.size
        self.received += expected.size
        return _Run(found, expected, missing, broken or "the chip gave too few words")

    # Maps

    def _map(self, channels: int, base: int, tile: tuple[int, int] = (1, 1)) -> PlacedMap:
        """A map that fills all tiles."""
        height, width = self.chip.tile_rows * tile[0], self.chip.tile_cols * tile[1]
        return PlacedMap(FeatureMap(f"at {base}", channels, height, width), *tile, base)

    def _tiles(self, placed: PlacedMap) -> np.ndarray:
        """The number of the tile, row by row, of every word in a map's stream."""
        rows, cols = np.indices(placed.map.shape[1:])
        tiles = rows // placed.tile_h * self.chip.tile_cols + cols // placed.tile_w
        return np.repeat(tiles.ravel(), placed.map.channels)

    def _tile(self, number: int) -> str:
        row, col = divmod(int(number), self.chip.tile_cols)
        return f"tile ({row}, {col})"

    def _random(self, size: int) -> np.ndarray:
        return self.rng.integers(0, 1 << self.chip.word_width, size, dtype=np.uint16)

    # The line

    def _line(self) -> bool:
        """Patterns there and back by way of two banks: the line fails where both fail."""
        width, tiles = self.chip.word_width, self.chip.tiles
        ones = (1 << width) - 1
        walking = [1 << bit for bit in range(width)]
        patterns = [0, ones, 0, ones, *walking, *(ones ^ word for word in walking)]
        patterns += [0x5555 & ones, 0xAAAA & ones]
        channels = min(self.chip.fmm_bank_depth, -(-2 * len(patterns) // tiles))
        count = channels * tiles
        address = np.arange(count) * 0x0101 & ones
        words = np.array([*patterns, *address][:count])
        program = _Program(self.chip)
        for bank in (0, self.chip.fmm_banks - 1):
            placed = self._map(channels, bank * self.chip.fmm_bank_depth)
            program.load(placed, words)
            program.store(placed)
        run = self._try(program)
        both = run.wrong.reshape(2, -1).all(axis=0)
        at = np.flatnonzero(both)
        part = self._part("line")
        part.judge(run.wrong.size, 2 * at.size, run.describe(int(at[0])) if at.size else None)
        return not at.size

    # Feature memory

    def _feature_memory(self) -> None:
        """Every word of every bank with a value that depends on its address, and with the complement.

        All is written before anything is read, so that words at a wrong address are found too.
        """
        chip = self.chip
        banks = [self._map(chip.fmm_bank_depth, b * chip.fmm_bank_depth) for b in range(chip.fmm_banks)]
        values = [self._random(placed.map.words) for placed in banks]
        flip = np.uint16((1 << chip.word_width) - 1)
        program = _Program(chip)
        for turn in (np.uint16(0), flip):
            for placed, words in zip(banks, values, strict=True):
                program.load(placed, words ^ turn)
            for placed in banks:
                program.store(placed)
        run = self._try(program)
        wrong = run.wrong.reshape(2, chip.fmm_banks, -1)
        places = np.arange(wrong.size).reshape(wrong.shape)
        for tile in range(chip.tiles):
            for bank, placed in enumerate(banks):
                here = self._tiles(placed) == tile
                found = places[:, bank, here][wrong[:, bank, here]]
                first = None
                if found.size:
                    address = int(found[0]) % chip.fmm_bank_depth
                    first = f"address {address}: {run.describe(int(found[0]))}"
                    self.good_banks = [b for b in self.good_banks if b != bank]
                part = self._part(f"feature memory, {self._tile(tile)}, bank {bank}")
                part.judge(2 * int(here.sum()), found.size, first)
        if not self.good_banks:
            self.notes.append("no bank is without a fault: arithmetic is tested with what there is")
            self.good_banks = list(range(chip.fmm_banks))

    def _place(self, *sizes: int) -> list[int] | None:
        """Bases of segments in good banks, in order; None where they do not fit."""
        depth, bases = self.chip.fmm_bank_depth, []
        runs: list[list[int]] = []
        for bank in self.good_banks:
            if runs and runs[-1][1] == bank * depth:
                runs[-1][1] += depth
            else:
                runs.append([bank * depth, (bank + 1) * depth])
        for size in sizes:
            home = next((r for r in runs if r[1] - r[0] >= size), None)
            if home is None:
                return None
            bases.append(home[0])
            home[0] += size
        return bases

    # Arithmetic

    def _arithmetic(self) -> np.ndarray:
        """Layers of every kind on random operands, each at two places of the weight buffer.

        What only one place gets wrong is the weight buffer's. Where at most half of a tile's lanes fail, it
        is these lanes; where more do, it is what they share in such layers. The lanes [tile, lane] that fail.
        """
        chip = self.chip
        bad = np.zeros((chip.tiles, chip.lanes), bool)
        tiles = [self._tile(number) for number in range(chip.tiles)]
        lanes = [[Part(f"{tile}, lane {lane}") for lane in range(chip.lanes)] for tile in tiles]
        units = {kind.unit: [Part(f"{kind.unit}, {tile}") for tile in tiles] for kind in _KINDS}
        for kind in _KINDS:
            shape = self._shape(kind)
            if shape is None:
                self.notes.append(f"memory or weight buffer are too small to test {kind.text}")
                continue
            rounds = [self._layer(kind, shape, number) for number in range(ROUNDS)]
            program = _Program(chip)
            for put in rounds:
                put(program)
            self._skip_rows(program, chip.wbuf_depth // 2 - ROUNDS * kind.taps * shape.channels)
            for put in rounds:
                put(program)
            run = self._try(program)
            both = run.wrong.reshape(2, -1).all(axis=0)
            shown = self._map(shape.outputs, shape.target, shape.tile)
            tile_of = np.tile(self._tiles(shown), ROUNDS)
            lane_of = np.tile(np.arange(shape.outputs), both.size // shape.outputs)
            for tile in range(chip.tiles):
                self._judge_tile(
                    kind, run, both, tile_of == tile, lane_of, bad[tile], lanes[tile], units[kind.unit][tile]
                )
        self.parts += [part for tile in lanes for part in tile if part.words]
        self.parts += [part for tiles in units.values() for part in tiles if part.words]
        if chip.tiles > 1:
            for lane in np.flatnonzero(bad.all(axis=0)):
                self.notes.append(f"lane {lane} fails in every tile: look at bit {lane} of the weights")
        return bad

    def _judge_tile(
        self,
        kind: "_Kind",
        run: _Run,
        both: np.ndarray,
        here: np.ndarray,
        lane_of: np.ndarray,
        bad: np.ndarray,
        lanes: list[Part],
        unit: Part,
    ) -> None:
        """Put down one tile's words of a kind of layer; ``bad`` lanes of the tile are updated."""
        tested = np.unique(lane_of).size
        fresh = {int(lane) for lane in np.unique(lane_of[here & both]) if not bad[lane]}
        own = len(fresh) <= tested // 2 if tested > 1 else kind is _KINDS[0]
        if own:
            bad[list(fresh)] = True
        shared = here & ~bad[lane_of]  # words of lanes that are well tell of what they share
        for lane in range(tested):
            mine = np.flatnonzero(here & (lane_of == lane))
            at = mine[both[mine]] if bad[lane] else mine[:0]
            lanes[lane].judge(2 * mine.size, 2 * at.size, _first(kind, run, at))
        at = np.flatnonzero(shared & both)
        unit.judge(2 * int(shared.sum()), 2 * at.size, _first(kind, run, at))

    def _shape(self, kind: "_Kind") -> "_Shape | None":
        """The largest layer of a kind that the memory has room for; None where not even the smallest fits."""
        chip = self.chip
        for outputs in [chip.lanes >> shift for shift in range(chip.lanes.bit_length())]:
            for tile, channels in product(((2, 2), (1, 2), (1, 1)), (8, 4, 2, 1)):
                rows = kind.taps * -(-channels // kind.blocks)  # that lie in the buffer together
                if channels < kind.blocks or rows > chip.wbuf_depth:
                    continue
                if 2 * rows > chip.wbuf_depth and channels > kind.blocks:
                    continue  # fewer leave more of the buffer to the second place
                pixels = tile[0] * tile[1]
                sums = self.format.words_per_sum * chip.lanes * pixels if kind.blocks > 1 else 0
                bases = self._place(channels * pixels, outputs * pixels, sums)
                if bases is not None:
                    return _Shape(tile, channels, outputs, *bases)
        return None

    def _layer(self, kind: "_Kind", shape: "_Shape", number: int) -> Callable[[_Program], None]:
        """A layer with random operands; to be put into programs."""
        chip, rng = self.chip, self.rng
        source = self._map(shape.channels, shape.source, shape.tile)
        target = self._map(shape.outputs, shape.target, shape.tile)
        layer = BinaryConv(
            name="selftest",
            input=source.map,
            output=target.map,
            weights=self._signs(shape.outputs, shape.channels, kind.kernel, kind.kernel),
            scale=self.format.scales.encode(rng.uniform(-2, 2, shape.outputs)) if kind.scale else None,
            bias=self.format.sums.encode(rng.normal(0, 1, shape.outputs)) if kind.bias else None,
            bypass=target.map if kind.bypass else None,
            relu=kind.relu,
        )
        bypass = target if kind.bypass else None
        conv = conv_instruction(layer, source, target, bypass, shape.scratch, chip)
        if kind.blocks > 1:
            block = -(-shape.channels // kind.blocks)
            last = shape.channels - (kind.blocks - 1) * block
            conv = replace(
                conv, in_blocks=kind.blocks, block_channels=block, last_channels=last, interleave=1
            )
        words, stored = self._operands(source, kind, number), self._operands(target, kind, number + 1)

        def put(program: _Program) -> None:
            program.load(source, words)
            if kind.bypass:
                program.load(target, stored)
            program.conv(layer, conv)
            program.store(target)

        return put

    def _signs(self, *shape: int) -> np.ndarray:
        return self.rng.choice(np.array([-1, 1], np.int8), shape)

    def _operands(self, placed: PlacedMap, kind: "_Kind", number: int) -> np.ndarray:
        """Normal values, small ones, large ones, and any words at all: by the pixel, or few at a time where
        pixels are summed with each other."""
        shape = (placed.map.height, placed.map.width, placed.map.channels)
        normal = self.rng.normal(0, 1, shape)
        sign = np.uint16(1 << (self.chip.word_width - 1))
        anything = self._random(int(np.prod(shape))).reshape(shape)
        small = np.uint16((1 << self.chip.word_width // 2) - 1)
        kinds = [
            self.format.encode(normal),
            anything & (sign | small),
            self.format.encode(normal * self.format.largest / 8),
            anything,
        ]
        rows, cols = np.indices(shape[:2])
        which = (rows % placed.tile_h * placed.tile_w + cols % placed.tile_w + number) % 4
        if kind.kernel == 3:
            which = np.where(self.rng.random(shape[:2]) < 0.05, 3, number % 3)
        return np.choose(which[:, :, None], kinds).ravel()

    def _skip_rows(self, program: _Program, rows: int) -> None:
        """Layers that nobody looks at, so that the next one's weights lie so many rows further."""
        rows %= self.chip.wbuf_depth
        while rows:
            count, bases = rows, self._place(rows, 1)
            while bases is None and count > 1:
                count //= 2
                bases = self._place(count, 1)
            if bases is None:
                return
            self._plain(program, self._map(count, bases[0]), self._map(1, bases[1]))
            rows -= count

    def _plain(self, program: _Program, source: PlacedMap, target: PlacedMap) -> None:
        weights = self._signs(target.map.channels, source.map.channels, 1, 1)
        layer = BinaryConv(name="selftest", input=source.map, output=target.map, weights=weights)
        program.conv(layer, conv_instruction(layer, source, target, None, 0, self.chip))

    # Weight buffer

    def _weight_buffer(self, bad: np.ndarray) -> None:
        """Every row with both values of every bit, as it streams in and when it is used again.

        Channel c has the value 2^c, so that a sum tells its rows' bits. Up to two tiles are looked at: they
        have the same weights, and what they differ in is not the weight buffer's.
        """
        chip, depth = self.chip, self.chip.wbuf_depth
        channels, unit = _exact_channels(self.format, depth)
        tiles, tile = min(2, chip.tiles), (1, 2)
        size = (1, 2 * tiles) if chip.tile_cols > 1 else (tiles, 2)
        values = self.format.encode(unit * 2.0 ** np.arange(channels))
        blocks = -(-2 * depth // channels)
        room = min(blocks, ((1 << 16) - 1) // chip.lanes)
        bases = None
        while room and (bases := self._place(2 * channels, 2 * room * chip.lanes)) is None:
            room //= 2
        if bases is None:
            self.notes.append("the memory is too small to test the weight buffer")
            return
        source = PlacedMap(FeatureMap("source", channels, *size), *tile, bases[0])
        program = _Program(chip)
        program.load(source, np.tile(values, size[0] * size[1]))
        first = self.rng.integers(0, 2, (depth, chip.lanes), dtype=np.int8)
        rows = np.arange(blocks * channels)
        bits = first[rows % depth] ^ (rows // depth & 1)[:, None].astype(np.int8)
        counts = []
        for start in range(0, blocks, room):
            count = min(room, blocks - start)
            target = PlacedMap(FeatureMap("target", count * chip.lanes, *size), *tile, bases[1])
            some = bits[start * channels : (start + count) * channels].reshape(count, channels, chip.lanes)
            weights = (2 * some.transpose(0, 2, 1) - 1).reshape(-1, channels, 1, 1)
            layer = BinaryConv(name="selftest", input=source.map, output=target.map, weights=weights)
            conv = conv_instruction(layer, source, target, None, 0, chip)
            program.conv(layer, replace(conv, interleave=1))
            program.store(target)
            counts.append(count)
        run = self._try(program)
        failed, at = self._failed_rows(run, counts, channels, unit, bad[:tiles])
        part = self._part("weight buffer")
        part.judge(run.wrong.size, 0, None)
        if run.missing.any():
            part.judge(0, int(run.missing.sum()), run.broken)
            return
        for row in np.flatnonzero(failed)[:MOST_ROWS]:
            self._part(f"weight buffer, row {row}").judge(
                int(failed[row]), int(failed[row]), run.describe(int(at[row]))
            )
        more = np.flatnonzero(failed)[MOST_ROWS:]
        if more.size:
            self._part(f"weight buffer, {more.size} more rows").judge(
                int(failed[more].sum()), int(failed[more].sum()), run.describe(int(at[more[0]]))
            )

    def _failed_rows(
        self,
        run: _Run,
        counts: Sequence[int],
        channels: int,
        unit: float,
        bad: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """For every row the words that show it wrong, in all tiles looked at, and the first of them."""
        chip, depth = self.chip, self.chip.wbuf_depth
        seen = np.zeros((len(bad), depth), int)
        at = np.zeros(depth, int)
        pixels = 2 * len(bad)
        start = block = 0
        for count in counts:
            words = np.arange(start, start + pixels * count * chip.lanes)
            for index in words[run.wrong[words]]:
                pixel, channel = divmod(int(index) - start, count * chip.lanes)
                tile, lane = pixel // 2, channel % chip.lanes
                if bad[tile, lane]:
                    continue
                both = [
                    _bits(self.format.decode(given[index : index + 1])[0] / unit, channels)
                    for given in (run.found, run.expected)
                ]
                difference = (1 << channels) - 1 if None in both else both[0] ^ both[1]
                rows = (block + channel // chip.lanes) * channels + np.arange(channels)
                rows = rows[difference >> np.arange(channels) & 1 > 0] % depth
                seen[tile, rows] += 1
                at[rows] = np.where(at[rows] > 0, at[rows], index)
            start, block = start + words.size, block + count
        well = ~bad.all(axis=1)  # tiles that can be judged by
        in_all = (seen[well] > 0).all(axis=0) if well.any() else np.zeros(depth, bool)
        return np.where(in_all, seen.sum(axis=0), 0), at


MOST_ROWS = 20  # of the weight buffer that are named one by one


@dataclass(frozen=True)
class _Kind:
    """A kind of layer; ``unit`` is what lanes share in it beside what they share in those before."""

    text: str
    unit: str
    kernel: int = 1
    scale: bool = False
    bias: bool = False
    bypass: bool = False
    relu: bool = False
    blocks: int = 1

    @property
    def taps(self) -> int:
        return self.kernel**2


_KINDS = (
    _Kind("sums", "epilogue"),
    _Kind("scale and bias", "epilogue", scale=True, bias=True),
    _Kind("bypass and ReLU", "epilogue", bias=True, bypass=True, relu=True),
    _Kind("3x3 kernels", "distribution", kernel=3),
    _Kind("partial sums", "partial sums", scale=True, blocks=2),
)


@dataclass(frozen=True)
class _Shape:
    """Of a layer of the arithmetic: pixels of a tile, channels, and where its maps lie."""

    tile: tuple[int, int]
    channels: int
    outputs: int
    source: int
    target: int
    scratch: int


def _first(kind: _Kind, run: _Run, at: np.ndarray) -> str | None:
    return f"{kind.text}: {run.describe(int(at[0]))}" if at.size else None


def _exact_channels(number_format: Format, depth: int) -> tuple[int, float]:
    """How many powers of two, times which unit, can be summed with any signs and kept exactly."""
    for channels in range(min(8, depth), 0, -1):
        for unit in (1.0, float(number_format.decode(np.array([1], number_format.dtype))[0])):
            sums = unit * np.arange(1 - (1 << channels), 1 << channels, 2)
            if np.array_equal(number_format.decode(number_format.encode(sums)), sums):
                return channels, unit
    raise ValueError(f"{number_format.name} has not even two numbers")


def _bits(value: float, channels: int) -> int | None:
    """The signs in a sum of +-2^c, bit c for +; None where it is no such sum."""
    total = (value + (1 << channels) - 1) / 2
    return int(total) if 0 <= total < 1 << channels and total == int(total) else None
