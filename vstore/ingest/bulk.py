"""Loads more rows than memory holds: shards are built and uploaded one by one, and one commit shows them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Generic

import numpy as np

from vstore.catalog.layout import shard_key
from vstore.errors import DuplicateId, StorageError, StoreUnavailable
from vstore.format.manifest import Manifest
from vstore.format.rows import RowBatch
from vstore.format.rows_codec import hash_keys
from vstore.ingest.batches import Keys, Progress, concat_rows, take_keys, take_rows
from vstore.ingest.flush import ShardWriter
from vstore.ingest.inputs import check_unique
from vstore.ingest.view import CollectionView, LiveShard, S
from vstore.ingest.writer import Writer
from vstore.settings import Settings
from vstore.storage.upload import open_upload
from vstore.types import IdKind

log = logging.getLogger(__name__)


class BulkWriter(Writer[S]):
    """A writer that can also take rows by the million, past the log and the memtable."""

    def load(self, parts: Callable[[], Iterator[RowBatch]], n_rows: int | None, progress: Progress) -> int:
        """Add rows whose keys the collection does not have; return how many. All appear at once, or none.

        Flushes, merges and garbage collection wait meanwhile; other writes go on, and of a key that is loaded
        and written at the same time the written row stays.

        Args:
            parts: returns the rows, checked, in batches; called once the collection is held.
            n_rows: how many there are, if that is known.
            progress: told of rows done and rows in all.

        Raises:
            DuplicateId: a key comes twice, or the collection has it; nothing was added.
            WriterFenced, Closed, StorageError: nothing was added.
        """
        with self._upkeep:
            self._flush(None)
            view = self._freeze()
            loading = _Loading(self._shard_writer, view, self._settings, progress)
            try:
                shards = loading.run(parts(), n_rows)
                if not shards:
                    return 0
                frozen = replace(view, id_kind=loading.id_kind)
                kept = self._shard_writer.flushed(frozen, None)
            except BaseException:
                loading.undo()
                raise
            # What a commit may have named is not deleted: the next write settles it, and garbage collection.
            self._change_unsettled = True
            published = self._publish(frozen, (*kept, *shards))
            self._change_unsettled = False
            if not published:
                raise StoreUnavailable(
                    f"collection {view.manifest.name!r}: another commit came in between; load again"
                )
            with self._lock:
                self._view = replace(self._view, id_kind=loading.id_kind)
            return sum(shard.n_live for shard in shards)


class _Loading(Generic[S]):
    """The shards of one load, and the hashes of their keys."""

    def __init__(
        self, writer: ShardWriter[S], view: CollectionView[S], settings: Settings, progress: Progress
    ) -> None:
        self.id_kind: IdKind | None = view.id_kind
        self._writer, self._view, self._progress = writer, view, progress
        self._shard_rows = writer.most_rows(view.manifest)
        self._shards: list[LiveShard[S]] = []
        self._hashes: list[np.ndarray[tuple[int], np.dtype[np.uint64]]] = []
        self._keys_stored: list[str] = []
        self._n_done = 0

    def run(self, parts: Iterator[RowBatch], n_rows: int | None) -> list[LiveShard[S]]:
        for rows in filled(parts, self._shard_rows, n_rows):
            self.id_kind = rows.id_kind
            self._check_new(rows.keys)
            self._build(rows, n_rows)
        return self._shards

    def undo(self) -> None:
        """Delete what was uploaded; failing to is logged: garbage collection will."""
        try:
            self._writer.store.delete(self._keys_stored)
        except StorageError as error:
            log.warning("%d shards of a load that failed were not deleted: %s", len(self._keys_stored), error)

    def _check_new(self, keys: Keys) -> None:
        check_unique(keys)
        if self._view.n_live:
            there = np.flatnonzero(self._view.locate(keys).part >= 0)
            if len(there):
                raise DuplicateId(
                    f"id {keys[int(there[0])]!r} and {len(there) - 1} more are in collection "
                    f"{self._view.manifest.name!r} already; load new ids, and upsert those that are there"
                )
        hashes = np.sort(hash_keys(keys))
        for shard, earlier in zip(self._shards, self._hashes, strict=True):
            at = np.minimum(np.searchsorted(earlier, hash_keys(keys)), len(earlier) - 1)
            same = np.flatnonzero(earlier[at] == hash_keys(keys))
            # Different strings may share a hash, so the shard itself is asked.
            if len(same) and (found := shard.lookup(take_keys(keys, same)) >= 0).any():
                raise DuplicateId(f"id {keys[int(same[np.argmax(found)])]!r} comes twice; give each id once")
        self._hashes.append(hashes)

    def _build(self, rows: RowBatch, n_rows: int | None) -> None:
        manifest: Manifest = replace(self._view.manifest, id_kind=self.id_kind)
        shard_id = self._writer.new_id()
        key = shard_key(manifest.name, manifest.collection_id, shard_id)
        n_before, n = self._n_done, rows.n

        def report(n_done: int, n_total: int) -> None:
            done = n_before + n_done * n // max(n_total, 1)
            self._progress(done, max(n_rows or 0, n_before + n))

        self._keys_stored.append(key)
        with open_upload(self._writer.store, key) as sink:
            entry, _ = self._writer.build_shard(
                rows, manifest.schema, manifest.index, shard_id=shard_id, key=key, progress=report, sink=sink
            )
        self._n_done += n
        report(n, n)
        self._shards.append(LiveShard(self._writer.open_shard(entry, manifest), None, entry.n_rows))


def filled(parts: Iterator[RowBatch], most: int, n_rows: int | None = None) -> Iterator[RowBatch]:
    """Yield the parts' rows, in order, in batches of at most `most`, of even size where n_rows is known."""
    size = most if not n_rows else -(-n_rows // -(-n_rows // most))
    held: list[RowBatch] = []
    n_held = 0
    for part in parts:
        if part.n:
            held.append(part)
            n_held += part.n
        while n_held >= size:
            rows = concat_rows(held)
            held = [] if rows.n == size else [take_rows(rows, np.arange(size, rows.n))]
            n_held -= size
            full = rows if rows.n == size else take_rows(rows, np.arange(size))
            del rows
            yield full
            del full
    if n_held:
        yield concat_rows(held)
