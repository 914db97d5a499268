"""Exact neighbours, ties by row.

A float32 product finds a shortlist; float64 distances order it, and prove that it lacks nothing.
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int32]
SLACK = 32
"""Rows beyond k in a shortlist; one whose worst row might still beat the k-th is made again, longer."""
BATCH_BYTES = 256 << 20


def nearest(
    points: Floats, queries: Floats, k: int, passing: npt.NDArray[np.bool_] | None = None
) -> tuple[Rows, npt.NDArray[np.float64]]:
    """Return (int32[m, k'], float64[m, k']): rows and squared L2 distances, k' = min(k, passing rows).

    Order is by (distance, row). Distances are summed in float64 from the float32 coordinates.
    """
    rows = np.arange(len(points)) if passing is None else np.flatnonzero(passing)
    k = min(k, len(rows))
    found = np.empty((len(queries), k), np.int32)
    distances = np.empty((len(queries), k), np.float64)
    if k == 0:
        return found, distances
    pool = points if len(rows) == len(points) else points[rows]
    norms = np.einsum("ij,ij->i", pool, pool, dtype=np.float64).astype(np.float32)
    step = max(1, BATCH_BYTES // (4 * len(rows)))
    for start in range(0, len(queries), step):
        stop = min(start + step, len(queries))
        scores = norms - 2.0 * (queries[start:stop] @ pool.T)
        for i in range(stop - start):
            chosen, exact = order(pool, queries[start + i], scores[i], float(norms.max()), k)
            found[start + i], distances[start + i] = rows[chosen], exact
        if len(rows) * len(queries) > 10**8:
            print(f"\rexact neighbours: {stop} of {len(queries)} queries", end="", file=sys.stderr)
    if len(rows) * len(queries) > 10**8:
        print(file=sys.stderr)
    return found, distances


def order(
    pool: Floats, query: Floats, scores: Floats, largest_norm: float, k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the k best rows of `pool` and their float64 distances, given float32 scores to cut by."""
    norm = float(np.dot(query.astype(np.float64), query.astype(np.float64)))
    eps = float(np.finfo(np.float32).eps)
    # A float32 sum of `dim` products is off by at most dim * eps / 2 times both lengths; it counts twice.
    error = len(query) * eps * np.sqrt(largest_norm * norm) + 2.0 * eps * (largest_norm + norm)
    size = min(k + SLACK, len(pool))
    while True:
        if size < len(pool):
            short = np.argpartition(scores, size - 1)[:size]
            cut = float(scores[short].max()) + norm
        else:
            short, cut = np.arange(len(pool)), np.inf
        gaps = pool[short].astype(np.float64) - query.astype(np.float64)
        exact = np.einsum("ij,ij->i", gaps, gaps)
        best = np.lexsort((short, exact))[:k]
        if size == len(pool) or float(exact[best[-1]]) <= cut - error:
            return short[best].astype(np.int64), exact[best]
        size = min(4 * size, len(pool))
