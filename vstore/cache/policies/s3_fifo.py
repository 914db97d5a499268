"""S3-FIFO: three queues, so that what is asked for once leaves quickly."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Generic

from vstore.cache.policies.base import K

SMALL_SHARE: Final = 0.1
GHOST_SHARE: Final = 0.9
MOST_USES: Final = 3
USES_TO_STAY: Final = 2


class S3FIFO(Generic[K]):
    """S3-FIFO by bytes (Yang et al., SOSP 2023, "FIFO queues are all you need", Algorithm 1).

    A key enters the small queue. At its end it moves to the main queue if it was used twice since, else it
    goes and is remembered as a ghost; a ghost that returns enters the main queue at once. There a key goes
    round once more for each use, of which 3 count. The small queue is kept to a tenth of the bytes, and
    ghosts to nine tenths. The paper takes these shares of the cache's size; here they are of what is
    resident, which is the same wherever something must go.
    """

    def __init__(self) -> None:
        self._small: OrderedDict[K, int] = OrderedDict()
        self._main: OrderedDict[K, int] = OrderedDict()
        self._ghosts: OrderedDict[K, int] = OrderedDict()
        self._uses: dict[K, int] = {}
        self._small_bytes = 0
        self._main_bytes = 0
        self._ghost_bytes = 0

    def added(self, key: K, size_bytes: int) -> None:
        """As `Eviction.added`."""
        self._uses[key] = 0
        ghost_bytes = self._ghosts.pop(key, None)
        if ghost_bytes is None:
            self._small[key] = size_bytes
            self._small_bytes += size_bytes
        else:
            self._ghost_bytes -= ghost_bytes
            self._main[key] = size_bytes
            self._main_bytes += size_bytes

    def used(self, key: K) -> None:
        """As `Eviction.used`."""
        uses = self._uses[key]
        if uses < MOST_USES:
            self._uses[key] = uses + 1

    def removed(self, key: K) -> None:
        """As `Eviction.removed`."""
        del self._uses[key]
        if key in self._small:
            self._small_bytes -= self._small.pop(key)
        else:
            self._main_bytes -= self._main.pop(key)

    def victim(self) -> K | None:
        """As `Eviction.victim`."""
        while self._uses:
            resident_bytes = self._small_bytes + self._main_bytes
            if self._small and (not self._main or self._small_bytes >= SMALL_SHARE * resident_bytes):
                key, size_bytes = self._small.popitem(last=False)
                self._small_bytes -= size_bytes
                if self._uses[key] >= USES_TO_STAY:
                    self._uses[key] = 0
                    self._main[key] = size_bytes
                    self._main_bytes += size_bytes
                    continue
                self._remember(key, size_bytes, resident_bytes)
            else:
                key, size_bytes = self._main.popitem(last=False)
                if self._uses[key]:
                    self._uses[key] -= 1
                    self._main[key] = size_bytes
                    continue
                self._main_bytes -= size_bytes
            del self._uses[key]
            return key
        return None

    def _remember(self, key: K, size_bytes: int, resident_bytes: int) -> None:
        self._ghosts[key] = size_bytes
        self._ghost_bytes += size_bytes
        while self._ghost_bytes > GHOST_SHARE * resident_bytes:
            self._ghost_bytes -= self._ghosts.popitem(last=False)[1]
