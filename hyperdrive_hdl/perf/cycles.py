"""Cycles of a chip program, exactly as the RTL takes them while no stream stalls.

The chip is three units that run beside each other, and a fetch that feeds them (isa.py). ``Clock`` keeps
when each of them has come how far, and has one method per packet, which times an instruction from what it
waits for. A convolution is timed sum by sum; only where its input shares a bank with what its epilogue
accesses is it timed term by term. tests/end_to_end compares all of it with the RTL, layer by layer.
"""

from dataclasses import dataclass, field

import numpy as np

from .. import isa
from ..compiler.ir import ChipProgram, PlacedLayer, PlacedTransfer
from ..config import ChipConfig
from .banks import has_conflict, input_banks, mac_addresses
from .transfers import Traffic, TransferClock

# The pipeline of the chip (rtl/issue.py, rtl/epilogue.py, rtl/sequencer.py); a test holds them against the
# RTL.
DESCRIPTOR_TO_OPERATION = 3  # from a descriptor taken to its first operation at issue
ISSUE_TO_ACCESS = 1  # from an operation to its memory access
SLOT_TO_READ = 5  # from an epilogue slot to the read of its bypass or partial sum
SLOT_TO_RELEASE = 6  # to the release of its parameter set
SLOT_TO_WRITE = 8  # to the write of its result
SLOT_TO_DONE = 9  # from a layer's last slot to ``layer_done``
FLUSH = 3  # cycles between writing partial sums and reading them back
SETTLE = 3  # cycles after reading the last of them, before a sum may end that uses them
PARAMETER_SETS = 2


@dataclass(frozen=True)
class LayerTiming:
    """One layer of one image: cycles computing or turning around; from its first MAC until it is complete."""

    name: str
    image: int
    cycles: int
    begin: int
    end: int
    last: int  # cycle of the last operation; after it, only the epilogue works
    operations: int  # cycles in which the MACs work
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
    clock = Clock(program.chip)
    clock.fetch += len(program.head)
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
    walked: int = 0  # last operation left the loop nest
    end: int = 0  # ``layer_done``
    starved: int = 0  # cycles in which nothing but a weight row is missing
    issued: list[np.ndarray] = field(default_factory=list)  # cycles of the operations, sum by sum
    accesses: list[np.ndarray] = field(default_factory=list)  # cycles of the epilogue's memory accesses


class Clock:
    """When each unit of a chip has come how far. Cycle 0 takes the first program word."""

    def __init__(self, config: ChipConfig):
        self.config = config
        self.fetch = -1  # cycle of the last word taken
        self.layers: list[Layer] = []
        self.transfers = TransferClock(config)
        self.row_releases: list[np.ndarray] = []  # when rows of the weight buffer were freed, block by block
        self.set_releases: list[int] = []  # likewise parameter sets

    # Packets, in stream order.

    def transfer(self, step: PlacedTransfer) -> None:
        """LOAD and STORE: the instruction waits in its unit; when it runs is settled once somebody asks."""
        header = max(self.fetch + 1, self.transfers.free(load=step.load))
        self.fetch = header + len(isa.TRANSFER_LAYOUT)
        convs_done = self._conv_fence(step.instruction.wait_convs)
        self.transfers.add(step.instruction, load=step.load, earliest=max(self.fetch + 1, convs_done))

    def conv(self, step: PlacedLayer, image: int) -> None:
        """CONV with the PARAMS and WEIGHTS that follow it."""
        conv = step.instruction
        before = self.layers[-1] if self.layers else None
        header = max(self.fetch + 1, before.taken + 1 if before else 0)
        self.fetch = header + len(isa.CONV_LAYOUT)
        layer = Layer(name=step.conv.name, image=image, conv=conv, header=header)
        layer.taken = max(self.fetch + 1, before.walked + 1 if before else 0)
        begin = max(
            layer.taken + DESCRIPTOR_TO_OPERATION,
            before.end if before else 0,
            self.transfers.fence(load=True, wait=conv.wait_loads),
            self.transfers.fence(load=False, wait=conv.wait_stores),
        )
        self.layers.append(layer)
        _Convolution(self, layer, begin).run()

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

    def take_parameters(self, words: int) -> None:
        """A PARAMS packet: its header waits for a free set."""
        header = self.fetch + 1
        if len(self.set_releases) >= PARAMETER_SETS:
            header = max(header, self.set_releases[-PARAMETER_SETS] + 1)
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
            earliest[rows - (missing - first) :] = np.maximum(start, freed[first:missing] + 1)
        written = in_turn(earliest)
        self.fetch = int(written[-1])
        return written

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


