"""Weight buffer: rows of K weights, used as they stream in, kept, and replayed for all other pixels."""

from amaranth.hdl import ClockSignal, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..cells.leaf import LatchRows
from ..latencies import WEIGHT_READ
from .hierarchy import cell_library, instantiate
from .layouts import row_bits
from .registers import NO_COLLISION


class WeightRows(wiring.Component):
    """The storage of the weight buffer, apart from its control: one row written and one read per cycle.

    Latches in an ASIC (``cells.leaf.LatchRows``), block RAM in an FPGA, behind one interface. Latency
    1 from ``read_row`` to ``read_data``, which holds its value without ``read``.

    Parameters
    ----------
    depth : rows
    lanes : K, bits of a row

    Members
    -------
    write, write_row, write_data : a row is stored
    read, read_row, read_data : a row is read, not one that is being written
    """

    def __init__(self, *, depth: int, lanes: int):
        self._depth = depth
        self._lanes = lanes
        row = range(depth)
        super().__init__(
            {
                "write": In(1),
                "write_row": In(row),
                "write_data": In(lanes),
                "read": In(1),
                "read_row": In(row),
                "read_data": Out(lanes),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from ``read`` to ``read_data``."""
        return 1

    def elaborate(self, platform) -> Module:
        m = Module()
        if library := cell_library(platform):
            cell = LatchRows(self._depth, self._lanes)
            own = {name: getattr(self, name) for name in self.signature.members}
            library.place(m, "cells", cell, own | {"clk": ClockSignal()})
            return m
        m.submodules.cells = cells = Memory(shape=self._lanes, depth=self._depth, init=[], attrs=NO_COLLISION)
        write_port = cells.write_port()
        read_port = cells.read_port()
        m.d.comb += [
            write_port.addr.eq(self.write_row),
            write_port.data.eq(self.write_data),
            write_port.en.eq(self.write),
            read_port.addr.eq(self.read_row),
            read_port.en.eq(self.read),
            self.read_data.eq(read_port.data),
        ]
        return m


class WeightBuffer(wiring.Component):
    """A ring of rows, written in order as they stream in; whoever reads it says which row, and what is freed.

    Rows are counted, modulo a power of two. A row can be read in the cycle after it was written, so the first
    pass of a block runs as its rows stream in; rows that are freed take in the next block's ahead of time
    (paper section IV). ``Sequencer`` replays a block once per pixel, several at a time where sums go in turn.

    Latency: ``row`` is valid three cycles after ``read`` (address, array, output register). One row in and
    one row out per cycle. ``write`` has back-pressure: it is not ready while every row is in use.

    Parameters
    ----------
    depth : rows
    lanes : K, bits of a row

    Members
    -------
    write : stream of rows
    written : rows written so far
    freed : rows that are not needed any more
    occupied : some are needed
    read, position : a row is read: its place in the ring, its number modulo ``depth``
    row : the row read
    """

    def __init__(self, *, depth: int, lanes: int):
        if type(depth) is not int or depth < 2:
            raise ValueError(f"depth must be an integer of at least 2, not {depth!r}")
        if type(lanes) is not int or lanes < 1:
            raise ValueError(f"lanes must be a positive integer, not {lanes!r}")
        self._depth = depth
        self._lanes = lanes
        super().__init__(
            {
                "write": In(stream.Signature(lanes)),
                "written": Out(row_bits(depth)),
                "freed": In(row_bits(depth)),
                "occupied": Out(1),
                "read": In(1),
                "position": In(range(depth)),
                "row": Out(lanes),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from ``read`` to ``row``."""
        return WEIGHT_READ

    def elaborate(self, platform) -> Module:
        m = Module()
        rows = instantiate(m, platform, "rows", WeightRows, depth=self._depth, lanes=self._lanes)
        write_row = Signal(range(self._depth))
        in_use = Signal(row_bits(self._depth))  # in the next cycle
        full = Signal()
        # A row may be freed as it is read, in the next cycle: what is told of ``freed`` is a cycle late.
        m.d.sync += [full.eq(in_use == self._depth), self.occupied.eq(in_use != 0)]
        m.d.comb += [
            in_use.eq(self.written - self.freed + rows.write),
            self.write.ready.eq(~full),
            rows.write.eq(self.write.valid & self.write.ready),
            rows.write_row.eq(write_row),
            rows.write_data.eq(self.write.payload),
        ]
        with m.If(rows.write):
            m.d.sync += [
                self.written.eq(self.written + 1),
                write_row.eq(Mux(write_row == self._depth - 1, 0, write_row + 1)),
            ]

        # Position and row are registered on both sides of the array.
        m.d.sync += [
            rows.read.eq(self.read),
            rows.read_row.eq(self.position),
            self.row.eq(rows.read_data),
        ]
        return m
