"""From a network to the programs of a chip: the compiler's one entry point."""

from pathlib import Path

from ..config import ChipConfig, MeshConfig
from ..errors import ModelError
from .emit import compile_stage
from .ir import CompiledNetwork, Network
from .pipeline import import_network


def compile_network(network: Network, chip: ChipConfig, mesh: MeshConfig | None = None) -> CompiledNetwork:
    """Programs for every chip stage of ``network``.

    Raises
    ------
    ModelError : the network was imported for another number format, or a stage does not fit the chip; the
        layer, the value and the limit are named
    """
    if network.format != chip.format:
        raise ModelError(
            f"network {network.name!r} was imported for format {network.format}, chip {chip.name!r} has "
            f"{chip.format}: import it for that format"
        )
    mesh = mesh or MeshConfig()
    programs = {stage.name: compile_stage(stage, chip, mesh) for stage in network.chip_stages}
    return CompiledNetwork(network=network, chip=chip, mesh=mesh, programs=programs)


def compile_model(path: str | Path, chip: ChipConfig, mesh: MeshConfig | None = None) -> CompiledNetwork:
    """``compile_network`` of an ONNX file.

    Raises
    ------
    ModelError : the file or the network cannot be used, or does not fit the chip
    """
    return compile_network(import_network(path, chip.format), chip, mesh)
