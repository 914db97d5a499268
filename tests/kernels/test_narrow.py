from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_data import clustered, examples

from tests import naive
from vstore_kernels import codes, distance, layout, narrow, rotation

WIDTHS = st.sampled_from(narrow.BITS)
METRICS = st.sampled_from(layout.METRICS)


@settings(max_examples=examples(40), deadline=None)
@given(WIDTHS, METRICS, st.integers(1, 30), st.integers(1, 150), st.integers(0, 99))
def test_estimates_are_those_of_the_decoded_rows(bits: int, metric: str, n: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = (rng.standard_normal((n, d)) * rng.uniform(0, 3, d) + 1).astype(np.float32)
    query = rng.standard_normal(d).astype(np.float32)
    params = codes.train_codes(vectors, metric, bits)
    encoded = codes.encode(vectors, params)
    assert encoded.shape == (n, params.row_bytes) == (n, codes.row_bytes(d, metric, bits))
    got = codes.estimate(codes.prepare_query(query, params), encoded)
    signs = rotation.signs(params.width)
    expected = [naive.narrow_estimate(query, row, params.center, bits, metric, signs) for row in encoded]
    # The query itself is quantized, to 6 bits against one-bit codes and to 8 against the others.
    spread = np.linalg.norm(query) * np.linalg.norm(vectors, axis=1).max() * (0.05 if bits == 1 else 0.02)
    np.testing.assert_allclose(got, expected, atol=spread + 0.05)


@pytest.mark.parametrize("bits", narrow.BITS)
@pytest.mark.parametrize("metric", layout.METRICS)
def test_errors_are_unbiased_and_as_large_as_the_model_says(bits: int, metric: str) -> None:
    vectors = clustered(3000, 96)
    params = codes.train_codes(vectors[:-20], metric, bits)
    encoded = codes.encode(vectors[:-20], params)
    scaled = []
    for query in vectors[-20:]:
        code = codes.prepare_query(query, params)
        exact = distance.exact_distances(query, vectors[:-20], None, metric)
        scaled.append((codes.estimate(code, encoded) - exact) / codes.error_std(code, encoded))
    errors = np.concatenate(scaled)
    assert abs(errors.mean()) < 0.2
    assert 0.7 < errors.std() < 1.3
    assert (np.abs(errors) > 3).mean() < 0.01


@pytest.mark.parametrize("metric", layout.METRICS)
def test_more_bits_are_nearer_the_truth(metric: str) -> None:
    vectors = clustered(800, 64)
    exact = distance.exact_distances(vectors[0], vectors, None, metric)
    errors = []
    for bits in (1, 2, 4, 8):
        params = codes.train_codes(vectors, metric, bits)
        got = codes.estimate(codes.prepare_query(vectors[0], params), codes.encode(vectors, params))
        errors.append(float(np.sqrt(np.mean((got - exact) ** 2))))
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("bits", narrow.BITS)
@pytest.mark.parametrize("metric", layout.METRICS)
def test_equal_rows_zero_rows_and_single_rows(bits: int, metric: str) -> None:
    for vectors in (np.zeros((3, 5), np.float32), np.full((4, 5), 2.5, np.float32), clustered(1, 5)):
        params = codes.train_codes(vectors, metric, bits)
        encoded = codes.encode(vectors, params)
        for query in (vectors[0], np.zeros(5, np.float32), np.arange(5, dtype=np.float32)):
            got = codes.estimate(codes.prepare_query(query, params), encoded)
            exact = distance.exact_distances(query, vectors, None, metric)
            # A zero vector has no direction: its cosine distance is 1 by definition, and by estimate.
            np.testing.assert_allclose(got, exact, atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("bits", narrow.BITS)
@pytest.mark.parametrize("metric", layout.METRICS)
def test_decoded_residuals_are_as_far_off_as_the_params_say(bits: int, metric: str) -> None:
    vectors = clustered(500, 70)
    params = codes.train_codes(vectors, metric, bits)
    encoded = codes.encode(vectors, params)
    have, true = codes.decode(encoded, params), codes.residuals(vectors, params)
    levels = [naive.unpack_codes(row, bits, params.width) for row in encoded[:5]]
    steps = encoded[:, params.bias_at + 4 :].copy().view("<f4")[:, 0] / (-2 if metric == "l2" else -1)
    expected = (np.array(levels) - ((1 << bits) - 1) / 2) * steps[:5, None]
    np.testing.assert_allclose(have[:5], expected, rtol=1e-5)
    errors = np.sqrt(((have - true) ** 2).mean(axis=1)) / steps
    assert float(np.sqrt((errors**2).mean())) == pytest.approx(float(params.scale[0]), rel=0.05)
    plain = codes.train_codes(vectors, metric)
    with pytest.raises(ValueError, match="fewer than 8"):
        codes.decode(codes.encode(vectors, plain), plain)
    with pytest.raises(ValueError, match="fewer than 8"):
        codes.residuals(vectors, plain)


@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_params_of_many_rows_come_from_a_sample_of_them(metric: str) -> None:
    few = np.random.default_rng(3).normal(size=(codes._ERROR_ROWS, 8)).astype(np.float32)
    # Every third row is what the sample takes, and the others have the same center.
    many = np.repeat(few, 3, axis=0)
    params, same = codes.train_codes(many, metric, 4), codes.train_codes(few, metric, 4)
    np.testing.assert_allclose(params.center, same.center, atol=1e-6)
    np.testing.assert_allclose(params.scale, same.scale, rtol=1e-3)


def test_the_step_is_where_the_format_says() -> None:
    vectors = clustered(10, 70)
    params = codes.train_codes(vectors, "l2", 4)
    assert (params.width, params.bias_at, params.row_bytes) == (128, 64, 72)
    bias = codes.encode(vectors, params)[:, 64:68].copy().view("<f4")[:, 0]
    np.testing.assert_allclose(bias, ((vectors - params.center) ** 2).sum(axis=1), rtol=1e-4)


def test_params_of_narrow_codes_are_checked() -> None:
    params = codes.train_codes(clustered(30, 6), "cosine", 2)
    again = codes.CodeParams.from_arrays(2, "cosine", params.to_arrays())
    assert np.array_equal(again.scale, params.scale)
    with pytest.raises(ValueError, match="4-bit codes need at least 1 and 1"):
        codes.CodeParams(4, "l2", params.center, params.center)
