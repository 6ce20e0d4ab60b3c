"""Walks the terms of as many sums as go in turn, and gives one operation of the array at a time."""

from amaranth.hdl import Array, C, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ..config import ChipConfig
from .layouts import BLOCK_BITS, OperationLayout, SumLayout, lane_bits, number_bits, row_bits


class _Walk(data.StructLayout):
    """One sum's loop counters: filter tap (raster), input channel; before them a stored partial sum.

    busy : there is a sum
    first : its first operation is to come
    channels : input channels still to come under this tap, the present one among them
    dy, dx : 0, 1, 2: before, at, after the pixel
    channel : the present channel
    row, position : of the next term's weights
    restoring, lane, part, stored : stored partial sums are read; which lane's, which part, its address
    """

    def __init__(self, config: ChipConfig):
        parts = config.number_format.words_per_sum
        super().__init__(
            {
                "busy": 1,
                "first": 1,
                "channels": bits_for(config.wbuf_depth),
                "dy": 2,
                "dx": 2,
                "channel": 16,
                "row": row_bits(config.wbuf_depth),
                "position": range(config.wbuf_depth),
                "restoring": 1,
                "lane": lane_bits(config.lanes),
                "part": range(max(2, parts)),
                "stored": 16,
                "sum": SumLayout(config),
            }
        )


