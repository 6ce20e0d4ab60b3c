"""A compiled network as files: program words, memory map, layer table, and the graph after every step."""

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import onnx

from ..compiler.graph import Graph, describe, node_inputs
from ..compiler.ir import ChipProgram, CompiledNetwork, PlacedLayer, PlacedMap, PlacedTransfer
from ..files import OutputFolder
from ..perf.memory import scratch_words, step_words
from .facts import StageFacts, stage_facts
from .tables import number, shape, split_lines


def hex_lines(words: np.ndarray, width: int) -> str:
    """One word per line in hexadecimal, as $readmemh reads it."""
    digits = -(-width // 4)
    return "".join(f"{int(word):0{digits}x}\n" for word in words)


def write_programs(folder: OutputFolder, compiled: CompiledNetwork) -> list[str]:
    """``program_<stage>.hex`` and ``.npy`` of one image for each chip stage, the tables; all files' names."""
    names = []
    for name, program in compiled.programs.items():
        words = program.words(1)
        folder.write(f"program_{name}.hex", hex_lines(words, compiled.chip.program_width))
        folder.write(f"program_{name}.npy", words)
        names += [f"program_{name}.hex", f"program_{name}.npy"]
    folder.write("layers.json", compile_json(compiled))
    folder.write("layers.txt", "".join(f"{line}\n" for line in table_lines(compiled)))
    return [*names, "layers.json", "layers.txt"]


def write_steps(folder: OutputFolder, steps: dict[str, Graph], stages: tuple[StageFacts, ...]) -> list[str]:
    """``steps/NN_<step>.onnx`` and ``.txt``: the graph as read and after each step, and the split at last."""
    names = []
    for index, (step, graph) in enumerate(steps.items()):
        stem = f"steps/{index:02d}_{step}"
        folder.write(f"{stem}.onnx", graph.to_model().SerializeToString())
        folder.write(f"{stem}.txt", "".join(f"{line}\n" for line in graph_lines(graph)))
        names += [f"{stem}.onnx", f"{stem}.txt"]
    last = f"steps/{len(steps):02d}_partition.txt"
    folder.write(last, "".join(f"{line.strip()}\n" for line in split_lines(stages)))
    return [*names, last]


def graph_lines(graph: Graph) -> Iterator[str]:
    """A line per node: name and operator, tensors in and out with their shapes."""
    yield f"network {graph.name!r}: {len(graph.nodes)} nodes, {len(graph.constants)} constants"
    for node in graph.nodes:
        inputs = ", ".join(_tensor(graph, name) for name in node_inputs(node))
        outputs = ", ".join(_tensor(graph, name) for name in node.output if name)
        yield f"{describe(node)}: {inputs} -> {outputs}{_attributes(node)}"


def _tensor(graph: Graph, name: str) -> str:
    kind = "constant " if name in graph.constants else ""
    sizes = graph.shapes.get(name)
    return f"{kind}{name}{f'[{shape(sizes)}]' if sizes else ''}"


def _attributes(node: onnx.NodeProto) -> str:
    def text(item: onnx.AttributeProto) -> str:
        value = onnx.helper.get_attribute_value(item)
        return value.decode() if isinstance(value, bytes) else str(value)

    plain = {
        item.name: text(item) for item in node.attribute if not item.HasField("t") and not item.HasField("g")
    }
    return f"  {{{', '.join(f'{name} = {value}' for name, value in sorted(plain.items()))}}}" if plain else ""


def compile_json(compiled: CompiledNetwork) -> dict:
    """Chip, split and, for each chip stage, its program's size, memory map and layers."""
    return {
        "chip": compiled.chip.name,
        "mesh": str(compiled.mesh),
        "split": [asdict(stage) for stage in stage_facts(compiled.network)],
        "programs": [_program_json(name, program) for name, program in compiled.programs.items()],
    }


def _program_json(name: str, program: ChipProgram) -> dict:
    return {
        "stage": name,
        "words": len(program.words(1)),
        "word_bits": program.chip.program_width,
        "fmm_words_per_tile": program.chip.fmm_words_per_tile,
        "steps": [
            _step_json(step, used, program)
            for step, used in zip(program.steps, step_words(program), strict=True)
        ],
    }


def _step_json(step: PlacedLayer | PlacedTransfer, used: int, program: ChipProgram) -> dict:
    if isinstance(step, PlacedTransfer):
        return {
            "kind": "load" if step.load else "store",
            "map": _map_json(step.map),
            "fmm_words_per_tile": used,
        }
    conv, code = step.conv, step.instruction
    return {
        "kind": "conv",
        "name": conv.name,
        "kernel": conv.kernel,
        "stride": conv.stride,
        "groups": conv.groups,
        "macs": conv.macs,
        "scale": conv.scale is not None,
        "bias": conv.bias is not None,
        "relu": conv.relu,
        "input": _map_json(step.input),
        "output": _map_json(step.output),
        "bypass": _map_json(step.bypass) if step.bypass else None,
        "output_blocks": code.groups * code.out_blocks,
        "input_blocks": code.in_blocks,
        "scratch_base": code.scratch_base if scratch_words(step, program.chip) else None,
        "scratch_words_per_tile": scratch_words(step, program.chip),
        "fmm_words_per_tile": used,
    }


def _map_json(placed: PlacedMap) -> dict:
    return {
        "name": placed.map.name,
        "channels": placed.map.channels,
        "height": placed.map.height,
        "width": placed.map.width,
        "tile_height": placed.tile_h,
        "tile_width": placed.tile_w,
        "base": placed.base,
        "words_per_tile": placed.words_per_tile,
    }


def table_lines(compiled: CompiledNetwork) -> Iterator[str]:
    """The split, then per program its instructions with the places of their maps in a tile's memory."""
    yield "Split:"
    yield from split_lines(stage_facts(compiled.network))
    for name, program in compiled.programs.items():
        yield ""
        yield (
            f"Program {name}: {number(len(program.words(1)))} words of {program.chip.program_width} bits for "
            f"one image; addresses are words of a tile, which has {number(program.chip.fmm_words_per_tile)}"
        )
        for step, used in zip(program.steps, step_words(program), strict=True):
            yield f"  {_step_line(step, program)}  ({number(used)} in use)"


def _step_line(step: PlacedLayer | PlacedTransfer, program: ChipProgram) -> str:
    if isinstance(step, PlacedTransfer):
        return f"{'load ' if step.load else 'store'}  {_place(step.map)}"
    conv, code = step.conv, step.instruction
    options = [name for name in ("scale", "bias") if getattr(conv, name) is not None]
    options += [f"+ bypass {_place(step.bypass)}"] if step.bypass else []
    options += ["relu"] if conv.relu else []
    text = f"conv   {conv.name}: {conv.kernel}x{conv.kernel}"
    text += f" stride {conv.stride}" if conv.stride > 1 else ""
    text += f" groups {conv.groups}" if conv.groups > 1 else ""
    text += f" {_place(step.input)} -> {_place(step.output)}"
    text += f", {', '.join(options)}" if options else ""
    if words := scratch_words(step, program.chip):
        text += f", {code.in_blocks} input blocks, partial sums {_range(code.scratch_base, words)}"
    return text


def _place(placed: PlacedMap) -> str:
    return f"{placed.map.name}[{shape(placed.map.shape)}] {_range(placed.base, placed.words_per_tile)}"


def _range(base: int, words: int) -> str:
    return f"@{base:04x}-{base + words - 1:04x}"
