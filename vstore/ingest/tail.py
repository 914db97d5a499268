"""What was written while shards were built: it is put on top of them when they are published.

A flush freezes the view, builds shards from it while writes go on, and publishes them. The rows
written meanwhile are the new memtable; what they replaced or deleted is dead in the new shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Generic

from vstore.format.log_record import LogRecord, UpsertBatch
from vstore.format.manifest import Manifest
from vstore.ingest.batches import concat_keys, distinct_keys
from vstore.ingest.memtable import MemtableView
from vstore.ingest.view import CollectionView, LiveShard, S

FEW_RECORDS = 4
"""Catching up ends when this few records are left: they are applied under the write lock."""


@dataclass(slots=True, eq=False)
class Tail(Generic[S]):
    """The records since `frozen`, and how far they were applied to what is to be published.

    The writer appends to `records` under its lock; whoever publishes reads them.
    """

    frozen: CollectionView[S]
    records: list[LogRecord] = field(default_factory=list)
    _memtable: MemtableView = field(default_factory=MemtableView)
    _n_applied: int = 0

    def catch_up(self, shards: Sequence[LiveShard[S]]) -> list[LiveShard[S]]:
        """Apply what came meanwhile to new shards, without the write lock; return them."""
        caught = list(shards)
        while len(self.records) - self._n_applied > FEW_RECORDS:
            caught = self._apply(caught)
        return caught

    def published(
        self,
        current: CollectionView[S],
        manifest: Manifest,
        shards: Sequence[LiveShard[S]],
        fresh: Sequence[LiveShard[S]],
    ) -> CollectionView[S]:
        """Return the view of the manifest that was committed. Called under the write lock.

        Args:
            current: the view now: `frozen` and all records since.
            manifest: the one that was committed.
            shards: its shards, in its order.
            fresh: those of them that were built since, as `catch_up` returned them.
        """
        caught = {shard.shard.entry.shard_id: shard for shard in self._apply(list(fresh))}
        # What died meanwhile in a shard that was there already died in the view as well.
        now = {shard.shard.entry.shard_id: shard for shard in current.shards} | caught
        return replace(
            current,
            manifest=manifest,
            shards=tuple(now[shard.shard.entry.shard_id] for shard in shards),
            memtable=self._memtable,
            n_unflushed=sum(record.kind == "write" for record in self.records),
        )

    def _apply(self, shards: list[LiveShard[S]]) -> list[LiveShard[S]]:
        records = self.records[self._n_applied :]
        touched = []
        for record in records:
            for batch in record.batches:
                keys = batch.rows.keys if isinstance(batch, UpsertBatch) else batch.keys
                touched.append(keys)
                if isinstance(batch, UpsertBatch):
                    self._memtable, _ = self._memtable.upserted(batch.rows)
                else:
                    self._memtable, _ = self._memtable.without(keys)
        touched = [keys for keys in touched if len(keys)]
        if touched:
            distinct = distinct_keys(concat_keys(touched))
            shards = [shard.without(distinct)[0] for shard in shards]
        self._n_applied += len(records)
        return shards
