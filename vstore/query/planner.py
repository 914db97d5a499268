"""Chooses a shard's traversal from what is known exactly before it starts.

Known: how many rows pass (a popcount), how they lie relative to the query (passing counts of the
clusters nearest to it), k and the recall asked for. With recall = 1 every passing row's exact vector is
scored.
Else a calibrated shard takes the cheapest way whose measured recall suffices (`query.policy`), and one
without a
calibration goes by fixed rules, in order; each plan says which it was:

1. No filter and nothing deleted: HNSW.
2. Few enough rows pass that scoring all their codes costs less than a traversal: code scan.
3. Nearly everything passes: HNSW that walks through failing rows and keeps passing ones.
4. Else cluster-seeded ACORN.

A calibrated shard may also be answered by a scan of the passing rows in the clusters nearest to the query.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from vstore.query.near import Look, NearClusters
from vstore.query.policy import Policy, policy
from vstore.shard.calibration import costs
from vstore.shard.calibration.curves import Calibration, Coarse
from vstore.shard.head import ShardHead
from vstore.types import Bitmap, Float32s, Int64s
from vstore_kernels import bitmap

_MOST_MEASURED: Final = 0.9999
_STEPS: Final = 2
_NOTHING_NEAR: Final = -20

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
    calibration: Calibration | None = None,
    novel: bool = False,
    together: bool = False,
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
        calibration: what was measured of the shard, if it was.
        novel: whether the query lies farther from the shard's clusters than its own rows do.
        together: whether many queries of the same filter are answered at once.
    """
    if calibration is not None and (recall < 1.0 or ef is not None):
        return _calibrated(
            policy(calibration, k, min(recall, _MOST_MEASURED), ef, novel, together),
            n_rows=n_rows,
            n_matching=n_matching,
            filtered=filtered,
            correlation=correlation,
        )
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


def _calibrated(
    known: Policy, *, n_rows: int, n_matching: int, filtered: bool, correlation: float | None
) -> Plan:
    selectivity = n_matching / n_rows if n_rows else 0.0
    way = known.filtered(n_matching, selectivity, correlation) if filtered else known.unfiltered(n_rows)
    return Plan(
        traversal=way.traversal,
        ef=way.ef,
        n_seeds=way.n_seeds,
        n_candidates=min(n_matching, way.n_candidates),
        selectivity=selectivity,
        correlation=correlation,
        n_matching=n_matching,
        reason=way.reason,
    )


def cold_plan(plan: Plan, head: ShardHead, k: int, recall: float) -> Plan:
    """Return the plan of a shard whose codes are not all resident: few rounds instead of few distances.

    Args:
        plan: of the same query where all is resident.
        head: of the shard.
        k: answers wanted.
        recall: recall asked for, in (0, 1).
    """
    n_candidates = plan.n_candidates
    if head.calibration is not None:
        known = policy(head.calibration, k, min(recall, _MOST_MEASURED), None, False)
        # As many as any scan re-scores: the clusters may lie far from the query.
        scan = known.ways(plan.n_matching, plan.selectivity, plan.correlation)[0]
        n_candidates = scan.n_candidates
    reason = f"codes are not cached: those of the nearest clusters in one round ({plan.traversal} when warm)"
    return replace(
        plan,
        traversal="clusters",
        ef=n_candidates,
        n_seeds=0,
        n_candidates=n_candidates,
        reason=reason,
    )


def sketched_plan(plan: Plan, code_bytes: int, most_bytes: int) -> Plan:
    """Return the plan of a shard with sketches whose codes are not all resident.

    Args:
        plan: from `cold_plan`.
        code_bytes: what it would read of codes.
        most_bytes: from more on, sketches are read in their place.
    """
    if code_bytes <= most_bytes:
        return plan
    reason = f"{code_bytes / 1e6:.1f} MB of codes would be read: sketches, which are smaller, in their place"
    return replace(plan, traversal="sketches", reason=reason)


def few_plan(plan: Plan, vectors: int, codes: int) -> Plan:
    """Return the plan of a shard of which nothing is cached and few rows match.

    Args:
        plan: from `cold_plan` or `sketched_plan`.
        vectors: what reading the exact vectors of all matching rows costs, in bytes.
        codes: what reading the codes that the plan wants costs, in bytes.
    """
    if vectors >= codes:
        return plan
    reason = (
        f"the exact vectors of all {plan.n_matching} matching rows cost {vectors / 1e6:.1f} MB to read, "
        f"codes {codes / 1e6:.1f}"
    )
    return replace(plan, traversal="exact", reason=reason)


