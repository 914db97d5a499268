"""Stores for the benchmark of object storage: built once and kept, and wrapped so that all is counted."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import vstore
from vstore.catalog.catalog import Catalog
from vstore.shard import sections
from vstore.storage import ObjectStore, open_store
from vstore.storage.base import ByteRange, ObjectInfo
from vstore.storage.coalesce import Fetch, plan_coalesce, split_fetches
from vstore.storage.wrappers.counting import CountingStore
from vstore.storage.wrappers.forward import ForwardingStore

from .datasets import Dataset
from .datasets.cache import root
from .filters import COLUMNS, Grid

NAME = "rows"


def kept_store(dataset: Dataset, grid: Grid, threads: int) -> Path:
    """Return the folder of a store that holds the data set in one shard; built where it is not kept yet."""
    full = {"fashion": 60_000, "clustered": 1_000_000, "sentences": 60_000}[dataset.name]
    n = len(dataset.points)
    folder = root() / (f"os-{dataset.name}" if n == full else f"os-{dataset.name}-{n}")
    if (folder / "latest").exists() and _has_sketches(folder):
        return folder
    if folder.exists():
        print(f"{folder} was built by an older version: it is built again", flush=True)
        shutil.rmtree(folder)
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    settings = vstore.Settings(
        n_threads=threads, memtable_rows=n + 1, memtable_bytes=16 << 30, background=False
    )
    with vstore.connect(partial, settings=settings) as database:
        collection = database.create_collection(
            NAME,
            dim=dataset.points.shape[1],
            metric="l2",
            fields=dict.fromkeys(COLUMNS, "int"),
            index=vstore.IndexSettings(shard_rows=max(n, 1_000_000)),
        )
        for start in range(0, n, 50_000):
            stop = min(n, start + 50_000)
            values = {name: column[start:stop].tolist() for name, column in grid.columns.items()}
            collection.upsert(np.arange(start, stop), dataset.points[start:stop], values, progress=False)
        collection.flush()
    partial.rename(folder)
    return folder


def _has_sketches(folder: Path) -> bool:
    """Return whether the shards of a kept store have the sketches that they would have if built now."""
    entries = Catalog(open_store(str(folder))).require(NAME).shards
    return all(
        sections.SKETCHES in entry.sections
        or entry.sections[sections.CODES].length <= sections.SKETCHED_CODE_BYTES
        for entry in entries
    )


class Coalescing(ForwardingStore):
    """A folder that reads near ranges as one request, as S3 does: so that the same requests are counted."""

    def __init__(self, inner: ObjectStore, settings: vstore.Settings) -> None:
        super().__init__(inner)
        self._settings = settings

    def plan(self, ranges: Sequence[ByteRange]) -> list[Fetch]:
        """Return the requests that S3 would get."""
        return plan_coalesce(ranges, self._settings.coalesce_gap_bytes, self._settings.coalesce_max_bytes)

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Return the bytes of each range."""
        fetches = self.plan(ranges)
        return split_fetches(ranges, fetches, [self.inner.get(*fetch.range) for fetch in fetches])


class Dependent(CountingStore):
    """Counts calls by the thread that makes them: those of one thread wait for each other."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self._calls: dict[str, int] = {}

    def n_round_trips_of_opened(self, opening_thread: str = "vstore-open") -> int:
        """Return the longest chain of calls that waited for each other since `vstore.open`.

        Its first reads wait for nothing and count as one. Then come the caller's own calls, with those of the
        thread that looks at the log beside them.
        """
        own = self._calls.get(threading.current_thread().name, 0)
        beside = sum(n for name, n in self._calls.items() if name.startswith(opening_thread))
        return 1 + max(own, beside)

    def _mark(self) -> None:
        name = threading.current_thread().name
        with self._lock:
            self._calls[name] = self._calls.get(name, 0) + 1

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return the bytes of a range, and count."""
        self._mark()
        return super().get(key, start, length)

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Return the bytes of each range, and count."""
        self._mark()
        return super().get_many(ranges)

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Return the objects, and count."""
        self._mark()
        return super().list(prefix)


class GuidesOnly:
    """An admission policy that keeps all but exact vectors and payload: those stay remote."""

    def admits(self, key: Any, size_bytes: int, room_bytes: int) -> bool:
        """Whether the block guides searches."""
        return getattr(key, "section", "") not in ("vectors", "payload")


def folder_store(folder: Path, settings: vstore.Settings) -> ObjectStore:
    """Return a kept folder as a store that reads as S3 is read."""
    return Coalescing(open_store(str(folder), settings=settings), settings)
