"""The rows that a graph is built on: 16-bit integers where these tell neighbours apart, else float32.

All dimensions share one step, so the squared distance of two rows is an exact sum of integers, in half the
memory and twice the lanes of float32. Against the diameter of the data a step is about 1 / 46,000, far below
the distance between neighbours except where a few rows lie very far out; a sample decides.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels.distance import squared_l2
from vstore_kernels.gaps import STRIDE
from vstore_kernels.jit import Int, kernel, part
from vstore_kernels.parallel import run_chunks

# sqrt(2^31) is 46,340: what the sum of squares may reach, less a step of rounding a dimension.
_MAX_DIAMETER: Final = 46_340.0
_MAX_COMPONENT: Final = 32_700.0
_SAMPLES: Final = 32
_SAMPLE_ROWS: Final = 65_536
# A neighbour's squared distance over the mean square error that rounding leaves in it.
_MIN_SIGNAL: Final = 64.0
_CHUNK_ROWS: Final = 4_096


def aligned(rows: int, columns: int, dtype: Any) -> NDArray[Any]:
    """Return zeros [rows, columns] that begin on a cache line."""
    size = rows * columns * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    out: NDArray[Any] = raw[start : start + size].view(dtype).reshape(rows, columns)
    return out


def rows_for_build(space: NDArray[np.float32], n_threads: int) -> NDArray[Any]:
    """Return `space` (float32 [n, d']) as int16 or float32 [n, d' rounded up to a multiple of STRIDE].

    Squared distances of int16 rows are below 2^31, and in units of the step's square; the same for any
    number of threads.
    """
    n, d = space.shape
    columns = -(-d // STRIDE) * STRIDE
    low, high = space.min(axis=0).astype(np.float64), space.max(axis=0).astype(np.float64)
    middle = (low + high) / 2
    starts = range(0, n, _CHUNK_ROWS)
    furthest = np.zeros(len(starts))

    def measure(start: int) -> None:
        stop = min(start + _CHUNK_ROWS, n)
        furthest[start // _CHUNK_ROWS] = _furthest(space, middle, start, stop)

    run_chunks(measure, starts, n_threads)
    step = max(
        2 * math.sqrt(furthest.max()) / (_MAX_DIAMETER - math.sqrt(d)),
        float((high - low).max()) / _MAX_COMPONENT,
    )
    if step == 0:
        return aligned(n, columns, np.int16)
    if not _fine_enough(space, step):
        if columns == d:
            return space
        padded = aligned(n, columns, np.float32)
        padded[:, :d] = space
        return padded
    rows = aligned(n, columns, np.int16)
    run_chunks(
        lambda start: _code(space, middle, 1 / step, start, min(start + _CHUNK_ROWS, n), rows),
        starts,
        n_threads,
    )
    return rows


def _fine_enough(space: NDArray[np.float32], step: float) -> bool:
    n, d = space.shape
    stride = max(1, n // _SAMPLE_ROWS)
    samples = np.unique(np.linspace(0, n - 1, _SAMPLES).astype(np.int64))
    # Rounding leaves step^2 / 12 in each of two components.
    least = _MIN_SIGNAL * d * step * step / 6
    coarse = sum(float(_nearest_gap(space, row, stride)) < least for row in samples.tolist())
    return bool(10 * coarse <= samples.size)


@kernel()
def _furthest(space: NDArray[np.float32], middle: NDArray[np.float64], start: Int, stop: Int) -> float:
    most = 0.0
    for row in range(start, stop):
        total = 0.0
        for j in range(middle.shape[0]):
            gap = np.float64(space[row, j]) - middle[j]
            total += gap * gap
        most = max(most, total)
    return most


@kernel()
def _nearest_gap(space: NDArray[np.float32], row: Int, stride: Int) -> np.float32:
    """Return the least squared distance above 0 from `row` to every `stride`-th row, or infinity."""
    least = np.float32(np.inf)
    for other in range(row % stride, space.shape[0], stride):
        gap = squared_l2(space[row], space, other)
        if np.float32(0) < gap < least:
            least = gap
    return least


@part()
def _code(
    space: NDArray[np.float32],
    middle: NDArray[np.float64],
    factor: float,
    start: Int,
    stop: Int,
    rows: NDArray[np.int16],
) -> None:
    for row in range(start, stop):
        for j in range(middle.shape[0]):
            rows[row, j] = np.int16(np.rint((np.float64(space[row, j]) - middle[j]) * factor))
