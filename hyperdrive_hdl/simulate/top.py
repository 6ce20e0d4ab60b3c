"""The chip as compiled simulators see it: its outputs of the last cycle held in registers."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect

from ..config import ChipConfig
from ..rtl.chip import Chip
from ..rtl.hierarchy import instantiate


class SimulationTop(wiring.Component):
    """Samples the chip's outputs at the end of every cycle, so that a driver may read them after the edge.

    The chip itself is untouched: its own handshakes are the ones sampled.

    Parameters
    ----------
    config : the chip

    Members
    -------
    program, fm_in, fm_out, mesh_row, mesh_col : the chip's
    seen : outputs as they were in the cycle before
    """

    def __init__(self, *, config: ChipConfig):
        self._config = config
        flags = ("layer_done", "halted", "computing", "loading", "storing", "mac", "starved", "epilogue")
        seen = {
            "program_ready": Out(1),
            "fm_in_ready": Out(1),
            "fm_out_valid": Out(1),
            "fm_out_payload": Out(config.word_width),
            "error": Out(2),
            **{flag: Out(1) for flag in flags},
        }
        super().__init__(
            {
                "program": In(stream.Signature(config.program_width)),
                "fm_in": In(stream.Signature(config.word_width)),
                "fm_out": Out(stream.Signature(config.word_width)),
                "mesh_row": In(8),
                "mesh_col": In(8),
                "seen": Out(wiring.Signature(seen)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        chip = instantiate(m, platform, "chip", Chip, config=self._config)
        connect(m, wiring.flipped(self.program), chip.program)
        connect(m, wiring.flipped(self.fm_in), chip.fm_in)
        connect(m, chip.fm_out, wiring.flipped(self.fm_out))
        m.d.comb += [chip.mesh_row.eq(self.mesh_row), chip.mesh_col.eq(self.mesh_col)]
        status, activity, seen = chip.status, chip.activity, self.seen
        m.d.sync += [
            seen.program_ready.eq(chip.program.ready),
            seen.fm_in_ready.eq(chip.fm_in.ready),
            seen.fm_out_valid.eq(chip.fm_out.valid),
            seen.fm_out_payload.eq(chip.fm_out.payload),
            seen.layer_done.eq(status.layer_done),
            seen.halted.eq(status.halted),
            seen.error.eq(status.error),
            seen.computing.eq(activity.computing),
            seen.loading.eq(activity.loading),
            seen.storing.eq(activity.storing),
            seen.mac.eq(activity.mac),
            seen.starved.eq(activity.starved),
            seen.epilogue.eq(activity.epilogue),
        ]
        return m
