"""The resumable search: its state is arrays, and it runs until it is done or lacks blocks.

Expanding a node first collects what to score, and only when every block for that is resident does it change
the state. A stop is therefore invisible to the search: with the blocks supplied, it goes on as if they had
been there.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels import gate
from vstore_kernels.build import UpperLevels
from vstore_kernels.codes import QueryCode, check_row_bytes
from vstore_kernels.layout import (
    ACORN,
    DONE,
    HNSW,
    HNSW_RESULT_FILTER,
    MAX_BEAM,
    MAX_TWO_HOP_FOUND,
    MODES,
    N_COUNTERS,
    N_STOPS,
    NEEDS,
)
from vstore_kernels.packs import pack, same
from vstore_kernels.tables import BlockTables
from vstore_kernels.views import EF, EPOCH, MODE, N_SEEDS, N_STATE, SIZE
from vstore_kernels.walk import descend_levels, stamp_seeds, walk

__all__ = ["BlockTables", "SearchScratch", "begin", "descend", "results", "step"]

_NO_FILTER: Final = np.empty(0, np.uint64)
_LAST_EPOCH: Final = 0xFFFFFFFF
# Two lines: the prefetcher takes them in pairs.
_LINES: Final = 128


def apart(size: int, dtype: type[np.generic]) -> NDArray[Any]:
    """Return `size` zeros whose cache lines hold nothing else.

    Small arrays lie side by side: threads that write to theirs would take each other's lines away.
    """
    margin = _LINES // np.dtype(dtype).itemsize
    return np.zeros(size + 2 * margin, dtype)[margin : margin + size]


class SearchScratch:
    """The state and buffers of one search at a time; pool one a thread. It grows as searches need.

    Args:
        n: rows of the largest shard expected.
        max_ef: the widest beam expected.
        M0: the longest neighbour row expected.
    """

    __slots__ = (
        "beam_distances",
        "beam_nodes",
        "buffer",
        "counters",
        "epoch",
        "failing",
        "heap_distances",
        "heap_nodes",
        "n",
        "n_needs",
        "need_codes",
        "need_lists",
        "seeds",
        "state",
        "visited",
        "wanted",
        "words",
        "words_of",
    )

    def __init__(self, n: int = 0, max_ef: int = 64, M0: int = 32) -> None:
        self.counters = apart(N_COUNTERS, np.int64)
        """int64 [N_COUNTERS], zeroed by `begin`; positions are named in `layout`."""
        self.state = apart(N_STATE, np.int64)
        self.n_needs = apart(2, np.int64)
        self.n = 0
        self.epoch = 0
        self.visited = np.zeros(n, np.uint32)
        self.beam_nodes, self.beam_distances = np.empty(max_ef, np.int32), np.empty(max_ef, np.float32)
        self.heap_nodes, self.heap_distances = np.empty(0, np.int32), np.empty(0, np.float32)
        self.seeds = np.empty(max_ef, np.int32)
        self.failing = np.empty(M0, np.int32)
        self.buffer = np.empty(2 * M0 + MAX_TWO_HOP_FOUND, np.int32)
        self.wanted = np.zeros((2, 0), np.uint8)
        self.need_lists = np.empty(0, np.int32)
        self.need_codes = np.empty(0, np.int32)
        self.words_of = self.arrays
        self.words = pack(self.words_of)
        """int64, the pack of `words_of` (`views.SearchView`), which are the buffers once `fit` was called."""

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The buffers in the order of `views.SearchView`."""
        return (
            self.state,
            self.counters,
            self.beam_nodes,
            self.beam_distances,
            self.heap_nodes,
            self.heap_distances,
            self.seeds,
            self.visited,
            self.buffer,
            self.failing,
            self.wanted,
            self.need_lists,
            self.need_codes,
            self.n_needs,
        )

    @property
    def needs_lists(self) -> NDArray[np.int32]:
        """int32 view: the blocks whose lists the stopped search lacks, most urgent first."""
        return self.need_lists[: int(self.n_needs[0])]

    @property
    def needs_codes(self) -> NDArray[np.int32]:
        """int32 view: the blocks whose codes the stopped search lacks, most urgent first."""
        return self.need_codes[: int(self.n_needs[1])]

    def fit(self, tables: BlockTables, n_seeds: int, ef: int, mode: int) -> None:
        """Make room for a search of a shard and take its epoch."""
        if self.visited.size < tables.n:
            self.visited, self.epoch = np.zeros(tables.n, np.uint32), 0
        if self.beam_nodes.size < ef:
            self.beam_nodes, self.beam_distances = np.empty(ef, np.int32), np.empty(ef, np.float32)
        if mode == HNSW_RESULT_FILTER and self.heap_nodes.size < tables.n:
            # Every node enters the frontier at most once.
            self.heap_nodes, self.heap_distances = (
                np.empty(tables.n, np.int32),
                np.empty(tables.n, np.float32),
            )
        if self.seeds.size < n_seeds:
            self.seeds = np.empty(n_seeds, np.int32)
        if self.failing.size < tables.M0:
            self.failing = np.empty(tables.M0, np.int32)
            self.buffer = np.empty(2 * tables.M0 + MAX_TWO_HOP_FOUND, np.int32)
        count = tables.list_table.size
        if self.need_lists.size < count:
            self.wanted = np.zeros((2, count), np.uint8)
            self.need_lists, self.need_codes = np.empty(count, np.int32), np.empty(count, np.int32)
        if self.epoch == _LAST_EPOCH:
            self.visited[:] = 0
            self.epoch = 0
        self.epoch += 1
        self.n = tables.n
        arrays = self.arrays
        # Who extends this class may have changed some of them, too.
        if not same(arrays, self.words_of):
            self.words_of, self.words = arrays, pack(arrays)


