"""Tile: K TPUs that share one input pixel, and the epilogue for their sums."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..arith import hardware
from ..config import ChipConfig
from ..latencies import EXACT_TERM_STAGES, latencies
from .hierarchy import instantiate
from .layouts import lane_bits
from .registers import delayed
from .tpu import TPU, ExactTPU


class EpilogueSignature(wiring.Signature):
    """Control and parameters of the epilogue, the same for every tile, each in the cycle of its stage.

    lane : select stage, the lane whose held sum enters
    scale, bias : first multiply stage, first bias stage
    use_scale, use_bias, use_bypass, relu : last multiply, bias, bypass stage, twice
    partial, part : stage before ``write``, the sum is stored as it is, and which part of it
    """

    def __init__(self, *, config: ChipConfig):
        format = config.number_format
        super().__init__(
            {
                "lane": Out(lane_bits(config.lanes)),
                "use_scale": Out(1),
                "scale": Out(format.scales.width),
                "use_bias": Out(1),
                "bias": Out(format.sums.width),
                "use_bypass": Out(1),
                "relu": Out(1),
                "partial": Out(1),
                "part": Out(range(max(2, format.words_per_sum))),
            }
        )


class HeldSum(data.StructLayout):
    """A lane's finished sum: a word, or an exact integer with what infinities were met (``ExactTPU``)."""

    def __init__(self, config: ChipConfig):
        format = config.number_format
        if config.accumulator == "exact":
            width = hardware.exact_width(format, config.wbuf_depth)
            super().__init__({"total": width, "plus": 1, "minus": 1, "weight": 1})
        else:
            super().__init__({"word": format.sums.width})


class TileEpilogue(wiring.Component):
    """One finished sum per cycle through scale, bias, bypass and ReLU: a multiplier and two adders.

    Every step is optional and rounds once (README: How it works). No back-pressure. Stages, from
    latencies.py: select the held sum of ``lane``; complete an exact sum and round it; multiply by the scale;
    add the bias; add the bypass, ReLU, and zero where the pixel is not ``true``; narrow to the format of the
    feature maps.

    Parameters
    ----------
    config : the chip

    Members
    -------
    held : the TPUs' finished sums
    common, last_term : exact sums only: what all lanes' totals are too large by, but for the last term, which
        they lack
    control : ``EpilogueSignature``
    bypass : word of the bypass map, at the first bypass stage
    true : the pixel lies inside the map, at the last bypass stage
    result : finished word, at the write stage
    """

    def __init__(self, *, config: ChipConfig):
        self._config = config
        self._format = format = config.number_format
        members = {
            "held": In(HeldSum(config)).array(config.lanes),
            "control": In(EpilogueSignature(config=config)),
            "bypass": In(format.width),
            "true": In(1),
            "result": Out(format.width),
        }
        if config.accumulator == "exact":
            width = hardware.exact_width(format, config.wbuf_depth)
            members |= {"common": In(width), "last_term": In(width)}
        super().__init__(members)

    @property
    def latency(self) -> int:
        """Cycles from ``lane`` to ``result``."""
        at = latencies(self._config)
        return at.write - at.select

    def elaborate(self, platform) -> Module:
        m = Module()
        control, format = self.control, self._format
        units = self._config.adder_latency
        selected = Signal(HeldSum(self._config), reset_less=True)
        m.d.sync += selected.eq(Array(self.held)[control.lane])

        def unit(name: str, kind, a: Value, b: Value) -> Value:
            """The result of one of the units."""
            component = instantiate(m, platform, name, kind(format, stages=units))
            m.d.comb += [component.a.eq(a), component.b.eq(b)]
            return component.result

        def chosen(name: str, use: Value, result: Value, otherwise: Value) -> Signal:
            word = Signal(format.sums.width, name=name, reset_less=True)
            m.d.sync += word.eq(Mux(use, result, delayed(m, otherwise, units - 1, name=f"{name}_past")))
            return word

        exact = self._config.accumulator == "exact"
        summed = self._rounded(m, platform, selected) if exact else selected.word
        product = unit("multiplier", hardware.multiplier_kind, summed, control.scale)
        scaled = chosen("scaled", control.use_scale, product, summed)
        sum_with_bias = unit("bias_adder", hardware.adder_kind, scaled, control.bias)
        biased = chosen("biased", control.use_bias, sum_with_bias, scaled)
        bypass = hardware.widen(m, format, self.bypass, name="wide_bypass")
        sum_with_bypass = unit("bypass_adder", hardware.adder_kind, biased, bypass)

        finished = Signal(format.sums.width)
        past = delayed(m, biased, units - 1, name="biased_past")
        m.d.comb += finished.eq(Mux(control.use_bypass, sum_with_bypass, past))
        rectified = Mux(control.relu, hardware.relu(finished, format), finished)
        true = Mux(self.true, rectified, hardware.zero(format.sums))
        if format.sums is format:
            m.d.sync += self.result.eq(true)
        else:
            word = Signal(format.sums.width, reset_less=True)
            m.d.sync += word.eq(true)
            narrow = hardware.narrow(m, format, word, name="narrow")
            padded = Cat(word, hardware.zero(format).replicate(format.words_per_sum))
            part = padded.word_select(control.part, format.width)
            m.d.sync += self.result.eq(Mux(control.partial, part, narrow))
        return m

    def _rounded(self, m: Module, platform, selected) -> Value:
        """The word nearest to an exact sum."""
        width = len(self.common)
        # What to subtract from a lane, by its last weight; registered with the lane's total, before the next
        # sum may end.
        by_weight = [Signal(width, name=f"common_{w}", reset_less=True) for w in ("minus", "plus")]
        complete = Signal(width, reset_less=True)
        plus = Signal(reset_less=True)
        minus = Signal(reset_less=True)
        stages = self._config.adder_latency
        rounder = instantiate(
            m,
            platform,
            "rounder",
            hardware.rounder_kind(self._format, terms=self._config.wbuf_depth, stages=stages),
        )
        word = Signal(self._format.sums.width, reset_less=True)
        m.d.sync += [
            by_weight[0].eq(self.common + self.last_term),
            by_weight[1].eq(self.common - self.last_term),
            complete.eq(selected.total - Mux(selected.weight, by_weight[1], by_weight[0])),
            plus.eq(selected.plus),
            minus.eq(selected.minus),
            word.eq(rounder.result),
        ]
        m.d.comb += [rounder.total.eq(complete), rounder.plus.eq(plus), rounder.minus.eq(minus)]
        return word


