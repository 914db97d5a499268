"""ACORN: a beam of passing nodes that steps over failing ones (Patel et al. 2024, SIGMOD).

Both variants expand one hop where at least half of a node's neighbours pass and two hops through
failing ones where fewer do (the local switch of NaviX, Sehgal & Salihoglu 2025). They differ in where
the beam starts, which decides recall when the filter's region lies away from the query.
"""

from __future__ import annotations

import numpy as np

from vstore.traverse.base import Found, GraphView, Walk, WalkParams, Wants
from vstore.traverse.walk import beam_walk, entry_point, predicted_blocks
from vstore.types import Bitmap, Float32s, Int32s
from vstore_kernels import bitmap, layout
from vstore_kernels.acorn import pick_seeds
from vstore_kernels.clusters import nearest_clusters
from vstore_kernels.codes import prepare_query


class ClusterAcorn:
    """ACORN seeded with the first passing points met in the clusters nearest to the query."""

    name = "cluster_acorn"

    def walk(self, graph: GraphView, query: Float32s, passing: Bitmap | None, params: WalkParams) -> Walk:
        """As `Traversal.walk`."""
        order = nearest_clusters(query, graph.centroids, graph.metric)
        allowed = bitmap.full(graph.n) if passing is None else passing
        seeds = pick_seeds(order, graph.cluster_offsets, allowed, params.n_seeds)
        if not len(seeds):
            return Found.nothing()
        # What the walk will surely read: its seeds' own blocks, and those of the nearest clusters.
        own = layout.blocks_of(seeds, graph.tables.block_shift)
        blocks = np.union1d(own, predicted_blocks(graph, query, params)).astype(np.int32)
        yield Wants(lists=blocks, codes=blocks)
        code = prepare_query(query, graph.code_params)
        found: Found = yield from beam_walk(graph, code, seeds, allowed, layout.ACORN, params)
        found.n_distances += len(graph.centroids)
        return found


class Acorn1:
    """ACORN-1 from the graph's own entry point, as published: the baseline that seeding improves on.

    Where the entry point fails the filter, the beam starts from the first passing rows by node id.
    """

    name = "acorn1"

    def walk(self, graph: GraphView, query: Float32s, passing: Bitmap | None, params: WalkParams) -> Walk:
        """As `Traversal.walk`."""
        allowed = bitmap.full(graph.n) if passing is None else passing
        blocks = predicted_blocks(graph, query, params)
        yield Wants(lists=blocks, codes=blocks, upper=True)
        code = prepare_query(query, graph.code_params)
        entry, n_distances = entry_point(graph, code)
        seeds = entry if bitmap.test(allowed, int(entry[0])) else _first_passing(allowed)
        if not len(seeds):
            return Found.nothing()
        found: Found = yield from beam_walk(graph, code, seeds, allowed, layout.ACORN, params)
        found.n_distances += n_distances
        return found


def _first_passing(passing: Bitmap) -> Int32s:
    return np.ascontiguousarray(bitmap.indices(passing)[:1])
