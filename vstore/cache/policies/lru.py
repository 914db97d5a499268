"""Least recently used out first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic

from vstore.cache.policies.base import K


class LRU(Generic[K]):
    """The key that was not used for longest goes: right where the same queries return soon, wrong under a
    scan."""

    def __init__(self) -> None:
        self._order: OrderedDict[K, None] = OrderedDict()

    def added(self, key: K, size_bytes: int) -> None:
        """As `Eviction.added`."""
        self._order[key] = None

    def used(self, key: K) -> None:
        """As `Eviction.used`."""
        self._order.move_to_end(key)

    def removed(self, key: K) -> None:
        """As `Eviction.removed`."""
        del self._order[key]

    def victim(self) -> K | None:
        """As `Eviction.victim`."""
        return self._order.popitem(last=False)[0] if self._order else None
