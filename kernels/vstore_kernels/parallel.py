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

    threads: list[threading.Thread] = []
    try:
        for _ in range(min(n_threads, len(items)) - 1):
            thread = threading.Thread(target=loop, daemon=True)
            thread.start()
            threads.append(thread)
        loop()
        for thread in threads:
            thread.join()
    finally:
        # On Ctrl-C the other threads end after their chunk.
        stop.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
