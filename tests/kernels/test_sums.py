"""Sums are defined bit by bit: what the compiler makes of them equals what numpy makes of the definition."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vstore_kernels import sums
from vstore_kernels.jit import Int, kernel

LENGTHS = [*range(0, 70), 96, 100, 127, 128, 255, 384, 784]


@kernel()
def _compiled(
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    origin: NDArray[np.float32],
    factor: np.float32,
    start: Int,
    n: Int,
    out: NDArray[np.float32],
) -> None:
    first, second = np.int64(a.ctypes.data) + 4 * start, np.int64(b.ctypes.data) + 4 * start
    out[0] = sums.gap_sum(first, second, n)
    out[1] = sums.product_sum(first, second, n)
    out[2] = sums.shifted_sum(first, second, np.int64(origin.ctypes.data) + 4 * start, n)
    out[4], out[5] = sums.product_and_square(first, second, n)
    out[3] = sums.scaled_gap_sum(first, factor, second, n)


def defined(terms: NDArray[np.float32]) -> np.float32:
    """Return the sum in the order that `sums` promises, one element after another."""
    lanes = [np.float32(0)] * sums.LANES
    whole = terms.size - terms.size % sums.LANES
    for j in range(whole):
        lanes[j % sums.LANES] += terms[j]
    place = whole
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [lanes[i] + lanes[i + half] for i in range(half)]
        if (terms.size - whole) & half:
            lanes = [lane + terms[place + i] for i, lane in enumerate(lanes)]
            place += half
    return np.float32(lanes[0])


@pytest.mark.parametrize("start", [0, 1, 5])
def test_sums_are_worked_out_as_they_are_defined(start: int) -> None:
    rng = np.random.default_rng(start)
    out = np.empty(6, np.float32)
    for n in LENGTHS:
        spread = np.float32(10) ** rng.integers(-6, 6, (3, start + n)).astype(np.float32)
        a, b, origin = (rng.standard_normal((3, start + n)) * spread).astype(np.float32)
        factor = np.float32(rng.standard_normal())
        _compiled(a, b, origin, factor, start, n, out)
        x, y, shift = a[start:], b[start:], origin[start:]
        gap, scaled = x - y, x * factor - y
        expected = [
            defined(terms) for terms in (gap * gap, x * y, (x - shift) * y, scaled * scaled, x * y, y * y)
        ]
        assert out.tolist() == [float(value) for value in expected], n


def test_squares_of_rows() -> None:
    rows = np.random.default_rng(2).standard_normal((30, 51)).astype(np.float32)
    found = sums.row_squares(rows)
    assert found.tolist() == [float(defined(row * row)) for row in rows]
    np.testing.assert_allclose(sums.wide_row_squares(rows), (rows.astype(np.float64) ** 2).sum(axis=1))
    with pytest.raises(TypeError, match="float32"):
        sums.row_squares(rows.astype(np.float64))
