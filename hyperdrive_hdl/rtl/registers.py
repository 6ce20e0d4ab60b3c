"""Registers in a row."""

from amaranth.hdl import Module, Signal, Value


def delayed(m: Module, value: Value, cycles: int, *, name: str, init: int | None = None) -> Value:
    """``value`` some cycles later; without ``init`` its registers have no reset."""
    for stage in range(1, cycles + 1):
        later = Signal(len(value), name=f"{name}_{stage}", init=init or 0, reset_less=init is None)
        m.d.sync += later.eq(value)
        value = later
    return value
