"""Epilogue control: takes finished sums through scale, bias, bypass and ReLU while the next are summed."""

from itertools import pairwise

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ..config import ChipConfig
from .layouts import ADDRESS_BITS, EpilogueSlotLayout, OperationLayout


class EpilogueControl(wiring.Component):
    """One lane per cycle from the held sums to memory; every second cycle where the bypass is read as well.

    All in the time of issue: an operation that ends a sum issues in cycle t, the sum's K slots go in cycles
    t+1 to t+K, and the next sum may end in cycle t+K. A slot then goes down this pipeline:

    =======  ===================================================================
    stage    work
    =======  ===================================================================
    4        the tiles select the lane's held sum; the scale is looked up
    5        multiply; the bias is looked up; bypass or partial sum is read
    6        add bias
    7        add bypass, ReLU; or put the partial sum into the held register
    8        the result is written
    =======  ===================================================================

    Reads come in stage 5 and writes in stage 8, an odd distance, so with slots in every second cycle they
    never meet on the single port. After a sum whose next but one starts from a stored partial sum, that one
    is read into the held registers as soon as these are empty and the writes are done: 3 cycles after the
    last slot K reads follow, and 3 cycles later a sum may end again.

    Parameters
    ----------
    config : the chip

    Members
    -------
    begin : a layer's first operation issues; slots with bypass go an odd number of cycles later
    sum_ends, operation : an operation that ends a sum issues
    ready : it may
    scratch, pixels : partial sums of the layer in progress
    access, access_address : the memory access of the next cycle, for ``Issue``
    slot4 ... slot8 : slots in these stages
    release_parameters : a parameter set has been used up
    started : a slot enters
    layer_done : the layer's last result is in memory
    restart : parameter sets count from 0 again
    """

    def __init__(self, *, config: ChipConfig):
        self._config = config
        slot = EpilogueSlotLayout(config)
        super().__init__(
            {
                "begin": In(1),
                "sum_ends": In(1),
                "operation": In(OperationLayout(config)),
                "ready": Out(1),
                "scratch": In(ADDRESS_BITS),
                "pixels": In(16),
                "access": Out(1),
                "access_address": Out(ADDRESS_BITS),
                "slot4": Out(slot),
                "slot5": Out(slot),
                "slot6": Out(slot),
                "slot7": Out(slot),
                "slot8": Out(slot),
                "release_parameters": Out(1),
                "started": Out(1),
                "layer_done": Out(1),
                "restart": In(1),
            }
        )

    @property
    def write_latency(self) -> int:
        """Cycles from a slot to the write of its result."""
        return 8

    def elaborate(self, platform) -> Module:
        m = Module()
        slot = Signal(EpilogueSlotLayout(self._config))
        self._slots(m, slot)

        stages = [slot]
        for stage in range(1, 9):
            stages.append(Signal(EpilogueSlotLayout(self._config), name=f"stage{stage}"))
        m.d.sync += [later.eq(earlier) for earlier, later in pairwise(stages)]
        m.d.comb += [
            self.slot4.eq(stages[4]),
            self.slot5.eq(stages[5]),
            self.slot6.eq(stages[6]),
            self.slot7.eq(stages[7]),
            self.slot8.eq(stages[8]),
            self.started.eq(slot.valid),
            self.release_parameters.eq(stages[6].valid & stages[6].release_parameters),
        ]
        m.d.sync += self.layer_done.eq(stages[8].valid & stages[8].layer_last)

        # What stages 5 and 8 will access in the next cycle; they never do both.
        reads_next = stages[4].preload | (stages[4].valid & stages[4].bypass)
        m.d.comb += [
            self.access.eq(reads_next | stages[7].valid),
            self.access_address.eq(Mux(reads_next, stages[4].read_address, stages[7].write_address)),
        ]
        return m

    def _slots(self, m: Module, slot) -> None:
        """The state machine that gives the slots of one pixel after another."""
        lanes = self._config.lanes
        job = Signal(OperationLayout(self._config))
        count = Signal(bits_for(max(lanes, 4)))  # slots or cycles gone by in this state
        phase = Signal()
        parameter_set = Signal()
        stored = Signal(ADDRESS_BITS)  # words of partial sums read so far in this pass
        stored_pixels = Signal(16)
        last_lane = count == job.lanes - 1
        fires = Signal()  # a slot of a finished sum goes now
        m.d.sync += phase.eq(~phase & ~self.begin)
        m.d.comb += [
            slot.lane.eq(count),
            slot.write_address.eq(job.result + count),
            slot.scale.eq(job.scale),
            slot.bias.eq(job.bias),
            slot.bypass.eq(job.bypass),
            slot.relu.eq(job.relu),
            slot.parameters.eq(parameter_set),
            slot.rows.eq(job.rows),
            slot.cols.eq(job.cols),
            slot.read_address.eq(job.bypass_address + count),
        ]

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.ready.eq(1)
                with m.If(self.sum_ends):
                    m.next = "DRAIN"

            with m.State("DRAIN"):
                m.d.comb += [
                    fires.eq(~job.bypass | ~phase),
                    slot.valid.eq(fires),
                    slot.release_parameters.eq(last_lane & job.block_last & (job.scale | job.bias)),
                    slot.layer_last.eq(last_lane & job.layer_last),
                    self.ready.eq(fires & last_lane & ~job.preload),
                ]
                with m.If(fires):
                    m.d.sync += count.eq(count + 1)
                    with m.If(last_lane):
                        m.d.sync += [
                            count.eq(0),
                            parameter_set.eq(parameter_set ^ slot.release_parameters),
                        ]
                        with m.If(job.preload):
                            m.next = "FLUSH"
                        with m.Elif(~self.sum_ends):
                            m.next = "IDLE"

            with m.State("FLUSH"):  # the last partial sum may be the first to be read again
                m.d.sync += count.eq(count + 1)
                with m.If(count == 2):
                    m.d.sync += count.eq(0)
                    m.next = "PRELOAD"

            with m.State("PRELOAD"):
                m.d.comb += [slot.preload.eq(1), slot.read_address.eq(self.scratch + stored + count)]
                m.d.sync += count.eq(count + 1)
                with m.If(last_lane):
                    m.d.sync += [count.eq(0), stored.eq(stored + lanes), stored_pixels.eq(stored_pixels + 1)]
                    with m.If(stored_pixels == self.pixels - 1):
                        m.d.sync += [stored.eq(0), stored_pixels.eq(0)]
                    m.next = "SETTLE"

            with m.State("SETTLE"):  # until the held registers have the last word
                m.d.sync += count.eq(count + 1)
                with m.If(count == 2):
                    m.d.sync += count.eq(0)
                    m.next = "IDLE"

        with m.If(self.sum_ends):
            m.d.sync += job.eq(self.operation)
        with m.If(self.restart):
            m.d.sync += parameter_set.eq(0)
