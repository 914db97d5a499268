"""Beam searches around an expansion of one's own, driven as the generators that traversals are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vstore.lab.expand import N_LAB_STATE
from vstore.traverse.base import Found, GraphView, Walk, WalkParams, Wants
from vstore.traverse.scratch import ScratchPool
from vstore.types import Bitmap, Int32s
from vstore_kernels import layout, search
from vstore_kernels.codes import QueryCode, check_row_bytes
from vstore_kernels.search import BlockTables, SearchScratch, apart


class LabScratch(SearchScratch):
    """Scratch with room for expansions that go two hops in full."""

    def __init__(self) -> None:
        super().__init__()
        self.state = apart(N_LAB_STATE, np.int64)

    def fit(self, tables: BlockTables, n_seeds: int, ef: int, mode: int) -> None:
        """As `SearchScratch.fit`."""
        room = tables.M0 * (tables.M0 + 1)
        if self.buffer.size < room:
            self.failing, self.buffer = np.empty(room, np.int32), np.empty(room, np.int32)
            self.heap_nodes, self.heap_distances = np.empty(room, np.int32), np.empty(room, np.float32)
        super().fit(tables, n_seeds, ef, mode)


POOL: ScratchPool[LabScratch] = ScratchPool(LabScratch)


def expansion_walk(
    graph: GraphView, code: QueryCode, seeds: Int32s, passing: Bitmap, walk: Any, params: WalkParams
) -> Walk:
    """Run a beam of passing nodes from `seeds`, yielding the blocks it lacks, and return its candidates.

    Args:
        graph: the shard.
        code: the query, prepared.
        seeds: int32[m >= 1], node ids; those that fail the filter are dropped.
        passing: rows that may be returned.
        walk: from `expand.compile_walk`.
        params: the search's width.
    """
    with POOL.lend() as scratch:
        search.begin(scratch, graph.tables, seeds, params.ef, layout.ACORN)
        lookahead = params.ef if params.lookahead is None else params.lookahead
        while not _run(walk, scratch, graph.tables, code, passing, lookahead):
            scratch.counters[layout.N_STOPS] += 1
            _watch(params, scratch)
            yield Wants(scratch.needs_lists.copy(), scratch.needs_codes.copy())
        _watch(params, scratch)
        return Found.of_walk(scratch)


def mode_walk(
    graph: GraphView,
    code: QueryCode,
    seeds: Int32s,
    passing: Bitmap | None,
    mode: int,
    ef: int,
    params: WalkParams,
) -> Walk:
    """As `expansion_walk`, with the engine's kernel in one of its own modes and a beam `ef` wide."""
    with POOL.lend() as scratch:
        search.begin(scratch, graph.tables, seeds, ef, mode)
        lookahead = ef if params.lookahead is None else params.lookahead
        while search.step(scratch, graph.tables, code, passing, lookahead) == layout.NEEDS:
            _watch(params, scratch)
            yield Wants(scratch.needs_lists.copy(), scratch.needs_codes.copy())
        _watch(params, scratch)
        return Found.of_walk(scratch)


@dataclass(frozen=True, slots=True)
class WatchedParams(WalkParams):
    """Parameters of a walk that is looked at: `watch` gets the nodes scored or crossed so far (int32[m],
    ascending) at each stop and at the end.
    """

    watch: Callable[[Int32s], None] | None = None


def _watch(params: WalkParams, scratch: LabScratch) -> None:
    if isinstance(params, WatchedParams) and params.watch is not None:
        met = scratch.visited[: scratch.n] == scratch.epoch
        params.watch(np.flatnonzero(met).astype(np.int32))


def _run(
    walk: Any, scratch: LabScratch, tables: BlockTables, code: QueryCode, passing: Bitmap, lookahead: int
) -> bool:
    if passing.size * 64 < tables.n or scratch.n != tables.n:
        raise ValueError(f"a bitmap of {passing.size} words does not cover {tables.n} nodes")
    check_row_bytes(code, tables.row_bytes)
    return bool(
        walk(
            scratch.state, scratch.counters, scratch.beam_nodes, scratch.beam_distances, scratch.heap_nodes,
            scratch.heap_distances, scratch.seeds, scratch.visited, scratch.buffer, scratch.failing,
            scratch.wanted, scratch.need_lists, scratch.need_codes, scratch.n_needs, tables.list_table,
            tables.code_table, tables.block_shift, tables.M0, tables.row_bytes, tables.resident,
            code.packed, code.factors, code.bits, code.width, code.bias_at, passing, lookahead,
        )
    )  # fmt: skip
