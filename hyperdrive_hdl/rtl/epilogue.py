"""Epilogue control: takes finished sums through scale, bias, bypass and ReLU while the next are summed."""

from itertools import pairwise

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ..config import ChipConfig
from ..latencies import PARAMETER_LOOKUP, latencies
from .hierarchy import instantiate
from .layouts import ADDRESS_BITS, EpilogueSlotLayout, FinishLayout, parameter_sets
from .registers import DelayLine, delayed


class EpilogueControl(wiring.Component):
    """One lane per cycle from the held sums to memory; every second cycle in layers that also read a bypass.

    All in the time of issue: an operation that ends a sum issues in cycle t, the sum's K slots go in cycles
    t+1 to t+K, and the next sum may end in cycle t+K. A partial sum that is wider than a word of memory takes
    as many slots per lane as words. Slots then go down a pipeline whose stages are in latencies.py: the tiles
    select the lane's held sum, (complete and round an exact one,) multiply it by the scale, add the bias, add
    the bypass, which was read in the meantime, and write the result.

    Parameters
    ----------
    config : the chip

    Members
    -------
    begin : a layer's first operation issues; slots with bypass go an odd number of cycles later
    sum_ends, finish : an operation that ends a sum issues
    ready : it may
    access, access_address : the memory access of the next cycle, for ``Issue``
    address : of the access in this cycle
    scale_lookup, bias_lookup : slots whose parameter is looked up
    select, multiply, bias, bypass, store : slots in these stages, in the last of several, for the tiles
    read, write : slots whose memory is accessed
    release_parameters : a parameter set has been used up
    started : a slot enters
    sum_done : a sum's last word is written; ``pixel_done`` if it is finished, no partial one
    layer_done : the layer's last result is in memory
    restart : parameter sets count from 0 again
    """

    def __init__(self, *, config: ChipConfig):
        self._config = config
        self._latencies = latencies(config)
        slot = Out(EpilogueSlotLayout(config))
        super().__init__(
            {
                "begin": In(1),
                "sum_ends": In(1),
                "finish": In(FinishLayout(config)),
                "ready": Out(1, init=1),
                "access": Out(1),
                "access_address": Out(ADDRESS_BITS),
                "address": Out(ADDRESS_BITS),
                "scale_lookup": slot,
                "bias_lookup": slot,
                "select": slot,
                "multiply": slot,
                "bias": slot,
                "bypass": slot,
                "store": slot,
                "read": slot,
                "write": slot,
                "release_parameters": Out(1),
                "started": Out(1),
                "sum_done": Out(1),
                "pixel_done": Out(1),
                "layer_done": Out(1),
                "restart": In(1),
            }
        )

    @property
    def write_latency(self) -> int:
        """Cycles from a slot to the write of its result."""
        return self._latencies.write

    def elaborate(self, platform) -> Module:
        m = Module()
        slot = Signal(EpilogueSlotLayout(self._config))
        bypass_address = Signal(ADDRESS_BITS)
        write_address = Signal(ADDRESS_BITS)
        self._slots(m, slot, bypass_address, write_address)

        def later(name: str, value: Value, cycles: int) -> Value:
            if cycles < 2:
                return delayed(m, value, cycles, name=name)
            line = instantiate(m, platform, name, DelayLine, width=len(value), cycles=cycles)
            m.d.comb += line.value.eq(value)
            return line.later

        at = self._latencies
        last_stage = at.unit_stages - 1 - at.broadcast  # as it leaves for the tiles
        first_stage = -at.broadcast
        # Until a slot is selected nothing but its ``valid`` counts, and a read of its bypass.
        first = min(at.select + first_stage, at.read - 2, at.multiply + first_stage - PARAMETER_LOOKUP)
        stages = [slot]
        for stage in range(1, at.write + 1):
            stages.append(Signal(EpilogueSlotLayout(self._config), name=f"stage{stage}"))
        for stage, (earlier, present) in enumerate(pairwise(stages), 1):
            if stage > first:
                m.d.sync += present.eq(earlier)
            else:
                valid = Signal(name=f"valid{stage}")
                m.d.sync += valid.eq(earlier.valid)
                if stage == first:
                    m.d.comb += present.eq(later("slots", Value.cast(slot), first))
                m.d.comb += present.valid.eq(valid)
        m.d.comb += [
            self.select.eq(stages[at.select + first_stage]),
            self.scale_lookup.eq(stages[at.multiply + first_stage - PARAMETER_LOOKUP]),
            self.multiply.eq(stages[at.multiply + last_stage]),
            self.bias_lookup.eq(stages[at.bias + first_stage - PARAMETER_LOOKUP]),
            self.bias.eq(stages[at.bias + last_stage]),
            self.bypass.eq(stages[at.bypass + last_stage]),
            self.store.eq(stages[at.write + first_stage - 1]),
            self.read.eq(stages[at.read]),
            self.write.eq(stages[at.write]),
            self.started.eq(slot.valid),
            self.release_parameters.eq(stages[at.release].valid & stages[at.release].release_parameters),
            self.sum_done.eq(self.write.valid & self.write.sum_last),
            self.pixel_done.eq(self.sum_done & ~self.write.partial),
        ]
        layer_last = self.write.valid & self.write.layer_last
        m.d.sync += self.layer_done.eq(
            delayed(m, layer_last, at.done - at.write - 1, name="layer_last", init=0)
        )

        # What is accessed in the cycle after the next, never both; in registers, since ``Issue`` has much to
        # decide from it.
        read, write = stages[at.read - 2], stages[at.write - 2]
        reads = read.valid & read.bypass
        m.d.sync += [
            self.access.eq(reads | write.valid),
            self.access_address.eq(
                Mux(
                    reads,
                    later("bypass_addresses", bypass_address, at.read - 2),
                    later("write_addresses", write_address, at.write - 2),
                )
            ),
        ]
        m.d.sync += self.address.eq(self.access_address)
        return m

    def _slots(self, m: Module, slot, bypass_address: Signal, write_address: Signal) -> None:
        """The slots of one finished sum after another."""
        parts = self._config.number_format.words_per_sum
        sets = parameter_sets(self._config)
        job = Signal(FinishLayout(self._config))
        working = Signal()
        lane = Signal.like(slot.lane)
        part = Signal.like(slot.part)
        offset = Signal(bits_for(max(1, self._config.lanes * parts - 1)))  # of the word from lane 0's first
        phase = Signal()
        parameter_set = Signal.like(slot.parameters)
        last_part = Signal()
        last_slot = Signal()
        fires = Signal()
        next_phase = Signal()
        m.d.comb += next_phase.eq(~phase & ~self.begin)
        m.d.sync += phase.eq(next_phase)
        m.d.comb += [
            fires.eq(working & (~job.paced | ~phase)),
            last_part.eq(~job.partial | (part == parts - 1)),
            last_slot.eq(last_part & (lane == job.lanes - 1)),
            slot.valid.eq(fires),
            slot.lane.eq(lane),
            slot.part.eq(part),
            write_address.eq(job.result + offset),
            bypass_address.eq(job.bypass_address + offset),
            slot.partial.eq(job.partial),
            slot.scale.eq(job.scale),
            slot.bias.eq(job.bias),
            slot.bypass.eq(job.bypass),
            slot.relu.eq(job.relu),
            slot.parameters.eq(parameter_set),
            slot.release_parameters.eq(last_slot & job.block_last & (job.scale | job.bias)),
            slot.sum_last.eq(last_slot),
            slot.layer_last.eq(last_slot & job.layer_last),
            slot.rows.eq(job.rows),
            slot.cols.eq(job.cols),
        ]
        with m.If(fires):
            m.d.sync += [
                offset.eq(offset + 1),
                part.eq(Mux(last_part, 0, part + 1)),
                lane.eq(lane + last_part),
            ]
            with m.If(slot.release_parameters):
                m.d.sync += parameter_set.eq(Mux(parameter_set == sets - 1, 0, parameter_set + 1))
            with m.If(last_slot):
                m.d.sync += [working.eq(0), offset.eq(0), lane.eq(0)]
        with m.If(self.sum_ends):
            m.d.sync += working.eq(1)
        with m.If(self.ready):
            m.d.sync += job.eq(self.finish)

        # ``ready`` is worked out a cycle ahead, from the present sum or the one that ends now.
        next_lane = lane + (fires & last_part)
        next_part = Mux(fires, Mux(last_part, 0, part + 1), part)
        last_next = (next_lane == job.lanes - 1) & (~job.partial | (next_part == parts - 1))
        single = (self.finish.lanes == 1) & (1 if parts == 1 else ~self.finish.partial)
        with m.If(self.sum_ends):
            m.d.sync += self.ready.eq(single & ~(self.finish.paced & next_phase))
        with m.Else():
            m.d.sync += self.ready.eq(self.ready | (last_next & ~(job.paced & next_phase)))
        with m.If(self.restart):
            m.d.sync += parameter_set.eq(0)
