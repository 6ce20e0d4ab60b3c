"""The hardware of a number format: what the RTL asks instead of knowing formats.

``adder(format)`` is a component with members ``a``, ``b``, ``subtract``, ``result``; ``multiplier(format)``
one with ``a``, ``b``, ``result``. Both have a ``latency`` and a ``model()``. Words are as in ``formats``.
"""

from functools import partial

from amaranth.hdl import Const, Mux, Value
from amaranth.lib import wiring

from ..errors import ConfigError
from .float_adder import FloatAdder
from .float_multiplier import FloatMultiplier
from .float_steps import is_nan
from .formats import FloatFormat, Format


def adder_kind(format: Format, *, stages: int = 1) -> partial[wiring.Component]:
    """The adder's class with its parameters, for the RTL to place; its latency is ``stages`` - 1."""
    layout = _float(format).layout
    return partial(
        FloatAdder, exponent_bits=layout.exponent_bits, mantissa_bits=layout.mantissa_bits, stages=stages
    )


def multiplier_kind(format: Format, *, stages: int = 1) -> partial[wiring.Component]:
    """The multiplier's class with its parameters; its latency is ``stages`` - 1."""
    layout = _float(format).layout
    return partial(
        FloatMultiplier, exponent_bits=layout.exponent_bits, mantissa_bits=layout.mantissa_bits, stages=stages
    )


def adder(format: Format, *, stages: int = 1) -> wiring.Component:
    """An adder/subtractor of words."""
    return adder_kind(format, stages=stages)()


def multiplier(format: Format, *, stages: int = 1) -> wiring.Component:
    """A multiplier of words."""
    return multiplier_kind(format, stages=stages)()


def relu(value: Value, format: Format) -> Value:
    """max(value, +0), an expression: -0 gives +0, NaN the canonical one."""
    layout = _float(format).layout
    return Mux(is_nan(layout, value), Const(layout.nan, layout.width), Mux(value[-1], zero(format), value))


def zero(format: Format) -> Const:
    """The word that padding is filled with and sums start from."""
    return Const(format.zero, format.width)


def _float(format: Format) -> FloatFormat:
    if not isinstance(format, FloatFormat):
        raise ConfigError(f"format {format.name} has no hardware units")
    return format
