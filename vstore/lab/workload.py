"""Filter workloads: which query comes when, and which rows pass its filter. All of it from seeds.

A filter passes a share of the rows (its selectivity) that lies about the query as `correlation` says:
"none", drawn over all rows; "near" or "far", drawn among four times as many rows of the clusters nearest
to the query, or farthest from it. `attributes` above 1 makes it a conjunction of as many independent
conditions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from vstore.lab.index import LabIndex
from vstore.settings import require
from vstore.types import Bitmap, Bools, Float32s, Int64s
from vstore_kernels import bitmap
from vstore_kernels.clusters import nearest_clusters

CORRELATIONS: Final = ("near", "none", "far")
STREAMS: Final = ("uniform", "skewed", "shifting")
_SPREAD: Final = 4
_TOPICS: Final = 16
_ZIPF: Final = 1.2


@dataclass(frozen=True, slots=True)
class Workload:
    """One cell of the grid.

    Raises:
        InvalidSetting: a share outside 0 to 1, an unknown correlation or stream, a count below 1.
    """

    selectivity: float = 0.1
    """Share of passing rows; 1: no filter."""
    correlation: str = "none"
    attributes: int = 1
    """Conditions of the conjunction; under "none" only."""
    n_filters: int = 0
    """So many filters are drawn once and used again and again; 0: each query has its own."""
    stream: str = "uniform"
    """"skewed": queries of popular topics come more often; "shifting": which are popular changes."""
    shift_every: int = 100
    """Queries after which a shifting stream moves on."""

    def __post_init__(self) -> None:
        require(0 < self.selectivity <= 1, f"selectivity is {self.selectivity}; it must be in (0, 1]")
        require(
            self.correlation in CORRELATIONS,
            f"correlation is {self.correlation!r}; it must be one of {', '.join(CORRELATIONS)}",
        )
        require(self.stream in STREAMS, f"stream is {self.stream!r}; it must be one of {', '.join(STREAMS)}")
        require(
            self.attributes >= 1 and self.shift_every >= 1 and self.n_filters >= 0,
            f"attributes is {self.attributes}, shift_every {self.shift_every}, n_filters {self.n_filters}; "
            "1, 1 and 0 at least are needed",
        )
        require(
            self.correlation == "none" or (self.attributes == 1 and self.n_filters == 0),
            "filters that correlate with each query are its own, of one attribute: "
            "leave attributes at 1 and n_filters at 0, or correlation at 'none'",
        )

    @property
    def name(self) -> str:
        """What tables call it."""
        parts = [f"{self.selectivity:.2%}".rstrip("%").rstrip("0").rstrip(".") + "%", self.correlation]
        parts += [f"{self.attributes} attributes"] if self.attributes > 1 else []
        parts += [f"{self.n_filters} filters"] if self.n_filters else []
        parts += [self.stream] if self.stream != "uniform" else []
        return " ".join(parts)


def stream_of(workload: Workload, queries: Float32s, index: LabIndex, n: int, seed: int) -> Int64s:
    """Return int64[n]: which of `queries` (float32[m, d]) comes when."""
    rng = np.random.default_rng((seed, 1))
    if workload.stream == "uniform":
        return np.resize(rng.permutation(len(queries)), n).astype(np.int64)
    nearest = [nearest_clusters(query, index.centroids, index.metric)[0] for query in queries]
    # Clusters are chained: near ones have near numbers, so a run of them is a topic.
    topics = np.array(nearest) * _TOPICS // len(index.centroids)
    present = np.unique(topics)
    ranks = rng.permutation(len(present))
    weights = 1.0 / np.arange(1, len(present) + 1) ** _ZIPF
    out = np.empty(n, np.int64)
    for i in range(n):
        turn = i // workload.shift_every if workload.stream == "shifting" else 0
        place = rng.choice(len(present), p=weights / weights.sum())
        topic = present[ranks[(place + turn) % len(present)]]
        out[i] = rng.choice(np.flatnonzero(topics == topic))
    return out


class Filters:
    """The filters of a workload over an index.

    Args:
        workload: which.
        index: whose rows they pass, in its numbering.
        seed: of the draws, which are by data set row: the same rows pass whatever the id order.
    """

    def __init__(self, workload: Workload, index: LabIndex, seed: int) -> None:
        self._workload, self._index, self._seed = workload, index, seed
        self._known: dict[int, Bitmap] = {}

    def of(self, place: int, query: Float32s) -> Bitmap | None:
        """Return the rows that pass for the query (float32[d]) at a place of the stream; None for all."""
        workload = self._workload
        if workload.selectivity == 1:
            return None
        number = place
        if workload.n_filters:
            number = int(np.random.default_rng((self._seed, 2, place)).integers(workload.n_filters))
            if number not in self._known:
                self._known[number] = self._pack(self._drawn(number))
            return self._known[number]
        flags = self._drawn(number) if workload.correlation == "none" else self._near(number, query)
        return self._pack(flags)

    def _drawn(self, number: int) -> Bools:
        """Return bool[n] by data set row: a conjunction of equally selective conditions."""
        rng = np.random.default_rng((self._seed, 3, number))
        share = self._workload.selectivity ** (1 / self._workload.attributes)
        flags = np.ones(self._index.n, bool)
        for _ in range(self._workload.attributes):
            flags &= rng.random(self._index.n) < share
        return flags

    def _near(self, number: int, query: Float32s) -> Bools:
        """Return bool[n] by data set row: a share of the rows of the nearest, or farthest, clusters."""
        index, share = self._index, self._workload.selectivity
        order = nearest_clusters(query, index.centroids, index.metric)
        if self._workload.correlation == "far":
            order = order[::-1]
        sizes = np.bincount(index.cluster_of, minlength=len(index.centroids))[order]
        wanted = min(_SPREAD * share, 1.0) * index.n
        chosen = np.zeros(len(order), bool)
        chosen[order[: int(np.searchsorted(np.cumsum(sizes), wanted)) + 1]] = True
        rows = index.rows[chosen[index.cluster_of]]
        flags = np.zeros(index.n, bool)
        draws = np.random.default_rng((self._seed, 4, number)).random(index.n)
        flags[rows] = draws[rows] < share * index.n / len(rows)
        return flags

    def _pack(self, by_row: Bools) -> Bitmap:
        return bitmap.pack(by_row[self._index.rows])
