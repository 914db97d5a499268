"""The next set of shards: the memtable as shards (flush), or everything small or holey anew (compact).

Nothing here changes what readers see: objects are written under new names, and the caller publishes
them by one commit. A crash before that leaves objects that no manifest names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol

import numpy as np

from vstore.catalog.layout import dead_key, shard_key
from vstore.errors import CorruptData
from vstore.format.dead_rows import encode_dead
from vstore.format.manifest import Manifest, ShardEntry
from vstore.format.rows import RowBatch
from vstore.ingest.batches import Progress, concat_rows, take_rows
from vstore.ingest.reader import OpenShard
from vstore.ingest.view import CollectionView, LiveShard, S
from vstore.settings import IndexSettings
from vstore.shard.regraph import OldGraph, worth_extending
from vstore.storage.base import ObjectStore
from vstore.storage.upload import Sink
from vstore.types import Schema
from vstore_kernels import bitmap

_LINK_BYTES = 1.4
"""About what a link takes in stored neighbour lists."""


class BuildShard(Protocol):
    """Builds a shard file from rows."""

    def __call__(
        self,
        rows: RowBatch,
        schema: Schema,
        index: IndexSettings,
        *,
        shard_id: str,
        key: str,
        progress: Progress | None,
        old: OldGraph | None = None,
        sink: Sink | None = None,
    ) -> tuple[ShardEntry, bytes]:
        """Return the manifest's entry and the file's bytes; the caller stores them under `key`.

        `old` is a graph of the first of the rows, to begin with. With a `sink`, that takes the bytes piece by
        piece, and none are returned.
        """
        ...


@dataclass(frozen=True, slots=True)
class ShardWriter(Generic[S]):
    """Builds, stores and opens shards of one collection.

    `new_id` returns an id that no other call returns.
    """

    store: ObjectStore
    build_shard: BuildShard
    open_shard: OpenShard[S]
    new_id: Callable[[], str]
    shard_bytes: int

    def most_rows(self, manifest: Manifest) -> int:
        """Return the most rows of a shard of the collection."""
        return shard_rows(manifest.schema, manifest.index, self.shard_bytes)

    def flushed(self, view: CollectionView[S], progress: Progress | None) -> tuple[LiveShard[S], ...]:
        """Write the memtable as shards; return them after those of the view's that still have live rows."""
        kept = [shard for shard in view.shards if shard.n_live]
        parts = (chunk.live_rows() for chunk in view.memtable.chunks)
        return (*kept, *self._write(view, parts, view.memtable.n_live, progress))

    def compacted(
        self, view: CollectionView[S], rewritten: Sequence[bool], progress: Progress | None
    ) -> tuple[LiveShard[S], ...]:
        """Rewrite the memtable and every shard that `rewritten` (one a shard) names; return all shards."""
        kept = [shard for shard, again in zip(view.shards, rewritten, strict=True) if not again]
        pool = [shard for shard, again in zip(view.shards, rewritten, strict=True) if again]
        n_rows = sum(shard.n_live for shard in pool) + view.memtable.n_live
        # Stable: the largest goes first, whose graph the new one begins with.
        pool.sort(key=lambda shard: -shard.n_live)
        old: OldGraph | None = None
        if n_rows <= self.most_rows(view.manifest):
            old = _old_graph(pool, n_rows, view.manifest)

        def parts() -> Iterator[RowBatch]:
            for shard in pool:
                if shard.n_live:
                    yield shard.shard.rows(shard.live_ids())
            for chunk in view.memtable.chunks:
                yield chunk.live_rows()

        return (*kept, *self._write(view, parts(), n_rows, progress, old))

    def _write(
        self,
        view: CollectionView[S],
        parts: Iterator[RowBatch],
        n_rows: int,
        progress: Progress | None,
        old: OldGraph | None = None,
    ) -> list[LiveShard[S]]:
        manifest = replace(view.manifest, id_kind=view.id_kind)
        written: list[LiveShard[S]] = []
        n_done = 0
        for rows in repacked(parts, n_rows, self.most_rows(manifest)):
            shard_id = self.new_id()
            key = shard_key(manifest.name, manifest.collection_id, shard_id)
            entry, data = self.build_shard(
                rows,
                manifest.schema,
                manifest.index,
                shard_id=shard_id,
                key=key,
                progress=_part_of(progress, n_done, rows.n, n_rows),
                old=old,
            )
            self.store.put(key, data)
            del data
            n_done += rows.n
            # Opened before it is published, so that publishing cannot fail half-way.
            written.append(LiveShard(self.open_shard(entry, manifest), None, entry.n_rows))
        return written

    def entries(self, manifest: Manifest, shards: Sequence[LiveShard[S]]) -> tuple[ShardEntry, ...]:
        """Return the manifest's entries of these shards; stores the dead rows that changed."""
        known = {entry.shard_id: entry for entry in manifest.shards}
        result = []
        for shard in shards:
            entry = known.get(shard.shard.entry.shard_id, shard.shard.entry)
            n_dead = entry.n_rows - shard.n_live
            # Rows never come back to life, so an equal number means the same rows.
            if n_dead != entry.n_dead and shard.live is not None:
                key = dead_key(manifest.name, manifest.collection_id, entry.shard_id, self.new_id())
                rows = bitmap.without(bitmap.full(entry.n_rows), shard.live)
                self.store.put(key, encode_dead(rows, entry.n_rows))
                entry = replace(entry, dead_key=key, n_dead=n_dead)
            result.append(entry)
        return tuple(result)


