"""In place of a board's core: a few cells with its ports, which the tools get through in seconds."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.rtl.hierarchy import ModuleLibrary, instantiate
from hyperdrive_hdl.targets.fpga import Core, modules_under
from hyperdrive_hdl.targets.fpga_top import CORE

# As small as it can be; no program of ours fits it.
ATOM = ChipConfig(
    name="atom",
    lanes=1,
    tile_rows=1,
    tile_cols=1,
    fmm_banks=2,
    fmm_bank_depth=16,
    wbuf_depth=9,
    format="q2.5",
    accumulator="exact",
)


class Divider(wiring.Component):
    """Stands where the chip is."""

    def __init__(self):
        super().__init__({"slow": Out(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        count = Signal(12)
        m.d.sync += count.eq(count + 1)
        m.d.comb += self.slow.eq(count[-1])
        return m


class EchoCore(wiring.Component):
    """The ports of ``BoardCore``."""

    def __init__(self):
        super().__init__({"rx": In(1), "tx": Out(1), "alive": Out(1), "busy": Out(1), "error": Out(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        chip = instantiate(m, platform, "chip", Divider)
        m.d.sync += self.tx.eq(self.rx)
        m.d.comb += [self.alive.eq(chip.slow), self.busy.eq(~self.rx), self.error.eq(chip.slow ^ self.rx)]
        return m


def echo_core(board, chip, *, clock_hz: int, baud: int) -> Core:
    """In place of ``targets.fpga.make_core``."""
    text = ModuleLibrary().convert(EchoCore(), name=CORE)
    return Core(text, tuple(modules_under(text, "divider")))
