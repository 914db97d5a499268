"""The scan of all passing rows for a few queries at once: a row that was read is scored for each of them.

Codes of many rows do not stay in a cache, and reading them bounds the scan of one query; a matrix product
gains as much from rows of queries. Rows are gathered a run ahead of their turn, for under a filter they lie
apart. Each query has its own beam and bounds, so it finds what it finds alone.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels.dots import CHUNK
from vstore_kernels.fours import FOUR, judge_four
from vstore_kernels.intrinsics import trailing_zeros
from vstore_kernels.jit import Int, inner, part
from vstore_kernels.pack_views import PackView, flat_at, grid_at
from vstore_kernels.rescore import keep
from vstore_kernels.scoring import QueryView, prefetch_row, score

TILE: Final = 8
"""Queries at once: their packed codes, at 1,024 dimensions 8 KiB, stay beside a row's in the first cache."""
TILE_BEAM: Final = 4_096
"""Wider beams are scanned one query at a time."""
RUN: Final = 16
"""Rows asked for while as many are scored: at 1,024 dimensions 8 KiB each, which the first cache holds."""


class TileView(PackView):
    """The queries of a scan and their beams, in an `AnswerScratch`'s pack; the first axis is the query's
    place in the tile.
    """

    __slots__ = ()

    packed = grid_at(15, np.uint64)
    """uint64 [TILE or 1, words]."""
    factors = grid_at(16, np.float32)
    """float32 [.., N_FACTORS]."""
    nodes = grid_at(17, np.int32)
    """int32 [.., >= ef], mutated."""
    distances = grid_at(18, np.float32)
    """float32 [.., >= ef], mutated."""
    bound_nodes = grid_at(19, np.int32)
    """int32 [.., >= k], mutated."""
    bounds = grid_at(20, np.float32)
    """float32 [.., >= k], mutated."""
    sizes = grid_at(21, np.int64)
    """int64 [.., 2]: nodes in the beam, upper bounds held; mutated."""
    rows = flat_at(22, np.int64)
    """int64 [2 * RUN], mutated: nodes to be scored, and those after them."""
    wide = grid_at(23, np.float32)
    """float32 [N_FACTORS, ..], mutated: `factors`, a factor of all queries beside each other."""
    limits = flat_at(24, np.float32)
    """float32 [..], mutated: the k-th least upper bound of each query, infinite before there are k."""
    estimates = flat_at(25, np.float32)
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
    for j in range(tile.sizes.shape[0]):
        tile.sizes[j, 0], tile.sizes[j, 1], tile.limits[j] = 0, 0, np.inf
        for t in range(tile.factors.shape[1]):
            tile.wide[t, j] = tile.factors[j, t]
    n_words = passing.shape[0] if filtered else (n + 63) >> 6
    rows = tile.rows
    word, at = np.uint64(0), np.int64(-1)
    here, n_rows = np.int64(0), np.int64(0)
    # fmt: off
    while True:
        # The next rows are on their way while these are scored.
        n_next, word, at = _gather(
            rows[RUN - here : 2 * RUN - here], word, at, n_words, passing, filtered, n, code_table,
            block_shift, row_bytes,
        )
        if n_rows > 0:
            _offer(
                tile, n_queries, bits, width, bias_at, rows[here : here + n_rows], code_table, block_shift,
                row_bytes, capacity, k,
            )
        if n_next == 0:
            return
        n_rows, here = n_next, RUN - here
    # fmt: on


@inner()
def _gather(
    rows: NDArray[np.int64],
    word: np.uint64,
    at: Int,
    n_words: Int,
    passing: NDArray[np.uint64],
    filtered: bool,
    n: Int,
    code_table: NDArray[np.int64],
    block_shift: Int,
    row_bytes: Int,
) -> tuple[Int, np.uint64, Int]:
    """Write the next passing nodes to `rows` (int64 [RUN]) and ask for their codes; return how many there
    are, and where to go on: what is left of word number `at`.
    """
    mask = (np.int64(1) << block_shift) - 1
    m = np.int64(0)
    while m < RUN:
        while word == np.uint64(0) and at + 1 < n_words:
            at += 1
            word = ~np.uint64(0)
            if filtered:
                word = np.uint64(passing[at])
            elif n - at * 64 < 64:
                word >>= np.uint64(64 - (n - at * 64))
        if word == np.uint64(0):
            break
        node = at * 64 + trailing_zeros(word)
        word &= word - np.uint64(1)
        prefetch_row(code_table[node >> block_shift] + (node & mask) * row_bytes, row_bytes)
        rows[m] = node
        m += 1
    return m, word, at


@inner()
def _offer(
    tile: TileView,
    n_queries: Int,
    bits: Int,
    width: Int,
    bias_at: Int,
    rows: NDArray[np.int64],
    code_table: NDArray[np.int64],
    block_shift: Int,
    row_bytes: Int,
    capacity: Int,
    k: Int,
) -> None:
    """Score rows for every query and insert them into the beams that they may belong to."""
    mask = (np.int64(1) << block_shift) - 1
    in_fours = bits == 4 and tile.packed.shape[0] == TILE
    stride, factor_stride = tile.packed.strides[0], tile.wide.strides[0]
    queries, factors = np.int64(tile.packed.ctypes.data), np.int64(tile.wide.ctypes.data)
    limits, estimates = np.int64(tile.limits.ctypes.data), np.int64(tile.estimates.ctypes.data)
    for first in range(0, n_queries, FOUR if in_fours else 1):
        asking = (np.int64(1) << min(np.int64(FOUR), n_queries - first)) - 1
        for t in range(rows.shape[0]):
            node = rows[t]
            address = code_table[node >> block_shift] + (node & mask) * row_bytes
            doubtful = np.int64(1)
            if in_fours:
                doubtful = asking & judge_four(
                    address,
                    queries + first * stride,
                    stride,
                    width // CHUNK,
                    bias_at,
                    factors + 4 * first,
                    factor_stride,
                    limits + 4 * first,
                    estimates,
                )
            else:
                one = QueryView(tile.packed[first], tile.factors[first], bits, width, bias_at)
                tile.estimates[0] = score(address, one)
            while doubtful != 0:
                place = trailing_zeros(np.uint64(doubtful))
                doubtful &= doubtful - 1
                j = first + place
                query = QueryView(tile.packed[j], tile.factors[j], bits, width, bias_at)
                _insert(tile, j, query, address, node, tile.estimates[place], capacity, k)


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
