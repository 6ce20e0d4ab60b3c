"""Tile: K TPUs that share one input pixel, and the epilogue for their sums."""

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from ..arith import hardware
from ..arith.formats import Format
from .hierarchy import instantiate
from .layouts import lane_bits
from .tpu import TPU


class EpilogueSignature(wiring.Signature):
    """Control and parameters of the epilogue, the same for every tile, each in the cycle of its stage.

    lane : select stage, the lane whose held sum enters
    use_scale, scale : multiply stage
    use_bias, bias : bias stage
    use_bypass, relu : bypass stage
    preload, preload_lane : bypass stage, the ``bypass`` word is a partial sum for that lane
    """

    def __init__(self, *, lanes: int, format: Format):
        super().__init__(
            {
                "lane": Out(lane_bits(lanes)),
                "use_scale": Out(1),
                "scale": Out(format.width),
                "use_bias": Out(1),
                "bias": Out(format.width),
                "use_bypass": Out(1),
                "relu": Out(1),
                "preload": Out(1),
                "preload_lane": Out(lane_bits(lanes)),
            }
        )


class TileEpilogue(wiring.Component):
    """One finished sum per cycle through scale, bias, bypass and ReLU: a multiplier and two adders.

    Every step is optional and rounds once (README: How it works). No back-pressure.

    ======  ==========================================================
    stage   work
    ======  ==========================================================
    0       select the held sum of ``lane``
    1       multiply by ``scale``
    2       add ``bias``; ``bypass`` comes from memory
    3       add the bypass, ReLU, zero where the pixel is not ``true``
    4       ``result`` is valid
    ======  ==========================================================

    Parameters
    ----------
    lanes : K
    format : number format

    Members
    -------
    held : the TPUs' finished sums
    control : ``EpilogueSignature``
    bypass : word of the bypass map, at stage 3
    true : the pixel lies inside the map, at stage 3
    result : finished word
    """

    def __init__(self, *, lanes: int, format: Format):
        self._format = format
        super().__init__(
            {
                "held": In(format.width).array(lanes),
                "control": In(EpilogueSignature(lanes=lanes, format=format)),
                "bypass": In(format.width),
                "true": In(1),
                "result": Out(format.width),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from ``lane`` to ``result``."""
        return 4

    def elaborate(self, platform) -> Module:
        m = Module()
        control = self.control
        width = self._format.width
        selected = Signal(width, reset_less=True)
        scaled = Signal(width, reset_less=True)
        biased = Signal(width, reset_less=True)
        multiplier = instantiate(m, platform, "multiplier", hardware.multiplier_kind(self._format))
        bias_adder = instantiate(m, platform, "bias_adder", hardware.adder_kind(self._format))
        bypass_adder = instantiate(m, platform, "bypass_adder", hardware.adder_kind(self._format))

        m.d.comb += [
            multiplier.a.eq(selected),
            multiplier.b.eq(control.scale),
            bias_adder.a.eq(scaled),
            bias_adder.b.eq(control.bias),
            bypass_adder.a.eq(biased),
            bypass_adder.b.eq(self.bypass),
        ]
        summed = Signal(width)
        m.d.comb += summed.eq(Mux(control.use_bypass, bypass_adder.result, biased))
        rectified = Mux(control.relu, hardware.relu(summed, self._format), summed)

        m.d.sync += [
            selected.eq(Array(self.held)[control.lane]),
            scaled.eq(Mux(control.use_scale, multiplier.result, selected)),
            biased.eq(Mux(control.use_bias, bias_adder.result, scaled)),
            self.result.eq(Mux(self.true, rectified, hardware.zero(self._format))),
        ]
        return m


class Tile(wiring.Component):
    """K sums of one pixel in parallel, and the epilogue of the pixel before.

    Parameters
    ----------
    lanes : K
    format : number format

    Members
    -------
    x : input pixel
    weights : K bits
    accumulate, swap, restore : to every ``TPU``
    control, true, result : of ``TileEpilogue``
    read_data : the tile's word from memory, at the epilogue's stage 2: bypass, or a stored partial sum
    """

    def __init__(self, *, lanes: int, format: Format):
        self._lanes = lanes
        self._format = format
        super().__init__(
            {
                "x": In(format.width),
                "weights": In(lanes),
                "accumulate": In(1),
                "swap": In(1),
                "restore": In(1),
                "control": In(EpilogueSignature(lanes=lanes, format=format)),
                "read_data": In(format.width),
                "true": In(1),
                "result": Out(format.width),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        read = Signal(self._format.width, reset_less=True)
        m.d.sync += read.eq(self.read_data)
        epilogue = instantiate(m, platform, "epilogue", TileEpilogue, lanes=self._lanes, format=self._format)
        connect(m, wiring.flipped(self.control), epilogue.control)
        m.d.comb += [
            epilogue.bypass.eq(read),
            epilogue.true.eq(self.true),
            self.result.eq(epilogue.result),
        ]
        for k in range(self._lanes):
            tpu = instantiate(m, platform, f"tpu{k}", TPU, format=self._format)
            m.d.comb += [
                tpu.x.eq(self.x),
                tpu.weight.eq(self.weights[k]),
                tpu.accumulate.eq(self.accumulate),
                tpu.swap.eq(self.swap),
                tpu.restore.eq(self.restore),
                tpu.preload.eq(self.control.preload & (self.control.preload_lane == k)),
                tpu.stored.eq(read),
                epilogue.held[k].eq(tpu.held),
            ]
        return m
