"""Issue: starts each MAC operation in the first cycle in which everything that it needs is there."""

from itertools import pairwise

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..config import ChipConfig
from .layouts import ADDRESS_BITS, FENCE_BITS, OperationLayout


class Issue(wiring.Component):
    """Gates the operations and delays their control to the stages of the array.

    An operation waits for its weight row; for its bank, where the epilogue accesses it in the same cycle;
    at a sum's end, for the epilogue to have taken the sum before; at a layer's start, for the fences and
    for the layer before to be complete in memory. Nothing stalls after issue.

    =======  ==========================================================
    stage    work
    =======  ==========================================================
    0        ``go``: an operation issues; the weight buffer moves on
    1        feature-map memory and weight buffer are addressed
    2        pixels through the data distribution
    3        the TPUs take the term (``accumulate``)
    4        after a sum's last term: it moves aside (``swap``)
    =======  ==========================================================

    Parameters
    ----------
    config : the chip

    Members
    -------
    operations : from ``Sequencer``
    go : the operation at hand issues in this cycle
    row_available : weight buffer
    epilogue_ready : a sum may end now
    epilogue_access, epilogue_address : its memory access in the next cycle
    need_loads, need_stores, loads_done, stores_done : fences
    layer_done : the layer in progress is complete
    computing : a layer is in progress
    layer : layers completed since ``restart``
    mac_enable, mac_address : stage 1
    up, down, left, right : stage 2
    accumulate, swap, restore : stages 3 and 4
    """

    def __init__(self, *, config: ChipConfig):
        self._config = config
        super().__init__(
            {
                "operations": In(stream.Signature(OperationLayout(config))),
                "go": Out(1),
                "row_available": In(1),
                "starved": Out(1),
                "epilogue_ready": In(1),
                "epilogue_access": In(1),
                "epilogue_address": In(ADDRESS_BITS),
                "need_loads": In(FENCE_BITS),
                "need_stores": In(FENCE_BITS),
                "loads_done": In(FENCE_BITS),
                "stores_done": In(FENCE_BITS),
                "layer_done": In(1),
                "computing": Out(1),
                "layer": Out(16),
                "restart": In(1),
                "mac_enable": Out(1),
                "mac_address": Out(ADDRESS_BITS),
                "up": Out(1),
                "down": Out(1),
                "left": Out(1),
                "right": Out(1),
                "accumulate": Out(1),
                "swap": Out(1),
                "restore": Out(1),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from ``go`` to ``accumulate``."""
        return 3

    def elaborate(self, platform) -> Module:
        m = Module()
        op = self.operations.p
        bank = slice(ceil_log2(self._config.fmm_bank_depth), ADDRESS_BITS)

        in_layer = Signal()
        may_begin = Signal()
        conflict = Signal()
        allowed = Signal()
        m.d.comb += [
            may_begin.eq(
                (~in_layer | self.layer_done)
                & fence_passed(self.loads_done, self.need_loads)
                & fence_passed(self.stores_done, self.need_stores)
            ),
            conflict.eq(self.epilogue_access & (op.address[bank] == self.epilogue_address[bank])),
            allowed.eq(
                self.operations.valid & (~op.first | may_begin) & (~op.last | self.epilogue_ready) & ~conflict
            ),
            self.go.eq(allowed & self.row_available),
            self.starved.eq(allowed & ~self.row_available),
            self.operations.ready.eq(self.go),
            self.computing.eq(in_layer | (self.go & op.first)),
        ]
        with m.If(self.go & op.first):
            m.d.sync += in_layer.eq(1)
        with m.Elif(self.layer_done):
            m.d.sync += in_layer.eq(0)
        with m.If(self.restart):
            m.d.sync += self.layer.eq(0)
        with m.Elif(self.layer_done):
            m.d.sync += self.layer.eq(self.layer + 1)

        # Control follows its operation down the pipeline.
        window = [Signal(4, name=f"window{stage}") for stage in (1, 2)]
        going = [Signal(name=f"going{stage}") for stage in (1, 2, 3)]
        ending = [Signal(name=f"ending{stage}") for stage in (1, 2, 3, 4)]
        restoring = [Signal(name=f"restoring{stage}") for stage in (1, 2, 3, 4)]
        m.d.sync += [
            self.mac_address.eq(op.address),
            window[0].eq(Cat(op.up, op.down, op.left, op.right)),
            going[0].eq(self.go),
            ending[0].eq(self.go & op.last),
            restoring[0].eq(op.restore),
        ]
        for stages in (window, going, ending, restoring):
            m.d.sync += [later.eq(earlier) for earlier, later in pairwise(stages)]
        m.d.comb += [
            self.mac_enable.eq(going[0]),
            Cat(self.up, self.down, self.left, self.right).eq(window[1]),
            self.accumulate.eq(going[2]),
            self.swap.eq(ending[3]),
            self.restore.eq(restoring[3]),
        ]
        return m


def fence_passed(done, needed):
    """``done`` of a unit's instructions are at least ``needed``, both modulo 2^FENCE_BITS."""
    return ~(done - needed)[FENCE_BITS - 1]
