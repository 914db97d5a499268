"""Kernel scratch memory, pooled: a search allocates nothing that grows with the shard."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from vstore_kernels.search import SearchScratch

T = TypeVar("T")


class ScratchPool(Generic[T]):
    """Scratch for as many searches as ever ran at once. Thread-safe.

    Args:
        make: makes one more.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        # append and pop of a deque are atomic, so no lock is needed.
        self._free: deque[T] = deque()
        self._make = make

    def take(self) -> T:
        """Take a scratch out of the pool, to `give` it back."""
        try:
            return self._free.pop()
        except IndexError:
            return self._make()

    def give(self, scratch: T) -> None:
        """Put a scratch back."""
        self._free.append(scratch)

    @contextmanager
    def lend(self) -> Iterator[T]:
        """Lend a scratch to one search; it comes back when the block ends."""
        scratch = self.take()
        try:
            yield scratch
        finally:
            self.give(scratch)


POOL: ScratchPool[SearchScratch] = ScratchPool(SearchScratch)
"""The process's pool. Scratch has no meaning between searches, so sharing it is safe."""
