"""From a narrow floating-point format to a wider one and back: FP8 words of memory, FP16 sums."""

from amaranth.hdl import Cat, Const, Module, Signal, Value

from .float_steps import is_nan
from .reference import FloatLayout


def widen(m: Module, source: FloatLayout, target: FloatLayout, word: Value, *, name: str) -> Value:
    """A word of ``source`` in the wider ``target``, exactly. A NaN stays one, if not the canonical one.

    Raises
    ------
    ValueError : not all numbers of ``source`` are normal numbers of ``target``, nor is its exponent the same
    """
    bits = source.mantissa_bits
    fraction, exponent, sign = word[:bits], word[bits:-1], word[-1]
    below = Const(0, target.mantissa_bits - bits)
    if source.exponent_bits == target.exponent_bits:
        if source.flush:
            fraction &= exponent.any().replicate(bits)
        return Value.cast(Cat(below, fraction, exponent, sign))
    rebias = target.bias - source.bias
    if rebias < bits or source.infinities:
        raise ValueError(f"there is no conversion from {source} to {target}")
    wide_fraction = Signal(bits, name=f"{name}_fraction")
    wide_exponent = Signal(target.exponent_bits, name=f"{name}_exponent")
    with m.If(exponent.any()):
        m.d.comb += [wide_fraction.eq(fraction), wide_exponent.eq(exponent + rebias)]
        with m.If(word[:-1].all()):
            m.d.comb += wide_exponent.eq(~Const(0, target.exponent_bits))
    if not source.flush:
        for place in range(bits):  # of a subnormal's highest one
            with m.Elif(fraction[place:] == 1):
                m.d.comb += [
                    wide_fraction.eq(fraction << (bits - place)),
                    wide_exponent.eq(rebias + 1 - bits + place),
                ]
    return Value.cast(Cat(below, wide_fraction, wide_exponent, sign))


def narrow(m: Module, source: FloatLayout, target: FloatLayout, word: Value, *, name: str) -> Value:
    """A word of ``source`` in the narrower ``target``, rounded to nearest even and saturated.

    What is too large, or infinite, becomes the largest number of its sign; NaN the canonical one.
    """
    bits = target.mantissa_bits
    fraction, exponent, sign = word[: source.mantissa_bits], word[source.mantissa_bits : -1], word[-1]
    low = source.mantissa_bits - bits - 1  # of the fraction, the places below rounding's
    if source.flush:
        fraction &= exponent.any().replicate(source.mantissa_bits)
    # Sticky, rounding's place, the fraction of the result; above it the exponent, or a subnormal's nothing.
    places = Signal(bits + 2, name=f"{name}_places")
    narrow_exponent = Signal(target.exponent_bits, name=f"{name}_exponent")
    rebias = source.bias - target.bias
    large = exponent[-1] & (exponent[:-1] >> (target.exponent_bits - 1)).any()
    m.d.comb += [
        places.eq(Cat(fraction[:low].any(), fraction[low:])),
        narrow_exponent.eq(exponent - rebias),
    ]
    if rebias:
        with m.If(exponent <= rebias):
            m.d.comb += [places.eq(0), narrow_exponent.eq(0)]
        significand = Value.cast(Cat(fraction, 1))
        for less in range(min(bits + 1, rebias)):
            first = low + 1 + less
            with m.If(exponent == rebias - less):
                m.d.comb += places.eq(Cat(significand[:first].any(), significand[first:]))
    else:
        large = Const(0)
    up = places[1] & (places[0] | places[2])
    rounded = Signal(target.width, name=f"{name}_rounded")
    result = Signal(target.width, name=name)
    m.d.comb += [
        rounded.eq(Cat(places[2:], narrow_exponent) + up),
        result.eq(Cat(rounded[:-1], sign)),
    ]
    if target.flush:
        with m.If(~rounded[bits:].any()):
            m.d.comb += result.eq(Cat(Const(0, target.width - 1), sign))
    with m.If(large | (rounded > target.largest)):
        m.d.comb += result.eq(Cat(Const(target.largest, target.width - 1), sign))
    with m.If(is_nan(source, word)):
        m.d.comb += result.eq(target.nan)
    return result