def _old_graph(pool: Sequence[LiveShard[S]], n_rows: int, manifest: Manifest) -> OldGraph | None:
    """Return the graph of the first shard, where the new one may begin with it."""
    if not pool:
        return None
    first = pool[0]
    if not worth_extending(first.n_live, first.shard.n - first.n_live, n_rows):
        return None
    return first.shard.old_graph(first.live_ids(), manifest.index.M)


def shard_rows(schema: Schema, index: IndexSettings, shard_bytes: int) -> int:
    """Return the most rows of a shard: fewer than `index.shard_rows` where they would pass `shard_bytes`."""
    bits = index.codes if isinstance(index.codes, int) else 8
    if index.codes == "default" and schema.dim >= 64:
        bits = 4
    row_bytes = schema.dim * bits / 8 + 8 + 2 * index.M * _LINK_BYTES
    return max(1, min(index.shard_rows, int(shard_bytes / row_bytes)))


def worth_rewriting(view: CollectionView[S], full: int) -> list[bool]:
    """Return, for each shard, whether compaction rewrites it: it has dead rows, or is at most half full.

    `full` is the most rows of a shard.

    One small shard alone is left as it is where nothing could be merged into it.
    """
    half = full // 2
    holey = [shard.n_live < shard.shard.n for shard in view.shards]
    small = [shard.n_live <= half for shard in view.shards]
    rewritten = [a or b for a, b in zip(holey, small, strict=True)]
    if sum(rewritten) == 1 and not any(holey) and not view.memtable.n_live:
        return [False] * len(rewritten)
    return rewritten


FANOUT = 4
"""Shards of like size that are merged into one: each row is rewritten once a tier."""


def worth_merging(view: CollectionView[S], full: int) -> list[bool]:
    """Return, for each shard, whether the background thread rewrites it now.

    Tiered merging: shards of n live rows stand in tier log_FANOUT(n), and FANOUT of a tier become one
    shard of the next, so a row is rewritten a logarithmic number of times, however many flushes there
    are. A shard that is more than half dead, or full and a quarter dead, is rewritten by itself.
    The tier of the fewest rows goes first. `full` is the most rows of a shard.
    """
    tiers: dict[int, list[int]] = {}
    chosen = [False] * len(view.shards)
    for number, shard in enumerate(view.shards):
        n_dead = shard.shard.n - shard.n_live
        if 2 * n_dead > shard.shard.n or (4 * n_dead > shard.shard.n and 2 * shard.shard.n > full):
            chosen[number] = True
        elif 2 * shard.n_live <= full:
            tiers.setdefault((max(shard.n_live, 1).bit_length() - 1) // 2, []).append(number)
    for tier in sorted(tiers):
        if len(tiers[tier]) >= FANOUT:
            for number in tiers[tier]:
                chosen[number] = True
            break
    return chosen


def repacked(parts: Iterator[RowBatch], n_rows: int, shard_rows: int) -> Iterator[RowBatch]:
    """Yield the parts' rows, in order, in the fewest batches of at most `shard_rows`, of even size.

    Args:
        parts: row batches, `n_rows` rows in all; one is asked for when it is needed.
        n_rows: rows in all.
        shard_rows: the most rows of a batch.

    Raises:
        CorruptData: the parts hold another number of rows.
    """
    n_left = n_rows
    n_batches = -(-n_rows // shard_rows)
    held: list[RowBatch] = []
    n_held = 0
    for part in parts:
        held.append(part)
        n_held += part.n
        while n_batches and n_held >= (size := -(-n_left // n_batches)):
            rows = concat_rows(held)
            yield rows if rows.n == size else take_rows(rows, np.arange(size))
            held = [] if rows.n == size else [take_rows(rows, np.arange(size, rows.n))]
            n_held -= size
            n_left -= size
            n_batches -= 1
    if n_held or n_batches:
        raise CorruptData(
            f"the shards to rewrite gave {n_rows - n_left + n_held} rows, their manifest says {n_rows}; "
            "nothing was changed: restore the damaged shard from a backup"
        )


def _part_of(progress: Progress | None, n_before: int, n_rows: int, n_all: int) -> Progress | None:
    if progress is None:
        return None

    def report(n_done: int, n_total: int) -> None:
        progress(n_before + (n_done * n_rows) // max(n_total, 1), n_all)

    return report
