"""One calibrated shard in memory, filters of the grid as masks, and exact answers: what calibration and
planner are
measured on. No store, no attributes: the rows that pass are given, as a filter's columns would give them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vstore.cache import BlockCache
from vstore.format.rows import RowBatch
from vstore.query.planner import Plan, ShardPlans
from vstore.settings import IndexSettings
from vstore.shard import sections
from vstore.shard.builder import ShardBuilder
from vstore.shard.head import ShardHead
from vstore.shard.reader import Shard
from vstore.shard.session import ShardSession
from vstore.storage.memory import MemoryStore
from vstore.types import Metric, Schema
from vstore_kernels import bitmap, layout
from vstore_kernels.answer import AnswerScratch, ResidentShard, answer

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
SHARES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.001)
CORRELATIONS = ("near", "none", "far", "islands")
MODES = {
    "scan": layout.SCAN,
    "near_scan": layout.CLUSTERS,
    "hnsw": layout.HNSW,
    "result_filter": layout.HNSW_RESULT_FILTER,
    "cluster_acorn": layout.ACORN,
}
TRUTH = 100
SPARE = 60
_GROUPS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """A shard: its head, what the kernel reads, and its rows (float32[n, d]) in the order of node ids."""

    head: ShardHead
    kernel: ResidentShard
    rows: Floats
    build_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """Queries (float32[m, d]) under one filter (bool[n] over node ids, or None), and the sorted distances of
    their
    true neighbours (float64[m, at most TRUTH])."""

    queries: Floats
    flags: Flags | None
    truth: npt.NDArray[np.float64]


def build(points: Floats, metric: Metric, index: IndexSettings, n_threads: int = 1) -> Built:
    """Build a shard of `points` (float32[n, d]) and read all of it back into memory."""
    rows = RowBatch(np.arange(len(points), dtype=np.int64), "int", points, {})
    schema = Schema(points.shape[1], metric, {})
    started = time.process_time()
    entry, data = ShardBuilder(n_threads)(rows, schema, index, shard_id="s", key="s")
    build_s = time.process_time() - started
    store, cache = MemoryStore(), BlockCache(1 << 40)
    store.put("s", data)
    shard = Shard(entry, schema, "int", store, cache)
    session = ShardSession(shard, cache)
    session.fetch([session.key(sections.HEAD), session.key(sections.UPPER)])
    head = session.head
    blocks = range(layout.n_blocks(head.n, head.block_rows.bit_length() - 1))
    session.fetch(session.keys(sections.LISTS, blocks) + session.keys(sections.CODES, blocks))
    nodes = np.asarray(shard.keys(np.arange(head.n)), np.int64)
    vectors = np.ascontiguousarray(points[nodes])
    shift = head.vector_block_rows.bit_length() - 1
    n_vector_blocks = layout.n_blocks(head.n, shift)
    table = vectors.ctypes.data + np.arange(n_vector_blocks, dtype=np.int64) * (vectors.strides[0] << shift)
    kernel = ResidentShard(
        session.tables,
        session.upper.levels,
        session.upper.codes,
        head.centroids,
        head.cluster_offsets,
        head.code_params,
        table,
        shift,
    )
    return Built(head, kernel, vectors, build_s)


def keys_of(built: Built, queries: Floats) -> Floats:
    """Return float32[m, n]: numbers that order all rows about as their distances to queries do."""
    products = queries @ built.rows.T
    if built.head.metric == "dot":
        return np.asarray(-products)
    squares = np.einsum("ij,ij->i", built.rows, built.rows)
    if built.head.metric == "l2":
        return np.asarray(squares - 2 * products)
    return np.asarray(-products / np.sqrt(np.maximum(squares, np.finfo(np.float32).tiny)))


def cells(
    built: Built, queries: Floats, correlation: str, share: float, n_queries: int, seed: int = 0
) -> Iterator[Cell]:
    """Yield the groups of one cell of the grid, each with a pivot and a filter of its own.

    `near` and `far` pass the share of rows nearest to, or farthest from, the pivot, and are asked by the
    queries nearest to
    it; `none` passes rows at random; `islands` passes whole clusters, at random, asked by any query.
    """
    rng = np.random.default_rng([seed, CORRELATIONS.index(correlation), round(share * 10_000)])
    n, per_group = built.head.n, max(1, n_queries // _GROUPS)
    wanted = max(1, round(n * share))
    for _ in range(_GROUPS):
        pivot = queries[rng.integers(len(queries))]
        if correlation in ("near", "far"):
            order = np.argsort(keys_of(built, pivot[None])[0], kind="stable")
            flags = np.zeros(n, np.bool_)
            flags[order[:wanted] if correlation == "near" else order[-wanted:]] = True
            chosen = np.argsort(((queries - pivot) ** 2).sum(axis=1), kind="stable")[:per_group]
        else:
            flags = rng.permutation(n) < wanted if correlation == "none" else _islands(built, wanted, rng)
            chosen = rng.choice(len(queries), per_group, replace=False)
        yield cell_of(built, queries[chosen], flags)


def cell_of(built: Built, queries: Floats, flags: Flags | None) -> Cell:
    """Return queries under a filter with the distances of their true neighbours."""
    queries = np.ascontiguousarray(queries)
    rows = np.arange(built.head.n) if flags is None else np.flatnonzero(flags)
    most = min(TRUTH, len(rows))
    truth = np.empty((len(queries), most))
    for start in range(0, len(queries), 32):
        keys = keys_of(built, queries[start : start + 32])[:, rows]
        # The sums above are rounded, so a few more are compared exactly.
        likely = np.argpartition(keys, min(most + SPARE, len(rows)) - 1, axis=1)[:, : most + SPARE]
        for i, own in enumerate(likely):
            exact = np.sort(_distances(built, queries[start + i], rows[own]))
            truth[start + i] = exact[:most]
    return Cell(queries, flags, truth)


def recall(built: Built, cell: Cell, ids: npt.NDArray[np.int32], k: int) -> float:
    """Return the mean share of the k true neighbours, by distance with ties, among ids (int32[m, k], -1
    padded)."""
    found = []
    for query, row, truth in zip(cell.queries, ids, cell.truth, strict=True):
        most = min(k, len(truth))
        limit = truth[most - 1]
        chosen = row[row >= 0]
        gaps = _distances(built, query, chosen)
        found.append(min(int((gaps <= limit + 1e-5 * max(abs(limit), 1e-6)).sum()), most) / most)
    return float(np.mean(found))


def _distances(built: Built, query: Floats, nodes: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float64]:
    rows, q = built.rows[nodes].astype(np.float64), query.astype(np.float64)
    if built.head.metric == "l2":
        return np.asarray(((rows - q) ** 2).sum(axis=1))
    products = rows @ q
    if built.head.metric == "dot":
        return np.asarray(-products)
    return np.asarray(1 - products / np.sqrt((rows**2).sum(axis=1) * (q**2).sum()))


class Searcher:
    """Runs plans on a built shard, one thread, as resident searches do."""

    def __init__(self, built: Built) -> None:
        self._built, self._scratch = built, AnswerScratch()

    def planned(self, cell: Cell, k: int, wanted: float, ef: int | None = None) -> tuple[Any, list[Plan]]:
        """Return int32[m, k] node ids found as the planner would, and each query's plan."""
        passing = None if cell.flags is None else bitmap.pack(cell.flags)
        ids = np.full((len(cell.queries), k), -1, np.int32)
        plans: list[Plan | None] = [None] * len(ids)
        for plan, rows in ShardPlans(self._built.head, k, wanted, ef, passing).split(cell.queries):
            ids[rows], _ = self.run(cell.queries[rows], passing, plan.traversal, plan, k)
            for row in rows.tolist():
                plans[row] = plan
        return ids, [plan for plan in plans if plan is not None]

    def run(
        self, queries: Floats, passing: npt.NDArray[np.uint64] | None, traversal: str, plan: Plan, k: int
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Return int32[m, k] node ids and int64[m, N_COUNTERS] by one traversal with a plan's widths."""
        queries, m = np.ascontiguousarray(queries), len(queries)
        ids, distances = np.full((m, k), -1, np.int32), np.full((m, k), np.inf, np.float32)
        counters, status = np.zeros((m, layout.N_COUNTERS), np.int64), np.zeros(m, np.uint8)
        self._call(queries, passing, MODES[traversal], plan, k, ids, distances, counters, status)
        few = np.flatnonzero(status)
        if len(few):
            again: list[Any] = [
                np.ascontiguousarray(part[few]) for part in (queries, ids, distances, counters, status)
            ]
            self._call(again[0], passing, layout.SCAN, plan, k, *again[1:])
            ids[few] = again[1]
        return ids, counters

    def _call(
        self,
        queries: Floats,
        passing: npt.NDArray[np.uint64] | None,
        mode: int,
        plan: Plan,
        k: int,
        ids: Any,
        distances: Any,
        counters: Any,
        status: Any,
    ) -> None:
        answer(
            self._built.kernel,
            queries,
            passing,
            mode,
            ef=plan.ef,
            n_seeds=plan.n_seeds,
            n_candidates=max(1, plan.n_candidates),
            k=k,
            n_matching=plan.n_matching,
            scratch=self._scratch,
            out_ids=ids,
            out_distances=distances,
            counters=counters,
            status=status,
        )


def _islands(built: Built, wanted: int, rng: np.random.Generator) -> Flags:
    offsets = built.head.cluster_offsets
    flags = np.zeros(built.head.n, np.bool_)
    n_set = 0
    for cluster in rng.permutation(len(offsets) - 1):
        if n_set >= wanted:
            break
        flags[offsets[cluster] : offsets[cluster + 1]] = True
        n_set += int(offsets[cluster + 1] - offsets[cluster])
    return flags
