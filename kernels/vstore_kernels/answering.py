"""The kernels behind `answer`: a whole query on one resident shard, from raw vector to exact nearest rows."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vstore_kernels.beam import insert
from vstore_kernels.codes import prepare_into
from vstore_kernels.intrinsics import trailing_zeros
from vstore_kernels.jit import Int, kernel
from vstore_kernels.layout import (
    ACORN,
    ANSWERED,
    LACKS_VECTORS,
    N_DISTANCES,
    N_HOPS,
    N_RESCORED,
    N_SKIPPED,
    SCAN,
    TOO_FEW,
)
from vstore_kernels.near import cluster_distances, near_seeds
from vstore_kernels.rescore import rescore_rows, undecided_rows
from vstore_kernels.scoring import QueryView, prefetch_row, score
from vstore_kernels.views import EF, EPOCH, MODE, N_SEEDS, SIZE
from vstore_kernels.walk import descend_levels, walk

_AHEAD: Final = 4


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
    # The shard.
    list_table: NDArray[np.int64],
    code_table: NDArray[np.int64],
    block_shift: Int,
    M0: Int,
    row_bytes: Int,
    upper_nodes: NDArray[np.int32],
    upper_rows: NDArray[np.int64],
    upper_links: NDArray[np.int32],
    upper_codes: NDArray[np.uint8],
    entry_rank: Int,
    max_level: Int,
    centroids: NDArray[np.float32],
    offsets: NDArray[np.int64],
    center: NDArray[np.float32],
    scale: NDArray[np.float32],
    inflation: np.float32,
    flips: NDArray[np.float32],
    bits: Int,
    width: Int,
    bias_at: Int,
    kind: Int,
    vector_table: NDArray[np.int64],
    vector_shift: Int,
    # The scratch.
    epoch: Int,
    state: NDArray[np.int64],
    counters: NDArray[np.int64],
    beam_nodes: NDArray[np.int32],
    beam_distances: NDArray[np.float32],
    heap_nodes: NDArray[np.int32],
    heap_distances: NDArray[np.float32],
    seeds: NDArray[np.int32],
    visited: NDArray[np.uint32],
    buffer: NDArray[np.int32],
    failing: NDArray[np.int32],
    wanted: NDArray[np.uint8],
    need_lists: NDArray[np.int32],
    need_codes: NDArray[np.int32],
    n_needs: NDArray[np.int64],
    rotated: NDArray[np.float32],
    packed: NDArray[np.uint64],
    factors: NDArray[np.float32],
    cluster_gaps: NDArray[np.float32],
    cluster_heap: NDArray[np.int32],
    cluster_heap_gaps: NDArray[np.float32],
    spreads: NDArray[np.float32],
    bound_nodes: NDArray[np.int32],
    bounds: NDArray[np.float32],
    kept: NDArray[np.int64],
    addresses: NDArray[np.int64],
) -> None:
    """Answer `queries` (float32 [m, d]) one after the other; arrays as in `answer` and its bundles."""
    filtered = passing.shape[0] > 0
    for i in range(queries.shape[0]):
        query = queries[i]
        counters[:] = 0
        state[:] = 0
        prepare_into(query, center, scale, inflation, kind, bits, flips, rotated, packed, factors)
        stamp = np.uint32(epoch + i)
        if mode == SCAN:
            view = QueryView(packed, factors, bits, width, bias_at)
            found = _scan_passing(
                passing,
                filtered,
                n_matching,
                ef,
                code_table,
                block_shift,
                row_bytes,
                view,
                beam_nodes,
                beam_distances,
            )
            counters[N_DISTANCES] += n_matching
        else:
            if mode == ACORN:
                cluster_distances(query, centroids, kind, cluster_gaps)
                counters[N_DISTANCES] += centroids.shape[0]
                first = near_seeds(
                    cluster_gaps, offsets, passing, filtered, cluster_heap, cluster_heap_gaps, seeds, n_seeds
                )
                for t in range(first):
                    visited[seeds[t]] = stamp
                state[N_SEEDS] = first
            else:
                rank = descend_levels(
                    upper_codes,
                    upper_rows,
                    upper_links,
                    entry_rank,
                    max_level,
                    packed,
                    factors,
                    bits,
                    width,
                    bias_at,
                    counters,
                )
                # A walk's own hops are what is counted; the descent counts its distances.
                counters[N_HOPS] = 0
                seeds[0] = upper_nodes[rank]
                visited[seeds[0]] = stamp
                state[N_SEEDS] = 1
            state[EF], state[MODE], state[EPOCH] = ef, mode, epoch + i
            walk(
                state,
                counters,
                beam_nodes,
                beam_distances,
                heap_nodes,
                heap_distances,
                seeds,
                visited,
                buffer,
                failing,
                wanted,
                need_lists,
                need_codes,
                n_needs,
                list_table,
                code_table,
                block_shift,
                M0,
                row_bytes,
                True,
                packed,
                factors,
                bits,
                width,
                bias_at,
                passing,
                1,
            )
            found = state[SIZE]
            for t in range(found):
                if beam_nodes[t] < 0:
                    beam_nodes[t] = ~beam_nodes[t]
        if found < min(k, n_matching):
            status[i] = TOO_FEW
            continue
        m = undecided_rows(
            beam_nodes[: min(found, n_candidates)],
            beam_distances,
            code_table,
            block_shift,
            row_bytes,
            packed,
            factors,
            bits,
            width,
            bias_at,
            k,
            spreads,
            bound_nodes,
            bounds,
            kept,
        )
        if not _place_vectors(
            kept,
            m,
            beam_nodes,
            beam_distances,
            spreads,
            vector_table,
            vector_shift,
            query.shape[0],
            addresses,
        ):
            status[i] = LACKS_VECTORS
            continue
        size, n_rescored = rescore_rows(
            query, addresses, m, beam_distances, spreads, kind, k, out_ids[i], out_distances[i]
        )
        for t in range(size):
            out_ids[i, t] = beam_nodes[kept[out_ids[i, t]]]
        counters[N_RESCORED] = n_rescored
        counters[N_SKIPPED] = min(found, n_candidates) - n_rescored
        for c in range(out_counters.shape[1]):
            out_counters[i, c] = counters[c]
        status[i] = ANSWERED


@kernel()
def _place_vectors(
    kept: NDArray[np.int64],
    m: Int,
    nodes: NDArray[np.int32],
    estimates: NDArray[np.float32],
    spreads: NDArray[np.float32],
    vector_table: NDArray[np.int64],
    vector_shift: Int,
    d: Int,
    addresses: NDArray[np.int64],
) -> bool:
    """Write where the kept candidates' vectors are, and move their estimates and spreads to the front.

    Returns False when one is not resident.
    """
    mask = (np.int64(1) << vector_shift) - 1
    for t in range(m):
        node = np.int64(nodes[kept[t]])
        block = vector_table[node >> vector_shift]
        if block == 0:
            return False
        addresses[t] = block + (node & mask) * d * 4
        # kept ascends, so nothing is overwritten that is still to be read.
        estimates[t] = estimates[kept[t]]
        spreads[t] = spreads[kept[t]]
    return True


@kernel()
def _scan_passing(
    passing: NDArray[np.uint64],
    filtered: bool,
    n: Int,
    capacity: Int,
    code_table: NDArray[np.int64],
    block_shift: Int,
    row_bytes: Int,
    query: QueryView,
    nodes: NDArray[np.int32],
    distances: NDArray[np.float32],
) -> Int:
    """Score every passing node (or the first `n`, unfiltered), keep the best `capacity`; return how many."""
    mask = (np.int64(1) << block_shift) - 1
    size = np.int64(0)
    if not filtered:
        for node in range(n):
            address = code_table[node >> block_shift] + (node & mask) * row_bytes
            distance = score(address, query)
            if size < capacity or distance < distances[size - 1]:
                _, size = insert(nodes, distances, size, capacity, node, distance)
        return size
    for w in range(passing.shape[0]):
        word = passing[w]
        # The rows of a word lie close together: asked for at once, they come at once.
        ahead = word
        while ahead != np.uint64(0):
            node = w * 64 + trailing_zeros(ahead)
            ahead &= ahead - np.uint64(1)
            prefetch_row(code_table[node >> block_shift] + (node & mask) * row_bytes, row_bytes)
        while word != np.uint64(0):
            node = w * 64 + trailing_zeros(word)
            word &= word - np.uint64(1)
            address = code_table[node >> block_shift] + (node & mask) * row_bytes
            distance = score(address, query)
            if size < capacity or distance < distances[size - 1]:
                _, size = insert(nodes, distances, size, capacity, node, distance)
    return size
