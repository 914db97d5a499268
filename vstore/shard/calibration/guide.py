"""A shard under construction, as the measurement searches it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from vstore.traverse.scratch import POOL
from vstore.types import Bitmap, Float32s, Int32s, Int64s, Metric, UInt8s
from vstore_kernels import layout, search
from vstore_kernels.acorn import pick_seeds
from vstore_kernels.build import HNSWGraph
from vstore_kernels.clusters import nearest_clusters
from vstore_kernels.codes import CodeParams, prepare_query

COUNTED = (layout.N_DISTANCES, layout.N_HOPS, layout.N_FILTER_CHECKS, layout.N_LISTS)
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

    def walk(self, query: Float32s, ef: int) -> tuple[Int32s, Int64s]:
        """Return the beam (int32[<= ef], nearest first) of an unfiltered search, and the counters
        (COUNTED)."""
        code = prepare_query(query, self.params)
        counters = np.zeros(layout.N_COUNTERS, np.int64)
        entry = search.descend(code, self._upper_codes, self._upper, counters)
        with POOL.lend() as scratch:
            search.begin(scratch, self.tables, np.array([entry], np.int32), ef, layout.HNSW)
            search.step(scratch, self.tables, code, None)
            return search.results(scratch)[0], (counters + scratch.counters)[list(COUNTED)]

    def walk_filtered(self, query: Float32s, passing: Bitmap, ef: int, n_seeds: int) -> tuple[Int32s, Int64s]:
        """As `walk`, by cluster-seeded ACORN among the rows of `passing`."""
        order = nearest_clusters(query, self.centroids, self.metric)
        seeds = pick_seeds(order, self.cluster_offsets, passing, n_seeds)
        if not len(seeds):
            return seeds, np.zeros(len(COUNTED), np.int64)
        code = prepare_query(query, self.params)
        with POOL.lend() as scratch:
            search.begin(scratch, self.tables, seeds, ef, layout.ACORN)
            search.step(scratch, self.tables, code, passing)
            return search.results(scratch)[0], scratch.counters[list(COUNTED)].copy()
