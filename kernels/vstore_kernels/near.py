"""Which clusters lie nearest to a query."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels import gate
from vstore_kernels.beam import heap_pop, heap_push
from vstore_kernels.distance import length, unit_scale
from vstore_kernels.intrinsics import trailing_zeros
from vstore_kernels.jit import Int, inner, kernel, part
from vstore_kernels.layout import METRICS
from vstore_kernels.products import products_into, products_of_one

_COSINE: Final = METRICS.index("cosine")
_DOT: Final = METRICS.index("dot")


def novelty(
    queries: NDArray[np.float32],
    centroids: NDArray[np.float32],
    squares: NDArray[np.float32],
    directions: bool,
) -> NDArray[np.float32]:
    """Return how unlike the centroids' rows queries are, float32 [m]: the squared distance to the nearest
    centroid over the mean squared distance to all.

    Args:
        queries: float32 [m, d], raw.
        centroids: float32 [K >= 1, d]; of unit length when `directions`.
        squares: float32 [K], `sums.row_squares` of the centroids.
        directions: compare directions alone; a zero query has none, and lies as far from all.

    Raises:
        TypeError: not float32.
        ValueError: a wrong shape, or dimensions that do not agree.
    """
    if queries.dtype is not gate.FLOAT32 or queries.ndim != 2 or not queries.flags.c_contiguous:
        gate.array("queries", queries, np.float32, 2)
    if queries.shape[1] != centroids.shape[1] or squares.size != len(centroids):
        raise ValueError(
            f"queries have {queries.shape[1]} dimensions, centroids {centroids.shape[1]}, with "
            f"{squares.size} squares of {len(centroids)}; they must agree"
        )
    out = np.empty(queries.shape[0], np.float32)
    _novelty(queries, centroids, squares, directions, np.empty((len(out), len(squares)), np.float32), out)
    return out


@kernel()
def _novelty(
    queries: NDArray[np.float32],
    centroids: NDArray[np.float32],
    squares: NDArray[np.float32],
    directions: bool,
    room: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    m, d = queries.shape
    products_into(np.int64(queries.ctypes.data), m, d, centroids, np.int64(room.ctypes.data))
    for i in range(m):
        out[i] = novelty_of(queries[i], room[i], squares, directions)


@part()
def novelty_of(
    query: NDArray[np.float32], products: NDArray[np.float32], squares: NDArray[np.float32], directions: bool
) -> np.float32:
    """Return `novelty` of one query (float32 [d]) from its products with the centroids (float32 [>= K])."""
    norm = length(query)
    own, shrink = norm * norm, np.float32(1)
    if directions:
        shrink = unit_scale(query)
        own = np.float32(1) if norm > np.float32(0) else np.float32(0)
    least = np.float32(np.inf)
    total = np.float32(0)
    for c in range(squares.shape[0]):
        # Rounding alone makes it negative.
        gap = max(own + squares[c] - np.float32(2) * shrink * products[c], np.float32(0))
        least = min(least, gap)
        total += gap
    mean = total / np.float32(squares.shape[0])
    return np.float32(least / mean) if mean > np.float32(0) else np.float32(0)


@part()
def cluster_distances(
    query: NDArray[np.float32],
    centroids: NDArray[np.float32],
    squares: NDArray[np.float32],
    kind: Int,
    out: NDArray[np.float32],
) -> None:
    """Write the distance of each centroid, as far as order needs it.

    Args:
        query: float32 [d], raw.
        centroids: float32 [K, d'], as in `clusters.nearest_clusters`.
        squares: float32 [K], `sums.row_squares` of them over d.
        kind: position in METRICS. l2 and cosine give |c|^2 - 2 c.q, cosine of the normalised query; dot -c.q.
        out: float32 [K], mutated.
    """
    products_of_one(np.int64(query.ctypes.data), query.shape[0], centroids, np.int64(out.ctypes.data))
    to_gaps(query, squares, kind, out)


@inner()
def to_gaps(
    query: NDArray[np.float32], squares: NDArray[np.float32], kind: Int, products: NDArray[np.float32]
) -> None:
    """Turn a query's products with centroids (float32 [K], mutated) into `cluster_distances`."""
    shrink = unit_scale(query) if kind == _COSINE else np.float32(1)
    for c in range(products.shape[0]):
        if kind == _DOT:
            products[c] = -products[c]
        else:
            products[c] = squares[c] - np.float32(2) * shrink * products[c]


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
