"""Scales and biases of some blocks of output FMs: in use by the epilogue, or arriving."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .layouts import lane_bits
from .registers import NO_COLLISION


class ParameterBuffer(wiring.Component):
    """Sets of K scales and K biases, taken and released in turn.

    ``scale`` and ``bias`` are valid one cycle after their set and lane. A set is counted as in use from
    ``take`` to ``give_back``.

    Parameters
    ----------
    lanes : K
    width : bits of a parameter
    sets : how many

    Members
    -------
    take : the next set begins to be written
    write, write_bias, write_lane, value : a parameter of the set taken last
    free : a set may be taken
    scale_set, scale_lane, bias_set, bias_lane : what to read
    scale, bias : values read
    give_back : the older set is not needed any more
    restart : forget all sets
    """

    def __init__(self, *, lanes: int, width: int, sets: int):
        self._lanes = lanes
        self._width = width
        self._sets = sets
        lane, set = lane_bits(lanes), range(sets)
        super().__init__(
            {
                "take": In(1),
                "write": In(1),
                "write_bias": In(1),
                "write_lane": In(lane),
                "value": In(width),
                "free": Out(1),
                "scale_set": In(set),
                "scale_lane": In(lane),
                "bias_set": In(set),
                "bias_lane": In(lane),
                "scale": Out(width),
                "bias": Out(width),
                "give_back": In(1),
                "restart": In(1),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from a set and lane to its ``scale`` or ``bias``."""
        return 1

    def elaborate(self, platform) -> Module:
        m = Module()
        used = Signal(range(self._sets + 1))
        next_set = Signal(range(self._sets))  # the epilogue counts the same way
        written_set = Signal(range(self._sets))
        m.d.comb += self.free.eq(used != self._sets)
        m.d.sync += used.eq(used + self.take - self.give_back)
        with m.If(self.take):
            m.d.sync += [
                written_set.eq(next_set),
                next_set.eq(Mux(next_set == self._sets - 1, 0, next_set + 1)),
            ]
        with m.If(self.restart):
            m.d.sync += [used.eq(0), next_set.eq(0)]

        depth = self._sets << len(self.write_lane)
        for name, bias, read_set, read_lane, value in (
            ("scales", 0, self.scale_set, self.scale_lane, self.scale),
            ("biases", 1, self.bias_set, self.bias_lane, self.bias),
        ):
            m.submodules[name] = memory = Memory(shape=self._width, depth=depth, init=[], attrs=NO_COLLISION)
            write_port = memory.write_port()
            read_port = memory.read_port()
            m.d.comb += [
                write_port.addr.eq(Cat(self.write_lane, written_set)),
                write_port.data.eq(self.value),
                write_port.en.eq(self.write & (self.write_bias == bias)),
                read_port.addr.eq(Cat(read_lane, read_set)),
                value.eq(read_port.data),
            ]
        return m
