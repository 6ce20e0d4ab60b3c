"""Writes the program of a chip stage: instructions with their fences, parameters and weights (isa.py)."""

from collections.abc import Set
from dataclasses import replace

import numpy as np

from .. import isa
from ..config import ChipConfig, MeshConfig
from ..errors import ModelError
from .allocate import Allocation, allocate
from .borders import Border, border_slots, check_borders
from .fences import Access, Segment, Unit, waits
from .ir import BinaryConv, ChipProgram, ChipStage, PlacedLayer, PlacedMap, PlacedTransfer
from .schedule import block_channels
from .tiling import whole_and_rest

PROGRAM_TAIL = np.array([isa.header(isa.Opcode.HALT)], np.uint64)


def compile_stage(
    stage: ChipStage, chip: ChipConfig, mesh: MeshConfig, *, observe: bool = False
) -> ChipProgram:
    """Tile, place and encode one chip stage for a chip or a mesh.

    Parameters
    ----------
    observe : store every layer's output as soon as it is made, for chips whose memory nobody can look into

    Raises
    ------
    ModelError : the stage does not fit the chip or the instruction fields; the layer, the value and the
        limit are named
    """
    allocation = allocate(stage, chip, mesh)
    borders = _borders(stage, allocation, chip, mesh)
    stored = {m.name for m in stage.outputs}
    if observe:
        stored |= {layer.output.name for layer in stage.layers}
    steps = _steps(stage, stored, allocation, borders, chip)
    reload_after = _reload_after(steps, chip)
    steps = _with_fences(steps, chip, reload_after)
    return ChipProgram(
        name=stage.name,
        chip=chip,
        mesh=mesh,
        steps=steps,
        head=program_head(chip),
        packets=tuple(_words(step, chip) for step in steps),
        reload_after=reload_after,
        tail=PROGRAM_TAIL,
    )


def program_head(chip: ChipConfig) -> np.ndarray:
    """The CONFIG that a program for this chip starts with."""
    signature = chip.signature
    header = isa.header(isa.Opcode.CONFIG, isa.CONFIG_WORDS)
    return np.array([header, isa.MAGIC, signature & 0xFFFF, signature >> 16], np.uint64)


def _borders(
    stage: ChipStage, allocation: Allocation, chip: ChipConfig, mesh: MeshConfig
) -> dict[str, Border]:
    """The borders that the chips exchange; none on one chip."""
    if mesh.chips == 1:
        return {}
    borders = border_slots([m.name for m in stage.inputs], allocation.layers)
    check_borders([allocation.maps[name] for name in borders], chip, mesh)
    return borders


def _words(step: PlacedLayer | PlacedTransfer, chip: ChipConfig) -> np.ndarray:
    """A step's packets: its instruction, and a layer's parameters and weights."""
    if isinstance(step, PlacedTransfer):
        what = "input" if step.load else "output"
        opcode = isa.Opcode.LOAD if step.load else isa.Opcode.STORE
        return packet(opcode, step.instruction, f"{what} {step.map.map.name!r}")
    head = packet(isa.Opcode.CONV, step.instruction, f"layer {step.conv.name!r}")
    return np.concatenate([head, *operands(step.conv, step.instruction, chip.lanes)])


def _reload_after(steps: tuple[PlacedLayer | PlacedTransfer, ...], chip: ChipConfig) -> int | None:
    """The last step that needs the input's memory, if it is one load and layers follow: the next load's
    place.

    A second load would wait for the first in the stream, and hold up the weights behind it.
    """
    loads = [step for step in steps if isinstance(step, PlacedTransfer) and step.load]
    if len(loads) != 1:
        return None
    load = access(steps[0], chip)
    last = max(index for index, step in enumerate(steps) if index == 0 or access(step, chip).touches(load))
    follow = any(isinstance(step, PlacedLayer) for step in steps[last + 1 :])
    return last if last > 0 and follow else None


def packet(opcode: isa.Opcode, instruction: isa.Conv | isa.Transfer, owner: str) -> np.ndarray:
    """An instruction's words. Raises ``ModelError`` where a value does not fit its field."""
    try:
        words = instruction.encode()
    except ModelError as error:
        raise ModelError(f"{owner}: {error}") from None
    return np.array([isa.header(opcode, len(words)), *words], np.uint64)


