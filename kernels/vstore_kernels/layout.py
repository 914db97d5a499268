"""Sentinels, limits, statuses, modes and counter positions that kernels and callers share."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

NO_NODE: Final = -1
"""Fills the unused tail of a neighbour row (int32)."""
MAX_NODES: Final = (1 << 31) - 1
"""A shard's node ids are int32."""
BLOCK_SHIFT: Final = 10
"""Default log2 of the rows of a block."""

DONE: Final = 0
"""`step` finished: `results` holds the answer."""
NEEDS: Final = 1
"""`step` stopped: `needs_lists` and `needs_codes` name the blocks that it lacks."""

HNSW: Final = 0
"""Walk every node; a beam of ef nodes is the answer."""
HNSW_RESULT_FILTER: Final = 1
"""Walk every node; the best ef passing nodes are kept apart (as hnswlib's filter)."""
ACORN: Final = 2
"""The beam holds passing nodes only; failing ones are crossed by two-hop expansion."""
MODES: Final = (HNSW, HNSW_RESULT_FILTER, ACORN)
SCAN: Final = 3
"""Score the codes of every passing node: no walk; for `answer` only."""
CLUSTERS: Final = 4
"""Score the codes of passing nodes in the clusters nearest to the query (`near_scan`); for `answer` only."""

ANSWERED: Final = 0
"""Status of a query that `answer` answered."""
LACKS_VECTORS: Final = 1
"""`answer` needs an exact vector that is not resident; it wrote nothing for the query."""
TOO_FEW: Final = 2
"""The graph led to fewer nodes than match and were wanted; a scan finds them all."""

N_DISTANCES: Final = 0
N_HOPS: Final = 1
N_FILTER_CHECKS: Final = 2
N_LISTS: Final = 3
N_TWO_HOPS: Final = 4
N_STOPS: Final = 5
N_RESCORED: Final = 6
N_SKIPPED: Final = 7
N_COUNTERS: Final = 8

F_BASE: Final = 0
F_SCALE: Final = 1
F_SHIFT: Final = 2
F_BIAS: Final = 3
F_AT_ZERO: Final = 4
F_GROWTH: Final = 5
F_STEP_ERROR: Final = 6
N_FACTORS: Final = 8
"""Places of a prepared query's factors: what turns an integer dot product into a distance and its error."""

METRICS: Final = ("l2", "cosine", "dot")
MAX_TWO_HOP_FOUND: Final = 32
"""A two-hop expansion stops looking once it found this many passing nodes."""
MAX_BEAM: Final = 1 << 20


def n_blocks(n: int, block_shift: int = BLOCK_SHIFT) -> int:
    """Return the number of blocks of `1 << block_shift` rows that hold `n` rows."""
    return (n + (1 << block_shift) - 1) >> block_shift


def blocks_of(node_ids: NDArray[np.integer], block_shift: int = BLOCK_SHIFT) -> NDArray[np.int32]:
    """Return the ascending, distinct block numbers (int32) that hold `node_ids` (integers [m])."""
    return np.unique(np.asarray(node_ids) >> block_shift).astype(np.int32)
