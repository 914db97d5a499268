"""Which rows of a shard pass a filter, remembered: shards never change, so the answer never does."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from vstore.filters import Filter
from vstore.types import Bitmap

LIMIT_BYTES: Final = 64 << 20
"""A bitmap is an eighth of a byte a row, so this holds the filters of half a billion rows."""


class PassingRows:
    """Bitmaps by shard and filter, least recently used out first. Thread-safe.

    Args:
        limit_bytes: the most that the bitmaps may take.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._bitmaps: OrderedDict[tuple[str, Filter], Bitmap] = OrderedDict()
        self._size_bytes = 0

    def get(self, shard_id: str, filter: Filter) -> Bitmap | None:
        """Return the rows that pass, dead ones included, or None where they are not remembered."""
        with self._lock:
            bitmap = self._bitmaps.get((shard_id, filter))
            if bitmap is not None:
                self._bitmaps.move_to_end((shard_id, filter))
            return bitmap

    def put(self, shard_id: str, filter: Filter, passing: Bitmap) -> None:
        """Remember the rows that pass; the caller does not change the bitmap any more."""
        with self._lock:
            before = self._bitmaps.pop((shard_id, filter), None)
            self._size_bytes += passing.nbytes - (before.nbytes if before is not None else 0)
            self._bitmaps[shard_id, filter] = passing
            while self._size_bytes > self._limit_bytes:
                self._size_bytes -= self._bitmaps.popitem(last=False)[1].nbytes
