"""Group commit: writes that wait for the same lock travel in one log record.

A log record costs one fsync or one request, whatever it holds. So whoever gets the write lock takes
along what others queued meanwhile, and they find their work done when their turn comes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from vstore.errors import InvalidInput, StoreUnavailable
from vstore.format.log_record import DeleteBatch, UpsertBatch
from vstore.ingest.batches import Keys, distinct_keys, size_bytes
from vstore.ingest.schema import rows_to_write
from vstore.ingest.view import CollectionView

GROUP_BYTES = 16 << 20
"""A record takes further writes along until it holds about this much."""

MAX_WRITE_BYTES = 1 << 30
"""The most that one upsert may hold: it becomes one object, and msgpack and S3 end not far above."""

Batch = UpsertBatch | DeleteBatch


@dataclass(slots=True, eq=False)
class Write:
    """One caller's write: an upsert batch, rows to make from those that are there, or keys to delete."""

    upsert: UpsertBatch | None = None
    select: Callable[[CollectionView[Any]], Keys] | None = None
    make: Callable[[CollectionView[Any]], UpsertBatch | None] | None = None
    size_bytes: int = 0
    n_rows: int = 0
    done: bool = False
    error: BaseException | None = None

    @classmethod
    def of_rows(cls, batch: UpsertBatch) -> Write:
        """Make an upsert of rows that belong to vstore."""
        return cls(upsert=batch, size_bytes=size_bytes(batch.rows))

    def apply(self, view: CollectionView[Any]) -> tuple[CollectionView[Any], Batch | None]:
        """Return the view after this write, and what the log must hold of it (None: nothing)."""
        batch = self.upsert if self.make is None else self.make(view)
        if batch is not None:
            batch = UpsertBatch(rows_to_write(batch.rows, view.schema))
            self.n_rows = batch.rows.n
            return (view.upserted(batch.rows), batch) if self.n_rows else (view, None)
        if self.make is not None:
            return view, None
        assert self.select is not None
        keys = distinct_keys(self.select(view))
        after, self.n_rows = view.without(keys)
        return after, DeleteBatch(keys) if self.n_rows else None

    def finish(self, error: BaseException | None = None) -> None:
        """Say what became of the write."""
        self.error = error
        self.done = True

    def result(self) -> int:
        """Return the rows written or deleted, or raise what went wrong."""
        if self.error is not None:
            raise self.error
        return self.n_rows


class WriteQueue:
    """Writes that wait for the lock, in the order in which they came. Thread-safe."""

    def __init__(self) -> None:
        self._waiting: deque[Write] = deque()
        self._lock = threading.Lock()

    def add(self, write: Write) -> None:
        """Put a write at the end."""
        with self._lock:
            self._waiting.append(write)

    def forget(self, write: Write) -> None:
        """Take a write out again whose caller no longer waits for it; no error where it is gone."""
        with self._lock, suppress(ValueError):
            self._waiting.remove(write)

    def take_group(self) -> list[Write]:
        """Take the writes that go into the next record: at least one, where any waits."""
        group: list[Write] = []
        n_bytes = 0
        with self._lock:
            while self._waiting and (not group or n_bytes + self._waiting[0].size_bytes <= GROUP_BYTES):
                n_bytes += self._waiting[0].size_bytes
                group.append(self._waiting.popleft())
        return group


def interrupted() -> StoreUnavailable:
    """Return the error for a write whose group's leader was interrupted."""
    return StoreUnavailable(
        "the thread that wrote this group of writes was interrupted; whether they landed is settled by the "
        "next write: repeat this one (an upsert may be repeated safely)"
    )


def check_write_bytes(size_bytes: int) -> None:
    """Raise InvalidInput where one call holds more than a log record takes."""
    if size_bytes > MAX_WRITE_BYTES:
        raise InvalidInput(
            f"the write holds {size_bytes} bytes; one call takes at most {MAX_WRITE_BYTES}, "
            "because it becomes one object of the log: split it into several calls"
        )
