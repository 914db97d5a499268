"""What a traversal walks in the lab: one graph over one data set, under a numbering of one's choice.

The graph, the clusters and the codes are those that the engine's builder would make; an id order renumbers
them, so that orders can be compared on one and the same graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import zstandard

from vstore.format.shard_file import ZSTD_LEVEL
from vstore.shard.sections import vector_block_rows
from vstore.shard.space import to_space
from vstore.types import Float32s, Int32s, Int64s, Metric, UInt8s
from vstore_kernels import build, clusters, codes, lists
from vstore_kernels.build import UpperLevels
from vstore_kernels.codes import CodeParams
from vstore_kernels.layout import NO_NODE, n_blocks

BLOCK_SHIFT: Final = 8


@dataclass(frozen=True, slots=True, eq=False)
class LabIndex:
    """A graph with everything in memory, its rows in id order."""

    metric: Metric
    rows: Int64s
    """int64[n]: the data set's row of each node id."""
    vectors: Float32s
    """float32[n, d], in id order."""
    neighbors: Int32s
    """int32[n, M0], -1 padded, each row ascending, as the format keeps it."""
    upper: UpperLevels
    codes: UInt8s
    code_params: CodeParams
    centroids: Float32s
    cluster_of: Int32s
    """int32[n]: the cluster of each node id; clusters are runs of ids in cluster order only."""
    block_shift: int = BLOCK_SHIFT
    by_nearness: bool = False
    """Whether each list keeps an order of its own instead of ascending; the format has none."""

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.vectors)

    @property
    def n_blocks(self) -> int:
        """Blocks of lists, and of codes."""
        return n_blocks(self.n, self.block_shift)

    @property
    def M0(self) -> int:  # noqa: N802
        """Places of a neighbour list."""
        return int(self.neighbors.shape[1])

    def members(self, cluster: int) -> Int32s:
        """Return int32[m], ascending: the node ids of a cluster."""
        return np.flatnonzero(self.cluster_of == cluster).astype(np.int32)

    def renumbered(self, order: Int64s) -> LabIndex:
        """Return the same graph with node `order[i]` (int64[n], a permutation) numbered i."""
        place = np.empty(self.n, np.int32)
        place[order] = np.arange(self.n, dtype=np.int32)
        rank = np.argsort(place[self.upper.nodes], kind="stable")
        return LabIndex(
            self.metric,
            self.rows[order],
            np.ascontiguousarray(self.vectors[order]),
            self._relabelled(self.neighbors[order], place),
            _upper_in_order(self.upper, place, rank),
            np.ascontiguousarray(self.codes[order]),
            self.code_params,
            self.centroids,
            np.ascontiguousarray(self.cluster_of[order]),
            self.block_shift,
            self.by_nearness,
        )

    def _relabelled(self, neighbors: Int32s, place: Int32s) -> Int32s:
        moved = np.where(neighbors == NO_NODE, np.int32(NO_NODE), place[neighbors])
        return moved if self.by_nearness else _sorted_rows(moved)

    def list_bytes(self) -> Int64s:
        """Return int64[n_blocks]: the bytes of each block of lists as the engine stores it."""
        compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        size = 1 << self.block_shift
        starts = range(0, self.n, size)
        encoded = (
            lists.encode_lists(np.ascontiguousarray(self.neighbors[at : at + size]), at).tobytes()
            for at in starts
        )
        return np.array([len(compressor.compress(block)) for block in encoded], np.int64)

    def code_bytes(self) -> Int64s:
        """Return int64[n_blocks]: the bytes of each block of codes."""
        sizes: Int64s = _per_block(self.n, 1 << self.block_shift) * self.codes.shape[1]
        return sizes

    @property
    def vector_rows(self) -> int:
        """Rows of a block of exact vectors, as in the engine."""
        return vector_block_rows(self.vectors.shape[1])

    def vector_bytes(self) -> Int64s:
        """Return int64[m]: the bytes of each block of exact vectors."""
        sizes: Int64s = _per_block(self.n, self.vector_rows) * 4 * self.vectors.shape[1]
        return sizes

    def upper_bytes(self) -> int:
        """Return the bytes of the upper levels and of their nodes' codes."""
        upper = self.upper
        return int(upper.nodes.nbytes + upper.rows.nbytes + upper.links.nbytes) + len(upper.nodes) * int(
            self.codes.shape[1]
        )


def build_index(
    vectors: Float32s,
    metric: Metric = "l2",
    *,
    M: int = 16,
    ef_construction: int = 200,
    bits: int = 8,
    cluster_rows: int = 512,
    block_shift: int = BLOCK_SHIFT,
    seed: int = 0,
    n_threads: int = 2,
    progress: build.Progress | None = None,
) -> LabIndex:
    """Return the index of `vectors` (float32[n, d], n >= 1) in cluster order, as the engine builds it.

    The result does not depend on `n_threads`.
    """
    space = to_space(vectors, metric)
    order = clusters.cluster_order(space, cluster_rows, seed, n_threads)
    graph = build.build_hnsw(
        np.ascontiguousarray(space[order.order]), M, ef_construction, seed, n_threads, progress
    )
    reordered = np.ascontiguousarray(vectors[order.order])
    params = codes.train_codes(reordered, metric, bits)
    sizes = np.diff(order.offsets)
    return LabIndex(
        metric,
        order.order,
        reordered,
        _sorted_rows(graph.neighbors),
        graph.upper,
        codes.encode(reordered, params),
        params,
        order.centroids,
        np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
        block_shift,
    )


def _per_block(n: int, rows: int) -> Int64s:
    starts = np.arange(0, n, rows, dtype=np.int64)
    return np.minimum(rows, n - starts)


def _sorted_rows(neighbors: Int32s) -> Int32s:
    """Return each row ascending, its padding last."""
    high = np.where(neighbors == NO_NODE, np.iinfo(np.int32).max, neighbors)
    high.sort(axis=1)
    return np.where(high == np.iinfo(np.int32).max, np.int32(NO_NODE), high)


def _upper_in_order(upper: UpperLevels, place: Int32s, rank: Int64s) -> UpperLevels:
    """Return the upper levels with nodes ascending again; `rank[i]` is the old rank of new rank i."""
    new_of_old = np.empty(len(rank), np.int32)
    new_of_old[rank] = np.arange(len(rank), dtype=np.int32)
    heights = np.diff(upper.rows)[rank]
    rows = np.zeros(len(rank) + 1, np.int64)
    np.cumsum(heights, out=rows[1:])
    old_rows = np.concatenate([np.arange(upper.rows[r], upper.rows[r + 1]) for r in rank.tolist()])
    links = upper.links[old_rows]
    links = np.where(links == NO_NODE, np.int32(NO_NODE), new_of_old[links])
    return UpperLevels(
        np.ascontiguousarray(place[upper.nodes][rank]),
        rows,
        np.ascontiguousarray(links),
        int(new_of_old[upper.entry_rank]),
        upper.max_level,
    )
