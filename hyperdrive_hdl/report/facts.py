"""What a run or an estimate found, as plain values; the other modules of this package show them."""

from dataclasses import dataclass, field

from ..compiler.ir import CompiledNetwork, HostStage, Network, PlacedLayer
from ..config import ChipConfig, MeshConfig
from ..perf.network import NetworkEstimate
from ..simulate.network import NetworkRun

REFERENCE = "reference"  # the engine without cycles
BOARD = "board"  # a chip that is not simulated: it may count cycles, but not by layer
BOARD_SIM = "board-sim"  # a simulated board behind its serial line: the same


@dataclass(frozen=True, kw_only=True)
class LayerFacts:
    """One layer, over all images. What an engine or an estimate does not know is None."""

    name: str
    stage: str
    kernel: int
    stride: int
    input: tuple[int, int, int]
    output: tuple[int, int, int]
    macs: int
    cycles: int | None
    utilisation: float | None
    mismatches: int | None = None
    infinities: int = 0
    nans: int = 0

    def to_json(self) -> dict:
        return {name: getattr(self, name) for name in ("name", "cycles", "macs", "utilisation")}


@dataclass(frozen=True, kw_only=True)
class CycleFacts:
    """Cycles of a series of images, None by the reference; the names are the keys of ``run --json``.

    Of a mesh, cycles of a run are those of its slowest chip; ``macs`` and ``utilisation`` count all chips.
    """

    cycles: int | None
    compute_cycles: int | None
    load_cycles: int | None
    store_cycles: int | None
    load_exposed: int | None
    store_exposed: int | None
    macs: int
    utilisation: float | None

    @property
    def idle_cycles(self) -> int | None:
        if self.cycles is None or self.compute_cycles is None:
            return None
        return self.cycles - self.compute_cycles - (self.load_exposed or 0) - (self.store_exposed or 0)