def begin(
    scratch: SearchScratch, tables: BlockTables, seeds: NDArray[np.integer], ef: int, mode: int
) -> None:
    """Start a search; the former one in `scratch` is forgotten.

    Args:
        scratch: mutated.
        tables: of the shard to search; nothing needs to be resident.
        seeds: integers [m >= 1], node ids to start from; duplicates count once.
        ef: beam width, the most results.
        mode: HNSW, HNSW_RESULT_FILTER or ACORN. ACORN drops seeds that fail the filter.

    Raises:
        TypeError: seeds that are not integers.
        ValueError: no seeds, a seed out of range, an unknown mode, ef out of range.
    """
    ids = gate.node_ids("seeds", seeds, tables.n)
    if ids.size == 0:
        raise ValueError("seeds is empty; a search needs at least one node to start from")
    if not 1 <= ef <= MAX_BEAM:
        raise ValueError(f"ef is {ef}; it must be from 1 to {MAX_BEAM}")
    if mode not in MODES:
        raise ValueError(f"mode is {mode}; it must be HNSW ({HNSW}), HNSW_RESULT_FILTER or ACORN ({ACORN})")
    scratch.fit(tables, ids.size, ef, mode)
    scratch.counters[:] = 0
    scratch.n_needs[:] = 0
    state = scratch.state
    state[:] = 0
    state[EF], state[MODE], state[EPOCH] = ef, mode, scratch.epoch
    state[N_SEEDS] = stamp_seeds(ids, scratch.visited, np.uint32(scratch.epoch), scratch.seeds)


def step(
    scratch: SearchScratch,
    tables: BlockTables,
    query_code: QueryCode,
    passing: NDArray[np.uint64] | None,
    lookahead: int = 8,
) -> int:
    """Run the search until it is DONE or NEEDS blocks.

    After NEEDS, make at least the first of `scratch.needs_lists` and of `scratch.needs_codes` resident and
    call again with the same query and filter. The results are those of a search with everything resident.

    Args:
        scratch: as `begin` left it, mutated.
        tables: of the same shard as at `begin`; never with fewer blocks than at the last stop's beginning.
        query_code: from `codes.prepare_query`.
        passing: uint64 bitmap of the nodes that pass; None under HNSW only, where it is not read.
        lookahead: how many of the best unexpanded nodes tell their needs at a stop.

    Raises:
        TypeError: a wrong dtype.
        ValueError: tables of another shard, codes of another length, a filter that is missing or too short.
    """
    mode = int(scratch.state[MODE])
    if tables.n != scratch.n:
        raise ValueError(f"the search began on {scratch.n} nodes; these tables have {tables.n}")
    check_row_bytes(query_code, tables.row_bytes)
    if lookahead < 1:
        raise ValueError(f"lookahead is {lookahead}; at least 1 is needed")
    if mode == HNSW:
        passing = _NO_FILTER
    elif passing is None:
        raise ValueError("a filtered mode needs the bitmap of passing nodes")
    gate.array("passing", passing, np.uint64, 1)
    if mode != HNSW and passing.size * 64 < tables.n:
        raise ValueError(f"a bitmap of {passing.size} words does not cover {tables.n} nodes")
    done = walk(
        scratch.words,
        tables.list_table,
        tables.code_table,
        tables.block_shift,
        tables.M0,
        tables.row_bytes,
        tables.resident,
        query_code.packed,
        query_code.factors,
        query_code.bits,
        query_code.width,
        query_code.bias_at,
        passing,
        lookahead,
    )
    if done:
        return DONE
    scratch.counters[N_STOPS] += 1
    return NEEDS


def results(scratch: SearchScratch) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return (node_ids int32 [m], estimated distances float32 [m]), ascending, m <= ef; copies. Valid after
    DONE.
    """
    size = int(scratch.state[SIZE])
    nodes = scratch.beam_nodes[:size]
    return np.where(nodes < 0, ~nodes, nodes), scratch.beam_distances[:size].copy()


def descend(
    query_code: QueryCode,
    upper_codes: NDArray[np.uint8],
    upper: UpperLevels,
    counters: NDArray[np.int64] | None = None,
) -> int:
    """Return the node id where a search of level 0 starts: greedy through the levels above.

    Args:
        query_code: from `codes.prepare_query`.
        upper_codes: uint8 [U, row_bytes], the codes of `upper.nodes` in that order.
        upper: trusted; call its `check` once after reading it from storage.
        counters: int64 [N_COUNTERS] to add hops and distances to, or None.

    Raises:
        TypeError: a wrong dtype.
        ValueError: codes of a wrong shape.
    """
    gate.array("upper_codes", upper_codes, np.uint8, 2)
    check_row_bytes(query_code, upper_codes.shape[1])
    if upper_codes.shape[0] != upper.nodes.size:
        raise ValueError(f"there are {upper_codes.shape[0]} codes for {upper.nodes.size} upper nodes")
    own: NDArray[Any] = np.zeros(N_COUNTERS, np.int64) if counters is None else counters
    rank = descend_levels(
        upper_codes,
        upper.rows,
        upper.links,
        upper.entry_rank,
        upper.max_level,
        query_code.packed,
        query_code.factors,
        query_code.bits,
        query_code.width,
        query_code.bias_at,
        own,
    )
    return int(upper.nodes[rank])
