"""How good a ranking is, against judgments: nDCG, reciprocal rank, recall, precision; and intervals.

Definitions as TREC's: a gain above 0 is relevant, a document that nobody judged is not, and queries without
a relevant document count 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Judgments = Mapping[Any, float]
"""Gain by document id; absent is 0."""
Float64s = npt.NDArray[np.float64]


def ndcg(ranked: Sequence[Any], judged: Judgments, k: int = 10) -> float:
    """Return nDCG@k with linear gains (Järvelin & Kekäläinen 2002, as trec_eval computes it)."""
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    got = np.array([max(judged.get(document, 0.0), 0.0) for document in ranked[:k]], dtype=np.float64)
    best = np.array(sorted((g for g in judged.values() if g > 0), reverse=True)[:k], dtype=np.float64)
    ideal = float(best @ discounts[: len(best)])
    return float(got @ discounts[: len(got)]) / ideal if ideal > 0 else 0.0


def reciprocal_rank(ranked: Sequence[Any], judged: Judgments, k: int | None = None) -> float:
    """Return 1 / the place, from 1, of the first relevant document in the first k; 0 for none."""
    for place, document in enumerate(ranked[:k], 1):
        if judged.get(document, 0.0) > 0:
            return 1.0 / place
    return 0.0


def recall(ranked: Sequence[Any], judged: Judgments, k: int | None = None) -> float:
    """Return the share of the relevant documents that stand among the first k."""
    n_relevant = sum(gain > 0 for gain in judged.values())
    found = sum(judged.get(document, 0.0) > 0 for document in ranked[:k])
    return found / n_relevant if n_relevant else 0.0


def average_precision(ranked: Sequence[Any], judged: Judgments, k: int | None = None) -> float:
    """Return the mean, over the relevant documents, of the precision at their places; 0 where not found."""
    n_relevant = sum(gain > 0 for gain in judged.values())
    found, total = 0, 0.0
    for place, document in enumerate(ranked[:k], 1):
        if judged.get(document, 0.0) > 0:
            found += 1
            total += found / place
    return total / n_relevant if n_relevant else 0.0


def paired_interval(
    differences: Sequence[float] | Float64s, *, n_samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of a mean of paired differences, by bootstrap.

    Percentile intervals: Efron & Tibshirani 1993, chapter 13.

    Args:
        differences: float64[n], one a query.
        n_samples: resamples of n queries with replacement.
        seed: of the resampling.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not len(values):
        return (float("nan"), float("nan"))
    rows = np.random.default_rng(seed).integers(0, len(values), size=(n_samples, len(values)))
    low, high = np.percentile(values[rows].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def changes(before: Sequence[float], after: Sequence[float]) -> tuple[int, int, int]:
    """Return (queries helped, hurt, unchanged) of a metric before and after."""
    difference = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    helped, hurt = int((difference > 1e-9).sum()), int((difference < -1e-9).sum())
    return helped, hurt, len(difference) - helped - hurt
