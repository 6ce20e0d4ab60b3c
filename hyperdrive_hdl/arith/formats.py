"""Number formats of the feature maps: what a word means, and the operations on arrays of words.

The reference model, the compiler and the datapath ask the format to add, multiply and compare; none of them
knows of exponents. A new format is a ``Format`` here, and its units in ``hardware``. Only numpy is needed.

Words are arrays of the unsigned integer type ``Format.dtype``. Operations are elementwise, broadcast, and
exact to the bit: they define what the RTL must give.
"""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ConfigError
from .reference import FloatLayout


class Accumulator(ABC):
    """K running sums over a map, one rounding per term: what the lanes of all tiles hold (paper section III).

    Made by ``Format.accumulator``.
    """

    @abstractmethod
    def add_terms(self, operands: NDArray, plus: ArrayLike) -> None:
        """Add T maps to each of the K sums, one after the other, in order.

        Parameters
        ----------
        operands : [T, ...]
            The maps, prepared by ``Format.operands``; all dimensions but the first are those of a sum.
        plus : [T, K] of bool
            Whether map t is added to sum k, or subtracted from it.
        """

    @abstractmethod
    def result(self) -> NDArray:
        """The sums so far, words of shape [K, ...]. More terms may follow."""


class Format(ABC):
    """A number format, and arithmetic on arrays of its words.

    ``name`` is that of ``ChipConfig.format``; ``width`` counts the bits of a word; ``zero`` is the word that
    padding is filled with and sums start from.
    """

    name: str
    width: int
    dtype: type[np.unsignedinteger]
    zero: int = 0

    @abstractmethod
    def encode(self, values: ArrayLike) -> NDArray:
        """Words nearest to real ``values``."""

    @abstractmethod
    def decode(self, words: ArrayLike) -> NDArray[np.float32]:
        """The values of ``words``."""

    @abstractmethod
    def canonical(self, words: ArrayLike) -> NDArray:
        """``words`` with each value that has several words replaced by the one that operations return."""

    @abstractmethod
    def add(self, a: ArrayLike, b: ArrayLike) -> NDArray:
        """a + b, rounded."""

    @abstractmethod
    def subtract(self, a: ArrayLike, b: ArrayLike) -> NDArray:
        """a - b, rounded."""

    @abstractmethod
    def multiply(self, a: ArrayLike, b: ArrayLike) -> NDArray:
        """a x b, rounded."""

    @abstractmethod
    def relu(self, a: ArrayLike) -> NDArray:
        """max(a, 0)."""

    @abstractmethod
    def count_specials(self, words: ArrayLike) -> tuple[int, int]:
        """How many ``words`` are infinite (or clipped, in a format that saturates), and how many are NaN."""

    @abstractmethod
    def operands(self, words: ArrayLike) -> NDArray:
        """``words`` prepared for ``Accumulator.add_terms``: same shape, an element per word, zero for zero.

        To be made once per map; slices of it, and copies padded with zeros, are operands too.
        """

    @abstractmethod
    def accumulator(self, start: ArrayLike) -> Accumulator:
        """An accumulator whose K sums start from words [K, ...]."""

    def words(self, values: ArrayLike) -> NDArray:
        """``values`` as an array of words.

        Raises
        ------
        ValueError : they are not integers of ``width`` bits
        """
        words = np.asarray(values)
        if words.dtype == self.dtype:
            return words
        if words.dtype.kind not in "iu" or np.any(words < 0) or np.any(words >> self.width):
            raise ValueError(f"{self.name} words must be integers of {self.width} bits, not {values!r}")
        return words.astype(self.dtype)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class FloatFormat(Format):
    """A floating-point format with IEEE 754's encoding; ``layout`` gives its fields."""

    layout: FloatLayout


class Binary16(FloatFormat):
    """IEEE 754 binary16, round to nearest even, subnormals kept, one NaN, 0x7E00.

    numpy's float16 operations are float32 ones with a second rounding, which is harmless: the 24 bits of
    float32's significand are no less than 2 x 11 + 2.
    """

    name = "fp16"
    width = 16
    dtype = np.uint16
    layout = FloatLayout(exponent_bits=5, mantissa_bits=10)

    def encode(self, values: ArrayLike) -> NDArray[np.uint16]:
        values = np.asarray(values)
        if values.dtype.kind != "f":
            values = values.astype(np.float64)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return self.canonical(values.astype(np.float16).view(np.uint16))

    def decode(self, words: ArrayLike) -> NDArray[np.float32]:
        return self._values(self.canonical(words)).astype(np.float32)

    def canonical(self, words: ArrayLike) -> NDArray[np.uint16]:
        words = self.words(words)
        return np.where(self._is_nan(words), np.uint16(self.layout.nan), words)

    def add(self, a: ArrayLike, b: ArrayLike) -> NDArray[np.uint16]:
        return self._apply(np.add, a, b)

    def subtract(self, a: ArrayLike, b: ArrayLike) -> NDArray[np.uint16]:
        return self._apply(np.subtract, a, b)

    def multiply(self, a: ArrayLike, b: ArrayLike) -> NDArray[np.uint16]:
        return self._apply(np.multiply, a, b)

    def relu(self, a: ArrayLike) -> NDArray[np.uint16]:
        words = self.canonical(a)
        return np.where(words & np.uint16(self.layout.sign_mask), np.uint16(self.zero), words)

    def count_specials(self, words: ArrayLike) -> tuple[int, int]:
        magnitudes = self.words(words) & np.uint16(self.layout.sign_mask - 1)
        infinity = np.uint16(self.layout.infinity)
        return int(np.count_nonzero(magnitudes == infinity)), int(np.count_nonzero(magnitudes > infinity))

    def operands(self, words: ArrayLike) -> NDArray[np.float32]:
        return self.decode(words) * _Float32Accumulator.scale(self.layout)

    def accumulator(self, start: ArrayLike) -> Accumulator:
        return _Float32Accumulator(self, self.operands(start))

    def _values(self, words: ArrayLike) -> NDArray[np.float16]:
        return self.words(words).view(np.float16)

    def _is_nan(self, words: NDArray[np.uint16]) -> NDArray[np.bool_]:
        return (words & np.uint16(self.layout.sign_mask - 1)) > self.layout.infinity

    def _apply(self, operation: np.ufunc, a: ArrayLike, b: ArrayLike) -> NDArray[np.uint16]:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return self.canonical(operation(self._values(a), self._values(b)).view(np.uint16))


