"""No eviction: what came first stays."""

from __future__ import annotations

from collections.abc import Hashable


class KeepFirst:
    """Nothing goes: the first that fit stay, and the others are read each time. For a cache that was
    warmed."""

    def added(self, key: Hashable, size_bytes: int) -> None:
        """As `Eviction.added`."""

    def used(self, key: Hashable) -> None:
        """As `Eviction.used`."""

    def removed(self, key: Hashable) -> None:
        """As `Eviction.removed`."""

    def victim(self) -> None:
        """As `Eviction.victim`."""
        return
