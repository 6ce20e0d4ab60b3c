"""Where the chip's pipeline has its stages: one place for the RTL that builds it and the model that times it.

An operation issues in cycle 0. A finished sum goes down the epilogue lane by lane, in slots; a slot's stages
are counted from the cycle in which it goes.
"""

from dataclasses import dataclass

from .config import ChipConfig

ISSUE_TO_ACCESS = 1  # from an operation to its memory access
DISTRIBUTION = 1  # from a word of the memory to the term at the tiles
EXACT_TERM_STAGES = 2  # from a term to the integer that the exact accumulators take
WEIGHT_READ = 3  # from the place of a weight row to its bits
RING_READ = 1  # from a tap to the word of the border memory
PARAMETER_LOOKUP = 1  # from a lane to its scale or bias


@dataclass(frozen=True)
class Latencies:
    """Stages of an epilogue slot, and cycles of what leads to it.

    fence : cycles more until the end of a transfer is known to a layer that waits for it
    memory : cycles from a memory access to its word
    term : the operation's term is at the tiles
    broadcast : cycles from the epilogue's control to the tiles: stages below are those at the tiles
    gather : cycles from the tiles' words to the one of them that a store takes
    accumulate : cycles from a term at the tile to the held sum that contains it
    select : a lane's held sum is selected
    exact : the exact sum is completed and rounded, in ``exact_stages``, which may be none
    multiply, bias, bypass : the sum enters the multiplier and the two adders, ``unit_stages`` each
    store : the word is narrowed to the format of the feature maps; ``write`` where that takes no stage
    read : the bypass is read, an odd number of stages before ``write``: slots with a bypass go in every
        second cycle, and the memory has one port
    write : the result is written
    """

    fence: int
    memory: int
    term: int
    broadcast: int
    gather: int
    accumulate: int
    select: int
    exact: int
    exact_stages: int
    multiply: int
    unit_stages: int
    bias: int
    bypass: int
    store: int
    read: int
    write: int

    @property
    def release(self) -> int:
        """Stage in which a set of parameters has been used."""
        return self.bias

    @property
    def done(self) -> int:
        """Stage in which ``layer_done`` tells that a layer's last word is in memory."""
        return self.write + 1 + (self.memory > 2) + (self.memory > 4)

    @property
    def bypass_wait(self) -> int:
        """Cycles that a bypass word waits for its sum after it came from memory."""
        return self.bypass - self.read - self.memory


def latencies(config: ChipConfig) -> Latencies:
    """The stages of a chip."""
    format = config.number_format
    units = config.adder_latency
    exact = config.accumulator == "exact"
    memory = config.memory_latency
    term = ISSUE_TO_ACCESS + memory + DISTRIBUTION
    in_turn = 1 if units == 1 else units + 1  # operands are registered close to a pipelined adder
    accumulate = EXACT_TERM_STAGES + 1 if exact else in_turn
    exact_stages = 1 + units if exact else 0  # the subtraction of what all lanes share, and the rounder
    select = term + accumulate - 1
    multiply = select + 1 + exact_stages
    bias = multiply + units
    bypass = bias + units
    store = bypass + units
    write = store + (format.sums is not format)
    read = bypass - memory - 1
    if (write - read) % 2 == 0:
        read -= 1
    return Latencies(
        fence=int(memory > 1),
        memory=memory,
        term=term,
        broadcast=int(memory > 1),
        gather=2 * (memory > 1),
        accumulate=accumulate,
        select=select,
        exact=select + 1,
        exact_stages=exact_stages,
        multiply=multiply,
        unit_stages=units,
        bias=bias,
        bypass=bypass,
        store=store,
        read=read,
        write=write,
    )
