"""The passing rows of the nearest clusters, by codes: inverted lists, no graph (as SPANN, Chen et al. 2021).

Rows are numbered in cluster order, so a cluster is a run of node ids and its passing rows a few words of the
bitmap. Clusters in which nothing passes cost nothing, and no neighbour list is read.
"""

from __future__ import annotations

import numpy as np

from vstore.traverse.base import Found, GraphView, Walk, WalkParams, Wants
from vstore.types import Bitmap, Float32s, Int32s, Int64s
from vstore_kernels import bitmap
from vstore_kernels.clusters import nearest_clusters
from vstore_kernels.codes import prepare_query
from vstore_kernels.near_scan import NearScan


class NearestClusters:
    """Scores the codes of `n_seeds` passing rows or more, nearest clusters first, until none nearer come."""

    name = "near_scan"

    def walk(self, graph: GraphView, query: Float32s, passing: Bitmap | None, params: WalkParams) -> Walk:
        """As `Traversal.walk`. Asks for all clusters that its budget takes at once, then for as many more."""
        order = nearest_clusters(query, graph.centroids, graph.metric)
        offsets = graph.cluster_offsets
        allowed = bitmap.full(graph.n) if passing is None else passing
        counts = bitmap.range_counts(allowed, offsets)[order]
        order, total = order[counts > 0], counts[counts > 0].cumsum()
        starts, stops = offsets[order], offsets[order + 1]
        scan: NearScan | None = None
        done, wanted = 0, params.n_seeds
        while done < len(order) and (scan is None or not scan.satisfied):
            upto = min(int(np.searchsorted(total, wanted)) + 1, len(order))
            yield Wants(codes=_blocks(allowed, starts[done:upto], stops[done:upto], graph.tables.block_shift))
            if scan is None:
                code = prepare_query(query, graph.code_params)
                k = params.ef if params.k is None else params.k
                scan = NearScan(code, graph.tables, passing, params.n_seeds, max(params.ef, k), k)
            done += scan.run(starts[done:upto], stops[done:upto])
            wanted = max(scan.least, scan.n_scanned + 1)
        if scan is None:
            return Found.nothing()
        node_ids, distances = scan.results()
        return Found(node_ids, distances, n_distances=len(graph.centroids) + scan.n_scanned)


def _blocks(passing: Bitmap, starts: Int64s, stops: Int64s, shift: int) -> Int32s:
    """Return the blocks (int32, ascending) of codes that hold passing rows of the runs."""
    blocks: set[int] = set()
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        edges = np.arange(start >> shift, ((stop - 1) >> shift) + 2, dtype=np.int64) << shift
        within = bitmap.range_counts(passing, edges.clip(start, stop))
        blocks.update(((start >> shift) + np.flatnonzero(within)).tolist())
    return np.array(sorted(blocks), np.int32)
