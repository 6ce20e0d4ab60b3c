"""The main job on real input: the bundled digits network through the chip's RTL, to a report."""

import time

import numpy as np

from .compiler.compile import compile_model
from .compiler.host import run_float
from .config import ChipConfig, MeshConfig
from .data import digits_images, digits_model
from .files import OutputFolder
from .report.facts import DemoFacts, run_facts
from .report.markdown import demo_report
from .report.svg import layers_svg
from .report.terminal import Terminal
from .report.timeline import write_timelines
from .session import announce_yosys, build_engine, run_on_engine
from .targets.verilog import export_verilog

IMAGES = 100
ENGINE = "cxxrtl"


def run_demo(
    chip: ChipConfig,
    folder: OutputFolder,
    terminal: Terminal,
    *,
    mesh: MeshConfig | None = None,
    images: int = IMAGES,
    engine: str = ENGINE,
) -> DemoFacts:
    """Compile, export, simulate, compare; write the report, its picture and the Verilog to ``folder``.

    Parameters
    ----------
    images : how many of the held-out images, from the first on
    """
    start = time.perf_counter()
    announce_yosys(terminal)
    pictures, labels = (array[:images] for array in digits_images())
    compiled = compile_model(digits_model(), chip, mesh)
    with terminal.step("writing the chip's Verilog"):
        export = export_verilog(chip, mesh)
    for name, text in export.files.items():
        folder.write(f"verilog/{name}", text)
    backend = build_engine(engine, chip, terminal, mesh=mesh)
    assert backend is not None  # the demo's engines are simulators
    with backend:
        run = run_on_engine(compiled, pictures, backend, terminal)

    def accuracy(output: np.ndarray) -> float:
        return float((output.argmax(axis=1) == labels).mean())

    facts = DemoFacts(
        run=run_facts(compiled, run, engine, len(pictures)),
        accuracy_float=accuracy(run_float(compiled.network, pictures)),
        accuracy_reference=accuracy(run.reference.output),
        accuracy_rtl=accuracy(run.output),
        seconds=time.perf_counter() - start,
        verilog=f"verilog/{export.verilog}",
        verilog_bytes=len(export.files[export.verilog].encode()),
    )
    folder.write("output.npy", run.output)
    folder.write("layers.svg", layers_svg(facts.run))
    write_timelines(folder, compiled, images)
    folder.write("report.md", demo_report(facts))
    folder.write("report.json", facts.to_json())
    return facts
