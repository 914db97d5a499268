"""A scan of the clusters nearest to the query: for shards of which nothing is cached yet.

A walk finds out step by step which blocks it needs, and on an object store every step is a wait. The
centroids and the passing counts of the clusters, which the first reads bring, say beforehand where the
nearest passing rows are: the blocks of codes there are read in one round, and every passing row in them is
scored. No list is read. This is an inverted file (Jegou, Douze & Schmid 2011) whose lists are the shard's
own clusters, with the number of clusters chosen for each query.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from vstore.traverse.base import Found, GraphView, Walk, WalkParams, Wants
from vstore.types import Bitmap, Float32s, Int32s, Int64s
from vstore_kernels import bitmap
from vstore_kernels.clusters import cluster_gaps
from vstore_kernels.codes import prepare_query
from vstore_kernels.scan import scan_codes

FEW: Final = (4, 0.4)
"""Clusters are read up to this share farther (at recall 0.95) than the one where so many times k passing
rows are met: what rows that lie around the query need."""
MANY: Final = (20, 0.4)
"""The same from farther out: what rows that lie away from the query need, whose distances differ least."""
CROWDED: Final = 0.05
"""How much nearer a part of a cluster counts for each e-fold of its passing rows, as a share of the distance
where some times k passing rows are met: a block costs the same however many of its rows pass."""
APART_BYTES: Final = 4
APART_SHARE: Final = 0.6
"""Where the passing rows lie away from the query recall comes before bytes: this share of all their blocks
may be read, and at most so many times the usual limit."""


class Chosen(NamedTuple):
    """The blocks to read: `blocks` int32[m] ascending; `n_clusters` they stand for; `cut` short by bytes."""

    blocks: Int32s
    n_clusters: int
    cut: bool


class ClusterScan:
    """Scores the codes of the passing rows in the blocks of the query's nearest clusters."""

    name = "clusters"

    def walk(self, graph: GraphView, query: Float32s, passing: Bitmap | None, params: WalkParams) -> Walk:
        """As `Traversal.walk`."""
        blocks = params.chosen
        if blocks is None:
            blocks = choose_blocks(graph, query, passing, params).blocks
        if not len(blocks):
            return Found.nothing()
        yield Wants(codes=blocks)
        rows = rows_of(graph, blocks, passing)
        code = prepare_query(query, graph.code_params)
        node_ids, distances = scan_codes(code, graph.tables, rows, params.ef, params.k)
        return Found(node_ids, distances, n_distances=len(rows) + len(graph.centroids))


def reach_of(recall: float) -> float:
    """Return how much of FEW and MANY a recall needs: 1 at 0.95, more above."""
    return math.log(1 - min(recall, 0.9999)) / math.log(1 - 0.95)


def choose_blocks(graph: GraphView, query: Float32s, passing: Bitmap | None, params: WalkParams) -> Chosen:
    """Return the blocks of codes that hold the passing rows of the nearest clusters.

    Clusters are taken nearest first (where `params.apart`, crowded ones sooner: CROWDED): as far as FEW and
    MANY say, while their blocks fit into `params.code_bytes` (where `params.apart`, more: APART_BYTES), and
    until k rows are met in any case.
    """
    shift, k = graph.tables.block_shift, params.k or params.ef
    clusters, blocks, counts = segments(graph, passing, shift)
    if not len(blocks):
        return Chosen(np.empty(0, np.int32), 0, False)
    gaps = centroid_distances(graph, query)[clusters]
    nearest = np.argsort(gaps, kind="stable")
    limit = limit_of(gaps[nearest], counts[nearest].cumsum(), k, params)
    far = gaps > limit
    order = np.lexsort((crowded(gaps, counts, k), far)) if params.apart else nearest
    n_near = len(far) - int(far.sum())
    counts, blocks = counts[order], blocks[order]
    met = counts.cumsum()
    _, first = np.unique(blocks, return_index=True)
    costs = np.zeros(len(blocks), np.int64)
    # The bytes of a block that is resident already are not read.
    costs[first] = (graph.tables.code_table[blocks[first]] == 0) * (graph.tables.row_bytes << shift)
    paid, code_bytes = costs.cumsum(), params.code_bytes
    if params.apart:
        code_bytes = min(max(code_bytes, int(APART_SHARE * paid[-1])), APART_BYTES * code_bytes)
    n_paid = int(np.searchsorted(paid, code_bytes, side="right"))
    n_least = int(np.searchsorted(met, min(k, int(met[-1])))) + 1
    n = max(min(n_near, n_paid), n_least)
    return Chosen(
        np.unique(blocks[:n]).astype(np.int32), len(np.unique(clusters[order[:n]])), n_paid < n_near
    )


