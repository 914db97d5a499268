from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_data import examples

from tests import naive
from vstore_kernels import distance, layout, scan


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(1, 40), st.integers(1, 70), st.sampled_from(layout.METRICS), st.integers(0, 99))
def test_distances_agree_with_the_slow_twin(n: int, d: int, metric: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, d)).astype(np.float32)
    vectors[0] = 0
    query = rng.standard_normal(d).astype(np.float32)
    expected = np.array([naive.exact_distance(query, row, metric) for row in vectors])
    got = distance.exact_distances(query, vectors, None, metric)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    ids = rng.integers(0, n, 10)
    np.testing.assert_array_equal(distance.exact_distances(query, vectors, ids, metric), got[ids])


def test_edges_of_cosine() -> None:
    vectors = np.array([[3, 4], [0, 0], [-3, -4]], np.float32)
    assert distance.exact_distances(vectors[0], vectors, None, "cosine").tolist() == [0, 1, 2]
    assert distance.exact_distances(vectors[1], vectors, None, "cosine").tolist() == [1, 1, 1]


def test_nan_stays_nan() -> None:
    vectors = np.array([[np.nan, 0], [1, 0]], np.float32)
    got = distance.exact_distances(np.ones(2, np.float32), vectors, None, "l2")
    assert np.isnan(got).tolist() == [True, False]


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.integers(0, 9), max_size=900), st.integers(0, 40))
def test_topk_orders_by_distance_then_position(values: list[int], k: int) -> None:
    expected = sorted(range(len(values)), key=lambda i: (values[i], i))[:k]
    assert scan.topk(np.array(values, np.float32), k).tolist() == expected


def test_topk_of_many_breaks_ties_by_position() -> None:
    values = np.random.default_rng(0).integers(0, 50, 5000).astype(np.float32)
    assert scan.topk(values, 300).tolist() == np.argsort(values, kind="stable")[:300].tolist()


def test_wrong_input_is_refused() -> None:
    vectors, query = np.zeros((3, 4), np.float32), np.zeros(4, np.float32)
    with pytest.raises(ValueError, match="metric is 'l1'"):
        distance.exact_distances(query, vectors, None, "l1")
    with pytest.raises(ValueError, match="5 dimensions"):
        distance.exact_distances(np.zeros(5, np.float32), vectors, None, "l2")
    with pytest.raises(TypeError, match="float64"):
        distance.exact_distances(query.astype(np.float64), vectors, None, "l2")
    with pytest.raises(ValueError, match="C-contiguous"):
        distance.exact_distances(np.zeros(2, np.float32), vectors[:, ::2], None, "l2")
    with pytest.raises(ValueError, match="from 0 to 2"):
        distance.exact_distances(query, vectors, np.array([3]), "l2")
    with pytest.raises(ValueError, match="not be negative"):
        scan.topk(query, -1)
