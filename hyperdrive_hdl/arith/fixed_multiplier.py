"""The fixed-point multiplier of a tile: a sum by a scale factor."""

from types import SimpleNamespace

from amaranth.hdl import Module, Signal, signed

from . import reference
from .fixed_adder import saturated
from .pipelined import PipelinedUnit, Step
from .reference import FixedLayout


class FixedMultiplier(PipelinedUnit):
    """``result`` = ``a`` x ``b``, rounded to nearest even and saturated.

    Latency ``stages`` - 1, a product per cycle, no back-pressure; of one stage it is combinational. Up to 18
    bits each, the product is one multiplier block of an ECP5.

    Parameters
    ----------
    layout, scales : fields of the formats of ``a`` and of ``b``; ``scales`` has fraction bits
    stages : 1 to 4. The register behind ``result`` ends the last stage and is the user's

    Members
    -------
    a : In(W), W = ``layout.width``, two's complement
    b : In(S), S = ``scales.width``, two's complement
    result : Out(W)
    """

    _CUTS = {1: "", 2: "multiply", 3: "multiply round", 4: "operands multiply round"}

    def __init__(self, *, layout: FixedLayout, scales: FixedLayout, stages: int = 1):
        if scales.fraction_bits < 1:
            raise ValueError("scales must have at least one fraction bit")
        self._layout = layout
        self._scales = scales
        super().__init__(
            operands={"a": layout.width, "b": scales.width},
            results={"result": layout.width},
            cuts=self._CUTS,
            stages=stages,
        )

    def model(self, a: int, b: int) -> int:
        """The result, computed in plain integers."""
        return reference.fixed_multiply(self._layout, self._scales, a, b)

    def _steps(self) -> tuple[Step, ...]:
        return self._multiply, self._round, self._saturate

    def _multiply(self, m: Module, factors: SimpleNamespace) -> SimpleNamespace:
        product = Signal(signed(self._layout.width + self._scales.width))
        m.d.comb += product.eq(factors.a.as_signed() * factors.b.as_signed())
        return SimpleNamespace(product=product)

    def _round(self, m: Module, multiplied: SimpleNamespace) -> SimpleNamespace:
        product = multiplied.product
        places = self._scales.fraction_bits
        kept, half, sticky = product[places:], product[places - 1], product[: places - 1].any()
        rounded = Signal(signed(len(kept)))  # does not overflow: no product is near the ends of its range
        m.d.comb += rounded.eq(kept.as_signed() + (half & (sticky | kept[0])))
        return SimpleNamespace(rounded=rounded)

    def _saturate(self, m: Module, product: SimpleNamespace) -> SimpleNamespace:
        return SimpleNamespace(result=saturated(m, product.rounded, self._layout.width, name="saturated"))
