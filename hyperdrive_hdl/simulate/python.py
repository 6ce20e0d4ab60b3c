"""Simulation by Amaranth's own simulator: slow, nothing to compile. It does, step by step, what cxx/ does."""

from functools import partial
from pathlib import Path

import numpy as np
from amaranth.hdl import ClockSignal, Elaboratable, Fragment, Module, ResetInserter, Signal
from amaranth.sim import Simulator

from ..config import SOURCE, ChipConfig, MeshConfig
from ..isa import Side
from ..rtl.chip import Chip
from ..rtl.hierarchy import ComponentRecord
from .backend import Backend, ChipAction, Counters, Event, Place, Stimulus
from .stalls import STREAMS_PER_CHIP, Drift, StallPattern
from .wire import Beat, Wire

LINK_STREAM = 4  # number of the first link's random pattern
STEPS = {Side.NORTH: (-1, 0), Side.EAST: (0, 1), Side.SOUTH: (1, 0), Side.WEST: (0, -1)}


class PysimBackend(Backend):
    """Chips in Amaranth's Python simulator, all in one."""

    name = "pysim"

    def __init__(self, config: ChipConfig, *, mesh: MeshConfig | None = None, vcd: Path | None = None):
        super().__init__(config, mesh=mesh, vcd=vcd)
        self._waveform = None

    def start(self, stimulus: Stimulus) -> None:
        self.close()
        stimulus.check(self.mesh)
        self._patience = stimulus.patience
        self._cycle = 0
        self._untold: list[tuple[Event, Place]] = []  # of the last cycle, the first one last
        self._chips = {at: _ChipDriver(self.config, self.mesh, stimulus, at) for at in self.places}
        self._ends = [] if self.mesh.chips == 1 else list(self._wires(stimulus))
        self._simulator = Simulator(self._design())
        self._simulator.add_clock(1e-9)
        self._simulator.add_testbench(self._drive)
        if self.vcd:
            self._waveform = self._simulator.write_vcd(str(self.vcd))
            self._waveform.__enter__()

    def _design(self) -> Fragment:
        if self.mesh.chips == 1:
            return Fragment.get(self._chips[0, 0], None)
        m = Module()
        for (row, col), chip in self._chips.items():
            m.submodules[f"chip{row}_{col}"] = chip
        return Fragment.get(m, None)

    def _wires(self, stimulus: Stimulus):
        """Chip, side, the neighbour there, and the wire from it."""
        if not self.config.links:
            return
        for index, (row, col) in enumerate(self.places):
            for side, (down, right) in STEPS.items():
                neighbour = row + down, col + right
                if neighbour not in self._chips:
                    continue
                opposite = Side((side + 2) % 4)
                wire = Wire(
                    stimulus.link_latency,
                    Drift(stimulus.stall_seed, STREAMS_PER_CHIP * index + LINK_STREAM + side),
                    self.config.link_width,
                    [f for f in stimulus.link_faults if (f.chip, f.side) == (neighbour, opposite)],
                )
                yield self._chips[row, col], side, self._chips[neighbour], opposite, wire

    def run(self, cycles: int) -> Event:
        end = self._cycle + cycles
        while not self._untold and self._cycle < end:
            self._simulator.advance()
        if not self._untold:
            return Event.RUNNING
        event, self.chip = self._untold.pop()
        return event

    def chip_counters(self, chip: Place) -> Counters:
        return Counters(**vars(self._chips[chip].counters))

    def outputs(self, chip: Place = (0, 0)) -> np.ndarray:
        return np.array(self._chips[chip].outputs, np.uint16)

    def memory(self, chip: Place = (0, 0)) -> np.ndarray:
        return self._chips[chip].image

    def close(self) -> None:
        if self._waveform is not None:
            self._waveform.__exit__(None, None, None)
            self._waveform = None

    async def _drive(self, ctx) -> None:
        chips = self._chips.values()
        for chip in chips:
            chip.place(ctx)
        quiet = 0
        while True:
            for chip in chips:
                chip.offer(ctx, self._cycle)
            for chip in chips:
                chip.account(ctx)
            arrived = [
                (chip, side, wire.step(self._cycle, neighbour.sent(ctx, opposite)))
                for chip, side, neighbour, opposite, wire in self._ends
            ]
            self._cycle += 1
            quiet = 0 if any(chip.moved for chip in chips) else quiet + 1
            self._tell(quiet > self._patience)
            await ctx.tick()
            for chip, side, beat in arrived:
                chip.receive(ctx, side, beat)

    def _tell(self, stuck: bool) -> None:
        waiting = next((at for at, chip in self._chips.items() if not chip.halted), None)
        if waiting is None:
            self._untold.append((Event.HALTED, self.places[-1]))
        elif stuck:
            self._untold.append((Event.STUCK, waiting))
        for at in reversed(self.places):
            chip = self._chips[at]
            if chip.event is not Event.RUNNING:
                self._untold.append((chip.event, at))
            if waiting is None:
                chip.halted = False  # it may be given another program


