"""Products of queries with rows: numpy's, and the same bits whatever is computed beside them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_data import examples

from tests import naive
from vstore_kernels.clusters import cluster_gaps
from vstore_kernels.distance import unit_scale
from vstore_kernels.jit import kernel
from vstore_kernels.products import products_into
from vstore_kernels.sums import row_squares


@kernel(cache=False)
def _into(queries, rows, out) -> None:
    products_into(np.int64(queries.ctypes.data), queries.shape[0], queries.shape[1], rows, out)


def products(queries, rows):
    out = np.full((len(queries), len(rows)), np.nan, np.float32)
    _into(queries, rows, out.ctypes.data)
    return out


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 70), st.integers(0, 1), st.integers(0, 999))
def test_agrees_with_the_slow_twin_and_with_each_alone(m, n, d, wider, seed) -> None:
    rng = np.random.default_rng(seed)
    queries = rng.standard_normal((m, d)).astype(np.float32)
    rows = rng.standard_normal((n, d + wider)).astype(np.float32)
    found = products(queries, rows)
    assert found == pytest.approx(np.array(naive.products(queries, rows)), rel=1e-5, abs=1e-5)
    for i in range(m):
        assert products(queries[i : i + 1], rows)[0].tolist() == found[i].tolist()
        for c in range(n):
            assert products(queries[i : i + 1], rows[c : c + 1])[0, 0] == found[i, c]


@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_squares_and_gaps(metric) -> None:
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((21, 19 + (metric == "dot"))).astype(np.float32)
    heads = rows[:, :19].astype(np.float64)
    assert row_squares(rows, 19) == pytest.approx((heads * heads).sum(axis=1), rel=1e-6)
    query = rng.standard_normal(19).astype(np.float32)
    inner = heads @ query
    own = query / np.linalg.norm(query) if metric == "cosine" else query
    expected = -inner if metric == "dot" else (heads * heads).sum(axis=1) - 2 * heads @ own
    assert cluster_gaps(query, rows, metric) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_scale_of_a_zero_query_is_one() -> None:
    assert unit_scale(np.zeros(5, np.float32)) == 1
    assert unit_scale(np.array([3, 4], np.float32)) == pytest.approx(0.2)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(TypeError, match="float64"):
        row_squares(np.zeros((2, 2)), 2)
    with pytest.raises(ValueError, match="1 dimensions"):
        row_squares(np.zeros(2, np.float32), 2)
