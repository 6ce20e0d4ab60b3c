"""LibreLane configurations for a tile and for the chip, ready to run where LibreLane and the PDK are."""

import json
import math
from pathlib import Path

from ...errors import ToolError
from ..liberty import Library
from .blocks import module_class
from .mapping import Netlist
from .memories import Cover
from .timing import Timing

# Room for wires, clock and variation over the longest path of gates alone.
PERIOD_MARGIN = 1.5
_MACRO_FILES = "pdk_dir::libs.ref/sg13g2_sram"


def librelane_files(
    netlist: Netlist, library: Library, covers: list[Cover], timing: Timing, verilog: list[str]
) -> dict[str, str]:
    """``config.json`` of a tile and of the chip, by their place in the results.

    Parameters
    ----------
    verilog : the RTL's files in the results
    """
    settings = json.loads(_template())
    period = math.ceil(10 * PERIOD_MARGIN * timing.longest_path_ns) / 10
    tile = next(name for name in netlist.modules if module_class(name, netlist.top) == "tile")
    files = {}
    for kind, name in (("tile", tile), ("chip", netlist.top)):
        values = settings["common"] | {
            "PDK": "ihp-sg13g2" if library.name.startswith("sg13g2") else library.name,
            "DESIGN_NAME": name,
            "VERILOG_FILES": [f"dir::../../{file}" for file in verilog],
            "CLOCK_PERIOD": period,
        }
        values |= settings[kind]
        macros = sorted({cover.macro for cover in covers if cover.macro})
        if kind == "chip" and macros:
            values["MACROS"] = {macro: _macro(macro) for macro in macros}
        files[f"librelane/{kind}/config.json"] = json.dumps(values, indent=1) + "\n"
    return files


def _macro(name: str) -> dict:
    """A macro's files, where IHP's PDK has them; LibreLane places the instances."""
    return {
        "gds": [f"{_MACRO_FILES}/gds/{name}.gds"],
        "lef": [f"{_MACRO_FILES}/lef/{name}.lef"],
        "lib": {"*": [f"{_MACRO_FILES}/lib/{name}_typ_1p20V_25C.lib"]},
        "instances": {},
    }


def _template() -> str:
    # In a wheel the folder lies in the package, in the source tree beside it.
    package = Path(__file__).parents[2]
    for folder in (package, package.parent):
        path = folder / "constraints" / "asic" / "librelane.json"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise ToolError(f"{package.parent / 'constraints' / 'asic'} is missing; reinstall the package")
