"""What a collection holds at one moment: shards with their dead rows, and the memtable.

Views are immutable. The writer makes each next one from the last and publishes it by one assignment,
so readers take no lock and see every write either whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from vstore.errors import CorruptData, InvalidId
from vstore.format.log_record import DeleteBatch, LogRecord, UpsertBatch
from vstore.format.manifest import Manifest, ShardEntry
from vstore.format.rows import RowBatch
from vstore.ingest.batches import Keys, concat_keys, distinct_keys, kind_of, owned
from vstore.ingest.memtable import MemtableView
from vstore.ingest.schema import rows_under, since_of
from vstore.shard.regraph import OldGraph
from vstore.types import Bitmap, IdKind, Int32s, Int64s, Schema
from vstore_kernels import bitmap


class ShardLike(Protocol):
    """What ingest asks of an open shard."""

    @property
    def entry(self) -> ShardEntry:
        """The shard's entry in the manifest."""
        ...

    @property
    def n(self) -> int:
        """Rows of the shard, dead ones included."""
        ...

    def lookup(self, keys: Keys) -> Int64s:
        """Return int64[m]: the node id of each key, or -1."""
        ...

    def rows(self, node_ids: Int64s) -> RowBatch:
        """Return the rows at `node_ids` (int64[m]), in that order."""
        ...

    def old_graph(self, live_ids: Int64s, M: int) -> OldGraph | None:
        """Return the graph for a merge to begin with, or None where it would not do."""
        ...


S = TypeVar("S", bound=ShardLike)


@dataclass(frozen=True, slots=True, eq=False)
class LiveShard(Generic[S]):
    """An open shard and the rows of it that are alive; `live` None means all of them."""

    shard: S
    live: Bitmap | None
    n_live: int

    def lookup(self, keys: Keys) -> Int64s:
        """Return int64[m]: the node id of each key that is alive here, or -1. May read the key index."""
        node_ids = self.shard.lookup(keys)
        if self.live is None or not len(node_ids):
            return node_ids
        at = np.maximum(node_ids, 0)
        bits = (self.live[at >> 6] >> (at & 63).astype(np.uint64)) & np.uint64(1)
        return np.where((node_ids >= 0) & (bits != 0), node_ids, -1)

    def without(self, keys: Keys) -> tuple[LiveShard[S], int]:
        """Return the shard with the rows of these keys dead, and how many died."""
        if not self.n_live or not len(keys):
            return self, 0
        node_ids = self.lookup(keys)
        node_ids = np.unique(node_ids[node_ids >= 0])
        if not len(node_ids):
            return self, 0
        live = bitmap.full(self.shard.n) if self.live is None else self.live.copy()
        bitmap.clear_bits(live, node_ids)
        return replace(self, live=live, n_live=self.n_live - len(node_ids)), len(node_ids)

    def live_ids(self) -> Int64s:
        """Return int64[n_live]: the node ids that are alive, ascending."""
        if self.live is None:
            return np.arange(self.shard.n, dtype=np.int64)
        return np.flatnonzero(bitmap.unpack(self.live, self.shard.n)).astype(np.int64, copy=False)


class Located(NamedTuple):
    """Where keys are. `part` int32[m]: -1 nowhere, s < n_shards in that shard, else in a memtable chunk.

    `row` int64[m] is the node id in the shard, or the row of chunk `part - n_shards`.
    """

    part: Int32s
    row: Int64s


