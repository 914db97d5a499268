"""Seeds: where a beam starts. A plug point of the traversals of `walks`."""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

import numpy as np

from vstore.lab.graph import LabGraph
from vstore.traverse.base import NO_BLOCKS, WalkParams, Wants
from vstore.traverse.walk import entry_point
from vstore.types import Bitmap, Float32s, Int32s
from vstore_kernels import bitmap, layout
from vstore_kernels.codes import QueryCode

Picking = Generator[Wants, None, tuple[Int32s, int]]
"""Yields what it lacks; returns passing node ids, none of them twice, and the distances that it took."""

MAX_RINGS = 2


class Seeds(Protocol):
    """Picks the nodes that a beam starts from."""

    def pick(
        self, graph: LabGraph, query: Float32s, code: QueryCode, passing: Bitmap, params: WalkParams
    ) -> Picking:
        """Pick passing nodes; none where none passes, at least one else.

        Args:
            graph: the shard. What was not yielded as wanted is not to be read.
            query: float32[d], raw.
            code: the query, prepared.
            passing: rows that may be returned.
            params: `n_seeds` is how many are wanted.
        """
        ...


class EntryPoint:
    """HNSW's own start: greedy through the upper levels. Where that node fails the filter: the passing nodes
    among its neighbours, or theirs; and where there is none, the first passing row by id.
    """

    def pick(
        self, graph: LabGraph, query: Float32s, code: QueryCode, passing: Bitmap, params: WalkParams
    ) -> Picking:
        """As `Seeds.pick`."""
        yield Wants(upper=True)
        entry, n_distances = entry_point(graph, code)
        ring = entry
        for _ in range(MAX_RINGS):
            found = _passing(ring, passing)
            if len(found):
                return found, n_distances
            yield Wants(lists=layout.blocks_of(ring, graph.tables.block_shift), codes=NO_BLOCKS)
            rows = graph.index.neighbors[ring]
            ring = np.unique(rows[rows != layout.NO_NODE]).astype(np.int32)
        found = _passing(ring, passing)
        return (found if len(found) else bitmap.indices(passing)[:1]), n_distances


class FirstInClusters:
    """The first passing rows met while walking the clusters nearest to the query."""

    def pick(
        self, graph: LabGraph, query: Float32s, code: QueryCode, passing: Bitmap, params: WalkParams
    ) -> Picking:
        """As `Seeds.pick`."""
        seeds: list[Int32s] = []
        wanted = params.n_seeds
        for cluster in graph.nearest(query).tolist():
            found = _passing(graph.members(cluster), passing)[:wanted]
            seeds.append(found)
            wanted -= len(found)
            if wanted == 0:
                break
        yield from ()
        return np.concatenate(seeds), len(graph.centroids)


def _passing(nodes: Int32s, passing: Bitmap) -> Int32s:
    """Return those of the nodes that pass."""
    words = passing[nodes >> 6] >> (nodes & 63).astype(np.uint64)
    return np.ascontiguousarray(nodes[(words & np.uint64(1)).astype(bool)])
