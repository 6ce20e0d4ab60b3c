"""Random stalls of streams and delays of links: the same here and in the compiled driver (cxx/stalls.h)."""

_MASK = 0xFFFFFFFF
_BURST_BITS = 5  # the mood changes every 32 cycles
_THRESHOLDS = (0, 64, 160, 250)  # stalled cycles of 256, by mood
_DRIFT_BITS = 6  # the delay changes every 64 cycles

MAX_DRIFT = 15  # cycles
STREAMS_PER_CHIP = 8  # numbers of random patterns: program, fm_in, fm_out, none, a link for each side


class Random:
    """Numbers of 32 bits (xorshift).

    Parameters
    ----------
    seed : of the run
    stream : number of the stream, so that streams go their own ways
    """

    def __init__(self, seed: int, stream: int):
        self._state = (seed * 2654435761 + stream * 40503 + 1) & _MASK or 1

    def step(self) -> int:
        x = self._state
        x ^= (x << 13) & _MASK
        x ^= x >> 17
        x ^= (x << 5) & _MASK
        self._state = x
        return x


class StallPattern:
    """Tells cycle by cycle whether a stream is held back: fast, slow and nearly dead spells of 32 cycles.

    Parameters
    ----------
    seed : of the run; None never stalls
    stream : number of the stream
    """

    def __init__(self, seed: int | None, stream: int):
        self._active = seed is not None
        self._random = Random(seed or 0, stream)
        self._cycle = 0
        self._threshold = 0

    def step(self) -> bool:
        """Whether this cycle is stalled; moves on by one cycle."""
        if not self._active:
            return False
        x = self._random.step()
        if self._cycle & ((1 << _BURST_BITS) - 1) == 0:
            self._threshold = _THRESHOLDS[x >> 30]
        self._cycle += 1
        return (x >> 8 & 0xFF) < self._threshold


class Drift:
    """Tells cycle by cycle the additional delay of a link, 0 to ``MAX_DRIFT``; another one every 64 cycles.

    Parameters
    ----------
    seed : of the run; None never drifts
    stream : number of the link
    """

    def __init__(self, seed: int | None, stream: int):
        self.drifts = seed is not None
        self._random = Random(seed or 0, stream)
        self._cycle = 0
        self._extra = 0

    def step(self) -> int:
        """The delay in this cycle; moves on by one cycle."""
        if self.drifts:
            x = self._random.step()
            if self._cycle & ((1 << _DRIFT_BITS) - 1) == 0:
                self._extra = x >> 28
            self._cycle += 1
        return self._extra
