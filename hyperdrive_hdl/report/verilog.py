"""Facts of a Verilog export."""

from dataclasses import asdict

from ..targets.testbench import Testbench
from ..targets.verilog import VerilogExport


def verilog_json(export: VerilogExport, testbench: Testbench | None = None) -> dict:
    """What ``verilog --json`` gives: top module, the chip's description, files with their sizes in bytes; of
    the manifest the totals."""
    texts = export.files | (testbench.files if testbench else {})
    return {
        "chip": export.config.name,
        "top": export.top,
        "config": asdict(export.config),
        "cells": export.manifest["cells"],
        "total": export.manifest["total"],
        "files": {name: len(text.encode()) for name, text in texts.items()},
        "testbench": testbench.module if testbench else None,
        "expected_words": testbench.words if testbench else None,
    }