def _starved(issued: np.ndarray, written: np.ndarray, before: int, ready: int) -> int:
    """Cycles in which the next operation lacks nothing but its weight row.

    ``before`` is the cycle of the operation before these; the last of them ends a sum, not before ``ready``.
    """
    turn = np.concatenate(([before], issued[:-1])) + 1
    turn[-1] = max(turn[-1], ready)
    return int(np.maximum(written + 1 - turn, 0).sum())


@dataclass
class _Convolution:
    """Times one layer: its blocks of output FMs, of input channels, and its pixels."""

    clock: Clock
    layer: Layer
    begin: int  # the first operation may issue
    ready: int = 0  # the next sum may end
    now: int = field(init=False)  # cycle of the last operation issued
    before_now: int = field(init=False)  # and of the one before
    sums: list[tuple[np.ndarray, int, int, int]] = field(default_factory=list)  # cycles, group, block, pixel
    accesses: list[np.ndarray] = field(default_factory=list)  # cycles of the epilogue's memory accesses
    blocked: dict[int, int] = field(default_factory=dict)  # issue cycle -> bank that the epilogue has then

    def __post_init__(self) -> None:
        self.now = self.before_now = self.begin - 1
        self.conv = self.layer.conv
        self.conflicts = has_conflict(self.conv, self.clock.config)

    def run(self) -> None:
        conv, clock = self.conv, self.clock
        lanes = clock.config.lanes
        operations = 0
        last_slot = 0
        self.layer.begin = -1
        for group in range(conv.groups):
            for out_block in range(conv.out_blocks):
                if conv.has_params:
                    clock.take_parameters(lanes * (conv.scale + conv.bias))
                out_lanes = conv.lanes_of_block(out_block, lanes)
                lane_offset = (
                    group * (conv.out_blocks - 1) * lanes + group * conv.last_lanes + out_block * lanes
                )
                for in_block in range(conv.in_blocks):
                    rows = conv.channels_of_block(in_block) * conv.taps
                    written = clock.take_rows(rows)
                    operations += rows * conv.pixels
                    last_slot = self._passes(group, in_block, rows, written, out_lanes, lane_offset)
                if conv.has_params:
                    clock.set_releases.append(last_slot + SLOT_TO_RELEASE)
        self.layer.end = last_slot + SLOT_TO_DONE
        self.layer.issued = [times for times, *_ in self.sums]
        self.layer.accesses = self.accesses
        self.layer.walked = (
            self.before_now if operations > 1 else self.layer.taken + DESCRIPTOR_TO_OPERATION - 1
        )
        clock.transfers.add_traffic(
            Traffic(self.layer.end, self.accesses, input_banks(conv, clock.config), self._mac_reads)
        )

    def _passes(
        self, group: int, in_block: int, rows: int, written: np.ndarray, lanes: int, lane_offset: int
    ) -> int:
        """One block of input channels over all pixels; the last epilogue slot that it leads to."""
        conv = self.conv
        single = conv.pixels == 1
        more = in_block < conv.in_blocks - 1
        last_slot = 0
        for pixel in range(conv.pixels):
            earliest = np.full(rows, self.now + 1, np.int64)
            if pixel == 0:
                earliest = np.maximum(earliest, written + 1)
            ends = not (single and more)
            before, ready = self.now, self.ready if ends else 0
            times = self._issue(earliest, group, in_block, pixel, ends)
            if pixel == 0:
                self.layer.starved += _starved(times, written, before, ready)
            if self.layer.begin < 0:
                self.layer.begin = int(times[0])
            self.before_now = int(times[-2]) if rows > 1 else self.now
            self.now = int(times[-1])
            self.sums.append((times, group, in_block, pixel))
            if pixel == conv.pixels - 1:
                self.clock.row_releases.append(times)
            if ends:
                ending = conv.pixels - pixel <= 2
                preload = not single and (more if ending else in_block > 0)
                last_slot = self._epilogue(pixel, lanes, lane_offset, partial=more, preload=preload)
        return last_slot

    def _issue(self, earliest: np.ndarray, group: int, in_block: int, pixel: int, ends: bool) -> np.ndarray:
        """Cycles in which the terms of one sum issue."""
        if ends and earliest[-1] < self.ready:
            earliest[-1] = self.ready
        if not self.conflicts:
            return in_turn(earliest)
        banks = mac_addresses(self.conv, group, in_block, pixel) // self.clock.config.fmm_bank_depth
        times = np.empty_like(earliest)
        now = self.now
        for i, bank in enumerate(banks):
            now = max(now + 1, int(earliest[i]))
            while self.blocked.get(now) == bank:
                now += 1
            times[i] = now
        return times

    def _mac_reads(self) -> tuple[np.ndarray, np.ndarray]:
        """Cycle and bank of every MAC read of the layer."""
        depth = self.clock.config.fmm_bank_depth
        cycles = np.concatenate([times for times, *_ in self.sums]) + ISSUE_TO_ACCESS
        addresses = [mac_addresses(self.conv, group, block, pixel) for _, group, block, pixel in self.sums]
        return cycles, np.concatenate(addresses) // depth

    def _epilogue(self, pixel: int, lanes: int, lane_offset: int, *, partial: bool, preload: bool) -> int:
        """The slots of the sum that ends now; the last of them."""
        conv = self.conv
        bypass = bool(conv.bypass) and not partial
        step = 2 if bypass else 1
        # With bypass, slots go an odd number of cycles after the layer's begin.
        first = self.now + 1 + (bypass and (self.now - self.layer.begin) % 2)
        slots = first + step * np.arange(lanes)
        last = int(slots[-1])
        self.accesses.append(slots + SLOT_TO_WRITE)
        if bypass:
            self.accesses.append(slots + SLOT_TO_READ)
        reads = last + FLUSH + 1 + np.arange(lanes)
        if preload:
            self.accesses.append(reads + SLOT_TO_READ)
        self.ready = int(reads[-1]) + SETTLE + 1 if preload else last
        if self.conflicts:
            self._block(
                pixel, slots, reads if preload else reads[:0], lane_offset, partial=partial, bypass=bypass
            )
        return last

    def _block(
        self,
        pixel: int,
        slots: np.ndarray,
        reads: np.ndarray,
        lane_offset: int,
        *,
        partial: bool,
        bypass: bool,
    ) -> None:
        """Note which bank the epilogue has in which cycle of issue."""
        conv, config = self.conv, self.clock.config
        lane = np.arange(len(slots))
        result = (
            conv.scratch_base + pixel * config.lanes
            if partial
            else conv.out_base + pixel * conv.out_channels + lane_offset
        )
        marks = [(slots + SLOT_TO_WRITE, result + lane)]
        if bypass:
            base = conv.bypass_base + pixel * conv.out_channels + lane_offset
            marks.append((slots + SLOT_TO_READ, base + lane))
        if len(reads):
            stored = (pixel + 2) % conv.pixels
            marks.append((reads + SLOT_TO_READ, conv.scratch_base + stored * config.lanes + lane))
        for cycles, addresses in marks:
            for cycle, address in zip(cycles.tolist(), addresses.tolist(), strict=True):
                self.blocked[cycle - ISSUE_TO_ACCESS] = address // config.fmm_bank_depth
