"""Frames between host and board (host_link.py), byte by byte: found, unescaped and checked; made."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out

from ..host_link import ESCAPE, ESCAPED_BIT, FLAG

MOST_COUNTED = 15  # bytes of a frame
CRC_BYTES = 4
# Bit-serial: a byte takes the line forty cycles or more.
CRC = CRC32_ISO_HDLC(data_width=1)

FRAME_BYTE = data.StructLayout({"data": 8, "end": 1})


class FrameReceiver(wiring.Component):
    """Finds frames among the bytes from a line. Their length is not limited here.

    A byte is handed on as it comes, so the last four of a frame are its CRC, and what was made of them is to
    be taken back at its end. Bytes come at least ten cycles apart. Flags one after the other are no frame.

    Members
    -------
    bytes : stream, always taken
    valid, byte : pulse, and in that cycle the next byte of a frame: its kind, its body, its CRC
    count : bytes of the frame, this one included, ``MOST_COUNTED`` if there are more; stays until the first
        byte of the next frame
    good : pulse, a frame of at least five bytes has ended and its CRC is right
    bad : pulse, it is not right, or too short
    """

    def __init__(self):
        super().__init__(
            {
                "bytes": In(stream.Signature(8)),
                "valid": Out(1),
                "byte": Out(8),
                "count": Out(range(MOST_COUNTED + 1)),
                "good": Out(1),
                "bad": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.crc = crc = CRC.create()
        inside = Signal()  # a flag has been seen
        empty = Signal()  # no byte since
        escaped = Signal()
        ended = Signal()
        bits = Signal(range(9))  # of ``byte``, still to go into the CRC
        is_flag, is_escape = Signal(), Signal()
        given = self.bytes.payload
        m.d.comb += [
            self.bytes.ready.eq(1),
            is_flag.eq(self.bytes.valid & (given == FLAG)),
            is_escape.eq(self.bytes.valid & (given == ESCAPE)),
            self.valid.eq(bits[3]),
            ended.eq(is_flag & inside & (~empty | escaped)),
            self.good.eq(ended & ~escaped & ~empty & (self.count > CRC_BYTES) & crc.match_detected),
            self.bad.eq(ended & ~self.good),
            crc.start.eq(is_flag),
            crc.valid.eq(bits.any()),
            crc.data.eq(self.byte[0]),
        ]
        m.d.sync += self.byte.eq(Cat(self.byte[1:], self.byte[0]))
        with m.If(bits.any()):
            m.d.sync += bits.eq(bits - 1)
        with m.If(is_flag):
            m.d.sync += [inside.eq(1), empty.eq(1), escaped.eq(0)]
        with m.Elif(is_escape):
            m.d.sync += escaped.eq(1)
        with m.Elif(self.bytes.valid & inside):
            m.d.sync += [self.byte.eq(given ^ Mux(escaped, ESCAPED_BIT, 0)), bits.eq(8)]
            m.d.sync += [escaped.eq(0), empty.eq(0)]
            with m.If(empty):
                m.d.sync += self.count.eq(1)
            with m.Elif(self.count != MOST_COUNTED):
                m.d.sync += self.count.eq(self.count + 1)
        return m


class FrameTransmitter(wiring.Component):
    """Makes frames: flags, escapes and CRC are put to the bytes of a kind and a body.

    Members
    -------
    content : stream of bytes; one with ``end`` is none, it tells that the frame is over
    bytes : stream, to the line
    """

    def __init__(self):
        super().__init__({"content": In(stream.Signature(FRAME_BYTE)), "bytes": Out(stream.Signature(8))})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.crc = crc = CRC.create()
        byte = Signal(8)
        ending = Signal()  # the bytes are those of the CRC
        step = Signal(5)  # bits, eight of each byte; bytes of the CRC
        escaped = Signal()
        is_special = Signal()
        m.d.comb += [
            is_special.eq((byte == FLAG) | (byte == ESCAPE)),
            # Its own bits push the CRC out of its register.
            crc.data.eq(Mux(ending, ~crc.crc[0], byte[0])),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [crc.start.eq(1), self.bytes.valid.eq(self.content.valid)]
                m.d.comb += self.bytes.payload.eq(FLAG)
                m.d.sync += [ending.eq(0), step.eq(0)]
                with m.If(self.bytes.valid & self.bytes.ready):
                    m.next = "TAKE"
            with m.State("TAKE"):
                m.d.comb += self.content.ready.eq(1)
                m.d.sync += byte.eq(self.content.p.data)
                with m.If(self.content.valid):
                    m.next = "SHIFT"
                    with m.If(self.content.p.end):
                        m.d.sync += [ending.eq(1), step.eq(0)]
            with m.State("SHIFT"):
                m.d.comb += crc.valid.eq(1)
                m.d.sync += [byte.eq(Cat(byte[1:], Mux(ending, crc.crc[0], byte[0]))), step.eq(step + 1)]
                with m.If(step[:3].all()):
                    m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += [
                    self.bytes.valid.eq(1),
                    self.bytes.payload.eq(
                        Mux(is_special & ~escaped, ESCAPE, byte ^ Mux(escaped, ESCAPED_BIT, 0))
                    ),
                ]
                with m.If(self.bytes.ready):
                    m.d.sync += escaped.eq(is_special & ~escaped)
                    with m.If(~is_special | escaped):
                        with m.If(~ending):
                            m.next = "TAKE"
                        with m.Elif(step == 0):
                            m.next = "END"
                        with m.Else():
                            m.next = "SHIFT"
            with m.State("END"):
                m.d.comb += [self.bytes.valid.eq(1), self.bytes.payload.eq(FLAG)]
                with m.If(self.bytes.ready):
                    m.next = "IDLE"
        return m
