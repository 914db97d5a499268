"""Neighbour selection: which of the nearest candidates a node links to."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vstore_kernels.gaps import row_gap
from vstore_kernels.jit import Int, part


@part()
def select_neighbors(
    rows: NDArray[Any],
    candidates: NDArray[np.int32],
    distances: NDArray[Any],
    n_candidates: Int,
    capacity: Int,
    out: NDArray[np.int32],
) -> Int:
    """Write the chosen links of a node to `out` and return their number; Malkov & Yashunin 2018, Algorithm 4.

    A candidate is taken unless one taken before is nearer to it than the node is; the nearest of those left
    out then fill the row up to three quarters of its capacity. Rows of one link would make islands in data of
    high intrinsic dimension, and the added near links raise recall at the same number of distances. Of
    candidates at distance zero (copies of the node) at most half the capacity is taken, so that copies cannot
    cut each other off from the rest.

    Args:
        rows: int16 or float32 [n, padded], as `rows_for_build` gives them.
        candidates: int32 [>= n_candidates], nearest first, without the node itself.
        distances: int32 or float32 [>= n_candidates], ascending, squared L2 to the node.
        n_candidates: candidates given.
        capacity: the most links.
        out: int32 [>= capacity], mutated.
    """
    m = 0
    n_copies = 0
    for t in range(n_candidates):
        node = np.int64(candidates[t])
        distance = distances[t]
        if distance == 0:
            if 2 * n_copies >= capacity:
                continue
            n_copies += 1
        taken = True
        for s in range(m):
            if row_gap(rows, node, np.int64(out[s])) < distance:
                taken = False
                break
        if taken:
            out[m] = node
            m += 1
            if m == capacity:
                break
    n_diverse = m
    floor = min(3 * capacity // 4, n_candidates)
    for t in range(n_candidates):
        if m >= floor:
            break
        taken = False
        for s in range(n_diverse):
            if out[s] == candidates[t]:
                taken = True
                break
        if not taken:
            out[m] = candidates[t]
            m += 1
    return m
