"""Which blocks a stopped search wants: those of the best part of its frontier, the most urgent first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vstore_kernels.bitmap import passes
from vstore_kernels.intrinsics import load_i32
from vstore_kernels.jit import Int, part
from vstore_kernels.layout import ACORN, HNSW_RESULT_FILTER, NO_NODE
from vstore_kernels.views import CURRENT, EPOCH, HEAP_SIZE, MODE, N_SEEDS, SIZE, SearchView, TableView


@part()
def seeds_ready(search: SearchView, tables: TableView, passing: NDArray[np.uint64]) -> bool:
    """Return whether the codes of all seeds are resident; else write the needs.

    Under ACORN, seeds that fail `passing` (uint64 bitmap) are dropped first.
    """
    state, seeds = search.state, search.seeds
    if state[MODE] == ACORN:
        kept = 0
        for t in range(state[N_SEEDS]):
            if passes(passing, np.int64(seeds[t])):
                seeds[kept] = seeds[t]
                kept += 1
        state[N_SEEDS] = kept
    for t in range(state[N_SEEDS]):
        _want_codes(search, tables, np.int64(seeds[t]))
    if search.n_needs[1] == 0:
        return True
    # The lists of the seeds' own blocks are read next.
    for t in range(state[N_SEEDS]):
        _want_lists(search, tables, np.int64(seeds[t]))
    _forget(search)
    return False


@part()
def collect_needs(search: SearchView, tables: TableView, passing: NDArray[np.uint64], lookahead: Int) -> None:
    """Write the needs of the best `lookahead` unexpanded nodes, each block once; passing uint64 bitmap."""
    apart = search.state[MODE] == HNSW_RESULT_FILTER
    at = np.int64(0) if apart else search.state[CURRENT]
    stop = search.state[HEAP_SIZE] if apart else search.state[SIZE]
    looked = 0
    while at < stop and looked < lookahead:
        # A heap's first places are its least element and some of the next.
        node = np.int64(search.heap_nodes[at]) if apart else np.int64(search.beam_nodes[at])
        at += 1
        if node >= 0:
            looked += 1
            _needs_of_node(node, search, tables, passing)
    _forget(search)


@part()
def _want_lists(search: SearchView, tables: TableView, node: Int) -> None:
    block = node >> tables.block_shift
    if tables.lists[block] == 0 and search.wanted[0, block] == 0:
        search.wanted[0, block] = 1
        search.need_lists[search.n_needs[0]] = block
        search.n_needs[0] += 1


@part()
def _want_codes(search: SearchView, tables: TableView, node: Int) -> None:
    block = node >> tables.block_shift
    if tables.codes[block] == 0 and search.wanted[1, block] == 0:
        search.wanted[1, block] = 1
        search.need_codes[search.n_needs[1]] = block
        search.n_needs[1] += 1


@part()
def _forget(search: SearchView) -> None:
    """Zero `wanted`, which the needs tell apart no longer."""
    for t in range(search.n_needs[0]):
        search.wanted[0, search.need_lists[t]] = 0
    for t in range(search.n_needs[1]):
        search.wanted[1, search.need_codes[t]] = 0


@part()
def _needs_of_node(node: Int, search: SearchView, tables: TableView, passing: NDArray[np.uint64]) -> None:
    """Add what the expansion of `node` lacks, as far as the resident lists tell."""
    filtered = search.state[MODE] == ACORN
    epoch = np.uint32(search.state[EPOCH])
    mask = (np.int64(1) << tables.block_shift) - 1
    address = tables.lists[node >> tables.block_shift]
    if address == 0:
        _want_lists(search, tables, node)
        return
    start = (node & mask) * tables.M0 * 4
    degree = 0
    n_passing = 0
    for t in range(tables.M0):
        other = np.int64(load_i32(address, start + 4 * t))
        if other == NO_NODE:
            break
        degree += 1
        if not filtered or passes(passing, other):
            n_passing += 1
            if search.visited[other] != epoch:
                _want_codes(search, tables, other)
    if 2 * n_passing >= degree:
        return
    for t in range(degree):
        middle = np.int64(load_i32(address, start + 4 * t))
        if passes(passing, middle) or search.visited[middle] == epoch:
            continue
        far_address = tables.lists[middle >> tables.block_shift]
        if far_address == 0:
            _want_lists(search, tables, middle)
            continue
        far_start = (middle & mask) * tables.M0 * 4
        for s in range(tables.M0):
            other = np.int64(load_i32(far_address, far_start + 4 * s))
            if other == NO_NODE:
                break
            if search.visited[other] != epoch and passes(passing, other):
                _want_codes(search, tables, other)
