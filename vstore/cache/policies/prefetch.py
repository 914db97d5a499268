"""Prefetch: nothing, or the neighbours of what was missed."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vstore.cache.blocks import BlockKey


class NoPrefetch:
    """Reads nothing that was not asked for."""

    def ahead(self, missed: Sequence[Hashable]) -> tuple[()]:
        """As `Prefetch.ahead`."""
        return ()


class Adjacent:
    """Reads the blocks beside those that were missed: in cluster order, near blocks hold near clusters.

    Args:
        reach: blocks on each side.
        sections: of which sections; whole sections have no neighbours.
    """

    def __init__(self, reach: int = 1, sections: Sequence[str] = ("lists", "codes")) -> None:
        self._reach = reach
        self._sections = frozenset(sections)

    def ahead(self, missed: Sequence[BlockKey]) -> list[BlockKey]:
        """As `Prefetch.ahead`."""
        known = set(missed)
        found: list[BlockKey] = []
        for key in missed:
            if key.section not in self._sections or key.block < 0:
                continue
            for block in range(max(key.block - self._reach, 0), key.block + self._reach + 1):
                near = key._replace(block=block)
                if near not in known:
                    known.add(near)
                    found.append(near)
        return found