class Tile(wiring.Component):
    """K sums of one pixel in parallel, and the epilogue of the pixel before.

    A reset lasts ``sums_in_turn`` cycles, so that it comes to every sum in a pipelined adder.

    Parameters
    ----------
    config : the chip
    gated : the clocks of the TPUs and of the epilogue stop where there is nothing for them to do

    Members
    -------
    x : input pixel, or a part of a stored partial sum, low part first
    restore : x completes a stored partial sum, which is the term
    weights : K bits; ones for a stored partial sum
    enable : K bits, lanes that take the term
    ends : it is the last one of the sum
    control, true, result : of ``TileEpilogue``; control and true come ``broadcast`` cycles before their
        stages
    read_data : the tile's word from memory, the cycle after it was read: the bypass
    summing, finishing : of ``TileActivity``, only if ``gated``: the TPUs, the epilogue need their clock
    """

    def __init__(self, *, config: ChipConfig, gated: bool = False):
        self._config = config
        self._gated = gated
        self._format = format = config.number_format
        super().__init__(
            {
                **({"summing": In(1), "finishing": In(1)} if gated else {}),
                "x": In(format.width),
                "restore": In(1),
                "weights": In(config.lanes),
                "enable": In(config.lanes),
                "ends": In(1),
                "control": In(EpilogueSignature(config=config)),
                "read_data": In(format.width),
                "true": In(1),
                "result": Out(format.width),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from a term to the held sum that contains it."""
        return latencies(self._config).accumulate

    def elaborate(self, platform) -> Module:
        m = Module()
        config, format = self._config, self._format
        self._summing, finishing = (self.summing, self.finishing) if self._gated else (None, None)
        epilogue = instantiate(m, platform, "epilogue", TileEpilogue, active=finishing, config=config)
        at = latencies(config)
        for name in self.control.signature.members:
            value = delayed(m, getattr(self.control, name), at.broadcast, name=name)
            m.d.comb += getattr(epilogue.control, name).eq(value)
        m.d.comb += [
            epilogue.bypass.eq(delayed(m, self.read_data, at.bypass_wait, name="bypass_word")),
            epilogue.true.eq(delayed(m, self.true, at.broadcast, name="true")),
            self.result.eq(epilogue.result),
        ]
        term = Signal(format.sums.width)
        word = hardware.widen(m, format, self.x, name="wide_x")
        if format.words_per_sum > 1:
            word = Mux(self.restore, self._restored(m), word)
        m.d.comb += term.eq(word)
        if config.accumulator == "exact":
            self._exact_lanes(m, platform, term, epilogue)
        else:
            self._lanes(m, platform, term, epilogue)
        return m

    def _restored(self, m: Module) -> Value:
        """A stored partial sum, x being its last part."""
        bits = (self._format.words_per_sum - 1) * self._format.width
        turns = [  # one for each sum in turn, in a ring
            Signal(bits, name=f"parts{i}", reset_less=True) for i in range(self._config.sums_in_turn)
        ]
        whole = Cat(turns[0], self.x)
        after = Mux(self.restore, whole[self._format.width :], turns[0])
        m.d.sync += [place.eq(value) for place, value in zip(turns, [*turns[1:], after], strict=True)]
        return Value.cast(whole)

    def _lanes(self, m: Module, platform, term: Value, epilogue) -> None:
        stages = self._config.adder_latency
        ends = delayed(m, self.ends, stages if stages > 1 else 0, name="ends", init=0)
        for k in range(self._config.lanes):
            tpu = instantiate(
                m, platform, f"tpu{k}", TPU, active=self._summing, format=self._format, stages=stages
            )
            m.d.comb += [
                tpu.x.eq(term),
                tpu.weight.eq(self.weights[k]),
                tpu.enable.eq(self.enable[k]),
                tpu.ends.eq(ends),
                epilogue.held[k].word.eq(tpu.held),
            ]

    def _exact_lanes(self, m: Module, platform, term: Value, epilogue) -> None:
        width = hardware.exact_width(self._format, self._config.wbuf_depth)
        converter = instantiate(
            m,
            platform,
            "converter",
            hardware.term_kind(self._format, terms=self._config.wbuf_depth, stages=EXACT_TERM_STAGES),
            active=self._summing,
        )
        m.d.comb += converter.x.eq(term)
        weights = delayed(m, self.weights, EXACT_TERM_STAGES, name="weights")
        enable = delayed(m, self.enable, EXACT_TERM_STAGES, name="enable", init=0)
        # A reset comes to the lanes as the end of a sum: their many registers have none.
        ends = delayed(m, self.ends, EXACT_TERM_STAGES, name="ends", init=1)
        restore = delayed(m, self.restore, EXACT_TERM_STAGES, name="restore")

        # What all lanes have in common: every term once, but for stored partial sums.
        common = Signal(width, reset_less=True)
        held_common = Signal(width, reset_less=True)
        last_term = Signal(width, reset_less=True)
        twice = Signal(width)
        m.d.comb += [
            twice.eq(converter.term << 1),
            epilogue.common.eq(held_common),
            epilogue.last_term.eq(last_term),
        ]
        with m.If(ends):
            m.d.sync += [common.eq(0), held_common.eq(common), last_term.eq(converter.term)]
        with m.Elif(enable[0] & ~restore):
            m.d.sync += common.eq(common + converter.term)
        for k in range(self._config.lanes):
            tpu = instantiate(m, platform, f"tpu{k}", ExactTPU, active=self._summing, width=width)
            m.d.comb += [
                tpu.term.eq(Mux(restore, converter.term, twice)),
                tpu.plus.eq(converter.plus),
                tpu.minus.eq(converter.minus),
                tpu.weight.eq(weights[k]),
                tpu.enable.eq(enable[k]),
                tpu.ends.eq(ends),
                epilogue.held[k].total.eq(tpu.held),
                epilogue.held[k].plus.eq(tpu.held_plus),
                epilogue.held[k].minus.eq(tpu.held_minus),
                epilogue.held[k].weight.eq(tpu.held_weight),
            ]


class TileActivity(wiring.Component):
    """Tells when the tiles' TPUs and epilogues need their clock: tiles work in step, one answer is for all.

    ``summing`` is high while a sum is under way or its terms are on their way to the accumulators. Between
    sums the accumulators are zero, and stay it however often a pipelined adder's registers go round.
    ``finishing`` is high while a lane's sum is in the epilogue. Both answer in the cycle itself.

    Parameters
    ----------
    config : the chip

    Members
    -------
    enable, ends : of ``Tile``
    selects : a valid slot at the epilogue control's ``select``
    summing, finishing : of ``Tile``
    """

    def __init__(self, *, config: ChipConfig):
        self._config = config
        super().__init__(
            {
                "enable": In(config.lanes),
                "ends": In(1),
                "selects": In(1),
                "summing": Out(1),
                "finishing": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config, at = self._config, latencies(self._config)
        taken = Signal()  # a term, or a sum's end
        m.d.comb += taken.eq(self.enable.any() | self.ends)
        busy: Value = taken
        if config.sums_in_turn > 1:
            # Sums go in turn: whether one is under way goes round with its place in the adder.
            under_way = Signal(config.sums_in_turn)
            m.d.sync += under_way.eq(Cat(under_way[1:], (under_way[0] | taken) & ~self.ends))
            busy = taken | under_way.any()
        # From a term to the register that takes it. From reset on, so that pipelines are empty.
        behind = at.accumulate - 1
        if behind:
            recent = Signal(behind, init=-1)
            m.d.sync += recent.eq(Cat(busy, recent)[:behind])
            m.d.comb += self.summing.eq(busy | recent.any())
        else:
            m.d.comb += self.summing.eq(busy)

        slots = at.write - at.select  # stages of the epilogue
        selected = Signal(at.broadcast + slots - 1)
        m.d.sync += selected.eq(Cat(self.selects, selected)[: len(selected)])
        m.d.comb += self.finishing.eq(Cat(self.selects, selected)[at.broadcast :].any())
        return m
