"""The kernels of the search: the descent through the upper levels and the walk on level 0."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels.acorn import gather_passing, undo_visits
from vstore_kernels.beam import heap_pop, heap_push, insert
from vstore_kernels.bitmap import passes
from vstore_kernels.codes import prefetch_row, score
from vstore_kernels.intrinsics import load_i32, prefetch
from vstore_kernels.jit import kernel
from vstore_kernels.layout import (
    ACORN,
    HNSW_RESULT_FILTER,
    N_DISTANCES,
    N_FILTER_CHECKS,
    N_HOPS,
    N_LISTS,
    NO_NODE,
)
from vstore_kernels.needs import needs_of_node, want

SIZE: Final = 0
CURRENT: Final = 1
EF: Final = 2
MODE: Final = 3
EPOCH: Final = 4
N_SEEDS: Final = 5
HEAP_SIZE: Final = 6
N_STATE: Final = 8
_AHEAD: Final = 4


@kernel()
def stamp_seeds(
    ids: NDArray[np.int32], visited: NDArray[np.uint32], epoch: np.uint32, seeds: NDArray[np.int32]
) -> int:
    """Copy the distinct `ids` (int32 [m]) to `seeds`, stamping `visited` (uint32 [n]); return their number."""
    m = 0
    for t in range(ids.shape[0]):
        if visited[ids[t]] != epoch:
            visited[ids[t]] = epoch
            seeds[m] = ids[t]
            m += 1
    return m


@kernel()
def descend_levels(
    codes: NDArray[np.uint8],
    rows: NDArray[np.int64],
    links: NDArray[np.int32],
    entry_rank: int,
    max_level: int,
    weights: NDArray[np.float32],
    base: np.float32,
    bias_at: int,
    counters: NDArray[np.int64],
) -> int:
    """Return the rank nearest to the query found greedily; arrays as in `UpperLevels`, codes uint8 [U, row_bytes]."""
    start = np.int64(codes.ctypes.data)
    row_bytes = codes.shape[1]
    rank = np.int64(entry_rank)
    best = score(start + rank * row_bytes, weights, base, bias_at)
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
                distance = score(start + other * row_bytes, weights, base, bias_at)
                if distance < best:
                    best = distance
                    rank = other
                    moved = True
    return rank


@kernel()
def _gather(
    node: int,
    list_table: NDArray[np.int64],
    code_table: NDArray[np.int64],
    block_shift: int,
    M0: int,
    resident: bool,
    visited: NDArray[np.uint32],
    epoch: np.uint32,
    buffer: NDArray[np.int32],
    counters: NDArray[np.int64],
) -> int:
    """As `gather_passing`, for a walk over every node."""
    mask = (np.int64(1) << block_shift) - 1
    address = list_table[node >> block_shift]
    if not resident and address == 0:
        return -1
    start = (node & mask) * M0 * 4
    m = 0
    for t in range(M0):
        other = np.int64(load_i32(address, start + 4 * t))
        if other == NO_NODE:
            break
        if visited[other] != epoch:
            if not resident and code_table[other >> block_shift] == 0:
                return undo_visits(buffer, m, buffer, 0, visited)
            visited[other] = epoch
            buffer[m] = other
            m += 1
    counters[N_LISTS] += 1
    return m


@kernel()
def _take(
    state: NDArray[np.int64],
    counters: NDArray[np.int64],
    beam_nodes: NDArray[np.int32],
    beam_distances: NDArray[np.float32],
    heap_nodes: NDArray[np.int32],
    heap_distances: NDArray[np.float32],
    buffer: NDArray[np.int32],
    m: int,
    list_table: NDArray[np.int64],
    code_table: NDArray[np.int64],
    block_shift: int,
    M0: int,
    row_bytes: int,
    weights: NDArray[np.float32],
    base: np.float32,
    bias_at: int,
    passing: NDArray[np.uint64],
) -> int:
    """Score `buffer[:m]` and put the near ones into the beam; return the least position that changed."""
    mask = (np.int64(1) << block_shift) - 1
    ef = state[EF]
    size = state[SIZE]
    heap_size = state[HEAP_SIZE]
    apart = state[MODE] == HNSW_RESULT_FILTER
    least = ef
    for t in range(min(m, _AHEAD)):
        node = np.int64(buffer[t])
        prefetch_row(code_table[node >> block_shift] + (node & mask) * row_bytes, row_bytes)
    for t in range(m):
        if t + _AHEAD < m:
            ahead = np.int64(buffer[t + _AHEAD])
            prefetch_row(code_table[ahead >> block_shift] + (ahead & mask) * row_bytes, row_bytes)
        node = np.int64(buffer[t])
        address = code_table[node >> block_shift] + (node & mask) * row_bytes
        distance = score(address, weights, base, bias_at)
        if size == ef and not distance < beam_distances[size - 1]:
            continue
        if apart:
            heap_size = heap_push(heap_nodes, heap_distances, heap_size, node, distance)
            counters[N_FILTER_CHECKS] += 1
            if passes(passing, node):
                _, size = insert(beam_nodes, beam_distances, size, ef, node, distance)
            continue
        position, size = insert(beam_nodes, beam_distances, size, ef, node, distance)
        if position < least:
            least = position
            row = (node & mask) * M0 * 4
            prefetch(list_table[node >> block_shift], row)
            prefetch(list_table[node >> block_shift], row + 64)
    counters[N_DISTANCES] += m
    state[SIZE] = size
    state[HEAP_SIZE] = heap_size
    return least


@kernel()
def _collect_needs(
    state: NDArray[np.int64],
    beam_nodes: NDArray[np.int32],
    heap_nodes: NDArray[np.int32],
    list_table: NDArray[np.int64],
    code_table: NDArray[np.int64],
    block_shift: int,
    M0: int,
    passing: NDArray[np.uint64],
    visited: NDArray[np.uint32],
    wanted: NDArray[np.uint8],
    need_lists: NDArray[np.int32],
    need_codes: NDArray[np.int32],
    n_needs: NDArray[np.int64],
    lookahead: int,
) -> None:
    epoch = np.uint32(state[EPOCH])
    apart = state[MODE] == HNSW_RESULT_FILTER
    at = np.int64(0) if apart else state[CURRENT]
    stop = state[HEAP_SIZE] if apart else state[SIZE]
    looked = 0
    while at < stop and looked < lookahead:
        # A heap's first places are its least element and some of the next.
        node = np.int64(heap_nodes[at]) if apart else np.int64(beam_nodes[at])
        at += 1
        if node < 0:
            continue
        looked += 1
        needs_of_node(
            node,
            list_table,
            code_table,
            block_shift,
            M0,
            state[MODE] == ACORN,
            passing,
            visited,
            epoch,
            wanted,
            need_lists,
            need_codes,
            n_needs,
        )
    for t in range(n_needs[0]):
        wanted[0, need_lists[t]] = 0
    for t in range(n_needs[1]):
        wanted[1, need_codes[t]] = 0


@kernel()
def _seeds_ready(
    state: NDArray[np.int64],
    seeds: NDArray[np.int32],
    list_table: NDArray[np.int64],
    code_table: NDArray[np.int64],
    block_shift: int,
    passing: NDArray[np.uint64],
    wanted: NDArray[np.uint8],
    need_lists: NDArray[np.int32],
    need_codes: NDArray[np.int32],
    n_needs: NDArray[np.int64],
) -> bool:
    """Drop seeds that fail under ACORN; return whether the codes of all others are resident, else say the needs."""
    if state[MODE] == ACORN:
        kept = 0
        for t in range(state[N_SEEDS]):
            if passes(passing, np.int64(seeds[t])):
                seeds[kept] = seeds[t]
                kept += 1
        state[N_SEEDS] = kept
    for t in range(state[N_SEEDS]):
        block = np.int64(seeds[t]) >> block_shift
        n_needs[1] = want(code_table, block, wanted[1], need_codes, n_needs[1])
    if n_needs[1] == 0:
        return True
    # The lists of the seeds' own blocks are read next.
    for t in range(state[N_SEEDS]):
        block = np.int64(seeds[t]) >> block_shift
        n_needs[0] = want(list_table, block, wanted[0], need_lists, n_needs[0])
    for t in range(n_needs[0]):
        wanted[0, need_lists[t]] = 0
    for t in range(n_needs[1]):
        wanted[1, need_codes[t]] = 0
    return False


@kernel()
def walk(
    state: NDArray[np.int64],
    counters: NDArray[np.int64],
    beam_nodes: NDArray[np.int32],
    beam_distances: NDArray[np.float32],
    heap_nodes: NDArray[np.int32],
    heap_distances: NDArray[np.float32],
    seeds: NDArray[np.int32],
    visited: NDArray[np.uint32],
    buffer: NDArray[np.int32],
    failing: NDArray[np.int32],
    wanted: NDArray[np.uint8],
    need_lists: NDArray[np.int32],
    need_codes: NDArray[np.int32],
    n_needs: NDArray[np.int64],
    list_table: NDArray[np.int64],
    code_table: NDArray[np.int64],
    block_shift: int,
    M0: int,
    row_bytes: int,
    resident: bool,
    weights: NDArray[np.float32],
    base: np.float32,
    bias_at: int,
    passing: NDArray[np.uint64],
    lookahead: int,
) -> bool:
    """Run until done (True) or until a block lacks (False, with the needs written).

    The arrays are `SearchScratch`'s (mutated), `BlockTables`' and `QueryCode`'s; see there. Malkov & Yashunin 2018,
    Algorithm 2, with the beam as one sorted array.
    """
    n_needs[:] = 0
    epoch = np.uint32(state[EPOCH])
    mode = state[MODE]
    if state[N_SEEDS] > 0:
        if not _seeds_ready(
            state,
            seeds,
            list_table,
            code_table,
            block_shift,
            passing,
            wanted,
            need_lists,
            need_codes,
            n_needs,
        ):
            return False
        # fmt: off
        _take(
            state, counters, beam_nodes, beam_distances, heap_nodes, heap_distances, seeds, state[N_SEEDS],
            list_table, code_table, block_shift, M0, row_bytes, weights, base, bias_at, passing,
        )
        # fmt: on
        state[N_SEEDS] = 0
    while True:
        if mode == HNSW_RESULT_FILTER:
            if state[HEAP_SIZE] == 0:
                return True
            if state[SIZE] == state[EF] and heap_distances[0] > beam_distances[state[SIZE] - 1]:
                return True
            node = np.int64(heap_nodes[0])
        else:
            while state[CURRENT] < state[SIZE] and beam_nodes[state[CURRENT]] < 0:
                state[CURRENT] += 1
            if state[CURRENT] == state[SIZE]:
                return True
            node = np.int64(beam_nodes[state[CURRENT]])
        # fmt: off
        if mode == ACORN:
            m = gather_passing(
                node, list_table, code_table, block_shift, M0, resident, passing, visited, epoch, buffer, failing,
                counters,
            )
        else:
            m = _gather(
                node, list_table, code_table, block_shift, M0, resident, visited, epoch, buffer, counters
            )
        if m < 0:
            _collect_needs(
                state, beam_nodes, heap_nodes, list_table, code_table, block_shift, M0, passing, visited, wanted,
                need_lists, need_codes, n_needs, lookahead,
            )
            return False
        counters[N_HOPS] += 1
        if mode == HNSW_RESULT_FILTER:
            state[HEAP_SIZE] = heap_pop(heap_nodes, heap_distances, state[HEAP_SIZE])
        else:
            beam_nodes[state[CURRENT]] = ~node
        least = _take(
            state, counters, beam_nodes, beam_distances, heap_nodes, heap_distances, buffer, m, list_table,
            code_table, block_shift, M0, row_bytes, weights, base, bias_at, passing,
        )
        # fmt: on
        if least < state[CURRENT]:
            state[CURRENT] = least
