"""Walks a layer's sums: group, block of output FMs, block of input channels, pixel of the tile."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ..config import ChipConfig
from .axes import TapAxis, TruePixels
from .hierarchy import instantiate
from .layouts import (
    ADDRESS_BITS,
    BLOCK_BITS,
    CONV_DESCRIPTOR,
    FENCE_BITS,
    LayerSignature,
    SumLayout,
    number_bits,
    row_bits,
)


class SumWalker(wiring.Component):
    """One sum after another, up to one in two cycles, in the order of the numerics (README: Numbers).

    The walk never looks at the consumer's ``ready`` in the cycle itself, which comes late; an epilogue takes
    as long for a sum of two lanes.

    The next layer's descriptor is taken when the last sum of a layer is out and its first operation has
    issued, so that the fences are those of the layer that waits.

    Parameters
    ----------
    config : the chip

    Members
    -------
    layers : descriptors, from ``Fetch``
    sums : to ``TermWalker``
    begun : a layer's first operation issues
    layer : descriptor of the layer that begins next; ``need_loads``, ``need_stores``: its fences
    mesh_row, mesh_col : the chip's position
    active : sums of a layer are still to come
    """

    def __init__(self, *, config: ChipConfig):
        self._config = config
        super().__init__(
            {
                "layers": In(LayerSignature()),
                "sums": Out(stream.Signature(SumLayout(config))),
                "begun": In(1),
                "layer": Out(CONV_DESCRIPTOR),
                "need_loads": Out(FENCE_BITS),
                "need_stores": Out(FENCE_BITS),
                "mesh_row": In(8),
                "mesh_col": In(8),
                "active": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        layer = self.layers.taken
        starting = Signal()  # the cycle after a descriptor came: counters are set
        settling = Signal()  # and the next: so is what follows from them
        walking = Signal()
        waiting = Signal()  # for the layer's begin
        step = Signal()  # the sum at the counters moves into the output register
        last = Signal()  # it is the layer's last
        sums = self.sums

        m.d.comb += [
            step.eq(walking & ~sums.valid),
            self.layers.ready.eq(~starting & ~settling & ~walking & ~waiting),
            self.active.eq(starting | settling | walking | sums.valid),
            self.layer.eq(layer),
            self.need_loads.eq(layer.need_loads),
            self.need_stores.eq(layer.need_stores),
        ]
        m.d.sync += [starting.eq(self.layers.valid & self.layers.ready), settling.eq(starting)]
        with m.If(self.layers.valid & self.layers.ready):
            m.d.sync += waiting.eq(1)
        with m.Elif(self.begun):
            m.d.sync += waiting.eq(0)
        with m.If(settling):
            m.d.sync += walking.eq(1)
        with m.Elif(step & last):
            m.d.sync += walking.eq(0)

        sum = Signal(SumLayout(self._config))
        self._walk(m, platform, layer, starting, step, sum, last)
        with m.If(sums.ready):
            m.d.sync += sums.valid.eq(0)
        with m.If(step):
            m.d.sync += [sums.valid.eq(1), sums.p.eq(sum)]
        return m

    def _walk(self, m: Module, platform, layer, starting, step, sum, last) -> None:
        """The loop counters, which count from 1 to the descriptor's numbers, and what goes with them."""
        lanes_of_chip = self._config.lanes
        partial_words = lanes_of_chip * self._config.number_format.words_per_sum
        row = Signal(8)
        col = Signal(8)
        in_block = Signal(16)
        out_block = Signal(16)
        group = Signal(16)
        last_in_block = Signal()
        last_out_block = Signal()
        first = Signal()
        resumed = Signal()  # not the first block of input channels
        group_channel = Signal(16)  # the group's first channel
        block_channel = Signal(16)  # and from there to the block's
        channels = Signal(bits_for(self._config.wbuf_depth))
        pixel_offset = Signal(16)
        lane_offset = Signal(16)
        scratch_offset = Signal(16)
        lanes = Signal(bits_for(lanes_of_chip))
        # Kept from layer to layer:
        weight_row = Signal(row_bits(self._config.wbuf_depth))
        position = Signal(range(self._config.wbuf_depth))
        block = Signal(BLOCK_BITS)
        number = Signal(number_bits(self._config))
        parity = Signal()

        end_row = Signal()
        end_pass = Signal()  # over the tile's pixels
        end_block = Signal()  # of output FMs
        end_group = Signal()
        m.d.comb += [
            last_in_block.eq(in_block == layer.in_blocks),
            last_out_block.eq(out_block == layer.out_blocks),
            channels.eq(Mux(last_in_block, layer.last_channels, layer.block_channels)),
            lanes.eq(Mux(last_out_block, layer.last_lanes, lanes_of_chip)),
        ]
        # Steps are two cycles apart: in the one between, what ends with the sum at the counters is found.
        row_ends = col == layer.tile_w
        pass_ends = row_ends & (row == layer.tile_h)
        block_ends = pass_ends & last_in_block
        group_ends = block_ends & last_out_block
        m.d.sync += [
            end_row.eq(row_ends),
            end_pass.eq(pass_ends),
            end_block.eq(block_ends),
            end_group.eq(group_ends),
            last.eq(group_ends & (group == layer.groups)),
        ]

        # Weight rows. Those of blocks that alternate begin one after the other and are one block here.
        rows = Signal(bits_for(self._config.wbuf_depth))
        end_rows = Signal()
        row_behind = Signal(row_bits(self._config.wbuf_depth))  # behind this block
        position_behind = Signal(range(self._config.wbuf_depth))
        m.d.sync += rows.eq(Mux(layer.kernel3, (channels << 3) + channels, channels))
        m.d.comb += [
            sum.frees.eq(end_rows),
        ]
        if self._config.sums_in_turn > 1:
            together = Signal(range(self._config.sums_in_turn))  # which of the blocks that alternate
            next_row = Signal(row_bits(self._config.wbuf_depth))  # behind the blocks so far
            next_position = Signal(range(self._config.wbuf_depth))
            left = Signal(16)
            m.d.comb += [
                left.eq(layer.out_blocks - out_block + together + 1),
                end_rows.eq(end_pass & ((together == layer.interleave - 1) | last_out_block)),
                row_behind.eq(next_row + rows),
                position_behind.eq(self._in_ring(next_position + rows)),
                sum.row.eq(weight_row + together),
                sum.position.eq(self._in_ring(position + together)),
                sum.stride.eq(Mux(left < layer.interleave, left, layer.interleave)),
            ]
            with m.If(step & end_pass):
                m.d.sync += [
                    next_row.eq(row_behind),
                    next_position.eq(position_behind),
                    together.eq(Mux(end_rows, 0, together + 1)),
                ]
        else:
            m.d.comb += [
                end_rows.eq(end_pass),
                row_behind.eq(weight_row + rows),
                position_behind.eq(self._in_ring(position + rows)),
                sum.row.eq(weight_row),
                sum.position.eq(position),
                sum.stride.eq(1),
            ]
        with m.If(step):
            m.d.sync += number.eq(number + 1)
            with m.If(end_rows):
                m.d.sync += [
                    weight_row.eq(row_behind),
                    position.eq(position_behind),
                    block.eq(block + 1),
                ]
            with m.If(last):
                m.d.sync += parity.eq(~parity)

        # Channels.
        with m.If(starting):
            m.d.sync += [first.eq(1), group.eq(1), group_channel.eq(0), lane_offset.eq(0)]
        with m.Elif(step):
            m.d.sync += first.eq(0)
            with m.If(end_block):
                m.d.sync += lane_offset.eq(lane_offset + lanes)
            with m.If(end_group):
                m.d.sync += [group.eq(group + 1), group_channel.eq(group_channel + layer.group_channels)]
        with m.If(starting | (step & end_group)):
            m.d.sync += out_block.eq(1)
        with m.Elif(step & end_block):
            m.d.sync += out_block.eq(out_block + 1)
        with m.If(starting | (step & end_block)):
            m.d.sync += [in_block.eq(1), block_channel.eq(0), resumed.eq(0)]
        with m.Elif(step & end_pass):
            m.d.sync += [
                in_block.eq(in_block + 1),
                block_channel.eq(block_channel + channels),
                resumed.eq(1),
            ]

        # Pixels.
        tap_rows = instantiate(m, platform, "rows", TapAxis)
        tap_cols = instantiate(m, platform, "cols", TapAxis)
        m.d.comb += [
            tap_rows.base.eq(layer.in_base),
            tap_rows.step.eq(layer.in_row_stride),
            tap_rows.last.eq(layer.in_last_row),
            tap_rows.stride2.eq(layer.stride2),
            tap_rows.restart.eq(starting | (step & end_pass)),
            tap_rows.advance.eq(step & end_row),
            tap_cols.step.eq(layer.in_channels),
            tap_cols.last.eq(layer.in_last_col),
            tap_cols.stride2.eq(layer.stride2),
            tap_cols.restart.eq(tap_rows.restart | tap_rows.advance),
            tap_cols.advance.eq(step),
        ]
        if self._config.links:
            edges = instantiate(m, platform, "edges", TapAxis)
            m.d.comb += [
                edges.step.eq(layer.in_channels),
                edges.last.eq(layer.in_last_edge),
                edges.stride2.eq(layer.stride2),
                edges.restart.eq(tap_rows.restart),
                edges.advance.eq(tap_rows.advance),
                sum.edge_offsets.as_value().eq(Cat(edges.previous, edges.at, edges.following)),
                sum.ring.eq(layer.imports),
                sum.ring_slot.eq(layer.import_slot),
            ]
        with m.If(tap_rows.restart):
            m.d.sync += [
                row.eq(1),
                col.eq(1),
                pixel_offset.eq(0),
                scratch_offset.eq(0),
            ]
        with m.Elif(step):
            m.d.sync += [
                pixel_offset.eq(pixel_offset + layer.out_channels),
                scratch_offset.eq(scratch_offset + partial_words),
                col.eq(Mux(end_row, 1, col + 1)),
                row.eq(row + end_row),
            ]
        true_rows = instantiate(m, platform, "true_rows", TruePixels, tiles=self._config.tile_rows)
        true_cols = instantiate(m, platform, "true_cols", TruePixels, tiles=self._config.tile_cols)
        m.d.comb += [
            true_rows.position.eq(self.mesh_row),
            true_rows.full.eq(layer.full_rows),
            true_rows.rest.eq(layer.rest_rows),
            true_rows.pixel.eq(row),
            true_cols.position.eq(self.mesh_col),
            true_cols.full.eq(layer.full_cols),
            true_cols.rest.eq(layer.rest_cols),
            true_cols.pixel.eq(col),
        ]

        stored = Signal(ADDRESS_BITS)
        word_offset = Signal(16)
        more = Signal()  # blocks of input channels follow
        many = (1 << len(sum.spacing)) - 1
        finish = sum.finish
        m.d.comb += [
            stored.eq(layer.scratch_base + scratch_offset),
            word_offset.eq(pixel_offset + lane_offset),
            more.eq(~last_in_block),
            sum.row_addresses.as_value().eq(Cat(tap_rows.previous, tap_rows.at, tap_rows.following)),
            sum.col_offsets.as_value().eq(Cat(tap_cols.previous, tap_cols.at, tap_cols.following)),
            sum.above.eq(tap_rows.previous_wraps),
            sum.below.eq(tap_rows.following_wraps),
            sum.left.eq(tap_cols.previous_wraps),
            sum.right.eq(tap_cols.following_wraps),
            sum.kernel3.eq(layer.kernel3),
            sum.channel.eq(group_channel + block_channel),
            sum.channels.eq(channels),
            sum.block.eq(block),
            sum.number.eq(number),
            sum.restore.eq(resumed),
            sum.stored.eq(stored),
            sum.spacing.eq(Mux(layer.pixels[len(sum.spacing) :].any(), many, layer.pixels)),
            sum.first.eq(first),
            sum.layer.eq(parity),
            finish.result.eq(Mux(more, stored, layer.out_base + word_offset)),
            finish.bypass_address.eq(layer.bypass_base + word_offset),
            finish.lanes.eq(lanes),
            finish.partial.eq(more),
            finish.scale.eq(layer.scale & ~more),
            finish.bias.eq(layer.bias & ~more),
            finish.bypass.eq(layer.bypass & ~more),
            finish.relu.eq(layer.relu & ~more),
            finish.paced.eq(layer.bypass),
            finish.block_last.eq(end_block),
            finish.layer_last.eq(last),
            finish.rows.eq(true_rows.true),
            finish.cols.eq(true_cols.true),
        ]

    def _in_ring(self, position) -> Value:
        """A place in the weight buffer, less than twice its depth, wrapped round."""
        depth = self._config.wbuf_depth
        return Mux(position >= depth, position - depth, position)
