"""The resumable kernel driven as a generator: what every graph traversal shares."""

from __future__ import annotations

import numpy as np

from vstore.traverse.base import NO_BLOCKS, Found, GraphView, Walk, WalkParams, Wants
from vstore.traverse.scratch import POOL
from vstore.types import Bitmap, Float32s, Int32s
from vstore_kernels import layout, search
from vstore_kernels.clusters import nearest_clusters
from vstore_kernels.codes import QueryCode


def beam_walk(
    graph: GraphView, code: QueryCode, seeds: Int32s, passing: Bitmap | None, mode: int, params: WalkParams
) -> Walk:
    """Run a beam search from `seeds`, yielding the blocks it lacks, and return its candidates.

    The kernel's state does not change at a stop, so the answer is the same whatever was resident.
    """
    with POOL.lend() as scratch:
        search.begin(scratch, graph.tables, seeds, params.ef, mode)
        lookahead = params.ef if params.lookahead is None else params.lookahead
        while search.step(scratch, graph.tables, code, passing, lookahead) == layout.NEEDS:
            yield Wants(scratch.needs_lists.copy(), scratch.needs_codes.copy())
        return Found.of_walk(scratch, None if graph.tables.resident else _blocks_seen(scratch, graph.tables))


def _blocks_seen(scratch: search.SearchScratch, tables: search.BlockTables) -> Int32s:
    """Return the blocks that hold any node whose distance the walk took."""
    seen = scratch.visited[: tables.n] == scratch.epoch
    starts = np.arange(0, tables.n, 1 << tables.block_shift)
    return np.flatnonzero(np.logical_or.reduceat(seen, starts)).astype(np.int32)


def predicted_blocks(graph: GraphView, query: Float32s, params: WalkParams) -> Int32s:
    """Return the blocks of the query's nearest clusters, where a walk will spend most of its reads.

    Rows are numbered in cluster order, so a cluster is a run of ids and few blocks hold it. With
    everything resident there is nothing to predict.
    """
    if graph.tables.resident or not params.n_predicted:
        return NO_BLOCKS
    near = nearest_clusters(query, graph.centroids, graph.metric)[: params.n_predicted]
    shift = graph.tables.block_shift
    first = graph.cluster_offsets[near] >> shift
    last = (graph.cluster_offsets[near + 1] - 1) >> shift
    spans = [np.arange(a, b + 1, dtype=np.int32) for a, b in zip(first, last, strict=True)]
    return np.unique(np.concatenate(spans))


def entry_point(graph: GraphView, code: QueryCode) -> tuple[Int32s, int]:
    """Return the entry point that the upper levels lead to, as int32[1], and the distances it took."""
    counters = np.zeros(8, dtype=np.int64)
    node = search.descend(code, graph.upper.codes, graph.upper.levels, counters)
    return np.array([node], dtype=np.int32), int(counters[layout.N_DISTANCES])
