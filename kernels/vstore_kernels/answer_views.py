"""What `answer` hands to its kernel: bundles of arrays, and how they come out of packs (`packs`)."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vstore_kernels.jit import Int, inner
from vstore_kernels.pack_views import PackView, flat_at, grid_at, number_at
from vstore_kernels.packs import WORDS, flat
from vstore_kernels.views import TableView

N_HELD: Final = 13
"""Arrays of a shard's pack; ten numbers follow."""


class ShardView(PackView):
    """What a `ResidentShard` holds beside its tables; read only."""

    __slots__ = ()

    upper_nodes = flat_at(2, np.int32)
    upper_rows = flat_at(3, np.int64)
    upper_links = grid_at(4, np.int32)
    upper_codes = grid_at(5, np.uint8)
    entry_rank = number_at(N_HELD, 3)
    max_level = number_at(N_HELD, 4)
    centroids = grid_at(6, np.float32)
    squares = flat_at(12, np.float32)
    """float32 [K], of the centroids."""
    offsets = flat_at(7, np.int64)
    kind = number_at(N_HELD, 8)
    """Position in METRICS."""
    vectors = flat_at(11, np.int64)
    vector_shift = number_at(N_HELD, 9)
    center = flat_at(8, np.float32)
    scale = flat_at(9, np.float32)
    flips = grid_at(10, np.float32)
    bits = number_at(N_HELD, 5)
    width = number_at(N_HELD, 6)
    bias_at = number_at(N_HELD, 7)


class Buffers(PackView):
    """What an `AnswerScratch` holds beside its search and its tile; all are mutated."""

    __slots__ = ()

    rotated = flat_at(14, np.float32)
    cluster_gaps = flat_at(27, np.float32)
    cluster_heap = flat_at(28, np.int32)
    cluster_heap_gaps = flat_at(29, np.float32)
    spreads = flat_at(30, np.float32)
    bound_nodes = flat_at(31, np.int32)
    bounds = flat_at(32, np.float32)
    kept = flat_at(33, np.int64)
    addresses = flat_at(34, np.int64)
    scan = flat_at(35, np.int64)
    """int64 [N_SCAN]: of a scan of clusters."""


class Wish(NamedTuple):
    """What every query of a call asks."""

    mode: Int
    ef: Int
    n_seeds: Int
    n_candidates: Int
    k: Int
    n_matching: Int


@inner()
def tables_of(held: NDArray[np.int64]) -> TableView:
    """Return the tables of a shard's pack."""
    numbers = held[WORDS * N_HELD :]
    return TableView(
        flat(held, 0, np.int64), flat(held, 1, np.int64), numbers[0], numbers[1], numbers[2], True
    )
