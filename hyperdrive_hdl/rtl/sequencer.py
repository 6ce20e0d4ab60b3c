"""Sequencer: walks a layer's loop nest and gives one MAC operation of the array at a time."""

from dataclasses import dataclass

from amaranth.hdl import Array, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ..config import ChipConfig
from .axes import TapAxis, TruePixels
from .hierarchy import instantiate
from .layouts import ADDRESS_BITS, CONV_DESCRIPTOR, FENCE_BITS, OperationLayout


class Sequencer(wiring.Component):
    """One operation per cycle, in the order of the numerics (README: Numbers; paper section IV).

    Loop nest, outermost first: group, block of K output FMs, block of input channels, pixel of the tile
    (raster), filter tap (raster), input channel. A tile of one pixel carries its sum from one block of
    input channels to the next in the accumulator: the same additions in the same order.

    The next layer's descriptor is taken as soon as the last operation is out. Back-pressure on
    ``operations``.

    Parameters
    ----------
    config : the chip

    Members
    -------
    layers : descriptors, from ``Fetch``
    operations : to ``Issue``
    need_loads, need_stores : fences of the layer of the operation offered
    scratch, pixels : first address of its partial sums, and pixels of its tiles
    mesh_row, mesh_col : the chip's position
    active : operations of a layer are still to come
    """

    def __init__(self, *, config: ChipConfig):
        self._config = config
        super().__init__(
            {
                "layers": In(stream.Signature(CONV_DESCRIPTOR)),
                "operations": Out(stream.Signature(OperationLayout(config))),
                "need_loads": Out(FENCE_BITS),
                "need_stores": Out(FENCE_BITS),
                "scratch": Out(ADDRESS_BITS),
                "pixels": Out(16),
                "mesh_row": In(8),
                "mesh_col": In(8),
                "active": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        layer = Signal(CONV_DESCRIPTOR, reset_less=True)
        starting = Signal()  # the cycle after a descriptor came: counters are set
        walking = Signal()
        step = Signal()  # the operation at the counters moves into the output register
        op = self.operations

        m.d.comb += [
            step.eq(walking & (~op.valid | op.ready)),
            self.layers.ready.eq(~starting & ~walking),
            self.active.eq(starting | walking | op.valid),
            self.scratch.eq(layer.scratch_base),
            self.pixels.eq(layer.pixels),
        ]
        m.d.sync += starting.eq(self.layers.valid & self.layers.ready)
        with m.If(self.layers.valid & self.layers.ready):
            m.d.sync += layer.eq(self.layers.payload)

        position = self._walk(m, platform, layer, starting, step)
        with m.If(op.ready):
            m.d.sync += op.valid.eq(0)
        with m.If(step):
            m.d.sync += [op.valid.eq(1), op.p.eq(self._operation(m, platform, layer, position))]
            # With the operation, since the next descriptor may come while a layer's only one waits.
            m.d.sync += [self.need_loads.eq(layer.need_loads), self.need_stores.eq(layer.need_stores)]
        with m.If(starting):
            m.d.sync += walking.eq(1)
        with m.Elif(step & position.layer_last):
            m.d.sync += walking.eq(0)
        return m

    def _walk(self, m: Module, platform, layer, starting, step) -> "Position":
        """The loop counters, which count down, and the addresses that go with them."""
        channels = Signal(16)
        # 0, 1, 2: before, at, after the pixel
        dy = Signal(2)
        dx = Signal(2)
        pixels = Signal(16)
        row = Signal(8)
        col = Signal(8)
        in_blocks = Signal(16)
        out_blocks = Signal(16)
        groups = Signal(16)
        first = Signal()
        resumed = Signal()
        # Address of the present channel, of its block's first and its group's first, all in pixel 0.
        channel = Signal(16)
        block_channel = Signal(16)
        group_channel = Signal(16)
        pixel_offset = Signal(16)
        lane_offset = Signal(16)
        scratch_offset = Signal(16)

        tap_begin = Signal(2)
        tap_end = Signal(2)
        lanes = Signal(bits_for(self._config.lanes))
        m.d.comb += [
            tap_begin.eq(~layer.kernel3),
            tap_end.eq(Mux(layer.kernel3, 2, 1)),
            lanes.eq(Mux(out_blocks == 0, layer.last_lanes, self._config.lanes)),
        ]

        end_run = Signal()  # of input channels under one tap
        end_sum = Signal()  # of a pixel, within a block of input channels
        end_pass = Signal()  # over the tile's pixels
        end_block = Signal()  # of output FMs
        end_group = Signal()
        end_layer = Signal()
        m.d.comb += [
            end_run.eq(channels == 0),
            end_sum.eq(end_run & (dx == tap_end) & (dy == tap_end)),
            end_pass.eq(end_sum & (pixels == 0)),
            end_block.eq(end_pass & (in_blocks == 0)),
            end_group.eq(end_block & (out_blocks == 0)),
            end_layer.eq(end_group & (groups == 0)),
        ]

        # Channels and taps.
        next_blocks = Signal(16)
        next_start = Signal(16)
        next_group = Signal(16)
        m.d.comb += next_group.eq(group_channel + layer.group_channels)
        with m.If(starting):
            m.d.comb += [next_blocks.eq(layer.in_blocks - 1), next_start.eq(layer.in_base)]
        with m.Elif(end_block):
            m.d.comb += [
                next_blocks.eq(layer.in_blocks - 1),
                next_start.eq(Mux(end_group, next_group, group_channel)),
            ]
        with m.Elif(end_pass):
            m.d.comb += [next_blocks.eq(in_blocks - 1), next_start.eq(block_channel + layer.block_channels)]
        with m.Else():
            m.d.comb += [next_blocks.eq(in_blocks), next_start.eq(block_channel)]
        with m.If(starting | (step & end_run)):
            m.d.sync += [
                channels.eq(Mux(next_blocks == 0, layer.last_channels, layer.block_channels) - 1),
                channel.eq(next_start),
                block_channel.eq(next_start),
                in_blocks.eq(next_blocks),
            ]
        with m.Elif(step):
            m.d.sync += [channels.eq(channels - 1), channel.eq(channel + 1)]
        with m.If(starting | (step & end_sum)):
            m.d.sync += [dy.eq(tap_begin), dx.eq(tap_begin)]
        with m.Elif(step & end_run):
            with m.If(dx == tap_end):
                m.d.sync += [dx.eq(tap_begin), dy.eq(dy + 1)]
            with m.Else():
                m.d.sync += dx.eq(dx + 1)

        # Pixels.
        rows = instantiate(m, platform, "rows", TapAxis)
        cols = instantiate(m, platform, "cols", TapAxis)
        end_row = col == layer.tile_w - 1
        m.d.comb += [
            rows.step.eq(layer.in_row_stride),
            rows.last.eq(layer.in_last_row),
            rows.stride2.eq(layer.stride2),
            rows.restart.eq(starting | (step & end_pass)),
            rows.advance.eq(step & end_sum & end_row),
            cols.step.eq(layer.in_channels),
            cols.last.eq(layer.in_last_col),
            cols.stride2.eq(layer.stride2),
            cols.restart.eq(rows.restart | rows.advance),
            cols.advance.eq(step & end_sum),
        ]
        with m.If(rows.restart):
            m.d.sync += [
                pixels.eq(layer.pixels - 1),
                row.eq(0),
                col.eq(0),
                pixel_offset.eq(0),
                scratch_offset.eq(0),
            ]
        with m.Elif(step & end_sum):
            m.d.sync += [
                pixels.eq(pixels - 1),
                pixel_offset.eq(pixel_offset + layer.out_channels),
                scratch_offset.eq(scratch_offset + self._config.lanes),
                col.eq(Mux(end_row, 0, col + 1)),
                row.eq(row + end_row),
            ]

        # Blocks and groups.
        with m.If(starting):
            m.d.sync += [
                first.eq(1),
                resumed.eq(0),
                out_blocks.eq(layer.out_blocks - 1),
                groups.eq(layer.groups - 1),
                group_channel.eq(layer.in_base),
                lane_offset.eq(0),
            ]
        with m.Elif(step):
            m.d.sync += first.eq(0)
            with m.If(end_pass):
                m.d.sync += resumed.eq(~end_block)
            with m.If(end_block):
                m.d.sync += [lane_offset.eq(lane_offset + lanes), out_blocks.eq(out_blocks - 1)]
            with m.If(end_group):
                m.d.sync += [
                    out_blocks.eq(layer.out_blocks - 1),
                    groups.eq(groups - 1),
                    group_channel.eq(next_group),
                ]

        return Position(
            first=first,
            sum_last=end_sum,
            pass_last=pixels == 0,
            pass_ending=pixels <= 1,
            more_blocks=in_blocks != 0,
            resumed=resumed,
            layer_last=end_layer,
            lanes=lanes,
            dy=dy,
            dx=dx,
            row=row,
            col=col,
            channel=channel,
            rows=rows,
            cols=cols,
            word_offset=pixel_offset + lane_offset,
            scratch_offset=scratch_offset,
        )

    def _operation(self, m: Module, platform, layer, at: "Position"):
        """The operation at a position of the loop nest."""
        op = Signal(OperationLayout(self._config))
        single = layer.pixels == 1
        true_rows = instantiate(m, platform, "true_rows", TruePixels, tiles=self._config.tile_rows)
        true_cols = instantiate(m, platform, "true_cols", TruePixels, tiles=self._config.tile_cols)
        m.d.comb += [
            true_rows.position.eq(self.mesh_row),
            true_rows.full.eq(layer.full_rows),
            true_rows.rest.eq(layer.rest_rows),
            true_rows.pixel.eq(at.row),
            true_cols.position.eq(self.mesh_col),
            true_cols.full.eq(layer.full_cols),
            true_cols.rest.eq(layer.rest_cols),
            true_cols.pixel.eq(at.col),
        ]
        row_offset = Array([at.rows.previous, at.rows.at, at.rows.following])[at.dy]
        col_offset = Array([at.cols.previous, at.cols.at, at.cols.following])[at.dx]
        m.d.comb += [
            op.address.eq(at.channel + row_offset + col_offset),
            op.up.eq((at.dy == 0) & at.rows.previous_wraps),
            op.down.eq((at.dy == 2) & at.rows.following_wraps),
            op.left.eq((at.dx == 0) & at.cols.previous_wraps),
            op.right.eq((at.dx == 2) & at.cols.following_wraps),
            op.rewind.eq(at.sum_last),
            op.discard.eq(at.pass_last),
            op.first.eq(at.first),
            op.last.eq(at.sum_last & ~(single & at.more_blocks)),
            op.result.eq(
                Mux(at.more_blocks, layer.scratch_base + at.scratch_offset, layer.out_base + at.word_offset)
            ),
            op.bypass_address.eq(layer.bypass_base + at.word_offset),
            op.lanes.eq(at.lanes),
            op.partial.eq(at.more_blocks),
            op.scale.eq(layer.scale & ~at.more_blocks),
            op.bias.eq(layer.bias & ~at.more_blocks),
            op.bypass.eq(layer.bypass & ~at.more_blocks),
            op.relu.eq(layer.relu & ~at.more_blocks),
            op.restore.eq(~single & Mux(at.pass_last, at.more_blocks, at.resumed)),
            op.preload.eq(~single & Mux(at.pass_ending, at.more_blocks, at.resumed)),
            op.block_last.eq(at.pass_last & ~at.more_blocks),
            op.layer_last.eq(at.layer_last),
            op.rows.eq(true_rows.true),
            op.cols.eq(true_cols.true),
        ]
        return op


@dataclass(frozen=True, eq=False)
class Position:
    """Where the sequencer stands in the loop nest: Amaranth values, valid with each operation."""

    first: Value
    sum_last: Value  # last term of a pixel, within a block of input channels
    pass_last: Value  # last pixel of the tile
    pass_ending: Value  # last or last but one
    more_blocks: Value  # of input channels follow
    resumed: Value  # not the first block of input channels
    layer_last: Value
    lanes: Value
    dy: Value
    dx: Value
    row: Value
    col: Value
    channel: Value
    rows: TapAxis
    cols: TapAxis
    word_offset: Value  # of lane 0 in the output and bypass maps
    scratch_offset: Value
