"""Reading without ranking: records by id, counts and keys by filter."""

from __future__ import annotations

from typing import Any

import numpy as np

from vstore.filters import Filter
from vstore.ingest.batches import Keys
from vstore.ingest.view import CollectionView
from vstore.query.memtable import chunk_row, matching_rows
from vstore.query.pipeline import passing_rows
from vstore.query.rounds import Rounds
from vstore.query.search import Engine
from vstore.shard import sections
from vstore.shard.payload import unpack_attributes
from vstore.shard.reader import Shard
from vstore.shard.session import ShardSession
from vstore.types import Key, Record
from vstore_kernels import bitmap

View = CollectionView[Shard]


def records(view: View, keys: Keys, engine: Engine) -> list[Record | None]:
    """Return a record for each key, or None where there is no such row."""
    found: list[Record | None] = [None] * len(keys)
    located = view.locate(keys)
    n_shards = len(view.shards)
    for part in np.unique(located.part):
        if part < 0:
            continue
        positions = np.flatnonzero(located.part == part)
        rows = located.row[positions]
        if part >= n_shards:
            chunk = view.memtable.chunks[int(part) - n_shards]
            for position, row in zip(positions.tolist(), rows.tolist(), strict=True):
                key, attributes, document = chunk_row(chunk, row)
                found[position] = Record(key, chunk.rows.vectors[row].copy(), attributes, document)
            continue
        shard = view.shards[int(part)].shard
        for position, record in zip(positions.tolist(), shard_records(shard, rows, engine), strict=True):
            found[position] = record
    return found


def shard_records(shard: Shard, rows: Any, engine: Engine) -> list[Record]:
    """Return the records of rows (int64[m] node ids) of one shard, read by the engine's cache."""
    session = ShardSession(shard, engine.cache)
    session.fetch([session.key(sections.HEAD)])
    blocks = np.unique(rows // session.head.payload_block_rows)
    vectors = np.unique(rows // session.head.vector_block_rows)
    session.fetch(session.keys(sections.PAYLOAD, blocks) + session.keys(sections.VECTORS, vectors))
    matrix = session.vector_rows(rows)
    out = []
    for i, row in enumerate(rows.tolist()):
        block, offset = divmod(row, session.head.payload_block_rows)
        payload = session.get(sections.PAYLOAD, block)[offset]
        attributes = unpack_attributes(payload, shard.shown(session.head))
        out.append(Record(payload.key, matrix[i], attributes, payload.document))
    return out


def count(view: View, filter: Filter, engine: Engine) -> int:
    """Return the number of live rows that pass."""
    total = sum(int(matching_rows(chunk, filter).sum()) for chunk in view.memtable.chunks)
    return total + sum(bitmap.popcount(passing) for _, passing in passing_by_shard(view, filter, engine))


def matching_keys(view: View, filter: Filter | None, engine: Engine) -> Keys:
    """Return the keys of the live rows that pass."""
    text = view.id_kind == "str"
    keys: list[Key] = []
    for chunk in view.memtable.chunks:
        rows = np.flatnonzero(matching_rows(chunk, filter))
        held = chunk.rows.keys
        keys += held[rows].tolist() if isinstance(held, np.ndarray) else [held[row] for row in rows]
    for session, passing in passing_by_shard(view, filter, engine):
        keys += session.shard.keys(bitmap.indices(passing).astype(np.int64))
    return tuple(str(key) for key in keys) if text else np.array(keys, dtype=np.int64)


def passing_by_shard(view: View, filter: Filter | None, engine: Engine) -> list[tuple[ShardSession, Any]]:
    """Return each shard's session and the bitmap of its live rows that pass; all of them without a filter."""
    sessions = [ShardSession(live.shard, engine.cache) for live in view.shards]
    found = Rounds(engine.store, engine.cache.disk).run(
        [
            (session, passing_rows(session, live, filter, engine.passing))
            for session, live in zip(sessions, view.shards, strict=True)
        ]
    )
    return [
        (session, bitmap.full(session.n) if passing is None else passing)
        for session, passing in zip(sessions, found, strict=True)
    ]
