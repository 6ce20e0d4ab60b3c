"""The chip: every block of the engine, wired."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect

from ..config import ChipConfig
from ..isa import ErrorCode, LinkFault, Side
from ..latencies import RING_READ, WEIGHT_READ, latencies
from .border import Border, PortSignature
from .distribution import DataDistribution
from .epilogue import EpilogueControl
from .feature_memory import FeatureMemory
from .fetch import Fetch
from .hierarchy import gates_clocks, instantiate
from .issue import Issue
from .layouts import ActivitySignature, StatusSignature, parameter_sets
from .parameters import ParameterBuffer
from .registers import delayed
from .sequencer import Sequencer
from .tile import Tile, TileActivity
from .transfer import LoadUnit, MemoryPort, StoreUnit
from .weight_buffer import WeightBuffer


class Chip(wiring.Component):
    """One Hyperdrive chip (paper figure 1): runs a program stream, keeps the feature maps, streams the
    weights.

    Parameters
    ----------
    config : sizes

    Members
    -------
    program : stream of program words (isa.py), ``config.program_width`` bits
    fm_in, fm_out : streams of feature-map words, the chip's own true pixels, raster order, channels innermost
    mesh_row, mesh_col : position of the chip in its mesh, constant
    neighbours : bit per ``isa.Side``, there is a chip; constant (with links only)
    north, east, south, west : border links, ``tx`` and ``rx`` (with links only)
    status : ``StatusSignature``
    activity : ``ActivitySignature``

    All streams have back-pressure; the results do not depend on stalls.
    """

    def __init__(self, *, config: ChipConfig):
        self.config = config
        border = {}
        if config.links:
            border = {side.name.lower(): Out(PortSignature(config)) for side in Side}
            border["neighbours"] = In(4)
        super().__init__(
            {
                **border,
                "program": In(stream.Signature(config.program_width)),
                "fm_in": In(stream.Signature(config.word_width)),
                "fm_out": Out(stream.Signature(config.word_width)),
                "mesh_row": In(8),
                "mesh_col": In(8),
                "status": Out(StatusSignature()),
                "activity": Out(ActivitySignature()),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        fetch = instantiate(m, platform, "fetch", Fetch, config=config)
        sequencer = instantiate(m, platform, "sequencer", Sequencer, config=config)
        issue = instantiate(m, platform, "issue", Issue, config=config)
        epilogue = instantiate(m, platform, "epilogue", EpilogueControl, config=config)
        weights = instantiate(
            m, platform, "weight_buffer", WeightBuffer, depth=config.wbuf_depth, lanes=config.lanes
        )
        parameters = instantiate(
            m,
            platform,
            "parameters",
            ParameterBuffer,
            lanes=config.lanes,
            width=config.parameter_width,
            sets=parameter_sets(config),
        )
        load = instantiate(m, platform, "load", LoadUnit, config=config)
        store = instantiate(m, platform, "store", StoreUnit, config=config)
        port = instantiate(m, platform, "memory_port", MemoryPort, config=config)
        memory = instantiate(m, platform, "feature_memory", FeatureMemory, config=config)
        distribution = instantiate(m, platform, "distribution", DataDistribution, config=config)

        self._connect_program(m, fetch, sequencer, issue, epilogue, weights, parameters)
        self._connect_transfers(m, fetch, issue, load, store, port, memory)
        self._connect_memory(m, issue, epilogue, load, port, memory, distribution)
        self._connect_tiles(
            m, platform, issue, epilogue, weights, parameters, load, port, memory, distribution
        )
        border = None
        if config.links:
            border = instantiate(m, platform, "border", Border, config=config)
            self._connect_border(
                m, border, fetch, sequencer, issue, epilogue, load, port, memory, distribution
            )
        else:
            self._without_border(m, fetch, issue, load, distribution)

        pending = fetch.receiving_conv | sequencer.active
        transferring = load.active | store.active
        m.d.comb += [
            fetch.idle.eq(
                ~(
                    pending
                    | issue.computing
                    | fetch.loads.valid
                    | fetch.stores.valid
                    | (border.busy if border else 0)
                )
            ),
            fetch.leftover.eq(weights.occupied),
            self.status.busy.eq(fetch.busy),
            self.status.layer.eq(issue.layer),
            self.status.layer_done.eq(epilogue.layer_done),
            self.status.halted.eq(fetch.halted),
            self.activity.computing.eq(issue.computing | (pending & ~transferring)),
            self.activity.loading.eq(load.active),
            self.activity.storing.eq(store.active),
            self.activity.mac.eq(issue.go),
            self.activity.starved.eq(issue.waits_for_row),
            self.activity.epilogue.eq(epilogue.started),
        ]
        return m

    def _connect_program(self, m, fetch, sequencer, issue, epilogue, weights, parameters) -> None:
        connect(m, wiring.flipped(self.program), fetch.program)
        connect(m, fetch.convs, sequencer.layers)
        connect(m, fetch.rows, weights.write)
        op = sequencer.operation
        m.d.comb += [
            sequencer.mesh_row.eq(self.mesh_row),
            sequencer.mesh_col.eq(self.mesh_col),
            sequencer.written.eq(weights.written),
            sequencer.taken.eq(issue.go),
            sequencer.begun.eq(issue.go & op.first),
            sequencer.restart.eq(fetch.started),
            weights.freed.eq(sequencer.freed),
            weights.read.eq(issue.go & ~op.restore),
            weights.position.eq(op.position),
            issue.valid.eq(sequencer.valid),
            issue.operation.eq(op),
            issue.eligible.eq(sequencer.eligible),
            issue.starved.eq(sequencer.starved),
            issue.need_loads.eq(sequencer.need_loads),
            issue.need_stores.eq(sequencer.need_stores),
            issue.restart.eq(fetch.started),
            issue.epilogue_ready.eq(epilogue.ready),
            issue.epilogue_access.eq(epilogue.access),
            issue.epilogue_address.eq(epilogue.access_address),
            sequencer.arrives.eq(weights.write.valid & weights.write.ready),
            sequencer.sum_done.eq(epilogue.sum_done),
            issue.layer_done.eq(epilogue.layer_done),
            epilogue.begin.eq(issue.go & op.first),
            epilogue.sum_ends.eq(issue.go & op.last),
            epilogue.finish.eq(op.finish),
            epilogue.restart.eq(fetch.started),
            fetch.parameters_free.eq(parameters.free),
            parameters.take.eq(fetch.parameters_taken),
            parameters.write.eq(fetch.parameter_write),
            parameters.write_bias.eq(fetch.parameter_bias),
            parameters.write_lane.eq(fetch.parameter_lane),
            parameters.value.eq(fetch.parameter),
            parameters.give_back.eq(epilogue.release_parameters),
            parameters.restart.eq(fetch.started),
            parameters.scale_set.eq(epilogue.scale_lookup.parameters),
            parameters.scale_lane.eq(epilogue.scale_lookup.lane),
            parameters.bias_set.eq(epilogue.bias_lookup.parameters),
            parameters.bias_lane.eq(epilogue.bias_lookup.lane),
        ]

    def _connect_transfers(self, m, fetch, issue, load, store, port, memory) -> None:
        connect(m, wiring.flipped(self.fm_in), load.fm_in)
        connect(m, store.fm_out, wiring.flipped(self.fm_out))
        connect(m, fetch.loads, load.transfers)
        connect(m, fetch.stores, store.transfers)
        for unit in (load, store):
            m.d.comb += [
                unit.mesh_row.eq(self.mesh_row),
                unit.mesh_col.eq(self.mesh_col),
                unit.convs_done.eq(issue.layer),
                unit.restart.eq(fetch.started),
            ]
        m.d.comb += [
            load.transfers_done.eq(store.done),
            store.transfers_done.eq(load.done),
            issue.loads_done.eq(load.done),
            issue.stores_done.eq(store.done),
            port.load_request.eq(load.request),
            port.load_address.eq(load.address),
            port.load_row.eq(load.row),
            port.load_col.eq(load.col),
            load.grant.eq(port.load_grant),
            port.store_request.eq(store.request),
            port.store_address.eq(store.address),
            store.grant.eq(port.store_grant),
        ]
        for i in range(self.config.tile_rows):
            m.d.comb += [
                store.read_data[i][j].eq(memory.read_data[i][j]) for j in range(self.config.tile_cols)
            ]

    def _connect_memory(self, m, issue, epilogue, load, port, memory, distribution) -> None:
        m.d.comb += [
            port.mac_enable.eq(issue.mac_enable),
            port.mac_address.eq(issue.mac_address),
            port.read.eq(epilogue.read.valid & epilogue.read.bypass),
            port.write.eq(epilogue.write.valid),
            port.epilogue_address.eq(epilogue.address),
            memory.mac_enable.eq(issue.mac_enable),
            memory.mac_address.eq(issue.mac_address),
            memory.enable.eq(port.enable),
            memory.write.eq(port.is_write),
            memory.address.eq(port.address),
            memory.load.eq(port.from_load),
            memory.load_word.eq(load.word),
            memory.rows.eq(port.rows),
            memory.cols.eq(port.cols),
            distribution.up.eq(issue.up),
            distribution.down.eq(issue.down),
            distribution.left.eq(issue.left),
            distribution.right.eq(issue.right),
        ]

    def _without_border(self, m, fetch, issue, load, distribution) -> None:
        """The ring around the chip reads zero: the mesh ends here."""
        ring = (distribution.north, distribution.south, distribution.west, distribution.east)
        m.d.comb += [word.eq(0) for side in ring for word in side]
        m.d.comb += [issue.border_ready.eq(1), load.slot_free.eq(1), self.status.error.eq(fetch.error)]

    def _connect_border(
        self, m, border, fetch, sequencer, issue, epilogue, load, port, memory, distribution
    ) -> None:
        for side in Side:
            name = side.name.lower()
            connect(m, getattr(border, name), wiring.flipped(getattr(self, name)))
        map = load.transfers.p
        failed = border.fault != LinkFault.NONE
        m.d.comb += [
            border.neighbours.eq(self.neighbours),
            border.mesh_row.eq(self.mesh_row),
            border.mesh_col.eq(self.mesh_col),
            border.layer.eq(sequencer.layer),
            border.layer_begun.eq(sequencer.begun),
            border.layer_done.eq(epilogue.layer_done),
            border.layer_pixel.eq(epilogue.pixel_done),
            issue.border_ready.eq(border.ready),
            issue.stop.eq(failed),
            *[
                getattr(border.load, name).eq(getattr(map, name))
                for name in ("base", "channels", "tile_h", "tile_w", "full_rows", "full_cols", "rest_rows")
            ],
            border.load.rest_cols.eq(map.rest_cols),
            border.load.groups.eq(1),
            border.load.blocks.eq(1),
            border.load.last_lanes.eq(map.channels),
            border.load_exports.eq(map.exports),
            border.load_slot.eq(map.export_slot),
            border.load_begun.eq(load.begun),
            border.load_pixel.eq(load.pixel_done),
            load.slot_free.eq(border.slots_free.bit_select(map.export_slot, 1)),
            port.border_request.eq(border.request),
            port.border_address.eq(border.address),
            border.grant.eq(port.border_grant),
            border.read.eq(issue.mac_enable),
            border.ring.eq(issue.ring),
            border.up.eq(issue.ring_up),
            border.down.eq(issue.ring_down),
            border.left.eq(issue.ring_left),
            border.right.eq(issue.ring_right),
            self.status.error.eq(Mux(failed, ErrorCode.LINK, fetch.error)),
            self.status.side.eq(border.side),
            self.status.fault.eq(border.fault),
            self.activity.border_words.eq(border.border_words),
            self.activity.link_beats.eq(border.link_beats),
        ]
        for i in range(self.config.tile_rows):
            m.d.comb += [
                border.read_data[i][j].eq(memory.read_data[i][j]) for j in range(self.config.tile_cols)
            ]
        for name in ("north", "south", "west", "east"):
            source, target = getattr(border, f"{name}_ring"), getattr(distribution, name)
            wait = self.config.memory_latency - RING_READ
            m.d.comb += [
                word.eq(delayed(m, source[i], wait, name=f"{name}_ring{i}")) for i, word in enumerate(target)
            ]

    def _connect_tiles(
        self, m, platform, issue, epilogue, weights, parameters, load, port, memory, distribution
    ) -> None:
        config = self.config
        weight_row = Signal(config.lanes)
        row = delayed(m, weights.row, latencies(config).term - WEIGHT_READ, name="row")
        m.d.comb += weight_row.eq(row | issue.restore.replicate(config.lanes))
        # A cycle late, a way as wide as the chip is; and a cycle for each sum in the adders.
        resetting = Signal(config.sums_in_turn, init=-1)
        m.d.sync += resetting.eq(resetting[1:])
        active, gated = None, {}
        if gates_clocks(platform):
            gated = {"gated": True}
            active = instantiate(m, platform, "tile_activity", TileActivity, config=config)
            m.d.comb += [
                active.enable.eq(issue.enable),
                active.ends.eq(issue.ends),
                active.selects.eq(epilogue.select.valid),
            ]
        for i in range(config.tile_rows):
            for j in range(config.tile_cols):
                tile = instantiate(
                    m, platform, f"tile{i}_{j}", Tile, reset=resetting[0], config=config, **gated
                )
                control = tile.control
                if active is not None:
                    m.d.comb += [tile.summing.eq(active.summing), tile.finishing.eq(active.finishing)]
                m.d.comb += [
                    distribution.pixels[i][j].eq(memory.mac_data[i][j]),
                    tile.x.eq(distribution.x[i][j]),
                    tile.restore.eq(issue.restore),
                    tile.weights.eq(weight_row),
                    tile.enable.eq(issue.enable),
                    tile.ends.eq(issue.ends),
                    control.lane.eq(epilogue.select.lane),
                    control.use_scale.eq(epilogue.multiply.scale),
                    control.scale.eq(parameters.scale),
                    control.use_bias.eq(epilogue.bias.bias),
                    control.bias.eq(parameters.bias),
                    control.use_bypass.eq(epilogue.bypass.bypass),
                    control.relu.eq(epilogue.bypass.relu),
                    control.partial.eq(epilogue.store.partial),
                    control.part.eq(epilogue.store.part),
                    tile.true.eq(epilogue.bypass.rows[i] & epilogue.bypass.cols[j]),
                    tile.read_data.eq(memory.read_data[i][j]),
                    memory.results[i][j].eq(tile.result),
                ]
