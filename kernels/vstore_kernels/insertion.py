"""The kernels of HNSW construction: the search for a new node's links, and the reverse links."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels.gaps import move_up, row_gap
from vstore_kernels.intrinsics import prefetch
from vstore_kernels.jit import Int, inner, kernel, part
from vstore_kernels.layout import NO_NODE
from vstore_kernels.select import select_neighbors

_AHEAD: Final = 4
_PREFETCH_BYTES: Final = 1_024


class InsertScratch:
    """Buffers of one thread of a build; `arrays` are the last arguments of `find_links`."""

    __slots__ = ("arrays",)

    def __init__(self, n: int, ef: int, M0: int, dtype: Any) -> None:
        self.arrays: tuple[NDArray[Any], ...] = (
            np.zeros(n, np.uint32),
            np.zeros(1, np.uint32),
            np.empty(ef, np.int32),
            np.empty(ef, dtype),
            np.empty(M0 + 1, np.int32),
            np.empty(M0, np.int32),
        )


@inner()
def insert(
    nodes: NDArray[np.int32], distances: NDArray[Any], size: Int, capacity: Int, node: Int, distance: Any
) -> tuple[Int, Int]:
    """Insert a node into a beam (as `beam.insert`, for int32 distances too); return (position, new size)."""
    if size == capacity:
        if not distance < distances[size - 1]:
            return capacity, size
        size -= 1
    # Halving without a branch to guess: each step keeps the half that holds the place.
    low = np.int64(0)
    n = np.int64(size)
    while n > 1:
        half = n >> 1
        low += half if distances[low + half - 1] <= distance else 0
        n -= half
    if n == 1 and distances[low] <= distance:
        low += 1
    move_up(nodes, low, size)
    move_up(distances, low, size)
    nodes[low] = node
    distances[low] = distance
    return low, size + 1


@part()
def _greedy(
    rows: NDArray[Any],
    own: Int,
    links: NDArray[np.int32],
    first_row: NDArray[np.int32],
    level: Int,
    entry: Int,
) -> Int:
    best = row_gap(rows, own, entry)
    moved = True
    while moved:
        moved = False
        row = np.int64(first_row[entry]) + level - 1
        for t in range(links.shape[1]):
            node = np.int64(links[row, t])
            if node == NO_NODE:
                break
            distance = row_gap(rows, own, node)
            if distance < best:
                best = distance
                entry = node
                moved = True
    return entry


@part()
def _search_level(
    rows: NDArray[Any],
    own: Int,
    links: NDArray[np.int32],
    first_row: NDArray[np.int32],
    level: Int,
    entry: Int,
    ef: Int,
    visited: NDArray[np.uint32],
    epoch: np.uint32,
    nodes: NDArray[np.int32],
    distances: NDArray[Any],
    buffer: NDArray[np.int32],
) -> Int:
    """Fill the beam with the ef nearest nodes found from `entry`; return its size (Algorithm 2)."""
    n_bytes = rows.shape[1] * rows.itemsize
    ahead_bytes = min(n_bytes, _PREFETCH_BYTES)
    base = np.int64(rows.ctypes.data)
    links_base = np.int64(links.ctypes.data)
    list_bytes = links.shape[1] * 4
    visited[entry] = epoch
    nodes[0] = entry
    distances[0] = row_gap(rows, own, entry)
    size = np.int64(1)
    current = 0
    while current < size:
        node = np.int64(nodes[current])
        if node < 0:
            current += 1
            continue
        nodes[current] = ~node
        row = node if level == 0 else np.int64(first_row[node]) + level - 1
        m = 0
        for t in range(links.shape[1]):
            other = np.int64(links[row, t])
            if other == NO_NODE:
                break
            # Written in any case: a branch here is taken or not at random.
            buffer[m] = other
            m += visited[other] != epoch
            visited[other] = epoch
        for t in range(min(m, _AHEAD)):
            for line in range(0, ahead_bytes, 64):
                prefetch(base + np.int64(buffer[t]) * n_bytes, line)
        following = current + 1
        for t in range(m):
            if t + _AHEAD < m:
                for line in range(0, ahead_bytes, 64):
                    prefetch(base + np.int64(buffer[t + _AHEAD]) * n_bytes, line)
            other = np.int64(buffer[t])
            distance = row_gap(rows, own, other)
            if size == ef and not distance < distances[size - 1]:
                continue
            position, size = insert(nodes, distances, size, ef, other, distance)
            if position < following:
                following = position
                if level == 0:
                    for line in range(0, list_bytes, 64):
                        prefetch(links_base, other * list_bytes + line)
        current = following if following <= current else current + 1
    for t in range(size):
        if nodes[t] < 0:
            nodes[t] = ~nodes[t]
    return size


@kernel()
def find_links(
    rows: NDArray[Any],
    batch: NDArray[np.int32],
    levels: NDArray[np.int32],
    first_row: NDArray[np.int32],
    neighbors: NDArray[np.int32],
    upper: NDArray[np.int32],
    entry: Int,
    M: Int,
    ef: Int,
    visited: NDArray[np.uint32],
    epochs: NDArray[np.uint32],
    nodes: NDArray[np.int32],
    distances: NDArray[Any],
    buffer: NDArray[np.int32],
    chosen: NDArray[np.int32],
) -> None:
    """Search for each node of `batch` and write its own links; other rows are only read.

    Args:
        rows: int16 or float32 [n, padded], as `rows_for_build` gives them.
        batch: int32 [b], nodes that no row links to yet.
        levels: int32 [n].
        first_row: int32 [n], the row of level 1 in `upper`, or -1.
        neighbors: int32 [n, 2 M], level 0; the batch's rows are mutated.
        upper: int32 [R, M] of node ids; the batch's rows are mutated.
        entry: the entry node, of the highest level.
        M: links of a new node.
        ef: beam width.
        visited: uint32 [n], this thread's stamps, mutated.
        epochs: uint32 [1], the last stamp given out, mutated.
        nodes: int32 [ef], buffer.
        distances: float32 [ef], buffer.
        buffer: int32 [2 M], buffer.
        chosen: int32 [2 M], buffer.
    """
    for b in range(batch.shape[0]):
        own = np.int64(batch[b])
        start = np.int64(entry)
        top = np.int64(levels[own])
        for level in range(np.int64(levels[entry]), top, -1):
            start = _greedy(rows, own, upper, first_row, level, start)
        for level in range(top, -1, -1):
            if epochs[0] == np.uint32(0xFFFFFFFF):
                visited[:] = np.uint32(0)
                epochs[0] = np.uint32(0)
            epochs[0] += np.uint32(1)
            links = neighbors if level == 0 else upper
            size = _search_level(
                rows, own, links, first_row, level, start, ef, visited, epochs[0], nodes, distances, buffer
            )
            start = np.int64(nodes[0])
            row = own if level == 0 else np.int64(first_row[own]) + level - 1
            m = select_neighbors(rows, nodes, distances, size, M, chosen)
            for t in range(m):
                links[row, t] = chosen[t]


@kernel()
def add_reverse_links(
    rows: NDArray[Any],
    links: NDArray[np.int32],
    owners: NDArray[np.int32],
    list_rows: NDArray[np.int32],
    bounds: NDArray[np.int64],
    sources: NDArray[np.int32],
    start: Int,
    stop: Int,
    candidates: NDArray[np.int32],
    distances: NDArray[Any],
    chosen: NDArray[np.int32],
) -> None:
    """Add the sources of each group to its owner's row, choosing again where the row is full.

    Args:
        rows: int16 or float32 [n, padded], as `rows_for_build` gives them.
        links: int32 [rows, capacity], mutated: the rows of the groups only.
        owners: int32 [G], the node that owns each group's row.
        list_rows: int32 [G], that row in `links`.
        bounds: int64 [G + 1]; group g's sources are `sources[bounds[g]:bounds[g + 1]]`.
        sources: int32 [S], distinct within a group and not in the row yet.
        start: first group.
        stop: one past the last group.
        candidates: int32 buffer, as long as the longest group and a row together.
        distances: float32 buffer, as long as candidates.
        chosen: int32 [capacity], buffer.
    """
    capacity = links.shape[1]
    longest = candidates.shape[0]
    for g in range(start, stop):
        row = np.int64(list_rows[g])
        degree = 0
        while degree < capacity and links[row, degree] != NO_NODE:
            degree += 1
        n_new = bounds[g + 1] - bounds[g]
        if degree + n_new <= capacity:
            for t in range(n_new):
                links[row, degree + t] = sources[bounds[g] + t]
            continue
        owner = np.int64(owners[g])
        size = np.int64(0)
        for t in range(degree + n_new):
            node = np.int64(links[row, t]) if t < degree else np.int64(sources[bounds[g] + t - degree])
            _, size = insert(candidates, distances, size, longest, node, row_gap(rows, owner, node))
        m = select_neighbors(rows, candidates, distances, size, capacity, chosen)
        for t in range(capacity):
            links[row, t] = chosen[t] if t < m else NO_NODE


@part()
def _is_copy(rows: NDArray[Any], neighbors: NDArray[np.int32], node: Int) -> bool:
    for t in range(neighbors.shape[1]):
        other = np.int64(neighbors[node, t])
        if other == NO_NODE:
            break
        if row_gap(rows, node, other) == 0:
            return True
    return False


@kernel()
def link_orphans(rows: NDArray[Any], neighbors: NDArray[np.int32], in_degree: NDArray[np.int32]) -> None:
    """Give each node of level 0 that no row names a link from one of its own neighbours.

    Pruning can take a node's last incoming link; no walk would ever reach it again. The nearest neighbour
    with room takes it, or else the nearest one drops its most often named link for it. A copy of one of its
    neighbours stays as it is: more copies in reach would fill narrow beams and crowd out the rest.

    Args:
        rows: int16 or float32 [n, padded], as `rows_for_build` gives them.
        neighbors: int32 [n, M0], -1 padded, mutated.
        in_degree: int32 [n] of zeros, mutated.
    """
    n, M0 = neighbors.shape
    for node in range(n):
        for t in range(M0):
            if neighbors[node, t] == NO_NODE:
                break
            in_degree[neighbors[node, t]] += 1
    for orphan in range(n):
        if in_degree[orphan] > 0 or neighbors[orphan, 0] == NO_NODE:
            continue
        if _is_copy(rows, neighbors, orphan):
            continue
        for t in range(M0):
            row = np.int64(neighbors[orphan, t])
            if row == NO_NODE:
                break
            if neighbors[row, M0 - 1] == NO_NODE:
                at = np.int64(0)
                while neighbors[row, at] != NO_NODE:
                    at += 1
                neighbors[row, at] = orphan
                in_degree[orphan] += 1
                break
        if in_degree[orphan] == 0:
            row = np.int64(neighbors[orphan, 0])
            most = 0
            for t in range(1, M0):
                if in_degree[neighbors[row, t]] > in_degree[neighbors[row, most]]:
                    most = t
            if in_degree[neighbors[row, most]] > 1:
                in_degree[neighbors[row, most]] -= 1
                neighbors[row, most] = orphan
                in_degree[orphan] += 1
