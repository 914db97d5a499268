"""A scan of sketches: for shards of which nothing is cached, where the codes worth reading are too many.

Where the passing rows lie away from the query their distances differ little and many clusters must be looked
at. Sketches take a fraction of the bytes of codes, and come in blocks so small that rows which do not pass
are mostly not read. They decide which few rows' exact vectors are read, by the error that RaBitQ (Gao & Long
2024) gives with each estimate.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from vstore.traverse.base import (
    Found,
    GraphView,
    Sketches,
    SketchParams,
    Walk,
    WalkParams,
    Wants,
    sketch_row_bytes,
)
from vstore.traverse.clusters import centroid_distances, crowded, limit_of, rows_of, segments
from vstore.types import Bitmap, Float32s, Int32s, Int64s
from vstore_kernels.rotation import rotate

SHARE: Final = 0.57
"""Of `WalkParams.code_bytes`, what the sketches of an answer may take: exact vectors want the rest."""
GAP_BYTES: Final = 4 << 10
"""What is read between two blocks rather than asking twice."""
BLOCKS: Final = (400, 1_400)
"""Blocks in which the ten nearest are looked for, at most, at a recall of 0.95: where the passing rows lie
round the query, and away from it. Of more than ten in proportion."""
BLOCKS_OF_PASSING: Final = ((8.0, 0.5), (2.4, 0.75))
"""The same, as so many times a power of how many blocks hold passing rows."""
MISSED: Final = 0.05
"""The share of the answers that a recall of 0.95 allows to be missed, to the power of `reach` above it."""
JOINS: Final = (2, 3, 4, 6, 8, 12, 16, 24, 32)
FILLED: Final = 0.85
"""Gaps of so many blocks are read, the largest that leave the blocks within this share of what is allowed."""
SETTLED: Final = 2
"""The k-th of many estimates is too low, as the luckiest are in front: so many times k are taken for it."""
_ROWS_AT_ONCE: Final = 16_384


class SketchScan:
    """Scores the sketches of the passing rows in the query's nearest clusters."""

    name = "sketches"

    def walk(self, graph: GraphView, query: Float32s, passing: Bitmap | None, params: WalkParams) -> Walk:
        """As `Traversal.walk`; finds nothing in a shard without sketches."""
        sketched = graph.sketch_params
        blocks = None if sketched is None else choose_sketches(graph, sketched, query, passing, params)
        if sketched is None or blocks is None or not len(blocks):
            return Found.nothing()
        yield Wants(sketches=blocks)
        shift = sketched.block_rows.bit_length() - 1
        rows = rows_of(graph, blocks, passing, shift)
        estimates, spreads = score_sketches(graph, sketched, query, rows, blocks)
        kept = candidates(estimates, spreads, params.k or params.ef, params.reach)
        return Found(
            rows[kept],
            estimates[kept],
            n_distances=len(rows) + len(graph.centroids),
            spreads=spreads[kept],
        )


def choose_sketches(
    graph: GraphView, sketched: SketchParams, query: Float32s, passing: Bitmap | None, params: WalkParams
) -> Int32s:
    """Return the blocks (int32[m], ascending) that hold the passing rows of the nearest clusters.

    The parts of clusters within blocks are taken nearest first, and where they are crowded sooner (CROWDED),
    while what is read of them, gaps included, fits into SHARE of `params.code_bytes`, and until k rows are
    met in any case; at most BLOCKS, and as far as a scan of codes goes, unless the passing rows lie away from
    the query. What is resident does not count, so that an answer does not depend on it. Where this leaves
    room, blocks between those chosen are taken, too, as long as that makes fewer requests.
    """
    shift, k = sketched.block_rows.bit_length() - 1, params.k or params.ef
    clusters, blocks, counts = segments(graph, passing, shift)
    if not len(blocks):
        return np.empty(0, np.int32)
    wanted = _n_blocks(len(np.unique(blocks)), k, params)
    gaps = centroid_distances(graph, query)[clusters]
    places = crowded(gaps, counts, k)
    if not params.apart:
        # What lies around the query is as near as a scan of codes takes it to be.
        nearest = np.argsort(gaps, kind="stable")
        near = gaps <= limit_of(gaps[nearest], counts[nearest].cumsum(), k, params)
        places, blocks, counts = places[near], blocks[near], counts[near]
    order = np.argsort(places, kind="stable")
    blocks, met = blocks[order], counts[order].cumsum()
    n_most = _n_within(blocks, wanted)
    n_least = int(np.searchsorted(met, min(k, int(met[-1])))) + 1
    row_bytes = sketch_row_bytes(graph.code_params.d)
    budget_bytes = SHARE * params.code_bytes * params.reach
    budget, join = budget_bytes / (row_bytes << shift), GAP_BYTES // (row_bytes << shift)
    least, most = 0, n_most
    while least < most:
        n = (least + most + 1) // 2
        least, most = (n, most) if blocks_read(blocks[:n], join) <= budget else (least, n - 1)
    chosen = np.unique(blocks[: max(least, n_least)])
    return _without_gaps(chosen, FILLED * budget).astype(np.int32)


