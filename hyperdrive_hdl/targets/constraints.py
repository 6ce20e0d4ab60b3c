"""What tools must be told beside the Verilog: timing in SDC, and which lint warnings are meant."""

from ..config import ChipConfig

PERIOD_NS = 10.0

LINT_WAIVERS = """\
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


def sdc_text(config: ChipConfig, top: str) -> str:
    """Clock and port delays for synthesis and static timing analysis; the period is one number on top."""
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
set_output_delay $port_delay -clock clk [all_outputs]

# The position in the mesh is wired, it never changes.
set_false_path -from [get_ports {{mesh_row[*] mesh_col[*]}}]
"""
