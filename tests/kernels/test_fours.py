"""A row for four queries in one pass: the estimates that each has alone, in doubt by the definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_data import examples

from vstore_kernels import codes, layout
from vstore_kernels.dots import CHUNK
from vstore_kernels.fours import FOUR, judge_four
from vstore_kernels.jit import kernel
from vstore_kernels.rescore import SIGMAS


@kernel(cache=False)
def _judged(row, query, stride, n_chunks, bias_at, factors, factor_stride, limits, out):
    return judge_four(row, query, stride, n_chunks, bias_at, factors, factor_stride, limits, out)


def judged(row, prepared, limits):
    """Return (the queries in doubt, estimates float32 [4]) of one encoded row (uint8)."""
    packed = np.stack([code.packed for code in prepared])
    # As a tile has them: one factor of all queries side by side, with others after the four.
    wide = np.zeros((layout.N_FACTORS, 2 * FOUR), np.float32)
    wide[:, :FOUR] = np.stack([code.factors for code in prepared]).T
    limits, out = np.asarray(limits, np.float32), np.full(FOUR, np.nan, np.float32)
    code = prepared[0]
    mask = _judged(
        row.ctypes.data,
        packed.ctypes.data,
        packed.strides[0],
        code.width // CHUNK,
        code.bias_at,
        wide.ctypes.data,
        wide.strides[0],
        limits.ctypes.data,
        out.ctypes.data,
    )
    return [j for j in range(FOUR) if mask >> j & 1], out


@settings(max_examples=examples(60), deadline=None)
@given(st.sampled_from(layout.METRICS), st.integers(3, 300), st.integers(0, 999))
def test_agrees_with_each_query_alone(metric, d, seed) -> None:
    rng = np.random.default_rng(seed)
    vectors = (rng.standard_normal((30, d)) * rng.choice([0.01, 1, 100])).astype(np.float32)
    params = codes.train_codes(vectors, metric, 4)
    encoded = codes.encode(vectors, params)
    queries = vectors[:FOUR] + np.float32(0.1)
    prepared = [codes.prepare_query(query, params) for query in queries]
    row = encoded[int(rng.integers(30))]
    alone = [codes.estimate(code, row[None])[0] for code in prepared]
    spreads = [codes.error_std(code, row[None])[0] for code in prepared]
    lows = [estimate - SIGMAS * spread for estimate, spread in zip(alone, spreads, strict=True)]
    # On the limit, beyond it, below it, and without one.
    limits = [lows[0], np.nextafter(lows[1], np.float32(-np.inf)), lows[2] + abs(lows[2]), np.inf]
    doubtful, estimates = judged(row, prepared, limits)
    assert estimates.tolist() == alone
    assert doubtful == [j for j in range(FOUR) if not lows[j] > np.float32(limits[j])]
    assert {0, 3} <= set(doubtful) <= {0, 2, 3}


@pytest.mark.parametrize("limit", [np.inf, 0.0, -np.inf])
def test_what_is_no_number_stays_in_doubt(limit) -> None:
    vectors = np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)
    params = codes.train_codes(vectors, "l2", 4)
    row = codes.encode(vectors, params)[0]
    prepared = [codes.prepare_query(query, params) for query in vectors[:FOUR]]
    prepared[2].factors[layout.F_BASE] = np.nan
    doubtful, estimates = judged(row, prepared, [limit] * FOUR)
    assert np.isnan(estimates[2])
    assert (doubtful == [2]) if limit == -np.inf else (2 in doubtful)


@pytest.mark.parametrize("level", [-127, 127])
@pytest.mark.parametrize("d", [64, 128, 4032])
def test_extremes_do_not_overflow(level, d) -> None:
    vectors = np.random.default_rng(1).standard_normal((8, d)).astype(np.float32)
    params = codes.train_codes(vectors, "l2", 4)
    row = codes.encode(vectors, params)[0]
    row[: params.bias_at] = 255
    prepared = [codes.prepare_query(query, params) for query in vectors[:FOUR]]
    for code in prepared:
        code.packed[:] = np.full(code.width, level, np.int8).view(np.uint64)
    _, estimates = judged(row, prepared, [np.inf] * FOUR)
    assert estimates.tolist() == [codes.estimate(code, row[None])[0] for code in prepared]
