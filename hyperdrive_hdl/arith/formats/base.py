"""What every number format offers: words, and the operations on arrays of words."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import ArrayLike, NDArray

SEQUENTIAL, EXACT = "sequential", "exact"
ACCUMULATORS = (SEQUENTIAL, EXACT)


class Accumulator(ABC):
    """K running sums over a map: what the lanes of all tiles hold (paper section III).

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
        """The sums so far, words of ``Format.sums`` of shape [K, ...]. More terms may follow."""


class Format(ABC):
    """A number format of the feature maps, and of what is computed from them.

    ``name`` is that of ``ChipConfig.format``; ``width`` counts the bits of a stored word, and ``dtype`` holds
    one; ``zero`` is the word that padding is filled with and sums start from. What is too large for a format
    that ``saturates`` becomes its largest number. ``accumulators`` are the kinds of sums that it has.
    """

    name: str
    width: int
    dtype: type[np.unsignedinteger]
    zero: int = 0
    saturates: bool
    accumulators: tuple[str, ...] = ACCUMULATORS

    @property
    @abstractmethod
    def sums(self) -> "SumFormat":
        """The format in which terms are summed, biases are given and the epilogue computes."""

    @property
    @abstractmethod
    def scales(self) -> "Format":
        """The format of the factors that sums are multiplied by."""

    @property
    @abstractmethod
    def largest(self) -> float:
        """The largest number."""

    @abstractmethod
    def encode(self, values: ArrayLike) -> NDArray:
        """Words nearest to real ``values``, rounded once."""

    @abstractmethod
    def fits(self, values: ArrayLike) -> NDArray[np.bool_]:
        """Which real ``values`` are numbers that, rounded, lie within the format's range."""

    @abstractmethod
    def decode(self, words: ArrayLike) -> NDArray[np.float32]:
        """The values of ``words``."""

    @abstractmethod
    def canonical(self, words: ArrayLike) -> NDArray:
        """``words`` with each value that has several words replaced by the one that operations return."""

    @abstractmethod
    def count_specials(self, words: ArrayLike) -> tuple[int, int]:
        """How many ``words`` are infinite (or clipped, in a format that saturates), and how many are NaN."""

    @abstractmethod
    def widen(self, words: ArrayLike) -> NDArray:
        """Stored ``words`` as words of ``sums``, exactly."""

    @abstractmethod
    def narrow(self, words: ArrayLike) -> NDArray:
        """Words of ``sums`` as stored words, rounded."""

    @abstractmethod
    def operands(self, words: ArrayLike) -> NDArray:
        """Stored ``words`` prepared for ``Accumulator.add_terms``: same shape, an element per word, zero for
        zero.

        To be made once per map; slices of it, and copies padded with zeros, are operands too.
        """

    @abstractmethod
    def accumulator(self, start: ArrayLike, kind: str = SEQUENTIAL) -> Accumulator:
        """An accumulator whose K sums start from words [K, ...] of ``sums``.

        ``sequential`` rounds after each addition, ``exact`` when the result is asked for.

        Raises
        ------
        ValueError : the format has no accumulator of that kind
        """

    @property
    def words_per_sum(self) -> int:
        """Stored words that a partial sum takes."""
        return -(-self.sums.width // self.width)

    def split(self, sums: ArrayLike) -> NDArray:
        """Words of ``sums`` [...] as stored words [words_per_sum, ...], low part first."""
        words = self.sums.words(sums).astype(np.uint32)
        mask = np.uint32((1 << self.width) - 1)
        parts = [words >> np.uint32(part * self.width) & mask for part in range(self.words_per_sum)]
        return np.stack(parts).astype(self.dtype)

    def join(self, parts: ArrayLike) -> NDArray:
        """Stored words [words_per_sum, ...] as words of ``sums`` [...]: the inverse of ``split``."""
        words = self.words(parts).astype(np.uint32)
        joined = np.zeros(words.shape[1:], np.uint32)
        for part, word in enumerate(words):
            joined |= word << np.uint32(part * self.width)
        return self.sums.words(joined)

    def words(self, values: ArrayLike) -> NDArray:
        """``values`` as an array of words.

        Raises
        ------
        ValueError : they are not integers of ``width`` bits
        """
        words = np.asarray(values)
        fits = words.dtype == self.dtype and words.dtype.itemsize * 8 == self.width
        if not fits and (words.dtype.kind not in "iu" or np.any(words < 0) or np.any(words >> self.width)):
            raise ValueError(f"{self.name} words must be integers of {self.width} bits, not {values!r}")
        return words.astype(self.dtype, copy=False)

    def check_accumulator(self, kind: str) -> None:
        """Raise ``ValueError`` unless there are sums of that kind."""
        if kind not in self.accumulators:
            raise ValueError(f"{self.name} has accumulators {', '.join(self.accumulators)}, not {kind!r}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class SumFormat(Format):
    """A format that sums are kept in: it is its own ``sums``. Operations are elementwise and broadcast."""

    @property
    def sums(self) -> "SumFormat":
        return self

    @abstractmethod
    def add(self, a: ArrayLike, b: ArrayLike) -> NDArray:
        """a + b, rounded."""

    @abstractmethod
    def subtract(self, a: ArrayLike, b: ArrayLike) -> NDArray:
        """a - b, rounded."""

    @abstractmethod
    def multiply(self, a: ArrayLike, b: ArrayLike) -> NDArray:
        """a x b, rounded; b are words of ``scales``."""

    @abstractmethod
    def relu(self, a: ArrayLike) -> NDArray:
        """max(a, 0)."""

    def widen(self, words: ArrayLike) -> NDArray:
        return self.words(words)

    def narrow(self, words: ArrayLike) -> NDArray:
        return self.words(words)
