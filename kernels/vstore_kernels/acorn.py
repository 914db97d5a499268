"""Filtered expansion (ACORN-1, Patel et al. 2024, with the local switch of NaviX) and the seeds from clusters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vstore_kernels import gate
from vstore_kernels.bitmap import passes
from vstore_kernels.intrinsics import load_i32, prefetch
from vstore_kernels.jit import kernel
from vstore_kernels.layout import (
    MAX_TWO_HOP_FOUND,
    N_FILTER_CHECKS,
    N_LISTS,
    N_TWO_HOPS,
    NO_NODE,
)

_NO_FILTER = np.empty(0, np.uint64)


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
) -> int:
    m = 0
    for t in range(order.shape[0]):
        c = np.int64(order[t])
        for node in range(offsets[c], offsets[c + 1]):
            if m == out.shape[0]:
                return m
            if not filtered or passes(passing, node):
                out[m] = node
                m += 1
    return m


@kernel()
def undo_visits(
    nodes: NDArray[np.int32], m: int, failing: NDArray[np.int32], n_failing: int, visited: NDArray[np.uint32]
) -> int:
    """Take back the stamps of `nodes[:m]` and `failing[:n_failing]`; return -1, which says that a block lacks."""
    for t in range(m):
        visited[nodes[t]] = np.uint32(0)
    for t in range(n_failing):
        visited[failing[t]] = np.uint32(0)
    return -1


@kernel()
def gather_passing(
    node: int,
    list_table: NDArray[np.int64],
    code_table: NDArray[np.int64],
    block_shift: int,
    M0: int,
    resident: bool,
    passing: NDArray[np.uint64],
    visited: NDArray[np.uint32],
    epoch: np.uint32,
    buffer: NDArray[np.int32],
    failing: NDArray[np.int32],
    counters: NDArray[np.int64],
) -> int:
    """Collect the unvisited passing nodes within reach of `node` and stamp them; return their number.

    One hop where at least half of the neighbours pass; else also through the failing ones, until
    MAX_TWO_HOP_FOUND passing nodes were found. Returns -1, with nothing changed, when a block lacks.

    Args:
        node: node id.
        list_table: int64 [n_blocks], addresses of list blocks.
        code_table: int64 [n_blocks], addresses of code blocks: what is collected must be scorable.
        block_shift: log2 of the rows of a block.
        M0: columns of a list block.
        resident: whether every block is there.
        passing: uint64 bitmap.
        visited: uint32 [n], mutated; also of the failing nodes that were crossed.
        epoch: this search's stamp.
        buffer: int32 [2 M0 + MAX_TWO_HOP_FOUND], receives the nodes.
        failing: int32 [M0], buffer.
        counters: int64 [N_COUNTERS], mutated when nothing lacks.
    """
    mask = (np.int64(1) << block_shift) - 1
    address = list_table[node >> block_shift]
    if not resident and address == 0:
        return -1
    start = (node & mask) * M0 * 4
    m = 0
    n_failing = 0
    n_passing = 0
    degree = 0
    for t in range(M0):
        other = np.int64(load_i32(address, start + 4 * t))
        if other == NO_NODE:
            break
        degree += 1
        if passes(passing, other):
            n_passing += 1
            if visited[other] != epoch:
                if not resident and code_table[other >> block_shift] == 0:
                    return undo_visits(buffer, m, failing, 0, visited)
                visited[other] = epoch
                buffer[m] = other
                m += 1
        elif visited[other] != epoch:
            failing[n_failing] = other
            n_failing += 1
    n_checks = degree
    n_lists = 1
    if 2 * n_passing < degree:
        for t in range(min(n_failing, 4)):
            far = np.int64(failing[t])
            prefetch(list_table[far >> block_shift], (far & mask) * M0 * 4)
        found = n_passing
        for t in range(n_failing):
            if found >= MAX_TWO_HOP_FOUND:
                break
            if t + 4 < n_failing:
                far = np.int64(failing[t + 4])
                prefetch(list_table[far >> block_shift], (far & mask) * M0 * 4)
            middle = np.int64(failing[t])
            far_address = list_table[middle >> block_shift]
            if not resident and far_address == 0:
                return undo_visits(buffer, m, failing, t, visited)
            visited[middle] = epoch
            n_lists += 1
            far_start = (middle & mask) * M0 * 4
            for s in range(M0):
                other = np.int64(load_i32(far_address, far_start + 4 * s))
                if other == NO_NODE:
                    break
                if visited[other] != epoch:
                    n_checks += 1
                    if passes(passing, other):
                        if not resident and code_table[other >> block_shift] == 0:
                            return undo_visits(buffer, m, failing, t + 1, visited)
                        visited[other] = epoch
                        buffer[m] = other
                        m += 1
                        found += 1
        counters[N_TWO_HOPS] += 1
    counters[N_FILTER_CHECKS] += n_checks
    counters[N_LISTS] += n_lists
    return m
