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
from vstore_kernels.cluster_rows import DIRECTIONS, along_neighbors, mean_rows
from vstore_kernels.distance import squared_l2
from vstore_kernels.jit import kernel
from vstore_kernels.layout import METRICS
from vstore_kernels.near import cluster_distances
from vstore_kernels.parallel import run_chunks
from vstore_kernels.sums import row_squares

_MAX_BRANCH: Final = 128
_SAMPLE_PER_CLUSTER: Final = 64
_ITERATIONS: Final = 8
# Components read by one call of the assignment: some milliseconds.
_CHUNK_WORK: Final = 16_000_000
# Of the work; the refinements share the rest with the ordering.
_SPLIT_SHARE: Final = 0.7
_BEFORE_ORDERING: Final = 0.9
_MAX_IMBALANCE: Final = 4
_CHAIN_WINDOW: Final = 8_192
_CHAIN_STEPS: Final = 64
_REFINEMENTS: Final = 2
# Nearest centroids that a row may move to.
_NEAR: Final = 128
_CHUNK_CLUSTERS: Final = 8

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
    # A flat split has no early borders.
    for _ in range(_REFINEMENTS if len(parts) > _MAX_BRANCH else 0):
        parts = splitter.refine(parts)
    while True:
        # The split raises the number of clusters, hence lowers the mean: look again until it holds.
        limit = _MAX_IMBALANCE * n / len(parts)
        if max(part.size for part in parts) <= limit:
            break
        parts = [piece for part in parts for piece in (splitter.halve(part) if part.size > limit else [part])]
    centroids = _means(space, parts, n_threads)
    chain = _chain(centroids)
    centroids = np.ascontiguousarray(centroids[chain])
    parts = [parts[c] for c in chain.tolist()]
    near = _near_centroids(centroids, min(DIRECTIONS + 1, len(parts)), n_threads)
    ordered: list[_Ids] = list(parts)

    def order_cluster(k: int) -> None:
        ordered[k] = along_neighbors(space, parts[k], centroids, near[k], max(k - 1, 0))

    for start in range(0, len(parts), _CHUNK_CLUSTERS * n_threads):
        run_chunks(order_cluster, range(len(parts))[start : start + _CHUNK_CLUSTERS * n_threads], n_threads)
        splitter.report_ordered(start / len(parts))
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([part.size for part in ordered], out=offsets[1:])
    if progress is not None:
        progress(n, n)
    return ClusterOrder(np.concatenate(ordered), offsets, centroids)


def nearest_clusters(
    query: NDArray[np.float32], centroids: NDArray[np.float32], metric: str
) -> NDArray[np.int32]:
    """Return all cluster numbers (int32 [K]), nearest first; arguments as for `cluster_gaps`.

    Raises:
        TypeError, ValueError: as there.
    """
    return np.argsort(cluster_gaps(query, centroids, metric), kind="stable").astype(np.int32)


