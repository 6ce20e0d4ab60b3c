"""Cycles of a chip program, exactly as the RTL takes them while no stream stalls; on a mesh, nearly.

The chip is three units that run beside each other, and a fetch that feeds them (isa.py). ``Clock`` keeps
when each of them has come how far, and has one method per packet, which times an instruction from what it
waits for. A convolution is timed sum by sum; only where its MACs read a bank that its epilogue accesses is
it timed operation by operation. tests/end_to_end compares all of it with the RTL, layer by layer. On a mesh,
a layer also waits for its input's border, whose exchange is estimated (perf/borders.py).
"""

from dataclasses import dataclass, field
from itertools import product

import numpy as np

from .. import isa
from ..compiler.ir import ChipProgram, PlacedLayer, PlacedTransfer
from ..config import ChipConfig, MeshConfig
from ..latencies import ISSUE_TO_ACCESS, latencies
from .banks import has_conflict, mac_addresses, mac_banks
from .borders import exchanged
from .transfers import Span, Traffic, TransferClock

# A descriptor that is taken gives its first sum so many cycles later (rtl/sums.py). The stages of the
# pipeline are in latencies.py.
DESCRIPTOR_TO_SUM = 4
SUM_TO_SUM = 2  # from a sum that is taken to the next that can be
# The place of a row that is freed may be written so many cycles later (rtl/weight_buffer.py).
FREED_TO_WRITE = 2


@dataclass(frozen=True)
class LayerTiming:
    """One layer of one image: cycles computing or turning around; from its first MAC until it is complete."""

    name: str
    image: int
    cycles: int
    begin: int
    end: int
    last: int  # cycle of the last operation; after it, only the epilogue works
    operations: int  # cycles in which the array takes a term, or a stored partial sum of a lane
    starved: int  # cycles in which nothing but a weight row is missing


@dataclass(frozen=True)
class ProgramTiming:
    """All cycles of a program; the counts mean what the keys of ``run --json`` mean."""

    cycles: int
    compute_cycles: int
    load_cycles: int
    store_cycles: int
    load_exposed: int
    store_exposed: int
    layers: tuple[LayerTiming, ...]
    loads: tuple[tuple[int, int], ...]  # first and last cycle of every load
    stores: tuple[tuple[int, int], ...]

    @property
    def idle_cycles(self) -> int:
        return self.cycles - self.compute_cycles - self.load_exposed - self.store_exposed


def program_timing(program: ChipProgram, images: int = 1) -> ProgramTiming:
    """Time a program that is streamed for a series of images to chip (0, 0) of its mesh."""
    return run_clock(program, images).timing()


def run_clock(program: ChipProgram, images: int = 1) -> "Clock":
    """The clock after the last word of such a stream: what each layer did when (perf/activity.py)."""
    clock = Clock(program.chip, program.mesh)
    clock.start(len(program.head))
    for image, index in program.sequence(images):
        step = program.steps[index]
        if isinstance(step, PlacedLayer):
            clock.conv(step, image)
        else:
            clock.transfer(step)
    clock.halt()
    return clock


@dataclass
class Layer:
    """A convolution on the clock: what later instructions may have to wait for."""

    name: str
    image: int
    conv: isa.Conv
    header: int  # cycle in which its header word was taken
    taken: int = 0  # the sequencer took the descriptor
    begin: int = 0  # first operation issued
    walked: int = 0  # the last sum left the loop nest, and the first operation issued
    end: int = 0  # ``layer_done``
    starved: int = 0  # cycles in which nothing but a weight row is missing
    issued: list[np.ndarray] = field(default_factory=list)  # cycles of the operations, sum by sum
    accesses: list[np.ndarray] = field(default_factory=list)  # cycles of the epilogue's memory accesses
    made: list[tuple[int, int]] = field(default_factory=list)  # pixel by pixel: cycle of the last word, lanes


