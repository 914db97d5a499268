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
from vstore.types import Float64s, Int64s
from vstore_kernels import bitmap
from vstore_kernels.clusters import nearest_clusters

LEAST_BUDGET: Final = 32
_STEP: Final = 2**0.5


def budgets(n_passing: int) -> Int64s:
    """Return the budgets that a curve is measured at: ascending, a factor of about 1.4 apart, up to all."""
    n_steps = int(np.ceil(np.log(max(n_passing / LEAST_BUDGET, 1.0)) / np.log(_STEP)))
    ladder = np.rint(LEAST_BUDGET * _STEP ** np.arange(n_steps + 1)).astype(np.int64)
    return np.unique(np.minimum(ladder, max(n_passing, 1)))


def climb(
    guide: Guide,
    walk: Walk,
    share: float,
    questions: Sequence[Question],
    confidence: float,
) -> Curve:
    """Return the curve of one kind of question; its `ef` and `n_seeds` are the budget.

    Args:
        guide: the shard.
        walk: the kind of filter: "none", "far" or "islands".
        share: of all rows that the filters pass.
        questions: of this kind, at least one.
        confidence: standard errors by which a mean is lowered.
    """
    ladder = budgets(max(question.n_passing or guide.n for question in questions))
    found = np.stack([seen(guide, question, ladder) for question in questions])
    recall = lowered(found, confidence)
    # All rows looked at miss none.
    recall[-1] = 1.0
    counts = np.zeros((len(ladder), 4), np.float32)
    counts[:, 0] = ladder + len(guide.centroids)
    widths = ladder.astype(np.int32)
    return Curve(CLUSTERS[walk], share, widths, widths.copy(), recall.astype(np.float32), counts)


def seen(guide: Guide, question: Question, ladder: Int64s) -> Float64s:
    """Return float64[len(ladder), len(KS)]: the share of the true k among the first rows looked at.

    Args:
        guide: the shard.
        question: of any kind.
        ladder: int64[b], how many rows are looked at.
    """
    if not len(question.rows):
        return np.ones((len(ladder), len(KS)))
    offsets = guide.cluster_offsets
    passing = np.arange(guide.n) if question.passing is None else bitmap.indices(question.passing)
    first = np.searchsorted(passing, offsets)
    order = nearest_clusters(question.query, guide.centroids, guide.metric)
    before = np.zeros(len(order), np.int64)
    before[order[1:]] = np.cumsum(np.diff(first)[order])[:-1]
    own = np.searchsorted(offsets, question.rows, side="right") - 1
    places = before[own] + np.searchsorted(passing, question.rows) - first[own]
    out = np.empty((len(ladder), len(KS)))
    for column, (limit, n_true) in enumerate(zip(question.limits, question.n_true, strict=True)):
        near = np.sort(places[question.keys <= limit])
        out[:, column] = np.minimum(np.searchsorted(near, ladder), n_true) / n_true
    return out
