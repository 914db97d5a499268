"""The order of the rows within a cluster: near ones follow each other, from the last cluster's side on."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels.jit import kernel
from vstore_kernels.sums import gap_sum, row_squares, shifted_sum

_LEAF_ROWS: Final = 64
DIRECTIONS: Final = 12
"""Nearest other clusters whose directions are looked at."""
_Ids = NDArray[np.int64]


def along_neighbors(
    space: NDArray[np.float32],
    rows: _Ids,
    centroids: NDArray[np.float32],
    near: NDArray[np.int32],
    before: int,
) -> _Ids:
    """Return a cluster's rows so that near ones follow each other, from the side of cluster `before` on.

    The rows are halved again and again along their main direction, within the space that the directions to
    the nearest other clusters span: there lie most of the links that leave the cluster.
    """
    own = centroids[near[0]]
    directions = centroids[near[1:]] - own
    if near.size == 1:
        directions = np.eye(min(DIRECTIONS, own.size), own.size, dtype=np.float32)
    directions = np.ascontiguousarray(directions)
    lengths = np.sqrt(row_squares(directions))
    directions /= np.where(lengths > 0, lengths, 1)[:, None]
    points = np.empty((rows.size, directions.shape[0]), np.float32)
    _project(space, rows, own, directions, points)
    last = np.empty(directions.shape[0], np.float32)
    _project(centroids, np.array([before]), own, directions, last[None])
    out: list[NDArray[np.int64]] = []
    waiting = [np.arange(rows.size)]
    while waiting:
        ids = waiting.pop()
        part = points[ids]
        middle = np.empty(part.shape[1], np.float32)
        mean_rows(part, np.arange(ids.size), np.empty(middle.size), middle)
        halves = _halves(part, middle, last) if ids.size > _LEAF_ROWS else None
        if halves is None:
            out.append(ids)
            last = middle
        else:
            waiting.extend((ids[halves[1]], ids[halves[0]]))
    return rows[np.concatenate(out)]


def _halves(
    part: NDArray[np.float32], middle: NDArray[np.float32], last: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return the places of two halves of `part` (float32 [m, k]), the one nearer to `last` first."""
    along = np.empty(part.shape[0], np.float32)
    if not _main_direction(part, middle, last, np.empty((2, middle.size), np.float32), along):
        return None
    order = np.argsort(along, kind="stable")
    half = order.size // 2
    return order[:half], order[half:]


@kernel()
def _main_direction(
    part: NDArray[np.float32],
    middle: NDArray[np.float32],
    last: NDArray[np.float32],
    axes: NDArray[np.float32],
    along: NDArray[np.float32],
) -> bool:
    """Write where each row lies along the main direction, the side of `last` first; False if there is none.

    Two steps of the power method from the row farthest from the middle. `axes` (float32 [2, k]) is mutated.
    """
    m, k = part.shape
    base, centre = np.int64(part.ctypes.data), np.int64(middle.ctypes.data)
    axis, raw = axes[0], axes[1]
    held = np.int64(axis.ctypes.data)
    farthest, most = 0, np.float32(-1)
    for i in range(m):
        gap = np.float32(gap_sum(base + i * k * 4, centre, k))
        if gap > most:
            farthest, most = i, gap
    for j in range(k):
        axis[j] = part[farthest, j] - middle[j]
    for _ in range(2):
        raw[:] = np.float32(0)
        for i in range(m):
            weight = np.float32(shifted_sum(base + i * k * 4, held, centre, k))
            for j in range(k):
                raw[j] += weight * (part[i, j] - middle[j])
        # In float64: squares of long axes would overflow.
        square = 0.0
        for j in range(k):
            square += np.float64(raw[j]) * np.float64(raw[j])
        length = np.sqrt(square)
        if not 0 < length < np.inf:
            return False
        for j in range(k):
            axis[j] = raw[j] / np.float32(length)
    sign = np.float32(-1 if shifted_sum(np.int64(last.ctypes.data), held, centre, k) > 0 else 1)
    for i in range(m):
        along[i] = sign * np.float32(shifted_sum(base + i * k * 4, held, centre, k))
    return True


@kernel()
def mean_rows(
    space: NDArray[np.float32], rows: NDArray[np.int64], sums: NDArray[np.float64], out: NDArray[np.float32]
) -> None:
    """Write the mean of rows of a table, summed in float64.

    Args:
        space: float32 [n, d].
        rows: int64 [m >= 1].
        sums: float64 [d], mutated.
        out: float32 [d], mutated.
    """
    d = space.shape[1]
    for j in range(d):
        sums[j] = 0.0
    for t in range(rows.shape[0]):
        for j in range(d):
            sums[j] += np.float64(space[rows[t], j])
    for j in range(d):
        out[j] = np.float32(sums[j] / rows.shape[0])


@kernel()
def _project(
    space: NDArray[np.float32],
    rows: NDArray[np.int64],
    origin: NDArray[np.float32],
    directions: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    d = origin.shape[0]
    base, shift = np.int64(space.ctypes.data), np.int64(origin.ctypes.data)
    for t in range(rows.shape[0]):
        for k in range(directions.shape[0]):
            direction = np.int64(directions.ctypes.data) + k * d * 4
            out[t, k] = shifted_sum(base + rows[t] * d * 4, direction, shift, d)