class Clock:
    """When each unit of a chip has come how far. Cycle 0 takes the first program word."""

    def __init__(self, config: ChipConfig, mesh: MeshConfig | None = None):
        self.config = config
        self.mesh = mesh or MeshConfig()
        self.borders: dict[int, Layer | Span] = {}  # what made the map in each border slot
        self.fetch = -1  # cycle of the last word taken
        self.layers: list[Layer] = []
        self.transfers = TransferClock(config)
        self.latencies = latencies(config)
        self.sums = 0  # begun so far, over all layers
        self.first_turn = 0  # a cycle in which the first of the sums in turn has its turn
        self.row_releases: list[np.ndarray] = []  # when rows of the weight buffer were freed, block by block
        self.freeing = -1  # cycle in which the last row was freed
        self.set_releases: list[int] = []  # when parameter sets were

    # Packets, in stream order.

    def start(self, words: int) -> None:
        """The CONFIG packet."""
        self.fetch += words
        self.first_turn = self.fetch + 1

    def transfer(self, step: PlacedTransfer) -> None:
        """LOAD and STORE: the instruction waits in its unit; when it runs is settled once somebody asks."""
        header = max(self.fetch + 1, self.transfers.free(load=step.load))
        self.fetch = header + len(isa.TRANSFER_LAYOUT)
        convs_done = self._conv_fence(step.instruction.wait_convs)
        self.transfers.add(step.instruction, load=step.load, earliest=max(self.fetch + 1, convs_done))
        if step.instruction.exports:
            self.borders[step.instruction.export_slot] = self.transfers.loads[-1]

    def conv(self, step: PlacedLayer, image: int) -> None:
        """CONV with the PARAMS and WEIGHTS that follow it."""
        conv = step.instruction
        before = self.layers[-1] if self.layers else None
        header = max(self.fetch + 1, before.taken + 1 if before else 0)
        self.fetch = header + len(isa.CONV_LAYOUT)
        layer = Layer(name=step.conv.name, image=image, conv=conv, header=header)
        layer.taken = max(self.fetch + 1, before.walked + 1 if before else 0)
        begin = max(
            before.end if before else 0,
            self.transfers.fence(load=True, wait=conv.wait_loads) + self.latencies.fence,
            self.transfers.fence(load=False, wait=conv.wait_stores) + self.latencies.fence,
            self._border(conv.import_slot) if conv.imports else 0,
        )
        if before and conv.exports and before.conv.releases and before.conv.import_slot == conv.export_slot:
            begin = max(begin, before.end + 1)  # the slot is free then
        self.layers.append(layer)
        _Convolution(self, layer, begin).run()
        if conv.exports:
            self.borders[conv.export_slot] = layer

    def halt(self) -> None:
        """HALT: everything that runs is finished."""
        self.transfers.settle()
        ends = [layer.end + 1 for layer in self.layers[-1:]]
        ends += [span.end + 1 for span in self.transfers.spans]
        self.fetch = max([self.fetch + 1, *ends])

    # What instructions wait for.

    def _conv_fence(self, wait: int) -> int:
        """The first cycle in which all but the latest ``wait`` convolutions so far count as complete."""
        if wait == isa.NO_WAIT or wait >= len(self.layers):
            return 0
        return self.layers[len(self.layers) - 1 - wait].end + 1

    def _border(self, slot: int) -> int:
        """The first cycle in which the border in a slot is complete."""
        maker = self.borders[slot]
        if isinstance(maker, Layer):
            tile, cycles = (maker.conv.tile_h, maker.conv.tile_w), maker.made
            made = np.array([cycle for cycle, _ in cycles]).reshape(-1, maker.conv.pixels)
            lanes = np.array([count for _, count in cycles]).reshape(made.shape)[:, 0]
        else:
            transfer = maker.instruction
            tile = transfer.tile_h, transfer.tile_w
            y, x = np.divmod(np.arange(transfer.tile_h * transfer.tile_w), transfer.tile_w)
            later = (tile[0] - 1 - y) * self.config.tile_cols * tile[1] + tile[1] - 1 - x
            made = (maker.end - later * transfer.channels)[None]
            lanes = np.array([transfer.channels])
        return exchanged(made, lanes, tile, self.config, self.mesh)

    def take_parameters(self, words: int) -> None:
        """A PARAMS packet: its header waits for a free set."""
        header = self.fetch + 1
        sets = 2 * self.config.sums_in_turn
        if len(self.set_releases) >= sets:
            header = max(header, self.set_releases[-sets] + 1)
        self.fetch = header + words

    def take_rows(self, rows: int) -> np.ndarray:
        """A WEIGHTS packet: the cycle in which each of its rows is written."""
        depth = self.config.wbuf_depth
        start = self.fetch + 2  # after the header
        earliest = np.full(rows, start, np.int64)
        missing = (
            sum(map(len, self.row_releases)) + rows - depth
        )  # rows that need a place freed by an earlier one
        if missing > 0:
            freed = np.concatenate(self.row_releases)
            first = max(0, missing - rows)
            earliest[rows - (missing - first) :] = np.maximum(start, freed[first:missing] + FREED_TO_WRITE)
        written = in_turn(earliest)
        self.fetch = int(written[-1])
        return written

    def freed(self) -> list[int]:
        """Cycles in which the rows so far were freed."""
        return [cycle for releases in self.row_releases for cycle in releases.tolist()]

    # Totals.

    def timing(self) -> ProgramTiming:
        """The counts, once the program has halted."""
        loads, stores = self.transfers.loads, self.transfers.stores
        total = self.fetch + 1
        computing = np.zeros(total, bool)
        transferring = np.zeros(total, bool)
        loading = np.zeros(total, bool)
        for span in self.transfers.spans:
            transferring[span.begin : span.end + 1] = True
        for span in loads:
            loading[span.begin : span.end + 1] = True
        storing = transferring & ~loading
        layers, last_end = [], -1
        for layer in self.layers:
            # Turning around, or waiting for the descriptor, counts as computing unless a transfer is the
            # reason.
            turn = slice(max(last_end, layer.header) + 1, layer.begin)
            computing[turn] = ~transferring[turn]
            computing[layer.begin : layer.end + 1] = True
            cycles = int(computing[last_end + 1 : layer.end + 1].sum())
            operations = sum(map(len, layer.issued))
            layers.append(
                LayerTiming(
                    name=layer.name,
                    image=layer.image,
                    cycles=cycles,
                    begin=layer.begin,
                    end=layer.end,
                    last=int(layer.issued[-1][-1]),
                    operations=operations,
                    starved=layer.starved,
                )
            )
            last_end = layer.end
        return ProgramTiming(
            cycles=total,
            compute_cycles=int(computing.sum()),
            load_cycles=sum(span.cycles for span in loads),
            store_cycles=sum(span.cycles for span in stores),
            load_exposed=int((loading & ~computing).sum()),
            store_exposed=int((storing & ~computing).sum()),
            layers=tuple(layers),
            loads=tuple((span.begin, span.end) for span in loads),
            stores=tuple((span.begin, span.end) for span in stores),
        )


