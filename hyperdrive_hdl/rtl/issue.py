"""Issue: starts each MAC operation in the first turn in which everything that it needs is there."""

from itertools import pairwise

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..config import ChipConfig
from ..latencies import DISTRIBUTION, latencies
from .layouts import ADDRESS_BITS, FENCE_BITS, OperationLayout, RingLayout, number_bits
from .registers import delayed


class Issue(wiring.Component):
    """Gates the operations and delays their control to the stages of the array.

    An operation waits to be eligible, which ``TermWalker`` tells; for its bank, where the epilogue accesses
    it in the same cycle; at a sum's end, for the epilogue to have taken the sum before; at a layer's start,
    for the fences and for the layer before to be complete in memory. One that waits has its next turn
    P cycles later. Nothing stalls after issue.

    =======  ==========================================================
    stage    work
    =======  ==========================================================
    0        ``go``: an operation issues
    1        feature-map memory and weight buffer are addressed
    1 + m    pixels through the data distribution; m: ``memory_latency``
    2 + m    the tiles take the term (``enable``)
    =======  ==========================================================

    Parameters
    ----------
    config : the chip

    Members
    -------
    valid, operation, eligible, starved : from ``Sequencer``
    go : the operation at hand issues in this cycle
    waits_for_row : it would, but for its weight row
    epilogue_ready : a sum may end now
    epilogue_access, epilogue_address : its memory access in the next cycle
    need_loads, need_stores, loads_done, stores_done : fences; in a chip for a high clock, of the cycle before
    border_ready : the border slots that the next layer needs are free or complete
    stop : nothing issues any more
    layer_done : the layer in progress is complete
    computing : a layer is in progress
    layer : layers completed since ``restart``
    mac_enable, mac_address : stage 1
    ring, ring_up, ring_down, ring_left, ring_right : stage 1, the neighbours' word (with links only)
    up, down, left, right : stage m
    enable, restore, ends : stage 2 + m: lanes that take the term; it is a stored partial sum; the sum's last
    """

    def __init__(self, *, config: ChipConfig):
        self._config = config
        ring = {}
        if config.links:
            ring = {f"ring_{way}": Out(1) for way in ("up", "down", "left", "right")}
            ring["ring"] = Out(RingLayout(config))
        super().__init__(
            {
                "valid": In(1),
                "operation": In(OperationLayout(config)),
                "eligible": In(1),
                "starved": In(1),
                "go": Out(1),
                "waits_for_row": Out(1),
                "epilogue_ready": In(1),
                "epilogue_access": In(1),
                "epilogue_address": In(ADDRESS_BITS),
                "need_loads": In(FENCE_BITS),
                "need_stores": In(FENCE_BITS),
                "loads_done": In(FENCE_BITS),
                "stores_done": In(FENCE_BITS),
                "border_ready": In(1),
                "stop": In(1),
                "layer_done": In(1),
                "computing": Out(1),
                "layer": Out(16),
                "restart": In(1),
                "mac_enable": Out(1),
                "mac_address": Out(ADDRESS_BITS),
                **ring,
                "up": Out(1),
                "down": Out(1),
                "left": Out(1),
                "right": Out(1),
                "enable": Out(config.lanes),
                "restore": Out(1),
                "ends": Out(1),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from ``go`` to ``enable``."""
        return latencies(self._config).term

    def elaborate(self, platform) -> Module:
        m = Module()
        op = self.operation
        bank = slice(ceil_log2(self._config.fmm_bank_depth), ADDRESS_BITS)

        alone = self._config.sums_in_turn == 1  # sums, and layers, are in order as they come
        in_layer = Signal()
        parity = Signal(init=1)  # of the layer in progress
        begins = Signal()
        ended = Signal(number_bits(self._config))  # number of the next sum to end
        in_order = Signal()
        conflict = Signal()
        allowed = Signal()
        fences = fence_passed(self.loads_done, self.need_loads) & fence_passed(
            self.stores_done, self.need_stores
        )
        passed = delayed(m, fences, latencies(self._config).fence, name="fences")
        m.d.comb += [
            begins.eq((~in_layer | self.layer_done) & passed & self.border_ready),
            in_order.eq(
                Mux(op.first, begins, alone | (op.layer == parity))
                & (~op.last | (self.epilogue_ready & (alone | (op.number == ended))))
            ),
            conflict.eq(self.epilogue_access & (op.address[bank] == self.epilogue_address[bank])),
            allowed.eq(self.valid & in_order & ~conflict & ~self.stop),
            self.go.eq(allowed & self.eligible),
            self.waits_for_row.eq(self.valid & in_order & self.starved),
            self.computing.eq(in_layer | (self.go & op.first)),
        ]
        with m.If(self.go & op.first):
            m.d.sync += [in_layer.eq(1), parity.eq(op.layer)]
        with m.Elif(self.layer_done):
            m.d.sync += in_layer.eq(0)
        m.d.sync += [
            ended.eq(ended + (self.go & op.last)),
            self.layer.eq(Mux(self.restart, 0, self.layer + self.layer_done)),
        ]

        # Control follows its operation down the pipeline.
        to_tiles = range(1, self.latency + 1)
        to_window = to_tiles[:-DISTRIBUTION]
        window = [Signal(4, name=f"window{stage}") for stage in to_window[:-1]]
        going = [Signal(name=f"going{stage}") for stage in to_window]
        ending = [Signal(name=f"ending{stage}") for stage in to_tiles]
        restoring = [Signal(name=f"restoring{stage}") for stage in to_tiles]
        complete = [Signal(name=f"complete{stage}") for stage in to_window]
        lane = [Signal.like(op.lane, name=f"lane{stage}") for stage in to_window]
        m.d.sync += [
            self.mac_address.eq(op.address),
            window[0].eq(Cat(op.up, op.down, op.left, op.right)),
            going[0].eq(self.go),
            ending[0].eq(self.go & op.last),
            restoring[0].eq(self.go & op.restore),
            complete[0].eq(op.complete),
            lane[0].eq(op.lane),
        ]
        if self._config.links:
            m.d.sync += self.ring.eq(op.ring)
            m.d.comb += Cat(self.ring_up, self.ring_down, self.ring_left, self.ring_right).eq(window[0])
        for stages in (window, going, ending, restoring, complete, lane):
            m.d.sync += [later.eq(earlier) for earlier, later in pairwise(stages)]
        for k in range(self._config.lanes):
            own = complete[-1] & (lane[-1] == k)
            m.d.sync += self.enable[k].eq(going[-1] & (~restoring[len(going) - 1] | own))
        m.d.comb += [
            self.mac_enable.eq(going[0]),
            Cat(self.up, self.down, self.left, self.right).eq(window[-1]),
            self.restore.eq(restoring[-1]),
            self.ends.eq(ending[-1]),
        ]
        return m


def fence_passed(done, needed):
    """``done`` of a unit's instructions are at least ``needed``, both modulo 2^FENCE_BITS."""
    return ~(done - needed)[FENCE_BITS - 1]
