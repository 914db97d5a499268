"""The collection handles that requests share, kept as fresh as a setting says."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from vstore.collection import Collection
from vstore.database import Database
from vstore.errors import Closed, CollectionNotFound, SnapshotNotFound, StaleRead, WriterFenced
from vstore.ingest.token import parse_token

MAX_SNAPSHOTS = 64
"""Handles on snapshots that are kept open; each holds a lease while it is used."""


@dataclass(slots=True)
class _Held:
    collection: Collection
    looked_at_s: float
    lock: threading.Lock = field(default_factory=threading.Lock)


class Handles:
    """One handle a collection, and one a snapshot that is read. Thread-safe.

    A handle that was last refreshed more than `refresh_s` ago is refreshed before it is lent, by the
    first request that finds it so; so another process's writes are seen that soon, and a collection
    that nobody asks for costs its store nothing.
    """

    def __init__(self, database: Database, refresh_s: float) -> None:
        self._database = database
        self._refresh_s = refresh_s
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._snapshots: OrderedDict[tuple[str, int], Collection] = OrderedDict()

    def get(self, name: str, *, refresh: bool = False, at_least: str | None = None) -> Collection:
        """Return the handle of a collection.

        Args:
            name: the collection.
            refresh: look for what others published, however short ago that was done.
            at_least: a version token that the handle must have seen.

        Raises:
            CollectionNotFound: there is none of that name, or no more.
            StaleRead: it has not seen the token yet, though it has just looked; come back.
        """
        held = self._held.get(name)
        if held is None:
            opened = _Held(self._database.collection(name), time.monotonic())
            with self._lock:
                held = self._held.setdefault(name, opened)
        elif refresh or time.monotonic() - held.looked_at_s >= self._refresh_s:
            self._refresh(name, held, wait=refresh)
        if at_least is not None and not _has_seen(held.collection, at_least):
            self._refresh(name, held, wait=True)
            if not _has_seen(held.collection, at_least):
                raise StaleRead(f"this server has not seen version {at_least} of collection {name!r} yet")
        return held.collection

    def snapshot(self, name: str, at: Any, version: int | None) -> Collection:
        """Return the handle of a snapshot.

        Args:
            name: the collection.
            at: what `Database.collection` takes.
            version: what `at` stood for when the caller opened it; None opens it anew.

        Raises:
            CollectionNotFound, SnapshotNotFound: there is none, or `at` stands for another version now.
        """
        if version is not None:
            with self._lock:
                held = self._snapshots.get((name, version))
                if held is not None:
                    self._snapshots.move_to_end((name, version))
                    return held
        opened = self._database.collection(name, at=at)
        if version is not None and opened.version != version:
            opened.close()
            raise SnapshotNotFound(
                f"{at!r} no longer stands for version {version}, on which this handle was opened; "
                "open it again"
            )
        with self._lock:
            old = self._snapshots.pop((name, opened.version), None)
            self._snapshots[name, opened.version] = opened
            idle = [self._snapshots.popitem(last=False)[1]] if len(self._snapshots) > MAX_SNAPSHOTS else []
        for handle in [*idle, *([] if old is None else [old])]:
            handle.close()
        return opened

    def fresh(self, name: str, at_least: str | None = None) -> Collection | None:
        """Return the handle of a collection if it is open and need not be refreshed first; never waits."""
        held = self._held.get(name)
        if held is None or time.monotonic() - held.looked_at_s >= self._refresh_s:
            return None
        return held.collection if at_least is None or _has_seen(held.collection, at_least) else None

    def forget(self, name: str) -> None:
        """Let a collection's handles go: it was dropped, or its writer fenced."""
        with self._lock:
            self._held.pop(name, None)
            gone = [self._snapshots.pop(key) for key in list(self._snapshots) if key[0] == name]
        for handle in gone:
            handle.close()

    def settle(self, name: str, error: BaseException) -> None:
        """Let a handle go where an error says that it is of no more use."""
        if isinstance(error, (CollectionNotFound, WriterFenced, Closed)):
            self.forget(name)

    def close(self) -> None:
        """Let every handle go, and with it what snapshots keep from garbage collection."""
        for name in {*self._held, *(name for name, _ in list(self._snapshots))}:
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


def _has_seen(collection: Collection, token: str) -> bool:
    return parse_token(token).seen_by(parse_token(collection.version_token))