def cluster_gaps(
    query: NDArray[np.float32], centroids: NDArray[np.float32], metric: str
) -> NDArray[np.float32]:
    """Return the distance of each cluster as far as order needs it, float32 [K] (`near.cluster_distances`).

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
    squares = row_squares(centroids, query.size)
    cluster_distances(query, centroids, squares, METRICS.index(metric), distances)
    return distances


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
        self._n, self._done, self._progress = n, 0.0, progress

    def split(self, rows: _Ids, cluster_rows: int, share: float = _SPLIT_SHARE) -> list[_Ids]:
        """Return `rows` in parts of at most twice `cluster_rows`; that is `share` of the work on them."""
        wanted = -(-rows.size // cluster_rows)
        if rows.size <= cluster_rows * 3 // 2 or wanted < 2:
            self._report(rows.size * share)
            return [rows]
        branch = wanted if wanted <= _MAX_BRANCH else min(_MAX_BRANCH, math.isqrt(wanted - 1) + 1)
        pieces = self._kmeans(rows, branch, share / 2)
        if max(piece.size for piece in pieces) == rows.size:
            pieces = _cut(rows, wanted)
            self._report(rows.size * share / 2)
            return pieces
        out: list[_Ids] = []
        for piece in pieces:
            # A flat split is final unless a part is too large; parts of an inner level go on.
            if wanted <= _MAX_BRANCH and piece.size <= 2 * cluster_rows:
                self._report(piece.size * share / 2)
                out.append(piece)
            else:
                out.extend(self.split(piece, cluster_rows, share / 2))
        return out

    def halve(self, rows: _Ids) -> list[_Ids]:
        """Return `rows` in two parts or a few."""
        pieces = self._kmeans(rows, 2, 0)
        if min(piece.size for piece in pieces) * 8 < rows.size or len(pieces) < 2:
            return _cut(rows, 2)
        return pieces

    def refine(self, parts: list[_Ids]) -> list[_Ids]:
        """Return `parts` after each row went to the nearest mean among those near its own part's.

        Splitting from the top leaves rows on the wrong side of its early borders.
        """
        centroids = _means(self._space, parts, self._n_threads)
        near = _near_centroids(centroids, min(_NEAR, len(parts)), self._n_threads)
        moved: list[NDArray[np.int32]] = [np.empty(part.size, np.int32) for part in parts]

        def move(c: int) -> None:
            _move_rows(self._space, parts[c], centroids, near[c], moved[c])

        share = (1 - _SPLIT_SHARE) / (_REFINEMENTS + 1) / len(parts)
        for start in range(0, len(parts), _CHUNK_CLUSTERS * self._n_threads):
            chunk = range(start, min(start + _CHUNK_CLUSTERS * self._n_threads, len(parts)))
            run_chunks(move, chunk, self._n_threads)
            self._report(len(chunk) * share * self._n)
        rows, labels = np.concatenate(parts), np.concatenate(moved)
        order = np.lexsort((rows, labels))
        bounds = np.cumsum(np.bincount(labels, minlength=len(parts)))[:-1]
        return [part for part in np.split(rows[order], bounds) if part.size]

    def _kmeans(self, rows: _Ids, k: int, share: float) -> list[_Ids]:
        """Return the non-empty clusters of `rows`, each ascending."""
        sample_size = min(rows.size, k * _SAMPLE_PER_CLUSTER)
        sample = rows if sample_size == rows.size else self._rng.choice(rows, sample_size, replace=False)
        points = self._space[sample]
        centroids = points[self._rng.choice(sample_size, k, replace=False)].copy()
        everything = np.arange(sample_size, dtype=np.int64)
        sums = np.empty(points.shape[1])
        for _ in range(_ITERATIONS):
            labels = self._assign(points, everything, centroids)
            order = np.argsort(labels, kind="stable")
            counts = np.bincount(labels, minlength=k)
            starts = np.cumsum(counts) - counts
            largest = order[starts[counts.argmax()] :][: counts.max()]
            for c in range(k):
                if counts[c]:
                    mean_rows(points, order[starts[c] : starts[c] + counts[c]], sums, centroids[c])
                else:
                    centroids[c] = points[largest[self._rng.integers(largest.size)]]
        labels = self._assign(self._space, rows, centroids, share)
        order = np.argsort(labels, kind="stable")
        bounds = np.cumsum(np.bincount(labels, minlength=k))[:-1]
        return [part for part in np.split(rows[order], bounds) if part.size]

    def _assign(
        self, points: NDArray[np.float32], rows: _Ids, centroids: NDArray[np.float32], share: float = 0
    ) -> NDArray[np.int32]:
        labels = np.empty(rows.size, np.int32)
        size = max(16, _CHUNK_WORK // (centroids.size + 1))

        def assign(start: int) -> None:
            _assign_rows(points, rows, centroids, start, min(start + size, rows.size), labels)

        # Some chunks at a time, so that the bar moves.
        step = size * 8 * self._n_threads
        for start in range(0, rows.size, step):
            stop = min(start + step, rows.size)
            run_chunks(assign, range(start, stop, size), self._n_threads)
            if share:
                self._report((stop - start) * share)
        return labels

    def report_ordered(self, part: float) -> None:
        """Report that this part of the ordering, which comes last, is done."""
        before = max(self._done, self._n * _BEFORE_ORDERING)
        if self._progress is not None:
            self._progress(min(int(before + (self._n - before) * part), self._n), self._n)

    def _report(self, n_rows: float) -> None:
        self._done += n_rows
        if self._progress is not None:
            self._progress(min(int(self._done), self._n), self._n)


def _means(space: NDArray[np.float32], parts: list[_Ids], n_threads: int) -> NDArray[np.float32]:
    """Return float32 [K, d']: the mean of each part's rows, summed in float64."""
    out = np.empty((len(parts), space.shape[1]), np.float32)

    def mean(c: int) -> None:
        mean_rows(space, parts[c], np.empty(space.shape[1]), out[c])

    run_chunks(mean, range(len(parts)), n_threads)
    return out


def _near_centroids(centroids: NDArray[np.float32], m: int, n_threads: int) -> NDArray[np.int32]:
    """Return int32 [K, m]: for each centroid the m nearest, itself first."""
    K = centroids.shape[0]
    out = np.empty((K, m), np.int32)

    def find(start: int) -> None:
        stop = min(start + _CHUNK_CLUSTERS, K)
        _nearest_rows(centroids, start, stop, np.empty(m, np.float32), out)

    run_chunks(find, range(0, K, _CHUNK_CLUSTERS), n_threads)
    return out


def _cut(rows: _Ids, k: int) -> list[_Ids]:
    """Return `rows` in k runs of equal length: for rows that k-means cannot tell apart."""
    return [part for part in np.array_split(rows, k) if part.size]


def _chain(centroids: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the order in which each centroid is followed by its nearest one not yet placed."""
    K = centroids.shape[0]
    out = np.empty(K, np.int64)
    for start in range(0, K, _CHAIN_WINDOW):
        stop = min(start + _CHAIN_WINDOW, K)
        left = np.arange(start, stop)
        # Some steps a call, between which Ctrl-C comes through.
        for step in range(start, stop, _CHAIN_STEPS):
            _chain_steps(centroids, step, min(step + _CHAIN_STEPS, stop), stop - step, left, out)
    return out


@kernel()
def _nearest_rows(
    centroids: NDArray[np.float32],
    start: int,
    stop: int,
    distances: NDArray[np.float32],
    out: NDArray[np.int32],
) -> None:
    m = out.shape[1]
    for c in range(start, stop):
        out[c, 0] = c
        size = 1
        for other in range(centroids.shape[0]):
            if other == c:
                continue
            distance = squared_l2(centroids[c], centroids, other)
            if size == m and (m == 1 or not distance < distances[m - 1]):
                continue
            at = size if size < m else m - 1
            size = min(size + 1, m)
            while at > 1 and distances[at - 1] > distance:
                distances[at] = distances[at - 1]
                out[c, at] = out[c, at - 1]
                at -= 1
            distances[at] = distance
            out[c, at] = other


@kernel()
def _move_rows(
    space: NDArray[np.float32],
    rows: NDArray[np.int64],
    centroids: NDArray[np.float32],
    near: NDArray[np.int32],
    labels: NDArray[np.int32],
) -> None:
    """Write for each row the nearest of the `near` centroids, the first one where others are no nearer."""
    for t in range(rows.shape[0]):
        point = space[rows[t]]
        best = np.float32(np.inf)
        label = near[0]
        for s in range(near.shape[0]):
            distance = squared_l2(point, centroids, np.int64(near[s]))
            if distance < best:
                best = distance
                label = near[s]
        labels[t] = label


@kernel()
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


@kernel()
def _chain_steps(
    centroids: NDArray[np.float32],
    start: int,
    stop: int,
    n_left: int,
    left: NDArray[np.int64],
    out: NDArray[np.int64],
) -> None:
    for t in range(start, stop):
        pick = 0
        if t > 0:
            best = np.float32(np.inf)
            for s in range(n_left):
                distance = squared_l2(centroids[out[t - 1]], centroids, left[s])
                if distance < best:
                    best = distance
                    pick = s
        out[t] = left[pick]
        n_left -= 1
        left[pick] = left[n_left]
