"""QPS at a given recall: the points of a sweep that none other beats, joined by log-linear interpolation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

Point = tuple[float, float]
"""(recall, queries per second)."""


def pareto(points: Iterable[Point]) -> list[Point]:
    """Return the points that none other matches in both recall and QPS, by ascending recall."""
    front: list[Point] = []
    for recall, qps in sorted(points, reverse=True):
        if not front or qps > front[-1][1]:
            front.append((recall, qps))
    return front[::-1]


def qps_at(points: Iterable[Point], recall: float) -> float | None:
    """Return the QPS at `recall`, or None where no point reaches it.

    Between the two points round it, log QPS is linear in recall. Where every point reaches it, the fastest
    counts: nothing is extrapolated.
    """
    front = pareto(points)
    above = [point for point in front if point[0] >= recall]
    if not above:
        return None
    below = [point for point in front if point[0] < recall]
    if not below:
        return above[0][1]
    low, high = below[-1], above[0]
    weight = (recall - low[0]) / (high[0] - low[0])
    return math.exp(math.log(low[1]) * (1 - weight) + math.log(high[1]) * weight)


def median_qps_at(sweeps: Sequence[Sequence[Point]], recall: float) -> float | None:
    """Return the median over repeats of `qps_at`; None where most repeats do not reach the recall."""
    reached = [value for sweep in sweeps if (value := qps_at(sweep, recall)) is not None]
    return statistics.median(reached) if 2 * len(reached) > len(sweeps) else None


def median_ratio(
    sweeps: Sequence[Sequence[Point]], base: Sequence[Sequence[Point]], recall: float
) -> float | None:
    """Return the median over repeats of a ratio to `base` in the same repeat: load from outside cancels."""
    ratios = []
    for ours, theirs in zip(sweeps, base, strict=False):
        top, bottom = qps_at(ours, recall), qps_at(theirs, recall)
        if top is not None and bottom is not None:
            ratios.append(top / bottom)
    return statistics.median(ratios) if ratios else None
