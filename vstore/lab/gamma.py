"""The graph of ACORN-gamma (Patel et al. 2024, section 5.2), built of its own: long lists, any filter.

A node has its GAMMA * M nearest candidates, without HNSW's diversity rule. Of these it keeps the M_beta
nearest, and of the others those that no kept one beyond M_beta has in its own list: the search finds the rest
in two hops. The upper levels are those of the HNSW graph over the same rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vstore.lab.expansions import GAMMA
from vstore.lab.index import LabIndex
from vstore.shard.space import to_space
from vstore_kernels.build_rows import rows_for_build
from vstore_kernels.gaps import row_gap
from vstore_kernels.jit import Int, kernel, part
from vstore_kernels.layout import NO_NODE
from vstore_kernels.scoring import prefetch_row

_CHUNK: Final = 256
_THREADS: Final = 2


def build_gamma(
    index: LabIndex, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> LabIndex:
    """Return the index with the lists of an ACORN-gamma graph, nearest first; rows and numbers stay.

    Rows go in by a seeded random order, one after another, each searching the graph of those before it.

    Args:
        index: in any order.
        seed: of the order.
        progress: called with (rows in the graph, rows).
    """
    n, M_beta = index.n, index.M0
    width = M_beta // 2 * GAMMA
    order = np.random.default_rng(seed).permutation(n).astype(np.int32)
    rows = rows_for_build(to_space(index.vectors, index.metric), _THREADS)
    distance = np.int32 if rows.dtype == np.int16 else np.float32
    links = np.full((n, width), NO_NODE, np.int32)
    # A list is sorted again with every link that comes back: distances are kept, not worked out again.
    gaps = np.empty((n, width), distance)
    nodes, distances = np.empty(width + 1, np.int32), np.empty(width + 1, distance)
    expanded, met = np.zeros(width + 1, np.bool_), np.zeros(n, np.int32)
    kept, stamps = np.empty(width, np.int32), np.zeros(n + 1, np.int32)
    for start in range(1, n, _CHUNK):
        stop = min(start + _CHUNK, n)
        _insert(rows, order, start, stop, M_beta, links, gaps, nodes, distances, expanded, met, kept, stamps)
        if progress is not None:
            progress(stop, n)
    return replace(index, neighbors=links, by_nearness=True)


@part()
def _prefetch(rows: NDArray[Any], node: Int) -> None:
    n_bytes = rows.shape[1] * rows.itemsize
    prefetch_row(np.int64(rows.ctypes.data) + node * n_bytes, n_bytes)


@kernel()
def _put(
    nodes: NDArray[np.int32],
    distances: NDArray[Any],
    expanded: NDArray[np.bool_],
    size: Int,
    node: Int,
    distance: Any,
) -> Int:
    """Insert by distance into arrays of one place more than they may keep; return the new size."""
    at = size
    while at > 0 and distances[at - 1] > distance:
        nodes[at] = nodes[at - 1]
        distances[at] = distances[at - 1]
        expanded[at] = expanded[at - 1]
        at -= 1
    nodes[at] = node
    distances[at] = distance
    expanded[at] = False
    return np.int64(min(size + 1, nodes.shape[0] - 1))


@kernel()
def _compress(
    links: NDArray[np.int32],
    nodes: NDArray[np.int32],
    size: Int,
    M_beta: Int,
    kept: NDArray[np.int32],
    stamps: NDArray[np.int32],
) -> Int:
    """Write to `kept` which candidates, nearest first, a list keeps, by place; return how many.

    The last place of `stamps` is the number of the last call.
    """
    last = stamps.shape[0] - 1
    stamps[last] += 1
    stamp = stamps[last]
    m = 0
    covered = 0
    for t in range(size):
        node = nodes[t]
        if t < M_beta:
            kept[m] = t
            m += 1
            continue
        if stamps[node] == stamp:
            continue
        if covered + m >= kept.shape[0]:
            break
        kept[m] = t
        m += 1
        for s in range(links.shape[1]):
            other = links[node, s]
            if other < 0:
                break
            if stamps[other] != stamp:
                stamps[other] = stamp
                covered += 1
    return m


@kernel()
def _candidates(
    rows: NDArray[Any],
    links: NDArray[np.int32],
    node: Int,
    entry: Int,
    M_beta: Int,
    nodes: NDArray[np.int32],
    distances: NDArray[Any],
    expanded: NDArray[np.bool_],
    met: NDArray[np.int32],
) -> Int:
    """Write the nearest nodes that a beam search finds; return how many. `met` is stamped with node + 1.

    Of a list it follows the M_beta nearest, as the paper's construction does.
    """
    met[entry] = node + 1
    met[node] = node + 1
    size = _put(nodes, distances, expanded, 0, entry, row_gap(rows, node, np.int64(entry)))
    at = 0
    while at < size:
        if expanded[at]:
            at += 1
            continue
        expanded[at] = True
        here = nodes[at]
        at = 0
        for t in range(M_beta):
            if links[here, t] >= 0:
                _prefetch(rows, links[here, t])
        for t in range(M_beta):
            other = np.int64(links[here, t])
            if other < 0:
                break
            if met[other] == node + 1:
                continue
            met[other] = node + 1
            distance = row_gap(rows, node, other)
            if size < nodes.shape[0] - 1 or distance < distances[size - 1]:
                size = _put(nodes, distances, expanded, size, other, distance)
    return np.int64(size)


@kernel()
def _insert(
    rows: NDArray[Any],
    order: NDArray[np.int32],
    start: Int,
    stop: Int,
    M_beta: Int,
    links: NDArray[np.int32],
    gaps: NDArray[Any],
    nodes: NDArray[np.int32],
    distances: NDArray[Any],
    expanded: NDArray[np.bool_],
    met: NDArray[np.int32],
    kept: NDArray[np.int32],
    stamps: NDArray[np.int32],
) -> None:
    """Insert the nodes order[start:stop], one by one; `gaps` has the distance of each link."""
    width = links.shape[1]
    for place in range(start, stop):
        node = np.int64(order[place])
        size = _candidates(rows, links, node, order[0], M_beta, nodes, distances, expanded, met)
        m = _compress(links, nodes, size, M_beta, kept, stamps)
        for t in range(m):
            links[node, t] = nodes[kept[t]]
            gaps[node, t] = distances[kept[t]]
        for t in range(m):
            other = np.int64(links[node, t])
            # The list is sorted by nearness already: one insertion keeps it so.
            size = 0
            while size < width and links[other, size] >= 0:
                nodes[size] = links[other, size]
                distances[size] = gaps[other, size]
                size += 1
            size = _put(nodes, distances, expanded, size, node, gaps[node, t])
            k = _compress(links, nodes, size, M_beta, kept, stamps)
            for s in range(k):
                links[other, s] = nodes[kept[s]]
                gaps[other, s] = distances[kept[s]]
            for s in range(k, width):
                links[other, s] = NO_NODE
