"""Exact distances of the candidates that could still be among the k nearest, and of no others.

Codes give an estimate and the standard deviation of its error. A candidate whose estimate lies more than
SIGMAS deviations beyond what the k-th place needs cannot reach it, but for once in a thousand times; the
bound is RaBitQ's (Gao & Long 2024, section 3.2.2), with the error measured when the codes were trained.
First, before any vector is read, against the k-th least upper bound of all candidates; then, one after the
other in order of their estimates, against the k-th least exact distance so far.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels import gate
from vstore_kernels.beam import insert
from vstore_kernels.codes import QueryCode, check_row_bytes
from vstore_kernels.distance import distance_at, length, prefetch_vector
from vstore_kernels.jit import Int, inner, part
from vstore_kernels.layout import METRICS
from vstore_kernels.scoring import QueryView, spread
from vstore_kernels.tables import BlockTables

SIGMAS: Final = np.float32(3)
_AHEAD: Final = 4


def undecided(
    query_code: QueryCode,
    tables: BlockTables,
    node_ids: NDArray[np.int32],
    estimates: NDArray[np.float32],
    k: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return which candidates could be among the k nearest: positions int64 [m'] ascending, and the error of
    each one's estimate (float32 [m']), in standard deviations' units.

    Args:
        query_code: what the estimates were made with.
        tables: the candidates' code blocks must be resident.
        node_ids: int32 [m].
        estimates: float32 [m], ascending.
        k: answers wanted, at least 1.

    Raises:
        TypeError: a wrong dtype.
        ValueError: k below 1, lengths that differ, codes of another length, or a block that is not resident.
    """
    gate.array("estimates", estimates, np.float32, 1)
    ids = gate.node_ids("node_ids", node_ids, tables.n)
    check_row_bytes(query_code, tables.row_bytes)
    if k < 1 or ids.size != estimates.size:
        raise ValueError(
            f"k is {k}, with {ids.size} ids and {estimates.size} estimates; lengths must be equal, k >= 1"
        )
    if not tables.codes_resident and ids.size and (tables.code_table[ids >> tables.block_shift] == 0).any():
        raise ValueError("a candidate's codes are not resident; set_codes its block first")
    spreads = np.empty(ids.size, np.float32)
    kept = np.empty(ids.size, np.int64)
    m = undecided_rows(
        ids,
        estimates,
        tables.code_table,
        tables.block_shift,
        tables.row_bytes,
        query_code.packed,
        query_code.factors,
        query_code.bits,
        query_code.width,
        query_code.bias_at,
        k,
        spreads,
        np.empty(k, np.int32),
        np.empty(k, np.float32),
        kept,
    )
    return kept[:m], spreads[kept[:m]]


def rescore(
    query: NDArray[np.float32],
    vectors: NDArray[np.float32],
    metric: str,
    estimates: NDArray[np.float32],
    spreads: NDArray[np.float32],
    k: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32], int]:
    """Return the positions (int64 [m']) and exact distances (float32 [m']) of the k nearest rows, m' <= k,
    ascending by (distance, position), and how many rows were looked at.

    Args:
        query: float32 [d].
        vectors: float32 [m, d], rows of `undecided`'s candidates.
        metric: as for `exact_distances`.
        estimates: float32 [m], ascending.
        spreads: float32 [m], from `undecided`.
        k: answers wanted, at least 1.

    Raises:
        TypeError: a wrong dtype.
        ValueError: shapes that do not agree, k below 1, an unknown metric.
    """
    gate.array("query", query, np.float32, 1)
    gate.array("vectors", vectors, np.float32, 2)
    gate.array("estimates", estimates, np.float32, 1)
    gate.array("spreads", spreads, np.float32, 1)
    kind = METRICS.index(gate.metric(metric))
    m, d = vectors.shape
    if k < 1 or d != query.size or estimates.size != m or spreads.size != m:
        raise ValueError(
            f"k is {k}, the query has {query.size} dimensions, vectors have shape ({m}, {d}), with "
            f"{estimates.size} estimates and {spreads.size} spreads; they must agree, and k be at least 1"
        )
    addresses = vectors.ctypes.data + np.arange(m, dtype=np.int64) * (4 * d)
    places, distances = np.empty(k, np.int32), np.empty(k, np.float32)
    found, n_rescored = rescore_rows(query, addresses, m, estimates, spreads, kind, k, places, distances)
    return places[:found].astype(np.int64), distances[:found], int(n_rescored)


