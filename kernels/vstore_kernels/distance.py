"""Exact distances, smaller is nearer: squared L2; 1 - cosine; minus the dot product."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vstore_kernels import gate
from vstore_kernels.intrinsics import prefetch
from vstore_kernels.jit import Int, kernel, part
from vstore_kernels.layout import METRICS
from vstore_kernels.sums import gap_sum, product_and_square, product_sum

_L2, _COSINE, _DOT = (METRICS.index(name) for name in ("l2", "cosine", "dot"))
_AHEAD = 4
_EMPTY = np.empty(0, np.int32)


def exact_distances(
    query: NDArray[np.float32],
    vectors: NDArray[np.float32],
    node_ids: NDArray[np.integer] | None,
    metric: str,
) -> NDArray[np.float32]:
    """Return the distances of `query` to rows of `vectors`, in float32.

    Args:
        query: float32 [d].
        vectors: float32 [n, d].
        node_ids: integers [m], the rows wanted in that order, or None for all.
        metric: "l2" gives |q - x|^2, "cosine" 1 - q.x / (|q| |x|), never negative, and 1 where a norm is
            zero,
            "dot" -q.x.

    Raises:
        TypeError: a wrong dtype.
        ValueError: a wrong shape, an array that is not C-contiguous, an id out of range, an unknown metric.
    """
    gate.array("query", query, np.float32, 1)
    gate.array("vectors", vectors, np.float32, 2)
    kind = METRICS.index(gate.metric(metric))
    if query.size != vectors.shape[1]:
        raise ValueError(f"query has {query.size} dimensions; the vectors have {vectors.shape[1]}")
    every = node_ids is None
    ids = _EMPTY if node_ids is None else gate.node_ids("node_ids", node_ids, vectors.shape[0])
    out = np.empty(vectors.shape[0] if every else ids.size, np.float32)
    _exact(query, vectors, ids, every, kind, out)
    return out


@part()
def squared_l2(a: NDArray[np.float32], vectors: NDArray[np.float32], row: Int) -> np.float32:
    """Return |a - vectors[row]|^2; a float32 [d], vectors float32 [n, d]; for use inside kernels."""
    d = a.shape[0]
    return np.float32(gap_sum(np.int64(a.ctypes.data), np.int64(vectors.ctypes.data) + row * d * 4, d))


@part()
def length(query: NDArray[np.float32]) -> np.float32:
    """Return |query|, float32 [d]; for use inside kernels."""
    address = np.int64(query.ctypes.data)
    return np.float32(np.sqrt(np.float32(product_sum(address, address, query.shape[0]))))


@part()
def unit_scale(query: NDArray[np.float32]) -> np.float32:
    """Return what brings `query` (float32 [d]) to unit length, 1 / |query|, and 1 where it is zero; for use
    inside kernels.
    """
    norm = length(query)
    return np.float32(1) / norm if norm > np.float32(0) else np.float32(1)


@part()
def distance_at(address: Int, query: NDArray[np.float32], norm: np.float32, kind: Int) -> np.float32:
    """Return the distance of `query` (float32 [d], of length `norm`) to the float32 row at `address`; for use
    inside kernels. Every exact distance of an answer comes from here, so equal rows compare equal.
    """
    d = query.shape[0]
    own = np.int64(query.ctypes.data)
    if kind == _L2:
        return np.float32(gap_sum(own, address, d))
    if kind == _DOT:
        return -np.float32(product_sum(own, address, d))
    inner, square = product_and_square(own, address, d)
    return np.float32(_gap(inner, norm * np.float32(np.sqrt(square))))


@part()
def _gap(inner: np.float32, norms: np.float32) -> np.float32:
    """Return 1 - inner / norms, in the order written: a vector and itself are at distance 0."""
    if norms == np.float32(0):
        return np.float32(1)
    gap = np.float32(1) - inner / norms
    # Rounding alone makes it negative.
    return np.float32(0) if gap < np.float32(0) else gap


@part()
def prefetch_vector(address: Int, d: Int) -> None:
    """Prefetch the float32 row of `d` at `address`, at most its first 2,048 bytes; for use inside kernels."""
    for line in range(0, min(d * 4, 2048), 64):
        prefetch(address, line)


@kernel()
def _exact(
    query: NDArray[np.float32],
    vectors: NDArray[np.float32],
    node_ids: NDArray[np.int32],
    every: bool,
    kind: Int,
    out: NDArray[np.float32],
) -> None:
    d = query.shape[0]
    base = np.int64(vectors.ctypes.data)
    norm = length(query)
    for t in range(out.shape[0]):
        row = np.int64(t)
        if not every:
            row = np.int64(node_ids[t])
            if t + _AHEAD < out.shape[0]:
                prefetch_vector(base + np.int64(node_ids[t + _AHEAD]) * d * 4, d)
        out[t] = distance_at(base + row * d * 4, query, norm, kind)
