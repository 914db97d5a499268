"""What plans ask of queries, in one call: the slow twin's correlation and novelty, query by query."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import naive
from vstore_kernels.near import novelty
from vstore_kernels.nearness import CORRELATION, NOVELTY, Nearness

D = 9


def made(rng, K: int, n_coarse: int, unit: bool, directions: bool, n_near: int, enough: int):
    centroids = rng.standard_normal((K, D)).astype(np.float32)
    squares = np.einsum("ij,ij->i", centroids, centroids)
    sizes = rng.integers(0, 50, K)
    sizes[0] = max(sizes[0], 1)
    counts = rng.binomial(sizes, rng.choice([0.02, 0.3, 1.0]))
    counts[0] = max(counts[0], 1)
    coarse = rng.standard_normal((n_coarse, D)).astype(np.float32)
    nearness = Nearness(
        centroids,
        squares,
        counts,
        sizes,
        coarse,
        unit=unit,
        directions=directions,
        n_near=n_near,
        enough=enough,
    )
    return nearness, centroids, squares, counts, sizes, coarse


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(0, 5),
    st.booleans(),
    st.booleans(),
    st.integers(1, 16),
    st.integers(1, 80),
    st.integers(0, 999),
)
def test_agrees_with_the_slow_twin(K, n_coarse, unit, directions, n_near, enough, seed) -> None:
    rng = np.random.default_rng(seed)
    n_near = min(n_near, K)
    own, centroids, squares, counts, sizes, coarse = made(rng, K, n_coarse, unit, directions, n_near, enough)
    queries = rng.standard_normal((4, D)).astype(np.float32)
    found = own.of(queries)
    assert found.shape == (4, 2)
    for query, (correlation, novel) in zip(queries, found.tolist(), strict=True):
        gaps = squares - 2 * (centroids @ query) / (np.linalg.norm(query) if unit else 1)
        expected = naive.correlation(gaps.tolist(), counts.tolist(), sizes.tolist(), n_near, enough)
        # A row more or less of the last cluster, where the part of it is a whole number but for rounding.
        assert correlation == pytest.approx(expected, rel=1e-9) or abs(1 / correlation - 1 / expected) <= 1.1
        if n_coarse:
            assert novel == pytest.approx(naive.novelty(query, coarse, directions), rel=1e-4)
            assert novel == pytest.approx(float(novelty(query[None], coarse, directions)[0]), rel=1e-5)
        else:
            assert novel == 0.0
    for i in range(4):
        assert own.of(queries[i : i + 1])[0].tolist() == found[i].tolist()


def test_a_zero_query_has_a_place_too() -> None:
    own, *_ = made(np.random.default_rng(0), 7, 3, True, True, 4, 20)
    found = own.of(np.zeros((1, D), np.float32))
    assert np.isfinite(found).all()
    assert found[0, NOVELTY] > 0 < found[0, CORRELATION]


def test_wrong_input_is_refused() -> None:
    own, centroids, squares, counts, sizes, coarse = made(np.random.default_rng(0), 7, 3, False, False, 4, 20)
    with pytest.raises(ValueError, match="queries have 3 dimensions"):
        own.of(np.ones((1, 3), np.float32))
    with pytest.raises(TypeError, match="float64"):
        own.of(np.ones((1, D)))

    def again(counts=counts, squares=squares, n_near=4, enough=20) -> None:
        Nearness(
            centroids,
            squares,
            counts,
            sizes,
            coarse,
            unit=False,
            directions=False,
            n_near=n_near,
            enough=enough,
        )

    with pytest.raises(ValueError, match="do not agree"):
        again(squares=squares[1:])
    with pytest.raises(ValueError, match="n_near is 8"):
        again(n_near=8)
    with pytest.raises(ValueError, match="passing 0"):
        again(counts=np.zeros_like(counts))
    with pytest.raises(ValueError, match="enough 0"):
        again(enough=0)
