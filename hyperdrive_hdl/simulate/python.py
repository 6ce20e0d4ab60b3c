"""Simulation by Amaranth's own simulator: slow, nothing to compile."""

from pathlib import Path

import numpy as np
from amaranth.hdl import Fragment
from amaranth.sim import Simulator

from ..config import ChipConfig
from ..rtl.chip import Chip
from ..rtl.hierarchy import ComponentRecord
from .backend import Backend, Counters, Event, Stimulus
from .stalls import StallPattern


class PysimBackend(Backend):
    """A chip in Amaranth's Python simulator. The driver does, step by step, what cxx/driver.h does."""

    name = "pysim"

    def __init__(self, config: ChipConfig, *, vcd: Path | None = None):
        super().__init__(config, vcd=vcd)
        self._waveform = None

    def start(self, stimulus: Stimulus) -> None:
        self.close()
        self._stimulus = stimulus
        self._counters = Counters()
        self._outputs: list[int] = []
        self._event = Event.RUNNING
        self._image = np.zeros(
            (self.config.tile_rows, self.config.tile_cols, self.config.fmm_words_per_tile), np.uint16
        )
        self._chip = Chip(config=self.config)
        record = ComponentRecord()
        self._simulator = Simulator(Fragment.get(self._chip, record))
        self._cells = {
            (bank, row): record.components[f"bank{bank}_row{row}"].cells
            for bank in range(self.config.fmm_banks)
            for row in range(self.config.tile_rows)
        }
        self._simulator.add_clock(1e-9)
        self._simulator.add_testbench(self._drive)
        if self.vcd:
            self._waveform = self._simulator.write_vcd(str(self.vcd))
            self._waveform.__enter__()

    def run(self, cycles: int) -> Event:
        self._event = Event.RUNNING
        end = self._counters.cycles + cycles
        while self._event is Event.RUNNING and self._counters.cycles < end:
            self._simulator.advance()
        return self._event

    def counters(self) -> Counters:
        return Counters(**vars(self._counters))

    def outputs(self) -> np.ndarray:
        return np.array(self._outputs, np.uint16)

    def memory(self) -> np.ndarray:
        return self._image

    def close(self) -> None:
        if self._waveform is not None:
            self._waveform.__exit__(None, None, None)
            self._waveform = None

    async def _drive(self, ctx) -> None:
        chip, stimulus = self._chip, self._stimulus
        stalls = [StallPattern(stimulus.stall_seed, stream) for stream in range(3)]
        sources = [
            _Source(chip.program, stimulus.program, stalls[0]),
            _Source(chip.fm_in, stimulus.fm_in, stalls[1]),
        ]
        ctx.set(chip.mesh_row, stimulus.mesh_row)
        ctx.set(chip.mesh_col, stimulus.mesh_col)
        quiet = 0
        while True:
            for source in sources:
                source.offer(ctx)
            ready = not stalls[2].step()
            ctx.set(chip.fm_out.ready, ready)
            event, moved = self._account(ctx)
            for source in sources:
                moved |= source.transfer(ctx)
            if ctx.get(chip.fm_out.valid) and ready:
                moved = True
                if len(self._outputs) == stimulus.output_words:
                    event = Event.OVERRUN
                else:
                    self._outputs.append(ctx.get(chip.fm_out.payload))
            quiet = 0 if moved else quiet + 1
            if event is Event.RUNNING and quiet > stimulus.patience:
                event = Event.STUCK
            if event is Event.LAYER_DONE:
                self._image = self._read_memory(ctx)
            self._event = event
            await ctx.tick()

    def _account(self, ctx) -> tuple[Event, bool]:
        status, activity, counters = self._chip.status, self._chip.activity, self._counters
        computing, loading = ctx.get(activity.computing), ctx.get(activity.loading)
        storing, mac = ctx.get(activity.storing), ctx.get(activity.mac)
        epilogue, layer_done = ctx.get(activity.epilogue), ctx.get(status.layer_done)
        counters.cycles += 1
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
        if counters.error:
            event = Event.ERROR
        elif ctx.get(status.halted):
            event = Event.HALTED
        elif layer_done:
            event = Event.LAYER_DONE
        else:
            event = Event.RUNNING
        return event, bool(mac or epilogue)

    def _read_memory(self, ctx) -> np.ndarray:
        config = self.config
        mask = (1 << config.word_width) - 1
        image = np.empty(
            (config.tile_rows, config.tile_cols, config.fmm_banks, config.fmm_bank_depth), np.uint16
        )
        for (bank, row), cells in self._cells.items():
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

    def offer(self, ctx) -> None:
        held = self._stalls.step()
        self._offered = self._at < len(self._words) and (self._offered or not held)
        ctx.set(self._port.valid, self._offered)
        if self._offered:
            ctx.set(self._port.payload, int(self._words[self._at]))

    def transfer(self, ctx) -> bool:
        if not (self._offered and ctx.get(self._port.ready)):
            return False
        self._at += 1
        self._offered = False
        return True
