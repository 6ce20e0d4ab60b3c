"""Verilog models of a library's cells, from the functions in its Liberty file: for gate-level simulation.

Zero delay. Clock gates are a latch and an AND: Liberty describes them by a table or not at all. Registers
start at random, as in silicon, not at X: what is not reset must not matter.
"""

from collections.abc import Iterable, Iterator

from ...errors import UserError
from ..liberty import Cell, Function, Library, Sequential


def cell_models(library: Library, names: Iterable[str]) -> str:
    """A module for each of these cells of the library.

    Raises
    ------
    UserError : the library does not say what a cell does
    """
    heading = (
        f"// Cells of {library.name}, their functions as in its Liberty file; no delays.\n"
        f"// Written by `hyperdrive asic`; do not edit.\n"
    )
    return "\n".join([heading, *(_model(library, library.cells[name]) for name in sorted(set(names)))])


def _model(library: Library, cell: Cell) -> str:
    pins = [pin for pin in cell.pins.values() if pin.direction in ("input", "output")]
    ports = ", ".join(f"{pin.direction} {pin.name}" for pin in pins)
    lines = [f"module {cell.name} ({ports});", *_body(library, cell), "endmodule", ""]
    return "\n".join(lines)


def _body(library: Library, cell: Cell) -> Iterator[str]:
    if cell.clock_gate:
        yield from _clock_gate(library, cell)
        return
    if cell.sequential:
        yield from _storage(cell.sequential)
    for pin in cell.outputs:
        if pin.function is None or pin.three_state:
            raise UserError(
                f"{library.path}: cell {cell.name} is in the netlist, but its pin {pin.name} has no function "
                f"that could be simulated"
            )
        yield f"  assign {pin.name} = {pin.function.verilog};"


def _clock_gate(library: Library, cell: Cell) -> Iterator[str]:
    clock, enable, out = map(cell.pin_of, ("clock", "enable", "out"))
    if not (cell.clock_gate or "").startswith("latch_posedge") or not (clock and enable and out):
        raise UserError(f"{library.path}: {cell.name} is no clock gate for a rising clock with marked pins")
    test = cell.pin_of("test")
    yield "  reg open;"
    yield f"  always @* if (!{clock}) open = {enable}{f' | {test}' if test else ''};"
    yield f"  assign {out} = {clock} & open;"
    yield from _random("open")


def _storage(storage: Sequential) -> Iterator[str]:
    values = storage.expressions
    state = storage.state
    yield f"  reg {state};"
    if storage.inverse:
        yield f"  wire {storage.inverse} = ~{state};"
    # Where both are active, a cell's value is its own affair; this project's netlists never do that.
    asynchronous = [(name, key) for name, key in (("clear", "1'b0"), ("preset", "1'b1")) if name in values]
    branches = ""
    for name, value in asynchronous:
        yield f"  wire {name} = {values[name].verilog};"
        branches += f"if ({name}) {state} {{0}} {value}; else "
    if storage.kind == "ff":
        clock, sign = _edge(values["clocked_on"])
        edges = [f"{sign} {clock}", *(f"posedge {name}" for name, _ in asynchronous)]
        yield f"  always @({' or '.join(edges)})"
        yield f"    {branches.format('<=')}{state} <= {values['next_state'].verilog};"
    else:
        enable, data = values["enable"].verilog, values["data_in"].verilog
        yield "  always @*"
        yield f"    {branches.format('=')}if ({enable}) {state} = {data};"
    yield from _random(state)


def _edge(clock: Function) -> tuple[str, str]:
    """The clock pin and which of its edges counts."""
    text = clock.verilog
    return (text, "posedge") if text.isidentifier() else (clock.inputs[0], "negedge")


def _random(state: str) -> Iterator[str]:
    yield "`ifndef YOSYS"
    yield f"  initial {state} = $random;"
    yield "`endif"
