"""HNSW as Malkov & Yashunin 2018 describe it, with and without a filter on its results."""

from __future__ import annotations

from vstore.traverse.base import Found, GraphView, Walk, WalkParams, Wants
from vstore.traverse.walk import beam_walk, entry_point, predicted_blocks
from vstore.types import Bitmap, Float32s
from vstore_kernels import layout
from vstore_kernels.codes import prepare_query


class HNSW:
    """Greedy descent through the upper levels, then a beam search on level 0 (Algorithms 2 and 5)."""

    name = "hnsw"

    def walk(self, graph: GraphView, query: Float32s, passing: Bitmap | None, params: WalkParams) -> Walk:
        """As `Traversal.walk`; `passing` must be None."""
        if passing is not None:
            raise ValueError("hnsw takes no filter; use result_filter, acorn1 or cluster_acorn")
        return (yield from _descend_and_walk(graph, query, None, layout.HNSW, params))


class ResultFilterHNSW:
    """HNSW that walks through every node and keeps the passing ones: right where most rows pass."""

    name = "result_filter"

    def walk(self, graph: GraphView, query: Float32s, passing: Bitmap | None, params: WalkParams) -> Walk:
        """As `Traversal.walk`."""
        mode = layout.HNSW if passing is None else layout.HNSW_RESULT_FILTER
        return (yield from _descend_and_walk(graph, query, passing, mode, params))


def _descend_and_walk(
    graph: GraphView, query: Float32s, passing: Bitmap | None, mode: int, params: WalkParams
) -> Walk:
    blocks = predicted_blocks(graph, query, params)
    yield Wants(lists=blocks, codes=blocks, upper=True)
    code = prepare_query(query, graph.code_params)
    seeds, n_distances = entry_point(graph, code)
    found: Found = yield from beam_walk(graph, code, seeds, passing, mode, params)
    found.n_distances += n_distances
    return found
