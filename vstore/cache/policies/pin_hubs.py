"""Pin hubs: the blocks that every search passes through stay, the others go by last use."""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Final, Generic

from vstore.cache.policies.base import K

FORGET_AFTER: Final = 16
"""Counts are halved after so many uses a resident key, so that yesterday's hubs give way."""


def holds_upper_levels(key: Hashable) -> bool:
    """Whether a block holds a shard's head or its upper levels, where every search begins."""
    return getattr(key, "section", None) in ("head", "upper")


class PinHubs(Generic[K]):
    """Keeps hubs up to a share of what is resident, and evicts the rest least recently used first.

    A graph search meets some nodes far more often than others (Munyampirwa, Lakshman & Coleman 2024, "Down
    with the hierarchy: the 'H' in HNSW stands for hubs"). A block's weight is its in-degree where given, else
    how often it was used. Hubs go only when nothing else is left, the lightest first.

    Args:
        share: of the resident bytes that hubs may take, 0 to 1.
        in_degrees: the links that lead into each block; a block that is not named has none.
        always: which keys are hubs whatever their weight and the share.
    """

    def __init__(
        self,
        share: float = 0.5,
        in_degrees: Mapping[K, float] | None = None,
        always: Callable[[K], bool] = holds_upper_levels,
    ) -> None:
        self._share = share
        self._in_degrees = in_degrees
        self._always = always
        self._sizes: dict[K, int] = {}
        self._weights: dict[K, float] = {}
        self._rest: OrderedDict[K, None] = OrderedDict()
        self._hubs: dict[K, int] = {}
        """The key's number in `_queue`; an entry of another number is of the past."""
        self._queue: list[tuple[float, int, K]] = []
        self._resident_bytes = 0
        self._hub_bytes = 0
        self._n_queued = 0
        self._n_uses = 0

    def added(self, key: K, size_bytes: int) -> None:
        """As `Eviction.added`."""
        self._sizes[key] = size_bytes
        self._resident_bytes += size_bytes
        if self._always(key):
            self._weights[key] = math.inf
            self._enter(key)
            return
        self._weights[key] = 0.0 if self._in_degrees is None else self._in_degrees.get(key, 0.0)
        self._rest[key] = None
        self._promote(key)

    def used(self, key: K) -> None:
        """As `Eviction.used`."""
        if self._in_degrees is None:
            self._weights[key] += 1
            self._forget_some()
        if key in self._rest:
            self._rest.move_to_end(key)
            self._promote(key)

    def removed(self, key: K) -> None:
        """As `Eviction.removed`."""
        if key in self._hubs:
            self._leave(key)
        else:
            del self._rest[key]
        self._resident_bytes -= self._sizes.pop(key)
        del self._weights[key]

    def victim(self) -> K | None:
        """As `Eviction.victim`."""
        key = next(iter(self._rest), None)
        # The share grew since it was last used: a hub that had no room then may have some now.
        while key is not None and self._promote(key):
            key = next(iter(self._rest), None)
        if key is None:
            key = self._lightest()
        if key is not None:
            self.removed(key)
        return key

    def _promote(self, key: K) -> bool:
        """Make a key a hub where there is room, or where it outweighs the lightest; whether it is one."""
        if not self._weights[key]:
            return False
        room_bytes = self._share * self._resident_bytes - self._sizes[key]
        while self._hub_bytes > room_bytes:
            lightest = self._lightest()
            if lightest is None or self._weights[lightest] >= self._weights[key]:
                return False
            self._leave(lightest)
            self._rest[lightest] = None
        del self._rest[key]
        self._enter(key)
        return True

    def _enter(self, key: K) -> None:
        self._n_queued += 1
        self._hubs[key] = self._n_queued
        self._hub_bytes += self._sizes[key]
        heapq.heappush(self._queue, (self._weights[key], self._n_queued, key))

    def _leave(self, key: K) -> None:
        del self._hubs[key]
        self._hub_bytes -= self._sizes[key]
        if len(self._queue) > 2 * len(self._hubs) + 16:
            self._rebuild()

    def _lightest(self) -> K | None:
        """Return the hub of least weight; of equals, the one that has been a hub for longest."""
        while self._queue:
            weight, number, key = self._queue[0]
            if self._hubs.get(key) != number:
                heapq.heappop(self._queue)
            elif weight != self._weights[key]:
                heapq.heapreplace(self._queue, (self._weights[key], number, key))
            else:
                return key
        return None

    def _forget_some(self) -> None:
        self._n_uses += 1
        if self._n_uses >= FORGET_AFTER * len(self._sizes):
            self._n_uses = 0
            self._weights = {key: weight / 2 for key, weight in self._weights.items()}
            self._rebuild()

    def _rebuild(self) -> None:
        self._queue = [(self._weights[key], number, key) for key, number in self._hubs.items()]
        heapq.heapify(self._queue)
