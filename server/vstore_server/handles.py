"""The collection handles that requests share, kept as fresh as a setting says."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from vstore.collection import Collection
from vstore.database import Database
from vstore.errors import Closed, CollectionNotFound, WriterFenced


@dataclass(slots=True)
class _Held:
    collection: Collection
    looked_at_s: float
    lock: threading.Lock = field(default_factory=threading.Lock)


class Handles:
    """One handle a collection. Thread-safe.

    A handle that was last refreshed more than `refresh_s` ago is refreshed before it is lent, by the
    first request that finds it so; so another process's writes are seen that soon, and a collection
    that nobody asks for costs its store nothing.
    """

    def __init__(self, database: Database, refresh_s: float) -> None:
        self._database = database
        self._refresh_s = refresh_s
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}

    def get(self, name: str, *, refresh: bool = False) -> Collection:
        """Return the handle of a collection.

        Raises:
            CollectionNotFound: there is none of that name, or no more.
        """
        held = self._held.get(name)
        if held is None:
            opened = _Held(self._database.collection(name), time.monotonic())
            with self._lock:
                return self._held.setdefault(name, opened).collection
        if refresh or time.monotonic() - held.looked_at_s >= self._refresh_s:
            self._refresh(name, held, wait=refresh)
        return held.collection

    def forget(self, name: str) -> None:
        """Let a handle go: its collection was dropped, or its writer fenced."""
        with self._lock:
            self._held.pop(name, None)

    def settle(self, name: str, error: BaseException) -> None:
        """Let a handle go where an error says that it is of no more use."""
        if isinstance(error, (CollectionNotFound, WriterFenced, Closed)):
            self.forget(name)

    def _refresh(self, name: str, held: _Held, wait: bool) -> None:
        # Who finds another at it reads what was there a moment ago.
        if not held.lock.acquire(blocking=wait):
            return
        try:
            held.collection.refresh()
            held.looked_at_s = time.monotonic()
        except CollectionNotFound:
            self.forget(name)
            raise
        finally:
            held.lock.release()
