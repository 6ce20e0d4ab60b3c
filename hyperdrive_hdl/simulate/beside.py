"""A second thread for work that numpy does outside Python's lock; an error or Ctrl-C does not wait for it."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class StoppedError(Exception):
    """Raised in the thread when nobody wants its result any more."""


class Beside(Generic[T]):
    """Runs ``work(check)`` beside the ``with`` block; ``check`` raises once the block has been left."""

    def __init__(self, work: Callable[[Callable[[], None]], T]):
        self._work = work
        self._stop = threading.Event()
        self._value: T | None = None
        self._error: BaseException | None = None
        # A daemon, so that the end of the program does not wait for it either.
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self._value = self._work(self._check)
        except BaseException as error:  # handed over by result()
            self._error = error

    def _check(self) -> None:
        if self._stop.is_set():
            raise StoppedError

    def __enter__(self) -> "Beside[T]":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()

    def result(self) -> T:
        """Wait for the work; what it returned, or the error that it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # set where there was no error
