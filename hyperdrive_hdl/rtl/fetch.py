"""Program fetch: takes the stream apart and hands each packet to its unit."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .. import isa
from ..config import ChipConfig
from ..isa import ErrorCode, Opcode
from .descriptors import DescriptorBuffer
from .hierarchy import instantiate
from .layouts import FENCE_BITS, TRANSFER_DESCRIPTOR, LayerSignature, lane_bits


class Fetch(wiring.Component):
    """Decodes the program stream (isa.py), one word per cycle.

    Descriptors are collected in one place each for load, store and convolution, so that the next layer's
    instruction and weights arrive while the present one computes. A packet waits where its unit's place,
    the weight buffer or both parameter sets are in use. Relative fences become absolute counts on the way.

    A word with no meaning, or a program made for another configuration, raises ``error``; nothing is fetched
    after it.

    Parameters
    ----------
    config : the chip

    Members
    -------
    program : the stream
    convs, loads, stores : descriptors
    rows : weight rows, to the weight buffer
    parameter, parameter_write : scales and biases, with set, kind (bias or scale) and lane
    parameters_free : a parameter set is free; ``parameters_taken`` pulses when one is taken
    idle : all units have finished; needed to begin a program and to pass HALT
    leftover : weight rows are in the buffer
    halted : pulse, HALT passed
    started : pulse, CONFIG accepted; instruction counts restart
    receiving_conv : a convolution's descriptor is arriving or waits
    busy, error : status
    """

    def __init__(self, *, config: ChipConfig):
        self._config = config
        super().__init__(
            {
                "program": In(stream.Signature(config.program_width)),
                "convs": Out(LayerSignature()),
                "loads": Out(stream.Signature(TRANSFER_DESCRIPTOR)),
                "stores": Out(stream.Signature(TRANSFER_DESCRIPTOR)),
                "rows": Out(stream.Signature(config.lanes)),
                "parameter_write": Out(1),
                "parameter_bias": Out(1),
                "parameter_lane": Out(lane_bits(config.lanes)),
                "parameter": Out(config.parameter_width),
                "parameters_free": In(1),
                "parameters_taken": Out(1),
                "idle": In(1),
                "leftover": In(1),
                "halted": Out(1),
                "started": Out(1),
                "receiving_conv": Out(1),
                "busy": Out(1),
                "error": Out(2),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        program = self.program
        low = program.payload[:16]
        opcode = low[isa.OPERAND_BITS :]
        operand = low[: isa.OPERAND_BITS]
        taken = Signal()
        m.d.comb += taken.eq(program.valid & program.ready)
        # A header may have to wait for all units; bodies do not, nor do they wait for that to be known.
        in_body = Signal()
        in_weights = Signal()
        m.d.comb += in_body.eq(program.valid & (self.rows.ready | ~in_weights))

        configured = Signal()
        left = Signal(isa.OPERAND_BITS)  # words of the packet still to come
        index = Signal(range(max(len(isa.CONV_LAYOUT), len(isa.TRANSFER_LAYOUT))))  # of a body's word
        dispatched = {
            "convs": Signal(FENCE_BITS, name="dispatched_convs"),
            "loads": Signal(FENCE_BITS, name="dispatched_loads"),
            "stores": Signal(FENCE_BITS, name="dispatched_stores"),
        }
        expected = Array(
            [isa.MAGIC, self._config.signature & 0xFFFF, self._config.signature >> 16],
        )

        def fail(code: ErrorCode):
            m.d.sync += self.error.eq(code)
            m.next = "ERROR"

        last_word = left == 1
        with m.If(in_body):  # a header word sets both anew
            m.d.sync += [left.eq(left - 1), index.eq(index + 1)]

        def begin(state: str, words):
            m.d.sync += [left.eq(words), index.eq(0)]
            m.next = state

        for unit in (self.convs, self.loads, self.stores):
            with m.If(unit.valid & unit.ready):
                m.d.sync += unit.valid.eq(0)

        with m.FSM() as fsm:
            with m.State("HEADER"):
                wait = Signal()
                m.d.comb += program.ready.eq(program.valid & ~wait)
                m.d.comb += wait.eq(
                    ((opcode == Opcode.CONV) & self.convs.valid)
                    | ((opcode == Opcode.LOAD) & self.loads.valid)
                    | ((opcode == Opcode.STORE) & self.stores.valid)
                    | ((opcode == Opcode.PARAMS) & ~self.parameters_free)
                    | (((opcode == Opcode.HALT) | (opcode == Opcode.CONFIG)) & ~self.idle)
                )
                with m.If(taken):
                    with m.If((opcode != Opcode.CONFIG) & ~configured):
                        fail(ErrorCode.CONFIG)
                    with m.Else(), m.Switch(opcode):
                        with m.Case(Opcode.CONFIG):
                            with m.If(self.leftover):
                                fail(ErrorCode.LEFTOVER)
                            with m.Elif(operand == isa.CONFIG_WORDS):
                                begin("CONFIG", isa.CONFIG_WORDS)
                            with m.Else():
                                fail(ErrorCode.OPCODE)
                        for op, state, layout in (
                            (Opcode.LOAD, "LOADS", isa.TRANSFER_LAYOUT),
                            (Opcode.STORE, "STORES", isa.TRANSFER_LAYOUT),
                            (Opcode.CONV, "CONVS", isa.CONV_LAYOUT),
                        ):
                            with m.Case(op):
                                with m.If(operand == len(layout)):
                                    begin(state, len(layout))
                                with m.Else():
                                    fail(ErrorCode.OPCODE)
                        with m.Case(Opcode.PARAMS):
                            scale, bias = operand[0], operand[1]
                            with m.If((scale | bias) & (operand[2:] == 0)):
                                m.d.comb += self.parameters_taken.eq(1)
                                m.d.sync += [
                                    self.parameter_bias.eq(~scale),
                                    self.parameter_lane.eq(0),
                                ]
                                begin("PARAMS", Mux(scale & bias, 2, 1) * self._config.lanes)
                            with m.Else():
                                fail(ErrorCode.OPCODE)
                        with m.Case(Opcode.WEIGHTS):
                            with m.If((operand == 0) | (operand > self._config.wbuf_depth)):
                                fail(ErrorCode.OPCODE)
                            with m.Else():
                                begin("WEIGHTS", operand)
                        with m.Case(Opcode.HALT):
                            with m.If(operand != 0):
                                fail(ErrorCode.OPCODE)
                            with m.Elif(self.leftover):
                                fail(ErrorCode.LEFTOVER)
                            with m.Else():
                                m.d.comb += self.halted.eq(1)
                                m.d.sync += configured.eq(0)
                        with m.Default():
                            fail(ErrorCode.OPCODE)

            with m.State("CONFIG"):
                m.d.comb += program.ready.eq(1)
                with m.If(program.valid):
                    with m.If(low != expected[index]):
                        fail(ErrorCode.CONFIG)
                    with m.Elif(last_word):
                        m.d.comb += self.started.eq(1)
                        m.d.sync += [configured.eq(1), *[count.eq(0) for count in dispatched.values()]]
                        m.next = "HEADER"

            for state, unit in (("CONVS", self.convs), ("LOADS", self.loads), ("STORES", self.stores)):
                count = dispatched[state.lower()]
                with m.State(state):
                    m.d.comb += program.ready.eq(1)
                    with m.If(program.valid & last_word):
                        m.d.sync += [unit.valid.eq(1), count.eq(count + 1)]
                        m.next = "HEADER"

            with m.State("PARAMS"):
                m.d.comb += [program.ready.eq(1), self.parameter_write.eq(program.valid)]
                with m.If(program.valid):
                    with m.If(self.parameter_lane == self._config.lanes - 1):
                        m.d.sync += [self.parameter_lane.eq(0), self.parameter_bias.eq(1)]
                    with m.Else():
                        m.d.sync += self.parameter_lane.eq(self.parameter_lane + 1)
                    with m.If(last_word):
                        m.next = "HEADER"

            with m.State("WEIGHTS"):
                m.d.comb += [self.rows.valid.eq(program.valid), program.ready.eq(self.rows.ready)]
                with m.If(in_body & last_word):
                    m.next = "HEADER"

            with m.State("ERROR"):
                pass

            m.d.comb += [
                in_weights.eq(fsm.ongoing("WEIGHTS")),
                self.parameter.eq(program.payload[: self._config.parameter_width]),
                self.rows.payload.eq(program.payload[: self._config.lanes]),
                self.receiving_conv.eq(fsm.ongoing("CONVS") | self.convs.valid),
                self.busy.eq(configured | ~fsm.ongoing("HEADER")),
            ]
        # The two fences of a body: of the other units.
        first = Mux(fsm.ongoing("CONVS"), dispatched["loads"], dispatched["convs"])
        second = Mux(fsm.ongoing("STORES"), dispatched["loads"], dispatched["stores"])
        fences = Signal(2 * FENCE_BITS)
        m.d.comb += fences.eq(Cat((first - low[0:4])[:FENCE_BITS], (second - low[4:8])[:FENCE_BITS]))
        convs = instantiate(m, platform, "convs", DescriptorBuffer, config=self._config)
        m.d.comb += [
            convs.write.eq(fsm.ongoing("CONVS") & program.valid),
            convs.index.eq(index),
            convs.word.eq(low),
            convs.fences.eq(fences),
            convs.take.eq(self.convs.valid & self.convs.ready),
            self.convs.taken.eq(convs.taken),
        ]
        for name, unit in (("LOADS", self.loads), ("STORES", self.stores)):
            self._keep(m, name, unit, fsm.ongoing(name) & program.valid, index, fences)
        return m

    def _keep(self, m: Module, name: str, unit, write, index, fences) -> None:
        """The descriptor register of a unit, written word by word."""
        low = self.program.payload[:16]
        words = []
        for i, word in enumerate(isa.TRANSFER_LAYOUT):
            value = fences if word[0][0].startswith("wait_") else low
            words.append(Signal(len(value), name=f"{name.lower()}_word{i}", reset_less=True))
            with m.If(write & (index == i)):
                m.d.sync += words[i].eq(value)
        m.d.comb += unit.p.as_value().eq(Cat(*words))
