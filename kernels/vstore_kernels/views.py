"""The arrays of a search bundled by owner, for the kernels to hand to each other."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vstore_kernels.jit import Int
from vstore_kernels.pack_views import PackView, flat_at, grid_at

SIZE: Final = 0
CURRENT: Final = 1
EF: Final = 2
MODE: Final = 3
EPOCH: Final = 4
N_SEEDS: Final = 5
HEAP_SIZE: Final = 6
N_STATE: Final = 8


class SearchView(PackView):
    """The arrays of a `SearchScratch`; all are mutated by the kernels."""

    __slots__ = ()

    state = flat_at(0, np.int64)
    """int64 [N_STATE], at the positions above."""
    counters = flat_at(1, np.int64)
    """int64 [N_COUNTERS]."""
    beam_nodes = flat_at(2, np.int32)
    """int32 [>= ef]."""
    beam_distances = flat_at(3, np.float32)
    """float32 [>= ef]."""
    heap_nodes = flat_at(4, np.int32)
    """int32 [>= n], the frontier of HNSW_RESULT_FILTER; else empty."""
    heap_distances = flat_at(5, np.float32)
    """float32, as long as heap_nodes."""
    seeds = flat_at(6, np.int32)
    """int32 [>= n_seeds], not scored yet."""
    visited = flat_at(7, np.uint32)
    """uint32 [>= n], the stamp of the search that last met each node."""
    buffer = flat_at(8, np.int32)
    """int32 [>= 2 M0 + MAX_TWO_HOP_FOUND], nodes to score."""
    failing = flat_at(9, np.int32)
    """int32 [>= M0], failing neighbours of a node."""
    wanted = grid_at(10, np.uint8)
    """uint8 [2, >= n_blocks], zero between calls: lists and codes already among the needs."""
    need_lists = flat_at(11, np.int32)
    """int32 [>= n_blocks]."""
    need_codes = flat_at(12, np.int32)
    """int32 [>= n_blocks]."""
    n_needs = flat_at(13, np.int64)
    """int64 [2], the lengths of the two."""


class TableView(NamedTuple):
    """What `BlockTables` holds; read only."""

    lists: NDArray[np.int64]
    """int64 [n_blocks], addresses of int32 [rows, M0]; 0 where absent."""
    codes: NDArray[np.int64]
    """int64 [n_blocks], addresses of uint8 [rows, row_bytes]; 0 where absent."""
    block_shift: Int
    M0: Int
    row_bytes: Int
    resident: bool
    """Every block is there, so none needs checking."""
