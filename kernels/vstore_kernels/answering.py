"""The kernels behind `answer`: a whole query on one resident shard, from raw vector to exact nearest rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vstore_kernels.answer_views import (
    Buffers,
    ShardView,
    Wish,
    tables_of,
)
from vstore_kernels.beam import heap_pop, heap_push
from vstore_kernels.codes import prepare_into
from vstore_kernels.intrinsics import load_f32
from vstore_kernels.jit import Int, inner, kernel, part
from vstore_kernels.layout import (
    ACORN,
    ANSWERED,
    CLUSTERS,
    LACKS_VECTORS,
    N_DISTANCES,
    N_HOPS,
    N_RESCORED,
    N_SKIPPED,
    NO_NODE,
    SCAN,
    TOO_FEW,
)
from vstore_kernels.near import cluster_distances, near_seeds
from vstore_kernels.near_scan import KEPT, SCANNED, ask_first, satisfied, scan_run
from vstore_kernels.rescore import rescore_rows, undecided_rows
from vstore_kernels.scan_tile import TileView, scan_tile, take_beam
from vstore_kernels.scoring import QueryView
from vstore_kernels.views import EF, EPOCH, MODE, N_SEEDS, SIZE, SearchView, TableView
from vstore_kernels.walk import descend_levels, run_walk


@kernel()
def answer_rows(
    queries: NDArray[np.float32],
    passing: NDArray[np.uint64],
    mode: Int,
    ef: Int,
    n_seeds: Int,
    n_candidates: Int,
    k: Int,
    n_matching: Int,
    out_ids: NDArray[np.int32],
    out_distances: NDArray[np.float32],
    out_counters: NDArray[np.int64],
    status: NDArray[np.uint8],
    held: NDArray[np.int64],
    inflation: np.float32,
    scratch: NDArray[np.int64],
    epoch: Int,
    gaps_at: Int,
) -> None:
    """Answer `queries` (float32 [m, d]), scans a tile at a time; arrays as in `answer`.

    `held` and `scratch` are packs (`packs`): the arrays of the shard, and the buffers (`answer_views`).
    `gaps_at` is the address of `gaps`, or 0.
    """
    search, tables, shard = SearchView(scratch), tables_of(held), ShardView(held)
    tile, buffers = TileView(scratch), Buffers(scratch)
    packed, factors, state = tile.packed, tile.factors, search.state
    bits, width, bias_at = shard.bits, shard.width, shard.bias_at
    wish = Wish(mode, ef, n_seeds, n_candidates, k, n_matching)
    filtered = passing.shape[0] > 0
    # fmt: off
    for first in range(0, queries.shape[0], packed.shape[0]):
        n_tile = min(packed.shape[0], queries.shape[0] - first)
        for j in range(n_tile):
            prepare_into(
                queries[first + j], shard.center, shard.scale, inflation, shard.kind, bits, shard.flips,
                buffers.rotated, packed[j], factors[j],
            )
        if mode == SCAN:
            scan_tile(
                tile, n_tile, bits, width, bias_at, passing, filtered, n_matching, tables.codes,
                tables.block_shift, tables.row_bytes, ef, k,
            )
        for j in range(n_tile):
            i = first + j
            code = QueryView(packed[j], factors[j], bits, width, bias_at)
            state[:] = 0
            state[EF], state[MODE], state[EPOCH] = ef, mode, epoch + i
            status[i] = _answer_one(
                queries[i], j, code, passing, wish, shard, tables, tile, search, buffers,
                gaps_at + 4 * i * shard.squares.shape[0] if gaps_at != 0 else 0, out_ids[i],
                out_distances[i], out_counters[i],
            )
    # fmt: on


@inner()
def _answer_one(
    query: NDArray[np.float32],
    j: Int,
    code: QueryView,
    passing: NDArray[np.uint64],
    wish: Wish,
    shard: ShardView,
    tables: TableView,
    tile: TileView,
    search: SearchView,
    buffers: Buffers,
    gaps_at: Int,
    out_ids: NDArray[np.int32],
    out_distances: NDArray[np.float32],
    out_counters: NDArray[np.int64],
) -> Int:
    """Answer the query in place `j` of the tile, which a scan has scanned for; return the status."""
    counters = search.counters
    counters[:] = 0
    out_ids[:] = NO_NODE
    out_distances[:] = np.inf
    out_counters[:] = 0
    if wish.mode == SCAN:
        counters[N_DISTANCES] = wish.n_matching
        found, counters[N_SKIPPED] = take_beam(
            tile, j, wish.n_candidates, search.beam_nodes, search.beam_distances
        )
    else:
        found = _find(query, code, passing, wish, shard, tables, search, buffers, gaps_at)
    status = _settle(query, code, wish, shard, tables, search, buffers, found, out_ids, out_distances)
    if status != LACKS_VECTORS:
        for c in range(out_counters.shape[0]):
            out_counters[c] = counters[c]
    return np.int64(status)


@inner()
def _find(
    query: NDArray[np.float32],
    code: QueryView,
    passing: NDArray[np.uint64],
    wish: Wish,
    shard: ShardView,
    tables: TableView,
    search: SearchView,
    buffers: Buffers,
    gaps_at: Int,
) -> Int:
    """Leave the candidates of all but scans in the beam, nearest first; return how many there are."""
    filtered = passing.shape[0] > 0
    counters, state = search.counters, search.state
    if wish.mode == CLUSTERS or wish.mode == ACORN:
        _place_clusters(query, shard, gaps_at, buffers.cluster_gaps)
    if wish.mode == CLUSTERS:
        return np.int64(_scan_clusters(passing, filtered, wish, shard, tables, code, search, buffers))
    if wish.mode == ACORN:
        counters[N_DISTANCES] = shard.centroids.shape[0]
        state[N_SEEDS] = near_seeds(
            buffers.cluster_gaps,
            shard.offsets,
            passing,
            filtered,
            buffers.cluster_heap,
            buffers.cluster_heap_gaps,
            search.seeds,
            wish.n_seeds,
        )
    else:
        rank = descend_levels(
            shard.upper_codes,
            shard.upper_rows,
            shard.upper_links,
            shard.entry_rank,
            shard.max_level,
            code.packed,
            code.factors,
            code.bits,
            code.width,
            code.bias_at,
            counters,
        )
        # Hops are those of the walk; of the descent, the distances count.
        counters[N_HOPS] = 0
        search.seeds[0] = shard.upper_nodes[rank]
        state[N_SEEDS] = 1
    for t in range(state[N_SEEDS]):
        search.visited[search.seeds[t]] = np.uint32(state[EPOCH])
    run_walk(search, tables, code, passing)
    found = np.int64(state[SIZE])
    for t in range(found):
        if search.beam_nodes[t] < 0:
            search.beam_nodes[t] = ~search.beam_nodes[t]
    return found


@part()
def _place_clusters(
    query: NDArray[np.float32], shard: ShardView, gaps_at: Int, out: NDArray[np.float32]
) -> None:
    """Write the distances of the clusters, which lie at `gaps_at` where that is not 0."""
    if gaps_at == 0:
        cluster_distances(query, shard.centroids, shard.squares, shard.kind, out)
        return
    for c in range(out.shape[0]):
        out[c] = load_f32(gaps_at, 4 * c)


@inner()
def _settle(
    query: NDArray[np.float32],
    code: QueryView,
    wish: Wish,
    shard: ShardView,
    tables: TableView,
    search: SearchView,
    buffers: Buffers,
    found: Int,
    out_ids: NDArray[np.int32],
    out_distances: NDArray[np.float32],
) -> Int:
    """Score exactly what the beam leaves undecided, write the k nearest, and return the status."""
    if wish.n_candidates == 0:
        for t in range(min(found, wish.k)):
            out_ids[t], out_distances[t] = search.beam_nodes[t], search.beam_distances[t]
        return ANSWERED
    if found < min(wish.k, wish.n_matching):
        return TOO_FEW
    n = min(found, wish.n_candidates)
    m = undecided_rows(
        search.beam_nodes[:n],
        search.beam_distances,
        tables.codes,
        tables.block_shift,
        tables.row_bytes,
        code.packed,
        code.factors,
        code.bits,
        code.width,
        code.bias_at,
        wish.k,
        buffers.spreads,
        buffers.bound_nodes,
        buffers.bounds,
        buffers.kept,
    )
    if not _place_vectors(m, search, buffers, shard, query.shape[0]):
        return LACKS_VECTORS
    estimates, spreads = search.beam_distances, buffers.spreads
    size, n_rescored = rescore_rows(
        query, buffers.addresses, m, estimates, spreads, shard.kind, wish.k, out_ids, out_distances
    )
    for t in range(size):
        out_ids[t] = search.beam_nodes[buffers.kept[out_ids[t]]]
    search.counters[N_RESCORED] = n_rescored
    search.counters[N_SKIPPED] += n - n_rescored
    return ANSWERED


@part()
def _place_vectors(m: Int, search: SearchView, buffers: Buffers, shard: ShardView, d: Int) -> bool:
    """Write where the kept candidates' vectors are, and move their estimates and spreads to the front.

    Returns False when one is not resident.
    """
    estimates, spreads, kept = search.beam_distances, buffers.spreads, buffers.kept
    mask = (np.int64(1) << shard.vector_shift) - 1
    for t in range(m):
        node = np.int64(search.beam_nodes[kept[t]])
        block = shard.vectors[node >> shard.vector_shift]
        if block == 0:
            return False
        buffers.addresses[t] = block + (node & mask) * d * 4
        # kept ascends, so nothing is overwritten that is still to be read.
        estimates[t] = estimates[kept[t]]
        spreads[t] = spreads[kept[t]]
    return True


@part()
def _scan_clusters(
    passing: NDArray[np.uint64],
    filtered: bool,
    wish: Wish,
    shard: ShardView,
    tables: TableView,
    query: QueryView,
    search: SearchView,
    buffers: Buffers,
) -> Int:
    """Scan the nearest clusters (`near_scan`) and keep the best in the beam; return how many."""
    heap, gaps, scan = buffers.cluster_heap, buffers.cluster_heap_gaps, buffers.scan
    size = np.int64(0)
    for c in range(shard.centroids.shape[0]):
        size = heap_push(heap, gaps, size, c, buffers.cluster_gaps[c])
    scan[:] = 0
    while size > 0 and not satisfied(scan, wish.n_seeds):
        cluster = np.int64(heap[0])
        size = heap_pop(heap, gaps, size)
        if size > 0:
            following = np.int64(heap[0])
            ask_first(
                shard.offsets[following],
                shard.offsets[following + 1],
                passing,
                filtered,
                tables.codes,
                tables.block_shift,
                tables.row_bytes,
            )
        scan_run(
            shard.offsets[cluster],
            shard.offsets[cluster + 1],
            passing,
            filtered,
            tables.codes,
            tables.block_shift,
            tables.row_bytes,
            query,
            search.beam_nodes,
            search.beam_distances,
            wish.ef,
            wish.k,
            buffers.bound_nodes,
            buffers.bounds,
            scan,
        )
    search.counters[N_DISTANCES] = shard.centroids.shape[0] + scan[SCANNED]
    return np.int64(scan[KEPT])
