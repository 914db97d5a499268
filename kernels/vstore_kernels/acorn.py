"""Filtered expansion (ACORN-1, Patel et al. 2024, with the local switch of NaviX) and the seeds from
clusters.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels import gate
from vstore_kernels.bitmap import passes
from vstore_kernels.intrinsics import load_i32, prefetch
from vstore_kernels.jit import Int, inner, kernel, part
from vstore_kernels.layout import (
    MAX_TWO_HOP_FOUND,
    N_FILTER_CHECKS,
    N_LISTS,
    N_TWO_HOPS,
    NO_NODE,
)
from vstore_kernels.views import EPOCH, SearchView, TableView

_AHEAD: Final = 4
_NO_FILTER: Final = np.empty(0, np.uint64)


def pick_seeds(
    cluster_order: NDArray[np.int32],
    offsets: NDArray[np.int64],
    passing: NDArray[np.uint64] | None,
    n_seeds: int,
) -> NDArray[np.int32]:
    """Return the first passing node ids (int32 [<= n_seeds]) met while walking the clusters in order.

    Args:
        cluster_order: int32 [K], cluster numbers, nearest first.
        offsets: int64 [K' + 1], the id range of each cluster.
        passing: uint64 bitmap over the shard, or None when every node passes.
        n_seeds: how many are wanted.

    Raises:
        TypeError: a wrong dtype.
        ValueError: a cluster number or offset out of range, or n_seeds below 1.
    """
    gate.array("offsets", offsets, np.int64, 1)
    order = gate.node_ids("cluster_order", cluster_order, offsets.size - 1)
    if n_seeds < 1:
        raise ValueError(f"n_seeds is {n_seeds}; at least 1 is needed")
    if passing is not None:
        gate.array("passing", passing, np.uint64, 1)
        if offsets[-1] > passing.size * 64:
            raise ValueError(f"a bitmap of {passing.size} words does not cover {offsets[-1]} nodes")
    out = np.empty(min(n_seeds, int(offsets[-1])), np.int32)
    m = _pick(order, offsets, _NO_FILTER if passing is None else passing, passing is not None, out)
    return out[:m]


@kernel()
def _pick(
    order: NDArray[np.int32],
    offsets: NDArray[np.int64],
    passing: NDArray[np.uint64],
    filtered: bool,
    out: NDArray[np.int32],
) -> Int:
    m = 0
    for t in range(order.shape[0]):
        c = np.int64(order[t])
        for node in range(offsets[c], offsets[c + 1]):
            if m == out.shape[0]:
                return np.int64(m)
            if not filtered or passes(passing, node):
                out[m] = node
                m += 1
    return np.int64(m)


@part()
def undo_visits(search: SearchView, m: Int, n_failing: Int) -> None:
    """Take back the stamps of `buffer[:m]` and `failing[:n_failing]`."""
    for t in range(m):
        search.visited[search.buffer[t]] = np.uint32(0)
    for t in range(n_failing):
        search.visited[search.failing[t]] = np.uint32(0)


@inner()
def prefetch_start(tables: TableView, node: Int) -> None:
    """Ask for the first two lines of a node's codes; the rest is asked for shortly before it is scored."""
    mask = (np.int64(1) << tables.block_shift) - 1
    row = tables.codes[node >> tables.block_shift] + (node & mask) * tables.row_bytes
    prefetch(row, 0)
    prefetch(row, 64)


@inner()
def gather_passing(node: Int, search: SearchView, tables: TableView, passing: NDArray[np.uint64]) -> Int:
    """Collect the unvisited passing nodes within reach of `node` and stamp them; return their number.

    One hop where at least half of the neighbours pass; else also through the failing ones, until
    MAX_TWO_HOP_FOUND passing nodes were found. Returns -1, with nothing changed, when a block lacks: what is
    collected must be scorable.

    Args:
        node: node id.
        search: `buffer` receives the nodes; visited, failing and counters are mutated too.
        tables: read only.
        passing: uint64 bitmap.
    """
    visited = search.visited
    epoch = np.uint32(search.state[EPOCH])
    mask = (np.int64(1) << tables.block_shift) - 1
    address = tables.lists[node >> tables.block_shift]
    if not tables.resident and address == 0:
        return -1
    start = (node & mask) * tables.M0 * 4
    m = np.int64(0)
    n_failing = np.int64(0)
    n_passing = np.int64(0)
    degree = 0
    for t in range(tables.M0):
        other = np.int64(load_i32(address, start + 4 * t))
        if other == NO_NODE:
            break
        degree += 1
        if passes(passing, other):
            n_passing += 1
            if visited[other] != epoch:
                if not tables.resident and tables.codes[other >> tables.block_shift] == 0:
                    undo_visits(search, m, np.int64(0))
                    return -1
                visited[other] = epoch
                search.buffer[m] = other
                m += 1
                prefetch_start(tables, other)
        elif visited[other] != epoch:
            search.failing[n_failing] = other
            n_failing += 1
    if 2 * n_passing < degree:
        m = _gather_beyond(search, tables, passing, m, n_failing, n_passing)
        if m < 0:
            return np.int64(m)
    search.counters[N_FILTER_CHECKS] += degree
    search.counters[N_LISTS] += 1
    return np.int64(m)


@part()
def _gather_beyond(
    search: SearchView, tables: TableView, passing: NDArray[np.uint64], m: Int, n_failing: Int, found: Int
) -> Int:
    """Append what passes among the neighbours of the failing nodes; return the new length, or -1 as above."""
    visited = search.visited
    epoch = np.uint32(search.state[EPOCH])
    mask = (np.int64(1) << tables.block_shift) - 1
    n_checks = 0
    crossed = 0
    for t in range(min(n_failing, _AHEAD)):
        far = np.int64(search.failing[t])
        prefetch(tables.lists[far >> tables.block_shift], (far & mask) * tables.M0 * 4)
    while crossed < n_failing and found < MAX_TWO_HOP_FOUND:
        if crossed + _AHEAD < n_failing:
            far = np.int64(search.failing[crossed + _AHEAD])
            prefetch(tables.lists[far >> tables.block_shift], (far & mask) * tables.M0 * 4)
        middle = np.int64(search.failing[crossed])
        address = tables.lists[middle >> tables.block_shift]
        if not tables.resident and address == 0:
            undo_visits(search, m, crossed)
            return -1
        visited[middle] = epoch
        crossed += 1
        start = (middle & mask) * tables.M0 * 4
        for s in range(tables.M0):
            other = np.int64(load_i32(address, start + 4 * s))
            if other == NO_NODE:
                break
            if visited[other] != epoch:
                n_checks += 1
                if passes(passing, other):
                    if not tables.resident and tables.codes[other >> tables.block_shift] == 0:
                        undo_visits(search, m, crossed)
                        return -1
                    visited[other] = epoch
                    search.buffer[m] = other
                    m += 1
                    found += 1
                    prefetch_start(tables, other)
    search.counters[N_FILTER_CHECKS] += n_checks
    search.counters[N_LISTS] += crossed
    search.counters[N_TWO_HOPS] += 1
    return np.int64(m)
