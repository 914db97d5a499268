"""Data that the kernel tests share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vstore_kernels import build, clusters, codes, layout, search
from vstore_kernels.jit import DISABLE_JIT


def examples(compiled: int) -> int:
    """Hypothesis examples: fewer where the kernels run as plain Python."""
    return max(3, compiled // 10) if DISABLE_JIT else compiled


def clustered(n: int, d: int, seed: int = 0, n_clusters: int = 20, intrinsic: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    spread = rng.standard_normal((intrinsic, d))
    centers = rng.standard_normal((n_clusters, intrinsic)) * 1.5
    points = centers[rng.integers(0, n_clusters, n)] + rng.standard_normal((n, intrinsic))
    return (points @ spread + 0.2 * rng.standard_normal((n, d))).astype(np.float32)


def whole_numbers(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Vectors on which float32 sums are exact and codes lose nothing: integers with a range of +-127."""
    rng = np.random.default_rng(seed)
    out = rng.integers(-127, 128, (n, d)).astype(np.float32)
    out[0], out[-1] = -127, 127
    return out


@dataclass
class Shard:
    """A small shard in memory, with everything resident."""

    vectors: np.ndarray
    neighbors: np.ndarray
    upper: build.UpperLevels
    order: clusters.ClusterOrder
    params: codes.CodeParams
    codes: np.ndarray
    upper_codes: np.ndarray
    tables: search.BlockTables

    @classmethod
    def of(cls, vectors: np.ndarray, M: int = 8, ef: int = 40, block_shift: int = 4, rows: int = 64) -> Shard:
        order = clusters.cluster_order(vectors, rows)
        vectors = np.ascontiguousarray(vectors[order.order])
        graph = build.build_hnsw(vectors, M, ef)
        params = codes.train_codes(vectors, "l2")
        encoded = codes.encode(vectors, params)
        tables = search.BlockTables.of_arrays(graph.neighbors, encoded, block_shift)
        upper_codes = np.ascontiguousarray(encoded[graph.upper.nodes])
        return cls(vectors, graph.neighbors, graph.upper, order, params, encoded, upper_codes, tables)

    @property
    def n(self) -> int:
        return len(self.vectors)

    def empty_tables(self) -> search.BlockTables:
        own = self.tables
        return search.BlockTables(own.n, own.M0, own.row_bytes, own.block_shift)

    def rows_of(self, block: int) -> slice:
        size = 1 << self.tables.block_shift
        return slice(block * size, min((block + 1) * size, self.n))


def run(scratch, tables, code, seeds, ef, mode, passing=None):
    """Search with everything resident; (nodes, distances, counters)."""
    search.begin(scratch, tables, seeds, ef, mode)
    assert search.step(scratch, tables, code, passing) == layout.DONE
    return *search.results(scratch), scratch.counters.copy()
