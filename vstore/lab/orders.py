"""Id orders: how rows are numbered, and so which of them share a block.

An order is a function of an index in cluster order that returns int64[n]: the old node id of each new one.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

import numpy as np

from vstore.lab.index import LabIndex
from vstore.types import Int64s
from vstore_kernels.layout import NO_NODE


class Order(Protocol):
    """Numbers the rows of an index."""

    def __call__(self, index: LabIndex) -> Int64s:
        """Return int64[n], a permutation: the node id in `index` of each new node id."""
        ...


def cluster_order(index: LabIndex) -> Int64s:
    """By cluster, near clusters side by side: the engine's own, and what an index is built in."""
    return np.arange(index.n, dtype=np.int64)


def insertion_order(index: LabIndex) -> Int64s:
    """As the rows came."""
    return np.argsort(index.rows, kind="stable")


def breadth_first(index: LabIndex) -> Int64s:
    """As a breadth-first search from the entry point meets them; what it does not reach comes last."""
    return _by_queue(index, int(index.upper.nodes[index.upper.entry_rank]), lambda nodes: nodes)


def cuthill_mckee(index: LabIndex) -> Int64s:
    """Reverse Cuthill-McKee (Cuthill & McKee 1969, George 1971): breadth first from a node of least degree,
    neighbours by ascending degree, all of it reversed: narrow bands of the adjacency matrix.
    """
    degrees = np.count_nonzero(index.neighbors != NO_NODE, axis=1)
    order = _by_queue(
        index, int(np.argmin(degrees)), lambda nodes: nodes[np.argsort(degrees[nodes], kind="stable")]
    )
    return np.ascontiguousarray(order[::-1])


ORDERS: Final[dict[str, Order]] = {
    "cluster": cluster_order,
    "insertion": insertion_order,
    "breadth_first": breadth_first,
    "cuthill_mckee": cuthill_mckee,
}
"""Every shipped order by name."""


def _by_queue(index: LabIndex, start: int, arrange: _Arrange) -> Int64s:
    met = np.zeros(index.n, bool)
    out: list[int] = []
    starts = iter([start, *range(index.n)])
    while len(out) < index.n:
        first = next(node for node in starts if not met[node])
        met[first] = True
        queue = deque([first])
        while queue:
            node = queue.popleft()
            out.append(node)
            row = index.neighbors[node]
            fresh = row[row != NO_NODE]
            fresh = arrange(fresh[~met[fresh]].astype(np.int64))
            met[fresh] = True
            queue.extend(fresh.tolist())
    return np.array(out, np.int64)


class _Arrange(Protocol):
    def __call__(self, nodes: Int64s, /) -> Int64s: ...
