"""Kernel scratch memory, pooled: a search allocates nothing that grows with the shard."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from vstore_kernels.search import SearchScratch


class ScratchPool:
    """Scratch for as many searches as ever ran at once. Thread-safe."""

    def __init__(self) -> None:
        # append and pop of a deque are atomic, so no lock is needed.
        self._free: deque[SearchScratch] = deque()

    @contextmanager
    def lend(self) -> Iterator[SearchScratch]:
        """Lend a scratch to one search; it comes back when the block ends."""
        try:
            scratch = self._free.pop()
        except IndexError:
            scratch = SearchScratch()
        try:
            yield scratch
        finally:
            self._free.append(scratch)


POOL = ScratchPool()
"""The process's pool. Scratch has no meaning between searches, so sharing it is safe."""