def _steps(
    stage: ChipStage,
    stored: Set[str],
    allocation: Allocation,
    borders: dict[str, Border],
    chip: ChipConfig,
) -> tuple[PlacedLayer | PlacedTransfer, ...]:
    """Instructions without fences: loads, then the layers, each ``stored`` map as soon as it is made."""
    maps = allocation.maps

    def transfer(name: str, load: bool) -> PlacedTransfer:
        instruction = transfer_instruction(maps[name])
        if load and name in borders:
            instruction = replace(instruction, exports=1, export_slot=borders[name].slot)
        return PlacedTransfer(load=load, map=maps[name], instruction=instruction)

    steps: list[PlacedLayer | PlacedTransfer] = [transfer(m.name, True) for m in stage.inputs]
    steps += [transfer(m.name, False) for m in stage.inputs if m.name in stored]
    for index, layer in enumerate(allocation.layers):
        source, target = maps[layer.input.name], maps[layer.output.name]
        bypass = maps[layer.bypass.name] if layer.bypass else None
        conv = conv_instruction(layer, source, target, bypass, allocation.scratch[index], chip)
        placed = PlacedLayer(
            conv=layer,
            input=source,
            output=target,
            bypass=bypass,
            instruction=replace(conv, **_border_fields(layer, index, borders)),
        )
        steps.append(placed)
        if layer.output.name in stored:
            steps.append(transfer(layer.output.name, False))
    return tuple(steps)


def _border_fields(layer: BinaryConv, index: int, borders: dict[str, Border]) -> dict[str, int]:
    """A layer's fields about borders."""
    made, read = borders.get(layer.output.name), borders.get(layer.input.name)
    fields = {} if made is None else {"exports": 1, "export_slot": made.slot}
    if read is not None and layer.kernel == 3:
        fields |= {"imports": 1, "import_slot": read.slot, "releases": int(read.last_reader == index)}
    return fields


def transfer_instruction(placed: PlacedMap) -> isa.Transfer:
    """A LOAD or STORE of a map, without fences."""
    full_rows, rest_rows = whole_and_rest(placed.map.height, placed.tile_h)
    full_cols, rest_cols = whole_and_rest(placed.map.width, placed.tile_w)
    return isa.Transfer(
        base=placed.base,
        channels=placed.map.channels,
        tile_h=placed.tile_h,
        tile_w=placed.tile_w,
        row_stride=placed.tile_w * placed.map.channels,
        full_rows=full_rows,
        full_cols=full_cols,
        rest_rows=rest_rows,
        rest_cols=rest_cols,
    )