def score_sketches(
    graph: GraphView, sketched: SketchParams, query: Float32s, rows: Int32s, blocks: Int32s
) -> tuple[Float32s, Float32s]:
    """Return the estimated distances (float32[m]) and a standard deviation of each.

    Args:
        graph: the shard; its sketches of `blocks` (int32[b], ascending) are resident.
        sketched: what they share.
        query: float32[d], raw.
        rows: int32[m], of these blocks.
    """
    parts = [graph.sketches(block) for block in blocks.tolist()]
    held = Sketches(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    shift = sketched.block_rows.bit_length() - 1
    places = (np.searchsorted(blocks, rows >> shift) << shift) + (rows & (sketched.block_rows - 1))
    cluster = np.searchsorted(graph.cluster_offsets, rows, side="right") - 1
    gaps = centroid_distances(graph, query)[cluster]
    length = np.float32(np.linalg.norm(query))
    if graph.metric == "cosine" and length > 0:
        query = query / length
    turned = rotate(np.ascontiguousarray(query[None], np.float32))[0]
    inner = np.empty(len(rows), np.float32)
    for at in range(0, len(rows), _ROWS_AT_ONCE):
        signs = np.unpackbits(held.bits[places[at : at + _ROWS_AT_ONCE]], axis=1, bitorder="little")
        inner[at : at + _ROWS_AT_ONCE] = signs.astype(np.float32) @ turned
    inner -= turned.sum() / 2
    step = held.step[places]
    base = gaps if graph.metric == "dot" else gaps * gaps
    reach = length if graph.metric == "dot" else gaps
    estimates = base + held.bias[places] + step * inner
    spreads = np.abs(step) * np.float32(sketched.error) * reach
    scale = np.float32(0.5 if graph.metric == "cosine" else 1)
    return np.asarray(scale * estimates, np.float32), np.asarray(scale * spreads, np.float32)


def candidates(estimates: Float32s, spreads: Float32s, k: int, reach: float) -> Int64s:
    """Return the places of the rows that could be among the k nearest, by estimate, ascending.

    A row whose true distance is the SETTLED k-th estimate is left out about as often as a fifth of what the
    recall, of which `reach` speaks as `WalkParams` does, allows to be missed.
    """
    order = np.argsort(estimates, kind="stable")
    if len(order) <= k:
        return order
    from statistics import NormalDist

    sigmas = NormalDist().inv_cdf(1 - MISSED**reach / 5)
    settled = estimates[order[min(SETTLED * k, len(order)) - 1]]
    kept: Int64s = order[estimates[order] - sigmas * spreads[order] <= settled]
    return kept


def _n_blocks(n_passing: int, k: int, params: WalkParams) -> int:
    """Return how many blocks are looked at, of `n_passing` that hold passing rows."""
    times, power = BLOCKS_OF_PASSING[params.apart]
    most = min(float(BLOCKS[params.apart]), times * math.pow(n_passing, power))
    return math.ceil(most * params.reach * max(k / 10, 1))


def _n_within(blocks: Int64s, most: int) -> int:
    """Return how many of the first of these blocks (int64[m]) are of `most` different ones."""
    first = np.sort(np.unique(blocks, return_index=True)[1])
    return int(first[most]) if most < len(first) else len(blocks)


def _without_gaps(blocks: Int64s, most: float) -> Int64s:
    """Return blocks (int64[m], ascending) and those in the gaps between them: the larger the gaps that are
    filled, the fewer the requests. At most about `most` are returned, or the blocks alone.
    """
    join = max((join for join in JOINS if blocks_read(blocks, join) <= most), default=0)
    apart = np.diff(blocks)
    wanted = np.zeros(int(blocks[-1]) + 1, np.bool_)
    wanted[blocks] = True
    for at in np.flatnonzero((apart > 1) & (apart <= join + 1)).tolist():
        wanted[blocks[at] : blocks[at + 1]] = True
    return np.flatnonzero(wanted)


def blocks_read(blocks: Int32s | Int64s, join: int) -> int:
    """Return how many blocks are read for these, any order, where gaps of at most `join` are read, too."""
    apart = np.diff(np.unique(blocks))
    return 1 + int(np.where(apart <= join + 1, apart, 1).sum()) if len(blocks) else 0


def n_ranges(blocks: Int32s | Int64s, join: int = 0) -> int:
    """Return how many ranges blocks (int[b], ascending) are read in, where gaps of up to `join` are, too."""
    return int(len(blocks) > 0) + int((np.diff(blocks) > join + 1).sum())
