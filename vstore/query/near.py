"""How a filter lies around a query, in microseconds: what plans that depend on the query ask of every one."""

from __future__ import annotations

from typing import Final

import numpy as np

from vstore.shard.head import ShardHead
from vstore.types import Float32s, Float64s, Int64s
from vstore_kernels.near import products

NEAR_CLUSTERS: Final = 16
"""How many of the query's nearest clusters the correlation of a filter is read from, at most."""
NEAR_PASSING: Final = 64
"""How many passing rows there settle it."""
_CHUNK_QUERIES: Final = 256
_SORT_CLUSTERS: Final = 128
"""Up to so many are sorted sooner than the nearest are sifted out."""


class NearClusters:
    """The correlation of one filter with queries: the passing share near them over the share overall.

    Near are a query's nearest clusters up to where NEAR_PASSING passing rows are met, at most
    NEAR_CLUSTERS; of the last cluster only the part that holds the rows still wanted counts. Thread-safe.

    Args:
        head: of the shard.
        counts: int64[K], the passing rows of each cluster; at least one passes.
    """

    def __init__(self, head: ShardHead, counts: Int64s) -> None:
        centroids, dim = head.centroids, head.dim
        self._unit = head.metric == "cosine"
        # Under dot the last column lifts rows into the space of the graph; queries have none.
        self._doubled = np.ascontiguousarray(-2 * centroids[:, :dim])
        self._squares = np.zeros(len(centroids), np.float32)
        if head.metric != "dot":
            self._squares = np.einsum("ij,ij->i", centroids, centroids)
        self._counts, self._sizes = counts, np.diff(head.cluster_offsets)
        self._plain = list(zip(counts.tolist(), self._sizes.tolist(), strict=True))
        self._n_near = min(NEAR_CLUSTERS, len(centroids))
        self._overall = int(counts.sum()) / head.n

    def correlation(self, query: Float32s) -> float:
        """Return the correlation with one query (float32[d], raw)."""
        if self._unit:
            query = query / np.float32(np.sqrt(query.dot(query)))
        gaps = products(query.reshape(1, -1), self._doubled)[0]
        gaps += self._squares
        if len(gaps) > _SORT_CLUSTERS:
            near = gaps.argpartition(self._n_near - 1)[: self._n_near]
            near = near[gaps[near].argsort(kind="stable")]
        else:
            near = gaps.argsort(kind="stable")[: self._n_near]
        rows = met = 0
        for cluster in near.tolist():
            count, size = self._plain[cluster]
            rows, met = rows + size, met + count
            if met >= NEAR_PASSING:
                if met > NEAR_PASSING:
                    rows -= int(size * (1 - (NEAR_PASSING - (met - count)) / count))
                    met = NEAR_PASSING
                break
        return (met / rows) / self._overall if rows else 1.0

    def correlations(self, queries: Float32s) -> Float64s:
        """Return float64[m] for queries (float32[m, d], raw): `correlation` of each."""
        out = np.empty(len(queries), np.float64)
        for start in range(0, len(queries), _CHUNK_QUERIES):
            out[start : start + _CHUNK_QUERIES] = self._of_some(queries[start : start + _CHUNK_QUERIES])
        return out

    def _of_some(self, queries: Float32s) -> Float64s:
        if self._unit:
            queries = queries / np.sqrt(np.einsum("ij,ij->i", queries, queries))[:, None]
        near = self._nearest(products(np.ascontiguousarray(queries), self._doubled) + self._squares)
        counts, sizes = self._counts[near], self._sizes[near]
        passing = counts.cumsum(axis=1)
        enough = passing >= NEAR_PASSING
        last = np.where(enough.any(axis=1), enough.argmax(axis=1), near.shape[1] - 1)
        line = np.arange(len(queries))
        met, rows = passing[line, last], sizes.cumsum(axis=1)[line, last]
        own, size = np.maximum(counts[line, last], 1), sizes[line, last]
        beyond = (size * (1 - (NEAR_PASSING - (met - counts[line, last])) / own)).astype(np.int64)
        rows = np.where(met > NEAR_PASSING, rows - beyond, rows)
        share = np.minimum(met, NEAR_PASSING) / np.maximum(rows, 1)
        return np.where(rows > 0, share / self._overall, 1.0)

    def _nearest(self, gaps: Float32s) -> Int64s:
        """Return int64[m, NEAR_CLUSTERS]: the columns of the least gaps (float32[m, K]), least first."""
        if gaps.shape[1] > self._n_near:
            near = np.argpartition(gaps, self._n_near - 1, axis=1)[:, : self._n_near]
            order = np.argsort(np.take_along_axis(gaps, near, axis=1), axis=1, kind="stable")
            return np.take_along_axis(near, order, axis=1)
        return np.argsort(gaps, axis=1, kind="stable")
