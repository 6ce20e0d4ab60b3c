"""What is on a board besides its clock and its pins: a chip and the bridge to the host."""

from importlib.metadata import PackageNotFoundError, version

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect
from amaranth.utils import ceil_log2

from ..config import ChipConfig
from ..host_link import Features, Identity, word_bytes
from .bridge import Bridge
from .chip import Chip
from .hierarchy import instantiate
from .registers import StreamQueue


def identity_of(
    config: ChipConfig,
    *,
    clock_hz: int,
    baud: int,
    program_buffer: int,
    maps_buffer: int,
    output_buffer: int,
    counters: bool,
) -> Identity:
    """What a board with this chip tells of itself; the parameters are those of ``Identity``."""
    try:
        package = version("hyperdrive-hdl")
    except PackageNotFoundError:  # run from its sources
        package = "unknown"
    return Identity(
        signature=config.signature,
        clock_hz=clock_hz,
        baud=baud,
        program_buffer=program_buffer,
        maps_buffer=maps_buffer,
        output_buffer=output_buffer,
        program_bytes=word_bytes(config.program_width),
        map_bytes=word_bytes(config.word_width),
        features=Features.COUNTERS if counters else Features(0),
        preset=config.name,
        format=config.format,
        version=package,
    )


class BoardCore(wiring.Component):
    """A chip alone in its mesh, and the bridge from a serial line to its streams (host_link.py).

    Parameters
    ----------
    config : the chip
    divisor : clock cycles per bit of the line
    identity : of the board, ``identity_of``

    Members
    -------
    rx, tx : the serial line, idle high
    alive, busy, error : lamps: blinks about once a second; the others are those of ``Bridge``
    """

    def __init__(self, *, config: ChipConfig, divisor: int, identity: Identity):
        self._config = config
        self._divisor = divisor
        self._identity = identity
        super().__init__(
            {
                "rx": In(1, init=1),
                "tx": Out(1, init=1),
                "alive": Out(1),
                "busy": Out(1),
                "error": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self._config
        bridge = instantiate(
            m, platform, "bridge", Bridge, config=config, divisor=self._divisor, identity=self._identity
        )
        chip = instantiate(m, platform, "chip", Chip, reset=bridge.chip_reset, config=config)
        for name in ("program", "fm_in"):
            words = getattr(bridge, name)
            if config.memory_latency > 1:  # for a high clock: block RAM takes half of it to answer
                queue = instantiate(
                    m,
                    platform,
                    f"{name}_queue",
                    StreamQueue,
                    reset=bridge.chip_reset,
                    width=len(words.payload),
                )
                connect(m, words, queue.before)
                words = queue.after
            connect(m, words, getattr(chip, name))
        connect(m, chip.fm_out, bridge.fm_out)
        connect(m, chip.status, bridge.status)
        connect(m, chip.activity, bridge.activity)
        # Position and links of the chip stay 0: it has no neighbours.
        ticks = Signal(ceil_log2(self._identity.clock_hz))
        m.d.sync += ticks.eq(ticks + 1)
        m.d.comb += [
            bridge.rx.eq(self.rx),
            self.tx.eq(bridge.tx),
            self.alive.eq(ticks[-1]),
            self.busy.eq(bridge.busy),
            self.error.eq(bridge.error),
        ]
        return m
