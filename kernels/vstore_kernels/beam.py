"""The beam: a sorted array of nodes and distances, where a node that was expanded is stored as its complement."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vstore_kernels.jit import kernel


@kernel()
def insert(
    nodes: NDArray[np.int32],
    distances: NDArray[np.float32],
    size: int,
    capacity: int,
    node: int,
    distance: np.float32,
) -> tuple[int, int]:
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
    low = 0
    high = size
    while low < high:
        middle = (low + high) >> 1
        if distances[middle] <= distance:
            low = middle + 1
        else:
            high = middle
    for t in range(size, low, -1):
        nodes[t] = nodes[t - 1]
        distances[t] = distances[t - 1]
    nodes[low] = node
    distances[low] = distance
    return low, size + 1


@kernel()
def heap_push(
    nodes: NDArray[np.int32], distances: NDArray[np.float32], size: int, node: int, distance: np.float32
) -> int:
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


@kernel()
def heap_pop(nodes: NDArray[np.int32], distances: NDArray[np.float32], size: int) -> int:
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


@kernel()
def _before(distance: np.float32, node: int, other_distance: np.float32, other_node: int) -> bool:
    return distance < other_distance or (distance == other_distance and node < other_node)
