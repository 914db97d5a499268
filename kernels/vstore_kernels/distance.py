"""Exact distances, smaller is nearer: squared L2; 1 - cosine; minus the dot product."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vstore_kernels import gate
from vstore_kernels.intrinsics import load_f32, prefetch
from vstore_kernels.jit import Int, kernel, part, sum_kernel, sum_part
from vstore_kernels.layout import METRICS

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


@sum_part()
def squared_l2(a: NDArray[np.float32], vectors: NDArray[np.float32], row: Int) -> np.float32:
    """Return |a - vectors[row]|^2; a float32 [d], vectors float32 [n, d]; for use inside kernels."""
    total = np.float32(0)
    for j in range(a.shape[0]):
        gap = a[j] - vectors[row, j]
        total += gap * gap
    return total


@sum_kernel()
def dot_product(a: NDArray[np.float32], vectors: NDArray[np.float32], row: Int) -> np.float32:
    """Return a . vectors[row]; a float32 [d], vectors float32 [n, d]; for use inside kernels."""
    total = np.float32(0)
    for j in range(a.shape[0]):
        total += a[j] * vectors[row, j]
    return total


@sum_part()
def length(query: NDArray[np.float32]) -> np.float32:
    """Return |query|, float32 [d]; for use inside kernels."""
    total = np.float32(0)
    for j in range(query.shape[0]):
        total += query[j] * query[j]
    return np.float32(np.sqrt(total))


@part()
def unit_scale(query: NDArray[np.float32]) -> np.float32:
    """Return what brings `query` (float32 [d]) to unit length, 1 / |query|, and 1 where it is zero; for use
    inside kernels.
    """
    norm = length(query)
    return np.float32(1) / norm if norm > np.float32(0) else np.float32(1)


@sum_part()
def distance_at(address: Int, query: NDArray[np.float32], norm: np.float32, kind: Int) -> np.float32:
    """Return the distance of `query` (float32 [d], of length `norm`) to the float32 row at `address`; for use
    inside kernels. Every exact distance of an answer comes from here, so equal rows compare equal.
    """
    d = query.shape[0]
    if kind == _L2:
        total = np.float32(0)
        for j in range(d):
            gap = query[j] - load_f32(address, 4 * j)
            total += gap * gap
        return total
    inner = np.float32(0)
    if kind == _DOT:
        for j in range(d):
            inner += query[j] * load_f32(address, 4 * j)
        return -inner
    square = np.float32(0)
    for j in range(d):
        component = load_f32(address, 4 * j)
        inner += query[j] * component
        square += component * component
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
