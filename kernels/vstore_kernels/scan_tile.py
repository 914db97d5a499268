"""The scan of all passing rows for a few queries at once: a row that was read is scored for each of them.

Codes of many rows do not stay in a cache, and reading them bounds the scan of one query; a matrix product
gains as much from rows of queries. Rows are gathered a run ahead of their turn, for under a filter they lie
apart. Each query has its own beam and bounds, so it finds what it finds alone.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels.beam import insert
from vstore_kernels.dots import CHUNK
from vstore_kernels.fours import FOUR, MOST_ROWS, judge_rows
from vstore_kernels.intrinsics import trailing_zeros
from vstore_kernels.jit import Int, inner, part
from vstore_kernels.pack_views import PackView, flat_at, grid_at
from vstore_kernels.rescore import SIGMAS, keep
from vstore_kernels.scoring import QueryView, prefetch_row, score, spread

TILE: Final = 16
"""Queries at once, four at a time: the packed codes of four, at 1,024 dimensions 4 KiB, stay beside the rows'
in the first cache; a row comes from farther away once for all."""
TILE_BEAM: Final = 4_096
"""Wider beams are scanned one query at a time."""
RUN: Final = MOST_ROWS
"""Rows asked for while as many are scored: at 1,024 dimensions 8 KiB each, which the first cache holds."""

_ONE: Final = np.uint64(1)
_EVERY_ROW: Final = np.uint64(0x1111111111111111)


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
    """int64 [.., 3]: nodes in the beam, upper bounds held, whether the beam is sorted; mutated."""
    rows = flat_at(22, np.int64)
    """int64 [4 * RUN], mutated: nodes to be scored, those after them, and the addresses of both's codes."""
    wide = grid_at(23, np.float32)
    """float32 [N_FACTORS, ..], mutated: `factors`, a factor of all queries beside each other."""
    limits = flat_at(24, np.float32)
    """float32 [..], mutated: the k-th least upper bound of each query, infinite before there are k."""
    estimates = flat_at(25, np.float32)
    """float32 [RUN * FOUR], mutated."""
    lows = grid_at(26, np.float32)
    """float32 [.., >= ef], mutated: the lower bound of each node of a beam that is not sorted."""


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
        tile.sizes[j, 0], tile.sizes[j, 1], tile.sizes[j, 2], tile.limits[j] = 0, 0, 0, np.inf
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
            rows, RUN - here, word, at, n_words, passing, filtered, n, code_table, block_shift, row_bytes
        )
        if n_rows > 0:
            _offer(tile, n_queries, bits, width, bias_at, here, n_rows, capacity, k)
        if n_next == 0:
            return
        n_rows, here = n_next, RUN - here
    # fmt: on