@dataclass(frozen=True, kw_only=True)
class StageFacts:
    """One stage of the split: where it runs, and its operators or layers."""

    name: str
    on_chip: bool
    nodes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """A run of the network by an engine, compared with the reference.

    ``border_bits`` are words of neighbours that arrived, ``link_bits`` what the links sent for them; of all
    chips, measured, None by the reference.
    """

    engine: str
    chip: ChipConfig
    mesh: MeshConfig
    images: int
    totals: CycleFacts
    mismatches: int
    words_compared: int
    simulated_cycles_per_second: float | None
    layers: tuple[LayerFacts, ...]
    border_bits: int | None = None
    link_bits: int | None = None
    first_mismatches: tuple[str, ...] = ()
    output_mismatches: int = 0
    stages: tuple[StageFacts, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict:
        """The keys of ``run --json``."""
        return {
            "engine": self.engine,
            "chip": self.chip.name,
            "mesh": str(self.mesh),
            "images": self.images,
            **vars(self.totals),
            "mismatches": self.mismatches,
            "words_compared": self.words_compared,
            "simulated_cycles_per_second": self.simulated_cycles_per_second,
            "border_bits": self.border_bits,
            "link_bits": self.link_bits,
            "layers": [layer.to_json() for layer in self.layers],
        }


@dataclass(frozen=True, kw_only=True)
class EstimateFacts:
    """What the performance model says of one image."""

    chip: ChipConfig
    mesh: MeshConfig
    images: int
    totals: CycleFacts
    layers: tuple[LayerFacts, ...]
    weight_bits: int
    border_bits: int
    link_bits: int
    fmm_words: int
    stages: tuple[StageFacts, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict:
        """The keys of ``estimate --json``."""
        return {
            "chip": self.chip.name,
            "mesh": str(self.mesh),
            "images": self.images,
            **vars(self.totals),
            "weight_bits": self.weight_bits,
            "border_bits": self.border_bits,
            "link_bits": self.link_bits,
            "fmm_words": self.fmm_words,
            "layers": [layer.to_json() for layer in self.layers],
        }


@dataclass(frozen=True, kw_only=True)
class DemoFacts:
    """The demo: a run on labelled images."""

    run: RunFacts
    accuracy_float: float
    accuracy_reference: float
    accuracy_rtl: float
    seconds: float
    verilog: str  # path of the chip's Verilog in the report's folder
    verilog_bytes: int = field(default=0)

    def to_json(self) -> dict:
        """The keys of ``demo --json``."""
        accuracies = ("accuracy_float", "accuracy_reference", "accuracy_rtl", "seconds")
        return self.run.to_json() | {name: getattr(self, name) for name in accuracies}


def stage_facts(network: Network) -> tuple[StageFacts, ...]:
    """The split between host and chip, in execution order."""
    return tuple(
        StageFacts(name=stage.name, on_chip=False, nodes=stage.nodes)
        if isinstance(stage, HostStage)
        else StageFacts(name=stage.name, on_chip=True, nodes=tuple(layer.name for layer in stage.layers))
        for stage in network.stages
    )


def _placed_layers(compiled: CompiledNetwork) -> list[tuple[str, PlacedLayer]]:
    """Stage name and layer, in the order in which the chip runs them."""
    return [(name, layer) for name, program in compiled.programs.items() for layer in program.layers]


def _layer(stage: str, placed: PlacedLayer, macs: int, cycles: int | None, tpus: int, **more) -> LayerFacts:
    conv = placed.conv
    return LayerFacts(
        name=conv.name,
        stage=stage,
        kernel=conv.kernel,
        stride=conv.stride,
        input=conv.input.shape,
        output=conv.output.shape,
        macs=macs,
        cycles=cycles,
        utilisation=macs / (cycles * tpus) if cycles else None,
        **more,
    )


def run_facts(compiled: CompiledNetwork, run: NetworkRun, engine: str, images: int) -> RunFacts:
    """Facts of a finished run; ``engine`` is its name."""
    timed = run.timed
    simulated = timed and engine not in (BOARD, BOARD_SIM)
    tpus = compiled.chip.tpus * compiled.mesh.chips
    cycles_of: dict[str, int] = {}
    for layer_run in run.layers:
        cycles_of[layer_run.name] = cycles_of.get(layer_run.name, 0) + layer_run.cycles
    layers = []
    for stage, placed in _placed_layers(compiled):
        name = placed.conv.name
        specials = run.reference.specials.get(name)
        layers.append(
            _layer(
                stage,
                placed,
                images * placed.conv.macs,
                cycles_of[name] if simulated else None,
                tpus,
                mismatches=run.comparison.by_place.get(name),
                infinities=specials.infinities if specials else 0,
                nans=specials.nans if specials else 0,
            )
        )
    macs, counters = sum(layer.macs for layer in layers), run.counters
    totals = CycleFacts(
        cycles=counters.cycles if timed else None,
        compute_cycles=counters.computing if timed else None,
        load_cycles=counters.loading if timed else None,
        store_cycles=counters.storing if timed else None,
        load_exposed=counters.load_exposed if timed else None,
        store_exposed=counters.store_exposed if timed else None,
        macs=macs,
        utilisation=macs / (counters.computing * tpus) if timed else None,
    )
    return RunFacts(
        engine=engine,
        chip=compiled.chip,
        mesh=compiled.mesh,
        images=images,
        totals=totals,
        mismatches=run.comparison.mismatches,
        words_compared=run.comparison.words,
        simulated_cycles_per_second=counters.cycles / run.seconds if simulated else None,
        layers=tuple(layers),
        border_bits=counters.border_words * compiled.chip.word_width if simulated else None,
        link_bits=counters.link_beats * compiled.chip.link_width if simulated else None,
        first_mismatches=tuple(map(str, run.comparison.first)),
        output_mismatches=run.comparison.by_place.get("output", 0),
        stages=stage_facts(compiled.network),
        notes=compiled.notes,
    )


def estimate_facts(compiled: CompiledNetwork, estimate: NetworkEstimate) -> EstimateFacts:
    """Facts of an estimate."""
    tpus = compiled.chip.tpus * compiled.mesh.chips
    layers = tuple(
        _layer(stage, placed, layer.macs, layer.cycles, tpus)
        for (stage, placed), layer in zip(_placed_layers(compiled), estimate.layers, strict=True)
    )
    return EstimateFacts(
        chip=compiled.chip,
        mesh=compiled.mesh,
        images=estimate.images,
        totals=CycleFacts(
            cycles=estimate.cycles,
            compute_cycles=estimate.compute_cycles,
            load_cycles=estimate.load_cycles,
            store_cycles=estimate.store_cycles,
            load_exposed=estimate.load_exposed,
            store_exposed=estimate.store_exposed,
            macs=estimate.macs,
            utilisation=estimate.utilisation,
        ),
        layers=layers,
        weight_bits=estimate.weight_bits,
        border_bits=estimate.border_bits,
        link_bits=estimate.link_bits,
        fmm_words=estimate.fmm_words,
        stages=stage_facts(compiled.network),
        notes=compiled.notes,
    )
