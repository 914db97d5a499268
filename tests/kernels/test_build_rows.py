from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_data import clustered, examples

from vstore_kernels import build, gaps
from vstore_kernels.build_rows import aligned, rows_for_build
from vstore_kernels.jit import kernel


@kernel()
def gap_of(rows: np.ndarray, a: int, b: int) -> float:
    return gaps.row_gap(rows, a, b)


@kernel()
def shift(array: np.ndarray, start: int, stop: int) -> None:
    gaps.move_up(array, start, stop)


@settings(max_examples=examples(40), deadline=None)
@given(st.integers(1, 4), st.integers(0, 99), st.booleans())
def test_row_gap_is_the_sum_of_squares(strides: int, seed: int, floating: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(-4000, 4000, (3, strides * gaps.STRIDE))
    exact = int(((rows[2] - rows[1]) ** 2).sum())
    if floating:
        assert gap_of(rows.astype(np.float32), 2, 1) == pytest.approx(exact, rel=1e-5)
    else:
        assert gap_of(rows.astype(np.int16), 2, 1) == exact


@settings(max_examples=examples(40), deadline=None)
@given(st.integers(0, 9), st.integers(0, 9))
def test_move_up_shifts_by_one(start: int, length: int) -> None:
    array = np.arange(20, dtype=np.int32)
    shift(array, start, start + length)
    expected = list(range(20))
    expected[start + 1 : start + length + 1] = range(start, start + length)
    assert array.tolist() == expected


@pytest.mark.parametrize("d", [3, 32, 33, 100])
def test_integers_keep_the_distances(d: int) -> None:
    space = clustered(500, d)
    rows = rows_for_build(space, 2)
    assert rows.dtype == np.int16
    assert rows.shape == (500, -(-d // gaps.STRIDE) * gaps.STRIDE)
    assert rows.ctypes.data % 64 == 0
    assert np.array_equal(rows, rows_for_build(space, 1))
    at = np.random.default_rng(0).integers(0, 500, (2, 300))
    exact = ((space[at[0]].astype(np.float64) - space[at[1]]) ** 2).sum(axis=1)
    coded = ((rows[at[0]].astype(np.int64) - rows[at[1]]) ** 2).sum(axis=1)
    assert coded.max() < 2**31
    kept = exact > 1e-3 * exact.max()
    ratio = coded[kept] / exact[kept]
    assert ratio.max() / ratio.min() < 1.02


def test_the_widest_gaps_fit() -> None:
    for space in (np.array([[-3e18], [3e18]], np.float32), np.eye(2, 700, dtype=np.float32) * 1e-30):
        rows = rows_for_build(space, 1)
        assert rows.dtype == np.int16
        total = int(((rows[0].astype(np.int64) - rows[1]) ** 2).sum())
        assert 2**29 < total < 2**31


def test_rows_far_out_leave_floats() -> None:
    space = clustered(500, 40)
    space[7] *= 1e7
    rows = rows_for_build(space, 1)
    assert rows.dtype == np.float32
    assert rows.shape == (500, 64)
    assert np.array_equal(rows[:, :40], space)
    assert not rows[:, 40:].any()
    wide = np.tile(space, 4)
    assert rows_for_build(wide, 1) is wide
    one, two = (build.build_hnsw(space, 6, 30, n_threads=threads) for threads in (1, 2))
    for a, b in zip(dataclasses.astuple(one), dataclasses.astuple(two), strict=True):
        assert np.array_equal(a, b)
    nearest = np.argsort(((space - space[3]) ** 2).sum(axis=1))[1]
    assert nearest in one.neighbors[3]


def test_equal_rows_are_all_zero() -> None:
    assert not rows_for_build(np.full((9, 5), 3.5, np.float32), 1).any()


def test_aligned_begins_on_a_cache_line() -> None:
    for rows in (1, 3, 1000):
        array = aligned(rows, 5, np.int32)
        assert array.ctypes.data % 64 == 0
        assert array.shape == (rows, 5)
        assert array.dtype == np.int32
