"""Widening and narrowing as native code, on every word, against ml_dtypes after clipping, and integers."""

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hyperdrive_hdl.arith import float_conversion, hardware, reference
from hyperdrive_hdl.arith.formats import FORMATS, FP16, FixedFormat, format_by_name
from hyperdrive_hdl.arith.reference import FloatLayout
from tests.support.compiled_unit import CompiledUnit
from tests.support.witness import witness

NAMES = (*FORMATS, "q2.9", "q1.2", "q7.8")


class Conversion(wiring.Component):
    """One of hardware's functions as a component."""

    latency = 0

    def __init__(self, convert, *, format, source, target):
        self._convert = convert
        self._format = format
        super().__init__({"word": In(source.width), "result": Out(target.width)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.d.comb += self.result.eq(self._convert(m, self._format, self.word, name="converted"))
        return m


@pytest.fixture(params=NAMES)
def format(request):
    return format_by_name(request.param)


def results(convert, format, source, target) -> np.ndarray:
    unit = CompiledUnit(Conversion(convert, format=format, source=source, target=target))
    return unit.evaluate(word=np.arange(1 << source.width))["result"]


def test_widen_on_every_word(format):
    """NaNs may have any word; the units that work with them give the canonical one."""
    by = witness(format.name)
    result = results(hardware.widen, format, format, format.sums)
    print(f"{format.name} widened: {result.size} words")
    with np.errstate(invalid="ignore"):
        expected = by.sums(by.read(np.arange(1 << format.width)))
        if not isinstance(format, FixedFormat):
            result = by.sums(by.read_sums(result))
    np.testing.assert_array_equal(result, expected)


def test_narrow_on_every_word(format):
    by = witness(format.name)
    result = results(hardware.narrow, format, format.sums, format)
    print(f"{format.name} narrowed: {result.size} words")
    if format.sums is format:
        np.testing.assert_array_equal(result, np.arange(1 << format.width))
        return
    with np.errstate(invalid="ignore"):
        expected = by.write(by.read_sums(np.arange(1 << format.sums.width)))
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("fields", [(3, 4), (4, 2), (2, 3), (5, 6)])
def test_narrow_to_other_fields(fields, flush):
    """Formats between those with names, against the integer model."""
    exponent_bits, mantissa_bits = fields
    target = FloatLayout(
        exponent_bits=exponent_bits, mantissa_bits=mantissa_bits, flush=flush, infinities=exponent_bits == 5
    )
    source = FloatLayout(exponent_bits=5, mantissa_bits=10, flush=flush)

    def convert(m, format, word, *, name):
        return float_conversion.narrow(m, source, target, word, name=name)

    result = results(convert, None, source, target)
    for word in range(0, 1 << 16, 7):
        assert result[word] == reference.convert(source, target, word), hex(word)


def test_no_conversion():
    m = Module()
    narrow = FloatLayout(exponent_bits=4, mantissa_bits=3)
    with pytest.raises(ValueError, match="no conversion"):
        float_conversion.widen(m, narrow, FP16.layout, hardware.zero(format_by_name("fp8_e4m3")), name="wide")
