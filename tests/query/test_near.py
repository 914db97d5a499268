"""The correlation of a filter with one query, with many, and by the plain definition, agree."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from vstore.query.near import NEAR_CLUSTERS, NEAR_PASSING, NearClusters
from vstore_kernels.clusters import nearest_clusters

DIM = 12


def plain(query, head, counts) -> float:
    """By the words of the definition, one row of a cluster after the other."""
    sizes = np.diff(head.cluster_offsets)
    rows, met = 0.0, 0
    for cluster in nearest_clusters(query, head.centroids, head.metric)[:NEAR_CLUSTERS]:
        if met + counts[cluster] > NEAR_PASSING:
            part = (NEAR_PASSING - met) / counts[cluster]
            rows += sizes[cluster] * part
            met = NEAR_PASSING
        else:
            rows, met = rows + sizes[cluster], met + counts[cluster]
        if met == NEAR_PASSING:
            break
    return (met / rows) / (counts.sum() / head.n)


@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
@pytest.mark.parametrize("n_clusters", [1, 7, 16, 17, 300])
@pytest.mark.parametrize("share", [0.001, 0.02, 0.5, 1.0])
def test_one_many_and_the_definition(metric, n_clusters, share):
    rng = np.random.default_rng(n_clusters)
    sizes = rng.integers(10, 120, n_clusters)
    counts = rng.binomial(sizes, share)
    counts[0] = max(counts[0], 1)
    centroids = rng.standard_normal((n_clusters, DIM + (metric == "dot"))).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    head = SimpleNamespace(
        centroids=centroids, metric=metric, dim=DIM, cluster_offsets=offsets, n=int(offsets[-1])
    )
    near = NearClusters(head, counts.astype(np.int64))
    queries = rng.standard_normal((300, DIM)).astype(np.float32)
    many = near.look(queries).correlations
    assert many == pytest.approx([near.correlation(query) for query in queries], rel=1e-12)
    for query, found in zip(queries[:40], many, strict=False):
        # Rows of the last cluster are counted whole.
        assert found == pytest.approx(plain(query, head, counts), rel=1 / 20 if share == 1.0 else 0.05)
    assert near.look(queries[:0]).correlations.shape == (0,)
