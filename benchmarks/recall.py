"""Recall by distance: an id counts where it is no farther than the k-th true neighbour, ties included."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

RELATIVE_TIE = 1e-6
"""Peers return float32 order; two rows nearer to one another than this are one distance to them."""


def squared_distances(
    points: npt.NDArray[np.float32], queries: npt.NDArray[np.float32], rows: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """Return float64[m, k], the squared L2 distance of each query to each of its `rows` int[m, k]."""
    out = np.empty(rows.shape, np.float64)
    for i, query in enumerate(queries):
        gaps = points[rows[i]].astype(np.float64) - query.astype(np.float64)
        out[i] = np.einsum("ij,ij->i", gaps, gaps)
    return out


def recall(
    points: npt.NDArray[np.float32],
    queries: npt.NDArray[np.float32],
    found: npt.NDArray[Any],
    truth: npt.NDArray[Any],
    k: int,
    passing: npt.NDArray[np.bool_] | None = None,
) -> float:
    """Return the mean share of the k true nearest that was found.

    Args:
        points, queries: float32[n, d], float32[m, d].
        found: int[m, >= 0] rows as a peer returned them; negative ones are missing, doubles count once.
        truth: int[m, k'] the exact nearest; fewer than k columns where fewer rows pass.
        k: answers asked for.
        passing: bool[n]; a found row that does not pass counts for nothing.
    """
    wanted = min(k, truth.shape[1])
    if wanted == 0 or len(queries) == 0:
        return 1.0
    limits = squared_distances(points, queries, truth[:, wanted - 1 : wanted])[:, 0]
    rows = np.sort(found[:, :k].astype(np.int64), axis=1)
    valid = (rows >= 0) & (rows < len(points))
    valid[:, 1:] &= rows[:, 1:] != rows[:, :-1]
    safe = np.where(valid, rows, 0)
    if passing is not None:
        valid &= passing[safe]
    distances = squared_distances(points, queries, safe)
    right = valid & (distances <= limits[:, None] * (1 + RELATIVE_TIE) + 1e-12)
    return float(np.minimum(right.sum(axis=1), wanted).sum() / (len(queries) * wanted))