def code_bytes_of(graph: GraphView, blocks: Int32s) -> int:
    """Return the bytes of the codes of blocks (int32[b]), without those that are resident already."""
    absent = int((graph.tables.code_table[blocks] == 0).sum())
    return absent * graph.tables.row_bytes << graph.tables.block_shift


def crowded(gaps: Float32s, counts: Int64s, k: int) -> Float32s:
    """Return float32[m]: the distances of parts of clusters, less where many rows pass.

    Args:
        gaps: float32[m], of their clusters.
        counts: int64[m], passing rows of each, at least 1.
        k: answers wanted.
    """
    nearest = np.argsort(gaps, kind="stable")
    met = counts[nearest].cumsum()
    settled = gaps[nearest[min(int(np.searchsorted(met, MANY[0] * k)), len(met) - 1)]]
    found: Float32s = gaps - np.float32(CROWDED * abs(settled)) * np.log(counts).astype(np.float32)
    return found


def limit_of(gaps: Float32s, met: Int64s, k: int, params: WalkParams) -> float:
    """Return how far clusters are read, as FEW and MANY say.

    Args:
        gaps: float32[m], ascending: the distances of clusters, or of parts of them.
        met: int64[m]: passing rows up to and with each.
        k: answers wanted.
        params: of the walk.
    """

    def limit(times_k: int, share: float) -> float:
        settled = float(gaps[min(int(np.searchsorted(met, times_k * k)), len(met) - 1)])
        return settled + share * params.reach * abs(settled)

    return limit(*MANY) if params.apart else min(limit(*FEW), limit(*MANY))


def rows_of(graph: GraphView, blocks: Int32s, passing: Bitmap | None, shift: int | None = None) -> Int32s:
    """Return int32[m] ascending: the passing rows of blocks (int32[b] ascending) of 1 << `shift` rows, by
    default those of codes.
    """
    shift = graph.tables.block_shift if shift is None else shift
    if passing is not None:
        rows = bitmap.indices(passing)
        wanted = np.zeros(-(-graph.n // (1 << shift)), np.bool_)
        wanted[blocks] = True
        return np.ascontiguousarray(rows[wanted[rows >> shift]])
    each = np.arange(1 << shift, dtype=np.int32)
    every: Int32s = ((blocks[:, None] << np.int32(shift)) + each).ravel()
    return np.ascontiguousarray(every[every < graph.n])


def segments(graph: GraphView, passing: Bitmap | None, shift: int) -> tuple[Int64s, Int64s, Int64s]:
    """Return (cluster, block, passing rows) of each part of a cluster within a block of 1 << `shift` rows,
    where any pass.
    """
    offsets = graph.cluster_offsets
    edges = np.unique(np.concatenate([offsets, np.arange(0, graph.n, 1 << shift, dtype=np.int64)]))
    counts = np.diff(edges) if passing is None else bitmap.range_counts(passing, edges)
    there = np.flatnonzero(counts)
    starts = edges[there]
    return np.searchsorted(offsets, starts, side="right") - 1, starts >> shift, counts[there]


def centroid_distances(graph: GraphView, query: Float32s) -> Float32s:
    """Return float32[K]: L2 distances to the centroids, or minus the inner product under dot."""
    gaps = cluster_gaps(query, graph.centroids, graph.metric)
    if graph.metric == "dot":
        return gaps
    own = np.float32(1) if graph.metric == "cosine" else query.dot(query)
    return np.sqrt(np.maximum(gaps + own, 0))
