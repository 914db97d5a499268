"""Reading every row of a view, a bounded number of bytes at a time, past the shared cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vstore.cache import BlockCache
from vstore.filters import Filter
from vstore.ingest.view import CollectionView
from vstore.query.memtable import chunk_row, matching_rows
from vstore.query.read import passing_by_shard, shard_records
from vstore.query.search import Engine
from vstore.shard import sections
from vstore.shard.reader import Shard
from vstore.types import Record
from vstore_kernels import bitmap

BATCH_BYTES = 1 << 20
MAX_BATCH_ROWS = 1024
CACHE_BYTES = 64 << 20
"""Of a cache of its own: rows that are read once must not push out what searches need."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """The rows of a scan: how many there are, and an iterator that reads them."""

    n_rows: int
    batches: Iterator[list[Record]]


def scan(view: CollectionView[Shard], filter: Filter | None, engine: Engine) -> Scanned:
    """Return the live rows that pass, in batches of about `BATCH_BYTES`.

    The filter is evaluated now, the rows are read when their batch is asked for.
    """
    own = Engine(engine.store, BlockCache(CACHE_BYTES), engine.prices)
    in_shards = [
        (session.shard, bitmap.indices(passing).astype(np.int64))
        for session, passing in passing_by_shard(view, filter, engine)
    ]
    in_memtable = [np.flatnonzero(matching_rows(chunk, filter)) for chunk in view.memtable.chunks]
    vector_bytes = 4 * view.schema.dim

    def batches() -> Iterator[list[Record]]:
        for shard, ids in in_shards:
            payload = shard.entry.sections.get(sections.PAYLOAD)
            # Stored bytes are compressed; four times as many are a fair guess of what they hold.
            step = _batch_rows(vector_bytes + (0 if payload is None else 4 * payload.length // shard.n))
            for start in range(0, len(ids), step):
                yield shard_records(shard, ids[start : start + step], own)
        for chunk, rows in zip(view.memtable.chunks, in_memtable, strict=True):
            step = _batch_rows(max(vector_bytes, chunk.size_bytes // max(chunk.n, 1)))
            for start in range(0, len(rows), step):
                yield [
                    Record(key, chunk.rows.vectors[row].copy(), attributes, document)
                    for row in rows[start : start + step].tolist()
                    for key, attributes, document in (chunk_row(chunk, row),)
                ]

    return Scanned(sum(len(ids) for _, ids in in_shards) + sum(map(len, in_memtable)), batches())


def _batch_rows(row_bytes: int) -> int:
    return max(1, min(MAX_BATCH_ROWS, BATCH_BYTES // max(row_bytes, 1)))
