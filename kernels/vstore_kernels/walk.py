"""The kernels of the search: the descent through the upper levels and the walk on level 0."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels.acorn import gather_passing, prefetch_start, undo_visits
from vstore_kernels.beam import heap_pop, heap_push, insert
from vstore_kernels.bitmap import passes
from vstore_kernels.intrinsics import load_i32, prefetch
from vstore_kernels.jit import Int, inner, kernel, part
from vstore_kernels.layout import (
    ACORN,
    HNSW_RESULT_FILTER,
    N_DISTANCES,
    N_FILTER_CHECKS,
    N_HOPS,
    N_LISTS,
    NO_NODE,
)
from vstore_kernels.needs import collect_needs, seeds_ready
from vstore_kernels.scoring import QueryView, prefetch_row, score
from vstore_kernels.views import (
    CURRENT,
    EF,
    EPOCH,
    HEAP_SIZE,
    MODE,
    N_SEEDS,
    SIZE,
    SearchView,
    TableView,
)

_AHEAD: Final = 3


@kernel()
def stamp_seeds(
    ids: NDArray[np.int32], visited: NDArray[np.uint32], epoch: np.uint32, seeds: NDArray[np.int32]
) -> Int:
    """Copy distinct `ids` (int32 [m]) to `seeds`, stamping `visited` (uint32 [n]); return their number."""
    m = 0
    for t in range(ids.shape[0]):
        if visited[ids[t]] != epoch:
            visited[ids[t]] = epoch
            seeds[m] = ids[t]
            m += 1
    return np.int64(m)


@part()
def descend_levels(
    codes: NDArray[np.uint8],
    rows: NDArray[np.int64],
    links: NDArray[np.int32],
    entry_rank: Int,
    max_level: Int,
    packed: NDArray[np.uint64],
    factors: NDArray[np.float32],
    bits: Int,
    width: Int,
    bias_at: Int,
    counters: NDArray[np.int64],
) -> Int:
    """Return the rank nearest to the query found greedily; arrays as in `UpperLevels`, codes uint8 [U,
    row_bytes].
    """
    query = QueryView(packed, factors, bits, width, bias_at)
    start = np.int64(codes.ctypes.data)
    row_bytes = codes.shape[1]
    rank = np.int64(entry_rank)
    best = score(start + rank * row_bytes, query)
    counters[N_DISTANCES] += 1
    for level in range(max_level, 0, -1):
        moved = True
        while moved:
            moved = False
            row = rows[rank] + level - 1
            counters[N_HOPS] += 1
            degree = 0
            while degree < links.shape[1] and links[row, degree] != NO_NODE:
                prefetch_row(start + np.int64(links[row, degree]) * row_bytes, row_bytes)
                degree += 1
            counters[N_DISTANCES] += degree
            for t in range(degree):
                other = np.int64(links[row, t])
                distance = score(start + other * row_bytes, query)
                if distance < best:
                    best = distance
                    rank = other
                    moved = True
    return rank


@inner()
def _gather(node: Int, search: SearchView, tables: TableView) -> Int:
    """As `gather_passing`, for a walk over every node."""
    visited = search.visited
    epoch = np.uint32(search.state[EPOCH])
    mask = (np.int64(1) << tables.block_shift) - 1
    address = tables.lists[node >> tables.block_shift]
    if not tables.resident and address == 0:
        return -1
    start = (node & mask) * tables.M0 * 4
    stamps = np.int64(visited.ctypes.data)
    for t in range(tables.M0):
        other = np.int64(load_i32(address, start + 4 * t))
        if other == NO_NODE:
            break
        prefetch(stamps, 4 * other)
    m = 0
    for t in range(tables.M0):
        other = np.int64(load_i32(address, start + 4 * t))
        if other == NO_NODE:
            break
        if visited[other] != epoch:
            if not tables.resident and tables.codes[other >> tables.block_shift] == 0:
                undo_visits(search, m, np.int64(0))
                return -1
            visited[other] = epoch
            search.buffer[m] = other
            m += 1
            prefetch_start(tables, other)
    search.counters[N_LISTS] += 1
    return np.int64(m)


@inner()
def _take(
    nodes: NDArray[np.int32],
    m: Int,
    search: SearchView,
    tables: TableView,
    query: QueryView,
    passing: NDArray[np.uint64],
) -> None:
    """Score `nodes[:m]` and put the near ones into the beam; the cursor goes back to the first change."""
    state, beam_nodes, beam_distances = search.state, search.beam_nodes, search.beam_distances
    shift, row_bytes = tables.block_shift, tables.row_bytes
    mask = (np.int64(1) << shift) - 1
    ef = state[EF]
    size = state[SIZE]
    heap_size = state[HEAP_SIZE]
    least = state[CURRENT]
    apart = state[MODE] == HNSW_RESULT_FILTER
    for t in range(min(m, _AHEAD)):
        node = np.int64(nodes[t])
        prefetch_row(tables.codes[node >> shift] + (node & mask) * row_bytes, row_bytes)
    for t in range(m):
        if t + _AHEAD < m:
            ahead = np.int64(nodes[t + _AHEAD])
            prefetch_row(tables.codes[ahead >> shift] + (ahead & mask) * row_bytes, row_bytes)
        node = np.int64(nodes[t])
        address = tables.codes[node >> shift] + (node & mask) * row_bytes
        distance = score(address, query)
        if size == ef and not distance < beam_distances[size - 1]:
            continue
        if apart:
            heap_size = heap_push(search.heap_nodes, search.heap_distances, heap_size, node, distance)
            search.counters[N_FILTER_CHECKS] += 1
            if passes(passing, node):
                _, size = insert(beam_nodes, beam_distances, size, ef, node, distance)
            continue
        position, size = insert(beam_nodes, beam_distances, size, ef, node, distance)
        if position <= least:
            # Likely the next to be expanded.
            least = position
            row = (node & mask) * tables.M0 * 4
            prefetch(tables.lists[node >> shift], row)
            prefetch(tables.lists[node >> shift], row + 64)
    search.counters[N_DISTANCES] += m
    state[SIZE] = size
    state[HEAP_SIZE] = heap_size
    state[CURRENT] = least


@inner()
def _next_node(search: SearchView) -> Int:
    """Return the nearest unexpanded node, or -1 when the search is over; moves the cursor to it."""
    state = search.state
    if state[MODE] == HNSW_RESULT_FILTER:
        if state[HEAP_SIZE] == 0:
            return -1
        full = state[SIZE] == state[EF]
        if full and search.heap_distances[0] > search.beam_distances[state[SIZE] - 1]:
            return -1
        return np.int64(search.heap_nodes[0])
    while state[CURRENT] < state[SIZE] and search.beam_nodes[state[CURRENT]] < 0:
        state[CURRENT] += 1
    if state[CURRENT] == state[SIZE]:
        return -1
    return np.int64(search.beam_nodes[state[CURRENT]])


@inner()
def _prefetch_following(search: SearchView, tables: TableView) -> None:
    """Ask for the list of the node that is next unless a nearer one turns up."""
    following = search.state[CURRENT] + 1
    if following < search.state[SIZE]:
        node = np.int64(search.beam_nodes[following])
        if node >= 0:
            row = (node & ((np.int64(1) << tables.block_shift) - 1)) * tables.M0 * 4
            prefetch(tables.lists[node >> tables.block_shift], row)
            prefetch(tables.lists[node >> tables.block_shift], row + 64)


@inner()
def run_walk(search: SearchView, tables: TableView, query: QueryView, passing: NDArray[np.uint64]) -> bool:
    """Run until done, or until a block lacks; as `walk`, for use inside kernels.

    The codes of seeds are there, and under ACORN seeds pass: `seeds_ready` sees to both.
    """
    state = search.state
    nodes, m = search.seeds, np.int64(state[N_SEEDS])
    state[N_SEEDS] = 0
    # One place takes seeds and neighbours: it is inlined, and large.
    while True:
        _take(nodes, m, search, tables, query, passing)
        nodes = search.buffer
        node = _next_node(search)
        if node < 0:
            return True
        _prefetch_following(search, tables)
        if state[MODE] == ACORN:
            m = gather_passing(node, search, tables, passing)
        else:
            m = _gather(node, search, tables)
        if m < 0:
            return False
        search.counters[N_HOPS] += 1
        if state[MODE] == HNSW_RESULT_FILTER:
            state[HEAP_SIZE] = heap_pop(search.heap_nodes, search.heap_distances, state[HEAP_SIZE])
        else:
            search.beam_nodes[state[CURRENT]] = ~node


@kernel()
def walk(
    scratch: NDArray[np.int64],
    list_table: NDArray[np.int64],
    code_table: NDArray[np.int64],
    block_shift: Int,
    M0: Int,
    row_bytes: Int,
    resident: bool,
    packed: NDArray[np.uint64],
    factors: NDArray[np.float32],
    bits: Int,
    width: Int,
    bias_at: Int,
    passing: NDArray[np.uint64],
    lookahead: Int,
) -> bool:
    """Run until done (True) or until a block lacks (False, with the needs written).

    `scratch` is the pack of a `SearchView`, whose arrays are mutated; the others are those of `TableView` and
    `QueryView`, and the uint64 bitmap of passing nodes. Malkov & Yashunin 2018, Algorithm 2, with the beam as
    one sorted array.
    """
    search = SearchView(scratch)
    search.n_needs[:] = 0
    tables = TableView(list_table, code_table, block_shift, M0, row_bytes, resident)
    if search.state[N_SEEDS] > 0 and not seeds_ready(search, tables, passing):
        return False
    if run_walk(search, tables, QueryView(packed, factors, bits, width, bias_at), passing):
        return True
    collect_needs(search, tables, passing, lookahead)
    return False
