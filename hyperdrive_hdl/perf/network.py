"""A whole network on its chip: cycles, bits and memory, summed over chip stages and images.

Cycles assume streams that never stall. On a mesh they are those of chip (0, 0); every chip runs the same
program at the same time, and waits for its borders (perf/borders.py).
"""

from dataclasses import dataclass

from ..compiler.ir import ChipProgram, CompiledNetwork
from .borders import link_bits
from .cycles import ProgramTiming, program_timing
from .memory import fmm_words
from .traffic import border_bits, weight_bits

# From the second image on a program does the same again and again; timing each image costs time for nothing.
STEADY = 3


@dataclass(frozen=True)
class LayerEstimate:
    """One layer over all images."""

    name: str
    cycles: int
    macs: int


@dataclass(frozen=True)
class NetworkEstimate:
    """The figures of ``hyperdrive estimate --json``."""

    images: int
    cycles: int
    compute_cycles: int
    load_cycles: int
    store_cycles: int
    load_exposed: int
    store_exposed: int
    macs: int
    utilisation: float
    layers: tuple[LayerEstimate, ...]
    weight_bits: int
    border_bits: int
    link_bits: int
    fmm_words: int


TIMES = ("cycles", "compute_cycles", "load_cycles", "store_cycles", "load_exposed", "store_exposed")


def series_timing(program: ChipProgram, images: int = 1) -> tuple[dict[str, int], dict[str, int]]:
    """Cycles of a program streamed for a series of images: the totals by name, and every layer's."""
    exact = [program_timing(program, n) for n in range(1, min(images, STEADY) + 1)]
    totals = {name: _extrapolated([getattr(t, name) for t in exact], images) for name in TIMES}
    by_layer = [_layer_cycles(timing) for timing in exact]
    return totals, {
        name: _extrapolated([cycles[name] for cycles in by_layer], images) for name in by_layer[0]
    }


def _layer_cycles(timing: ProgramTiming) -> dict[str, int]:
    cycles: dict[str, int] = {}
    for layer in timing.layers:
        cycles[layer.name] = cycles.get(layer.name, 0) + layer.cycles
    return cycles


def _extrapolated(values: list[int], images: int) -> int:
    """The value for ``images`` from those for 1, 2, ...; each further one adds as much as the last."""
    if images <= len(values):
        return values[images - 1]
    return values[-1] + (images - len(values)) * (values[-1] - values[-2])


def estimate_network(compiled: CompiledNetwork, images: int = 1) -> NetworkEstimate:
    """Estimate a series of images on a chip or a mesh."""
    totals = dict.fromkeys(TIMES, 0)
    cycles_of: dict[str, int] = {}
    for program in compiled.programs.values():
        of_program, of_layers = series_timing(program, images)
        totals = {name: totals[name] + of_program[name] for name in TIMES}
        cycles_of |= of_layers
    layers = tuple(
        LayerEstimate(name=layer.name, cycles=cycles_of[layer.name], macs=images * layer.macs)
        for program in compiled.programs.values()
        for layer in (placed.conv for placed in program.layers)
    )
    macs = sum(layer.macs for layer in layers)
    tpus = compiled.chip.tpus * compiled.mesh.chips
    return NetworkEstimate(
        images=images,
        **totals,
        macs=macs,
        utilisation=macs / (totals["compute_cycles"] * tpus),
        layers=layers,
        # The weights of an image come once for all chips of a mesh, and again with every image.
        weight_bits=images * sum(weight_bits(layer) for layer in compiled.network.layers),
        border_bits=images * sum(map(border_bits, compiled.programs.values())),
        link_bits=images * sum(map(link_bits, compiled.programs.values())),
        fmm_words=max(map(fmm_words, compiled.programs.values())),
    )
