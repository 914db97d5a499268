"""What plans ask of queries, in one call: the slow twin's correlation and novelty, query by query."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import naive
from vstore_kernels.clusters import cluster_gaps
from vstore_kernels.layout import METRICS
from vstore_kernels.near import novelty
from vstore_kernels.nearness import CORRELATION, NOVELTY, Nearness
from vstore_kernels.sums import row_squares

D = 9


def made(rng, K: int, n_coarse: int, metric: str, n_near: int, enough: int):
    centroids = rng.standard_normal((K, D + (metric == "dot"))).astype(np.float32)
    sizes = rng.integers(0, 50, K)
    sizes[0] = max(sizes[0], 1)
    counts = rng.binomial(sizes, rng.choice([0.02, 0.3, 1.0]))
    counts[0] = max(counts[0], 1)
    chosen = np.sort(rng.permutation(K)[:n_coarse])
    coarse = centroids[chosen, :D]
    scales = np.ones(len(chosen), np.float32)
    if metric == "dot":
        scales = (1 / np.linalg.norm(coarse, axis=1)).astype(np.float32)
    nearness = Nearness(centroids, D, counts, sizes, metric, chosen, scales, n_near=n_near, enough=enough)
    return nearness, centroids, counts, sizes, np.ascontiguousarray(coarse * scales[:, None])


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(0, 5),
    st.sampled_from(METRICS),
    st.integers(1, 16),
    st.integers(1, 80),
    st.integers(0, 999),
)
def test_agrees_with_the_slow_twin(K, n_coarse, metric, n_near, enough, seed) -> None:
    rng = np.random.default_rng(seed)
    n_near, n_coarse = min(n_near, K), min(n_coarse, K)
    own, centroids, counts, sizes, coarse = made(rng, K, n_coarse, metric, n_near, enough)
    directions = metric != "l2"
    queries = rng.standard_normal((5, D)).astype(np.float32)
    gaps = np.full((5, K), np.nan, np.float32)
    found = own.of(queries, gaps)
    assert found.shape == (5, 2)
    squares = row_squares(coarse, D)
    for i, (query, (correlation, novel)) in enumerate(zip(queries, found.tolist(), strict=True)):
        # The order of the clusters is that of a query alone, bit for bit.
        assert gaps[i].tolist() == cluster_gaps(query, centroids, metric).tolist()
        expected = naive.correlation(gaps[i].tolist(), counts.tolist(), sizes.tolist(), n_near, enough)
        # A row more or less of the last cluster, where the part of it is a whole number but for rounding.
        assert correlation == pytest.approx(expected, rel=1e-9) or abs(1 / correlation - 1 / expected) <= 1.1
        if n_coarse:
            assert novel == pytest.approx(naive.novelty(query, coarse, directions), rel=1e-4, abs=1e-5)
            alone = float(novelty(query[None], coarse, squares, directions)[0])
            assert novel == pytest.approx(alone, rel=1e-4, abs=1e-5)
        else:
            assert novel == 0.0
        assert own.of(queries[i : i + 1])[0].tolist() == found[i].tolist()


@pytest.mark.parametrize("metric", METRICS)
def test_a_zero_query_has_a_place_too(metric) -> None:
    own, *_ = made(np.random.default_rng(0), 7, 3, metric, 4, 20)
    found = own.of(np.zeros((1, D), np.float32))
    assert np.isfinite(found).all()
    assert found[0, NOVELTY] > 0 < found[0, CORRELATION]


def test_wrong_input_is_refused() -> None:
    own, centroids, counts, sizes, _ = made(np.random.default_rng(0), 7, 3, "l2", 4, 20)
    with pytest.raises(ValueError, match="queries have 3 dimensions"):
        own.of(np.ones((1, 3), np.float32))
    with pytest.raises(TypeError, match="float64"):
        own.of(np.ones((1, D)))
    with pytest.raises(ValueError, match=r"gaps have shape \(2, 7\)"):
        own.of(np.ones((1, D), np.float32), np.ones((2, 7), np.float32))
    nobody = (np.empty(0, np.int64), np.empty(0, np.float32))

    def again(counts=counts, metric="l2", coarse=nobody, n_near=4, enough=20) -> None:
        Nearness(centroids, D, counts, sizes, metric, *coarse, n_near=n_near, enough=enough)

    with pytest.raises(ValueError, match="do not agree"):
        again(counts=counts[1:])
    with pytest.raises(ValueError, match="do not agree"):
        again(metric="dot")
    with pytest.raises(ValueError, match="coarse holds 1 to 7"):
        again(coarse=(np.array([1, 7]), np.ones(2, np.float32)))
    with pytest.raises(ValueError, match="n_near is 8"):
        again(n_near=8)
    with pytest.raises(ValueError, match="passing 0"):
        again(counts=np.zeros_like(counts))
    with pytest.raises(ValueError, match="enough 0"):
        again(enough=0)
