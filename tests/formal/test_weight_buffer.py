"""The weight buffer gives back the rows that were written, in whatever order they come, are read and freed.

One row, any one, is followed from the cycle in which it is written until it is freed: what holds for it holds
for all. The proofs are unbounded: the ring and the counts of rows go round any number of times.
"""

import pytest
from amaranth.hdl import Assert, Assume, Cover, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In

from hyperdrive_hdl.rtl.hierarchy import instantiate
from hyperdrive_hdl.rtl.layouts import row_bits
from hyperdrive_hdl.rtl.weight_buffer import WeightBuffer, WeightRows
from tests.support.formal import Substitutes, mutant, prove


class FollowedRow(wiring.Component):
    """A weight buffer, whoever uses it by its contract, and one row that ``follow`` has chosen.

    Rows are freed any number at a time, but no more than there are. Where the row is not freed yet,
    be it the last one, it may be read, and is what was written, ``latency`` cycles later.
    """

    def __init__(
        self,
        *,
        depth: int,
        lanes: int,
        shown: tuple[str, ...] = ("counts", "rows"),
        buffer: type = WeightBuffer,
    ):
        self._depth = depth
        self._lanes = lanes
        self._shown = shown
        self._buffer = buffer
        super().__init__(
            {
                "write": In(stream.Signature(lanes)),
                "frees": In(range(depth + 1)),
                "read": In(1),
                "position": In(range(depth)),
                "follow": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        depth = self._depth
        buffer = instantiate(m, platform, "buffer", self._buffer, depth=depth, lanes=self._lanes)
        taken = Signal()
        freed = Signal(row_bits(depth))
        in_use = Signal(range(depth + 1))  # rows
        just_freed = Signal(range(depth + 1))  # whose places cannot be taken yet
        next_position = Signal(range(depth))  # of the next row to be written
        m.d.comb += [
            buffer.write.valid.eq(self.write.valid),
            buffer.write.payload.eq(self.write.payload),
            self.write.ready.eq(buffer.write.ready),
            taken.eq(self.write.valid & self.write.ready),
            buffer.freed.eq(freed),
            buffer.read.eq(self.read),
            buffer.position.eq(self.position),
        ]
        m.d.sync += [
            Assume(self.frees <= in_use),
            Assume(self.position < depth),
            freed.eq(freed + self.frees),
            just_freed.eq(self.frees),
            in_use.eq(in_use + taken - self.frees),
        ]
        with m.If(taken):
            m.d.sync += next_position.eq(Mux(next_position == depth - 1, 0, next_position + 1))

        alive = Signal()  # the row followed is in use
        row = Signal(self._lanes)
        position = Signal(range(depth))
        before = Signal(range(depth))  # rows in use that were written before it
        with m.If(alive):
            m.d.sync += [before.eq(before - self.frees), alive.eq(before >= self.frees)]
        with m.Elif(taken & self.follow):
            m.d.sync += [
                alive.eq(1),
                row.eq(self.write.payload),
                position.eq(next_position),
                before.eq(in_use - self.frees),
            ]

        expected = Signal()
        m.d.comb += expected.eq(self.read & alive & (self.position == position))
        stages = [(expected, row, position)]
        for stage in range(buffer.latency):
            later = tuple(Signal.like(value, name=f"{value.name}_{stage}") for value in stages[-1])
            m.d.sync += [register.eq(value) for register, value in zip(later, stages[-1], strict=True)]
            stages.append(later)
        expected_now, expected_row, _ = stages[-1]
        read_before, _, position_before = stages[2]  # the array, in the cycle before
        m.d.sync += [
            Cover(expected_now & (row == 1) & (next_position != position), "a row was read"),
            Cover(read_before & taken & (next_position == position_before), "its place is taken at once"),
        ]

        distance = Signal(range(2 * depth))
        m.d.comb += distance.eq(position + in_use - before)
        in_order = (
            (before < in_use)
            & (position < depth)
            & (next_position == Mux(distance >= depth, distance - depth, distance))
        )
        counts = Assert if "counts" in self._shown else Assume
        m.d.sync += [
            counts((buffer.written - freed)[: len(freed)] == in_use, "rows are miscounted"),
            counts((in_use + just_freed <= depth) & (next_position < depth), "there are more rows than fit"),
            counts(~alive | in_order, "rows are out of order"),
            counts(
                self.write.ready == (in_use + just_freed != depth), "a row is taken unless all are in use"
            ),
        ]
        if "rows" in self._shown:
            m.d.sync += Assert(~expected_now | (buffer.row == expected_row), "another row was read")
        return m


@pytest.mark.parametrize(
    ("depth", "lanes"), [(2, 1), (3, 2), (5, 1), (8, 1), pytest.param(18, 1, marks=pytest.mark.slow)]
)
def test_a_row_is_read_as_it_was_written(depth, lanes, tmp_path):
    counts = FollowedRow(depth=depth, lanes=lanes, shown=("counts",))
    prove(counts, engine="merge", directory=tmp_path).expect()
    prove(FollowedRow(depth=depth, lanes=lanes, shown=("rows",)), directory=tmp_path).expect()


@pytest.mark.parametrize("depth", [2, 3])
def test_there_are_rows_to_follow(depth, tmp_path):
    prove(FollowedRow(depth=depth, lanes=2), mode="cover", depth=12, directory=tmp_path).expect()


@pytest.mark.parametrize(
    "change",
    [
        ("full.eq(in_use == self._depth)", "full.eq(0)"),
        ("write_row == self._depth - 1, 0", "write_row == self._depth - 1, 1"),
        ("rows.read_row.eq(self.position)", "rows.read_row.eq(write_row)"),
        ("self.written.eq(self.written + 1)", "self.written.eq(self.written + self.write.payload[0])"),
    ],
)
def test_a_buffer_that_loses_rows_is_noticed(change, tmp_path):
    top = FollowedRow(depth=3, lanes=2, buffer=mutant(WeightBuffer, change))
    prove(top, mode="bmc", depth=12, directory=tmp_path).expect_refuted()


def test_no_row_is_read_as_it_is_written(tmp_path):
    """An array may give anything then; this one gives the new row, which is not the one wanted."""
    change = ("cells.read_port()", "cells.read_port(transparent_for=[write_port])")
    rows = Substitutes({WeightRows: mutant(WeightRows, change)})
    prove(FollowedRow(depth=3, lanes=2), platform=rows, directory=tmp_path).expect()
    change = ("ready.eq(~full)", "ready.eq((self.written - self.freed)[: len(in_use)] != self._depth)")
    early = mutant(WeightBuffer, change)
    top = FollowedRow(depth=3, lanes=2, buffer=early)
    prove(top, mode="bmc", depth=12, platform=rows, directory=tmp_path).expect_refuted()


def test_an_array_that_loses_rows_is_noticed(tmp_path):
    change = ("write_port.en.eq(self.write)", "write_port.en.eq(self.write & ~self.read)")
    rows = Substitutes({WeightRows: mutant(WeightRows, change)})
    top = FollowedRow(depth=3, lanes=2)
    trace = prove(top, mode="bmc", depth=12, platform=rows, directory=tmp_path).expect_refuted()
    assert trace.end == "Assertion violated: another row was read"
