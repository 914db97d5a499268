"""Which clusters lie nearest to a query."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels import gate
from vstore_kernels.beam import heap_pop, heap_push
from vstore_kernels.intrinsics import trailing_zeros
from vstore_kernels.jit import Int, part, sum_kernel, sum_part
from vstore_kernels.layout import METRICS

_COSINE: Final = METRICS.index("cosine")
_DOT: Final = METRICS.index("dot")


def novelty(
    queries: NDArray[np.float32], centroids: NDArray[np.float32], directions: bool
) -> NDArray[np.float32]:
    """Return how unlike the centroids' rows queries are, float32 [m]: the squared distance to the nearest
    centroid over the mean squared distance to all.

    Args:
        queries: float32 [m, d], raw.
        centroids: float32 [K >= 1, d]; of unit length when `directions`.
        directions: compare directions alone; a zero query has none, and lies as far from all.

    Raises:
        TypeError: not float32.
        ValueError: a wrong shape, or dimensions that do not agree.
    """
    if queries.dtype is not gate.FLOAT32 or queries.ndim != 2 or not queries.flags.c_contiguous:
        gate.array("queries", queries, np.float32, 2)
    if queries.shape[1] != centroids.shape[1]:
        raise ValueError(
            f"queries have {queries.shape[1]} dimensions, centroids {centroids.shape[1]}; they must agree"
        )
    out = np.empty(queries.shape[0], np.float32)
    _novelty(queries, centroids, directions, out)
    return out


@sum_kernel()
def _novelty(
    queries: NDArray[np.float32],
    centroids: NDArray[np.float32],
    directions: bool,
    out: NDArray[np.float32],
) -> None:
    for i in range(queries.shape[0]):
        out[i] = novelty_of(queries[i], centroids, directions)


@sum_part()
def novelty_of(query: NDArray[np.float32], centroids: NDArray[np.float32], directions: bool) -> np.float32:
    """Return `novelty` of one query (float32 [d]); arguments as there."""
    shrink = np.float32(1)
    if directions:
        square = np.float32(0)
        for j in range(query.shape[0]):
            square += query[j] * query[j]
        shrink = np.float32(0)
        if square > np.float32(0):
            shrink = np.float32(1) / np.float32(np.sqrt(square))
    least = np.float32(np.inf)
    total = np.float32(0)
    for c in range(centroids.shape[0]):
        row = centroids[c]
        gap = np.float32(0)
        for j in range(query.shape[0]):
            apart = query[j] * shrink - row[j]
            gap += apart * apart
        least = min(least, gap)
        total += gap
    mean = total / np.float32(centroids.shape[0])
    return np.float32(least / mean) if mean > np.float32(0) else np.float32(0)


@sum_part()
def cluster_distances(
    query: NDArray[np.float32], centroids: NDArray[np.float32], kind: Int, out: NDArray[np.float32]
) -> None:
    """Write the distance of each centroid, as far as order needs it.

    Args:
        query: float32 [d], raw.
        centroids: float32 [K, d'], as in `clusters.nearest_clusters`.
        kind: position in METRICS. l2 and cosine give |c|^2 - 2 c.q, cosine of the normalised query; dot -c.q.
        out: float32 [K], mutated.
    """
    d = query.shape[0]
    shrink = np.float32(1)
    if kind == _COSINE:
        square = np.float32(0)
        for j in range(d):
            square += query[j] * query[j]
        if square > np.float32(0):
            shrink = np.float32(1) / np.float32(np.sqrt(square))
    for c in range(centroids.shape[0]):
        row = centroids[c]
        inner = np.float32(0)
        square = np.float32(0)
        for j in range(d):
            inner += row[j] * query[j]
            square += row[j] * row[j]
        out[c] = -inner if kind == _DOT else square - np.float32(2) * shrink * inner


@part()
def near_seeds(
    distances: NDArray[np.float32],
    offsets: NDArray[np.int64],
    passing: NDArray[np.uint64],
    filtered: bool,
    heap_nodes: NDArray[np.int32],
    heap_distances: NDArray[np.float32],
    out: NDArray[np.int32],
    wanted: Int,
) -> Int:
    """Write the first `wanted` passing nodes met in the clusters, nearest first; return their number.

    Args:
        distances: float32 [K], from `cluster_distances`.
        offsets: int64 [K + 1], the id range of each cluster.
        passing: uint64 bitmap, read when `filtered`.
        filtered: whether a node must pass.
        heap_nodes: int32 [K], mutated.
        heap_distances: float32 [K], mutated.
        out: int32 [>= wanted], mutated.
        wanted: how many.
    """
    size = np.int64(0)
    for c in range(distances.shape[0]):
        size = heap_push(heap_nodes, heap_distances, size, c, distances[c])
    m = np.int64(0)
    while size > 0 and m < wanted:
        cluster = np.int64(heap_nodes[0])
        size = heap_pop(heap_nodes, heap_distances, size)
        start = offsets[cluster]
        stop = offsets[cluster + 1]
        if filtered:
            m = _take_passing(start, stop, passing, out, m, wanted)
            continue
        for node in range(start, min(stop, start + wanted - m)):
            out[m] = node
            m += 1
    return m


@part()
def _take_passing(
    start: Int, stop: Int, passing: NDArray[np.uint64], out: NDArray[np.int32], m: Int, wanted: Int
) -> Int:
    if start >= stop:
        return np.int64(m)
    ones = ~np.uint64(0)
    first = start >> 6
    last = (stop - 1) >> 6
    for w in range(first, last + 1):
        word = passing[w]
        if w == first:
            word &= ones << np.uint64(start & 63)
        if w == last:
            word &= ones >> np.uint64(63 - ((stop - 1) & 63))
        while word != np.uint64(0):
            if m == wanted:
                return np.int64(m)
            out[m] = w * 64 + trailing_zeros(word)
            word &= word - np.uint64(1)
            m += 1
    return np.int64(m)
