"""The host's side of host_link.py: runs one program on a board behind a serial port.

Words go out in frames as far as the board has room, both streams in turn, many frames under way; outputs
are fetched one reply at a time, since a FETCH gives up the words before its offset. What a lost frame leaves
out is sent again from where the board has come to.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from ..config import ChipConfig
from ..errors import ChipError, ToolError, UserError
from ..host_link import (
    COUNTER_NAMES,
    FETCH_BODY,
    FLAG,
    MAX_BODY,
    OUTPUT_HEADER,
    SESSION,
    WORDS_HEADER,
    WRITE_BYTES,
    Deframer,
    Features,
    Flags,
    Identity,
    Reply,
    Request,
    Status,
    frame,
    word_bytes,
)
from ..simulate.backend import Event
from ..simulate.program import error_meaning
from .port import Port, broken

TIMEOUT = 5.0  # seconds without progress
READ_SECONDS = 0.002  # that a look at an idle line takes
ATTEMPTS = 6  # of a request whose answer is waited for
AHEAD = 0.005  # seconds of bytes written ahead of the line: enough to keep it full, and a FETCH in time
LEAST_WAIT = 0.02  # seconds until frames count as lost, beside the line's own and the round trip
MOST_PARTS = 8  # that a full frame is divided into where frames get lost
WELL = 16  # arrivals without a loss, after which frames are longer again
LEAST_POLL, MOST_POLL = 0.001, 0.02  # seconds between questions to a busy chip
COUNTERS_EVERY = 20.0  # seconds, of the 85 in which 2^32 cycles pass at 50 MHz

WRAP = 1 << 16
COUNTER_WRAP = 1 << 32


class ChipStoppedError(ChipError):
    """The board answers, but its chip will not end the program: ``event`` says why."""

    def __init__(self, event: Event, text: str):
        super().__init__(text)
        self.event = event


@dataclass
class _Stream:
    """Words on their way to the board, counted from the RESET without end."""

    kind: Request
    data: np.ndarray  # uint8 [words, bytes]
    taken: int = 0  # by the board, as far as known
    limit: int = 0  # words that it has room for
    sent: int = 0  # words sent at least once since the last return
    furthest: int = 0  # words sent ever
    since: float = 0.0  # when ``taken`` last moved, or words were sent after all before had been taken

    @property
    def can_send(self) -> bool:
        return self.sent < min(self.limit, len(self.data))

    def next_frame(self, parts: int) -> bytes:
        count = max(1, WRITE_BYTES // parts // self.data.shape[1])
        end = min(self.sent + count, self.limit, len(self.data))
        body = WORDS_HEADER.pack(self.sent % WRAP) + self.data[self.sent : end].tobytes()
        self.sent = end
        self.furthest = max(self.furthest, end)
        return frame(self.kind, body)


class Board:
    """One board. Calls go in the order connect, check, reset, start, advance until it returns True.

    Parameters
    ----------
    port : an open port (``open_port``); ``close`` closes it
    timeout : seconds without any progress until ``advance`` gives up
    clock : seconds, for simulated lines
    """

    def __init__(self, port: Port, *, timeout: float = TIMEOUT, clock: Callable[[], float] = time.monotonic):
        self._port = port
        self._timeout = timeout
        self._clock = clock
        self._deframer = Deframer()
        self._random = random.SystemRandom()
        self._identity: Identity | None = None
        self._session: int | None = None  # None: before the first RESET
        self._round_trip = LEAST_WAIT  # seconds from a request to its reply
        self._bytes = 0  # received
        self._line_free = 0.0  # when all that was written has gone out
        port.timeout = READ_SECONDS
        self._forget_run()

    def _forget_run(self) -> None:
        nothing = np.zeros((0, 1), np.uint8)
        self._streams = [_Stream(Request.PROGRAM, nothing), _Stream(Request.MAPS, nothing)]
        self._expected = 0
        self._received: list[np.ndarray] = []
        self._got = 0  # output words received
        self._there = 0  # output words that the board has made, as far as known
        self._layers = 0
        self._status: Status | None = None
        self._counters: dict[str, int] | None = None
        self._counted = 0.0
        self._asked: dict[Request, float] = {}  # FETCH and STATUS under way, since when
        self._wait_factor = 1.0
        self._arrivals = 0  # of words since the last loss
        self._parts = 1  # of a full frame that are sent and fetched at a time
        self._poll = LEAST_POLL
        self._polled = self._heard = self._moved = self._clock()

    @property
    def identity(self) -> Identity:
        """What the board has told of itself. Raises ``RuntimeError`` before ``connect``."""
        if self._identity is None:
            raise RuntimeError("connect() comes first")
        return self._identity

    @property
    def status(self) -> Status | None:
        """The last STATUS since ``reset``."""
        return self._status

    @property
    def outputs(self) -> np.ndarray:
        """Words of ``fm_out`` so far, uint16."""
        return np.concatenate([np.zeros(0, np.uint16), *self._received])

    @property
    def words_done(self) -> int:
        """Words that the board has taken and given since ``start``."""
        return sum(stream.taken for stream in self._streams) + self._got

    @property
    def layers(self) -> int:
        """Layers that the chip has ended since ``reset``."""
        return self._layers

    def close(self) -> None:
        self._port.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # Before a run

    def connect(self) -> Identity:
        """Find the board at the other end.

        Raises
        ------
        ToolError : nothing answers, or something else does
        """
        self._session = None
        self._write(bytes([FLAG]))  # ends what a host before this one may have left unfinished
        self._drain()
        self._deframer = Deframer()
        before = self._bytes
        problem = None
        for _ in range(ATTEMPTS):
            start = self._clock()
            self._write(frame(Request.IDENTIFY))
            for kind, body in self._frames_until(start + max(0.1, self._timeout / ATTEMPTS)):
                if kind != Reply.IDENTITY:
                    continue
                try:
                    self._identity = Identity.decode(body)
                except ValueError as error:
                    problem = str(error)
                    break
                self._round_trip = max(LEAST_WAIT / 4, self._clock() - start)
                return self._identity
        if problem:
            raise ToolError(f"the board cannot be used: {problem}; load a bitstream made by this version")
        if self._bytes > before:
            raise ToolError(
                f"what comes from the port is no Hyperdrive board's answer ({self._bytes - before} bytes): "
                f"is its baud rate another (--baud), or another device at this port?"
            )
        raise ToolError(
            "no board answers: is the bitstream loaded, the baud rate right (--baud), the cable a data "
            "cable, and, where the board's UART is on header pins, RX to TX and TX to RX?"
        )

    def check(self, chip: ChipConfig) -> None:
        """Raises ``UserError`` unless the board's chip is this one."""
        found = self.identity
        if found.signature != chip.signature:
            remedy = f"take the board's chip with -c {found.preset}, or load the bitstream of {chip.name!r}"
            if (found.preset, found.format) == (chip.name, chip.format):
                remedy = "some value of it has changed: make and load the board's bitstream again"
            raise UserError(
                f"the board has chip {found.preset!r} (format {found.format}, signature "
                f"{found.signature:#010x}, made by version {found.version}), the program is for chip "
                f"{chip.name!r} (format {chip.format}, signature {chip.signature:#010x}); {remedy}"
            )
        widths = word_bytes(chip.program_width), word_bytes(chip.word_width)
        if (found.program_bytes, found.map_bytes) != widths:
            raise UserError(
                f"the board's words have {found.program_bytes} and {found.map_bytes} bytes on the line, "
                f"those of chip {chip.name!r} {widths[0]} and {widths[1]}: make and load its bitstream again"
            )

    def reset(self) -> None:
        """Reset the chip, under a new session, so that what is left of an earlier run counts for nothing.

        Raises
        ------
        ToolError : the board does not answer
        """
        self._forget_run()
        old, self._session = self._session, None
        session = self._random.choice([n for n in range(1, WRAP) if n != old])
        request = frame(Request.RESET, SESSION.pack(session))
        for _ in range(ATTEMPTS):
            start = self._clock()
            self._write(bytes([FLAG]) + request)
            for kind, body in self._frames_until(start + max(0.1, self._timeout / ATTEMPTS)):
                if kind != Reply.STATUS:
                    continue
                status = self._decoded(body)
                if status is None or status.session != session or status.program_taken or status.maps_taken:
                    continue  # left from a session before
                self._round_trip = max(self._round_trip, self._clock() - start)
                self._session = session
                self._heard = self._moved = self._clock()
                self._take_status(status)
                return
        raise ToolError("the board does not answer to a reset; is the cable still plugged in?")

    def start(self, program: np.ndarray, fm_in: np.ndarray, expected: int) -> None:
        """Begin a run after ``reset``.

        Parameters
        ----------
        program, fm_in : words of the streams
        expected : words of ``fm_out`` that the program gives
        """
        identity = self.identity
        if self._session is None:
            raise RuntimeError("reset() comes first")
        for stream, words, size in zip(
            self._streams, (program, fm_in), (identity.program_bytes, identity.map_bytes), strict=True
        ):
            line = np.ascontiguousarray(words, "<u8").view(np.uint8).reshape(-1, 8)
            stream.data = np.ascontiguousarray(line[:, :size])
        self._expected = expected
        self._heard = self._moved = self._polled = self._clock()

    # A run

    def advance(self, seconds: float) -> bool:
        """Move words both ways for so long, or until the program has ended; whether it has.

        Raises
        ------
        ChipStoppedError : the chip reports an error, gives too many words, or makes no progress
        ChipError : the board has stopped answering, or was reset by something else
        ToolError : the port is gone
        """
        end = self._clock() + seconds
        while not self._ended():
            self._ask()
            self._send_words()
            for kind, body in self._frames():
                self._take(kind, body)
            now = self._clock()
            self._give_up(now)
            if now >= end:
                return self._ended()
        return True

    def _ended(self) -> bool:
        """All words are taken and all outputs fetched, and a STATUS from after that says HALTED."""
        status = self._status
        if status is None or any(stream.taken < len(stream.data) for stream in self._streams):
            return False
        return bool(status.flags & Flags.HALTED) and self._got == self._there

    def _send_words(self) -> None:
        """Frames of both streams in turn, as many as keep the line busy for ``AHEAD``."""
        room = (AHEAD - max(0.0, self._line_free - self._clock())) * self.identity.baud / 10
        line = bytearray()
        while len(line) < room:
            ready = [stream for stream in self._streams if stream.can_send]
            if not ready:
                break
            for stream in ready:
                if stream.sent == stream.taken:
                    stream.since = self._clock()
                line += stream.next_frame(self._parts)
        if line:
            self._write(bytes(line))

    def _ask(self) -> None:
        """FETCH what is there, STATUS where nothing else brings one, words again that were lost."""
        now = self._clock()
        for stream in self._streams:
            if stream.taken < stream.sent and now - stream.since > self._patience():
                stream.sent = stream.taken
                stream.since = now
                self._lost()
        for request, since in list(self._asked.items()):
            if now - since > self._patience():
                del self._asked[request]  # it, or its answer, is lost
                self._lost()
        # Words that are here take up the board's room until a FETCH from behind them.
        kept = self._status is not None and self._status.output_first != self._got % WRAP
        fetch = (kept or self._there > self._got) and Request.FETCH not in self._asked
        if fetch:
            count = min((MAX_BODY - OUTPUT_HEADER.size) // self.identity.map_bytes // self._parts, 255)
            self._request(Request.FETCH, FETCH_BODY.pack(self._got % WRAP, count))
        told = Request.STATUS in self._asked or any(stream.taken < stream.sent for stream in self._streams)
        if not told and (fetch or now - self._polled >= self._poll):
            self._request(Request.STATUS)
            self._poll = min(2 * self._poll, MOST_POLL)
        if self.identity.features & Features.COUNTERS and now - self._counted > COUNTERS_EVERY:
            self._counted = now
            self._request(Request.COUNTERS)

    def _lost(self) -> None:
        """Wait longer, where the board is only slow, and send less at a time, where the line is bad."""
        self._wait_factor *= 2
        self._arrivals = 0
        self._parts = min(2 * self._parts, MOST_PARTS)

    def _patience(self) -> float:
        """Seconds after which what the streams have under way counts as lost."""
        under_way = sum((s.sent - s.taken) * s.data.shape[1] for s in self._streams)
        line = 20 * (under_way + 2 * MAX_BODY) / self.identity.baud  # twice 10 bits per byte
        self._wait_factor = min(self._wait_factor, self._timeout / 10 / LEAST_WAIT)
        wait = self._wait_factor * (2 * self._round_trip + LEAST_WAIT) + line
        return min(wait, line + self._timeout / 10, self._timeout / 3)

    def _request(self, request: Request, body: bytes = b"") -> None:
        self._write(frame(request, body))
        self._asked[request] = self._polled = self._clock()

    def _take(self, kind: int, body: bytes) -> None:
        """A reply; those that are none of this session's, or make no sense, are passed over."""
        if kind == Reply.STATUS:
            status = self._decoded(body)
            if status is not None:
                self._asked.pop(Request.STATUS, None)
                self._own(status.session)
                self._take_status(status)
        elif kind == Reply.OUTPUT and len(body) >= OUTPUT_HEADER.size:
            session, offset = OUTPUT_HEADER.unpack_from(body)
            self._own(session)
            self._take_output(offset, body[OUTPUT_HEADER.size :])
        elif kind == Reply.COUNTERS and len(body) == SESSION.size + 4 * len(COUNTER_NAMES):
            [session] = SESSION.unpack_from(body)
            self._own(session)
            self._take_counters(np.frombuffer(body[SESSION.size :], "<u4").tolist())

    def _own(self, session: int) -> None:
        """After a RESET was answered, replies of the sessions before have all passed."""
        self._heard = self._clock()
        if session == self._session:
            return
        old, self._session = self.identity, None
        try:
            new = self.connect()
        except ToolError:
            new = old
        if new != old:
            raise ChipError(
                f"the board was reprogrammed in mid-run: it had chip {old.preset!r} and now has "
                f"{new.preset!r}; run it again"
            )
        raise ChipError(
            "the board was reset in mid-run, or another program has taken it over; check its supply and its "
            "reset button, and run again"
        )

    @staticmethod
    def _decoded(body: bytes) -> Status | None:
        try:
            return Status.decode(body)
        except ValueError:
            return None

    def _take_status(self, status: Status) -> None:
        before, self._status = self._status, status
        told = (
            (self._streams[0], status.program_taken, status.program_free),
            (self._streams[1], status.maps_taken, status.maps_free),
        )
        for stream, taken, free in told:
            taken = stream.taken + (taken - stream.taken) % WRAP
            if taken > stream.furthest:
                raise ChipError(
                    f"the board has taken {taken} words of {stream.kind.name}, but {stream.furthest} were "
                    f"sent; does another program use the port?"
                )
            if taken > stream.taken:
                stream.taken, stream.since = taken, self._clock()
                stream.sent = max(stream.sent, taken)
                self._arrived()
            stream.limit = stream.taken + free
        self._layers += (status.layers - self._layers) % WRAP
        # A FETCH may have come between the two: then this tells of fewer than there were.
        more = (status.output_first + status.output_words - self._there) % WRAP
        self._there += more if more < WRAP // 2 else 0
        if before != status:
            self._progress()
        if status.error:
            side, fault = status.place & 0xF, status.place >> 4
            raise ChipStoppedError(
                Event.ERROR,
                f"after {self._layers} layers: the chip reports {error_meaning(status.error, side, fault)}",
            )
        if self._there > self._expected:
            raise ChipStoppedError(
                Event.OVERRUN,
                f"after {self._layers} layers: the chip gave more output words than the {self._expected} "
                f"that the program stores",
            )

    def _take_output(self, offset: int, data: bytes) -> None:
        size = self.identity.map_bytes
        if offset != self._got % WRAP or len(data) % size:
            return  # an answer to a FETCH that was asked again
        self._asked.pop(Request.FETCH, None)
        if not data:
            return
        words = np.zeros((len(data) // size, 2), np.uint8)
        words[:, :size] = np.frombuffer(data, np.uint8).reshape(-1, size)
        self._received.append(words.view("<u2").ravel().astype(np.uint16))
        self._got += len(words)
        self._there = max(self._there, self._got)
        self._arrived()
        self._progress()
        if self._got > self._expected:
            raise ChipStoppedError(
                Event.OVERRUN, f"the chip gave more output words than the {self._expected} that are stored"
            )

    def _arrived(self) -> None:
        """Words have come through: back to the usual, in the end."""
        self._wait_factor = max(1.0, self._wait_factor / 2)
        self._arrivals += 1
        if self._arrivals % WELL == 0:
            self._parts = max(1, self._parts // 2)

    def _take_counters(self, values: list[int]) -> None:
        before = self._counters or dict.fromkeys(COUNTER_NAMES, 0)
        self._counters = {
            name: before[name] + (value - before[name]) % COUNTER_WRAP
            for name, value in zip(COUNTER_NAMES, values, strict=True)
        }
        self._counted = self._clock()
        self._asked.pop(Request.COUNTERS, None)

    def _progress(self) -> None:
        self._moved = self._clock()
        self._poll = LEAST_POLL

    def _give_up(self, now: float) -> None:
        if now - self._heard > self._timeout:
            raise ChipError(
                f"the board has stopped answering: nothing for {self._timeout:g} s, after {self._layers} "
                f"layers; is the cable still plugged in, and the board powered?"
            )
        if now - self._moved > self._timeout:
            words = ", ".join(f"{s.taken} of {len(s.data)} words of {s.kind.name}" for s in self._streams)
            raise ChipStoppedError(
                Event.STUCK,
                f"the chip makes no progress for {self._timeout:g} s, though the board answers: after "
                f"{self._layers} layers, {words} and {self._got} of {self._expected} output words",
            )

    def counters(self) -> dict[str, int] | None:
        """The board's counts since ``reset`` by ``COUNTER_NAMES``; None where it does not count.

        Raises
        ------
        ChipError : the board does not answer
        """
        if not self.identity.features & Features.COUNTERS:
            return None
        for _ in range(ATTEMPTS):
            self._request(Request.COUNTERS)
            end = self._clock() + max(0.1, self._timeout / ATTEMPTS)
            while Request.COUNTERS in self._asked and self._clock() < end:
                for kind, body in self._frames():
                    if kind == Reply.COUNTERS:
                        self._take(kind, body)
            if Request.COUNTERS not in self._asked:
                return dict(self._counters or {})
        raise ChipError("the board has stopped answering: it was asked for its counters")

    # The line

    def _write(self, data: bytes) -> None:
        try:
            self._port.write(data)
        except OSError as error:
            raise broken(error) from None
        baud = self._identity.baud if self._identity else 0
        if baud:
            self._line_free = max(self._clock(), self._line_free) + 10 * len(data) / baud

    def _read(self) -> bytes:
        """What has come, waiting for it up to ``READ_SECONDS``."""
        try:
            data = self._port.read(1)
            there = self._port.in_waiting if data else 0
            return data + self._port.read(there) if there else data
        except OSError as error:
            raise broken(error) from None

    def _frames(self) -> list[tuple[int, bytes]]:
        data = self._read()
        self._bytes += len(data)
        return list(self._deframer.feed(data))

    def _frames_until(self, end: float) -> Iterator[tuple[int, bytes]]:
        while self._clock() < end:
            yield from self._frames()

    def _drain(self) -> None:
        """Read what was on its way, until the line is quiet."""
        end = self._clock() + min(0.5, self._timeout / ATTEMPTS)
        while self._read() and self._clock() < end:
            pass
