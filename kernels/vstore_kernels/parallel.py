"""Independent chunks of work over threads: kernels release the GIL, Python hands out the chunks."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def run_chunks(work: Callable[[T], object], chunks: Iterable[T], n_threads: int) -> None:
    """Call `work(chunk)` for every chunk, on up to `n_threads` threads, this one among them.

    Which thread takes which chunk is not determined: `work` must write to places of its chunk only. A chunk
    should last milliseconds, so that Ctrl-C (delivered between chunks on the calling thread) stops all
    threads soon.

    Raises:
        Whatever `work` raised first; no chunk starts after that.
    """
    items = list(chunks)
    if n_threads <= 1 or len(items) <= 1:
        for item in items:
            work(item)
        return
    counter = itertools.count()
    stop = threading.Event()
    errors: list[BaseException] = []

    def loop() -> None:
        while not stop.is_set():
            at = next(counter)
            if at >= len(items):
                return
            try:
                work(items[at])
            except BaseException as error:
                errors.append(error)
                stop.set()

    threads = [threading.Thread(target=loop, daemon=True) for _ in range(min(n_threads, len(items)) - 1)]
    for thread in threads:
        thread.start()
    try:
        loop()
    finally:
        # Also on Ctrl-C: the other threads end after their chunk.
        stop_early = bool(errors)
        if stop_early:
            stop.set()
        _join(threads, stop)
    if errors:
        raise errors[0]


def _join(threads: list[threading.Thread], stop: threading.Event) -> None:
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        stop.set()
        for thread in threads:
            thread.join()
        raise
