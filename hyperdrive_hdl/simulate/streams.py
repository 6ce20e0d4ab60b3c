"""A program's maps as the streams of every chip of its mesh, for a series of images."""

from collections.abc import Mapping, Sequence

import numpy as np

from ..compiler.ir import ChipProgram
from ..model.layout import Chips, from_streams, owned, to_streams


def loaded_streams(program: ChipProgram, inputs: Sequence[Mapping[str, np.ndarray]]) -> Chips:
    """What every chip takes from ``fm_in``; ``inputs`` has, for each image, the words of every loaded map."""
    chip, mesh = program.chip, program.mesh
    nothing = np.zeros(0, np.uint16)
    maps = [
        to_streams(image[load.map.map.name], load.map, chip, mesh)
        for image in inputs
        for load in program.loads
    ]
    return {
        at: np.concatenate([nothing, *(streams[at] for streams in maps)])
        for at in np.ndindex(mesh.rows, mesh.cols)
    }


def stored_words(program: ChipProgram, images: int) -> dict[tuple[int, int], int]:
    """Words that every chip gives on ``fm_out``."""
    mesh = program.mesh
    return {at: images * sum(_sizes(program, *at)) for at in np.ndindex(mesh.rows, mesh.cols)}


def stored_maps(program: ChipProgram, streams: Chips, images: int) -> tuple[dict[str, np.ndarray], ...]:
    """Every image's stored maps by name, from what every chip gave: as many words as ``stored_words``."""
    chip, mesh = program.chip, program.mesh
    parts = {
        at: np.split(stream, np.cumsum(_sizes(program, *at) * images)[:-1]) for at, stream in streams.items()
    }
    stores = [(image, store.map) for image in range(images) for store in program.stores]
    outputs = tuple({} for _ in range(images))
    for index, (image, placed) in enumerate(stores):
        found = {at: part[index] for at, part in parts.items()}
        outputs[image][placed.map.name] = from_streams(found, placed, chip, mesh)
    return outputs


def _sizes(program: ChipProgram, row: int, col: int) -> list[int]:
    """Words of every stored map that a chip owns."""
    sizes = []
    for store in program.stores:
        rows, cols = owned(store.map, program.chip, row, col)
        sizes.append((rows.stop - rows.start) * (cols.stop - cols.start) * store.map.map.channels)
    return sizes
