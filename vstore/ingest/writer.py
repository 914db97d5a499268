"""The one writer of a collection: log first, then memory; flush and compact by one commit each."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Generic

from vstore.catalog import Catalog, garbage
from vstore.catalog.fences import with_fences
from vstore.catalog.invariants import RESTORED
from vstore.catalog.layout import log_prefix
from vstore.catalog.pins import put_tag
from vstore.errors import (
    Closed,
    CommitConflict,
    DimensionMismatch,
    InvalidInput,
    StorageError,
    StoreUnavailable,
    VstoreError,
    WriterFenced,
)
from vstore.format.log_record import LogRecord, UpsertBatch
from vstore.format.manifest import ShardEntry
from vstore.format.rows import RowBatch
from vstore.ingest.background import Background
from vstore.ingest.batches import Keys, Progress, owned
from vstore.ingest.batches import size_bytes as size_of
from vstore.ingest.commit import MAX_ATTEMPTS, commit, take_over
from vstore.ingest.flush import BuildShard, ShardWriter, worth_merging, worth_rewriting
from vstore.ingest.groups import Batch, Write, WriteQueue, check_write_bytes, interrupted
from vstore.ingest.reader import OpenShard, open_view
from vstore.ingest.tail import Tail
from vstore.ingest.view import CollectionView, LiveShard, S, replayed
from vstore.ingest.wal import WriteAheadLog
from vstore.settings import Settings

log = logging.getLogger(__name__)

COLLECT_EVERY = 16
"""Garbage is collected by `compact`, and by one flush in this many, for a log that nobody compacts."""
MAX_UNFLUSHED = 10_000
"""A log of this many writes is flushed, however few rows they hold, so that opening stays quick."""


def random_id() -> str:
    """Return 32 random hex digits."""
    return uuid.uuid4().hex


class Writer(Generic[S]):
    """Writes to one collection. Thread-safe; `view` never waits for a write.

    Made by `acquire`. Every write is in the log, durably, before it is in memory and before it
    returns. Whether a put that failed landed all the same is found out by the next write.

    Two locks. `_upkeep`: one flush or compaction at a time; it builds from a frozen view while
    writes go on. `_lock`: one write at a time, and the moments when a flush freezes and publishes.
    Who holds `_lock` never waits for `_upkeep`.
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
        self._catalog = catalog
        self._settings = settings
        self._shard_writer = shard_writer
        self._wal = wal
        self._view = view
        self._background = background
        self._lock = threading.Lock()
        self._upkeep = threading.Lock()
        self._tail: Tail[S] | None = None
        self._commit_unsettled = False
        self._queue = WriteQueue()
        self._closed = False
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
    ) -> Writer[S]:
        """Become the collection's writer; the one before, if any, is fenced and loses nothing.

        With `background`, full memtables are flushed and shards are merged there; without it, by the write
        that fills the memtable.

        Raises:
            CollectionNotFound: there is none of that name.
            WriterFenced: yet another writer came in between.
            CorruptData, StorageError: the collection cannot be read.
        """
        manifest = take_over(catalog, name, settings, new_id)
        view = open_view(catalog, manifest, settings, open_shard=open_shard)
        if view.epoch > manifest.writer_epoch:
            # Its fence is in the log already: one of this epoch behind it would make the log fall back.
            raise WriterFenced(
                f"{catalog.store.url}: collection {name!r} was taken over by a writer of epoch {view.epoch} "
                f"while this one, of epoch {manifest.writer_epoch}, was opening it: open it again to write"
            )
        wal = WriteAheadLog(
            catalog.store,
            log_prefix(name, manifest.collection_id),
            epoch=manifest.writer_epoch,
            seq=view.seq,
            new_id=new_id,
        )
        view = replayed(view, wal.fence())
        shard_writer = ShardWriter(catalog.store, build_shard, open_shard, new_id)
        return cls(catalog, settings, shard_writer, wal, view, background)

    def view(self) -> CollectionView[S]:
        """Return what the collection holds now."""
        return self._view

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

    def flush(self, progress: Progress | None = None) -> None:
        """Write the memtable as shards and cut the log; reads and writes go on meanwhile.

        Raises:
            WriterFenced, Closed, CollectionNotFound: nothing changed.
            StorageError: nothing is lost; call again.
        """
        with self._upkeep:
            self._flush(progress)

    def compact(self, progress: Progress | None = None) -> None:
        """Merge small shards, drop deleted rows, flush, and delete what nothing names any more.

        Reads and writes go on meanwhile; what is written meanwhile may stay in the memtable.

        Raises: as `flush`.
        """
        with self._upkeep:
            if not self._merge(worth_rewriting, progress):
                self._flush(progress)
            self._collect()

    def maintain(self) -> None:
        """Flush a memtable that is full and merge shards of like size, as the background thread does.

        Raises: as `flush`.
        """
        with self._upkeep:
            if self._fullness() >= 1:
                self._flush(None)
            while self._merge(worth_merging, None):
                pass

    def tag(self, name: str, progress: Progress | None = None) -> int:
        """Flush, and keep the collection as it is now under a name; return the version.

        Raises: as `flush`; InvalidInput: the tag exists.
        """
        with self._upkeep:
            self._flush(progress)
            manifest = self._view.manifest
            put_tag(self._catalog, manifest, name)
            return manifest.version

    def restore(self, snapshot: CollectionView[S]) -> int:
        """Bring a snapshot back as the newest version; return that version. What came after it is gone.

        Raises: as `flush`; InvalidInput: the snapshot has another schema.
        """
        source = snapshot.manifest
        with self._upkeep:
            for _ in range(MAX_ATTEMPTS):
                view = self._freeze()
                now = view.manifest
                if (source.collection_id, source.schema) != (now.collection_id, now.schema):
                    raise InvalidInput(
                        f"version {source.version} of collection {now.name!r} has other fields than it has "
                        "now: open it with at=, and export or copy what is wanted"
                    )
                note = {RESTORED: f"{source.version} as {now.version + 1}"}
                base = replace(view, manifest=replace(now, properties={**now.properties, **note}))
                if self._publish(base, snapshot.shards, entries=source.shards):
                    return self._view.manifest.version
        raise StoreUnavailable(
            f"collection {source.name!r}: {MAX_ATTEMPTS} commits lost their race; call restore again"
        )

    def collect(self, *, dry_run: bool = False) -> garbage.Collected:
        """Delete what no manifest within the retention names, orphans included; return what it was.

        Raises:
            StorageError: what was deleted until then was garbage.
        """
        with self._upkeep:
            return self._collected(dry_run)

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
            with self._lock:
                while not write.done:
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

    def _show(self, view: CollectionView[S], record: LogRecord) -> None:
        self._view = view
        if self._tail is not None:
            self._tail.records.append(record)
        self._wal.confirm()

    def _ready(self) -> None:
        """Raise Closed, or find out what became of a put that failed."""
        if self._closed:
            raise Closed("the writer was closed; open the collection again to write")
        landed = self._wal.settle()
        if landed is not None:
            self._show(replayed(self._view, [landed]), landed)

    def _fullness(self) -> float:
        memtable = self._view.memtable
        return max(
            memtable.n_rows / self._settings.memtable_rows,
            memtable.size_bytes / self._settings.memtable_bytes,
            self._view.n_unflushed / MAX_UNFLUSHED,
        )

    def _make_room(self, progress: Progress | None) -> None:
        """Wait for a flush, or do it, where the memtable has grown to twice its limit."""
        if self._fullness() >= 2 and not self._closed:
            with self._upkeep:
                if self._fullness() >= 2:
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

    # What follows runs under `_upkeep`.

    def _flush(self, progress: Progress | None) -> None:
        for _ in range(MAX_ATTEMPTS):
            view = self._freeze()
            if not view.n_unflushed or self._publish(view, self._shard_writer.flushed(view, progress)):
                return
        raise StoreUnavailable(
            f"collection {self._view.manifest.name!r}: {MAX_ATTEMPTS} commits lost their race; "
            "call flush again"
        )

    def _merge(self, choose: Callable[[CollectionView[S]], list[bool]], progress: Progress | None) -> bool:
        """Rewrite the shards that `choose` names, and the memtable; False where it names none."""
        for _ in range(MAX_ATTEMPTS):
            view = self._freeze()
            chosen = choose(view)
            if not any(chosen):
                return False
            if self._publish(view, self._shard_writer.compacted(view, chosen, progress)):
                return True
        return False

    def _freeze(self) -> CollectionView[S]:
        """Return the view, to build from; what is written from now on is kept apart."""
        with self._lock:
            self._ready()
            self._tail = Tail(self._view)
            return self._view

    def _publish(
        self,
        view: CollectionView[S],
        shards: tuple[LiveShard[S], ...],
        entries: tuple[ShardEntry, ...] | None = None,
    ) -> bool:
        """Commit a manifest of these shards and show it; False where the view was read anew instead.

        Args:
            view: as `_freeze` returned it.
            shards: some of its own, and new ones that hold its memtable.
            entries: of a snapshot that is brought back, whose shards take the place of all of the view's.
        """
        old, tail = view.manifest, self._tail
        assert tail is not None
        manifest = replace(
            old,
            version=old.version + 1,
            log_start=view.seq,
            created_at=self._settings.clock(),
            write_id=self._shard_writer.new_id(),
            id_kind=view.id_kind,
            shards=self._shard_writer.entries(old, shards) if entries is None else entries,
            properties=with_fences(old.properties, view.fences),
        )
        self._commit_unsettled = True
        try:
            commit(self._catalog, manifest)
        except CommitConflict:
            self._reload(old.version)
            self._commit_unsettled = False
            return False
        self._commit_unsettled = False
        known = {shard.shard.entry.shard_id for shard in view.shards} if entries is None else set()
        fresh = tail.catch_up([shard for shard in shards if shard.shard.entry.shard_id not in known])
        with self._lock:
            self._view = tail.published(self._view, manifest, shards, fresh)
            self._tail = None
        if manifest.version % COLLECT_EVERY == 0:
            self._collect()
        return True

    def _reload(self, version: int) -> None:
        """Adopt the manifest that was there first: an earlier commit of ours whose answer was lost."""
        manifest = self._catalog.require(self._view.manifest.name)
        epoch = self._view.manifest.writer_epoch
        if manifest.writer_epoch != epoch or manifest.version <= version:
            raise WriterFenced(
                f"collection {manifest.name!r} was taken over by a writer of epoch {manifest.writer_epoch}; "
                f"this one has epoch {epoch}: reopen it to write again (that fences the other)"
            )
        with self._lock:
            self._ready()
            self._view = open_view(
                self._catalog,
                manifest,
                self._settings,
                open_shard=self._shard_writer.open_shard,
                previous=self._view,
            )
            self._tail = None

    def _collect(self) -> None:
        try:
            self._collected(False)
        except StorageError as error:
            # Nothing is lost by garbage that stays until the next compaction.
            log.warning("collection %r: garbage was not collected: %s", self._view.manifest.name, error)

    def _collected(self, dry_run: bool) -> garbage.Collected:
        manifest, settings = self._view.manifest, self._settings
        return garbage.collect(
            self._catalog,
            manifest.name,
            settings.retention_s,
            settings.clock,
            dry_run=dry_run,
            # A commit that failed may land yet, and then names what is an orphan now.
            writer_epoch=None if self._commit_unsettled else manifest.writer_epoch,
        )
