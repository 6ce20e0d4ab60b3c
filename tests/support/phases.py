"""Proofs about Verilog with latches and gated clocks: the clock is a signal like others, four steps a cycle.

A property is a SystemVerilog module ``top`` over the modules under proof, with ``assume`` and ``assert`` that
hold in every step. It makes its own clock, high in two steps of four, from ``(* gclk *) reg step``; inputs
are free in every step, so that what happens between two edges is among what is proved. Yosys' ``clk2fflogic``
turns registers and latches into ones of the steps; from there on it is as in ``formal``, whose ABC decides.
A run that refutes is not repeated elsewhere: every proof has mutants, and Verilog simulators run the rest.
"""

from pathlib import Path

from hyperdrive_hdl import tools

from .formal import BOUNDED, ENGINES, _decide, _Graph

_SCRIPT = """
{reads}
read_verilog -sv -formal top.sv
prep -flatten -top top
memory_map
setundef -undriven -anyseq
clk2fflogic
chformal -cover -remove
chformal -lower
opt -full
techmap
opt -full
dffunmap
simplemap
opt_clean
aigmap
opt_clean
write_aiger -zinit -I -B -L -map top.map top.aig
"""


def holds(
    top: str, sources: dict[str, str], directory: Path, *, steps: int | None = None, limit: int = 300
) -> bool:
    """Whether the assertions of ``top`` hold, from the initial state on.

    Parameters
    ----------
    top : SystemVerilog of a module of that name
    sources : Verilog (.v) and RTLIL (.il) of others, by file name
    steps : how many are looked at; None: all

    Raises
    ------
    UndecidedError : ABC has no answer
    ToolError : a tool failed
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in {**sources, "top.sv": top}.items():
        (directory / name).write_text(text)
    reads = "\n".join(
        f"{'read_rtlil' if name.endswith('.il') else 'read_verilog'} {name}" for name in sources
    )
    tools.yosys(_SCRIPT.format(reads=reads), cwd=directory, what="and-inverter graph")
    graph = _Graph(directory / "top.aig", directory / "top.map")
    if not graph.bad:
        raise ValueError("there is nothing to prove")
    if steps is None:
        command = ENGINES["pdr"].format(limit=limit)
    else:
        command = BOUNDED.format(depth=steps, limit=limit)
    return _decide(graph, [graph.bad], command, steps, directory)[0] is None
