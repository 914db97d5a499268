"""How a filter lies around a query, in microseconds: what plans that depend on the query ask of every one."""

from __future__ import annotations

from typing import Final

import numpy as np

from vstore.shard.calibration.curves import Coarse
from vstore.shard.head import ShardHead
from vstore.types import Float32s, Float64s, Int64s
from vstore_kernels.nearness import CORRELATION, Nearness

NEAR_CLUSTERS: Final = 16
"""How many of the query's nearest clusters the correlation of a filter is read from, at most."""
NEAR_PASSING: Final = 64
"""How many passing rows there settle it."""


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
        # Under dot the last column lifts rows into the space of the graph; queries have none.
        centroids = np.ascontiguousarray(head.centroids[:, : head.dim])
        squares = np.zeros(len(centroids), np.float32)
        if head.metric != "dot":
            squares = np.einsum("ij,ij->i", centroids, centroids)
        self._nearness = Nearness(
            centroids,
            squares,
            counts,
            np.diff(head.cluster_offsets),
            np.empty((0, head.dim), np.float32) if coarse is None else coarse.centroids,
            unit=head.metric == "cosine",
            directions=coarse is not None and coarse.directions,
            n_near=min(NEAR_CLUSTERS, len(centroids)),
            enough=NEAR_PASSING,
        )

    def correlation(self, query: Float32s) -> float:
        """Return the correlation with one query (float32[d], raw)."""
        return self.correlation_and_novelty(query)[0]

    def correlation_and_novelty(self, query: Float32s) -> tuple[float, float]:
        """Return the correlation with one query (float32[d], raw), and `Coarse.novelty` of it."""
        ((correlation, novelty),) = self._nearness.of(query.reshape(1, -1)).tolist()
        return correlation, novelty

    def correlations(self, queries: Float32s) -> Float64s:
        """Return float64[m] for queries (float32[m, d], raw, C-contiguous): `correlation` of each."""
        return self._nearness.of(queries)[:, CORRELATION]
