"""What tools must be told beside the Verilog: timing in SDC, and which lint warnings are meant."""

from ..config import SOURCE, ChipConfig
from .ports import ASIC, GENERIC, SIDES, Port, chip_ports

PERIOD_NS = 10.0

_LINT_WAIVERS = """\
`verilator_config
// For `verilator --lint-only -Wall -f hyperdrive.f hyperdrive.vlt`: what generated Verilog has by its nature.
lint_off -rule DECLFILENAME  // all modules in one file
lint_off -rule PROCASSINIT   // registers have an initial value and a reset
lint_off -rule UNUSEDSIGNAL  // bits of an interface that this configuration does not need
lint_off -rule WIDTHEXPAND   // operands narrower than the sum are extended, as the language says
lint_off -rule WIDTHTRUNC    // and !x of a wider x means x == 0
lint_off -rule UNSIGNED      // comparisons that are constant at some widths
lint_off -rule SYMRSVDWORD   // a port named "true"
"""
_LINT_WAIVERS_SOURCE = """\
lint_off -rule SYNCASYNCNET  // the reset of clk also resets, asynchronously, what runs on a neighbour's clock
"""
_LINT_WAIVERS_ASIC = """\
lint_off -rule LATCH         // weights are in latches, and clock gates have one
"""

_ASIC = """
# Test: scan_enable opens all clock gates. Analyse operation without it, and a shift mode of its own with 1.
set_case_analysis 0 [get_ports scan_enable]

# Clock gates, {gates}: enables settle before clk rises, through a latch that
# is open while it is low. Gated clocks are clk, propagated through the cells: nothing is generated or
# divided. Gating cells of a library bring their own checks; this one is for the behavioural body.
set_clock_gating_check -setup [expr {{0.05 * $period}}] -hold 0 [get_clocks clk]

# Weight rows ({rows} of {lanes} latches) are open in the first half of the cycle after their write, in which
# the register before them holds still. Data may come while a row is open, but early, since a read goes on
# through the row's multiplexer to a register at the end of the same cycle.
set_max_time_borrow [expr {{0.25 * $period}}] [get_clocks clk]
"""


def lint_waivers(config: ChipConfig, cells: str = GENERIC) -> str:
    """A Verilator configuration file."""
    more = _LINT_WAIVERS_SOURCE if _source_links(config) else ""
    return _LINT_WAIVERS + more + (_LINT_WAIVERS_ASIC if cells == ASIC else "")


def sdc_text(config: ChipConfig, top: str, cells: str = GENERIC) -> str:
    """Clock and port delays for synthesis and static timing analysis; the period is one number on top."""
    position = "mesh_row[*] mesh_col[*]" + (" neighbours[*]" if config.links else "")
    return f"""\
# {top}: constraints for synthesis and timing analysis; chip '{config.name}'.
# Times in ns. Set the period to what your technology is asked for; ports get a fifth of it on either side.
set period {PERIOD_NS}
set port_delay [expr {{0.2 * $period}}]

create_clock -name clk -period $period [get_ports clk]
set_clock_uncertainty [expr {{0.02 * $period}}] [get_clocks clk]

set inputs {{}}
foreach port {{rst program__valid program__payload[*] fm_in__valid fm_in__payload[*] fm_out__ready}} {{
  set inputs [concat $inputs [get_ports $port]]
}}
set_input_delay $port_delay -clock clk $inputs
set_output_delay $port_delay -clock clk {_outputs(config)}
{_links(config)}
# The position in the mesh is wired, it never changes.
set_false_path -from [get_ports {{{position}}}]
{_asic(config, top) if cells == ASIC else ""}"""


def _asic(config: ChipConfig, top: str) -> str:
    return _ASIC.format(gates=f"{top}_clock_gate", rows=config.wbuf_depth, lanes=config.lanes)


def _source_links(config: ChipConfig) -> bool:
    return config.links and config.link_clock == SOURCE


def _outputs(config: ChipConfig) -> str:
    if not _source_links(config):
        return "[all_outputs]"
    return _get([port for port in chip_ports(config) if not port.is_input and not port.is_link])


def _get(ports: list[Port]) -> str:
    return f"[get_ports {{{' '.join(port.name + '[*]' * (port.width > 1) for port in ports)}}}]"


def _wires(config: ChipConfig, direction: str, sides: tuple[str, ...] = SIDES) -> str:
    """Data and valid of links."""
    named = {f"{side}__{direction}__{what}" for side in sides for what in ("data", "valid")}
    return _get([port for port in chip_ports(config) if port.name in named])


def _links(config: ChipConfig) -> str:
    if not config.links:
        return ""
    if not _source_links(config):
        return f"""
# Links, registers on both chips. Half a period is for the sender's output, a tenth for the way between the
# chips, the rest for the receiver's input; another budget must add up to the period likewise.
set_output_delay [expr {{0.5 * $period}}] -clock clk {_wires(config, "tx")}
set_input_delay [expr {{0.6 * $period}}] -clock clk {_wires(config, "rx")}
"""
    text = """
# Links, source-synchronous: the sender's clock comes along and rises in the middle of a beat, so that data
# changes at its falling edge. A fifth of the period either way is for the skew between a link's wires.
set link_skew [expr {0.2 * $period}]
"""
    for side in SIDES:
        tx, rx = f"{side}_tx", f"{side}_rx"
        sent, received = _wires(config, "tx", (side,)), _wires(config, "rx", (side,))
        text += f"""
create_generated_clock -name {tx} -source [get_ports clk] -divide_by 1 -invert [get_ports {side}__tx__clock]
set_output_delay -max $link_skew -clock {tx} {sent}
set_output_delay -min [expr {{-$link_skew}}] -clock {tx} {sent}
create_clock -name {rx} -period $period [get_ports {side}__rx__clock]
set_clock_uncertainty [expr {{0.02 * $period}}] [get_clocks {rx}]
set_input_delay -max $link_skew -clock {rx} -clock_fall {received}
set_input_delay -min [expr {{-$link_skew}}] -clock {rx} -clock_fall {received}
"""
    own = " ".join(["clk", *(f"{side}_tx" for side in SIDES)])
    others = " ".join(f"-group {{{side}_rx}}" for side in SIDES)
    return f"""{text}
# The neighbours' clocks have nothing to do with this chip's: words cross in queues with Gray-coded pointers.
set_clock_groups -asynchronous -group {{{own}}} {others}
"""