@dataclass(frozen=True, slots=True, eq=False)
class CollectionView(Generic[S]):
    """One moment of a collection: the manifest, its shards, and what the log holds beyond them.

    `seq` is the sequence number of the next log record; every record below it is in the view.
    `id_kind` is None where nothing was ever written. `fences` are the log's fence records so far.
    """

    manifest: Manifest
    shards: tuple[LiveShard[S], ...]
    memtable: MemtableView
    seq: int
    id_kind: IdKind | None
    fences: tuple[int, ...] = ()
    n_unflushed: int = 0
    """Writes in the log that change something beyond the manifest's shards."""
    epoch: int = 0
    """The epoch of the last log record that was replayed."""

    @property
    def schema(self) -> Schema:
        """What the collection holds."""
        return self.manifest.schema

    @property
    def n_live(self) -> int:
        """Rows that a search can return."""
        return sum(shard.n_live for shard in self.shards) + self.memtable.n_live

    def locate(self, keys: Keys) -> Located:
        """Return where each key is. May read key indexes.

        Raises:
            InvalidId: keys of the kind that the collection does not have.
        """
        self.check_kind(keys)
        part = np.full(len(keys), -1, np.int32)
        row = np.full(len(keys), -1, np.int64)
        if not len(keys):
            return Located(part, row)
        chunks, rows = self.memtable.lookup(keys)
        hit = chunks >= 0
        part[hit] = chunks[hit] + len(self.shards)
        row[hit] = rows[hit]
        for number, shard in enumerate(self.shards):
            if (part >= 0).all():
                break
            node_ids = shard.lookup(keys)
            hit = node_ids >= 0
            part[hit] = number
            row[hit] = node_ids[hit]
        return Located(part, row)

    def check_kind(self, keys: Keys) -> None:
        """Raise InvalidId where the collection's ids are of the other kind."""
        if len(keys) and self.id_kind is not None and kind_of(keys) != self.id_kind:
            raise InvalidId(
                f"id {keys[0]!r} is of kind {kind_of(keys)}; the ids of collection "
                f"{self.manifest.name!r} are {self.id_kind}: give ids of that kind"
            )

    def upserted(self, rows: RowBatch) -> CollectionView[S]:
        """Return the view with these rows in place of those of the same keys; keys are distinct.

        Raises:
            InvalidId: keys of the kind that the collection does not have.
        """
        if not rows.n:
            return self
        self.check_kind(rows.keys)
        shards, _ = self._shards_without(rows.keys)
        memtable, _ = self.memtable.upserted(rows)
        return replace(self, shards=shards, memtable=memtable, id_kind=rows.id_kind)

    def without(self, keys: Keys) -> tuple[CollectionView[S], int]:
        """Return the view without the rows of these keys, and how many there were.

        Raises:
            InvalidId: keys of the kind that the collection does not have.
        """
        self.check_kind(keys)
        memtable, n_memtable = self.memtable.without(keys)
        shards, n_shards = self._shards_without(keys)
        return replace(self, shards=shards, memtable=memtable), n_memtable + n_shards

    def _shards_without(self, keys: Keys) -> tuple[tuple[LiveShard[S], ...], int]:
        changed = [shard.without(keys) for shard in self.shards]
        n_died = sum(n for _, n in changed)
        # The same tuple where nothing died: what readers remember of it stays good.
        return (tuple(shard for shard, _ in changed) if n_died else self.shards), n_died


@dataclass(slots=True)
class _Touched:
    keys: list[Keys] = field(default_factory=list)
    n_writes: int = 0


def replayed(
    view: CollectionView[S], records: Iterable[LogRecord], pool: Executor | None = None
) -> CollectionView[S]:
    """Return the view after these log records, in their order; the first has number `view.seq`.

    Whatever a record touches is dead in the shards, for they are older than the log. So the shards
    are asked once, for all keys together, and opening a collection reads each key index once, in
    the threads of `pool` where there is one.

    Raises:
        CorruptData: records out of order, of falling epoch, or of another kind of id.
    """
    memtable, id_kind, seq, fences = view.memtable, view.id_kind, view.seq, list(view.fences)
    touched = _Touched()
    epoch, since = view.epoch, since_of(view.manifest)
    for record in records:
        where = f"log record {record.seq} of collection {view.manifest.name!r}"
        if record.seq != seq or record.epoch < epoch:
            raise CorruptData(
                f"{where} has epoch {record.epoch} and comes after record {seq - 1} of epoch {epoch}: "
                "the log is out of order; restore it from a backup"
            )
        epoch, seq = record.epoch, seq + 1
        if record.kind == "fence":
            fences.append(record.seq)
            continue
        for batch in record.batches:
            keys = batch.rows.keys if isinstance(batch, UpsertBatch) else batch.keys
            if len(keys) and id_kind not in (None, kind_of(keys)):
                raise CorruptData(
                    f"{where} holds ids of kind {kind_of(keys)}; the collection's are {id_kind}"
                )
            if isinstance(batch, UpsertBatch):
                batch = UpsertBatch(rows_under(batch.rows, view.schema, since, record.seq))
            memtable, id_kind = _apply(memtable, id_kind, batch)
            touched.keys.append(keys)
        touched.n_writes += 1
    shards = view.shards
    keys_of_all = [keys for keys in touched.keys if len(keys)]
    if keys_of_all and shards:
        distinct = distinct_keys(concat_keys(keys_of_all))
        one_by_one = map if pool is None else pool.map
        shards = tuple(one_by_one(lambda shard: shard.without(distinct)[0], shards))
    return replace(
        view,
        shards=shards,
        memtable=memtable,
        seq=seq,
        id_kind=id_kind,
        fences=tuple(fences),
        n_unflushed=view.n_unflushed + touched.n_writes,
        epoch=epoch,
    )


def _apply(
    memtable: MemtableView, id_kind: IdKind | None, batch: UpsertBatch | DeleteBatch
) -> tuple[MemtableView, IdKind | None]:
    if isinstance(batch, DeleteBatch):
        return memtable.without(batch.keys)[0], id_kind
    if not batch.rows.n:
        return memtable, id_kind
    return memtable.upserted(owned(batch.rows))[0], batch.rows.id_kind
