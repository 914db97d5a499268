"""MaxSim equals its slow twin, and refuses what it cannot read."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vstore_kernels.maxsim import max_sim


def packed(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate(rows), np.cumsum([0, *map(len, rows)], dtype=np.int64)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(1, 40),
    st.integers(1, 20),
    st.lists(st.integers(0, 30), min_size=1, max_size=8),
)
def test_equals_the_slow_twin(seed: int, dim: int, n_query: int, counts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    query = rng.standard_normal((n_query, dim), dtype=np.float32)
    rows = [rng.standard_normal((count, dim), dtype=np.float32) for count in counts]
    got = max_sim(query, *packed(rows))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, naive.max_sim(query, rows), rtol=1e-4, atol=1e-4)


def test_negative_products_count() -> None:
    query = np.array([[1.0, 0.0]], dtype=np.float32)
    rows = [np.array([[-3.0, 1.0], [-2.0, 5.0]], dtype=np.float32), np.empty((0, 2), dtype=np.float32)]
    got = max_sim(query, *packed(rows))
    assert got[0] == -2.0
    assert np.isnan(got[1])


@pytest.mark.parametrize(
    ("query", "documents", "offsets", "message"),
    [
        (np.ones((1, 2)), np.ones((1, 2), np.float32), [0, 1], "dtype"),
        (np.ones(2, np.float32), np.ones((1, 2), np.float32), [0, 1], "dimensions"),
        (np.ones((1, 3), np.float32), np.ones((1, 2), np.float32), [0, 1], "dim 3"),
        (np.ones((0, 2), np.float32), np.ones((1, 2), np.float32), [0, 1], "no vectors"),
        (np.ones((1, 2), np.float32), np.ones((3, 2), np.float32), [0, 2], "run from 0"),
        (np.ones((1, 2), np.float32), np.ones((3, 2), np.float32), [0, 9, 3], "fall"),
        (np.ones((1, 2), np.float32), np.ones((3, 2), np.float32), [], "run from 0"),
    ],
)
def test_what_is_refused(query: np.ndarray, documents: np.ndarray, offsets: list[int], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        max_sim(query, documents, np.array(offsets, dtype=np.int64))
