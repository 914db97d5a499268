"""Progress of long work: a bar on a terminal, silence in a pipe, or the caller's own function."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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
