"""A serial line, 8N1: a start bit, eight data bits, the least significant first, a stop bit; idle is high."""

from amaranth.hdl import C, Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

BITS = 10  # of a byte on the line


def check_divisor(divisor: int) -> None:
    if type(divisor) is not int or divisor < 4:
        raise ValueError(f"divisor must be an integer of at least 4, not {divisor!r}")


class UartReceiver(wiring.Component):
    """Bytes from a serial line.

    Bits are sampled in their middle, as counted from the edge of the start bit: with a divisor of at least 8
    the sender's baud rate may be 3 % off. A start bit that is not there any more in its middle is ignored. A
    stop bit that is low makes an error instead of a byte; the next start bit counts after the line was high.

    Parameters
    ----------
    divisor : clock cycles per bit, at least 4

    Members
    -------
    rx : the line, asynchronous
    bytes : stream; it does not wait for ``ready``
    error : pulse in place of a byte: its stop bit was low
    """

    def __init__(self, *, divisor: int):
        check_divisor(divisor)
        self._divisor = divisor
        super().__init__({"rx": In(1, init=1), "bytes": Out(stream.Signature(8)), "error": Out(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        line = Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(self.rx, line, init=1)
        left = Signal(range(self._divisor))  # cycles until the middle of a bit
        # Filled from the top; what marks the top at the start arrives at the bottom with the last data bit.
        shift = Signal(9)
        middle = Signal()
        m.d.comb += [middle.eq(left == 0), self.bytes.payload.eq(shift[1:])]
        m.d.sync += left.eq(left - 1)
        with m.If(middle):
            m.d.sync += left.eq(self._divisor - 1)
        with m.FSM():
            with m.State("IDLE"):
                # Low for one cycle by now: the middle of the bit is reached as ``middle`` comes.
                m.d.sync += [left.eq(self._divisor // 2 - 1), shift.eq(1 << 8)]
                with m.If(~line):
                    m.next = "START"
            with m.State("START"), m.If(middle):
                with m.If(line):
                    m.next = "IDLE"
                with m.Else():
                    m.next = "BITS"
            with m.State("BITS"), m.If(middle):
                m.d.sync += shift.eq(Cat(shift[1:], line))
                with m.If(shift[0]):
                    m.d.comb += [self.bytes.valid.eq(line), self.error.eq(~line)]
                    m.next = "LOW"
                    with m.If(line):
                        m.next = "IDLE"
            with m.State("LOW"), m.If(line):
                m.next = "IDLE"
        return m


class UartTransmitter(wiring.Component):
    """Bytes to a serial line.

    Parameters
    ----------
    divisor : clock cycles per bit, at least 4

    Members
    -------
    bytes : stream; ready again when the stop bit has been sent
    tx : the line, from a register
    """

    def __init__(self, *, divisor: int):
        check_divisor(divisor)
        self._divisor = divisor
        super().__init__({"bytes": In(stream.Signature(8)), "tx": Out(1, init=1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        shift = Signal(9, init=-1)
        cycles = Signal(range(self._divisor))  # left of this bit
        bits = Signal(range(BITS + 1))  # left of this byte
        m.d.comb += [self.tx.eq(shift[0]), self.bytes.ready.eq(bits == 0)]
        with m.If(self.bytes.valid & self.bytes.ready):
            m.d.sync += [
                shift.eq(Cat(C(0, 1), self.bytes.payload)),
                cycles.eq(self._divisor - 1),
                bits.eq(BITS),
            ]
        with m.Elif(cycles != 0):
            m.d.sync += cycles.eq(cycles - 1)
        with m.Elif(bits != 0):
            m.d.sync += [shift.eq(Cat(shift[1:], C(1, 1))), cycles.eq(self._divisor - 1), bits.eq(bits - 1)]
        return m
