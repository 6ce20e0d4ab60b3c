"""Arithmetic of the number formats by others: numpy, ml_dtypes, Python's integers.

None of it shares code with ``hyperdrive_hdl.arith``. Values are arrays of a type of numpy's or ml_dtypes', or
int64 in units of a fixed-point format's last place.
"""

import re

import ml_dtypes
import numpy as np

FLOAT_TYPES = {
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "fp8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "fp8_e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
}
NANS = {"fp16": 0x7E00, "bf16": 0x7FC0, "fp8_e5m2": 0x7E, "fp8_e4m3": 0x7F}


def witness(name: str) -> "FloatWitness | FixedWitness":
    """The arithmetic of the format of that name."""
    return FixedWitness(name) if name.startswith("q") else FloatWitness(name)


class FloatWitness:
    """IEEE 754 and OCP formats; ``_ftz`` sets what is subnormal to zero before and after each operation."""

    def __init__(self, name: str):
        self.base = name.removesuffix("_ftz")
        self.flush = name != self.base
        self.stored = FLOAT_TYPES[self.base]
        self.type = FLOAT_TYPES["bf16" if self.base == "bf16" else "fp16"]
        self.nan = NANS["bf16" if self.base == "bf16" else "fp16"]

    def read(self, words):
        """Values of stored words."""
        values = np.asarray(words).astype(f"u{self.stored.itemsize}").view(self.stored)
        return self._flushed(values).astype(self.type)

    def read_sums(self, words):
        """Values of words of the sums' format."""
        return self._flushed(np.asarray(words, np.uint16).view(self.type))

    read_scales = read_sums

    def add(self, a, b):
        return self._flushed(self._flushed(a) + self._flushed(b), sums=True)

    def multiply(self, a, b):
        # In float64, where products are exact; ml_dtypes' own are rounded to float32 first.
        return self._flushed(self._nearest(a.astype(np.float64) * b.astype(np.float64)))

    def exact(self, terms):
        """All terms in one sum: below 2^53 units, and so exact in float64."""
        return self._flushed((sum(t.astype(np.float64) for t in terms) + 0.0).astype(self.type), sums=True)

    def relu(self, a):
        return np.where(a > 0, a, np.where(np.isnan(a), a, self.type.type(0)))

    def sums(self, values):
        """Words of values in the sums' format."""
        return np.where(np.isnan(values), np.uint16(self.nan), values.view(np.uint16))

    def write(self, values):
        """Stored words, clipped first and then rounded."""
        if self.stored == self.type:
            return self.sums(values)
        largest = float(ml_dtypes.finfo(self.stored).max)
        rounded = np.clip(values, -largest, largest).astype(self.stored)
        words = self._flushed(rounded).view(np.uint8)
        return np.where(np.isnan(values), NANS[self.base], words).astype(np.uint16)

    def _flushed(self, values, *, sums=False):
        if not self.flush:
            return values
        small = (np.abs(values) < ml_dtypes.finfo(values.dtype).smallest_normal) & (values != 0)
        zero = np.zeros_like(values)
        return np.where(small, zero if sums else np.copysign(zero, values), values)

    def _nearest(self, values):
        """float64 to the type, rounded once: down to float32 with the last bit as a sticky one, then on."""
        if self.type == np.float16:
            return values.astype(np.float16)
        bits = values.view(np.uint64)
        low = np.uint64((1 << 32) - 1)
        odd = np.where((bits & low != 0) & np.isfinite(values), bits & ~low | np.uint64(1 << 32), bits)
        tiny = np.abs(values) < 2.0**-126  # where float32 has fewer bits: in units of 2^-133, ties to even
        whole = np.rint(np.where(tiny, values, 0) * 2.0**133) * 2.0**-133
        return np.where(tiny, whole, odd.view(np.float64)).astype(np.float32).astype(self.type)


class FixedWitness:
    """Two's complement with Python's and numpy's integers, saturating at each step."""

    def __init__(self, name: str):
        integer, self.fraction = map(int, re.findall(r"\d+", name))
        self.width = 1 + integer + self.fraction
        self.sums_width = self.width + 6

    def read(self, words):
        return self._signed(words, self.width)

    def read_sums(self, words):
        return self._signed(words, self.sums_width)

    def read_scales(self, words):
        return self._signed(words, 16)

    def add(self, a, b):
        return self._clipped(a + b, self.sums_width)

    def multiply(self, a, b):
        return self._clipped(np.rint(a * b / 2.0**12).astype(np.int64), self.sums_width)

    def exact(self, terms):
        return self._clipped(sum(terms), self.sums_width)

    def relu(self, a):
        return np.maximum(a, 0)

    def sums(self, values):
        return (values % (1 << self.sums_width)).astype(np.uint16 if self.sums_width <= 16 else np.uint32)

    def write(self, values):
        return (self._clipped(values, self.width) % (1 << self.width)).astype(np.uint16)

    @staticmethod
    def _signed(words, width):
        words = np.asarray(words).astype(np.int64)
        return np.where(words >> (width - 1), words - (1 << width), words)

    @staticmethod
    def _clipped(values, width):
        return np.clip(values, -1 << (width - 1), (1 << (width - 1)) - 1)
