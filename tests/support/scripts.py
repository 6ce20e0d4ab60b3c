"""The runnable scenarios of sim/, which is no package, as modules."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

SIM = Path(__file__).parents[2] / "sim"


def load_script(name: str) -> ModuleType:
    """The module sim/``name``.py."""
    spec = importlib.util.spec_from_file_location(name, SIM / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"no script {name!r} in {SIM}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
