"""What a search takes on one processor core, in nanoseconds, from what it counts.

The constants are fitted by `python -m benchmarks.planner_cost --fit` on several data sets; only their ratios
matter, since they choose between ways to search the same shard. Nothing here is timed at run time, so
a plan is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Costs:
    """Constants of the model, in nanoseconds."""

    walk: float
    """A traversal's fixed part: preparing the query, the descent."""
    distance: float
    """A code scored during a walk: a read at random, then the beam."""
    distance_byte: float
    """Added for each byte of its code."""
    hop: float
    """A node expanded."""
    check: float
    """A neighbour tested against the filter."""
    neighbors: float
    """A neighbour list read by a two-hop expansion."""
    scan: float
    """A scan's fixed part."""
    scan_row: float
    """A row of a scan: codes lie in order."""
    scan_byte: float
    candidate: float
    """A candidate that a scan keeps and scores exactly."""
    centroid_byte: float
    """Ordering the clusters, for each byte of their centroids."""


COSTS = Costs(
    walk=500.0,
    distance=15.0,
    distance_byte=0.05,
    hop=150.0,
    check=0.3,
    neighbors=80.0,
    scan=500.0,
    scan_row=5.5,
    scan_byte=0.05,
    candidate=200.0,
    centroid_byte=0.025,
)
MANY = 8
"""So many queries of one call, or more, are planned as a scan that reads a row once for all."""
TOGETHER = 0.45
"""Such a scan takes this share of its time alone for each."""
RESULT_FILTER = 1.15
"""A walk that keeps passing nodes apart takes this many times one of the same counts: its frontier is a
heap."""


def walk_ns(counts: Sequence[float], row_bytes: int) -> float:
    """Return what a traversal takes, re-scoring excluded.

    Args:
        counts: mean n_distances, n_hops, n_filter_checks, n_lists.
        row_bytes: of a code.
    """
    c = COSTS
    n_distances, n_hops, n_filter_checks, n_lists = counts
    return (
        c.walk
        + n_distances * (c.distance + c.distance_byte * row_bytes)
        + n_hops * c.hop
        + n_filter_checks * c.check
        + max(n_lists - n_hops, 0.0) * c.neighbors
    )


def scan_ns(n_rows: float, row_bytes: int, n_candidates: int = 0) -> float:
    """Return what a scan of the codes of `n_rows` passing rows takes, that keeps `n_candidates` of them."""
    kept = min(n_candidates, n_rows) * COSTS.candidate
    return COSTS.scan + n_rows * (COSTS.scan_row + COSTS.scan_byte * row_bytes) + kept


def near_scan_ns(n_rows: float, row_bytes: int, centroid_bytes: int, n_candidates: int = 0) -> float:
    """Return what a scan takes of the first `n_rows` passing rows in the nearest clusters."""
    return scan_ns(n_rows, row_bytes, n_candidates) + seeding_ns(centroid_bytes)


def seeding_ns(centroid_bytes: int) -> float:
    """Return what ordering the clusters by distance takes."""
    return centroid_bytes * COSTS.centroid_byte
