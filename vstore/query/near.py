"""How a filter lies around a query, in microseconds: what plans that depend on the query ask of every one."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from vstore.shard.calibration.curves import Coarse
from vstore.shard.head import ShardHead
from vstore.types import Float32s, Float64s, Int64s
from vstore_kernels.nearness import CORRELATION, NOVELTY, Nearness

NEAR_CLUSTERS: Final = 16
"""How many of the query's nearest clusters the correlation of a filter is read from, at most."""
NEAR_PASSING: Final = 64
"""How many passing rows there settle it."""


class Look(NamedTuple):
    """How a filter lies around m queries."""

    correlations: Float64s
    """float64[m], of each, as `NearClusters.correlation`."""
    novelties: Float64s
    """float64[m], `Coarse.novelty` of each."""
    gaps: Float32s
    """float32[m, K], the distances of the clusters from each, as far as order needs them."""


class NearClusters:
    """The correlation of one filter with queries: the passing share near them over the share overall.

    Near are a query's nearest clusters up to where NEAR_PASSING passing rows are met, at most
    NEAR_CLUSTERS; of the last cluster only the part that holds the rows still wanted counts. Thread-safe.

    Args:
        head: of the shard.
        counts: int64[K], the passing rows of each cluster; at least one passes.
        coarse: tells how novel queries are; without it none is.
    """

    def __init__(self, head: ShardHead, counts: Int64s, coarse: Coarse | None = None) -> None:
        self._nearness = Nearness(
            np.ascontiguousarray(head.centroids),
            head.dim,
            counts,
            np.diff(head.cluster_offsets),
            head.metric,
            np.empty(0, np.int64) if coarse is None else coarse.numbers,
            np.empty(0, np.float32) if coarse is None else coarse.scales,
            n_near=min(NEAR_CLUSTERS, len(head.centroids)),
            enough=NEAR_PASSING,
        )

    def correlation(self, query: Float32s) -> float:
        """Return the correlation with one query (float32[d], raw)."""
        return self.correlation_and_novelty(query)[0]

    def correlation_and_novelty(self, query: Float32s) -> tuple[float, float]:
        """Return the correlation with one query (float32[d], raw), and `Coarse.novelty` of it."""
        ((correlation, novelty),) = self._nearness.of(query.reshape(1, -1)).tolist()
        return correlation, novelty

    def look(self, queries: Float32s) -> Look:
        """Return how the filter lies around queries (float32[m, d], raw, C-contiguous)."""
        gaps = np.empty((len(queries), self._nearness.n_clusters), np.float32)
        found = self._nearness.of(queries, gaps)
        return Look(found[:, CORRELATION], found[:, NOVELTY], gaps)
