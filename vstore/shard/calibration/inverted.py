"""Recall of a scan of the nearest clusters against the rows it looks at: counted from the truth, no search.

A passing row is seen when fewer passing rows than the budget lie before it, clusters in the order of their
distance from the query and rows in the order of their ids. So one pass over the true neighbours of a question
gives the recall of every budget at once, and the curve costs next to nothing to measure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from vstore.shard.calibration.curves import CLUSTERS, KS, Curve, Walk
from vstore.shard.calibration.guide import Guide
from vstore.shard.calibration.truth import Question, lowered
from vstore.types import Bitmap, Float32s, Float64s, Int32s, Int64s
from vstore_kernels import bitmap
from vstore_kernels.clusters import nearest_clusters

LEAST_BUDGET: Final = 32
_STEP: Final = 2**0.5


def budgets(n_passing: int) -> Int64s:
    """Return the budgets that a curve is measured at: ascending, a factor of about 1.4 apart, up to all."""
    n_steps = int(np.ceil(np.log(max(n_passing / LEAST_BUDGET, 1.0)) / np.log(_STEP)))
    ladder = np.rint(LEAST_BUDGET * _STEP ** np.arange(n_steps + 1)).astype(np.int64)
    return np.unique(np.minimum(ladder, max(n_passing, 1)))


class Reading:
    """How a scan reads the clusters for queries under filters; a query's order is worked out once.

    Args:
        guide: the shard.
    """

    def __init__(self, guide: Guide) -> None:
        self._guide = guide
        self._orders: dict[int, tuple[Float32s, Int32s]] = {}
        self._of: Bitmap | None = None
        self._passing: Int64s | Int32s = np.arange(guide.n)
        self._first: Int64s = guide.cluster_offsets

    def places(self, question: Question) -> Int64s:
        """Return int64[t]: how many passing rows are read before each of the question's rows."""
        self._filter(question.passing)
        order = self._order(question.query)
        before = np.zeros(len(order), np.int64)
        before[order[1:]] = np.cumsum(np.diff(self._first)[order])[:-1]
        own = np.searchsorted(self._guide.cluster_offsets, question.rows, side="right") - 1
        places: Int64s = (before - self._first[:-1])[own] + np.searchsorted(self._passing, question.rows)
        return places

    def _filter(self, passing: Bitmap | None) -> None:
        """Have the passing rows and the first of each cluster at hand: questions come filter by filter."""
        if passing is self._of:
            return
        self._of = passing
        self._passing = np.arange(self._guide.n) if passing is None else bitmap.indices(passing)
        self._first = np.searchsorted(self._passing, self._guide.cluster_offsets)

    def _order(self, query: Float32s) -> Int32s:
        # The query is kept beside its order, so that no other takes its identity.
        known = self._orders.get(id(query))
        if known is None:
            known = query, nearest_clusters(query, self._guide.centroids, self._guide.metric)
            self._orders[id(query)] = known
        return known[1]


def climb(
    guide: Guide,
    walk: Walk,
    share: float,
    questions: Sequence[Question],
    confidence: float,
    reading: Reading | None = None,
) -> Curve:
    """Return the curve of one kind of question; its `ef` and `n_seeds` are the budget.

    Args:
        guide: the shard.
        walk: the kind of filter: "none", "far" or "islands".
        share: of all rows that the filters pass.
        questions: of this kind, at least one.
        confidence: standard errors by which a mean is lowered.
        reading: of the shard, if there is one from other curves.
    """
    reading = reading or Reading(guide)
    ladder = budgets(max(question.n_passing or guide.n for question in questions))
    found = np.stack([seen(reading, question, ladder) for question in questions])
    recall = lowered(found, confidence)
    # All rows looked at miss none.
    recall[-1] = 1.0
    counts = np.zeros((len(ladder), 4), np.float32)
    counts[:, 0] = ladder + len(guide.centroids)
    widths = ladder.astype(np.int32)
    return Curve(CLUSTERS[walk], share, widths, widths.copy(), recall.astype(np.float32), counts)


def seen(reading: Reading, question: Question, ladder: Int64s) -> Float64s:
    """Return float64[len(ladder), len(KS)]: the share of the true k among the first rows looked at.

    Args:
        reading: of the shard.
        question: of any kind.
        ladder: int64[b], how many rows are looked at.
    """
    if not len(question.rows):
        return np.ones((len(ladder), len(KS)))
    early = reading.places(question) < ladder[:, None]
    near = question.keys[:, None] <= question.limits
    shares: Float64s = np.minimum(early.astype(np.float32) @ near.astype(np.float32), question.n_true)
    return shares / question.n_true
