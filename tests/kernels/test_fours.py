"""Rows for four queries in one pass: the estimates that each has alone, in doubt by the definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_data import examples

from vstore_kernels import codes, layout
from vstore_kernels.dots import CHUNK
from vstore_kernels.fours import FOUR, MOST_ROWS, judge_rows
from vstore_kernels.jit import kernel
from vstore_kernels.rescore import SIGMAS


@kernel(cache=False)
def _judged(rows, n_pairs, query, stride, n_chunks, bias_at, factors, factor_stride, limits, out):
    return judge_rows(rows, n_pairs, query, stride, n_chunks, bias_at, factors, factor_stride, limits, out)


def judged(rows, prepared, limits):
    """Return (the queries in doubt of each row, estimates float32 [m, 4]) of encoded rows (uint8 [m, ..])."""
    packed = np.stack([code.packed for code in prepared])
    # As a tile has them: one factor of all queries side by side, with others after the four.
    wide = np.zeros((layout.N_FACTORS, 2 * FOUR), np.float32)
    wide[:, :FOUR] = np.stack([code.factors for code in prepared]).T
    limits, out = np.asarray(limits, np.float32), np.full((len(rows), FOUR), np.nan, np.float32)
    addresses = rows.ctypes.data + np.arange(len(rows)) * rows.strides[0]
    code = prepared[0]
    mask = _judged(
        addresses.ctypes.data,
        len(rows) // 2,
        packed.ctypes.data,
        packed.strides[0],
        code.width // CHUNK,
        code.bias_at,
        wide.ctypes.data,
        wide.strides[0],
        limits.ctypes.data,
        out.ctypes.data,
    )
    assert -1 <= int(mask) >> min(FOUR * len(rows), 63) <= 0
    return [[j for j in range(FOUR) if mask >> (FOUR * t + j) & 1] for t in range(len(rows))], out


@settings(max_examples=examples(60), deadline=None)
@given(
    st.sampled_from(layout.METRICS), st.integers(3, 300), st.integers(1, MOST_ROWS // 2), st.integers(0, 999)
)
def test_agrees_with_each_query_alone(metric, d, n_pairs, seed) -> None:
    rng = np.random.default_rng(seed)
    vectors = (rng.standard_normal((30, d)) * rng.choice([0.01, 1, 100])).astype(np.float32)
    params = codes.train_codes(vectors, metric, 4)
    encoded = codes.encode(vectors, params)
    queries = vectors[:FOUR] + np.float32(0.1)
    prepared = [codes.prepare_query(query, params) for query in queries]
    rows = encoded[rng.integers(0, 30, 2 * n_pairs)]
    alone = np.stack([codes.estimate(code, rows) for code in prepared], axis=1)
    spreads = np.stack([codes.error_std(code, rows) for code in prepared], axis=1)
    lows = alone - SIGMAS * spreads
    # On the limit of one of the rows, beyond it, below it, and without one.
    own = lows[int(rng.integers(2 * n_pairs))]
    limits = np.array(
        [own[0], np.nextafter(own[1], np.float32(-np.inf)), own[2] + abs(own[2]), np.inf], np.float32
    )
    doubtful, estimates = judged(rows, prepared, limits)
    assert estimates.tolist() == alone.tolist()
    assert doubtful == [np.flatnonzero(~(low > limits)).tolist() for low in lows]


@pytest.mark.parametrize("limit", [np.inf, 0.0, -np.inf])
def test_what_is_no_number_stays_in_doubt(limit) -> None:
    vectors = np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)
    params = codes.train_codes(vectors, "l2", 4)
    rows = codes.encode(vectors, params)[:2]
    prepared = [codes.prepare_query(query, params) for query in vectors[:FOUR]]
    prepared[2].factors[layout.F_BASE] = np.nan
    doubtful, estimates = judged(rows, prepared, [limit] * FOUR)
    assert np.isnan(estimates[:, 2]).all()
    for own in doubtful:
        assert (own == [2]) if limit == -np.inf else (2 in own)


@pytest.mark.parametrize("level", [-127, 127])
@pytest.mark.parametrize("d", [64, 128, 4032])
def test_extremes_do_not_overflow(level, d) -> None:
    vectors = np.random.default_rng(1).standard_normal((8, d)).astype(np.float32)
    params = codes.train_codes(vectors, "l2", 4)
    rows = codes.encode(vectors, params)[:2]
    rows[:, : params.bias_at] = 255
    prepared = [codes.prepare_query(query, params) for query in vectors[:FOUR]]
    for code in prepared:
        code.packed[:] = np.full(code.width, level, np.int8).view(np.uint64)
    _, estimates = judged(rows, prepared, [np.inf] * FOUR)
    assert estimates.T.tolist() == [codes.estimate(code, rows).tolist() for code in prepared]
