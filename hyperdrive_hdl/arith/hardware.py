"""The hardware of a number format: what the RTL asks instead of knowing formats.

``format`` is the stored ``Format``; units work on words of its ``sums``. A ``*_kind`` is a class with its
parameters, for the RTL to place; all kinds have a ``latency`` and a ``model()``:

===================  ==================================  ===================  ==============
kind                 operands                            results              latency
===================  ==================================  ===================  ==============
``adder_kind``       ``a``, ``b``, ``subtract``          ``result``           ``stages`` - 1
``multiplier_kind``  ``a``, ``b`` (of ``scales``)        ``result``           ``stages`` - 1
``term_kind``        ``x``                               ``term``, ``plus``,  ``stages``
                                                         ``minus``
``rounder_kind``     ``total``, ``plus``, ``minus``      ``result``           ``stages`` - 1
===================  ==================================  ===================  ==============
"""

from functools import partial

from amaranth.hdl import Cat, Const, Module, Mux, Value
from amaranth.lib import wiring

from ..errors import ConfigError
from . import float_conversion
from .exact_sums import ExactRounder, ExactTerm, FixedRounder, FixedTerm
from .fixed_adder import FixedAdder, saturated
from .fixed_multiplier import FixedMultiplier
from .float_adder import FloatAdder
from .float_multiplier import FloatMultiplier
from .formats import EXACT, Format
from .reference import FixedLayout

Kind = partial[wiring.Component]


def adder_kind(format: Format, *, stages: int = 1) -> Kind:
    """An adder/subtractor of sums."""
    kind = FixedAdder if _is_fixed(format) else FloatAdder
    return partial(kind, layout=format.sums.layout, stages=stages)


def multiplier_kind(format: Format, *, stages: int = 1) -> Kind:
    """A multiplier of a sum and a scale factor."""
    if _is_fixed(format):
        return partial(FixedMultiplier, layout=format.sums.layout, scales=format.scales.layout, stages=stages)
    return partial(FloatMultiplier, layout=format.sums.layout, stages=stages)


def relu(value: Value, format: Format) -> Value:
    """max(value, 0) of a sum, an expression: -0 gives +0, and NaN itself, which units give without a sign."""
    return Mux(value[-1], zero(format.sums), value)


def zero(format: Format) -> Const:
    """The word that padding is filled with and sums start from."""
    return Const(format.zero, format.width)


def widen(m: Module, format: Format, word: Value, *, name: str) -> Value:
    """A stored word as a word of sums. A NaN stays one, if not the canonical one."""
    if format.sums is format:
        return word
    if _is_fixed(format):
        sign = word[-1].replicate(format.sums.width - format.width)
        return Value.cast(Cat(word, sign))
    return float_conversion.widen(m, format.layout, format.sums.layout, word, name=name)


def narrow(m: Module, format: Format, word: Value, *, name: str) -> Value:
    """A word of sums as a stored word, rounded to nearest even and saturated."""
    if format.sums is format:
        return word
    if _is_fixed(format):
        return saturated(m, word, format.width, name=name).as_unsigned()
    return float_conversion.narrow(m, format.sums.layout, format.layout, word, name=name)


def exact_width(format: Format, terms: int) -> int:
    """Bits, in two's complement, of exact sums of ``terms`` terms and one stored partial sum.

    Raises
    ------
    ConfigError : the format has no exact sums
    """
    _check_exact(format)
    if _is_fixed(format):
        bound = terms * -format.layout.lowest - format.sums.layout.lowest
    else:
        term, partial_sum = (
            layout.magnitude(layout.largest) << (layout.unit_exponent - format.layout.unit_exponent)
            if layout.unit_exponent >= format.layout.unit_exponent
            else layout.magnitude(layout.largest) >> (format.layout.unit_exponent - layout.unit_exponent)
            for layout in (format.layout, format.sums.layout)
        )
        bound = terms * term + partial_sum
    return bound.bit_length() + 1


def term_kind(format: Format, *, terms: int, stages: int = 2) -> Kind:
    """From a word of sums to an integer and flags; the results come from registers."""
    width = exact_width(format, terms)
    if _is_fixed(format):
        return partial(FixedTerm, layout=format.sums.layout, width=width, stages=stages)
    unit = format.layout.unit_exponent
    return partial(ExactTerm, layout=format.sums.layout, unit_exponent=unit, width=width, stages=stages)


def rounder_kind(format: Format, *, terms: int, stages: int) -> Kind:
    """From a total of integers and flags to a word of sums."""
    width = exact_width(format, terms)
    if _is_fixed(format):
        return partial(FixedRounder, layout=format.sums.layout, width=width, stages=stages)
    unit = format.layout.unit_exponent
    return partial(ExactRounder, layout=format.sums.layout, unit_exponent=unit, width=width, stages=stages)


def _is_fixed(format: Format) -> bool:
    return isinstance(format.layout, FixedLayout)


def _check_exact(format: Format) -> None:
    if EXACT not in format.accumulators:
        raise ConfigError(
            f"format {format.name} has no exact accumulator, its range is too wide: "
            "set accumulator to sequential, or choose another format"
        )
