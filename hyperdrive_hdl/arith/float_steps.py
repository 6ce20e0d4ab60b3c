"""What the adder and the multiplier share: unpack, normalise, round and pack.

Between the steps an exponent ``e`` goes with a word whose top bit, if set, is the hidden bit of a result with
exponent field e + 1. ``e`` is also the number of places that the word may still move up, so that
normalising stops by itself where subnormals begin: they cost nothing.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from .reference import FloatLayout


def check_layout(layout: FloatLayout) -> None:
    """Raise ``ValueError`` unless there are units for it."""
    for name, low, high in (("exponent_bits", 3, 11), ("mantissa_bits", 2, 52)):
        value = getattr(layout, name)
        if not low <= value <= high:
            raise ValueError(f"{name} must be an integer from {low} to {high}, not {value!r}")
    if not layout.infinities:
        raise ValueError("layout must have infinities: there are conversions without them, and no arithmetic")


def unpack(m: Module, layout: FloatLayout, word: Value, *, name: str) -> tuple[Value, Value]:
    """(effective exponent, significand with hidden bit); a subnormal has exponent 1, and the bit is 0.

    Where subnormals are flushed they have exponent 0, and the caller takes their fraction for zero.
    """
    fraction = word[: layout.mantissa_bits]
    exponent = word[layout.mantissa_bits : layout.width - 1]
    hidden = Signal(name=f"{name}_hidden")
    m.d.comb += hidden.eq(exponent.any())
    if not layout.flush:
        exponent = Cat(exponent[0] | ~hidden, exponent[1:])
    return Value.cast(exponent), Value.cast(Cat(fraction, hidden))


def is_special(layout: FloatLayout, word: Value) -> Value:
    """Infinity or NaN."""
    return word[layout.mantissa_bits : layout.width - 1].all()


def is_nan(layout: FloatLayout, word: Value) -> Value:
    return is_special(layout, word) & word[: layout.mantissa_bits].any()


def move_up(
    m: Module, word: Value, exponent: Value, *, step: int, clear: Value | None = None, still: int = 1
) -> tuple[Value, Value]:
    """Move ``word`` up by ``step`` places if its ``step`` top bits are clear and the exponent allows it.

    Returns the word and whether it moved; the caller takes ``step`` from the exponent (``take``). The lowest
    bit stays where it is and is what comes in from below. ``still`` is how many bits never move: more than
    one where the caller knows that, if a word moves this far, they are all equal. ``clear``, if given, tells
    that the top bits are clear.
    """
    if clear is None:
        clear = ~word[-step:].any()
    move = Signal(name=f"move_{step}")
    m.d.comb += move.eq(clear & exponent[step.bit_length() - 1 :].any())
    incoming = Cat(word[0].replicate(step), word[still:])
    moved = Signal(len(word) - still, name=f"moved_{step}")
    m.d.comb += moved.eq(Mux(move, incoming, word[still:]))
    return Value.cast(Cat(word[:still], moved)), move


def take(m: Module, exponent: Value, move: Value, *, step: int, none: Value | None = None) -> Value:
    """``exponent`` less ``step`` where ``move`` is set; less than ``step`` where ``none`` is."""
    # What does not change gets no new name: CXXRTL would take a value that depends on a part of itself for
    # feedback, and simulate everything around it in several passes.
    places = step.bit_length() - 1
    left = Signal(len(exponent) - places, name=f"exponent_{step}")
    rest = exponent[places:] - move
    m.d.comb += left.eq(rest if none is None else Mux(none, 0, rest))
    return Value.cast(Cat(exponent[:places], left))


def merge_sticky(m: Module, word: Value, *, bits: int, name: str) -> Value:
    """``word`` in ``bits`` bits: what is too low is merged into the lowest one."""
    excess = len(word) - bits
    if excess <= 0:
        return word
    sticky = Signal(name=name)
    m.d.comb += sticky.eq(word[: excess + 1].any())
    return Value.cast(Cat(sticky, word[excess + 1 :]))


def round_and_pack(
    m: Module,
    layout: FloatLayout,
    word: Value,
    exponent: Value,
    *,
    owed: Value,
    clear: Value,
    nan: Value,
) -> tuple[Value, Value]:
    """Exponent and fraction of the result: the last place up if need be, rounded to nearest even.

    ``exponent`` is two too large where ``owed`` is set. If neither of the two top bits is set, no more than
    one is left of it. Where the result is infinite or NaN, the caller sets ``clear``, which is the
    fraction's, and either the top bit with the exponent one below all ones, or the bit below the top one with
    all ones.

    Returns the fields, and whether the result would have been subnormal and was flushed to zero.
    """
    fraction_bits = layout.mantissa_bits
    top, following = word[-1], word[-2]
    first = len(word) - 1 - fraction_bits  # of the fraction, where nothing moves up
    up = Signal()
    fraction = Signal(fraction_bits)
    half = Signal()
    sticky = Signal()
    last = Signal()
    carry = Signal()
    flushed = Signal()
    placed = Mux(up, word[first - 1 : -2], word[first:-1])
    if layout.flush:
        # Without a hidden bit, and not about to get one from rounding.
        m.d.comb += flushed.eq(~(top | (up & following) | (placed.all() & half)))
        clear |= flushed
    m.d.comb += [
        up.eq(~top & (exponent[0] | (exponent[1] & ~owed) | exponent[2:].any())),
        fraction.eq(Mux(clear, 0, placed)),
        half.eq(Mux(up, word[first - 2], word[first - 1])),
        sticky.eq(word[: first - 2].any() | (~up & word[first - 2])),
        # The last bit is rounded outside the carry chain, whose first place would do no more than pass it on.
        last.eq(Mux(fraction[0], ~half, half & sticky) & ~clear),
        carry.eq(fraction[0] & half & ~clear),
    ]
    # Moving up takes one from the exponent, and the hidden bit gives it back; without either of the top bits
    # the result is zero or subnormal, exponent field 0. One carry chain rounds, adds a top bit to the
    # exponent and takes from it what is owed.
    field = Cat(exponent[0] & (top | following), exponent[1 : layout.exponent_bits])
    addend = Cat(carry, Const(0, fraction_bits - 2), top, owed.replicate(layout.exponent_bits - 1))
    rounded = Signal(layout.width - 2)
    m.d.comb += rounded.eq(Cat(fraction[1:-1], fraction[-1] | nan, field) + addend)
    return Value.cast(Cat(last, rounded)), flushed
