"""The chip as compiled simulators see it: its outputs of the last cycle held in registers."""

from amaranth.hdl import ClockSignal, Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect

from ..config import SOURCE, ChipConfig
from ..isa import Side
from ..rtl.border import PortSignature
from ..rtl.chip import Chip
from ..rtl.hierarchy import instantiate

SIDES = tuple(side.name.lower() for side in Side)

STATUS = ("layer_done", "halted", "error")
LINK_STATUS = ("side", "fault")
ACTIVITY = ("computing", "loading", "storing", "mac", "starved", "epilogue")
LINK_ACTIVITY = ("border_words", "link_beats")


class SimulationTop(wiring.Component):
    """Samples the chip's outputs at the end of every cycle, so that a driver may read them after the edge.

    The chip itself is untouched: its own handshakes are the ones sampled. What it sends on a link is seen a
    cycle later too; a driver that hands it on makes a link of one cycle.

    One clock is all there is: source-synchronous receivers get the chip's own in place of the sender's.

    Parameters
    ----------
    config : the chip

    Members
    -------
    program, fm_in, fm_out, mesh_row, mesh_col, neighbours : the chip's
    north, east, south, west : its links (with links only); ``tx`` as it was in the cycle before
    seen : outputs as they were in the cycle before
    """

    def __init__(self, *, config: ChipConfig):
        self._config = config
        flags = {name: Out(1) for name in (*STATUS, *ACTIVITY)}
        seen = {
            "program_ready": Out(1),
            "fm_in_ready": Out(1),
            "fm_out_valid": Out(1),
            "fm_out_payload": Out(config.word_width),
            **flags,
            "error": Out(3 if config.links else 2),
        }
        links = {}
        if config.links:
            links = {side: Out(PortSignature(config)) for side in SIDES} | {"neighbours": In(4)}
            seen |= {"side": Out(2), "fault": Out(3), "border_words": Out(3), "link_beats": Out(3)}
        super().__init__(
            {
                "program": In(stream.Signature(config.program_width)),
                "fm_in": In(stream.Signature(config.word_width)),
                "fm_out": Out(stream.Signature(config.word_width)),
                "mesh_row": In(8),
                "mesh_col": In(8),
                **links,
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
        seen, links = self.seen, self._config.links
        m.d.sync += [
            seen.program_ready.eq(chip.program.ready),
            seen.fm_in_ready.eq(chip.fm_in.ready),
            seen.fm_out_valid.eq(chip.fm_out.valid),
            seen.fm_out_payload.eq(chip.fm_out.payload),
        ]
        for source, names in (
            (chip.status, STATUS + LINK_STATUS * links),
            (chip.activity, ACTIVITY + LINK_ACTIVITY * links),
        ):
            m.d.sync += [getattr(seen, name).eq(getattr(source, name)) for name in names]
        if links:
            self._connect_links(m, chip)
        return m

    def _connect_links(self, m: Module, chip) -> None:
        m.d.comb += chip.neighbours.eq(self.neighbours)
        for side in SIDES:
            inside, outside = getattr(chip, side), getattr(self, side)
            m.d.sync += [outside.tx.data.eq(inside.tx.data), outside.tx.valid.eq(inside.tx.valid)]
            m.d.comb += [inside.rx.data.eq(outside.rx.data), inside.rx.valid.eq(outside.rx.valid)]
            if self._config.link_clock == SOURCE:
                m.d.comb += inside.rx.clock.eq(ClockSignal())
