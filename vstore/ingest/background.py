"""One thread a connection that flushes and merges behind the writes. It ends when it has nothing to do."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


NICENESS = 10
"""How much later than others the thread gets a core that several want (`man 2 setpriority`)."""


def _yield_to_others() -> None:
    """Let searches and writes have the cores first; threads that this one starts do so too."""
    if sys.platform == "linux":
        # Linux keeps a niceness for each thread. Elsewhere the number would mean another process.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


class Background:
    """Runs jobs one at a time, each owner's at most once in the queue. Thread-safe.

    The thread is started by a job and ends with the last one, so an idle connection holds none, and
    a process that ends waits for the job under way and no longer.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[object, Callable[[], None]] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, owner: object, job: Callable[[], None]) -> None:
        """Run `job` soon, unless one of this owner waits already; what it raises is logged."""
        with self._lock:
            if self._closed:
                return
            self._jobs.setdefault(owner, job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="vstore-upkeep")
                self._thread.start()

    def forget(self, owner: object) -> None:
        """Take this owner's job out of the queue; one that runs goes on."""
        with self._lock:
            self._jobs.pop(owner, None)

    def wait(self) -> None:
        """Return when no job runs or waits."""
        while (thread := self._thread) is not None:
            thread.join()

    def close(self) -> None:
        """Drop what waits, and return when what runs has ended."""
        with self._lock:
            self._closed = True
            self._jobs.clear()
        if self._thread is not threading.current_thread():
            self.wait()

    def _run(self) -> None:
        _yield_to_others()
        while True:
            with self._lock:
                if not self._jobs:
                    self._thread = None
                    return
                owner = next(iter(self._jobs))
                job = self._jobs.pop(owner)
            try:
                job()
            except Exception:
                log.exception("a job behind the writes failed")