@part()
def undecided_rows(
    nodes: NDArray[np.int32],
    estimates: NDArray[np.float32],
    code_table: NDArray[np.int64],
    block_shift: Int,
    row_bytes: Int,
    packed: NDArray[np.uint64],
    factors: NDArray[np.float32],
    bits: Int,
    width: Int,
    bias_at: Int,
    k: Int,
    spreads: NDArray[np.float32],
    bound_nodes: NDArray[np.int32],
    bounds: NDArray[np.float32],
    kept: NDArray[np.int64],
) -> Int:
    """Write the positions of the undecided to `kept` (int64 [m]) and return their number; as `undecided`.

    `spreads` float32 [m], `bound_nodes` int32 [k] and `bounds` float32 [k] are mutated.
    """
    query = QueryView(packed, factors, bits, width, bias_at)
    mask = (np.int64(1) << block_shift) - 1
    m = nodes.shape[0]
    size = np.int64(0)
    for t in range(m):
        node = np.int64(nodes[t])
        address = code_table[node >> block_shift] + (node & mask) * row_bytes
        spreads[t] = spread(address, estimates[t], query)
        _, size = insert(bound_nodes, bounds, size, k, node, estimates[t] + SIGMAS * spreads[t])
    n_kept = 0
    for t in range(m):
        if size < k or not estimates[t] - SIGMAS * spreads[t] > bounds[k - 1]:
            kept[n_kept] = t
            n_kept += 1
    return np.int64(n_kept)


@inner()
def keep(
    address: Int,
    node: Int,
    estimate: np.float32,
    query: QueryView,
    nodes: NDArray[np.int32],
    estimates: NDArray[np.float32],
    size: Int,
    capacity: Int,
    k: Int,
    bound_nodes: NDArray[np.int32],
    bounds: NDArray[np.float32],
    n_bounds: Int,
) -> tuple[Int, Int, bool]:
    """Insert a scanned node into the beam unless it cannot be among the k nearest.

    Returns the new sizes of beam and bounds, and whether its upper bound is among the k least so far.

    The k-th least upper bound so far only falls, so that a node beyond it stays beyond; with k = 0 all enter.
    Scans of equal estimates, as under a filter far from the query, need a wide beam, which others then need
    not pay for.

    Args:
        address: of the node's code.
        node: its id.
        estimate: its `score`.
        query: that it was scored for.
        nodes: int32 [>= capacity], the beam, mutated.
        estimates: float32 [>= capacity], mutated.
        size: nodes in the beam.
        capacity: the most it may hold.
        k: answers wanted, or 0.
        bound_nodes: int32 [>= k], mutated.
        bounds: float32 [>= k], the k least upper bounds so far, mutated.
        n_bounds: how many there are.
    """
    entered = False
    if k > 0:
        slack = SIGMAS * spread(address, estimate, query)
        if n_bounds == k and estimate - slack > bounds[k - 1]:
            return size, n_bounds, False
        at, n_bounds = insert(bound_nodes, bounds, n_bounds, k, node, estimate + slack)
        entered = at < k
    _, size = insert(nodes, estimates, size, capacity, node, estimate)
    return size, n_bounds, entered


@part()
def rescore_rows(
    query: NDArray[np.float32],
    addresses: NDArray[np.int64],
    m: Int,
    estimates: NDArray[np.float32],
    spreads: NDArray[np.float32],
    kind: Int,
    k: Int,
    places: NDArray[np.int32],
    distances: NDArray[np.float32],
) -> tuple[Int, Int]:
    """Write the k nearest of the rows at `addresses[:m]` (int64) to `places` (int32 [k], positions) and
    `distances` (float32 [k]); return (how many, rows looked at). As `rescore`.
    """
    d = query.shape[0]
    norm = length(query)
    size = np.int64(0)
    n_rescored = np.int64(0)
    for t in range(min(m, _AHEAD)):
        prefetch_vector(addresses[t], d)
    for t in range(m):
        ahead = t + _AHEAD
        if ahead < m and (size < k or not estimates[ahead] - SIGMAS * spreads[ahead] > distances[k - 1]):
            prefetch_vector(addresses[ahead], d)
        if size == k and estimates[t] - SIGMAS * spreads[t] > distances[k - 1]:
            continue
        n_rescored += 1
        distance = distance_at(addresses[t], query, norm, kind)
        _, size = insert(places, distances, size, k, t, distance)
    return size, n_rescored
