"""How a filter lies around queries, and how unlike a shard's rows they are: one call for what plans ask."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels import gate
from vstore_kernels.jit import Int, kernel, part, sum_part
from vstore_kernels.near import novelty_of
from vstore_kernels.packs import WORDS, flat, grid, pack

CORRELATION: Final = 0
NOVELTY: Final = 1
_N_HELD: Final = 5


class Nearness:
    """The clusters of a shard, with how many rows of each pass one filter. Keeps its arrays alive.

    Near are a query's nearest clusters up to where `enough` passing rows are met, at most `n_near`; of the
    last cluster only the part that holds the rows still wanted counts. Immutable.

    Args:
        centroids: float32 [K >= 1, d].
        squares: float32 [K], what is added to -2 c.q where nearness is compared.
        counts: int64 [K], the passing rows of each cluster; at least one passes.
        sizes: int64 [K], all rows of each cluster.
        coarse: float32 [C, d], what `near.novelty` compares with; C of 0 gives a novelty of 0.
        unit: queries are brought to unit length first.
        directions: as for `near.novelty`.
        n_near: clusters looked at, at most.
        enough: passing rows that settle it.

    Raises:
        TypeError: a wrong dtype.
        ValueError: a wrong shape, or sizes that do not agree.
    """

    __slots__ = ("_held", "_keep", "_n_near", "d")

    def __init__(
        self,
        centroids: NDArray[np.float32],
        squares: NDArray[np.float32],
        counts: NDArray[np.int64],
        sizes: NDArray[np.int64],
        coarse: NDArray[np.float32],
        *,
        unit: bool,
        directions: bool,
        n_near: int,
        enough: int,
    ) -> None:
        gate.array("centroids", centroids, np.float32, 2)
        gate.array("squares", squares, np.float32, 1)
        gate.array("counts", counts, np.int64, 1)
        gate.array("sizes", sizes, np.int64, 1)
        gate.array("coarse", coarse, np.float32, 2)
        K, self.d = centroids.shape
        if not squares.size == counts.size == sizes.size == K or coarse.shape[1] != self.d:
            raise ValueError(
                f"{K} centroids of {self.d} dimensions, {squares.size} squares, {counts.size} counts, "
                f"{sizes.size} sizes and coarse centroids of shape {coarse.shape} do not agree"
            )
        n_rows, n_passing = int(sizes.sum()), int(counts.sum())
        if not 1 <= n_near <= K or enough < 1 or not 0 < n_passing <= n_rows:
            raise ValueError(
                f"n_near is {n_near}, enough {enough}, passing {n_passing} of {n_rows} rows: n_near must be "
                f"from 1 to {K}, enough and the passing rows at least 1"
            )
        arrays = (centroids, squares, counts, sizes, coarse)
        assert len(arrays) == _N_HELD
        self._keep, self._n_near = arrays, n_near
        self._held = pack(arrays, (unit, directions, enough, n_passing, n_rows))

    def of(self, queries: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return float64 [m, 2] for queries (float32 [m, d], raw): CORRELATION and NOVELTY of each.

        The correlation is the passing share near the query over the share overall.

        Raises:
            TypeError, ValueError: queries of another dtype or shape.
        """
        if queries.dtype is not gate.FLOAT32 or queries.ndim != 2 or not queries.flags.c_contiguous:
            gate.array("queries", queries, np.float32, 2)
        if queries.shape[1] != self.d:
            raise ValueError(f"queries have {queries.shape[1]} dimensions, the centroids {self.d}")
        out = np.empty((queries.shape[0], 2), np.float64)
        _nearness(queries, self._held, np.empty((2, self._n_near), np.float64), out)
        return out


@kernel()
def _nearness(
    queries: NDArray[np.float32],
    held: NDArray[np.int64],
    room: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    centroids, squares = grid(held, 0, np.float32), flat(held, 1, np.float32)
    counts, sizes = flat(held, 2, np.int64), flat(held, 3, np.int64)
    coarse = grid(held, 4, np.float32)
    numbers = held[WORDS * _N_HELD :]
    unit, directions, enough = numbers[0], numbers[1], numbers[2]
    overall = numbers[3] / numbers[4]
    gaps, near = room[0], room[1]
    for i in range(queries.shape[0]):
        query = queries[i]
        n_near = _nearest(query, centroids, squares, unit, gaps, near)
        share = _share(near, n_near, counts, sizes, enough)
        out[i, CORRELATION] = share / overall if share >= 0 else 1.0
        out[i, NOVELTY] = 0.0
        if coarse.shape[0] > 0:
            out[i, NOVELTY] = novelty_of(query, coarse, directions != 0)


@sum_part()
def _nearest(
    query: NDArray[np.float32],
    centroids: NDArray[np.float32],
    squares: NDArray[np.float32],
    unit: Int,
    gaps: NDArray[np.float64],
    near: NDArray[np.float64],
) -> Int:
    """Write the nearest clusters and their gaps, nearest first, equal ones by number; return how many."""
    shrink = np.float32(1)
    if unit != 0:
        square = np.float32(0)
        for j in range(query.shape[0]):
            square += query[j] * query[j]
        if square > np.float32(0):
            shrink = np.float32(1) / np.float32(np.sqrt(square))
    size = np.int64(0)
    for c in range(centroids.shape[0]):
        row = centroids[c]
        inner = np.float32(0)
        for j in range(query.shape[0]):
            inner += row[j] * query[j]
        gap = np.float64(squares[c] - np.float32(2) * shrink * inner)
        if size == gaps.shape[0]:
            if not gap < gaps[size - 1]:
                continue
            size -= 1
        at = size
        while at > 0 and gaps[at - 1] > gap:
            gaps[at], near[at] = gaps[at - 1], near[at - 1]
            at -= 1
        gaps[at], near[at] = gap, c
        size += 1
    return np.int64(size)


@part()
def _share(
    near: NDArray[np.float64], n_near: Int, counts: NDArray[np.int64], sizes: NDArray[np.int64], enough: Int
) -> float:
    """Return the share of passing rows in those clusters; -1 where they hold no row."""
    rows: Int = 0
    met: Int = 0
    for t in range(n_near):
        cluster = np.int64(near[t])
        rows, met = rows + sizes[cluster], met + counts[cluster]
        if met > enough:
            before = enough - (met - counts[cluster])
            rows -= np.int64(sizes[cluster] * (1.0 - before / counts[cluster]))
            met = enough
        if met >= enough:
            break
    return met / rows if rows > 0 else -1.0
