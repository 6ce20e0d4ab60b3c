"""The demo's report as Markdown."""

from .facts import DemoFacts
from .tables import chip_line, cycle_line, number, percent, shape, special_lines, split_lines


def demo_report(facts: DemoFacts) -> str:
    """One page: accuracy, equality, cycles and utilisation, where the files are."""
    run = facts.run
    per_image = (run.totals.cycles or 0) // run.images
    verdict = "bit for bit equal" if not run.mismatches else "DIFFERENT"
    lines = [
        "# Hyperdrive: the digits network on the simulated chip",
        "",
        f"{run.images} held-out handwritten digits through the RTL of {chip_line(run.chip, run.mesh)}.",
        "",
        "| | |",
        "|---|---|",
        f"| accuracy, network in float32 | {percent(facts.accuracy_float)} |",
        f"| accuracy, reference model of the chip | {percent(facts.accuracy_reference)} |",
        f"| accuracy, RTL | {percent(facts.accuracy_rtl)} |",
        f"| RTL against reference | {verdict}: {number(run.words_compared)} words of every layer compared, "
        f"{number(run.mismatches)} differ |",
        f"| cycles per image | {number(per_image)} |",
        f"| utilisation while computing | {percent(run.totals.utilisation)} |",
        f"| simulator | {run.engine}, {run.simulated_cycles_per_second or 0:,.0f} cycles/s |",
        f"| Verilog of this chip | [{facts.verilog}]({facts.verilog}), {number(facts.verilog_bytes)} bytes |",
        f"| time for everything | {facts.seconds:.1f} s |",
        "",
        "![cycles by layer](layers.svg)",
        "",
        f"| layer | kernel | in | out | MACs | cycles of {run.images} images | utilisation | mismatches |",
        "|---|---|---|---|---:|---:|---:|---:|",
    ]
    for layer in run.layers:
        kernel = f"{layer.kernel}x{layer.kernel}" + (f", stride {layer.stride}" if layer.stride > 1 else "")
        cells = [layer.name, kernel, shape(layer.input), shape(layer.output), number(layer.macs)]
        cells += [number(layer.cycles), percent(layer.utilisation), number(layer.mismatches)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"{cycle_line(run.totals)}.", "", "## Who computes what", ""]
    lines += [f"- {line.strip()}" for line in split_lines(run.stages)]
    lines += [f"- {line}" for line in special_lines(run)]
    lines += [f"- {mismatch}" for mismatch in run.first_mismatches]
    return "\n".join([*lines, "", "The same figures as values: [report.json](report.json).", ""])