class _ChipDriver(Elaboratable):
    """One chip: feeds its streams, counts its cycles, tells events."""

    def __init__(self, config: ChipConfig, mesh: MeshConfig, stimulus: Stimulus, at: Place):
        self.counters = Counters()
        self.outputs: list[int] = []
        self.image = np.zeros((config.tile_rows, config.tile_cols, config.fmm_words_per_tile), np.uint16)
        self.event = Event.RUNNING
        self.moved = self.halted = False
        self._config = config
        self._position = stimulus.mesh_row + at[0], stimulus.mesh_col + at[1]
        self._neighbours = mesh.neighbours(*at)
        self._output_words = stimulus.output_words[at]
        self._faults = [fault for fault in stimulus.chip_faults if fault.chip == at]
        self._chip = Chip(config=config)
        self._record = ComponentRecord()
        self._reset = Signal(name="reset_fault")
        number = STREAMS_PER_CHIP * (at[0] * mesh.cols + at[1])
        stalls = partial(StallPattern, stimulus.stall_seed)
        self._sources = [
            _Source(self._chip.program, stimulus.program, stalls(number)),
            _Source(self._chip.fm_in, stimulus.fm_in[at], stalls(number + 1)),
        ]
        self._stalls = stalls(number + 2)
        self._in_reset = self._ready = False

    def elaborate(self, platform) -> Fragment:
        if not self._faults and self._config.link_clock != SOURCE:
            return Fragment.get(self._chip, self._record)
        m = Module()
        m.submodules.chip = ResetInserter({"sync": self._reset})(self._chip)
        if self._config.link_clock == SOURCE:
            for side in Side:
                m.d.comb += self._link(side).rx.clock.eq(~ClockSignal())
        return Fragment.get(m, self._record)

    def place(self, ctx) -> None:
        """Tell the chip where it is."""
        ctx.set(self._chip.mesh_row, self._position[0])
        ctx.set(self._chip.mesh_col, self._position[1])
        if self._config.links:
            ctx.set(self._chip.neighbours, self._neighbours)

    def offer(self, ctx, cycle: int) -> None:
        """Set the inputs of a cycle."""
        now = {f.action for f in self._faults if f.cycle <= cycle < f.cycle + f.cycles}
        self._in_reset = ChipAction.RESET in now
        self.moved = bool(now)  # a fault from outside is not the chip's
        if self._faults:
            ctx.set(self._reset, self._in_reset)
        for source in self._sources:
            source.offer(ctx, held=bool(now), withdraw=self._in_reset)
        self._ready = not (self._stalls.step() or now)
        ctx.set(self._chip.fm_out.ready, self._ready)

    def account(self, ctx) -> None:
        """Look at the outputs of the cycle."""
        self.event = Event.RUNNING
        self.counters.cycles += not self.halted
        if self._in_reset:
            return
        chip, status = self._chip, self._chip.status
        layer_done = self._count(ctx)
        if self.counters.error:
            self.event = Event.ERROR
        elif layer_done:
            self.event = Event.LAYER_DONE
            self.image = self._read_memory(ctx)
        self.halted |= bool(ctx.get(status.halted))
        for source in self._sources:
            self.moved |= source.transfer(ctx)
        if ctx.get(chip.fm_out.valid) and self._ready:
            if len(self.outputs) == self._output_words:
                self.event = Event.OVERRUN
            else:
                self.outputs.append(ctx.get(chip.fm_out.payload))
                self.moved = True

    def sent(self, ctx, side: Side) -> Beat:
        """What the chip sends in this cycle."""
        link = self._link(side).tx
        return bool(ctx.get(link.valid)), ctx.get(link.data)

    def receive(self, ctx, side: Side, beat: Beat) -> None:
        """What arrives from the neighbour."""
        link = self._link(side).rx
        ctx.set(link.valid, beat[0])
        ctx.set(link.data, beat[1])

    def _link(self, side: Side):
        return getattr(self._chip, side.name.lower())

    def _count(self, ctx) -> bool:
        status, activity, counters = self._chip.status, self._chip.activity, self.counters
        mac, epilogue = ctx.get(activity.mac), ctx.get(activity.epilogue)
        layer_done = bool(ctx.get(status.layer_done))
        if not self.halted:
            computing, loading = ctx.get(activity.computing), ctx.get(activity.loading)
            storing = ctx.get(activity.storing)
            counters.computing += computing
            counters.loading += loading
            counters.storing += storing
            counters.load_exposed += loading and not computing
            counters.store_exposed += storing and not computing and not loading
            counters.mac += mac
            counters.starved += ctx.get(activity.starved)
            counters.epilogue += epilogue
            counters.layers += layer_done
        counters.error = ctx.get(status.error)
        self.moved |= bool(mac or epilogue)
        if self._config.links:
            words, beats = ctx.get(activity.border_words), ctx.get(activity.link_beats)
            counters.border_words += words
            counters.link_beats += beats
            counters.side = ctx.get(status.side)
            counters.fault = ctx.get(status.fault)
            self.moved |= bool(words or beats)
        return layer_done

    def _read_memory(self, ctx) -> np.ndarray:
        config = self._config
        mask = (1 << config.word_width) - 1
        image = np.empty(
            (config.tile_rows, config.tile_cols, config.fmm_banks, config.fmm_bank_depth), np.uint16
        )
        for bank in range(config.fmm_banks):
            for row in range(config.tile_rows):
                cells = self._record.components[f"bank{bank}_row{row}"].cells
                for address in range(config.fmm_bank_depth):
                    line = ctx.get(cells[address])
                    for col in range(config.tile_cols):
                        image[row, col, bank, address] = line >> (config.word_width * col) & mask
        return image.reshape(config.tile_rows, config.tile_cols, config.fmm_words_per_tile)


class _Source:
    """Feeds a stream from an array; holds an offered word until it is taken."""

    def __init__(self, port, words: np.ndarray, stalls: StallPattern):
        self._port = port
        self._words = words
        self._stalls = stalls
        self._at = 0
        self._offered = False

    def offer(self, ctx, *, held: bool, withdraw: bool) -> None:
        held |= self._stalls.step()
        self._offered = not withdraw and self._at < len(self._words) and (self._offered or not held)
        ctx.set(self._port.valid, self._offered)
        if self._offered:
            ctx.set(self._port.payload, int(self._words[self._at]))

    def transfer(self, ctx) -> bool:
        if not (self._offered and ctx.get(self._port.ready)):
            return False
        self._at += 1
        self._offered = False
        return True
