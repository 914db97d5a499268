"""Measured curves of recall and cost against search width, and the widths that a wanted recall reads from
them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from vstore.shard.calibration import costs
from vstore.types import Float32s, Int32s, Metric
from vstore_kernels.near import novelty
from vstore_kernels.sums import row_squares

KS: Final = (10, 50, 100)
"""Recall is measured for these k. Smaller ones are read off the first, greater ones wider than the
last."""
OVERSAMPLING: Final = (1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
"""Candidates re-scored for one answer, for which the loss is measured."""
FEW: Final = 4
"""For k below the first of KS the recall wanted of its curve misses this many times less."""
LOSSES: Final = ("usual", "strange", "far")
"""Kinds of question for which the loss is measured: queries like the rows, unlike them, and filters that
pass rows
far from the query, whose distances differ least."""
COARSE_CENTROIDS: Final = 64
"""A query is compared with at most this many centroids to tell whether it is like the shard's rows."""

Walk = Literal[
    "hnsw",
    "strange",
    "none",
    "far",
    "islands",
    "near",
    "none:clusters",
    "far:clusters",
    "islands:clusters",
    "near:clusters",
]
WALKS: Final[tuple[Walk, ...]] = get_args(Walk)
"""What a curve was measured on: unfiltered queries like the rows; unfiltered ones unlike them; ACORN under
filters that pass rows at random; far from the query; in clusters that are not the query's own; and a scan of
the nearest clusters under the same three and under filters that pass the rows nearest to the query; the width
of a scan is the passing rows that it looks at in any case."""


SHARES: Final[dict[Walk, tuple[float, ...]]] = {
    "none": (0.2, 0.05, 0.01),
    "far": (0.5, 0.2, 0.05, 0.01),
    "islands": (0.5, 0.2, 0.05, 0.01),
}
"""The shares of rows that filters of each kind let pass."""
CLUSTERS: Final[dict[Walk, Walk]] = {
    "none": "none:clusters",
    "far": "far:clusters",
    "islands": "islands:clusters",
    "near": "near:clusters",
}
"""The name of the cluster scan's curve under each kind of filter."""
CLUSTER_SHARES: Final[dict[Walk, tuple[float, ...]]] = {**SHARES, "near": (0.5, 0.2, 0.05, 0.01)}
"""As SHARES, for scans of clusters."""


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One traversal measured under one kind of filter at growing widths.

    `ef` and `n_seeds` are int32[r], ascending; `recall` float32[r, len(KS)] is the lower bound of the share
    of the
    true k that the beam holds; `counts` float32[r, 4] the mean n_distances, n_hops, n_filter_checks, n_lists.
    """

    walk: Walk
    share: float
    """The share of all rows that the filter passed."""
    ef: Int32s
    n_seeds: Int32s
    recall: Float32s
    counts: Float32s

    def width(self, recall: float, k: int) -> float | None:
        """Return the beam width at which `recall` of the true k was found, or None where it never was."""
        if k > KS[-1]:
            least = self._width_at(recall, len(KS) - 1)
            return None if least is None else least * k / KS[-1]
        above = next(i for i, measured in enumerate(KS) if k <= measured)
        wide = self._width_at(recall, above)
        if k < KS[0]:
            # One neighbour is found or not, and copies of rows make ten look easier than they are.
            fewer = self._width_at(1 - (1 - recall) / FEW, 0)
            return float(self.ef[-1]) if fewer is None and wide is not None else fewer
        if wide is None or KS[above] == k:
            return wide
        narrow = self._width_at(recall, above - 1)
        if narrow is None:
            return wide
        part = (k - KS[above - 1]) / (KS[above] - KS[above - 1])
        return max(narrow + part * (wide - narrow), min(narrow, wide))

    def _width_at(self, recall: float, column: int) -> float | None:
        # Recall grows ever more slowly with the width, so a straight line between two rungs lies below it.
        reached = np.maximum.accumulate(self.recall[:, column])
        at = int(np.searchsorted(reached, recall, side="left"))
        if at == len(reached):
            return None
        if at == 0:
            return float(self.ef[0])
        low, high = float(reached[at - 1]), float(reached[at])
        part = (recall - low) / (high - low)
        return float(self.ef[at - 1] + part * (self.ef[at] - self.ef[at - 1]))

    def seeds(self, ef: float) -> int:
        """Return how many seeds go with a beam width."""
        return int(np.ceil(np.interp(ef, self.ef, self.n_seeds)))

    def cost_ns(self, ef: float, row_bytes: int) -> float:
        """Return what a search of this width takes; beyond the widest measured it grows with the width."""
        last = float(self.ef[-1])
        grown = max(ef / last, 1.0)
        counts = [float(np.interp(ef, self.ef, self.counts[:, i])) * grown for i in range(4)]
        return costs.walk_ns(counts, row_bytes)


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What was measured of one shard while it was built."""

    n_queries: int
    """Held-out rows that served as queries."""
    curves: tuple[Curve, ...]
    lost: Float32s
    """float32[len(KS), len(OVERSAMPLING)]: the share of the true k whose estimate ranks too low to be
    re-scored."""
    row_bytes: int
    """Bytes of a row's code."""
    centroid_bytes: int
    """Bytes of all centroids, which ordering the clusters reads."""
    novel_beyond: float
    """The novelty that one in twenty held-out rows exceeds: see `Coarse`."""
    code_recall: tuple[tuple[int, float], ...] = ()
    """(bits, recall@10 of guide and exact re-score at bounded candidates) for each width of codes tried."""

    def of(self, walk: Walk) -> tuple[Curve, ...]:
        """Return the curves of one kind, by ascending share of passing rows."""
        return tuple(sorted((c for c in self.curves if c.walk == walk), key=lambda c: c.share))


class Coarse:
    """Tells how much a query is like a shard's rows, by a few of its centroids.

    Neighbours in the chain of clusters are near each other, so a stride over it covers the shard. Rows lie
    near one of
    these centroids and far from most; the novelty of a query is its squared distance to the nearest over the
    mean
    squared distance. Directions alone count under cosine and dot.

    Args:
        centroids: float32[K, d'], of the shard; d' is d, or d + 1 under dot.
        metric: the collection's.
    """

    def __init__(self, centroids: Float32s, metric: Metric) -> None:
        stride = -(-len(centroids) // COARSE_CENTROIDS)
        self.numbers = np.arange(len(centroids), dtype=np.int64)[stride // 2 :: stride].copy()
        """int64[C], which of the centroids."""
        coarse = centroids[self.numbers]
        self.scales = np.ones(len(coarse), np.float32)
        """float32[C], what brings them to what is compared: under dot, to unit length."""
        if metric == "dot":
            coarse = coarse[:, :-1]
            norms = np.sqrt(np.einsum("ij,ij->i", coarse, coarse))
            self.scales = np.asarray(1 / np.where(norms == 0, 1, norms), np.float32)
        self.directions = metric != "l2"
        self.centroids = np.ascontiguousarray(coarse * self.scales[:, None], np.float32)
        """float32[C, d]; as they are, or under dot of unit length."""
        self._squares = row_squares(self.centroids, self.centroids.shape[1])

    def novelty(self, queries: Float32s) -> Float32s:
        """Return float32[m] for queries (float32[m, d], raw)."""
        return novelty(np.ascontiguousarray(queries), self.centroids, self._squares, self.directions)

    def novelty_of(self, query: Float32s) -> float:
        """Return `novelty` of one query (float32[d], raw)."""
        return float(self.novelty(query.reshape(1, -1))[0])
