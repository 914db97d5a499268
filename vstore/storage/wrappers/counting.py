"""Count what is asked of a store: round trips, requests and bytes repeat exactly where times do not."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from vstore.storage.base import ByteRange, ObjectInfo, ObjectStore
from vstore.storage.wrappers.forward import ForwardingStore

PAGE_KEYS = 1000
"""Keys in a page of a listing, and in one request to delete."""


@dataclass(frozen=True, slots=True)
class StoreCounters:
    """What was asked of a store; requests that failed are counted, retries inside a store are not."""

    n_round_trips: int = 0
    """Calls, each of which waits for the store once: a `get_many` is one."""
    n_requests: int = 0
    """Requests of those calls: n_gets + n_puts + n_lists + n_deletes."""
    n_gets: int = 0
    """GET and HEAD requests; near ranges read as one are one."""
    n_puts: int = 0
    n_lists: int = 0
    n_deletes: int = 0
    bytes_fetched: int = 0
    """Bytes that came, with the gaps between near ranges."""
    bytes_written: int = 0

    def __add__(self, other: StoreCounters) -> StoreCounters:
        return StoreCounters(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: StoreCounters) -> StoreCounters:
        return StoreCounters(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


class CountingStore(ForwardingStore):
    """Counts; safe to share between threads, and cheap enough to make one for each query."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()
        self._counters = StoreCounters()

    def snapshot(self) -> StoreCounters:
        """Return the counters as they are now."""
        return self._counters

    def delta(self, since: StoreCounters) -> StoreCounters:
        """Return what was counted after the snapshot `since`."""
        return self._counters - since

    def _asked(
        self,
        *,
        n_gets: int = 0,
        n_puts: int = 0,
        n_lists: int = 0,
        n_deletes: int = 0,
        bytes_written: int = 0,
    ) -> None:
        n_requests = n_gets + n_puts + n_lists + n_deletes
        more = StoreCounters(
            1 if n_requests else 0, n_requests, n_gets, n_puts, n_lists, n_deletes, 0, bytes_written
        )
        with self._lock:
            self._counters += more

    def _came(self, bytes_fetched: int, n_more_lists: int = 0) -> None:
        with self._lock:
            now = self._counters
            self._counters = replace(
                now,
                bytes_fetched=now.bytes_fetched + bytes_fetched,
                n_lists=now.n_lists + n_more_lists,
                n_requests=now.n_requests + n_more_lists,
            )

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return the bytes of a range, and count them."""
        self._asked(n_gets=0 if length == 0 else 1)
        data = self.inner.get(key, start, length)
        self._came(len(data))
        return data

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Return the bytes of each range, and count the requests that the inner store makes of them."""
        fetches = self.plan(ranges)
        self._asked(n_gets=len(fetches))
        bodies = self.inner.get_many(ranges)
        self._came(
            sum(len(bodies[f.parts[0]]) if f.range.length is None else f.range.length for f in fetches)
        )
        return bodies

    def put(self, key: str, data: bytes) -> None:
        """Write the object, and count its bytes."""
        self._asked(n_puts=1, bytes_written=len(data))
        self.inner.put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> None:
        """Create the object, and count its bytes."""
        self._asked(n_puts=1, bytes_written=len(data))
        self.inner.put_if_absent(key, data)

    def head(self, key: str) -> ObjectInfo | None:
        """Return the object's size; a HEAD costs what a GET does."""
        self._asked(n_gets=1)
        return self.inner.head(key)

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Return the objects, and count the pages of the listing."""
        self._asked(n_lists=1)
        found = self.inner.list(prefix)
        self._came(0, n_more_lists=max(0, (len(found) - 1) // PAGE_KEYS))
        return found

    def delete(self, keys: Sequence[str]) -> None:
        """Delete the objects, and count the requests."""
        self._asked(n_deletes=-(-len(keys) // PAGE_KEYS))
        self.inner.delete(keys)
