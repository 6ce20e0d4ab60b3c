"""A board in Python, written from host_link.py; lines to it: one in simulated time, one behind a real pty.

The chip is ``EchoChip`` or ``InterpretedChip``; the line delays, and damages what ``damage`` says.
"""

import heapq
import itertools
import os
import pty
import select
import threading
import time
import tty
from collections import deque
from collections.abc import Callable

import numpy as np

from hyperdrive_hdl import isa
from hyperdrive_hdl.config import ChipConfig, MeshConfig
from hyperdrive_hdl.errors import ChipError
from hyperdrive_hdl.host_link import (
    COUNTER_NAMES,
    MAX_BODY,
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
from hyperdrive_hdl.model.chip import _Machine
from hyperdrive_hdl.model.decode import Load, Program, _params

WRAP = 1 << 16


class EchoChip:
    """Gives every word of ``fm_in`` back, the ``delta`` higher; ends at HALT. Takes what there is at once."""

    def __init__(self, delta: int = 0):
        self.delta = delta
        self.reset()

    def reset(self) -> None:
        self.program: deque[int] = deque()
        self.maps: deque[int] = deque()
        self.outputs: deque[int] = deque()
        self.layers = self.error = 0
        self.started = self.halted = self.ending = False

    def run(self, room: int) -> None:
        """Go on as far as words, and room for ``room`` more outputs, allow."""
        while self.program:
            self.started = True
            self.ending = self.program.popleft() == isa.header(isa.Opcode.HALT)
        while self.maps and room > 0:
            self.outputs.append((self.maps.popleft() + self.delta) % WRAP)
            room -= 1
        self.halted = self.ending and not self.maps


class InterpretedChip:
    """Runs a program by the reference model, an instruction as soon as all its words are there.

    A LOAD takes words as they come; until it has them all nothing behind it is taken from the program.
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        self.reset()

    def reset(self) -> None:
        self.program: deque[int] = deque()
        self.maps: deque[int] = deque()
        self.outputs: deque[int] = deque()
        self.layers = self.error = 0
        self.started = self.halted = False
        self.machine = _Machine(self.config, MeshConfig(), {(0, 0): np.zeros(0, np.uint16)}, False)
        self.stored: deque[int] = deque()  # of a STORE, not yet given
        self.step: object = None  # instruction that waits for its words
        self.packets = Program()
        self.rows = self.params = 0  # that it still needs
        self.coming = 0  # rows of the packet under way
        self.loaded: list[int] = []

    def run(self, room: int) -> None:
        while self.stored and room > 0:
            self.outputs.append(self.stored.popleft())
            room -= 1
        try:
            while not self.stored and not self.error and self._next():
                while self.stored and room > 0:
                    self.outputs.append(self.stored.popleft())
                    room -= 1
        except ChipError as error:
            codes = {f"error {code.name}": code for code in isa.ErrorCode}
            self.error = int(codes.get(str(error).split(":")[0], isa.ErrorCode.OPCODE))

    def _next(self) -> bool:
        """Whether something was done."""
        if isinstance(self.step, Load):
            return self._load()
        if self.step is not None and not self.rows and not self.params:
            conv, self.step = self.step, None
            self.machine.convolve(conv, self.packets)
            self.layers += 1
            return True
        return self._packet()

    def _load(self) -> bool:
        placed = self.machine._map_of_transfer(self.step.instruction)
        while self.maps and len(self.loaded) < placed.map.words:
            self.loaded.append(self.maps.popleft())
        if len(self.loaded) < placed.map.words:
            return False
        self.machine.inputs[0, 0] = np.array(self.loaded, np.uint16), 0
        self.loaded, self.step = [], None
        self.machine.load(placed)
        return True

    def _packet(self) -> bool:
        if not self.program:
            return False
        if self.coming:
            some = [self.program.popleft() for _ in range(min(self.coming, len(self.program)))]
            self.packets.rows.put(np.array(some, np.uint64))
            self.rows -= len(some)
            self.coming -= len(some)
            return True
        opcode, operand = self.program[0] >> isa.OPERAND_BITS, self.program[0] & 0x1FFF
        if opcode == isa.Opcode.PARAMS:
            operand = self.config.lanes * operand.bit_count()
        if opcode == 0 or opcode > isa.Opcode.HALT or (not self.started and opcode != isa.Opcode.CONFIG):
            self.error = int(isa.ErrorCode.CONFIG if opcode else isa.ErrorCode.OPCODE)
            return False
        if opcode == isa.Opcode.WEIGHTS:  # rows are taken as they come
            self.program.popleft()
            self.coming = operand
            return True
        if len(self.program) <= operand:
            return False
        packet = [self.program.popleft() for _ in range(operand + 1)]
        words = np.array(packet, np.uint64)
        body = (words[1:] & np.uint64(0xFFFF)).astype(np.int64)
        if opcode == isa.Opcode.CONFIG:
            self.started = True
            if list(body) != [isa.MAGIC, self.config.signature & 0xFFFF, self.config.signature >> 16]:
                self.error = int(isa.ErrorCode.CONFIG)
        elif opcode == isa.Opcode.LOAD:
            self.step = Load(isa.Transfer.decode(body))
        elif opcode == isa.Opcode.STORE:
            before = len(self.machine.outputs[0, 0])
            self.machine.store(self.machine._map_of_transfer(isa.Transfer.decode(body)))
            for part in self.machine.outputs[0, 0][before:]:
                self.stored += part.tolist()
        elif opcode == isa.Opcode.CONV:
            conv = isa.Conv.decode(body)
            self.step, self.packets = conv, Program()
            self.rows = conv.groups * conv.out_blocks * conv.group_channels * conv.taps
            self.params = conv.groups * conv.out_blocks if conv.has_params else 0
        elif opcode == isa.Opcode.PARAMS:
            self.packets.params.put(_params(packet[0] & 3, words[1:], self.config))
            self.params -= 1
        else:
            self.halted = True
            return False
        return not self.error


class FakeBoard:
    """The board's side of the protocol: bytes in, replies out one at a time.

    Parameters
    ----------
    config, chip : what it says it has, and what it has
    buffers : words of program, maps and output buffer
    baud : what it says
    features, preset : likewise
    """

    def __init__(
        self,
        config: ChipConfig,
        chip,
        *,
        buffers: tuple[int, int, int] = (2048, 2048, 1024),
        baud: int = 1_000_000,
        features: Features = Features.COUNTERS,
        **identity,
    ):
        self.config, self.chip = config, chip
        self.capacity = buffers
        self.identity = Identity(
            **{
                "signature": config.signature,
                "clock_hz": 50_000_000,
                "baud": baud,
                "program_buffer": buffers[0],
                "maps_buffer": buffers[1],
                "output_buffer": buffers[2],
                "program_bytes": word_bytes(config.program_width),
                "map_bytes": word_bytes(config.word_width),
                "features": features,
                "preset": config.name,
                "format": config.format,
                "version": "0.1.0",
            }
            | identity
        )
        self.held = False  # the chip takes nothing
        self.deaf = False  # nothing is answered
        self.pending: dict[Reply, Callable[[], bytes]] = {}
        self.requests: list[Request] = []
        self.deframer = Deframer()
        self.power_on()

    def power_on(self) -> None:
        self.session = 0
        self._restart()

    def _restart(self) -> None:
        self.chip.reset()
        self.taken = [0, 0]
        self.first = 0
        self.cycles = 0

    def receive(self, data: bytes) -> None:
        for kind, body in self.deframer.feed(data):
            if kind in set(Request) and not self.deaf:
                self.requests.append(Request(kind))
                self._request(Request(kind), body)
        self._run()

    def _run(self) -> None:
        if not self.held:
            self.chip.run(self.capacity[2] - len(self.chip.outputs))

    def _request(self, kind: Request, body: bytes) -> None:
        lengths = {Request.RESET: 2, Request.FETCH: 3}
        if kind in (Request.PROGRAM, Request.MAPS):
            size = self.identity.program_bytes if kind is Request.PROGRAM else self.identity.map_bytes
            if len(body) < 2 or (len(body) - 2) % size:
                return
            self._words(kind, body, size)
        elif len(body) != lengths.get(kind, 0):
            return
        if kind is Request.IDENTIFY:
            self.pending[Reply.IDENTITY] = lambda: frame(Reply.IDENTITY, self.identity.encode())
        elif kind is Request.COUNTERS:
            if self.identity.features & Features.COUNTERS:
                self.pending[Reply.COUNTERS] = self._counters
        elif kind is Request.FETCH:
            offset, count = body[0] | body[1] << 8, body[2]
            forget = (offset - self.first) % WRAP
            if forget <= len(self.chip.outputs):
                for _ in range(forget):
                    self.chip.outputs.popleft()
                self.first = offset
            self.pending[Reply.OUTPUT] = lambda: self._output(count)
        else:
            if kind is Request.RESET:
                self.session = body[0] | body[1] << 8
                self._restart()
            self.pending[Reply.STATUS] = lambda: frame(Reply.STATUS, self.status().encode())

    def _words(self, kind: Request, body: bytes, size: int) -> None:
        index = 0 if kind is Request.PROGRAM else 1
        queue = (self.chip.program, self.chip.maps)[index]
        words = [int.from_bytes(body[at : at + size], "little") for at in range(2, len(body), size)]
        assert len(words) * size <= MAX_BODY
        if body[0] | body[1] << 8 == self.taken[index] % WRAP:
            assert len(queue) + len(words) <= self.capacity[index], f"{kind.name}: beyond the free words"
            queue.extend(words)
            self.taken[index] += len(words)

    def _output(self, count: int) -> bytes:
        size = self.identity.map_bytes
        words = list(itertools.islice(self.chip.outputs, min(count, (MAX_BODY - 4) // size)))
        body = b"".join(word.to_bytes(size, "little") for word in words)
        head = self.session.to_bytes(2, "little") + (self.first % WRAP).to_bytes(2, "little")
        return frame(Reply.OUTPUT, head + body)

    def _counters(self) -> bytes:
        self.cycles += 1000
        values = [self.cycles // (index + 1) % (1 << 32) for index in range(len(COUNTER_NAMES))]
        body = b"".join(value.to_bytes(4, "little") for value in values)
        return frame(Reply.COUNTERS, self.session.to_bytes(2, "little") + body)

    def status(self) -> Status:
        flags = Flags(0)
        if self.chip.halted:
            flags |= Flags.HALTED
        elif self.chip.started:
            flags |= Flags.BUSY
        return Status(
            session=self.session,
            flags=flags,
            error=self.chip.error,
            place=0,
            layers=self.chip.layers % WRAP,
            program_taken=self.taken[0] % WRAP,
            program_free=self.capacity[0] - len(self.chip.program),
            maps_taken=self.taken[1] % WRAP,
            maps_free=self.capacity[1] - len(self.chip.maps),
            output_first=self.first % WRAP,
            output_words=len(self.chip.outputs),
        )

    def reply(self) -> bytes:
        """The next reply, made from what is now; empty where nothing was asked."""
        self._run()
        for kind in list(self.pending):
            return self.pending.pop(kind)()
        return b""


Damage = Callable[[str, bytes], bytes]  # direction "out" (to the board) or "in", bytes


def no_damage(_: str, data: bytes) -> bytes:
    return data


def random_damage(
    seed: int, *, lose: float = 0.0, flip: float = 0.0, insert: float = 0.0
) -> Callable[[str, bytes], bytes]:
    """Each byte is lost, has a bit flipped, or is followed by noise, with such chances."""
    rng = np.random.default_rng(seed)

    def damage(_: str, data: bytes) -> bytes:
        found = bytearray()
        for byte, chance in zip(data, rng.random(len(data)), strict=True):
            if chance < lose:
                continue
            if chance < lose + flip:
                byte ^= 1 << int(rng.integers(8))
            found.append(byte)
            if lose + flip <= chance < lose + flip + insert:
                found += rng.bytes(int(rng.integers(1, 20)))
        return bytes(found)

    return damage


class SimulatedLine:
    """A port whose other end is a ``FakeBoard``, in simulated seconds: ``now`` is the clock.

    Bytes take 10 bits each way; what comes from the board is ``latency`` seconds late, as a USB adapter
    makes it. A write waits while more than ``buffer`` bytes have yet to go out.
    """

    PIECE = 16  # bytes delivered at a time

    def __init__(
        self,
        board: FakeBoard,
        *,
        baud: int | None = None,
        latency: float = 0.001,
        buffer: int = 4096,
        damage: Damage = no_damage,
    ):
        self.board = board
        self.byte_time = 10 / (baud or board.identity.baud)
        self.latency = latency
        self.damage = damage
        self.buffer = buffer
        self.now = 0.0
        self.timeout: float | None = None
        self.sent = self.got = 0
        self.cut = False
        self.at: list[tuple[float, Callable[[], None]]] = []  # what befalls, in order
        self._out_free = self._in_free = 0.0
        self._events: list[tuple[float, int, str, bytes]] = []
        self._number = itertools.count()
        self._here = bytearray()

    def clock(self) -> float:
        return self.now

    @property
    def in_waiting(self) -> int:
        self._until(self.now)
        return len(self._here)

    def write(self, data: bytes) -> int:
        if self.cut:
            raise OSError(5, "Input/output error")
        self._until(self.now)
        self.sent += len(data)
        data = bytes(data)
        for start in range(0, len(data), self.PIECE):
            piece = data[start : start + self.PIECE]
            self._out_free = max(self.now, self._out_free) + len(piece) * self.byte_time
            self._put(self._out_free, "out", self.damage("out", piece))
        backlog = (self._out_free - self.now) / self.byte_time
        if backlog > self.buffer:
            self._until(self.now + (backlog - self.buffer) * self.byte_time)
        return len(data)

    def read(self, size: int = 1) -> bytes:
        end = self.now + (self.timeout or 0)
        self._until(self.now)
        while len(self._here) < size and self.now < end:
            following = self._events[0][0] if self._events else end
            self._until(min(max(following, self.now), end) if following > self.now else self.now)
            if following > end or not self._events:
                self._until(end)
        if self.cut:
            raise OSError(5, "Input/output error")
        data, self._here = bytes(self._here[:size]), self._here[size:]
        self.got += len(data)
        return data

    def close(self) -> None:
        pass

    def _put(self, when: float, what: str, data: bytes) -> None:
        heapq.heappush(self._events, (when, next(self._number), what, data))

    def _until(self, end: float) -> None:
        while True:
            if self.at and self.at[0][0] <= min(end, self._events[0][0] if self._events else end):
                when, act = self.at.pop(0)
                self.now = max(self.now, when)
                act()
                continue
            if not self._events or self._events[0][0] > end:
                break
            when, _, what, data = heapq.heappop(self._events)
            self.now = max(self.now, when)
            if what == "out":
                self.board.receive(data)
            elif what == "in":
                self._here += data
            self._reply()
        self.now = max(self.now, end)

    def _reply(self) -> None:
        """The board begins its next reply when the one before has gone out."""
        if self.now < self._in_free:
            return
        data = self.board.reply()
        if data:
            self._in_free = self.now + len(data) * self.byte_time
            self._put(self._in_free + self.latency, "in", self.damage("in", data))
            self._put(self._in_free, "idle", b"")


class PtyLine:
    """A real pseudo-terminal with a ``FakeBoard`` at its other end, run by a thread: open ``name``."""

    def __init__(self, board: FakeBoard, *, damage: Damage = no_damage):
        self.board = board
        self.damage = damage
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.name = os.ttyname(self._slave)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "PtyLine":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join(5)
        for end in (self._master, self._slave):
            os.close(end)
        if self._error is not None:
            raise self._error

    def _serve(self) -> None:
        try:
            while not self._stop.is_set():
                ready, _, _ = select.select([self._master], [], [], 0.005)
                if ready:
                    self.board.receive(self.damage("out", os.read(self._master, 4096)))
                while data := self.board.reply():
                    self._send(self.damage("in", data))
        except BaseException as error:
            self._error = error

    def _send(self, data: bytes) -> None:
        while data and not self._stop.is_set():
            _, ready, _ = select.select([], [self._master], [], 0.05)
            if ready:
                data = data[os.write(self._master, data) :]
            else:
                time.sleep(0.001)
