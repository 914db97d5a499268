from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_data import clustered, examples

from tests import naive
from vstore_kernels import clusters


def check(order: clusters.ClusterOrder, vectors: np.ndarray) -> None:
    n = len(vectors)
    assert np.array_equal(np.sort(order.order), np.arange(n))
    sizes = np.diff(order.offsets)
    assert order.offsets[0] == 0
    assert order.offsets[-1] == n
    assert sizes.min() >= 1
    assert sizes.max() <= max(1, 4 * n / sizes.size)
    assert order.centroids.shape == (sizes.size, vectors.shape[1])
    for k, (start, stop) in enumerate(zip(order.offsets, order.offsets[1:], strict=False)):
        mean = vectors[order.order[start:stop]].mean(axis=0, dtype=np.float64)
        np.testing.assert_allclose(order.centroids[k], mean, rtol=1e-5, atol=1e-5)


@settings(max_examples=examples(25), deadline=None)
@given(st.integers(1, 400), st.integers(1, 5), st.integers(1, 80), st.integers(0, 99), st.booleans())
def test_order_is_a_balanced_numbering(n: int, d: int, rows: int, seed: int, copies: bool) -> None:
    vectors = clustered(n, d, seed, n_clusters=3)
    if copies:
        vectors = np.round(vectors / 8) * 8
    check(clusters.cluster_order(vectors, rows, seed), vectors)


def test_many_clusters_split_in_two_levels() -> None:
    vectors = clustered(3000, 4)
    order = clusters.cluster_order(vectors, 16)
    check(order, vectors)
    assert 100 < len(order.centroids) < 400


def test_threads_change_nothing() -> None:
    vectors = clustered(3000, 8)
    seen = []
    one = clusters.cluster_order(vectors, 100, n_threads=1)
    two = clusters.cluster_order(vectors, 100, n_threads=3, progress=lambda *at: seen.append(at))
    assert np.array_equal(one.order, two.order)
    assert np.array_equal(one.centroids, two.centroids)
    assert seen[-1] == (3000, 3000)


def test_identical_rows_are_cut_evenly() -> None:
    order = clusters.cluster_order(np.zeros((1000, 4), np.float32), 100)
    assert np.diff(order.offsets).tolist() == [100] * 10


def test_the_chain_follows_the_nearest_centroid() -> None:
    centroids = clustered(30, 4)
    assert clusters._chain(centroids).tolist() == naive.chain(centroids)


def test_near_ids_are_near_in_space() -> None:
    vectors = clustered(2000, 8)
    ordered = vectors[clusters.cluster_order(vectors, 50).order]
    step = np.linalg.norm(np.diff(ordered, axis=0), axis=1).mean()
    random_step = np.linalg.norm(np.diff(vectors, axis=0), axis=1).mean()
    assert step < 0.6 * random_step


@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_nearest_clusters(metric: str) -> None:
    rng = np.random.default_rng(0)
    query = rng.standard_normal(6).astype(np.float32)
    centroids = rng.standard_normal((20, 7 if metric == "dot" else 6)).astype(np.float32)
    got = clusters.nearest_clusters(query, centroids, metric)
    if metric == "dot":
        expected = np.argsort(-(centroids[:, :6] @ query))
    else:
        point = query / np.linalg.norm(query) if metric == "cosine" else query
        expected = np.argsort(((centroids - point) ** 2).sum(axis=1))
    assert got.dtype == np.int32
    assert got.tolist() == expected.tolist()
    with pytest.raises(ValueError, match="dimensions"):
        clusters.nearest_clusters(query[:3], centroids, metric)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="n is 0"):
        clusters.cluster_order(np.zeros((0, 4), np.float32))
    with pytest.raises(ValueError, match="cluster_rows 0"):
        clusters.cluster_order(np.zeros((1, 4), np.float32), 0)


def test_rows_end_near_the_nearest_mean() -> None:
    # More clusters than one flat split makes, so that rows may sit on the wrong side of an early border.
    vectors = clustered(4000, 6, n_clusters=200)
    order = clusters.cluster_order(vectors, 16)
    own = np.repeat(np.arange(len(order.centroids)), np.diff(order.offsets))
    gaps = ((vectors[order.order][:, None] - order.centroids) ** 2).sum(axis=2)
    assert (gaps.argmin(axis=1) == own).mean() > 0.8


def test_progress_never_goes_back() -> None:
    vectors = clustered(20_000, 16)
    seen: list[int] = []
    clusters.cluster_order(vectors, 64, progress=lambda done, n: seen.append(done))
    assert seen == sorted(seen)
    assert seen[-1] == 20_000
    assert len(set(seen)) > 50


def test_near_centroids_are_the_nearest() -> None:
    centroids = clustered(40, 5)
    got = clusters._near_centroids(centroids, 7, 2)
    gaps = ((centroids[:, None] - centroids) ** 2).sum(axis=2)
    assert np.array_equal(got, np.argsort(gaps, axis=1, kind="stable")[:, :7])
    assert clusters._near_centroids(centroids[:1], 1, 1).tolist() == [[0]]
