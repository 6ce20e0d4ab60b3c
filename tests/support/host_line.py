"""A serial line in a bench: bytes in, bytes out, apart from the RTL's UART; and a host at its other end."""

from collections.abc import Iterable

from hyperdrive_hdl.host_link import Deframer, Request, frame


def levels(data: Iterable[int], divisor: float, *, idle: int = 0, stop: int = 1) -> list[int]:
    """The line cycle by cycle: 8N1 with ``divisor`` cycles per bit, perhaps not a whole number of them.

    ``idle`` cycles pass before each byte; ``stop`` is the level of its stop bit.
    """
    line: list[int] = []
    at = 0.0
    for byte in data:
        at += idle
        line += [1] * (round(at) - len(line))
        for bit in (0, *(byte >> i & 1 for i in range(8)), stop):
            at += divisor
            line += [bit] * (round(at) - len(line))
    return line


class Decoder:
    """Bytes from a line that is looked at every cycle; each bit must last ``divisor`` cycles, exactly.

    Raises ``AssertionError`` where one does not.
    """

    def __init__(self, divisor: int):
        self._divisor = divisor
        self._cycles: list[int] = []  # of the byte under way
        self.bytes = bytearray()

    def step(self, level: int) -> None:
        if not self._cycles and level:
            return
        self._cycles.append(level)
        if len(self._cycles) < 10 * self._divisor:
            return
        bits = [self._cycles[i : i + self._divisor] for i in range(0, len(self._cycles), self._divisor)]
        assert all(len(set(bit)) == 1 for bit in bits), f"bits of uneven length: {self._cycles}"
        start, *byte, stop = (bit[0] for bit in bits)
        assert (start, stop) == (0, 1), f"no start or stop bit: {self._cycles}"
        self.bytes.append(sum(bit << i for i, bit in enumerate(byte)))
        self._cycles.clear()


class HostLine:
    """The host's end of a line to ``rx`` and from ``tx``. ``run`` is to be a background bench."""

    def __init__(self, dut, divisor: int):
        self._dut = dut
        self._divisor = divisor
        self._to_send: list[int] = []
        self._decoder = Decoder(divisor)
        self._read = 0
        self.deframer = Deframer()
        self.frames: list[tuple[int, bytes]] = []  # all that came

    async def run(self, ctx):
        position = 0
        while True:
            ctx.set(self._dut.rx, self._to_send[position] if position < len(self._to_send) else 1)
            position += position < len(self._to_send)
            *_, level = await ctx.tick().sample(self._dut.tx)
            self._decoder.step(level)
            new = self._decoder.bytes[self._read :]
            self._read += len(new)
            self.frames += self.deframer.feed(new)
            self.sent = position == len(self._to_send)

    def send(self, data: bytes) -> None:
        """Put bytes behind those that are still to be sent."""
        self._to_send += levels(data, self._divisor)
        self.sent = False

    async def quiet(self, ctx, byte_times: int = 40) -> None:
        """Wait until everything is sent and nothing has come for so many times of a byte."""
        seen = quiet = 0
        while quiet < byte_times * 10 * self._divisor:
            await ctx.tick()
            quiet = quiet + 1 if self.sent and len(self._decoder.bytes) == seen else 0
            seen = len(self._decoder.bytes)

    async def ask(self, ctx, kind: int, body: bytes = b"", *, limit: int = 500) -> tuple[int, bytes]:
        """Send a request and wait for the next frame.

        Raises
        ------
        TimeoutError : none comes in ``limit`` times of a byte
        """
        known = len(self.frames)
        self.send(frame(kind, body))
        for _ in range(limit * 10 * self._divisor + len(self._to_send)):
            await ctx.tick()
            if len(self.frames) > known:
                return self.frames[known]
        raise TimeoutError(f"no reply to {Request(kind).name}")
