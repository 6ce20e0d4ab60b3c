"""Where lines and progress go: results to stdout, progress to stderr and only if that is a terminal."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

PIPE_WIDTH = 140  # of tables that go into a file or a pipe


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """``| head`` has seen enough: go on, so that results are written and the exit status is true."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Terminal:
    """Prints unless ``quiet``; shows the progress of long steps.

    Parameters
    ----------
    quiet : nothing but errors
    """

    def __init__(self, *, quiet: bool = False):
        self._quiet = quiet
        width = None if sys.stdout.isatty() else PIPE_WIDTH
        self._out = _Console(width=width, highlight=False, markup=False, emoji=False)
        self._progress_out = Console(stderr=True, highlight=False, markup=False, emoji=False)

    def show(self, lines: Iterable[str | Table]) -> None:
        """Lines and tables on stdout."""
        if not self._quiet:
            for line in lines:
                self._out.print(line, soft_wrap=isinstance(line, str))

    def say(self, text: str) -> None:
        """One line on stdout."""
        self.show([text])

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """A step without a known length: a spinner with the time."""
        with self._bars(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()) as bars:
            bars.add_task(text, total=None)
            yield

    @contextmanager
    def cycles(self, total: int | None, unit: str = "cycles") -> Iterator["CycleProgress"]:
        """A run of so many cycles, or whatever the ``unit`` is, if that is known."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with self._bars(*columns) as bars:
            yield CycleProgress(bars, bars.add_task("running", total=total, rate=""), unit)

    def _bars(self, *columns) -> Progress:
        hidden = self._quiet or not sys.stderr.isatty()
        return Progress(*columns, console=self._progress_out, transient=True, disable=hidden)


class CycleProgress:
    """The bar of a run: cycles so far, where it is, cycles per second."""

    def __init__(self, bars: Progress, task: TaskID, unit: str):
        self._bars = bars
        self._task = task
        self._unit = unit

    def update(self, cycles: int, where: str) -> None:
        elapsed = self._bars.tasks[0].elapsed or 0.0
        rate = f"{cycles / elapsed:,.0f} {self._unit}/s" if elapsed > 0.5 else ""
        self._bars.update(self._task, completed=cycles, description=where, rate=rate)
