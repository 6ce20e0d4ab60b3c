"""Weight buffer: rows of K weights, used as they stream in, kept, and replayed for all other pixels."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .hierarchy import instantiate


class WeightRows(wiring.Component):
    """The storage of the weight buffer, apart from its control: one row written and one read per cycle.

    Latches in an ASIC, block RAM in an FPGA; a wrapper of its own, so that either can take its place. Latency
    1 from ``read_row`` to ``read_data``, which holds its value without ``read``.

    Parameters
    ----------
    depth : rows
    lanes : K, bits of a row

    Members
    -------
    write, write_row, write_data : a row is stored
    read, read_row, read_data : a row is read; never one that is being written
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
        m.submodules.cells = cells = Memory(shape=self._lanes, depth=self._depth, init=[])
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
    """A ring of rows: a block of rows is read in passes, one pass per pixel, and freed in the last pass.

    A row can be read in the cycle after it was written, so the first pass runs as the rows stream in; rows
    not in use take in the next block's ahead of time (paper section IV). Reads are in order: each ``read``
    takes the next row of the pass; with ``rewind`` it is the pass's last and the next read starts the block
    again; with ``discard`` the row is freed as it is read.

    Latency: ``row`` is valid three cycles after ``read`` (address, array, output register). One row in and
    one row out per cycle. ``write`` has back-pressure: it is not ready while every row is in use.

    Parameters
    ----------
    depth : rows
    lanes : K, bits of a row

    Members
    -------
    write : stream of rows
    available : the next row of the pass is there
    read, rewind, discard : as above; ``read`` only while ``available``
    row : the row read
    empty : no row is in use
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
                "available": Out(1),
                "read": In(1),
                "rewind": In(1),
                "discard": In(1),
                "row": Out(lanes),
                "empty": Out(1),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from ``read`` to ``row``."""
        return 3

    def elaborate(self, platform) -> Module:
        m = Module()
        rows = instantiate(m, platform, "rows", WeightRows, depth=self._depth, lanes=self._lanes)
        bits = ceil_log2(self._depth)
        write_row = Signal(bits)
        base = Signal(bits)  # first row of the block being read
        next_row = Signal(bits)
        passed = Signal(range(self._depth + 1))  # rows of the block already read in this pass
        filled = Signal(range(self._depth + 1))  # rows in use, from base on

        def after(row):
            return Mux(row == self._depth - 1, 0, row + 1)

        written = Signal()
        reading = Signal()
        read_row = Signal(bits)
        m.d.comb += [
            self.write.ready.eq(filled != self._depth),
            written.eq(self.write.valid & self.write.ready),
            rows.write.eq(written),
            rows.write_row.eq(write_row),
            rows.write_data.eq(self.write.payload),
            self.available.eq(passed != filled),
            self.empty.eq(filled == 0),
        ]
        with m.If(written):
            m.d.sync += write_row.eq(after(write_row))
        m.d.sync += filled.eq(filled + written - (self.read & self.discard))

        with m.If(self.read):
            with m.If(self.discard):
                m.d.sync += [base.eq(after(base)), next_row.eq(after(base))]
            with m.Elif(self.rewind):
                m.d.sync += [next_row.eq(base), passed.eq(0)]
            with m.Else():
                m.d.sync += [next_row.eq(after(next_row)), passed.eq(passed + 1)]

        # Address and row are registered on both sides of the array.
        m.d.sync += [read_row.eq(next_row), reading.eq(self.read), self.row.eq(rows.read_data)]
        m.d.comb += [rows.read_row.eq(read_row), rows.read.eq(reading)]
        return m
