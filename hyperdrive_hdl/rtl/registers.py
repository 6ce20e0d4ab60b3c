"""Values some cycles later: registers in a row, a memory for many bits over many cycles, a queue."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

# Of a memory: nothing reads a word in the cycle in which it is written, so that synthesis need not keep the
# old one for it (hierarchy.py tells Yosys).
NO_COLLISION = {"no_rw_check": 1}


def delayed(m: Module, value: Value, cycles: int, *, name: str, init: int | None = None) -> Value:
    """``value`` some cycles later; without ``init`` its registers have no reset."""
    for stage in range(1, cycles + 1):
        later = Signal(len(value), name=f"{name}_{stage}", init=init or 0, reset_less=init is None)
        m.d.sync += later.eq(value)
        value = later
    return value


def spread(m: Module, value: Value, count: int, *, name: str, enable: Value | int = 1) -> list[Signal]:
    """``value`` a cycle later, in ``count`` registers: each can be near those who use it.

    They keep what they have without ``enable``. Synthesis for an FPGA is told to leave them apart
    (targets/fpga.py); nothing else depends on it.
    """
    copies = [
        Signal(len(value), name=f"{name}_copy{i}", reset_less=True, attrs={"apart": 1}) for i in range(count)
    ]
    with m.If(enable):
        m.d.sync += [copy.eq(value) for copy in copies]
    return copies


class DelayLine(wiring.Component):
    """A value some cycles later, from a ring of as many places: one is written and one read in a cycle.

    For values that count only with a flag beside them: what comes out in the first cycles was never put in.

    Parameters
    ----------
    width : bits
    cycles : of delay, at least 2

    Members
    -------
    value, later : the value, and as it was ``cycles`` ago
    """

    def __init__(self, *, width: int, cycles: int):
        if type(cycles) is not int or cycles < 2:
            raise ValueError(f"cycles must be an integer of at least 2, not {cycles!r}")
        self._width = width
        self._cycles = cycles
        super().__init__({"value": In(width), "later": Out(width)})

    @property
    def latency(self) -> int:
        """Cycles from ``value`` to ``later``."""
        return self._cycles

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.cells = cells = Memory(
            shape=self._width, depth=self._cycles, init=[], attrs=NO_COLLISION
        )
        write_port = cells.write_port()
        read_port = cells.read_port()
        place = Signal(range(self._cycles))
        oldest = Signal(range(self._cycles))
        m.d.comb += [
            oldest.eq(Mux(place == self._cycles - 1, 0, place + 1)),
            write_port.addr.eq(place),
            write_port.data.eq(self.value),
            write_port.en.eq(1),
            read_port.addr.eq(oldest),
            self.later.eq(read_port.data),
        ]
        m.d.sync += place.eq(oldest)
        return m


class StreamQueue(wiring.Component):
    """A few words between two streams, at a word per cycle: no logic goes from one to the other.

    Parameters
    ----------
    width : bits of a word

    Members
    -------
    before, after : the streams
    """

    def __init__(self, *, width: int):
        self._width = width
        super().__init__({"before": In(stream.Signature(width)), "after": Out(stream.Signature(width))})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=self._width, depth=4)
        m.d.comb += [
            fifo.w_en.eq(self.before.valid),
            fifo.w_data.eq(self.before.payload),
            self.before.ready.eq(fifo.w_rdy),
            self.after.valid.eq(fifo.r_rdy),
            self.after.payload.eq(fifo.r_data),
            fifo.r_en.eq(self.after.ready),
        ]
        return m
