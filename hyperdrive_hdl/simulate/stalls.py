"""Random stalls for the streams: one pattern, the same here and in the compiled driver (cxx/driver.h)."""

_MASK = 0xFFFFFFFF
_BURST_BITS = 5  # the mood changes every 32 cycles
_THRESHOLDS = (0, 64, 160, 250)  # stalled cycles of 256, by mood


class StallPattern:
    """Tells cycle by cycle whether a stream is held back: fast, slow and nearly dead spells of 32 cycles.

    Parameters
    ----------
    seed : of the run; None never stalls
    stream : number of the stream, so that streams stall independently
    """

    def __init__(self, seed: int | None, stream: int):
        self._active = seed is not None
        self._state = ((seed or 0) * 2654435761 + stream * 40503 + 1) & _MASK or 1
        self._cycle = 0
        self._threshold = 0

    def step(self) -> bool:
        """Whether this cycle is stalled; moves on by one cycle."""
        if not self._active:
            return False
        x = self._state
        x ^= (x << 13) & _MASK
        x ^= x >> 17
        x ^= (x << 5) & _MASK
        self._state = x
        if self._cycle & ((1 << _BURST_BITS) - 1) == 0:
            self._threshold = _THRESHOLDS[x >> 30]
        self._cycle += 1
        return (x >> 8 & 0xFF) < self._threshold