class _Float32Accumulator(Accumulator):
    """Sums of a float format narrower than float32, kept in float32 and rounded with integer operations.

    All values are scaled so that the format's largest exponent is float32's: what overflows the format then
    overflows float32 too, rounding included, and becomes infinity by itself. Results below the format's
    normal range are multiples of its smallest subnormal, hence exact, with nothing in the bits that rounding
    clears. The first rounding, to float32, is harmless where 24 >= 2 x (mantissa_bits + 1) + 2. Measured at
    0.5 ns per term where there are 50,000 sums, against 4.4 ns through astype(float16) and 11 ns in float16.
    """

    _BLOCK = 1 << 16  # sums worked on at once: with their temporary they fit a level-2 cache

    @staticmethod
    def scale(layout: FloatLayout) -> np.float32:
        return np.float32(2.0 ** (127 - layout.bias))

    def __init__(self, format: FloatFormat, start: NDArray[np.float32]):
        layout = format.layout
        if 2 * (layout.mantissa_bits + 1) + 2 > 24 or layout.exponent_bits > 8:
            raise ValueError(f"format must be narrow enough to be summed in float32, not {format.name}")
        self._format = format
        self._shape = start.shape
        self._sums = np.array(start, dtype=np.float32, order="C").reshape(start.shape[0], -1)
        dropped = 23 - layout.mantissa_bits
        # Arrays, because numpy converts a Python integer anew in every call.
        self._dropped = np.array(dropped, np.uint32)
        self._one = np.array(1, np.uint32)
        self._below_half = np.array((1 << (dropped - 1)) - 1, np.uint32)
        self._kept = np.array(0xFFFFFFFF << dropped & 0xFFFFFFFF, np.uint32)

    def add_terms(self, operands: NDArray[np.float32], plus: ArrayLike) -> None:
        plus = np.asarray(plus, dtype=bool)
        lanes, pixels = self._sums.shape
        if operands.shape[1:] != self._shape[1:] or plus.shape != (len(operands), lanes):
            raise ValueError(
                f"operands and plus must be of shapes [T, {', '.join(map(str, self._shape[1:]))}] and "
                f"[T, {lanes}], not {operands.shape} and {plus.shape}"
            )
        maps = np.ascontiguousarray(operands, dtype=np.float32).reshape(len(operands), pixels)
        signs = np.where(plus, np.float32(1), np.float32(-1))[:, :, np.newaxis]
        lane_step = max(1, self._BLOCK // max(1, pixels))
        pixel_step = pixels if lane_step > 1 else self._BLOCK  # either way a block is one piece of memory
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for lane in range(0, lanes, lane_step):
                for pixel in range(0, pixels, max(1, pixel_step)):
                    block = slice(lane, lane + lane_step), slice(pixel, pixel + pixel_step)
                    self._add_to_block(self._sums[block], maps[:, block[1]], signs[:, block[0]])

    def _add_to_block(self, sums: NDArray, maps: NDArray, signs: NDArray) -> None:
        term = np.empty_like(sums)
        odd = term.view(np.uint32)
        bits = sums.view(np.uint32)
        for x, sign in zip(maps, signs, strict=True):
            np.multiply(x, sign, out=term)
            np.add(sums, term, out=sums)
            # Nearest even: add just under a half, and one more where the last kept bit is odd; then cut.
            np.right_shift(bits, self._dropped, out=odd)
            np.bitwise_and(odd, self._one, out=odd)
            np.add(bits, self._below_half, out=bits)
            np.add(bits, odd, out=bits)
            np.bitwise_and(bits, self._kept, out=bits)

    def result(self) -> NDArray:
        scale = _Float32Accumulator.scale(self._format.layout)
        return self._format.encode(self._sums / scale).reshape(self._shape)


FP16 = Binary16()
FORMATS: dict[str, Format] = {format.name: format for format in (FP16,)}


def format_by_name(name: str) -> Format:
    """The format that ``ChipConfig.format`` names.

    Raises
    ------
    ConfigError : there is none of that name
    """
    if name not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}, not {name!r}")
    return FORMATS[name]
