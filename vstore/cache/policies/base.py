"""The three decisions of a cache, as protocols: what comes in, what goes, what is read ahead.

Keys are any hashable values (the block cache's are `BlockKey`), sizes are bytes. A policy never sees a value,
a store or a shard, so one that was tried on a recorded trace runs unchanged in the block cache. It is called
under its owner's lock, by one thread at a time, and must not call back.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Protocol, TypeVar

K = TypeVar("K", bound=Hashable)
K_contra = TypeVar("K_contra", bound=Hashable, contravariant=True)


class Admission(Protocol[K_contra]):
    """Decides whether what was just read is kept."""

    def admits(self, key: K_contra, size_bytes: int, room_bytes: int) -> bool:
        """Whether to keep a key that is not resident.

        Args:
            key: what was read.
            size_bytes: what it weighs.
            room_bytes: what is free under the limit; where the key fits in it, nothing need go.
        """
        ...


class Eviction(Protocol[K]):
    """Decides who goes next. It is told of every key that comes, is used, or goes by another's hand.

    `vstore.testing.cache_suite.EvictionSuite` says what the cache relies on.
    """

    def added(self, key: K, size_bytes: int) -> None:
        """A key that was not resident is, from now on."""
        ...

    def used(self, key: K) -> None:
        """A resident key was asked for."""
        ...

    def removed(self, key: K) -> None:
        """A resident key is gone, though `victim` did not choose it."""
        ...

    def victim(self) -> K | None:
        """Choose the resident key that goes now, and count it as gone.

        None keeps them all: the newcomer is refused.
        """
        ...


class Prefetch(Protocol[K]):
    """Decides what else is read in a round that reads anyway."""

    def ahead(self, missed: Sequence[K]) -> Iterable[K]:
        """Return keys to read in the same round as those that were missed.

        Those that do not exist, or are resident, are left out by the cache.
        """
        ...
