"""The operations of one convolution: a plain loop nest over a tile's pixels (README: Numbers).

Written from that text and isa.py, apart from the RTL: nothing is counted down, wrapped or carried along.
"""

import random
from dataclasses import dataclass

from hyperdrive_hdl import isa
from hyperdrive_hdl.config import ChipConfig


@dataclass(frozen=True)
class Place:
    """Chip in the mesh, and the height and width of the output map over the whole mesh."""

    mesh_row: int
    mesh_col: int
    height: int
    width: int


def random_conv(
    rng: random.Random, config: ChipConfig, *, largest: int = 4, mesh: tuple[int, int] | None = None
) -> tuple[isa.Conv, Place]:
    """A layer of any shape the instruction set knows; ``mesh``: the chip's position."""
    kernel3, stride2 = rng.getrandbits(1), rng.random() < 0.4
    stride = 2 if stride2 else 1
    tile_h, tile_w = rng.randint(1, largest), rng.randint(1, largest)
    groups = rng.choice([1, 1, 2, 3])
    in_blocks = rng.choice([1, 1, 2, 3])
    block_channels = rng.randint(1, 3)
    last_channels = rng.randint(1, block_channels)
    group_channels = (in_blocks - 1) * block_channels + last_channels
    out_blocks, last_lanes = rng.randint(1, 2), rng.randint(1, config.lanes)
    in_channels = groups * group_channels
    out_channels = groups * ((out_blocks - 1) * config.lanes + last_lanes)
    in_w, in_h = tile_w * stride, tile_h * stride
    mesh_row, mesh_col = mesh or (rng.randint(0, 2), rng.randint(0, 2))
    height = rng.randint(1, 3 * config.tile_rows * tile_h)
    width = rng.randint(1, 3 * config.tile_cols * tile_w)
    conv = isa.Conv(
        kernel3=kernel3,
        stride2=int(stride2),
        relu=rng.getrandbits(1),
        scale=rng.getrandbits(1),
        bias=rng.getrandbits(1),
        bypass=rng.getrandbits(1),
        in_base=rng.randrange(1000),
        out_base=rng.randrange(1000, 2000),
        bypass_base=rng.randrange(2000, 3000),
        scratch_base=rng.randrange(3000, 4000),
        in_channels=in_channels,
        out_channels=out_channels,
        tile_h=tile_h,
        tile_w=tile_w,
        in_row_stride=in_w * in_channels,
        in_last_row=(in_h - 1) * in_w * in_channels,
        in_last_col=(in_w - 1) * in_channels,
        pixels=tile_h * tile_w,
        groups=groups,
        group_channels=group_channels,
        out_blocks=out_blocks,
        last_lanes=last_lanes,
        in_blocks=in_blocks,
        block_channels=block_channels,
        last_channels=last_channels,
        full_rows=height // tile_h,
        full_cols=width // tile_w,
        rest_rows=height % tile_h,
        rest_cols=width % tile_w,
    )
    return conv, Place(mesh_row, mesh_col, height, width)


# Fields that count only in an operation that ends a sum.
AT_LAST = (
    "result", "bypass_address", "lanes", "partial", "scale", "bias", "bypass", "relu", "restore", "preload",
    "block_last", "layer_last", "rows", "cols",
)  # fmt: skip


def operations(conv: isa.Conv, place: Place, config: ChipConfig) -> list[dict[str, int]]:
    """Every operation in order, by ``OperationLayout``'s names; ``AT_LAST`` ones only with ``last``."""
    stride = 2 if conv.stride2 else 1
    in_h, in_w = conv.tile_h * stride, conv.tile_w * stride
    reach = (-1, 0, 1) if conv.kernel3 else (0,)
    one_pixel = conv.tile_h * conv.tile_w == 1
    group_outputs = conv.out_channels // conv.groups
    sums = []
    for group in range(conv.groups):
        for out_block in range(conv.out_blocks):
            for in_block in range(conv.in_blocks):
                low = in_block * conv.block_channels
                high = min(low + conv.block_channels, conv.group_channels)
                for y in range(conv.tile_h):
                    for x in range(conv.tile_w):
                        terms = []
                        for dy in reach:
                            for dx in reach:
                                for c in range(low, high):
                                    at_y, at_x = y * stride + dy, x * stride + dx
                                    terms.append(
                                        {
                                            "address": conv.in_base
                                            + (at_y % in_h) * in_w * conv.in_channels
                                            + (at_x % in_w) * conv.in_channels
                                            + group * conv.group_channels
                                            + c,
                                            "up": at_y < 0,
                                            "down": at_y >= in_h,
                                            "left": at_x < 0,
                                            "right": at_x >= in_w,
                                            "rewind": 0,
                                            "discard": (y, x) == (conv.tile_h - 1, conv.tile_w - 1),
                                            "first": 0,
                                            "last": 0,
                                        }
                                    )
                        more = in_block < conv.in_blocks - 1
                        pixel = y * conv.tile_w + x
                        first_output = group * group_outputs + out_block * config.lanes
                        word = pixel * conv.out_channels + first_output
                        true_rows = [
                            (place.mesh_row * config.tile_rows + i) * conv.tile_h + y < place.height
                            for i in range(config.tile_rows)
                        ]
                        true_cols = [
                            (place.mesh_col * config.tile_cols + j) * conv.tile_w + x < place.width
                            for j in range(config.tile_cols)
                        ]
                        terms[-1]["rewind"] = 1
                        end = {
                            "result": conv.scratch_base + pixel * config.lanes
                            if more
                            else conv.out_base + word,
                            "bypass_address": conv.bypass_base + word,
                            "lanes": min(config.lanes, group_outputs - out_block * config.lanes),
                            "partial": more,
                            **{
                                name: getattr(conv, name) and not more
                                for name in ("scale", "bias", "bypass", "relu")
                            },
                            "block_last": pixel == conv.tile_h * conv.tile_w - 1 and not more,
                            "layer_last": 0,
                            "rows": sum(1 << i for i, true in enumerate(true_rows) if true),
                            "cols": sum(1 << j for j, true in enumerate(true_cols) if true),
                        }
                        # A tile of one pixel carries its sum on in the accumulator.
                        if one_pixel and in_block > 0:
                            sums[-1]["terms"] += terms
                            sums[-1]["end"] = end
                        else:
                            sums.append({"terms": terms, "end": end, "stored": in_block > 0})
    sums[-1]["end"]["layer_last"] = 1
    sums[0]["terms"][0]["first"] = 1
    found = []
    for index, one in enumerate(sums):
        later = [s["stored"] for s in sums[index + 1 : index + 3]] + [False, False]
        one["terms"][-1] |= {"last": 1, **one["end"], "restore": later[0], "preload": later[1]}
        found += one["terms"]
    return [{name: int(value) for name, value in operation.items()} for operation in found]
