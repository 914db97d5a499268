"""One writer a collection in one connection: handles share it, so that they do not fence each other."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

from vstore.catalog import Catalog
from vstore.errors import CommitConflict
from vstore.ingest.background import Background
from vstore.ingest.bulk import BulkWriter
from vstore.ingest.flush import BuildShard
from vstore.ingest.reader import OpenShard
from vstore.ingest.view import ShardLike
from vstore.settings import Settings

S = TypeVar("S", bound=ShardLike)


MAX_DROPS = 8
"""Times that a collection is taken over to be dropped."""


class WriterRegistry(Generic[S]):
    """The writers of one connection, acquired at the first write to each collection. Thread-safe."""

    def __init__(
        self, catalog: Catalog, settings: Settings, open_shard: OpenShard[S], build_shard: BuildShard
    ) -> None:
        self._catalog = catalog
        self._settings = settings
        self._open_shard = open_shard
        self._build_shard = build_shard
        self._lock = threading.Lock()
        self._writers: dict[str, BulkWriter[S]] = {}
        self._background = Background() if settings.background else None

    def get(self, name: str) -> BulkWriter[S] | None:
        """Return the collection's writer, or None where nothing was written through this connection."""
        return self._writers.get(name)

    def acquire(self, name: str) -> BulkWriter[S]:
        """Return the collection's writer, taking the collection over at the first call.

        Raises:
            CollectionNotFound, WriterFenced, StorageError: as `Writer.acquire`.
        """
        with self._lock:
            writer = self._writers.get(name)
            if writer is None:
                writer = self._writers[name] = BulkWriter.acquire(
                    self._catalog,
                    name,
                    self._settings,
                    open_shard=self._open_shard,
                    build_shard=self._build_shard,
                    background=self._background,
                )
            return writer

    def release(self, name: str) -> None:
        """Close the collection's writer, so that the next write takes the collection over anew."""
        with self._lock:
            writer = self._writers.pop(name, None)
        if writer is not None:
            writer.close()

    def drop(self, name: str) -> None:
        """Drop a collection, with every other writer fenced first and for good.

        Raises:
            CollectionNotFound: there is none of that name.
            CommitConflict: others took the collection over, again and again.
        """
        for attempt in range(MAX_DROPS):
            view = self.acquire(name).view()
            self.release(name)
            epoch = view.manifest.writer_epoch
            try:
                self._catalog.drop(name, self._settings.clock(), fences=view.fences, epoch=epoch)
                return
            except CommitConflict:
                # Another writer came after our fence: what it wrote must meet one too.
                if attempt == MAX_DROPS - 1:
                    raise

    def close(self) -> None:
        """Close every writer; nothing is lost, since every write was durable when it returned.

        A flush or merge that runs behind the writes is waited for.
        """
        if self._background is not None:
            self._background.close()
        for name in list(self._writers):
            self.release(name)
