"""Whole answers on a resident shard: one kernel call for a batch of queries, without Python between the hops.

The answers are those of the resumable search (`search`, `scan`, then `rescore`), bit for bit; that one serves
shards of which something is not in memory.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vstore_kernels import gate
from vstore_kernels.answer_views import N_HELD
from vstore_kernels.answering import answer_rows
from vstore_kernels.bitmap import full
from vstore_kernels.build import UpperLevels
from vstore_kernels.codes import CodeParams, flips_of, packed_words
from vstore_kernels.fours import FOUR
from vstore_kernels.layout import (
    ACORN,
    CLUSTERS,
    HNSW,
    HNSW_RESULT_FILTER,
    MAX_BEAM,
    METRICS,
    MODES,
    N_COUNTERS,
    N_FACTORS,
    NO_NODE,
    SCAN,
)
from vstore_kernels.near_scan import N_SCAN
from vstore_kernels.packs import pack, same
from vstore_kernels.scan_tile import RUN, TILE, TILE_BEAM
from vstore_kernels.search import SearchScratch, apart
from vstore_kernels.sums import row_squares
from vstore_kernels.tables import BlockTables

__all__ = ["AnswerScratch", "Asked", "OneAnswer", "ResidentShard", "answer", "answer_one"]

_NO_FILTER: Final = np.empty(0, np.uint64)
_MODES: Final = (*MODES, SCAN, CLUSTERS)
_LAST_EPOCH: Final = 0xFFFFFFFF
_MOST_FITS: Final = 64
"""Kinds of calls that a scratch remembers to have room for."""


class ResidentShard:
    """What a kernel reads of a shard; nothing of it may change while a call runs. Keeps its arrays alive.

    Args:
        tables: with every list and code block resident.
        upper: trusted; call its `check` once after reading it from storage.
        upper_codes: uint8 [U, row_bytes], the codes of `upper.nodes`.
        centroids: float32 [K, d'].
        cluster_offsets: int64 [K + 1].
        params: what encoded the codes.
        vector_table: int64 [n_vector_blocks], addresses of float32 [rows, d] blocks of exact vectors, 0 where
            absent; the caller keeps those arrays alive.
        vector_shift: log2 of the rows of such a block.

    Raises:
        TypeError: a wrong dtype.
        ValueError: shapes that do not agree, or blocks that are not resident.
    """

    __slots__ = ("_keep", "arguments", "d", "n", "n_clusters", "sizes", "tables")

    def __init__(
        self,
        tables: BlockTables,
        upper: UpperLevels,
        upper_codes: NDArray[np.uint8],
        centroids: NDArray[np.float32],
        cluster_offsets: NDArray[np.int64],
        params: CodeParams,
        vector_table: NDArray[np.int64],
        vector_shift: int,
    ) -> None:
        gate.array("upper_codes", upper_codes, np.uint8, 2)
        gate.array("centroids", centroids, np.float32, 2)
        gate.array("cluster_offsets", cluster_offsets, np.int64, 1)
        gate.array("vector_table", vector_table, np.int64, 1)
        if not tables.resident:
            raise ValueError("some lists or codes are not resident; use the resumable search")
        if tables.row_bytes != params.row_bytes or upper_codes.shape != (upper.nodes.size, params.row_bytes):
            raise ValueError(
                f"codes of {tables.row_bytes} bytes and upper codes of shape {upper_codes.shape} do not fit "
                f"parameters of {params.row_bytes} bytes a row and {upper.nodes.size} upper nodes"
            )
        K = centroids.shape[0]
        if (
            centroids.shape[1] != params.d + (params.metric == "dot")
            or cluster_offsets.size != K + 1
            or cluster_offsets[0] != 0
            or cluster_offsets[-1] != tables.n
            or np.any(np.diff(cluster_offsets) < 0)
        ):
            raise ValueError(
                f"{K} centroids of {centroids.shape[1]} dimensions and {cluster_offsets.size} offsets "
                f"do not fit {tables.n} rows of {params.d} dimensions"
            )
        if vector_table.size << vector_shift < tables.n:
            raise ValueError(
                f"{vector_table.size} vector blocks of {1 << vector_shift} rows do not cover {tables.n} rows"
            )
        self.n, self.d, self.n_clusters, self.tables = tables.n, params.d, K, tables
        self.sizes = (tables.n, tables.M0, tables.block_shift, K, params.width, params.bits)
        """What scratch depends on."""
        # fmt: off
        arrays = (
            tables.list_table, tables.code_table, upper.nodes, upper.rows, upper.links, upper_codes,
            centroids, cluster_offsets, params.center, params.scale, flips_of(params), vector_table,
            row_squares(centroids, params.d),
        )
        # fmt: on
        numbers = (
            tables.block_shift,
            tables.M0,
            tables.row_bytes,
            upper.entry_rank,
            upper.max_level,
            params.bits,
            params.width,
            params.bias_at,
            METRICS.index(params.metric),
            vector_shift,
        )
        assert len(arrays) == N_HELD
        self._keep = (arrays, params)
        self.arguments = (pack(arrays, numbers), np.float32(params.inflation))

    @property
    def params(self) -> CodeParams:
        """What encoded the codes."""
        params: CodeParams = self._keep[1]
        return params


class AnswerScratch:
    """Buffers of one `answer` at a time; pool one a thread. It grows as calls need."""

    __slots__ = (
        "_addresses",
        "_arguments",
        "_bound_nodes",
        "_bounds",
        "_cluster_gaps",
        "_cluster_heap",
        "_cluster_heap_gaps",
        "_factors",
        "_fits",
        "_kept",
        "_one",
        "_one_fits",
        "_packed",
        "_rotated",
        "_scan",
        "_search",
        "_spreads",
        "_tile",
        "_words",
    )

    def __init__(self) -> None:
        self._search = SearchScratch()
        self._fits: set[tuple[object, ...]] = set()
        self._one_fits: tuple[object, object] = (None, None)
        self._one: tuple[NDArray[Any], ...] = ()
        self._arguments: tuple[NDArray[Any], ...] = ()
        self._words = np.empty(0, np.int64)
        self._factors = _rows_apart(1, N_FACTORS, np.float32)
        self._tile = _tile(1, 0, 0)
        self._scan = apart(N_SCAN, np.int64)
        self._rotated, self._packed = np.empty(0, np.float32), np.empty((1, 0), np.uint64)
        self._cluster_gaps, self._cluster_heap_gaps = np.empty(0, np.float32), np.empty(0, np.float32)
        self._cluster_heap = np.empty(0, np.int32)
        self._bound_nodes, self._bounds = np.empty(0, np.int32), np.empty(0, np.float32)
        self._spreads, self._kept, self._addresses = (
            np.empty(0, np.float32),
            np.empty(0, np.int64),
            np.empty(0, np.int64),
        )

    def fit_one(self, shard: ResidentShard, asked: Asked) -> tuple[NDArray[np.int64], int]:
        """As `fit` for one query, whose answer comes into `one`."""
        sizes, wanted = self._one_fits
        if sizes is shard.sizes and wanted is asked.wanted and self._search.epoch + 1 < _LAST_EPOCH:
            self._search.epoch += 1
            return self._words, self._search.epoch
        fitted = self.fit(shard, 1, *asked.wanted)
        self._one_fits = (shard.sizes, asked.wanted)
        k = asked.wanted[2]
        if not self._one or self._one[0].shape[1] != k:
            self._one = (
                _rows_apart(1, k, np.int32),
                _rows_apart(1, k, np.float32),
                _rows_apart(1, N_COUNTERS, np.int64),
                apart(1, np.uint8),
            )
        return fitted

    @property
    def one(self) -> tuple[NDArray[Any], ...]:
        """Where the answer to one query comes: ids int32 [1, k], distances float32 [1, k], counters
        int64 [1, N_COUNTERS] and status uint8 [1]."""
        return self._one

    def fit(
        self, shard: ResidentShard, m: int, ef: int, n_seeds: int, k: int, mode: int
    ) -> tuple[NDArray[np.int64], int]:
        """Make room for a call of `m` queries and return its scratch, packed, and its first epoch."""
        self._one_fits = (None, None)
        search = self._search
        n_tile = TILE if mode == SCAN and m > 1 and ef <= TILE_BEAM else 1
        need = (shard.sizes, ef, n_seeds, k, mode, n_tile)
        if need in self._fits and search.epoch + m < _LAST_EPOCH:
            search.epoch += m
            return self._words, search.epoch - m + 1
        search.fit(shard.tables, n_seeds, ef, mode)
        params = shard.params
        if search.epoch + m > _LAST_EPOCH:
            search.visited[:] = 0
            search.epoch = 1
        epoch = search.epoch
        search.epoch += m - 1
        words = packed_words(params.width, params.bits)
        if self._rotated.size != params.width:
            self._rotated = np.empty(params.width, np.float32)
        if self._packed.shape[0] != n_tile or self._packed.shape[1] < words:
            self._packed = _rows_apart(n_tile, words, np.uint64)
            self._factors = _rows_apart(n_tile, N_FACTORS, np.float32)
        beam = ef if mode == SCAN else 0
        if self._tile[0].shape[0] != n_tile or self._tile[0].shape[1] < beam or self._tile[2].shape[1] < k:
            self._tile = _tile(n_tile, beam, k)
        if self._cluster_gaps.size != shard.n_clusters:
            self._cluster_gaps = np.empty(shard.n_clusters, np.float32)
            self._cluster_heap = np.empty(shard.n_clusters, np.int32)
            self._cluster_heap_gaps = np.empty(shard.n_clusters, np.float32)
        if self._kept.size < ef:
            self._spreads, self._kept = np.empty(ef, np.float32), np.empty(ef, np.int64)
            self._addresses = np.empty(ef, np.int64)
        if self._bounds.size < k:
            self._bound_nodes, self._bounds = apart(k, np.int32), apart(k, np.float32)
        arguments = (
            *search.arrays,
            self._rotated,
            self._packed,
            self._factors,
            *self._tile,
            self._cluster_gaps,
            self._cluster_heap,
            self._cluster_heap_gaps,
            self._spreads,
            self._bound_nodes,
            self._bounds,
            self._kept,
            self._addresses,
            self._scan,
        )
        # Queries of one search may have two plans by turns: they share what is large enough for both.
        if len(self._fits) >= _MOST_FITS or not same(arguments, self._arguments):
            self._fits.clear()
            self._arguments, self._words = arguments, pack(arguments)
        self._fits.add(need)
        return self._words, epoch


def _rows_apart(n: int, length: int, dtype: type[np.generic]) -> NDArray[Any]:
    """Return zeros [n, length] whose memory shares no cache line with another array's."""
    return apart(n * length, dtype).reshape(n, length)


def _tile(n: int, beam: int, k: int) -> tuple[NDArray[Any], ...]:
    """Return what `TileView` has beside queries and factors."""
    return (
        _rows_apart(n, beam, np.int32),
        _rows_apart(n, beam, np.float32),
        _rows_apart(n, k, np.int32),
        _rows_apart(n, k, np.float32),
        _rows_apart(n, 3, np.int64),
        apart(4 * RUN, np.int64),
        _rows_apart(N_FACTORS, n, np.float32),
        apart(n, np.float32),
        apart(RUN * FOUR, np.float32),
        _rows_apart(n, beam, np.float32),
    )


class Asked:
    """What a call asks of every query of one shard, checked; arguments as for `answer`. Immutable.

    Raises:
        ValueError: a missing or short bitmap, or a number out of range.
    """

    __slots__ = ("arguments", "n", "wanted")

    def __init__(
        self,
        n: int,
        passing: NDArray[np.uint64] | None,
        mode: int,
        *,
        ef: int,
        n_seeds: int,
        n_candidates: int,
        k: int,
        n_matching: int,
    ) -> None:
        _check_numbers(mode, ef, n_seeds, n_candidates, k, n_matching)
        width = max(ef, n_candidates)
        self.n = n
        """Rows of the shard."""
        self.arguments = (_bitmap(n, passing, mode), mode, width, n_seeds, n_candidates, k, n_matching)
        self.wanted = (width, n_seeds, k, mode)
        """What scratch depends on."""


class OneAnswer(NamedTuple):
    """The answer to one query: node ids and distances, nearest first, of k rows or fewer; the counters."""

    status: int
    ids: list[int]
    distances: list[float]
    counters: list[int]


def answer_one(
    shard: ResidentShard, query: NDArray[np.float32], asked: Asked, scratch: AnswerScratch
) -> OneAnswer:
    """Answer one query (float32 [d], raw) as `answer` does, with the GIL released.

    Args:
        shard: what to search.
        query: see above; C-contiguous.
        asked: made for a shard of as many rows.
        scratch: mutated; not shared by threads.

    Raises:
        TypeError: a wrong dtype.
        ValueError: a wrong shape, or a shard of another size.
    """
    if query.dtype is not gate.FLOAT32 or query.ndim != 1 or not query.flags.c_contiguous:
        gate.array("query", query, np.float32, 1)
    if len(query) != shard.d or asked.n != shard.n:
        raise ValueError(
            f"a query of {len(query)} dimensions for a shard of {asked.n} rows; "
            f"this one has {shard.n} rows of {shard.d} dimensions"
        )
    words, epoch = scratch.fit_one(shard, asked)
    ids, distances, counters, status = out = scratch.one
    answer_rows(query.reshape(1, -1), *asked.arguments, *out, *shard.arguments, words, epoch, 0)
    (found,) = ids.tolist()
    (gaps,) = distances.tolist()
    if found[-1] < 0:
        there = found.index(NO_NODE)
        found, gaps = found[:there], gaps[:there]
    return OneAnswer(status.item(), found, gaps, counters[0].tolist())


def answer(
    shard: ResidentShard,
    queries: NDArray[np.float32],
    passing: NDArray[np.uint64] | None,
    mode: int,
    *,
    ef: int,
    n_seeds: int,
    n_candidates: int,
    k: int,
    n_matching: int,
    scratch: AnswerScratch,
    out_ids: NDArray[np.int32],
    out_distances: NDArray[np.float32],
    counters: NDArray[np.int64],
    status: NDArray[np.uint8],
    gaps: NDArray[np.float32] | None = None,
) -> None:
    """Answer `queries` on one shard with the GIL released.

    Args:
        shard: what to search.
        queries: float32 [m, d], raw.
        passing: uint64 bitmap of the nodes that may be returned, or None where all may.
        mode: SCAN, CLUSTERS, HNSW (unfiltered only), HNSW_RESULT_FILTER or ACORN.
        ef: beam width; at least `n_candidates` is used.
        n_seeds: passing nodes that ACORN starts from; the least that CLUSTERS looks at.
        n_candidates: the best of the beam that are candidates; of these, those that the error of their
            estimates leaves undecided are scored exactly. 0 asks for the beam as it was estimated.
        k: answers wanted.
        n_matching: how many nodes pass.
        scratch: mutated; not shared by threads.
        out_ids: int32 [m, k], written: node ids, nearest first, then (and where not answered) NO_NODE.
        out_distances: float32 [m, k], written: exact, as `exact_distances` gives them (estimates, with
            `n_candidates=0`); infinite beyond.
        counters: int64 [m, N_COUNTERS], written; zeros where vectors lack.
        status: uint8 [m]: ANSWERED, LACKS_VECTORS or TOO_FEW.
        gaps: float32 [m, K], the distances of the clusters from each query (`Nearness.of`), or None: they
            are computed where a mode needs them.

    Raises:
        TypeError: a wrong dtype.
        ValueError: shapes that do not agree, a missing or short bitmap, or a number out of range.
    """
    _check_arrays(shard, queries, k, out_ids, out_distances, counters, status)
    asked = Asked(
        shard.n,
        passing,
        mode,
        ef=ef,
        n_seeds=n_seeds,
        n_candidates=n_candidates,
        k=k,
        n_matching=n_matching,
    )
    m = len(queries)
    if m == 0:
        return
    if gaps is not None and gate.array("gaps", gaps, np.float32, 2).shape != (m, shard.n_clusters):
        raise ValueError(f"gaps have shape {gaps.shape}; it must be ({m}, {shard.n_clusters})")
    words, epoch = scratch.fit(shard, m, *asked.wanted)
    out = (out_ids, out_distances, counters, status)
    gaps_at = 0 if gaps is None else gaps.ctypes.data
    answer_rows(queries, *asked.arguments, *out, *shard.arguments, words, epoch, gaps_at)


def _check_arrays(
    shard: ResidentShard,
    queries: NDArray[np.float32],
    k: int,
    out_ids: NDArray[np.int32],
    out_distances: NDArray[np.float32],
    counters: NDArray[np.int64],
    status: NDArray[np.uint8],
) -> None:
    if queries.dtype != np.float32 or queries.ndim != 2 or not queries.flags.c_contiguous:
        gate.array("queries", queries, np.float32, 2)
    m = len(queries)
    if queries.shape[1] != shard.d:
        raise ValueError(f"queries have {queries.shape[1]} dimensions; the shard has {shard.d}")
    for name, array, dtype, shape in (
        ("out_ids", out_ids, np.int32, (m, k)),
        ("out_distances", out_distances, np.float32, (m, k)),
        ("counters", counters, np.int64, (m, N_COUNTERS)),
        ("status", status, np.uint8, (m,)),
    ):
        if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
            raise ValueError(
                f"{name} is {array.dtype} of shape {array.shape}; "
                f"it must be {np.dtype(dtype)} of shape {shape}, C-contiguous"
            )


def _check_numbers(mode: int, ef: int, n_seeds: int, n_candidates: int, k: int, n_matching: int) -> None:
    if min(k, n_candidates + 1, ef, n_seeds, n_matching + 1) < 1 or max(ef, n_candidates) > MAX_BEAM:
        raise ValueError(
            f"k is {k}, ef {ef}, n_candidates {n_candidates}, n_seeds {n_seeds}, n_matching {n_matching}; "
            f"they must be at least 1 (n_candidates and n_matching 0) and beams at most {MAX_BEAM}"
        )
    if mode not in _MODES:
        raise ValueError(f"mode is {mode}; it must be one of {_MODES}")


def _bitmap(n: int, passing: NDArray[np.uint64] | None, mode: int) -> NDArray[np.uint64]:
    """Return the bitmap that the kernel reads; an empty one where all nodes pass."""
    if passing is None:
        if mode == HNSW_RESULT_FILTER:
            raise ValueError("HNSW_RESULT_FILTER needs the bitmap of passing nodes; use HNSW without one")
        return full(n) if mode == ACORN else _NO_FILTER
    bitmap = gate.array("passing", passing, np.uint64, 1)
    if mode == HNSW or bitmap.size * 64 < n:
        raise ValueError(
            f"a bitmap of {bitmap.size} words under mode {mode}: HNSW takes none, others one over {n} nodes"
        )
    return bitmap
