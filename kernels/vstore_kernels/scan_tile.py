"""The scan of all passing rows for a few queries at once: a row that was read is scored for each of them.

Codes of many rows do not stay in a cache, and reading them bounds the scan of one query; a matrix product
gains as much from rows of queries. Each query has its own beam and bounds, so it finds what it finds alone.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vstore_kernels.dots import CHUNK, FOUR
from vstore_kernels.intrinsics import load_f32, trailing_zeros
from vstore_kernels.jit import Int, inner, part
from vstore_kernels.layout import F_BASE, F_BIAS, F_SCALE, F_SHIFT, F_STEP_ERROR
from vstore_kernels.rescore import SIGMAS, keep
from vstore_kernels.scoring import QueryView, nibbles_of_four, prefetch_passing, score

TILE: Final = 8
"""Queries at once: their packed codes, at 1,024 dimensions 8 KiB, stay beside a row's in the first cache."""
TILE_BEAM: Final = 4_096
"""Wider beams are scanned one query at a time."""


class TileView(NamedTuple):
    """The queries of a scan and their beams; the first axis is the query's place in the tile."""

    packed: NDArray[np.uint64]
    """uint64 [TILE or 1, words]."""
    factors: NDArray[np.float32]
    """float32 [.., N_FACTORS]."""
    nodes: NDArray[np.int32]
    """int32 [.., >= ef], mutated."""
    distances: NDArray[np.float32]
    """float32 [.., >= ef], mutated."""
    bound_nodes: NDArray[np.int32]
    """int32 [.., >= k], mutated."""
    bounds: NDArray[np.float32]
    """float32 [.., >= k], mutated."""
    sizes: NDArray[np.int64]
    """int64 [.., 2]: nodes in the beam, upper bounds held; mutated."""
    products: NDArray[np.int32]
    """int32 [FOUR], mutated."""
    wide: NDArray[np.float32]
    """float32 [N_FACTORS, ..], mutated: `factors`, a factor of all queries beside each other."""
    limits: NDArray[np.float32]
    """float32 [..], mutated: the k-th least upper bound of each query, infinite before there are k."""
    estimates: NDArray[np.float32]
    """float32 [FOUR], mutated."""
    lows: NDArray[np.float32]
    """float32 [FOUR], mutated."""


@part()
def scan_tile(
    tile: TileView,
    n_queries: Int,
    bits: Int,
    width: Int,
    bias_at: Int,
    passing: NDArray[np.uint64],
    filtered: bool,
    n: Int,
    code_table: NDArray[np.int64],
    block_shift: Int,
    row_bytes: Int,
    capacity: Int,
    k: Int,
) -> None:
    """Score the passing nodes (all `n`, when not `filtered`) for each query and keep what is in doubt.

    Args as in `near_scan.scan_run`; the first `n_queries` of the tile take part.
    """
    mask = (np.int64(1) << block_shift) - 1
    for j in range(tile.sizes.shape[0]):
        tile.sizes[j, 0], tile.sizes[j, 1], tile.limits[j] = 0, 0, np.inf
        for t in range(tile.factors.shape[1]):
            tile.wide[t, j] = tile.factors[j, t]
    for w in range(passing.shape[0] if filtered else (n + 63) >> 6):
        word = ~np.uint64(0)
        if filtered:
            word = passing[w]
        elif n - w * 64 < 64:
            word >>= np.uint64(64 - (n - w * 64))
        prefetch_passing(word, w * 64, code_table, block_shift, row_bytes)
        while word != np.uint64(0):
            node = w * 64 + trailing_zeros(word)
            word &= word - np.uint64(1)
            address = code_table[node >> block_shift] + (node & mask) * row_bytes
            _offer(tile, n_queries, bits, width, bias_at, address, node, capacity, k)


@inner()
def _offer(
    tile: TileView,
    n_queries: Int,
    bits: Int,
    width: Int,
    bias_at: Int,
    address: Int,
    node: Int,
    capacity: Int,
    k: Int,
) -> None:
    """Score a row for every query and insert it into the beams that it may belong to."""
    if bits == 4 and tile.packed.shape[0] == TILE:
        _offer_in_fours(tile, n_queries, width, bias_at, address, node, capacity, k)
        return
    for j in range(n_queries):
        query = QueryView(tile.packed[j], tile.factors[j], bits, width, bias_at)
        _insert(tile, j, query, address, node, score(address, query), capacity, k)


@inner()
def _offer_in_fours(
    tile: TileView, n_queries: Int, width: Int, bias_at: Int, address: Int, node: Int, capacity: Int, k: Int
) -> None:
    """As `_offer`, of 4-bit codes: a row is unpacked for four queries, and most need no more of it."""
    stride, raw, wide = tile.packed.strides[0], tile.products, tile.wide
    bias, step = load_f32(address, bias_at), load_f32(address, bias_at + 4)
    estimates, lows = tile.estimates, tile.lows
    for first in range(0, n_queries, FOUR):
        queries = np.int64(tile.packed.ctypes.data) + first * stride
        nibbles_of_four(address, queries, stride, width // CHUNK, np.int64(raw.ctypes.data))
        for t in range(FOUR):
            j = first + t
            # As `narrow_score` and `spread` say, in the same order of operations.
            lean = wide[F_BIAS, j] * bias
            scaled = step * (wide[F_SCALE, j] * np.float32(raw[t]) + wide[F_SHIFT, j])
            estimates[t] = np.float32(wide[F_BASE, j] + lean + scaled)
            lows[t] = estimates[t] - SIGMAS * np.float32(abs(step) * wide[F_STEP_ERROR, j])
        for t in range(min(FOUR, n_queries - first)):
            j = first + t
            if not lows[t] > tile.limits[j]:
                query = QueryView(tile.packed[j], tile.factors[j], np.int64(4), width, bias_at)
                _insert(tile, j, query, address, node, estimates[t], capacity, k)


@inner()
def _insert(
    tile: TileView,
    j: Int,
    query: QueryView,
    address: Int,
    node: Int,
    estimate: np.float32,
    capacity: Int,
    k: Int,
) -> None:
    nodes, distances, size = tile.nodes[j], tile.distances[j], tile.sizes[j, 0]
    if size < capacity or estimate < distances[size - 1]:
        size, n_bounds, entered = keep(
            address,
            node,
            estimate,
            query,
            nodes,
            distances,
            size,
            capacity,
            k,
            tile.bound_nodes[j],
            tile.bounds[j],
            tile.sizes[j, 1],
        )
        tile.sizes[j, 0], tile.sizes[j, 1] = size, n_bounds
        if entered and n_bounds == k:
            tile.limits[j] = tile.bounds[j, k - 1]
