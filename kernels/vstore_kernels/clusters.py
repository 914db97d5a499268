"""Cluster order: k-means clusters of some hundred rows, balanced, chained so that near clusters have near
ids.

The order depends on the data, the seed and the sizes only: rows are assigned by a kernel in fixed chunks, not
by a BLAS whose sums depend on its threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels import gate
from vstore_kernels.distance import squared_l2
from vstore_kernels.jit import sum_kernel
from vstore_kernels.layout import METRICS
from vstore_kernels.near import cluster_distances
from vstore_kernels.parallel import run_chunks

_MAX_BRANCH: Final = 128
_SAMPLE_PER_CLUSTER: Final = 64
_ITERATIONS: Final = 8
_CHUNK_ROWS: Final = 2_048
_MAX_IMBALANCE: Final = 4
_CHAIN_WINDOW: Final = 8_192

Progress = Callable[[int, int], None]
_Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ClusterOrder:
    """A numbering of rows by cluster."""

    order: NDArray[np.int64]
    """int64 [n]: the old row of each new id."""
    offsets: NDArray[np.int64]
    """int64 [K + 1]: cluster k holds the new ids [offsets[k], offsets[k + 1])."""
    centroids: NDArray[np.float32]
    """float32 [K, d']: the mean of each cluster's rows."""


def cluster_order(
    space: NDArray[np.float32],
    cluster_rows: int = 512,
    seed: int = 0,
    n_threads: int = 1,
    progress: Progress | None = None,
) -> ClusterOrder:
    """Return the cluster order of `space` (float32 [n, d'], n >= 1, finite).

    Clusters have about `cluster_rows` rows, none more than four times the mean. The result is the same for
    any `n_threads`. `progress(done, n)` is called now and then with the rows placed.

    Raises:
        TypeError: not float32.
        ValueError: no rows, or cluster_rows or n_threads below 1.
    """
    gate.array("space", space, np.float32, 2)
    n = space.shape[0]
    if n == 0 or cluster_rows < 1 or n_threads < 1:
        raise ValueError(
            f"n is {n}, cluster_rows {cluster_rows}, n_threads {n_threads}; each must be 1 or more"
        )
    splitter = _Splitter(space, np.random.default_rng(seed), n_threads, n, progress)
    parts = splitter.split(np.arange(n, dtype=np.int64), cluster_rows)
    while True:
        # The split raises the number of clusters, hence lowers the mean: look again until it holds.
        limit = _MAX_IMBALANCE * n / len(parts)
        if max(part.size for part in parts) <= limit:
            break
        parts = [piece for part in parts for piece in (splitter.halve(part) if part.size > limit else [part])]
    centroids = np.stack([_mean(space, part) for part in parts])
    chain = _chain(centroids)
    centroids = np.ascontiguousarray(centroids[chain])
    ordered = [_along_chain(space, parts[c], centroids, k) for k, c in enumerate(chain)]
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([part.size for part in ordered], out=offsets[1:])
    if progress is not None:
        progress(n, n)
    return ClusterOrder(np.concatenate(ordered), offsets, centroids)


def nearest_clusters(
    query: NDArray[np.float32], centroids: NDArray[np.float32], metric: str
) -> NDArray[np.int32]:
    """Return all cluster numbers (int32 [K]), nearest first.

    Args:
        query: float32 [d], as the caller gave it.
        centroids: float32 [K, d'], d' = d, or d + 1 under dot (the augmented space).
        metric: orders by squared L2; under cosine after normalising the query; under dot by -query.centroid,
            which
            is what the mean score of a cluster's rows comes to.

    Raises:
        TypeError: a wrong dtype.
        ValueError: dimensions that do not agree, or an unknown metric.
    """
    gate.array("query", query, np.float32, 1)
    gate.array("centroids", centroids, np.float32, 2)
    gate.metric(metric)
    expected = query.size + (metric == "dot")
    if centroids.shape[1] != expected:
        raise ValueError(
            f"centroids have {centroids.shape[1]} dimensions; under {metric} this query needs {expected}"
        )
    distances = np.empty(centroids.shape[0], np.float32)
    cluster_distances(query, centroids, METRICS.index(metric), distances)
    return np.argsort(distances, kind="stable").astype(np.int32)


class _Splitter:
    """Splits sets of rows by k-means, top down."""

    def __init__(
        self,
        space: NDArray[np.float32],
        rng: np.random.Generator,
        n_threads: int,
        n: int,
        progress: Progress | None,
    ) -> None:
        self._space, self._rng, self._n_threads = space, rng, n_threads
        self._n, self._placed, self._progress = n, 0, progress

    def split(self, rows: _Ids, cluster_rows: int) -> list[_Ids]:
        """Return `rows` in parts of at most twice `cluster_rows`."""
        wanted = -(-rows.size // cluster_rows)
        if rows.size <= cluster_rows * 3 // 2 or wanted < 2:
            self._report(rows.size)
            return [rows]
        branch = wanted if wanted <= _MAX_BRANCH else min(_MAX_BRANCH, math.isqrt(wanted - 1) + 1)
        pieces = self._kmeans(rows, branch)
        if max(piece.size for piece in pieces) == rows.size:
            pieces = _cut(rows, wanted)
            self._report(rows.size)
            return pieces
        out: list[_Ids] = []
        for piece in pieces:
            # A flat split is final unless a part is too large; parts of an inner level go on.
            if wanted <= _MAX_BRANCH and piece.size <= 2 * cluster_rows:
                self._report(piece.size)
                out.append(piece)
            else:
                out.extend(self.split(piece, cluster_rows))
        return out

    def halve(self, rows: _Ids) -> list[_Ids]:
        """Return `rows` in two parts or a few."""
        pieces = self._kmeans(rows, 2)
        if min(piece.size for piece in pieces) * 8 < rows.size or len(pieces) < 2:
            return _cut(rows, 2)
        return pieces

    def _kmeans(self, rows: _Ids, k: int) -> list[_Ids]:
        """Return the non-empty clusters of `rows`, each ascending."""
        sample_size = min(rows.size, k * _SAMPLE_PER_CLUSTER)
        sample = rows if sample_size == rows.size else self._rng.choice(rows, sample_size, replace=False)
        points = self._space[sample]
        centroids = points[self._rng.choice(sample_size, k, replace=False)].copy()
        everything = np.arange(sample_size, dtype=np.int64)
        for _ in range(_ITERATIONS):
            labels = self._assign(points, everything, centroids)
            order = np.argsort(labels, kind="stable")
            counts = np.bincount(labels, minlength=k)
            starts = np.cumsum(counts) - counts
            largest = order[starts[counts.argmax()] :][: counts.max()]
            for c in range(k):
                if counts[c]:
                    centroids[c] = _mean(points, order[starts[c] : starts[c] + counts[c]])
                else:
                    centroids[c] = points[largest[self._rng.integers(largest.size)]]
        labels = self._assign(self._space, rows, centroids)
        order = np.argsort(labels, kind="stable")
        bounds = np.cumsum(np.bincount(labels, minlength=k))[:-1]
        return [part for part in np.split(rows[order], bounds) if part.size]

    def _assign(
        self, points: NDArray[np.float32], rows: _Ids, centroids: NDArray[np.float32]
    ) -> NDArray[np.int32]:
        labels = np.empty(rows.size, np.int32)
        starts = range(0, rows.size, _CHUNK_ROWS)
        run_chunks(
            lambda start: _assign_rows(
                points, rows, centroids, start, min(start + _CHUNK_ROWS, rows.size), labels
            ),
            starts,
            self._n_threads,
        )
        return labels

    def _report(self, n_rows: int) -> None:
        self._placed += n_rows
        if self._progress is not None:
            self._progress(min(self._placed, self._n), self._n)


def _mean(points: NDArray[np.float32], rows: NDArray[np.integer]) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = points[rows].mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def _cut(rows: _Ids, k: int) -> list[_Ids]:
    """Return `rows` in k runs of equal length: for rows that k-means cannot tell apart."""
    return [part for part in np.array_split(rows, k) if part.size]


def _chain(centroids: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the order in which each centroid is followed by its nearest one not yet placed."""
    K = centroids.shape[0]
    out = np.empty(K, np.int64)
    last = -1
    for start in range(0, K, _CHAIN_WINDOW):
        stop = min(start + _CHAIN_WINDOW, K)
        _chain_window(centroids, start, stop, last, np.arange(start, stop), out)
        last = int(out[stop - 1])
    return out


def _along_chain(space: NDArray[np.float32], rows: _Ids, centroids: NDArray[np.float32], k: int) -> _Ids:
    """Return a cluster's rows sorted from its predecessor's side to its successor's."""
    before, after = centroids[max(k - 1, 0)], centroids[min(k + 1, centroids.shape[0] - 1)]
    along = np.empty(rows.size, np.float32)
    _project(space, rows, after - before, along)
    return rows[np.argsort(along, kind="stable")]


@sum_kernel()
def _project(
    space: NDArray[np.float32],
    rows: NDArray[np.int64],
    direction: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    for t in range(rows.shape[0]):
        total = np.float32(0)
        for j in range(direction.shape[0]):
            total += space[rows[t], j] * direction[j]
        out[t] = total


@sum_kernel()
def _assign_rows(
    points: NDArray[np.float32],
    rows: NDArray[np.int64],
    centroids: NDArray[np.float32],
    start: int,
    stop: int,
    labels: NDArray[np.int32],
) -> None:
    for t in range(start, stop):
        point = points[rows[t]]
        best = np.float32(np.inf)
        label = 0
        for c in range(centroids.shape[0]):
            distance = squared_l2(point, centroids, c)
            if distance < best:
                best = distance
                label = c
        labels[t] = label


@sum_kernel()
def _chain_window(
    centroids: NDArray[np.float32],
    start: int,
    stop: int,
    last: int,
    left: NDArray[np.int64],
    out: NDArray[np.int64],
) -> None:
    n_left = stop - start
    current = np.int64(last)
    for t in range(start, stop):
        pick = 0
        if current >= 0:
            best = np.float32(np.inf)
            for s in range(n_left):
                distance = squared_l2(centroids[current], centroids, left[s])
                if distance < best:
                    best = distance
                    pick = s
        current = left[pick]
        out[t] = current
        n_left -= 1
        left[pick] = left[n_left]
