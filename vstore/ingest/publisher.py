"""What a writer publishes: flushes, merges, snapshots and new schemas, each by one commit."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Generic

from vstore.catalog import Catalog, garbage
from vstore.catalog.fences import with_fences
from vstore.catalog.invariants import RESTORED
from vstore.catalog.pins import Lease, put_tag
from vstore.errors import Closed, CommitConflict, InvalidInput, StorageError, StoreUnavailable, WriterFenced
from vstore.format.log_record import LogRecord
from vstore.format.manifest import Manifest, ShardEntry
from vstore.ingest.batches import Progress
from vstore.ingest.commit import MAX_ATTEMPTS, commit
from vstore.ingest.flush import ShardWriter, worth_merging, worth_rewriting
from vstore.ingest.reader import open_view
from vstore.ingest.schema import memtable_under
from vstore.ingest.tail import Tail
from vstore.ingest.view import CollectionView, LiveShard, S, replayed
from vstore.ingest.wal import WriteAheadLog
from vstore.settings import Settings

log = logging.getLogger(__name__)

COLLECT_EVERY = 16
"""Garbage is collected by `compact`, and by one flush in this many, for a log that nobody compacts."""
MAX_UNFLUSHED = 10_000
"""A log of this many writes is flushed, however few rows they hold, so that opening stays quick."""


class Publisher(Generic[S]):
    """The view of one collection, and all that changes it by a new manifest. Thread-safe.

    Two locks. `_upkeep`: one flush, compaction or change of schema at a time; it builds from a frozen view
    while writes go on. `_lock`: one write at a time, and the moments when a flush freezes and publishes.
    Who holds `_lock` never waits for `_upkeep`.
    """

    def __init__(
        self,
        catalog: Catalog,
        settings: Settings,
        shard_writer: ShardWriter[S],
        wal: WriteAheadLog,
        view: CollectionView[S],
    ) -> None:
        self._catalog = catalog
        self._settings = settings
        self._shard_writer = shard_writer
        self._wal = wal
        self._view = view
        self._lock = threading.Lock()
        self._upkeep = threading.Lock()
        self._tail: Tail[S] | None = None
        self._commit_unsettled = False
        self._change_unsettled = False
        self._closed = False

    def view(self) -> CollectionView[S]:
        """Return what the collection holds now."""
        return self._view

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
        self._settle_change()
        with self._upkeep:
            self._flush(progress)
            with self._lock:
                self._ready()
                self._wal.check()
            manifest = self._view.manifest
            put_tag(self._catalog, manifest, name)
            return manifest.version

    def restore(self, snapshot: CollectionView[S], lease: Lease) -> int:
        """Bring a snapshot back as the newest version; return that version. What came after it is gone.

        Args:
            snapshot: as it was opened.
            lease: on it, which the caller releases on return, and leaves to its end after an error.

        Raises: as `flush`; InvalidInput: the snapshot has another schema; SnapshotNotFound: it was collected.
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
                lease.hold()
                self._change_unsettled = True
                published = self._publish(base, snapshot.shards, entries=source.shards)
                self._change_unsettled = False
                if published:
                    return self._view.manifest.version
        raise self._lost_races("call restore again")

    def collect(self, *, dry_run: bool = False) -> garbage.Collected:
        """Delete what no manifest within the retention names, orphans included; return what it was.

        Raises:
            StorageError: what was deleted until then was garbage.
        """
        with self._upkeep:
            return self._collected(dry_run)

    def change_schema(self, change: Callable[[Manifest, int], Manifest]) -> int:
        """Commit a manifest of other fields; return its version. No row is read or written.

        Args:
            change: returns the manifest with its new schema, given the one now and the number of the next
                log record; or raises.

        Raises: as `flush`, and what `change` raises.
        """
        wanted: Manifest | None = None
        with self._upkeep:
            for _ in range(MAX_ATTEMPTS):
                with self._lock:
                    self._ready()
                    now = self._view.manifest
                    if wanted is not None and now.schema == wanted.schema:
                        # The answer to a commit of ours was lost.
                        return now.version
                    wanted = replace(
                        change(now, self._wal.seq),
                        version=now.version + 1,
                        created_at=self._settings.clock(),
                        write_id=self._shard_writer.new_id(),
                    )
                    self._commit_unsettled = self._change_unsettled = True
                    try:
                        commit(self._catalog, wanted)
                    except CommitConflict:
                        pass
                    else:
                        self._view = self._under(wanted)
                        self._tail = None
                        # Not before: a view of the old fields must not be written to.
                        self._commit_unsettled = self._change_unsettled = False
                        return wanted.version
                self._reload(now.version)
                self._commit_unsettled = self._change_unsettled = False
        raise self._lost_races("call again")

    def _under(self, manifest: Manifest) -> CollectionView[S]:
        """Return the view under a manifest that differs in its fields alone."""
        entries = {entry.shard_id: entry for entry in manifest.shards}
        shards = tuple(
            replace(live, shard=self._shard_writer.open_shard(entries[live.shard.entry.shard_id], manifest))
            for live in self._view.shards
        )
        memtable = memtable_under(self._view.memtable, manifest.schema)
        return replace(self._view, manifest=manifest, shards=shards, memtable=memtable)

    def _lost_races(self, remedy: str) -> StoreUnavailable:
        name = self._view.manifest.name
        return StoreUnavailable(f"collection {name!r}: {MAX_ATTEMPTS} commits lost their race; {remedy}")

    def _show(self, view: CollectionView[S], record: LogRecord) -> None:
        """Publish the view after a record. It may be interrupted anywhere, and called again."""
        self._view = view
        if self._tail is not None and (not self._tail.records or self._tail.records[-1].seq < record.seq):
            self._tail.records.append(record)
        self._wal.confirm()

    def _ready(self) -> None:
        """Raise Closed, or find out what became of a put that failed."""
        if self._closed:
            raise Closed("the writer was closed; open the collection again to write")
        landed = self._wal.settle()
        if landed is not None:
            # An interrupt may have come after the record was shown.
            shown = landed.seq < self._view.seq
            self._show(self._view if shown else replayed(self._view, [landed]), landed)

    def _settle_change(self) -> None:
        """Find out what became of a restore, or of a change of fields, that failed.

        A write must not build on what it replaced: rows that it brought back would not be seen to be there.
        """
        while self._change_unsettled and not self._closed:
            with self._upkeep:
                if self._change_unsettled:
                    view = self._freeze()
                    self._publish(view, self._shard_writer.flushed(view, None))
                    self._change_unsettled = False

    def _fullness(self) -> float:
        memtable = self._view.memtable
        return max(
            memtable.n_rows / self._settings.memtable_rows,
            memtable.size_bytes / self._settings.memtable_bytes,
            self._view.n_unflushed / MAX_UNFLUSHED,
        )

    # What follows runs under `_upkeep`.

    def _flush(self, progress: Progress | None) -> None:
        for _ in range(MAX_ATTEMPTS):
            view = self._freeze()
            if not view.n_unflushed or self._publish(view, self._shard_writer.flushed(view, progress)):
                return
        raise self._lost_races("call flush again")

    def _merge(
        self, choose: Callable[[CollectionView[S], int], list[bool]], progress: Progress | None
    ) -> bool:
        """Rewrite the shards that `choose` names, and the memtable; False where it names none."""
        for _ in range(MAX_ATTEMPTS):
            view = self._freeze()
            chosen = choose(view, self._shard_writer.most_rows(view.manifest))
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
            view = open_view(
                self._catalog,
                manifest,
                self._settings,
                open_shard=self._shard_writer.open_shard,
                previous=self._view,
            )
            if view.seq != self._wal.seq:
                raise StoreUnavailable(
                    f"collection {manifest.name!r}: the log is listed up to record {view.seq - 1}, and this "
                    f"writer wrote record {self._wal.seq - 1}; the listing is out of date: try again"
                )
            self._view, self._tail = view, None

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
