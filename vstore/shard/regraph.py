"""A graph made from an older one: its rows keep their links under new numbers, and the others are inserted.

A merge of a large shard with few rows more need not search for the neighbours of all again: relabelling a
graph into the new cluster order costs next to nothing beside building one. Rows that died take their links
with them; a row that lost more than half of its own is inserted anew. The links that stay were chosen
without the dead, so who merges counts how many died since a graph was built whole (`OldGraph.n_lost`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vstore.types import Bools, Float32s, Int32s, Int64s
from vstore_kernels.build import Builder, HNSWGraph, OnPrefix, Progress
from vstore_kernels.layout import NO_NODE

MIN_KEPT_SHARE = 0.3
"""Of the rows of the new graph, those that the old one must bring; below, building anew is about as quick."""
MAX_LOST_SHARE = 0.1
"""Of an old graph's rows, those that may have died since one was built whole; beyond, recall would fall."""


def worth_extending(n_live: int, n_lost: int, n_rows: int) -> bool:
    """Return whether a graph of `n_live` live rows, in which `n_lost` died, is to be extended to `n_rows`."""
    return n_live >= MIN_KEPT_SHARE * n_rows and n_lost <= MAX_LOST_SHARE * (n_live + n_lost)


@dataclass(frozen=True, slots=True, eq=False)
class OldGraph:
    """The graph of a shard whose live rows are the first of those that are built.

    `rows` int64[m] are the node ids of these, in the order in which they come; `n_lost` rows died in it, and
    in those that it was made from, since one was built whole.
    """

    graph: HNSWGraph
    rows: Int64s
    n_lost: int


def extended_hnsw(
    space: Float32s,
    old: OldGraph,
    places: Int64s,
    *,
    ef_construction: int,
    seed: int,
    n_threads: int,
    progress: Progress | None = None,
    n_held_out: int = 0,
    on_prefix: OnPrefix | None = None,
) -> HNSWGraph | None:
    """Return a graph of `space`, or None where the old one has no node left above level 0.

    It depends on its arguments without `n_threads` only, as `build_hnsw`'s does.

    Args:
        space: float32[n, d'], in cluster order.
        old: what to begin with.
        places: int64[m], where in `space` each row of `old` is now.
        ef_construction, seed, n_threads, progress, n_held_out, on_prefix: as for `build_hnsw`; rows that are
            held out are taken out of the old graph first.
    """
    M = old.graph.neighbors.shape[1] // 2
    new_ids = np.full(len(old.graph.neighbors), NO_NODE, np.int32)
    new_ids[old.rows] = places
    builder = _Extension(space, M, max(ef_construction, M), seed, n_threads)
    n_held_out = builder.hold_out(n_held_out, new_ids)
    n_kept = builder.begin(old.graph, new_ids)
    if n_kept == 0:
        return None
    return builder.insert_from(n_kept, n_held_out, progress, on_prefix)


class _Extension(Builder):
    """A graph under construction that begins with the links of another."""

    def hold_out(self, wanted: int, new_ids: Int32s) -> int:
        """Choose the rows that go in last, and forget that the old graph had them; return how many."""
        n_last = self.n_last(wanted)
        self._held_out = self._order[len(self._order) - n_last :]
        new_ids[np.isin(new_ids, self._held_out)] = NO_NODE
        return n_last

    def begin(self, old: HNSWGraph, new_ids: Int32s) -> int:
        """Take over the rows with a new id (int32 [n_old], else NO_NODE) and their links; return how many."""
        lost = _shares_lost(old.neighbors, new_ids)
        new_ids[lost > 0.5] = NO_NODE
        heights = np.zeros(len(new_ids), np.int32)
        heights[old.upper_nodes] = np.diff(old.upper_rows)
        kept = new_ids >= 0
        top = int(heights[kept].max(initial=0))
        if top == 0:
            return 0
        is_kept = np.zeros(len(self._levels), np.bool_)
        is_kept[new_ids[kept]] = True
        # Nobody stands above the entry point, which is in the graph from the start.
        self._levels = np.minimum(self._levels, top).astype(np.int32)
        self._levels[new_ids[kept]] = heights[kept]
        self._levels[self._held_out] = 0
        self._reorder(is_kept)
        self._make_upper()
        self._neighbors[new_ids[kept]] = _renamed(old.neighbors[kept], new_ids)
        self._take_upper(old, new_ids)
        return int(is_kept.sum())

    def _reorder(self, is_kept: Bools) -> None:
        """Put the rows that are in the graph first, then the others, each by descending level."""
        last = np.zeros(len(is_kept), np.bool_)
        last[self._held_out] = True
        order = self._order.astype(np.int64)
        turn = np.where(is_kept[order], 0, np.where(last[order], 2, 1))
        # Stable: the random order decides between rows of one level.
        self._order = order[np.lexsort((-self._levels[order], turn))].astype(np.int32)

    def _take_upper(self, old: HNSWGraph, new_ids: Int32s) -> None:
        links = np.where(old.upper_links >= 0, old.upper_nodes[np.maximum(old.upper_links, 0)], NO_NODE)
        owners = new_ids[old.upper_nodes]
        heights = np.diff(old.upper_rows)
        row_owner = np.repeat(owners, heights)
        above = np.arange(len(links)) - np.repeat(old.upper_rows[:-1], heights)
        taken = row_owner >= 0
        rows = self._first_row[row_owner[taken]] + above[taken]
        self._upper[rows] = _renamed(links[taken], new_ids)


def _renamed(links: Int32s, new_ids: Int32s) -> Int32s:
    """Return the links under their new names, without those that are gone, in their order."""
    renamed = np.where(links >= 0, new_ids[np.maximum(links, 0)], NO_NODE)
    order = np.argsort(renamed < 0, axis=1, kind="stable")
    return np.take_along_axis(renamed, order, axis=1).astype(np.int32)


def _shares_lost(neighbors: Int32s, new_ids: Int32s) -> Float32s:
    """Return float32[n_old]: of each row's links, the share that leads to rows that are gone."""
    linked = neighbors >= 0
    gone = linked & (new_ids[np.maximum(neighbors, 0)] < 0)
    shares: Float32s = (gone.sum(axis=1) / np.maximum(linked.sum(axis=1), 1)).astype(np.float32)
    return shares