def in_turn(earliest: np.ndarray) -> np.ndarray:
    """Cycles of events that come one per cycle, in order, each no earlier than given."""
    steps = np.arange(len(earliest))
    return np.maximum.accumulate(earliest - steps) + steps


@dataclass(eq=False)
class _Sum:
    """A sum on the clock, the ``index``th over all layers: when its operations issued."""

    index: int
    taken: int  # cycle in which it was taken into the ring
    offered: int  # its first operation is offered there
    entered: int  # its last one is at its place, which lets the next sum in
    issued: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    stored: int = 0  # its last word is written


@dataclass
class _Convolution:
    """Times one layer: its blocks of output FMs, of input channels, and its pixels."""

    clock: Clock
    layer: Layer
    begin: int  # the first operation may issue
    begun: int | None = None  # it did
    ready: int = 0  # the next sum may end
    sums: list[_Sum] = field(default_factory=list)
    reads: list[tuple[int, int, int, int]] = field(default_factory=list)  # of a sum, see ``_banks``
    accesses: list[np.ndarray] = field(default_factory=list)  # cycles of the epilogue's memory accesses
    blocked: dict[int, int] = field(default_factory=dict)  # issue cycle -> bank that the epilogue has then
    recent: list[int] = field(default_factory=lambda: [0] * 3)  # cycles of the last operations

    def __post_init__(self) -> None:
        self.conv = self.layer.conv
        self.conflicts = has_conflict(self.conv, self.clock.config)
        self.turns = self.clock.config.sums_in_turn
        self.queued = self.turns == 1 and self.clock.config.memory_latency > 1  # rtl/terms.py
        self.parts = self.clock.config.number_format.words_per_sum

    def run(self) -> None:
        conv, clock = self.conv, self.clock
        lanes = clock.config.lanes
        last_slots = [0]
        for group in range(conv.groups):
            first_channel = group * ((conv.out_blocks - 1) * lanes + conv.last_lanes)
            for blocks in conv.blocks_together():
                for _ in blocks:
                    if conv.has_params:
                        clock.take_parameters(lanes * (conv.scale + conv.bias))
                if len(blocks) > 1:
                    last_slots = self._alternating(group, blocks, first_channel)
                else:
                    last_slots = [self._block(group, blocks.start, first_channel)]
                if conv.has_params:
                    clock.set_releases += [slot + clock.latencies.release for slot in last_slots]
        layer = self.layer
        layer.begin = int(self.sums[0].issued[0])
        layer.end = last_slots[-1] + clock.latencies.done
        layer.issued = [sum.issued for sum in self.sums]
        layer.accesses = self.accesses
        shown = self.sums[-2].taken + SUM_TO_SUM if len(self.sums) > 1 else layer.taken + DESCRIPTOR_TO_SUM
        layer.walked = max(shown - 1, layer.begin)
        clock.transfers.add_traffic(
            Traffic(layer.end, self.accesses, mac_banks(conv, clock.config), self._mac_reads)
        )

    def _block(self, group: int, block: int, first_channel: int) -> int:
        """One block of output FMs, over all blocks of input channels and pixels; its last slot."""
        conv, clock = self.conv, self.clock
        lanes = conv.lanes_of_block(block, clock.config.lanes)
        offset = first_channel + block * clock.config.lanes
        last_slot = 0
        for in_block in range(conv.in_blocks):
            rows = conv.channels_of_block(in_block) * conv.taps
            written = clock.take_rows(rows)
            free_from = clock.freeing + 1
            before = None  # the sum that the next one may not overtake
            for pixel in range(conv.pixels):
                self.reads.append((group, in_block, pixel, lanes if in_block else 0))
                before = self._sum(written, before)
                last_slot = self._epilogue(before, pixel, lanes, offset, in_block < conv.in_blocks - 1)
            # The last sum frees the rows, one by one, once the block is the oldest in use.
            last = self.sums[-1]
            clock.row_releases.append(np.maximum(last.issued[-rows:], self._turn(free_from, last)))
            clock.freeing = int(last.issued[-1])
        return last_slot

    def _alternating(self, group: int, blocks: range, first_channel: int) -> list[int]:
        """Blocks of output FMs whose rows alternate, with one sum each; their last slots."""
        conv, clock = self.conv, self.clock
        count, rows, first = len(blocks), conv.group_channels * conv.taps, len(self.sums)
        sums = [self._begin_sum() for _ in blocks]
        for sum in sums:
            sum.issued = np.empty(rows, np.int64)
            self.reads.append((group, 0, 0, 0))
        free_from = self._turn(clock.freeing + 1, sums[-1])
        freed = clock.freed()
        known = len(freed)
        banks = self._banks(first).tolist()
        last_slots = []
        for row, (index, sum) in product(range(rows), enumerate(sums)):
            word = row * count + index
            # There are as many packets as blocks, all of one length.
            clock.fetch += 2 if word % rows == 0 else 1
            place = known + word - clock.config.wbuf_depth
            if place >= 0:
                clock.fetch = max(clock.fetch, freed[place] + FREED_TO_WRITE)
            last = row == rows - 1
            earliest = self._first_turn(sum) if row == 0 else int(sum.issued[row - 1]) + self.turns
            if last:
                earliest = max(earliest, self._end_turn(first + index))
            offered = self._turn(earliest, sum)
            there = self._turn(clock.fetch + 1, sum)
            self.layer.starved += max(0, there - offered) // self.turns
            before = int(sums[index - 1].issued[row]) + 1 if index else 0
            now = self._turn(max(offered, there, before), sum)
            while self.conflicts and self.blocked.get(now) == banks[row]:
                now += self.turns
            sum.issued[row] = now
            if self.begun is None:
                self.begun = now
            if row == rows - 2:
                sum.entered = now
            if last:
                lanes = conv.lanes_of_block(blocks[index], clock.config.lanes)
                offset = first_channel + blocks[index] * clock.config.lanes
                last_slots.append(self._epilogue(sum, 0, lanes, offset, partial=False))
            if index == count - 1:
                freed += [max(now, free_from)] * count
        clock.row_releases.append(np.array(freed[known:]))
        clock.freeing = int(sums[-1].issued[-1])
        return last_slots

    # A sum's operations.

    def _turn(self, cycle: int | np.ndarray, sum: _Sum) -> int | np.ndarray:
        """The sum's first turn that is no earlier."""
        return cycle + (self.clock.first_turn + sum.index - cycle) % self.turns

    def _begin_sum(self) -> _Sum:
        """Take the next sum into the ring."""
        number, turns = len(self.sums), self.turns
        place = self.sums[number - turns] if number >= turns else None  # which had its place before
        shown = self.sums[-1].taken + SUM_TO_SUM if number else self.layer.taken + DESCRIPTOR_TO_SUM
        sum = _Sum(self.clock.sums, 0, 0, 0)
        late = int(turns > 1)  # a sum goes on in the cycle after its turn
        turn = self._turn(max(shown - late, place.entered if place else 0), sum)
        sum.taken = turn + late
        issued = int(place.issued[-1]) if place else 0
        if self.queued:
            sum.entered = max(turn, self.recent[-2]) + 1
            sum.offered = max(sum.entered, issued) + 1
        else:
            sum.entered = max(turn + turns, issued)
            sum.offered = sum.entered + turns
        self.sums.append(sum)
        self.clock.sums += 1
        return sum

    def _first_turn(self, sum: _Sum) -> int:
        """The first operation of a sum may issue, but for its weight row or stored partial sum."""
        return max(sum.offered, self.begin if self.begun is None else self.begun + 1)

    def _end_turn(self, number: int) -> int:
        """The last one of the layer's ``number``th sum may."""
        return max(self.ready, int(self.sums[number - 1].issued[-1]) + 1 if number else 0)

    def _sum(self, written: np.ndarray, before: _Sum | None) -> _Sum:
        """Issue the next sum, whose weight rows are ``written`` then, behind the one ``before``."""
        number, rows = len(self.sums), len(written)
        restores = self.reads[-1][3] * self.parts
        sum = self._begin_sum()
        earliest = np.full(restores + rows, self._first_turn(sum), np.int64)
        if restores:
            earliest[0] = max(earliest[0], self.sums[number - self.conv.pixels].stored + 1)
        earliest[-1] = max(earliest[-1], self._end_turn(number))
        offered = earliest.copy()
        earliest[restores:] = np.maximum(earliest[restores:], written + 1)
        if before:
            earliest[restores:] = np.maximum(earliest[restores:], before.issued[-rows:] + 1)
        sum.issued = self._issue(self._turn(earliest, sum), number)
        if self.queued:
            self.recent = [*self.recent, *sum.issued[-3:].tolist()][-3:]
            sum.entered = max(sum.entered + len(sum.issued) - 1, self.recent[-3] + 1)
        elif len(sum.issued) > 1:
            sum.entered = int(sum.issued[-2])
        if self.begun is None:
            self.begun = int(sum.issued[0])
        offered[1:] = np.maximum(offered[1:], sum.issued[:-1] + self.turns)
        missed = self._turn(written + 1, sum) - self._turn(offered[restores:], sum)
        self.layer.starved += int(np.maximum(missed, 0).sum()) // self.turns
        return sum

    def _issue(self, earliest: np.ndarray, number: int) -> np.ndarray:
        """Cycles in which the operations of one sum issue; ``earliest`` are turns of it."""
        if not self.conflicts:
            start = int(earliest[0])
            return start + in_turn((earliest - start) // self.turns) * self.turns
        times = np.empty_like(earliest)
        now = int(earliest[0]) - self.turns
        for i, bank in enumerate(self._banks(number).tolist()):
            now = max(now + self.turns, int(earliest[i]))
            while self.blocked.get(now) == bank:
                now += self.turns
            times[i] = now
        return times

    def _banks(self, number: int) -> np.ndarray:
        """Banks that the operations of a sum read: the partial sums of some lanes, then its terms."""
        conv, config = self.conv, self.clock.config
        group, in_block, pixel, lanes = self.reads[number]
        addresses = mac_addresses(conv, group, in_block, pixel)
        if lanes:
            words = pixel * config.lanes * self.parts + np.arange(lanes * self.parts)
            addresses = np.concatenate([conv.scratch_base + words, addresses])
        return addresses // config.fmm_bank_depth

    def _mac_reads(self) -> tuple[np.ndarray, np.ndarray]:
        """Cycle and bank of every MAC read of the layer."""
        cycles = np.concatenate([sum.issued for sum in self.sums]) + ISSUE_TO_ACCESS
        return cycles, np.concatenate([self._banks(number) for number in range(len(self.sums))])

    # Its epilogue.

    def _epilogue(self, sum: _Sum, pixel: int, lanes: int, lane_offset: int, partial: bool) -> int:
        """The slots of a sum that has issued; the last of them."""
        conv, config, at = self.conv, self.clock.config, self.clock.latencies
        end = int(sum.issued[-1])
        bypass = bool(conv.bypass) and not partial
        # In layers with a bypass, slots go an odd number of cycles after the layer's begin.
        first = end + 1 + (bool(conv.bypass) and (end - self.begun) % 2)
        words = np.arange(lanes * self.parts if partial else lanes)
        slots = first + (2 if conv.bypass else 1) * words
        self.ready = last = int(slots[-1])
        sum.stored = last + at.write
        if not partial:
            self.layer.made.append((sum.stored, lanes))
        base = (
            conv.scratch_base + pixel * config.lanes * self.parts
            if partial
            else conv.out_base + pixel * conv.out_channels + lane_offset
        )
        accesses = [(slots + at.write, base + words)]
        if bypass:
            read = conv.bypass_base + pixel * conv.out_channels + lane_offset
            accesses.append((slots + at.read, read + words))
        for cycles, addresses in accesses:
            self.accesses.append(cycles)
            if self.conflicts:
                banks = addresses // config.fmm_bank_depth
                self.blocked.update(zip((cycles - ISSUE_TO_ACCESS).tolist(), banks.tolist(), strict=True))
        return last
