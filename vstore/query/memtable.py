"""The memtable's part of an answer: every matching row is scored exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vstore.filters import Filter
from vstore.format.columns import column_values
from vstore.ingest.memtable import Chunk, MemtableView
from vstore.query.request import SearchRequest
from vstore.types import Attributes, Bools, Document, Float32s, Int64s, Key, Metric
from vstore_kernels.distance import exact_distances
from vstore_kernels.scan import topk


@dataclass(slots=True)
class MemtableAnswer:
    """The memtable's best rows: `chunks` and `rows` int64[m] place them, `distances` float32[m]."""

    view: MemtableView
    chunks: Int64s
    rows: Int64s
    distances: Float32s
    n_matching: int = 0


def matching_rows(chunk: Chunk, filter: Filter | None) -> Bools:
    """Return bool[n]: the rows of a chunk that are alive and pass the filter."""
    if filter is None:
        return chunk.alive
    passing: Bools = chunk.alive & filter.evaluate(chunk.rows.columns, chunk.n)
    return passing


def search_memtable(view: MemtableView, request: SearchRequest, metric: Metric) -> MemtableAnswer:
    """Return the memtable's k nearest matching rows, nearest first."""
    answer = MemtableAnswer(view, np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    for position, chunk in enumerate(view.chunks):
        rows = np.flatnonzero(matching_rows(chunk, request.filter))
        answer.n_matching += len(rows)
        if not len(rows):
            continue
        distances = exact_distances(request.query, chunk.rows.vectors, rows, metric)
        best = topk(distances, request.k)
        chunks = np.concatenate([answer.chunks, np.full(len(best), position, np.int64)])
        placed = np.concatenate([answer.rows, rows[best]])
        merged = np.concatenate([answer.distances, distances[best]])
        nearest = topk(merged, request.k)
        answer.chunks, answer.rows, answer.distances = chunks[nearest], placed[nearest], merged[nearest]
    return answer


def chunk_key(chunk: Chunk, row: int) -> Key:
    """Return the key of one row of a chunk."""
    keys = chunk.rows.keys
    return int(keys[row]) if isinstance(keys, np.ndarray) else keys[row]


def chunk_row(chunk: Chunk, row: int) -> tuple[Key, Attributes, Document | None]:
    """Return one row's key, attributes (absent fields left out) and document."""
    index = np.array([row], dtype=np.int64)
    attributes = {name: column_values(column, index)[0] for name, column in chunk.rows.columns.items()}
    document = chunk.rows.documents[row] if chunk.rows.documents is not None else None
    present = {name: value for name, value in attributes.items() if value is not None}
    return chunk_key(chunk, row), present, document
