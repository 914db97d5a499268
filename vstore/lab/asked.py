"""What a cell asks: its queries in their order, the rows that pass for each, and how near the truth lies.

Worked out once for a cell, whatever traversals are run over it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vstore.lab.driver import QueryTrace
from vstore.lab.index import LabIndex
from vstore.lab.workload import Filters, Workload, stream_of
from vstore.types import Bitmap, Float32s
from vstore_kernels import bitmap
from vstore_kernels.distance import exact_distances
from vstore_kernels.scan import topk


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """One query of a stream."""

    query: Float32s
    """float32[d], raw."""
    passing: Bitmap | None
    """By node id; None: all rows pass."""
    wanted: int
    """How many rows there are to find: k, or as many as pass."""
    farthest: float
    """The exact distance of the last of them."""

    def recall(self, trace: QueryTrace) -> float:
        """Return the share of the rows wanted that were found, by distance: ties count."""
        if self.wanted == 0:
            return 1.0
        near = np.count_nonzero(trace.distances <= self.farthest * (1 + 1e-5) + 1e-6)
        return float(near / self.wanted)


def asked_of(
    workload: Workload, index: LabIndex, queries: Float32s, n_queries: int, k: int, seed: int
) -> list[Asked]:
    """Return the stream of a workload over an index, `n_queries` long.

    Args:
        workload: which filters, and which queries when.
        index: in whose numbering rows pass.
        queries: float32[m, d], of the data set.
        n_queries: of the stream.
        k: rows wanted of each.
        seed: of the draws.
    """
    filters = Filters(workload, index, seed)
    found = []
    for place, number in enumerate(stream_of(workload, queries, index, n_queries, seed).tolist()):
        passing = filters.of(place, queries[number])
        nodes = np.arange(index.n, dtype=np.int32) if passing is None else bitmap.indices(passing)
        wanted = min(k, len(nodes))
        farthest = 0.0
        if wanted:
            exact = exact_distances(queries[number], index.vectors, nodes, index.metric)
            farthest = float(exact[topk(exact, wanted)[-1]])
        found.append(Asked(queries[number], passing, wanted, farthest))
    return found
