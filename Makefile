# Needs make and Python 3.11 or newer, and network to PyPI the first time. Everything goes into .venv and build/.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
CHECKED := hyperdrive_hdl sim tests

.DEFAULT_GOAL := help
.PHONY: help demo test check test-slow bench clean

help:
	@echo "make demo       digits network through the RTL, report in build/demo/ (first time: a few minutes)"
	@echo "make test       lint, format, types, and the quick tests: what CI runs"
	@echo "make test-slow  whole networks and long random runs"
	@echo "make bench      utilisation and simulation speed of the demo's chip"
	@echo "make clean      remove .venv and everything in build/"

demo: $(STAMPS)/demo
	$(BIN)/hyperdrive demo

test: check
	$(BIN)/python -m pytest -n 2 -m "not slow"

check: $(STAMPS)/test
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/pyright --pythonpath $(BIN)/python

test-slow: $(STAMPS)/test
	$(BIN)/python -m pytest -n 2 -m slow

bench: $(STAMPS)/demo
	$(BIN)/python sim/bench_demo_chip.py

clean:
	rm -rf $(VENV)
	find build -mindepth 1 -not -name README.md -delete

# Stamps: installed once, and again when pyproject.toml changes.

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with make PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS)
	@touch $@

# The simulator needs a C++ compiler: the system's, or else zig's from PyPI.
$(STAMPS)/demo: $(STAMPS)/venv pyproject.toml
	extra='[cxx]'; for name in c++ g++ clang++; do command -v $$name > /dev/null && extra=''; done; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".$$extra"
	@touch $@

$(STAMPS)/test: $(STAMPS)/demo pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,check,fpga]'
	@touch $@
