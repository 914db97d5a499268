from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_data import clustered, examples, whole_numbers

from tests import naive
from vstore_kernels import codes, distance, layout, rescore, scan, search


@settings(max_examples=examples(40), deadline=None)
@given(st.integers(1, 60), st.integers(1, 50), st.sampled_from(layout.METRICS), st.integers(0, 99))
def test_estimates_are_distances_to_the_decoded_rows(n: int, d: int, metric: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = (rng.standard_normal((n, d)) * rng.uniform(0, 3, d) + 1).astype(np.float32)
    query = rng.standard_normal(d).astype(np.float32)
    params = codes.train_codes(vectors, metric)
    encoded = codes.encode(vectors, params)
    assert encoded.shape == (n, params.row_bytes)
    got = codes.estimate(codes.prepare_query(query, params), encoded)
    decoded = [naive.decoded_row(row, params.center, params.scale) for row in encoded]
    if metric == "cosine":
        unit = query / np.linalg.norm(query)
        expected = [1 - float(unit @ row) for row in decoded]
    else:
        expected = [naive.exact_distance(query, row, metric) for row in decoded]
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("metric", layout.METRICS)
def test_no_component_is_off_by_more_than_half_a_step(metric: str) -> None:
    vectors = clustered(300, 12)
    params = codes.train_codes(vectors, metric)
    rows = vectors
    if metric == "cosine":
        rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    decoded = [naive.decoded_row(row, params.center, params.scale) for row in codes.encode(vectors, params)]
    assert (np.abs(np.array(decoded) - rows) <= params.scale * 0.502 + 1e-6).all()


@pytest.mark.parametrize("metric", layout.METRICS)
def test_the_error_model_is_about_right(metric: str) -> None:
    vectors = clustered(3000, 32)
    params = codes.train_codes(vectors[:-20], metric)
    encoded = codes.encode(vectors[:-20], params)
    for query in vectors[-20:]:
        code = codes.prepare_query(query, params)
        exact = distance.exact_distances(query, vectors[:-20], None, metric)
        error = codes.estimate(code, encoded) - exact
        ratio = error / codes.error_std(code, encoded)
        assert 0.5 < np.sqrt(np.mean(ratio**2)) < 1.5


def test_whole_numbers_lose_nothing() -> None:
    vectors = whole_numbers(50, 8)
    params = codes.train_codes(vectors, "l2")
    assert params.scale.tolist() == [1] * 8
    got = codes.estimate(codes.prepare_query(vectors[3], params), codes.encode(vectors, params))
    assert np.array_equal(got, distance.exact_distances(vectors[3], vectors, None, "l2"))


def test_constant_dimensions_and_outliers() -> None:
    vectors = np.array([[1, 5], [2, 5], [3, 5]], np.float32)
    params = codes.train_codes(vectors, "dot")
    assert params.scale[1] == 0
    far = codes.encode(np.array([[1e9, -1e9]], np.float32), params)
    assert far.view(np.int8).tolist() == [[127, 0]]


def test_params_go_through_arrays() -> None:
    params = codes.train_codes(clustered(40, 6), "cosine")
    again = codes.CodeParams.from_arrays(8, "cosine", params.to_arrays())
    assert np.array_equal(again.center, params.center)
    assert np.array_equal(again.scale, params.scale)
    assert (codes.row_bytes(6, "cosine"), codes.row_bytes(6, "l2")) == (6, 10)


def test_errors_on_a_grid_of_the_data_s_own_are_measured() -> None:
    rng = np.random.default_rng(0)
    # Pictures of one brightness each: all pixels of a row are rounded the same way.
    pixels = rng.integers(0, 256, (900, 1)) + 3 * rng.standard_normal((900, 40))
    vectors = np.clip(np.rint(pixels), 0, 255).astype(np.float32)
    params = codes.train_codes(vectors[:-50], "l2")
    assert params.inflation > 1.5
    encoded = codes.encode(vectors[:-50], params)
    for query in vectors[-50:]:
        code = codes.prepare_query(query, params)
        error = codes.estimate(code, encoded) - distance.exact_distances(query, vectors[:-50], None, "l2")
        assert (np.abs(error) > 3 * codes.error_std(code, encoded)).mean() < 0.01
    assert codes.CodeParams.from_arrays(8, "l2", params.to_arrays()).inflation == params.inflation
    older = {name: array for name, array in params.to_arrays().items() if name != "inflation"}
    assert codes.CodeParams.from_arrays(8, "l2", older).inflation == 1
    with pytest.raises(ValueError, match="at least 1"):
        codes.CodeParams(8, "l2", params.center, params.scale, 0.5)


def test_wrong_input_is_refused() -> None:
    good = np.ones((2, 3), np.float32)
    params = codes.train_codes(good, "l2")
    with pytest.raises(ValueError, match="bits is 3"):
        codes.train_codes(good, "l2", 3)
    with pytest.raises(ValueError, match="at least one row"):
        codes.train_codes(good[:0], "l2")
    with pytest.raises(ValueError, match="finite"):
        codes.train_codes(np.array([[np.nan]], np.float32), "l2")
    with pytest.raises(ValueError, match="4 dimensions"):
        codes.encode(np.ones((2, 4), np.float32), params)
    with pytest.raises(ValueError, match="this query reads 7"):
        codes.estimate(codes.prepare_query(good[0], params), np.zeros((2, 3), np.uint8))
    with pytest.raises(ValueError, match="lack scale"):
        codes.CodeParams.from_arrays(8, "l2", {"center": params.center})
    with pytest.raises(ValueError, match="not negative"):
        codes.CodeParams(8, "l2", params.center, params.scale - 1)


@settings(max_examples=examples(30), deadline=None)
@given(st.integers(1, 90), st.integers(1, 30), st.integers(0, 99), st.data())
def test_scan_agrees_with_the_slow_twin(n: int, top: int, seed: int, data: st.DataObject) -> None:
    vectors = whole_numbers(n, 5, seed)
    params = codes.train_codes(vectors, "l2")
    encoded = codes.encode(vectors, params)
    tables = search.BlockTables(n, 4, params.row_bytes, 4)
    tables.set_all_codes(encoded)
    ids = np.array(data.draw(st.lists(st.integers(0, n - 1), unique=True)), np.int32)
    code = codes.prepare_query(vectors[0], params)
    estimates = codes.estimate(code, encoded)
    nodes, found = scan.scan_codes(code, tables, ids, top)
    expected = naive.scan(estimates.tolist(), ids.tolist(), top)
    np.testing.assert_allclose(found, [d for d, _ in expected], rtol=1e-5, atol=1e-2)
    if n > 2:
        assert nodes.tolist() == [x for _, x in expected]


@settings(max_examples=examples(30), deadline=None)
@given(st.sampled_from(codes.BITS), st.integers(1, 120), st.integers(1, 12), st.integers(0, 99))
def test_a_scan_for_k_leaves_out_what_cannot_be_among_them(bits: int, n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, 70)).astype(np.float32) * rng.uniform(0.2, 3, (n, 1)).astype(np.float32)
    params = codes.train_codes(vectors, "l2", bits)
    encoded = codes.encode(vectors, params)
    tables = search.BlockTables(n, 4, params.row_bytes, 6)
    tables.set_all_codes(encoded)
    code = codes.prepare_query(vectors[0] + np.float32(0.1), params)
    ids = rng.permutation(n).astype(np.int32)
    estimates, spreads = codes.estimate(code, encoded), codes.error_std(code, encoded)
    nodes, found = scan.scan_codes(code, tables, ids, n, k)
    expected = naive.scan_in_doubt(
        estimates.tolist(), spreads.tolist(), ids.tolist(), k, float(rescore.SIGMAS)
    )
    # Sums in float32 and float64 may fall on either side of the bound.
    assert len(set(nodes.tolist()) ^ set(expected)) <= 1
    assert (np.diff(found) >= 0).all()
    everything = np.argsort(estimates, kind="stable").astype(np.int32)
    doubtful, _ = rescore.undecided(code, tables, everything, estimates[everything], k)
    assert set(everything[doubtful].tolist()) <= set(nodes.tolist())
    if n >= 100 and bits == 8:
        assert len(nodes) < n


def test_scan_names_a_block_that_lacks() -> None:
    vectors = whole_numbers(40, 5)
    params = codes.train_codes(vectors, "l2")
    tables = search.BlockTables(40, 4, params.row_bytes, 4)
    tables.set_codes(0, codes.encode(vectors[:16], params))
    code = codes.prepare_query(vectors[0], params)
    assert scan.scan_codes(code, tables, np.array([1, 2]), 5)[0].tolist() in ([1, 2], [2, 1])
    with pytest.raises(ValueError, match="block 1 are not resident"):
        scan.scan_codes(code, tables, np.array([1, 20]), 5)
    with pytest.raises(ValueError, match="top is 0"):
        scan.scan_codes(code, tables, np.array([1]), 0)
    with pytest.raises(ValueError, match="k is 0"):
        scan.scan_codes(code, tables, np.array([1]), 5, 0)
