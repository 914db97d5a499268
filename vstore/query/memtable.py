"""The memtable's part of an answer: matching rows are scored exactly, or by codes where there are some."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from vstore.cancel import check_cancelled
from vstore.filters import Filter
from vstore.format.columns import column_values
from vstore.ingest.chunk_codes import CODED_ROWS
from vstore.ingest.memtable import Chunk, MemtableView
from vstore.query.planner import candidates_for
from vstore.query.request import SearchRequest
from vstore.query.resident import SCRATCH
from vstore.types import Attributes, Bools, Document, Float32s, Int64s, Key, Metric
from vstore_kernels import bitmap, layout
from vstore_kernels.answer import Asked, answer_one
from vstore_kernels.distance import exact_distances
from vstore_kernels.layout import MAX_BEAM
from vstore_kernels.scan import topk

EXACT_BYTES: Final = 16 << 20
"""Of vectors: a chunk is scored in parts, and between them is asked whether anybody still waits."""


class MemtableWork(NamedTuple):
    """What the memtable's part of an answer took.

    Of the `n_matching` rows, the distances of `n_coded` were estimated by codes first; of those, `n_rescored`
    were scored exactly and the `n_skipped` other candidates needed not be. All others were scored exactly.
    """

    n_matching: int = 0
    n_coded: int = 0
    n_rescored: int = 0
    n_skipped: int = 0


@dataclass(slots=True)
class MemtableAnswer:
    """The memtable's best rows: `chunks` and `rows` int64[m] place them, `distances` float32[m]."""

    view: MemtableView
    chunks: Int64s
    rows: Int64s
    distances: Float32s
    n_matching: int = 0
    n_coded: int = 0
    n_rescored: int = 0
    n_skipped: int = 0

    @property
    def work(self) -> MemtableWork:
        """What it took."""
        return MemtableWork(self.n_matching, self.n_coded, self.n_rescored, self.n_skipped)


def matching_rows(chunk: Chunk, filter: Filter | None) -> Bools:
    """Return bool[n]: the rows of a chunk that are alive and pass the filter."""
    if filter is None:
        return chunk.alive
    passing: Bools = chunk.alive & filter.evaluate(chunk.rows.columns, chunk.n)
    return passing


def search_memtable(view: MemtableView, request: SearchRequest, metric: Metric) -> MemtableAnswer:
    """Return the memtable's k nearest matching rows, nearest first.

    Chunks that are searched again and again are scanned by their codes; only what the error of an estimate
    leaves undecided is scored exactly there. `recall=1` scores every matching row exactly.
    """
    answer = MemtableAnswer(view, np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    for position, chunk in enumerate(view.chunks):
        check_cancelled()
        matching = matching_rows(chunk, request.filter)
        n_matching = int(np.count_nonzero(matching))
        answer.n_matching += n_matching
        if not n_matching:
            continue
        found = _by_codes(answer, chunk, matching, n_matching, request, metric)
        if found is None:
            found = _exactly(chunk, matching, request, metric)
        rows, distances = found
        chunks = np.concatenate([answer.chunks, np.full(len(rows), position, np.int64)])
        placed = np.concatenate([answer.rows, rows])
        merged = np.concatenate([answer.distances, distances])
        nearest = topk(merged, request.k)
        answer.chunks, answer.rows, answer.distances = chunks[nearest], placed[nearest], merged[nearest]
    return answer


def _exactly(
    chunk: Chunk, matching: Bools, request: SearchRequest, metric: Metric
) -> tuple[Int64s, Float32s]:
    matched = np.flatnonzero(matching)
    rows, distances = np.empty(0, np.int64), np.empty(0, np.float32)
    step = max(1, EXACT_BYTES // (4 * len(request.query)))
    for start in range(0, len(matched), step):
        if start:
            check_cancelled()
        part = matched[start : start + step]
        exact = exact_distances(request.query, chunk.rows.vectors, part, metric)
        best = topk(exact, request.k)
        rows, distances = np.concatenate([rows, part[best]]), np.concatenate([distances, exact[best]])
    nearest = topk(distances, request.k)
    return rows[nearest], distances[nearest]


def _by_codes(
    answer: MemtableAnswer,
    chunk: Chunk,
    matching: Bools,
    n_matching: int,
    request: SearchRequest,
    metric: Metric,
) -> tuple[Int64s, Float32s] | None:
    """Return the chunk's best rows by a scan of codes, or None where an exact scan is as good."""
    n_candidates = candidates_for(request.k)
    exact = request.recall >= 1.0 and request.ef is None
    if exact or n_matching < CODED_ROWS or 4 * n_candidates > n_matching or n_candidates > MAX_BEAM:
        return None
    codes = chunk.codes.for_scan(chunk.rows.vectors, metric)
    if codes is None:
        return None
    passing = None if n_matching == chunk.n else bitmap.pack(matching)
    asked = Asked(
        codes.n,
        passing,
        layout.SCAN,
        ef=n_candidates,
        n_seeds=1,
        n_candidates=n_candidates,
        k=request.k,
        n_matching=n_matching,
    )
    with SCRATCH.lend() as scratch:
        found = answer_one(codes, request.query, asked, scratch)
    answer.n_coded += n_matching
    answer.n_rescored += found.counters[layout.N_RESCORED]
    answer.n_skipped += found.counters[layout.N_SKIPPED]
    return np.array(found.ids, np.int64), np.array(found.distances, np.float32)


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
