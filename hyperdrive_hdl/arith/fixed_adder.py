"""The fixed-point adder/subtractor of a TPU."""

from types import SimpleNamespace

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed

from . import reference
from .pipelined import PipelinedUnit, Step
from .reference import FixedLayout


def saturated(m: Module, value: Value, width: int, *, name: str) -> Value:
    """A signed ``value`` in ``width`` bits: itself, or the end of the range on its side."""
    if len(value) <= width:
        return value
    sign = value[-1]
    outside = Signal(name=f"{name}_outside")
    m.d.comb += outside.eq(value[width - 1 :] != sign.replicate(len(value) - width + 1))
    result = Signal(signed(width), name=name)
    end = (~sign).replicate(width - 1)
    m.d.comb += result.eq(Cat(Mux(outside, end, value[: width - 1]), sign))
    return result


class FixedAdder(PipelinedUnit):
    """``result`` = ``a`` + ``b``, or ``a`` - ``b`` where ``subtract`` is set, saturated.

    Latency ``stages`` - 1, a sum per cycle, no back-pressure; of one stage it is combinational. More than two
    stages only bring registers closer.

    Parameters
    ----------
    layout : fields of the format
    stages : 1 to 4. The register behind ``result`` ends the last stage and is the user's

    Members
    -------
    a, b : In(W), W = ``layout.width``, two's complement
    subtract : In(1)
    result : Out(W)
    """

    _CUTS = {1: "", 2: "add", 3: "operands add", 4: "operands negate add"}

    def __init__(self, *, layout: FixedLayout, stages: int = 1):
        self._layout = layout
        super().__init__(
            operands={"a": layout.width, "b": layout.width, "subtract": 1},
            results={"result": layout.width},
            cuts=self._CUTS,
            stages=stages,
        )

    def model(self, a: int, b: int, subtract: int) -> int:
        """The result, computed in plain integers."""
        return reference.fixed_add(self._layout, a, b, subtract=bool(subtract))

    def _steps(self) -> tuple[Step, ...]:
        return self._negate, self._add, self._saturate

    def _negate(self, m: Module, operands: SimpleNamespace) -> SimpleNamespace:
        flipped = operands.b ^ operands.subtract.replicate(self._layout.width)
        return SimpleNamespace(a=operands.a, b=flipped, carry=operands.subtract)

    def _add(self, m: Module, addends: SimpleNamespace) -> SimpleNamespace:
        total = Signal(signed(self._layout.width + 1))
        m.d.comb += total.eq(addends.a.as_signed() + addends.b.as_signed() + addends.carry)
        return SimpleNamespace(total=total)

    def _saturate(self, m: Module, summed: SimpleNamespace) -> SimpleNamespace:
        return SimpleNamespace(result=saturated(m, summed.total, self._layout.width, name="saturated"))
