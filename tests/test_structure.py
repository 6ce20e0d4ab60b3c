"""The package's order: who may import whom (README: Where things are), and that every preset elaborates."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from amaranth.lib import wiring

import hyperdrive_hdl
from hyperdrive_hdl.arith.formats import ACCUMULATORS, FORMATS
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.rtl.chip import Chip
from hyperdrive_hdl.rtl.hierarchy import ModuleLibrary

PACKAGE = Path(hyperdrive_hdl.__file__).parent
BASE = {"errors", "config", "framing", "host_link", "presets", "isa", "latencies"}
ORACLE = {"compiler", "model", "perf"}
# What each part may import of this package; "arith" stands for arith's formats where marked below.
ALLOWED = {
    "errors": set(),
    "config": {"arith", "errors"},
    "presets": {"config", "errors"},
    "framing": {"config"},
    "host_link": set(),
    "isa": {"errors"},
    "latencies": {"arith", "config"},
    "data": set(),
    "tools": {"errors"},
    "files": {"config", "errors"},
    "arith": {"errors", "arith"},
    "compiler": BASE | ORACLE | {"arith"},
    "model": BASE | ORACLE | {"arith"},
    "perf": BASE | ORACLE | {"arith"},
    "cells": {"errors"},
    "rtl": BASE | {"arith", "cells", "rtl"},
    "simulate": BASE | ORACLE | {"arith", "rtl", "tools", "simulate"},
    "host": BASE | ORACLE | {"arith", "simulate", "host"},
    "targets": BASE | ORACLE | {"arith", "cells", "rtl", "tools", "simulate", "targets", "files"},
    "report": BASE | ORACLE | {"arith", "simulate", "host", "targets", "files", "data", "report"},
}
TOP = {"cli", "demo", "session", "__main__", "__init__"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    """The subpackage or top-level module that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports, anywhere in it."""
    package = ["hyperdrive_hdl", *path.relative_to(PACKAGE).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*start, *([node.module] if node.module else [])])
            found |= {f"{name}.{alias.name}" for alias in node.names} | {name}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    owner = part(path)
    if owner in TOP:
        return
    inside = {name.split(".")[1] for name in imports(path) if name.startswith("hyperdrive_hdl.")}
    assert owner in ALLOWED, f"{owner} is new: say in this test what it may import"
    assert inside <= ALLOWED[owner] | {owner}, path


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_oracle_stays_apart_from_hardware(path):
    if part(path) not in ORACLE | BASE | {"files", "report", "data"}:
        return
    names = imports(path)
    assert not any(name.split(".")[0] == "amaranth" for name in names), path
    if part(path) in ORACLE | BASE:
        hardware = {"hyperdrive_hdl.rtl", "hyperdrive_hdl.arith.hardware", "hyperdrive_hdl.arith.float_adder"}
        assert not any(name.startswith(tuple(hardware)) for name in names), path


def test_the_compiler_and_the_estimate_start_without_amaranth():
    code = (
        "import sys, hyperdrive_hdl.compiler.compile, hyperdrive_hdl.model.network, "
        "hyperdrive_hdl.model.chip, hyperdrive_hdl.perf.network; assert 'amaranth' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_line_starts_without_amaranth_and_onnx():
    code = "import sys, hyperdrive_hdl.cli; assert not {'amaranth', 'onnx'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def components() -> list[type]:
    found = []
    for package in ("rtl", "arith"):
        for info in pkgutil.iter_modules([str(PACKAGE / package)], f"hyperdrive_hdl.{package}."):
            module = importlib.import_module(info.name)
            classes = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == info.name]
            found += [c for c in classes if issubclass(c, wiring.Component)]
    return found


@pytest.mark.parametrize("component", components(), ids=lambda c: c.__name__)
def test_every_component_says_what_it_is(component):
    assert component.__doc__
    assert len(component.__doc__.splitlines()[0]) > 10
    assert "__init__" in vars(component)
    inspect.signature(component).bind_partial()
    kinds = {p.kind for p in inspect.signature(component).parameters.values()}
    assert kinds <= {inspect.Parameter.KEYWORD_ONLY}


def test_there_are_components_to_look_at():
    assert len(components()) > 10


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_elaborates(name):
    text = ModuleLibrary().convert(Chip(config=PRESETS[name]), name="chip")
    assert "module \\chip" in text


@pytest.mark.parametrize(
    "changes",
    [
        *({"format": name} for name in FORMATS),
        *({"accumulator": name} for name in ACCUMULATORS),
        {"lanes": 1},
        {"lanes": 20},  # program words wider than 16 bits
        {"tile_rows": 1, "tile_cols": 1},
        {"tile_rows": 1, "tile_cols": 3},
        {"fmm_banks": 2},
        {"fmm_bank_depth": 2},
        {"wbuf_depth": 2},
    ],
    ids=str,
)
def test_every_option_elaborates(changes):
    config = PRESETS["tiny"].replace(**changes)
    assert "module \\chip" in ModuleLibrary().convert(Chip(config=config), name="chip")
