"""The beam: a sorted array of nodes and distances, where a node that was expanded is stored as its
complement.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vstore_kernels.jit import Int, inner, part


@inner()
def insert(
    nodes: NDArray[np.int32],
    distances: NDArray[np.float32],
    size: Int,
    capacity: Int,
    node: Int,
    distance: np.float32,
) -> tuple[Int, Int]:
    """Insert a node into the beam, after equal distances; return (position, new size).

    The position is `capacity` when the beam is full of nearer or equal ones and the node was dropped.

    Args:
        nodes: int32 [>= capacity], mutated; a complement (negative) marks an expanded node.
        distances: float32 [>= capacity], ascending up to `size`, mutated.
        size: nodes now in the beam.
        capacity: the most it may hold.
        node: node id.
        distance: its distance.
    """
    if size == capacity:
        if not distance < distances[size - 1]:
            return capacity, size
        size -= 1
    # Unsigned positions spare numba's test for negative ones, which keeps the shift from becoming wide moves.
    one = np.uint64(1)
    low = np.uint64(0)
    high = np.uint64(size)
    while low < high:
        middle = (low + high) >> one
        if distances[middle] <= distance:
            low = middle + one
        else:
            high = middle
    at = np.uint64(size)
    while at > low:
        before = at - one
        nodes[at] = nodes[before]
        distances[at] = distances[before]
        at = before
    nodes[low] = node
    distances[low] = distance
    return np.int64(low), size + 1


@part()
def heap_push(
    nodes: NDArray[np.int32], distances: NDArray[np.float32], size: Int, node: Int, distance: np.float32
) -> Int:
    """Push onto a binary min-heap (int32 and float32, mutated; ties by node id); return the new size."""
    at = size
    while at > 0:
        parent = (at - 1) >> 1
        if not _before(distance, node, distances[parent], nodes[parent]):
            break
        nodes[at] = nodes[parent]
        distances[at] = distances[parent]
        at = parent
    nodes[at] = node
    distances[at] = distance
    return size + 1


@part()
def heap_pop(nodes: NDArray[np.int32], distances: NDArray[np.float32], size: Int) -> Int:
    """Remove the root of a binary min-heap (size >= 1, arrays mutated); return the new size."""
    size -= 1
    node = nodes[size]
    distance = distances[size]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _before(
            distances[child + 1], nodes[child + 1], distances[child], nodes[child]
        ):
            child += 1
        if not _before(distances[child], nodes[child], distance, node):
            break
        nodes[at] = nodes[child]
        distances[at] = distances[child]
        at = child
    nodes[at] = node
    distances[at] = distance
    return size


@part()
def _before(distance: np.float32, node: Int, other_distance: np.float32, other_node: Int) -> bool:
    return bool(distance < other_distance or (distance == other_distance and node < other_node))