def conv_instruction(
    layer: BinaryConv,
    source: PlacedMap,
    target: PlacedMap,
    bypass: PlacedMap | None,
    scratch: int,
    chip: ChipConfig,
) -> isa.Conv:
    """A CONV, without fences and borders; ``scratch`` is the base of its partial sums.

    Raises
    ------
    ModelError : not even one input channel's weights fit the weight buffer
    """
    out_channels, group_channels = layer.weights.shape[:2]
    group_outputs = out_channels // layer.groups
    block = block_channels(layer, chip)
    if not block:
        raise ModelError(
            f"layer {layer.name!r}: one input channel has {layer.taps} rows of weights, the weight buffer "
            f"of chip {chip.name!r} holds {chip.wbuf_depth}; use wbuf_depth = {layer.taps} or more"
        )
    in_blocks, out_blocks = -(-group_channels // block), -(-group_outputs // chip.lanes)
    full_rows, rest_rows = whole_and_rest(target.map.height, target.tile_h)
    full_cols, rest_cols = whole_and_rest(target.map.width, target.tile_w)
    row_stride = source.tile_w * source.map.channels
    pixels = target.tile_h * target.tile_w
    alternate = pixels == 1 and in_blocks == 1
    return isa.Conv(
        kernel3=int(layer.kernel == 3),
        stride2=int(layer.stride == 2),
        relu=int(layer.relu),
        scale=int(layer.scale is not None),
        bias=int(layer.bias is not None),
        bypass=int(bypass is not None),
        interleave=min(chip.sums_in_turn, out_blocks, chip.wbuf_depth) if alternate else 1,
        in_base=source.base,
        out_base=target.base,
        bypass_base=bypass.base if bypass else 0,
        scratch_base=scratch,
        in_channels=source.map.channels,
        out_channels=out_channels,
        tile_h=target.tile_h,
        tile_w=target.tile_w,
        in_row_stride=row_stride,
        in_last_row=(source.tile_h - 1) * row_stride,
        in_last_col=(source.tile_w - 1) * source.map.channels,
        in_last_edge=(source.tile_h - 1) * source.map.channels,
        pixels=pixels,
        groups=layer.groups,
        group_channels=group_channels,
        out_blocks=out_blocks,
        last_lanes=group_outputs - (out_blocks - 1) * chip.lanes,
        in_blocks=in_blocks,
        block_channels=block,
        last_channels=group_channels - (in_blocks - 1) * block,
        full_rows=full_rows,
        full_cols=full_cols,
        rest_rows=rest_rows,
        rest_cols=rest_cols,
    )


def access(step: PlacedLayer | PlacedTransfer, chip: ChipConfig) -> Access:
    """The memory an instruction reads and writes, border slots too, for its fences."""
    made = [_slot(step.instruction.export_slot)] if step.instruction.exports else []
    if isinstance(step, PlacedTransfer):
        segment = (step.map.base, step.map.base + step.map.words_per_tile)
        if step.load:
            return Access(Unit.LOAD, (), (segment, *made))
        return Access(Unit.STORE, (segment,), ())
    reads = [step.input, *([step.bypass] if step.bypass else [])]
    writes = [(step.output.base, step.output.base + step.output.words_per_tile)]
    conv = step.instruction
    if conv.in_blocks > 1:
        words = conv.pixels * chip.lanes * chip.number_format.words_per_sum
        writes.append((conv.scratch_base, conv.scratch_base + words))
    segments = [(m.base, m.base + m.words_per_tile) for m in reads]
    if conv.imports:
        segments.append(_slot(conv.import_slot))
    return Access(Unit.CONV, tuple(segments), (*writes, *made))


def _slot(slot: int) -> Segment:
    """A border slot, as a word behind all addresses."""
    return (1 << 16) + slot, (1 << 16) + slot + 1


def _with_fences(
    steps: tuple[PlacedLayer | PlacedTransfer, ...], chip: ChipConfig, reload_after: int | None
) -> tuple[PlacedLayer | PlacedTransfer, ...]:
    order = list(range(len(steps)))  # as streamed, again and again
    if reload_after is not None:
        order = [*order[1 : reload_after + 1], 0, *order[reload_after + 1 :]]
    fenced = list(steps)
    for index, wait in zip(order, waits([access(steps[index], chip) for index in order]), strict=True):
        step = steps[index]
        if isinstance(step, PlacedLayer):
            fences = {"wait_loads": wait[Unit.LOAD], "wait_stores": wait[Unit.STORE]}
        else:
            other = Unit.STORE if step.load else Unit.LOAD
            fences = {"wait_convs": wait[Unit.CONV], "wait_transfers": wait[other]}
        fenced[index] = replace(step, instruction=replace(step.instruction, **fences))
    return tuple(fenced)


def operands(layer: BinaryConv, conv: isa.Conv, lanes: int) -> list[np.ndarray]:
    """What follows a CONV: for each group and block of K output FMs PARAMS, then WEIGHTS per input block."""
    weights = weight_rows(layer, conv, lanes)
    kinds = [p for p in (layer.scale, layer.bias) if p is not None]
    packets = []
    for group in range(conv.groups):
        first = group * (layer.weights.shape[0] // conv.groups)
        for blocks in conv.blocks_together():
            for block in blocks:
                if conv.has_params:
                    packets.append(_header(isa.Opcode.PARAMS, conv.scale | conv.bias << 1))
                start, count = first + block * lanes, conv.lanes_of_block(block, lanes)
                for values in kinds:
                    padded = np.zeros(lanes, np.uint64)
                    padded[:count] = values[start : start + count]
                    packets.append(padded)
            for in_block in range(conv.in_blocks):
                low = in_block * conv.block_channels
                some = slice(low, low + conv.channels_of_block(in_block))
                rows = weights[group, blocks.start : blocks.stop, :, some].reshape(len(blocks), -1)
                for packet in rows.T.reshape(
                    rows.shape
                ):  # as many packets as blocks, each fits the weight buffer
                    packets += [_header(isa.Opcode.WEIGHTS, packet.size), packet]
    return packets


def _header(opcode: isa.Opcode, operand: int) -> np.ndarray:
    return np.array([isa.header(opcode, operand)], np.uint64)


def weight_rows(layer: BinaryConv, conv: isa.Conv, lanes: int) -> np.ndarray:
    """Rows of K bits, bit k = 1 for +1 in lane k: uint64 [group, block of output FMs, tap, input channel]."""
    outputs, channels = layer.weights.shape[:2]
    bits = np.zeros((conv.groups, conv.out_blocks * lanes, channels, layer.taps), bool)
    bits[:, : outputs // conv.groups] = (layer.weights > 0).reshape(conv.groups, -1, channels, layer.taps)
    bits = bits.reshape(conv.groups, conv.out_blocks, lanes, channels, layer.taps)
    rows = np.zeros((conv.groups, conv.out_blocks, channels, layer.taps), np.uint64)
    for lane in range(lanes):
        rows |= bits[:, :, lane].astype(np.uint64) << np.uint64(lane)
    return rows.transpose(0, 1, 3, 2)
