"""The one writer of a collection: log first, then memory; flush and compact by one commit each."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Self

from vstore.catalog import Catalog
from vstore.catalog.layout import log_prefix
from vstore.errors import (
    Closed,
    CorruptData,
    DimensionMismatch,
    ObjectNotFound,
    StorageError,
    VstoreError,
)
from vstore.format.log_record import LogRecord, UpsertBatch
from vstore.format.rows import RowBatch
from vstore.ingest.background import Background
from vstore.ingest.batches import Keys, Progress, owned
from vstore.ingest.batches import size_bytes as size_of
from vstore.ingest.commit import overtaken, take_over
from vstore.ingest.flush import BuildShard, ShardWriter
from vstore.ingest.groups import Batch, Write, WriteQueue, check_write_bytes, interrupted
from vstore.ingest.publisher import Publisher
from vstore.ingest.reader import OpenShard, open_view
from vstore.ingest.view import CollectionView, S, replayed
from vstore.ingest.wal import WriteAheadLog
from vstore.settings import Settings

log = logging.getLogger(__name__)

WAIT_FULLNESS = 1.5
"""At so many times the limit writes wait: searches look at the whole memtable while shards are built."""


def random_id() -> str:
    """Return 32 random hex digits."""
    return uuid.uuid4().hex


class Writer(Publisher[S]):
    """Writes to one collection. Thread-safe; `view` never waits for a write.

    Made by `acquire`. Every write is in the log, durably, before it is in memory and before it
    returns. Whether a put that failed landed all the same is found out by the next write.
    """

    def __init__(
        self,
        catalog: Catalog,
        settings: Settings,
        shard_writer: ShardWriter[S],
        wal: WriteAheadLog,
        view: CollectionView[S],
        background: Background | None = None,
    ) -> None:
        super().__init__(catalog, settings, shard_writer, wal, view)
        self._background = background
        self._queue = WriteQueue()
        self._n_flush_again = 0

    @classmethod
    def acquire(
        cls,
        catalog: Catalog,
        name: str,
        settings: Settings,
        *,
        open_shard: OpenShard[S],
        build_shard: BuildShard,
        new_id: Callable[[], str] = random_id,
        background: Background | None = None,
    ) -> Self:
        """Become the collection's writer; the one before, if any, is fenced and loses nothing.

        With `background`, full memtables are flushed and shards are merged there; without it, by the write
        that fills the memtable.

        Raises:
            CollectionNotFound: there is none of that name.
            WriterFenced: yet another writer came in between.
            CorruptData, StorageError: the collection cannot be read.
        """
        manifest = take_over(catalog, name, settings, new_id)
        try:
            view = open_view(catalog, manifest, settings, open_shard=open_shard)
        except (CorruptData, ObjectNotFound):
            # Another may have taken over, or dropped it, and collected what this manifest names.
            newest = catalog.require(name).writer_epoch
            if newest == manifest.writer_epoch:
                raise
            raise overtaken(catalog, manifest, newest) from None
        if view.epoch > manifest.writer_epoch:
            # Its fence is in the log already: one of this epoch behind it would make the log fall back.
            raise overtaken(catalog, manifest, view.epoch)
        wal = WriteAheadLog(
            catalog.store,
            log_prefix(name, manifest.collection_id),
            epoch=manifest.writer_epoch,
            seq=view.seq,
            new_id=new_id,
        )
        view = replayed(view, wal.fence())
        shard_writer = ShardWriter(catalog.store, build_shard, open_shard, new_id, settings.shard_bytes)
        return cls(catalog, settings, shard_writer, wal, view, background)

    def upsert(self, rows: RowBatch, progress: Progress | None = None) -> int:
        """Write rows, replacing those of the same keys; return how many were written.

        A full memtable is flushed at the end; should that fail, the rows are in the log all the
        same, a warning is logged, and a later write tries again.

        Args:
            rows: checked rows, copied before use. Of a key that comes twice, the last.
            progress: told about the flush, if there is one.

        Raises:
            InvalidInput: rows that are not this collection's (DimensionMismatch, InvalidId), or more than
                one call takes; nothing was written.
            WriterFenced, Closed: nothing was written.
            StorageError: repeat the call; whether the rows are there is settled by the next write.
        """
        schema = self._view.schema
        if rows.n and rows.vectors.shape[1] != schema.dim:
            raise DimensionMismatch(
                f"vectors have {rows.vectors.shape[1]} components; the collection has {schema.dim}"
            )
        write = Write.of_rows(UpsertBatch(owned(rows)))
        check_write_bytes(write.size_bytes)
        return self._submit(write, progress)

    def update(self, make: Callable[[CollectionView[S]], RowBatch | None], size_bytes: int = 0) -> int:
        """Write the rows that `make` returns for the view at that moment; return how many.

        No write comes between what `make` reads and what is written.

        Args:
            make: returns rows of distinct keys, or None for nothing to write. Called under the write lock.
            size_bytes: about what the rows will weigh, so that a group of writes stays bounded.

        Raises: as `upsert`, and what `make` raises.
        """
        check_write_bytes(size_bytes)

        def batch(view: CollectionView[S]) -> UpsertBatch | None:
            rows = make(view)
            if rows is None:
                return None
            check_write_bytes(size_of(rows))
            return UpsertBatch(owned(rows))

        return self._submit(Write(make=batch, size_bytes=size_bytes), None)

    def delete(self, keys: Keys) -> int:
        """Delete rows by key; return how many there were. Unknown keys are no error.

        Raises: as `upsert`.
        """
        return self.delete_where(lambda _: keys)

    def delete_where(self, select: Callable[[CollectionView[S]], Keys]) -> int:
        """Delete the rows whose keys `select` returns for the view at that moment; return how many.

        No write comes between the selection and the deletion.

        Raises: as `upsert`, and what `select` raises.
        """
        return self._submit(Write(select=select), None)

    def close(self) -> None:
        """Refuse further writes. Nothing needs to be saved: the log has it."""
        with self._lock:
            self._closed = True
        if self._background is not None:
            self._background.forget(self)

    def _submit(self, write: Write, progress: Progress | None) -> int:
        self._make_room(progress)
        self._queue.add(write)
        try:
            while not write.done:
                self._settle_change()
                with self._lock:
                    # A change that failed since is settled first.
                    while not write.done and (self._closed or not self._change_unsettled):
                        self._write_group(self._queue.take_group())
        finally:
            # An interrupt while waiting for the lock: the write must not happen behind its caller's back.
            if not write.done:
                self._queue.forget(write)
        if write.error is None:
            self._flush_if_full(progress)
        return write.result()

    def _write_group(self, group: list[Write]) -> None:
        try:
            self._ready()
            self._write_all(group)
        except Exception as error:
            for write in group:
                if not write.done:
                    write.finish(error)
        finally:
            for write in group:
                if not write.done:
                    write.finish(interrupted())

    def _write_all(self, group: list[Write]) -> None:
        view = self._view
        batches: list[Batch] = []
        for write in group:
            try:
                view, batch = write.apply(view)
            except Exception as error:
                write.finish(error)
            else:
                batches += [] if batch is None else [batch]
        if batches:
            record = self._append(batches)
            self._show(replace(view, seq=record.seq + 1, n_unflushed=view.n_unflushed + 1), record)
        elif group:
            # Who has nothing to log learns from no put that another writer has taken over.
            self._wal.check()
        for write in group:
            if not write.done:
                write.finish()

    def _append(self, batches: list[Batch]) -> LogRecord:
        try:
            return self._wal.append(batches)
        except StorageError as error:
            error.add_note(
                "The next write settles whether this one landed; repeat it (an upsert may be repeated)."
            )
            raise

    def _make_room(self, progress: Progress | None) -> None:
        """Wait for a flush, or do it, where the memtable has grown to one and a half times its limit."""
        if self._fullness() >= WAIT_FULLNESS and not self._closed:
            with self._upkeep:
                if self._fullness() >= WAIT_FULLNESS:
                    self._flush(progress)

    def _flush_if_full(self, progress: Progress | None) -> None:
        if self._fullness() < 1 or self._view.n_unflushed < self._n_flush_again:
            return
        if self._background is not None:
            self._background.submit(self, self._try_to_maintain)
        elif self._upkeep.acquire(blocking=False):
            try:
                self._try(lambda: self._flush(progress))
            finally:
                self._upkeep.release()

    def _try_to_maintain(self) -> None:
        self._try(self.maintain)

    def _try(self, upkeep: Callable[[], None]) -> None:
        """Flush behind a write: the write is durable, and must not look as if it had failed."""
        try:
            upkeep()
            self._n_flush_again = 0
        except Closed:
            return
        except VstoreError as error:
            self._n_flush_again = self._view.n_unflushed + 16
            name = self._view.manifest.name
            log.warning("collection %r: the memtable could not be flushed: %s", name, error)