class TermWalker(wiring.Component):
    """P sums in turn, each with its own loop counters; cycle by cycle another one has its turn.

    All registers of a sum go round a ring of P places, so that the logic is there once. A sum's turn comes
    every P cycles; then its operation is offered, and if it is ``taken`` the next one follows. Sums are begun
    and ended in order. Of the sums that use one block of weight rows, none overtakes the one before, so that
    rows can be freed as the block's last sum uses them.

    ``taken`` comes late in its cycle: a sum goes on in the cycle after its turn, and the many bits of a new
    one are fetched in the cycle after that. A sum alone in turn needs a second operation and a multiplexer
    for that, and has them where the memory has registers for a high clock.

    Parameters
    ----------
    config : the chip

    Members
    -------
    sums : from ``SumWalker``; the payload stays for a cycle after it was taken
    valid, operation : the operation whose turn it is
    taken : it issues
    written, arrives : rows that the weight buffer has received so far; and one more does
    sum_done : the oldest sum not yet in memory is written
    starved : the operation lacks its weight row, and nothing that is told from here
    eligible : it has its row, or its stored partial sum, and may not come before another sum's
    freed : rows that are not needed any more
    active : there are operations still to come
    restart : turns and sums are counted from here
    """

    def __init__(self, *, config: ChipConfig):
        self._config = config
        super().__init__(
            {
                "sums": In(stream.Signature(SumLayout(config))),
                "valid": Out(1),
                "operation": Out(OperationLayout(config)),
                "taken": In(1),
                "written": In(row_bits(config.wbuf_depth)),
                "arrives": In(1),
                "sum_done": In(1),
                "eligible": Out(1),
                "starved": Out(1),
                "freed": Out(row_bits(config.wbuf_depth)),
                "active": Out(1),
                "restart": In(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        ring = range(self._config.sums_in_turn)  # place 0 is offered; at the last one it goes on
        walks = [Signal(_Walk(self._config), name=f"walk{i}") for i in ring]
        valids = [Signal(name=f"valid{i}") for i in ring]
        ops = [Signal(OperationLayout(self._config), name=f"operation{i}", reset_less=True) for i in ring]
        places = list(walks)
        if self._high_clock:
            fetched = Signal()
            newest = Signal(_Walk(self._config))  # where a new sum is in the cycle after
            m.d.sync += fetched.eq(self.sums.valid & self.sums.ready)
            m.d.comb += newest.eq(walks[len(ring) - 2])
            with m.If(fetched):
                m.d.comb += newest.sum.eq(self.sums.p)
            places[len(ring) - 2] = newest
        walk = places[-1]
        next_walk = Signal(_Walk(self._config))
        m.d.sync += [place.eq(value) for place, value in zip(walks, _turned(places, next_walk), strict=True)]

        step = Signal()  # the operation at the counters moves on, to be offered
        operation = Signal(OperationLayout(self._config))
        m.d.comb += [self.valid.eq(valids[0]), self.operation.eq(ops[0])]
        self._operation(m, operation, walk)
        waiting = Signal()
        took = Signal()
        if len(ring) == 1 and self._high_clock:
            coming = self._queue(m, ops[0], valids[0], walk.busy, operation, step, waiting)
        else:
            coming = self._replace(m, ops, valids, walk.busy, operation, step, took)
        m.d.comb += self.active.eq(sum((place.busy for place in walks), 0) + sum(valids, waiting) != 0)
        ends = Signal()  # it is the sum's last
        self._advance(m, walk, next_walk, step, ends)
        self._take(m, walk, next_walk, step & ends)
        self._order(m, ops, valids, took, coming)
        self._free(m, valids[0], ops[0])
        return m

    @property
    def _high_clock(self) -> bool:
        """The memory has registers for a high clock: so have the ways of ``taken`` and of new sums."""
        return self._config.sums_in_turn > 1 or self._config.memory_latency > 1

    def _replace(self, m: Module, ops: list, valids: list, busy, operation, step, took) -> list:
        """Each sum's next operation follows the one that it ``took``; which one is coming to its turn."""
        m.d["comb" if len(ops) == 1 else "sync"] += took.eq(self.taken)
        left = valids[-1] & ~took
        next_op = Signal.like(operation)
        m.d.comb += [step.eq(busy & ~left), next_op.eq(ops[-1])]
        with m.If(step):
            m.d.comb += next_op.eq(operation)
        turned = _turned(ops, next_op)
        for places, values in ((ops, turned), (valids, _turned(valids, left | busy))):
            m.d.sync += [place.eq(value) for place, value in zip(places, values, strict=True)]
        return [(1, turned[0])]

    def _queue(self, m: Module, op, valid, busy, operation, step, waiting) -> list:
        """The sum's next operation waits beside the one that is offered, so that the counters need not know
        whether that one is taken; which one is coming, and when."""
        spare = Signal.like(operation, reset_less=True)
        following = Signal.like(operation)
        free = ~valid | self.taken
        m.d.comb += [step.eq(busy & ~waiting), following.eq(Mux(waiting, spare, operation))]
        m.d.sync += waiting.eq((busy | waiting) & ~free)
        with m.If(step):
            m.d.sync += spare.eq(operation)
        with m.If(free):
            m.d.sync += [op.eq(following), valid.eq(busy | waiting)]
        return [(free, following), (~free, op)]

    def _operation(self, m: Module, op, walk) -> None:
        """The operation at a sum's counters."""
        sum = walk.sum
        row_address = Array(sum.row_addresses)[walk.dy]
        in_row = walk.channel + Array(sum.col_offsets)[walk.dx]
        parts = self._config.number_format.words_per_sum
        if self._config.links:
            m.d.comb += [
                op.ring.valid.eq(sum.ring),
                op.ring.slot.eq(sum.ring_slot),
                op.ring.row.eq(in_row),
                op.ring.col.eq(walk.channel + Array(sum.edge_offsets)[walk.dy]),
                op.ring.corner.eq(walk.channel),
            ]
        m.d.comb += [
            op.address.eq(Mux(walk.restoring, walk.stored, row_address + in_row)),
            op.up.eq(~walk.restoring & (walk.dy == 0) & sum.above),
            op.down.eq(~walk.restoring & (walk.dy == 2) & sum.below),
            op.left.eq(~walk.restoring & (walk.dx == 0) & sum.left),
            op.right.eq(~walk.restoring & (walk.dx == 2) & sum.right),
            op.restore.eq(walk.restoring),
            op.lane.eq(walk.lane),
            op.complete.eq(walk.part == parts - 1),
            op.row.eq(walk.row),
            op.position.eq(walk.position),
            op.last.eq(self._last_term(walk)),
            op.stride.eq(sum.stride),
            op.block.eq(sum.block),
            op.frees.eq(sum.frees),
            op.number.eq(sum.number),
            op.spacing.eq(sum.spacing),
            op.first.eq(sum.first & walk.first),
            op.layer.eq(sum.layer),
            op.finish.eq(sum.finish),
        ]

    @staticmethod
    def _last_tap(walk):
        return Mux(walk.sum.kernel3, 2, 1)

    def _last_term(self, walk):
        last_tap = self._last_tap(walk)
        return ~walk.restoring & (walk.channels == 1) & (walk.dx == last_tap) & (walk.dy == last_tap)

    def _advance(self, m: Module, walk, next_walk, step, ends) -> None:
        """The counters after the operation at them has moved on."""
        parts = self._config.number_format.words_per_sum
        sum = walk.sum
        depth = self._config.wbuf_depth
        further = walk.position + sum.stride
        m.d.comb += [next_walk.eq(walk), ends.eq(self._last_term(walk))]
        with m.If(step):
            m.d.comb += next_walk.first.eq(0)
        with m.If(step & walk.restoring):
            last_part = walk.part == parts - 1
            m.d.comb += [
                next_walk.stored.eq(walk.stored + 1),
                next_walk.part.eq(Mux(last_part, 0, walk.part + 1)),
                next_walk.lane.eq(walk.lane + last_part),
                next_walk.restoring.eq(~(last_part & (walk.lane == sum.finish.lanes - 1))),
            ]
        with m.Elif(step):
            m.d.comb += [
                next_walk.row.eq(walk.row + sum.stride),
                next_walk.position.eq(Mux(further >= depth, further - depth, further)),
                next_walk.channels.eq(walk.channels - 1),
                next_walk.channel.eq(walk.channel + 1),
            ]
            with m.If(walk.channels == 1):
                m.d.comb += [
                    next_walk.channels.eq(sum.channels),
                    next_walk.channel.eq(sum.channel),
                    next_walk.dx.eq(walk.dx + 1),
                ]
                with m.If(walk.dx == self._last_tap(walk)):
                    m.d.comb += [next_walk.dx.eq(~sum.kernel3), next_walk.dy.eq(walk.dy + 1)]

    def _take(self, m: Module, walk, next_walk, ended) -> None:
        """The next sum, where the one at hand is out and it is this place's turn to begin one."""
        turns = self._config.sums_in_turn
        mine = Signal()
        if turns > 1:
            turn = Signal(range(turns))  # at the last place
            next_turn = Signal(range(turns))  # that takes the next sum
            m.d.sync += turn.eq(Mux(turn == turns - 1, 0, turn + 1))
            m.d.comb += mine.eq(turn == next_turn)
            with m.If(self.sums.valid & self.sums.ready):
                m.d.sync += next_turn.eq(Mux(next_turn == turns - 1, 0, next_turn + 1))
            with m.If(self.restart):
                m.d.sync += [turn.eq(turns - 1), next_turn.eq(0)]
        else:
            m.d.comb += mine.eq(1)
        sum = self.sums.payload
        m.d.comb += self.sums.ready.eq(mine & (~walk.busy | ended))
        with m.If(ended):
            m.d.comb += next_walk.busy.eq(0)
        with m.If(self.sums.valid & self.sums.ready):
            m.d.comb += [
                next_walk.busy.eq(1),
                next_walk.first.eq(1),
                *([] if self._high_clock else [next_walk.sum.eq(sum)]),
                next_walk.channels.eq(sum.channels),
                next_walk.channel.eq(sum.channel),
                next_walk.dy.eq(~sum.kernel3),
                next_walk.dx.eq(~sum.kernel3),
                next_walk.row.eq(sum.row),
                next_walk.position.eq(sum.position),
                next_walk.restoring.eq(sum.restore),
                next_walk.lane.eq(0),
                next_walk.part.eq(0),
                next_walk.stored.eq(sum.stored),
            ]

    def _order(self, m: Module, ops: list, valids: list, took, coming: list) -> None:
        """Whether the operation has its weight row, or its stored sum, and stays behind the sum before.

        For a high clock that is found a cycle ahead, of whichever is ``coming``: (when, operation).
        """
        op = ops[0]
        stored = Signal(number_bits(self._config))  # number of the next sum to be in memory
        m.d.sync += stored.eq(stored + self.sum_done)
        has_row, has_sum = Signal(), Signal()
        if not self._high_clock:
            none = C(0, 1)
            m.d.comb += [
                has_row.eq(self._has_row(m, op, none)),
                has_sum.eq(self._has_sum(m, op, stored, none)),
            ]
            coming = []
        for number, (when, operation) in enumerate(coming):
            # Each in registers of its own: which one it was is chosen later than that is known.
            came = Signal(name=f"came{number}")
            row_found, sum_found = Signal(name=f"row_found{number}"), Signal(name=f"sum_found{number}")
            m.d.sync += [
                came.eq(when),
                row_found.eq(self._has_row(m, operation, self.arrives)),
                sum_found.eq(self._has_sum(m, operation, stored, self.sum_done)),
            ]
            with m.If(came):
                m.d.comb += [has_row.eq(row_found), has_sum.eq(sum_found)]
        if len(ops) > 1:
            # The sum before has its turn while this one comes, and may move then.
            before, (_, operation) = ops[0], coming[0]
            lead = Signal(row_bits(self._config.wbuf_depth))  # of its operation, in rows
            ordinal = Signal.like(op.number)
            precedes = Signal()
            behind = Signal()
            moves = Signal()
            m.d.comb += [
                lead.eq(before.row - operation.row),
                ordinal.eq(operation.number - 1),
                precedes.eq(valids[0] & (before.number == ordinal) & (before.block == operation.block)),
            ]
            m.d.sync += [
                behind.eq(operation.restore | ~precedes | (lead.any() & ~lead[-1])),
                moves.eq(~before.restore),
            ]
            in_order = behind | (took & moves)
        else:
            in_order = 1
        m.d.comb += [self.eligible.eq(has_row & has_sum & in_order), self.starved.eq(~has_row)]

    def _has_row(self, m: Module, op, more) -> Value:
        """Its weight row is there, or it needs none; ``more``: one more is."""
        behind = Signal(row_bits(self._config.wbuf_depth))  # rows written behind this one, if not negative
        m.d.comb += behind.eq(self.written + ~op.row + more)
        return op.restore | ~behind[-1]

    def _has_sum(self, m: Module, op, stored, more) -> Value:
        """Its stored partial sum is in memory, or it needs none; ``more``: one more is."""
        before = Signal(number_bits(self._config))  # sums begun before this one and not in memory
        m.d.comb += before.eq(op.number + ~stored + ~more)
        return ~op.restore | (before < op.spacing)

    def _free(self, m: Module, valid, op) -> None:
        """Rows are freed in order, by the last sum of the oldest block in use."""
        oldest = Signal(BLOCK_BITS)
        used = self.taken & ~op.restore
        with m.If(valid & op.frees & (op.block == oldest)):
            # Until it has its row, the other sums may still be at theirs, which alternate with it.
            m.d.sync += self.freed.eq(op.row + 1 - Mux(used, 0, op.stride))
            with m.If(self.taken & op.last):
                m.d.sync += oldest.eq(oldest + 1)


def _turned(ring: list, after) -> list:
    """What comes to each place: the last one's content as ``after``, and then what was offered."""
    return [*ring[1:-1], after, *ring[:1]][: len(ring)]
