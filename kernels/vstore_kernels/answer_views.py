"""What `answer` hands to its kernel: bundles of arrays, and how they come out of packs (`packs`)."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vstore_kernels.jit import Int, inner
from vstore_kernels.packs import WORDS, flat, grid
from vstore_kernels.scan_tile import TileView
from vstore_kernels.views import SearchView, TableView

N_HELD: Final = 13
"""Arrays of a shard's pack; ten numbers follow."""


class ShardView(NamedTuple):
    """What a `ResidentShard` holds beside its tables; read only."""

    upper_nodes: NDArray[np.int32]
    upper_rows: NDArray[np.int64]
    upper_links: NDArray[np.int32]
    upper_codes: NDArray[np.uint8]
    entry_rank: Int
    max_level: Int
    centroids: NDArray[np.float32]
    squares: NDArray[np.float32]
    """float32 [K], of the centroids."""
    offsets: NDArray[np.int64]
    kind: Int
    """Position in METRICS."""
    vectors: NDArray[np.int64]
    vector_shift: Int
    center: NDArray[np.float32]
    scale: NDArray[np.float32]
    flips: NDArray[np.float32]
    bits: Int
    width: Int
    bias_at: Int


class Buffers(NamedTuple):
    """What an `AnswerScratch` holds beside its search; all are mutated."""

    cluster_gaps: NDArray[np.float32]
    cluster_heap: NDArray[np.int32]
    cluster_heap_gaps: NDArray[np.float32]
    spreads: NDArray[np.float32]
    bound_nodes: NDArray[np.int32]
    bounds: NDArray[np.float32]
    kept: NDArray[np.int64]
    addresses: NDArray[np.int64]
    scan: NDArray[np.int64]
    """int64 [N_SCAN]: of a scan of clusters."""


class Wish(NamedTuple):
    """What every query of a call asks."""

    mode: Int
    ef: Int
    n_seeds: Int
    n_candidates: Int
    k: Int
    n_matching: Int


# fmt: off
@inner()
def search_of(scratch: NDArray[np.int64]) -> SearchView:
    """Return the walk's buffers of a scratch's pack."""
    return SearchView(
        flat(scratch, 0, np.int64), flat(scratch, 1, np.int64), flat(scratch, 2, np.int32),
        flat(scratch, 3, np.float32), flat(scratch, 4, np.int32), flat(scratch, 5, np.float32),
        flat(scratch, 6, np.int32), flat(scratch, 7, np.uint32), flat(scratch, 8, np.int32),
        flat(scratch, 9, np.int32), grid(scratch, 10, np.uint8), flat(scratch, 11, np.int32),
        flat(scratch, 12, np.int32), flat(scratch, 13, np.int64),
    )


@inner()
def tile_of(scratch: NDArray[np.int64]) -> TileView:
    """Return the queries made ready, and the buffers of their scans, of a scratch's pack."""
    return TileView(
        grid(scratch, 15, np.uint64), grid(scratch, 16, np.float32), grid(scratch, 17, np.int32),
        grid(scratch, 18, np.float32), grid(scratch, 19, np.int32), grid(scratch, 20, np.float32),
        grid(scratch, 21, np.int64), flat(scratch, 22, np.int64), grid(scratch, 23, np.float32),
        flat(scratch, 24, np.float32), flat(scratch, 25, np.float32),
    )


@inner()
def buffers_of(scratch: NDArray[np.int64]) -> Buffers:
    """Return the other buffers of a scratch's pack."""
    return Buffers(
        flat(scratch, 26, np.float32), flat(scratch, 27, np.int32), flat(scratch, 28, np.float32),
        flat(scratch, 29, np.float32), flat(scratch, 30, np.int32), flat(scratch, 31, np.float32),
        flat(scratch, 32, np.int64), flat(scratch, 33, np.int64), flat(scratch, 34, np.int64),
    )


@inner()
def tables_of(held: NDArray[np.int64]) -> TableView:
    """Return the tables of a shard's pack."""
    numbers = held[WORDS * N_HELD :]
    return TableView(
        flat(held, 0, np.int64), flat(held, 1, np.int64), numbers[0], numbers[1], numbers[2], True
    )


@inner()
def shard_of(held: NDArray[np.int64]) -> ShardView:
    """Return what a shard's pack holds beside its tables."""
    numbers = held[WORDS * N_HELD :]
    return ShardView(
        flat(held, 2, np.int32), flat(held, 3, np.int64), grid(held, 4, np.int32), grid(held, 5, np.uint8),
        numbers[3], numbers[4], grid(held, 6, np.float32), flat(held, 12, np.float32),
        flat(held, 7, np.int64), numbers[8],
        flat(held, 11, np.int64), numbers[9],
        flat(held, 8, np.float32), flat(held, 9, np.float32), grid(held, 10, np.float32),
        numbers[5], numbers[6], numbers[7],
    )
# fmt: on
