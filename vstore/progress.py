"""Progress of long work: a bar on a terminal, silence in a pipe, or the caller's own function.

Compiling kernels, which happens once on a machine, is told in one line: on a terminal, else to the log.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger(__name__)

COMPILING = "vstore: compiling search kernels (first use on this machine, about 20 seconds)"

Report = Callable[[int, int], None]
"""Called with what is done and what there is in all."""


@contextmanager
def progress_of(progress: bool | Report | None, label: str, unit: str = "rows") -> Iterator[Report]:
    """Yield a function of (done, total).

    Args:
        progress: a function to use as it is; True for a bar where stderr is a terminal; False or None
            for nothing.
        label: what the bar says.
        unit: "bytes" shows sizes, anything else counts.
    """
    if callable(progress):
        yield progress
        return
    if not progress or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    bar = _Bar(label, unit)
    try:
        yield bar.report
    finally:
        bar.stop()


@functools.cache
def tell_of_compiling() -> None:
    """From now on, tell of the first kernel of this process that has to be compiled, in one line."""
    from numba.core import event

    class FirstKernel(event.Listener):
        """Hears of every function that numba compiles, and of none that it loads from its cache."""

        told = False

        def on_start(self, event: Any) -> None:
            """Tell, if it is one of ours and the first."""
            function = event.data["dispatcher"].py_func
            if self.told or not function.__module__.startswith("vstore_kernels"):
                return
            self.told = True
            if sys.stderr.isatty():
                print(COMPILING, file=sys.stderr, flush=True)
            else:
                log.info(COMPILING)

        def on_end(self, event: Any) -> None:
            """Nothing to tell."""

    event.register("numba:compile", FirstKernel())  # type: ignore[no-untyped-call]


class _Bar:
    """A rich bar that appears with the first report: work that turns out to be none shows nothing."""

    def __init__(self, label: str, unit: str) -> None:
        self._label = label
        self._unit = unit
        self._bar: Any = None
        self._task: Any = None

    def report(self, done: int, total: int) -> None:
        """Show how far the work is."""
        if self._bar is None:
            self._start()
        self._bar.update(self._task, completed=done, total=total)

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        counter = DownloadColumn() if self._unit == "bytes" else MofNCompleteColumn()
        columns = (TextColumn("{task.description}"), BarColumn(), counter, TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(self._label, total=None)
        self._bar.start()