@inner()
def _gather(
    rows: NDArray[np.int64],
    first: Int,
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
    """Write the next passing nodes to `rows` (`TileView.rows`), from place `first` on, and ask for their
    codes; return how many there are, at most RUN, and where to go on: what is left of word number `at`.
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
        address = code_table[node >> block_shift] + (node & mask) * row_bytes
        prefetch_row(address, row_bytes)
        rows[first + m], rows[2 * RUN + first + m] = node, address
        m += 1
    if m & 1:
        # Rows are judged in pairs; what comes of the last one's double is not looked at.
        rows[2 * RUN + first + m] = rows[2 * RUN + first + m - 1]
    return m, word, at


@inner()
def _offer(
    tile: TileView,
    n_queries: Int,
    bits: Int,
    width: Int,
    bias_at: Int,
    here: Int,
    n_rows: Int,
    capacity: Int,
    k: Int,
) -> None:
    """Score the rows from place `here` on for every query and insert them into the beams that they may belong
    to.
    """
    in_fours = bits == 4 and tile.packed.shape[0] == TILE
    stride, factor_stride = tile.packed.strides[0], tile.wide.strides[0]
    queries, factors = np.int64(tile.packed.ctypes.data), np.int64(tile.wide.ctypes.data)
    limits, estimates = np.int64(tile.limits.ctypes.data), np.int64(tile.estimates.ctypes.data)
    addresses = np.int64(tile.rows.ctypes.data) + 8 * (2 * RUN + here)
    for first in range(0, n_queries, FOUR if in_fours else 1):
        doubtful = np.uint64(0)
        if in_fours:
            asking = _EVERY_ROW * ((_ONE << np.uint64(min(np.int64(FOUR), n_queries - first))) - _ONE)
            doubtful = (asking >> np.uint64(FOUR * (RUN - n_rows))) & np.uint64(
                judge_rows(
                    addresses,
                    (n_rows + 1) >> 1,
                    queries + first * stride,
                    stride,
                    width // CHUNK,
                    bias_at,
                    factors + 4 * first,
                    factor_stride,
                    limits + 4 * first,
                    estimates,
                )
            )
        else:
            one = QueryView(tile.packed[first], tile.factors[first], bits, width, bias_at)
            for t in range(n_rows):
                tile.estimates[FOUR * t] = score(tile.rows[2 * RUN + here + t], one)
                doubtful |= _ONE << np.uint64(FOUR * t)
        # What was in doubt before the rows is looked at again, by the bounds that these have lowered.
        while doubtful != np.uint64(0):
            place = trailing_zeros(doubtful)
            doubtful &= doubtful - _ONE
            j, t = first + place % FOUR, here + place // FOUR
            query = QueryView(tile.packed[j], tile.factors[j], bits, width, bias_at)
            _insert(tile, j, query, tile.rows[2 * RUN + t], tile.rows[t], tile.estimates[place], capacity, k)


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
    """Insert a row into a query's beam, as `keep` does; before the beam is full, at its end."""
    nodes, distances, size = tile.nodes[j], tile.distances[j], tile.sizes[j, 0]
    if tile.sizes[j, 2] == 0:
        if size < capacity:
            _append(tile, j, query, address, node, estimate, k)
            return
        _sort(nodes, distances, size)
        tile.sizes[j, 2] = 1
    if estimate < distances[size - 1]:
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


@inner()
def _append(
    tile: TileView, j: Int, query: QueryView, address: Int, node: Int, estimate: np.float32, k: Int
) -> None:
    bounds, n_bounds, size = tile.bounds[j], tile.sizes[j, 1], tile.sizes[j, 0]
    slack = SIGMAS * spread(address, estimate, query)
    low, high = estimate - slack, estimate + slack
    if n_bounds == k and low > bounds[k - 1]:
        return
    tile.nodes[j, size], tile.distances[j, size], tile.lows[j, size] = node, estimate, low
    tile.sizes[j, 0] = size + 1
    at, n_bounds = insert(tile.bound_nodes[j], bounds, n_bounds, k, node, high)
    if at < k:
        tile.sizes[j, 1] = n_bounds
        if n_bounds == k:
            tile.limits[j] = bounds[k - 1]


@part()
def _sort(nodes: NDArray[np.int32], distances: NDArray[np.float32], n: Int) -> None:
    """Sort a beam, equal distances as they came."""
    for size in range(n):
        insert(nodes, distances, size, n, nodes[size], distances[size])


@part()
def take_beam(
    tile: TileView, j: Int, n_candidates: Int, nodes: NDArray[np.int32], distances: NDArray[np.float32]
) -> tuple[Int, Int]:
    """Write what query `j` found to a beam, nearest first; return how many nodes there are, and how many
    more were found that cannot be among the k nearest.

    Where more than `n_candidates`, if these are not 0, were found, all are written.
    """
    found, size = tile.sizes[j, 0], np.int64(0)
    if tile.sizes[j, 2] != 0:
        for t in range(found):
            nodes[t], distances[t] = tile.nodes[j, t], tile.distances[j, t]
        return found, np.int64(0)
    # Beyond the last bound lies most of what was kept under those before it: it need not be sorted.
    limit = np.float32(np.inf) if found > n_candidates > 0 else tile.limits[j]
    for t in range(found):
        if not tile.lows[j, t] > limit:
            _, size = insert(nodes, distances, size, found, tile.nodes[j, t], tile.distances[j, t])
    return size, found - size
