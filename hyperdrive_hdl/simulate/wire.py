"""The wire of one link in one direction, with its delay and what befalls it: as cxx/link.h does it."""

from collections import deque
from collections.abc import Iterable

from .backend import LinkAction, LinkFaultInjection
from .stalls import Drift

Beat = tuple[bool, int]  # valid, data
IDLE: Beat = (False, 0)


class Wire:
    """Delays beats, in order.

    The delay changes, and a held line begins to hold, only between frames; of the idle beats between two
    frames one always stays. A frame is a run of valid beats.

    Parameters
    ----------
    latency : cycles from the neighbour's output to the chip's input, at least 1; one more where faults are
        injected, since a beat can be lost without a gap only if another one is waiting
    drift : additional cycles
    width : data bits
    faults : in the order in which they happen
    """

    def __init__(self, latency: int, drift: Drift, width: int, faults: Iterable[LinkFaultInjection] = ()):
        self._faults = deque(faults)
        self._base = max(latency - 1, 1 if self._faults else 0)
        self._drift = drift
        self._width = width
        self._held = 0
        self._in_frame = False
        self._kind_bits = 0  # seen of the frame's kind
        self._border = False  # the frame is known to have words
        self._border_beats = 0
        self._under_way: deque[Beat] = deque()

    def step(self, cycle: int, sent: Beat) -> Beat:
        """What arrives at the end of a cycle in which the neighbour sends a beat."""
        if not self._base and not self._drift.drifts:
            return sent
        self._under_way.extend(self._disturbed(cycle, sent) if self._faults else (sent,))
        target = self._base + self._drift.step()
        if not self._under_way:
            return IDLE
        if not self._under_way[0][0]:
            if self._held:
                self._held -= 1
                return IDLE
            if len(self._under_way) <= target:
                return IDLE
            if len(self._under_way) > target + 1 and not self._under_way[1][0]:
                self._under_way.popleft()
        return self._under_way.popleft()

    def _disturbed(self, cycle: int, sent: Beat) -> tuple[Beat, ...]:
        """What becomes of a beat."""
        self._follow(sent)
        fault = self._faults[0]
        if not sent[0] or cycle < fault.cycle or self._border_beats < fault.border_beat:
            return (sent,)
        self._faults.popleft()
        if fault.action is LinkAction.FLIP:
            return ((True, sent[1] ^ fault.mask),)
        if fault.action is LinkAction.DROP:
            return ()
        if fault.action is LinkAction.REPEAT:
            return (sent, sent)
        self._held = fault.cycles
        return (sent,)

    def _follow(self, sent: Beat) -> None:
        """Count beats of border frames, from the one on that completes the two bits of the frame's kind."""
        valid, data = sent
        if valid and not self._in_frame:
            self._border = False
            self._kind_bits = 0
        self._in_frame = valid
        if not valid:
            return
        if self._kind_bits < 2:
            self._border |= bool(data & 1 if self._width == 1 else data >> (self._width - 2) & 3)
            self._kind_bits += self._width
        self._border_beats += self._border
