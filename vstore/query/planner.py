"""Chooses a shard's traversal from what is known exactly before it starts.

Known: how many rows pass (a popcount), how they lie relative to the query (passing counts of the
clusters nearest to it), k and the recall asked for. The rules, in order; each plan says which it was:

1. recall = 1: scan of every passing row's exact vector. Exact by construction.
2. No filter and nothing deleted: HNSW.
3. Few enough rows pass that scoring all their codes costs less than a traversal: code scan.
4. Nearly everything passes: HNSW that walks through failing rows and keeps passing ones.
5. Else cluster-seeded ACORN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SCAN_ROWS = 8_192
"""Up to this many passing rows under a filter, a code scan beats a traversal over failing rows."""
SCAN_ROWS_UNFILTERED = 2_048
"""Without a filter a traversal wastes nothing, so the scan pays for fewer rows."""
RESULT_FILTER_SELECTIVITY = 0.8
"""From this share of passing rows on, a plain walk wastes little on failing ones."""

_EF_BY_RECALL = ((0.90, 48), (0.95, 96), (0.98, 160), (0.99, 240), (0.995, 360), (0.999, 600))
_SEEDS_BY_RECALL = ((0.95, 256), (0.99, 512), (1.0, 1024))


@dataclass(frozen=True, slots=True)
class Plan:
    """How one shard will be searched, and why."""

    traversal: str
    ef: int
    n_seeds: int
    n_candidates: int
    selectivity: float
    correlation: float | None
    n_matching: int
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as a receipt carries it."""
        return {
            "traversal": self.traversal,
            "ef": self.ef,
            "n_seeds": self.n_seeds,
            "n_candidates": self.n_candidates,
            "selectivity": self.selectivity,
            "correlation": self.correlation,
            "n_matching": self.n_matching,
            "reason": self.reason,
        }


def width_for(recall: float, k: int, ef: int | None) -> int:
    """Return the beam width: `ef` if given, else what `recall` needs; at least k."""
    if ef is not None:
        return max(ef, k)
    wanted = next((width for reached, width in _EF_BY_RECALL if recall <= reached), 1200)
    return max(wanted, 2 * k)


def candidates_for(k: int) -> int:
    """Return how many candidates are re-scored exactly for k answers.

    8-bit codes rank true neighbours within a few places of their rank, so a small surplus settles it.
    """
    return max(2 * k, k + 22)


def choose(
    *,
    n_rows: int,
    n_matching: int,
    filtered: bool,
    k: int,
    recall: float,
    ef: int | None,
    correlation: float | None = None,
) -> Plan:
    """Return the plan for one shard.

    Args:
        n_rows: rows of the shard, deleted ones included.
        n_matching: rows that are alive and pass the filter.
        filtered: whether any row of the shard may not be returned.
        k: answers wanted.
        recall: recall asked for, in (0, 1].
        ef: the caller's beam width, or None.
        correlation: passing share near the query over the passing share overall, if known.
    """
    width = width_for(recall, k, ef)
    n_seeds = next(seeds for reached, seeds in _SEEDS_BY_RECALL if recall <= reached)
    selectivity = n_matching / n_rows if n_rows else 0.0
    scan_rows = SCAN_ROWS if filtered else SCAN_ROWS_UNFILTERED
    if recall >= 1.0 and ef is None:
        name, reason = "exact", f"recall=1 scores all {n_matching} matching rows exactly"
    elif n_matching <= scan_rows:
        name, reason = "scan", f"{n_matching} matching rows, at most {scan_rows}: scoring all is cheapest"
    elif not filtered:
        name, reason = "hnsw", "no filter and no deleted rows"
    elif selectivity >= RESULT_FILTER_SELECTIVITY:
        name, reason = "result_filter", f"{selectivity:.1%} of rows match: a plain walk wastes little"
    else:
        name, reason = (
            "cluster_acorn",
            f"{selectivity:.2%} of rows match: {n_matching} rows, too many to scan",
        )
    return Plan(
        traversal=name,
        ef=width,
        n_seeds=max(n_seeds, 2 * k),
        n_candidates=min(n_matching, max(candidates_for(k), 0)),
        selectivity=selectivity,
        correlation=correlation,
        n_matching=n_matching,
        reason=reason,
    )
