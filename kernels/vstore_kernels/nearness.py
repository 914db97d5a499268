"""How a filter lies around queries, and how unlike a shard's rows they are: one call for what plans ask."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels import gate
from vstore_kernels.jit import Int, kernel, part
from vstore_kernels.layout import METRICS
from vstore_kernels.near import novelty_of, to_gaps
from vstore_kernels.packs import WORDS, flat, grid, pack
from vstore_kernels.products import products_into
from vstore_kernels.sums import row_squares

CORRELATION: Final = 0
NOVELTY: Final = 1
_N_HELD: Final = 7
_L2: Final = METRICS.index("l2")


class Nearness:
    """The clusters of a shard, with how many rows of each pass one filter. Keeps its arrays alive.

    Near are a query's nearest clusters up to where `enough` passing rows are met, at most `n_near`; of the
    last cluster only the part that holds the rows still wanted counts. Immutable.

    Args:
        centroids: float32 [K >= 1, d'], as in `clusters.nearest_clusters`.
        d: dimensions of queries.
        counts: int64 [K], the passing rows of each cluster; at least one passes.
        sizes: int64 [K], all rows of each cluster.
        metric: orders clusters, as there. All but l2 compare directions alone in `near.novelty`.
        coarse: int64 [C], the clusters that `near.novelty` compares with; C of 0 gives a novelty of 0.
        scales: float32 [C], what brings the first d components of those to what is compared.
        n_near: clusters looked at, at most.
        enough: passing rows that settle it.

    Raises:
        TypeError: a wrong dtype.
        ValueError: a wrong shape, or sizes that do not agree.
    """

    __slots__ = ("_held", "_keep", "_n_near", "d", "n_clusters")

    def __init__(
        self,
        centroids: NDArray[np.float32],
        d: int,
        counts: NDArray[np.int64],
        sizes: NDArray[np.int64],
        metric: str,
        coarse: NDArray[np.int64],
        scales: NDArray[np.float32],
        *,
        n_near: int,
        enough: int,
    ) -> None:
        gate.array("centroids", centroids, np.float32, 2)
        gate.array("counts", counts, np.int64, 1)
        gate.array("sizes", sizes, np.int64, 1)
        gate.array("coarse", coarse, np.int64, 1)
        gate.array("scales", scales, np.float32, 1)
        kind = METRICS.index(gate.metric(metric))
        K, self.d = centroids.shape[0], d
        self.n_clusters = K
        whole = d + (metric == "dot")
        if not counts.size == sizes.size == K or scales.size != coarse.size or centroids.shape[1] != whole:
            raise ValueError(
                f"centroids of shape {centroids.shape}, {d} dimensions under {metric}, {counts.size} counts, "
                f"{sizes.size} sizes, {coarse.size} coarse and {scales.size} scales do not agree"
            )
        n_rows, n_passing = int(sizes.sum()), int(counts.sum())
        if not 1 <= n_near <= K or enough < 1 or not 0 < n_passing <= n_rows:
            raise ValueError(
                f"n_near is {n_near}, enough {enough}, passing {n_passing} of {n_rows} rows: n_near must be "
                f"from 1 to {K}, enough and the passing rows at least 1"
            )
        if coarse.size and not 0 <= int(coarse.min()) <= int(coarse.max()) < K:
            raise ValueError(f"coarse holds {coarse.min()} to {coarse.max()}; clusters are 0 to {K - 1}")
        squares = row_squares(centroids, d)
        arrays = (centroids, squares, counts, sizes, coarse, scales, squares[coarse] * scales * scales)
        assert len(arrays) == _N_HELD
        self._keep, self._n_near = arrays, n_near
        self._held = pack(arrays, (kind, enough, n_passing, n_rows))

    def of(
        self, queries: NDArray[np.float32], gaps: NDArray[np.float32] | None = None
    ) -> NDArray[np.float64]:
        """Return float64 [m, 2] for queries (float32 [m, d], raw): CORRELATION and NOVELTY of each.

        The correlation is the passing share near the query over the share overall. `gaps` (float32 [m, K],
        written, if given) takes the distances of the clusters from each query, as order needs them.

        Raises:
            TypeError, ValueError: queries or gaps of another dtype or shape.
        """
        if queries.dtype is not gate.FLOAT32 or queries.ndim != 2 or not queries.flags.c_contiguous:
            gate.array("queries", queries, np.float32, 2)
        if queries.shape[1] != self.d:
            raise ValueError(f"queries have {queries.shape[1]} dimensions, the centroids {self.d}")
        shape = (queries.shape[0], self.n_clusters)
        if gaps is None:
            gaps = np.empty(shape, np.float32)
        elif gate.array("gaps", gaps, np.float32, 2).shape != shape:
            raise ValueError(f"gaps have shape {gaps.shape}; it must be {shape}")
        out = np.empty((queries.shape[0], 2), np.float64)
        room, coarse = np.empty((2, self._n_near), np.float64), np.empty(self._keep[4].size, np.float32)
        _nearness(queries, self._held, room, coarse, gaps, out)
        return out


@kernel()
def _nearness(
    queries: NDArray[np.float32],
    held: NDArray[np.int64],
    room: NDArray[np.float64],
    products: NDArray[np.float32],
    gaps: NDArray[np.float32],
    out: NDArray[np.float64],
) -> None:
    centroids, squares = grid(held, 0, np.float32), flat(held, 1, np.float32)
    counts, sizes = flat(held, 2, np.int64), flat(held, 3, np.int64)
    coarse, scales = flat(held, 4, np.int64), flat(held, 5, np.float32)
    coarse_squares = flat(held, 6, np.float32)
    numbers = held[WORDS * _N_HELD :]
    kind, enough = numbers[0], numbers[1]
    overall = numbers[2] / numbers[3]
    m, d = queries.shape
    products_into(np.int64(queries.ctypes.data), m, d, centroids, np.int64(gaps.ctypes.data))
    for i in range(m):
        query, own = queries[i], gaps[i]
        out[i, NOVELTY] = 0.0
        if coarse.shape[0] > 0:
            for t in range(coarse.shape[0]):
                products[t] = own[coarse[t]] * scales[t]
            out[i, NOVELTY] = novelty_of(query, products, coarse_squares, kind != _L2)
        to_gaps(query, squares, kind, own)
        n_near = _nearest(own, room[0], room[1])
        share = _share(room[1], n_near, counts, sizes, enough)
        out[i, CORRELATION] = share / overall if share >= 0 else 1.0


@part()
def _nearest(all_gaps: NDArray[np.float32], gaps: NDArray[np.float64], near: NDArray[np.float64]) -> Int:
    """Write the nearest clusters and their gaps, nearest first, equal ones by number; return how many."""
    size = np.int64(0)
    for c in range(all_gaps.shape[0]):
        gap = np.float64(all_gaps[c])
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