class ShardPlans:
    """The plans of one shard for one filter, k, recall and ef, whatever the query. Thread-safe.

    Args:
        head: of the shard.
        k: answers wanted.
        recall: asked for, in (0, 1].
        ef: the caller's beam width, or None.
        passing: uint64 bitmap of the rows that are alive and pass, or None where all are; only read.
    """

    def __init__(
        self, head: ShardHead, k: int, recall: float, ef: int | None, passing: Bitmap | None
    ) -> None:
        self._head, self._recall, self._ef = head, recall, ef
        self.k = k
        """Answers wanted."""
        self._filtered = passing is not None
        self.n_matching = head.n if passing is None else bitmap.popcount(passing)
        self._exact = head.calibration is None or (recall >= 1.0 and ef is None)
        self._known: dict[tuple[int | None, bool, bool], Plan] = {}
        self.fixed: Plan | None = self._plan(None, False) if self._is_fixed() else None
        """The plan of every query, where it cannot depend on the query; its correlation is None."""
        self.fixed_together: Plan | None = self.fixed
        """The plan of every one of many queries, where it cannot depend on the query."""
        if self._is_fixed(together=True):
            self.fixed_together = self._plan(None, False, True)
        self._coarse = None
        if self.fixed is None and head.calibration is not None:
            self._coarse = Coarse(head.centroids, head.metric)
        self._near: NearClusters | None = None
        if passing is not None and self.n_matching > 0:
            counts = bitmap.range_counts(passing, head.cluster_offsets)
            self._near = NearClusters(head, counts, self._coarse)

    def plan(self, query: Float32s) -> Plan:
        """Return the plan for a query (float32[d], raw)."""
        if self.fixed is not None:
            return self.fixed
        if self._near is None:
            return self._plan_for(None, 0.0 if self._coarse is None else self._coarse.novelty_of(query))
        return self._plan_for(*self._near.correlation_and_novelty(query))

    def fixed_for(self, m: int) -> Plan | None:
        """Return the plan of each of m queries asked at once, where it cannot depend on the query."""
        return self.fixed_together if m >= costs.MANY else self.fixed

    def look(self, queries: Float32s) -> Look:
        """Return what plans ask of queries (float32[m, d], raw, C-contiguous); releases the interpreter's
        lock.
        """
        if self._near is not None:
            return self._near.look(queries)
        nothing = np.empty((len(queries), 0), np.float32)
        novelties = np.zeros(len(queries)) if self._coarse is None else self._coarse.novelty(queries)
        return Look(np.zeros(len(queries)), np.asarray(novelties, np.float64), nothing)

    def of_few(self, queries: Float32s) -> tuple[list[Plan], Float32s | None]:
        """Return the plan of each of a few queries asked at once (float32[m, d], raw, C-contiguous), those of
        `split`, and the distances of the clusters (`Look.gaps`) where they were asked.
        """
        m = len(queries)
        fixed, together = self.fixed_for(m), m >= costs.MANY
        if fixed is not None:
            return [fixed] * m, None
        if self._near is None:
            novelties = [0.0] * m if self._coarse is None else self._coarse.novelty(queries).tolist()
            return [self._plan_for(None, novelty, together) for novelty in novelties], None
        look = self._near.look(queries)
        plans = [
            self._plan_for(correlation, novelty, together)
            for correlation, novelty in zip(look.correlations.tolist(), look.novelties.tolist(), strict=True)
        ]
        return plans, look.gaps if look.gaps.shape[1] else None

    def split(self, queries: Float32s) -> list[tuple[Plan, Int64s]]:
        """Return each plan with the rows (int64[g], ascending) of `queries` (float32[m, d]) that it is
        for."""
        fixed = self.fixed_for(len(queries))
        if fixed is not None:
            return [(fixed, np.arange(len(queries)))]
        return self.split_by(self.look(np.ascontiguousarray(queries)))

    def split_by(self, look: Look) -> list[tuple[Plan, Int64s]]:
        """As `split`, of queries that were looked at and have no `fixed_for`."""
        m = len(look.novelties)
        calibration = self._head.calibration
        novel = np.zeros(m, np.bool_) if calibration is None else look.novelties > calibration.novel_beyond
        places = np.zeros(m)
        if self._near is not None:
            with np.errstate(divide="ignore"):
                places = np.maximum(np.rint(_STEPS * np.log2(look.correlations)), _NOTHING_NEAR)
        kinds = (2 * places + novel).astype(np.int64)
        groups = []
        for kind in sorted(set(kinds.tolist())):
            place = None if self._near is None else kind // 2
            plan = self._plan(place, bool(kind % 2), m >= costs.MANY)
            groups.append((plan, np.flatnonzero(kinds == kind)))
        return groups

    def correlation(self, query: Float32s) -> float | None:
        """Return how the filter lies around a query (float32[d], raw): `NearClusters`; None without one."""
        return None if self._near is None else self._near.correlation(query)

    @property
    def varies_around(self) -> bool:
        """Whether `correlation` is of a query, and not None for every one."""
        return self._near is not None

    def _is_fixed(self, together: bool = False) -> bool:
        if self._exact or self.n_matching == 0:
            return True
        if self._ef is not None and not self._filtered:
            return True
        if not self._filtered:
            return self._plan(None, False, together) == self._plan(None, True, together)
        recall = min(self._recall, _MOST_MEASURED)
        known = policy(self._head.calibration, self.k, recall, self._ef, False, together)
        return known.always_scans(self.n_matching)

    def _plan_for(self, correlation: float | None, novelty: float, together: bool = False) -> Plan:
        calibration = self._head.calibration
        is_novel = calibration is not None and novelty > calibration.novel_beyond
        return self._plan(_place(correlation), is_novel, together)

    def _plan(self, place: int | None, novel: bool, together: bool = False) -> Plan:
        plan = self._known.get((place, novel, together))
        if plan is None:
            correlation = (
                None if place is None else 0.0 if place == _NOTHING_NEAR else 2.0 ** (place / _STEPS)
            )
            made = choose(
                n_rows=self._head.n,
                n_matching=self.n_matching,
                filtered=self._filtered,
                k=self.k,
                recall=self._recall,
                ef=self._ef,
                correlation=correlation,
                calibration=self._head.calibration,
                novel=bool(novel),
                together=together,
            )
            # One object for each, whatever threads do: what is remembered of a plan goes by its identity.
            plan = self._known.setdefault((place, novel, together), made)
        return plan


def _place(correlation: float | None) -> int | None:
    """Return a correlation's place on a logarithmic scale, so that plans are few."""
    if correlation is None:
        return None
    return _NOTHING_NEAR if correlation <= 0 else max(round(_STEPS * math.log2(correlation)), _NOTHING_NEAR)
