"""A shard under construction, as the measurement searches it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np

from vstore.traverse.scratch import ScratchPool
from vstore.types import Bitmap, Float32s, Int32s, Int64s, Metric, UInt8s
from vstore_kernels import layout, search
from vstore_kernels.answer import AnswerScratch, ResidentShard, answer
from vstore_kernels.build import HNSWGraph
from vstore_kernels.codes import CodeParams

SCRATCH: Final = ScratchPool(AnswerScratch)
"""Kernel memory of measurements, one a thread."""
COUNTED: Final = (layout.N_DISTANCES, layout.N_HOPS, layout.N_FILTER_CHECKS, layout.N_LISTS)
"""The counters that cost is reckoned from."""


@dataclass(eq=False)
class Guide:
    """Rows in cluster order, the graph built so far, and codes.

    `vectors` float32[n, d] as upserted; `space` float32[n, d'] as the graph was built on; `encoded` uint8[n,
    row_bytes];
    `centroids` float32[K, d']; `cluster_offsets` int64[K + 1].
    """

    vectors: Float32s
    space: Float32s
    metric: Metric
    graph: HNSWGraph
    params: CodeParams
    encoded: UInt8s
    centroids: Float32s
    cluster_offsets: Int64s
    tables: search.BlockTables = field(init=False)

    def __post_init__(self) -> None:
        self.tables = search.BlockTables.of_arrays(self.graph.neighbors, self.encoded)
        self._upper = self.graph.upper
        self._upper_codes = np.ascontiguousarray(self.encoded[self.graph.upper_nodes])
        stride = self.vectors.strides[0] << layout.BLOCK_SHIFT
        blocks = np.arange(layout.n_blocks(self.n), dtype=np.int64)
        self._resident = ResidentShard(
            self.tables,
            self._upper,
            self._upper_codes,
            self.centroids,
            self.cluster_offsets,
            self.params,
            self.vectors.ctypes.data + blocks * stride,
            layout.BLOCK_SHIFT,
        )

    @property
    def n(self) -> int:
        """Rows, held-out ones included."""
        return len(self.vectors)

    @cached_property
    def points(self) -> tuple[Float32s, Float32s]:
        """float32[n, d] and float32[n]: a row's key is its bias plus a multiple of its product with the
        query."""
        if self.metric == "l2":
            return self.vectors, np.einsum("ij,ij->i", self.vectors, self.vectors)
        return self.vectors if self.metric == "dot" else self.space, np.zeros(self.n, np.float32)

    @cached_property
    def magnitude(self) -> float:
        """About the greatest number that a key is the difference of."""
        points, _ = self.points
        return float(np.einsum("ij,ij->i", points, points).max())

    def walk(self, queries: Float32s, ef: int) -> list[Int32s]:
        """Return the beam (int32[<= ef], nearest by estimate first) of each unfiltered search."""
        return self._estimated(queries, None, self.n, layout.HNSW, ef)

    def nearest(
        self, queries: Float32s, passing: Bitmap | None, n_passing: int, ef: int, n_seeds: int, most: int
    ) -> tuple[Int32s, Int64s]:
        """Search for `queries` (float32[m, d], raw) with beams of `ef`, all of which are scored exactly.

        Args:
            queries: of one filter.
            passing: uint64 bitmap for cluster-seeded ACORN, or None for an unfiltered walk.
            n_passing: rows that pass.
            ef: beam width.
            n_seeds: of ACORN.
            most: answers wanted, if the beam holds so many.

        Returns:
            int32[m, min(most, ef)] node ids, nearest first, -1 padded, and int64[m, 4] counters (COUNTED).
        """
        mode = layout.HNSW if passing is None else layout.ACORN
        ids, counters = self._ask(
            queries,
            passing,
            n_passing,
            mode,
            ef=ef,
            n_seeds=max(n_seeds, 1),
            n_candidates=ef,
            k=min(most, ef),
        )
        return ids, counters[:, COUNTED]

    def scan(self, queries: Float32s, passing: Bitmap, n_passing: int, top: int) -> list[Int32s]:
        """Return for each query the `top` rows of `passing` (int32[<= top]) whose codes are nearest."""
        return self._estimated(queries, passing, n_passing, layout.SCAN, top)

    def _estimated(
        self, queries: Float32s, passing: Bitmap | None, n_passing: int, mode: int, top: int
    ) -> list[Int32s]:
        ids, _ = self._ask(queries, passing, n_passing, mode, ef=top, n_seeds=1, n_candidates=0, k=top)
        return [row[row != layout.NO_NODE] for row in ids]

    def _ask(
        self, queries: Float32s, passing: Bitmap | None, n_passing: int, mode: int, **wish: Any
    ) -> tuple[Int32s, Int64s]:
        m, k = len(queries), wish["k"]
        ids, distances = np.full((m, k), layout.NO_NODE, np.int32), np.empty((m, k), np.float32)
        counters, status = np.zeros((m, layout.N_COUNTERS), np.int64), np.zeros(m, np.uint8)
        with SCRATCH.lend() as scratch:
            answer(
                self._resident,
                queries,
                passing,
                mode,
                **wish,
                n_matching=n_passing,
                scratch=scratch,
                out_ids=ids,
                out_distances=distances,
                counters=counters,
                status=status,
            )
        return ids, counters
