"""Number formats of the feature maps: what a word means, and the operations on arrays of words.

The reference model, the compiler and the datapath ask the format to add, multiply and compare; none of them
knows of exponents. Maps are stored in words of a ``Format``; its ``sums`` is the format in which terms are
accumulated and the epilogue works, its ``scales`` that of the factors. A new format is a ``Format`` here, and
its units in ``hardware``. Only numpy is needed.

Words are arrays of unsigned integers: uint16, and uint32 where sums are wider. Operations are elementwise,
broadcast, and exact to the bit: they define what the RTL must give.
"""

from ...errors import ConfigError
from ..reference import FloatLayout
from .base import ACCUMULATORS, EXACT, SEQUENTIAL, Accumulator, Format, SumFormat
from .fixed import MAX_WIDTH, MIN_WIDTH, FixedFormat, FixedSums, fixed_by_name
from .floats import Float8, FloatFormat

__all__ = [
    "ACCUMULATORS",
    "BF16",
    "EXACT",
    "FORMATS",
    "FP8_E4M3",
    "FP8_E5M2",
    "FP16",
    "SEQUENTIAL",
    "Accumulator",
    "FixedFormat",
    "FixedSums",
    "Float8",
    "FloatFormat",
    "Format",
    "SumFormat",
    "format_by_name",
]


def _floats(flush: bool) -> tuple[FloatFormat, FloatFormat, Float8, Float8]:
    """The floating-point formats, with or without subnormals."""
    suffix = "_ftz" if flush else ""

    def layout(exponent_bits: int, mantissa_bits: int, **options: bool) -> FloatLayout:
        return FloatLayout(exponent_bits=exponent_bits, mantissa_bits=mantissa_bits, flush=flush, **options)

    fp16 = FloatFormat(f"fp16{suffix}", layout(5, 10))
    return (
        fp16,
        FloatFormat(f"bf16{suffix}", layout(8, 7)),
        Float8(f"fp8_e5m2{suffix}", layout(5, 2), fp16),
        Float8(f"fp8_e4m3{suffix}", layout(4, 3, infinities=False), fp16),
    )


FP16, BF16, FP8_E5M2, FP8_E4M3 = _floats(flush=False)
# The formats with names; fixed-point ones are made when they are asked for.
FORMATS: dict[str, Format] = {
    format.name: format for format in (FP16, BF16, FP8_E5M2, FP8_E4M3, *_floats(flush=True))
}


def format_by_name(name: str) -> Format:
    """The format that ``ChipConfig.format`` names, always the same object.

    Raises
    ------
    ConfigError : there is none of that name
    """
    found = FORMATS.get(name) or fixed_by_name(name) if isinstance(name, str) else None
    if found is None:
        raise ConfigError(
            f"format must be one of {', '.join(FORMATS)}, or qI.F (fixed point, sign + I + F = {MIN_WIDTH} "
            f"to {MAX_WIDTH} bits, for example q2.9), not {name!r}"
        )
    return found
