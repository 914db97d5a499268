"""What a shard's calibration says about one k and one wanted recall: the cheapest sufficient way to search.

Every way has a predicted cost from counts measured at build time, and a width at which the measured recall,
lowered
by its standard error, suffices. A way whose measurements do not reach the recall is no choice; the scan of
all
passing rows by codes always is one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np

from vstore.shard.calibration import costs
from vstore.shard.calibration.curves import CLUSTERS, KS, LOSSES, OVERSAMPLING, Calibration, Curve, Walk
from vstore.shard.calibration.measure import seeds_for

CERTAINLY_MIXED: Final = 0.6
"""From this correlation on, a filter does not lie away from the query."""
CERTAINLY_EVEN: Final = 1.6
"""Above this correlation a filter may pass whole clusters, and a walk may not leave the first."""
PERHAPS_NEAR: Final = 1.3
"""Above this correlation a filter may pass the rows nearest to the query, many of them in other clusters."""
LEAST_MIXED: Final = 1 / 3
"""A walk through failing rows needs at least this correlation, or it may see half of the shard."""
CERTAINLY_FAR: Final = 0.1
"""Below this correlation a filter's rows lie away from the query; between the two, the worse is assumed."""
LEAST_AROUND: Final = 0.2
"""From this passing share near the query on, the answers are among its nearest rows, as without a filter."""
LEAST_NEAR: Final = 0.02
"""A walk through failing rows must meet at least this share of passing ones near the query."""
_LOSS_SHARE: Final = 0.2
_WORDS: Final = {
    "scan": "scan",
    "near_scan": "near clusters",
    "result_filter": "result filter",
    "cluster_acorn": "acorn",
}
_Widths: TypeAlias = list[tuple[float, int | None, float]]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to search, with what it is predicted to take."""

    traversal: str
    ef: int
    n_seeds: int
    n_candidates: int
    cost_ns: float
    reason: str = ""


class Policy:
    """The ways of one calibration for one k and recall.

    Args:
        calibration: of the shard.
        k: answers wanted.
        recall: wanted, below 1.
        ef: the caller's beam width, which overrides recall.
        novel: the query is unlike the shard's rows.
        together: it is one of many, for which a scan reads and unpacks a row once.
    """

    def __init__(
        self,
        calibration: Calibration,
        k: int,
        recall: float,
        ef: int | None,
        novel: bool,
        together: bool = False,
    ) -> None:
        self._scan_share = costs.TOGETHER if together else 1.0
        self._row_bytes = calibration.row_bytes
        self._seeding_ns = costs.seeding_ns(calibration.centroid_bytes)
        self._k, self._given, self._calibration = k, ef, calibration
        self._near = _candidates(calibration, k, recall, "strange" if novel else "usual")
        self._apart = _candidates(calibration, k, recall, "far")
        self._most = max(self._near[0], self._apart[0])
        self._wanted = recall + self._near[1]
        (own,) = calibration.of("hnsw")
        strange = calibration.of("strange")
        self._curve = strange[0] if novel and strange else own
        width = self._curve.width(self._wanted, k)
        self._reached = width is not None or ef is not None
        self._ef = self._width(float(self._curve.ef[-1]) if width is None else width)
        self._walk_ns = self._curve.cost_ns(self._ef, self._row_bytes)
        usual = own.width(self._wanted, k)
        self._stretch = max(1.0, self._ef / usual) if novel and usual is not None and ef is None else 1.0
        kind = "out-of-distribution" if self._curve.walk == "strange" else "unfiltered"
        self._source = (
            f"ef={ef} was asked for"
            if ef is not None
            else f"recall {recall:g}: ef {self._ef} by the {kind} curve "
            f"({calibration.n_queries} held-out queries)"
        )
        wanted: dict[Walk, float] = dict.fromkeys(CLUSTERS, recall + self._apart[1])
        wanted["none"] = self._wanted
        self._walks = {kind: self._widths(calibration.of(kind), wanted[kind]) for kind in CLUSTERS}
        self._scans = {
            kind: self._budgets(calibration.of(curve), wanted[kind]) for kind, curve in CLUSTERS.items()
        }

    def _width(self, width: float) -> int:
        return max(self._k, self._near[0], math.ceil(width if self._given is None else self._given))

    def _widths(self, curves: tuple[Curve, ...], wanted: float) -> _Widths:
        """Return (share, beam width or None where the recall was not reached, cost) of each curve."""
        out: _Widths = []
        for curve in curves:
            least = curve.width(wanted, self._k)
            if least is None and self._given is None:
                out.append((curve.share, None, math.inf))
                continue
            ef = self._width((least or 0.0) * self._stretch)
            out.append((curve.share, ef, curve.cost_ns(ef, self._row_bytes) + self._seeding_ns))
        return out

    def _budgets(self, curves: tuple[Curve, ...], wanted: float) -> _Widths:
        """Return (share, rows to look at or None where it is no choice, cost) of each scan of clusters."""
        out: _Widths = []
        for curve in curves:
            least = None if self._given is not None else curve.width(wanted, self._k)
            if least is None:
                out.append((curve.share, None, math.inf))
                continue
            rows = max(self._most, math.ceil(least * self._stretch))
            sizes = self._row_bytes, self._calibration.centroid_bytes
            out.append((curve.share, rows, costs.near_scan_ns(rows, *sizes, self._near[0])))
        return out

    def unfiltered(self, n_rows: int) -> Way:
        """Return the way to search all rows of a shard of `n_rows`."""
        scan_ns = self._scan_ns(n_rows)
        patience = 1.0 if self._reached else 2.0
        if scan_ns <= patience * self._walk_ns:
            return self._scan(n_rows, scan_ns, f"hnsw {_us(self._walk_ns)}")
        unreached = "" if self._reached else "; the widest measured, which falls short of it"
        return Way("hnsw", self._ef, 1, self._near[0], self._walk_ns, self._source + unreached)

    def filtered(self, n_matching: int, selectivity: float, correlation: float | None) -> Way:
        """Return the way to search the `n_matching` rows that pass.

        Args:
            n_matching: passing rows.
            selectivity: their share.
            correlation: the passing share near the query over that overall; None is taken as 1.
        """
        scan, clusters, result_filter, acorn = ways = self.ways(n_matching, selectivity, correlation)
        best = min(ways, key=lambda way: way.cost_ns)
        if best is scan:
            others = ", ".join(f"{_WORDS[way.traversal]} {_us(way.cost_ns)}" for way in ways[1:])
            return self._scan(n_matching, scan.cost_ns, others)
        taken = ", ".join(f"{_WORDS[way.traversal]} {_us(way.cost_ns)}" for way in ways)
        if best is result_filter or self._given is not None:
            source = self._source
        else:
            width = f"{clusters.n_seeds} rows of near clusters" if best is clusters else f"ef {acorn.ef}"
            source = (
                f"{width} by the curves of filters like this ({self._calibration.n_queries} held-out queries)"
            )
        return replace(best, reason=f"{source}; {taken}")

    def ways(
        self, n_matching: int, selectivity: float, correlation: float | None
    ) -> tuple[Way, Way, Way, Way]:
        """Return scan, cluster scan, result filter and cluster-seeded ACORN with their predicted costs,
        infinite where nothing measured says that they suffice; without reasons. Arguments as for `filtered`.
        """
        mixed = 1.0 if correlation is None else correlation
        near = min(mixed * selectivity, 1.0)
        n_candidates = self._near[0]
        if mixed < CERTAINLY_MIXED:
            apart = self._apart[0] if near < LEAST_AROUND else min(self._apart[0], 2 * n_candidates)
            n_candidates = max(n_candidates, apart)
        ef, acorn_ns = self._by_curves(self._walks, near, selectivity, mixed, walks=True)
        rows, clusters_ns = self._by_curves(self._scans, near, selectivity, mixed, walks=False)
        width = max(ef or self._ef, n_candidates)
        return (
            self._scan(n_matching, self._scan_ns(n_matching), ""),
            Way("near_scan", self._most, rows or 1, self._most, clusters_ns),
            Way(
                "result_filter",
                max(self._ef, n_candidates),
                1,
                n_candidates,
                self._result_filter_ns(max(self._ef, n_candidates), near, mixed),
            ),
            Way("cluster_acorn", width, seeds_for(width), n_candidates, acorn_ns),
        )

    def always_scans(self, n_matching: int) -> bool:
        """Return whether `n_matching` passing rows are scanned whatever the query."""
        curves = (*self._walks.values(), *self._scans.values())
        least = min((cost for widths in curves for _, _, cost in widths), default=math.inf)
        return self._scan_ns(n_matching) <= min(self._walk_ns, least)

    def _scan(self, n: int, scan_ns: float, others: str) -> Way:
        # A scan keeps what is in doubt: a wide beam costs nothing, and the plan never depends on the query.
        n_candidates = self._most
        reason = f"scan of {n} matching rows is cheapest: {_us(scan_ns)}; {others}"
        return Way("scan", n_candidates, 1, n_candidates, scan_ns, reason)

    def _scan_ns(self, n: int) -> float:
        return self._scan_share * costs.scan_ns(n, self._row_bytes, self._near[0])

    def _result_filter_ns(self, width: int, near: float, correlation: float) -> float:
        if near < LEAST_NEAR or correlation < LEAST_MIXED:
            return math.inf
        return costs.RESULT_FILTER * self._curve.cost_ns(width / near, self._row_bytes)

    def _by_curves(
        self, widths: dict[Walk, _Widths], near: float, selectivity: float, correlation: float, *, walks: bool
    ) -> tuple[int | None, float]:
        found: list[tuple[int | None, float]] = []
        least = self._ef if walks else 1
        if correlation >= CERTAINLY_FAR:
            found.append(_between(widths["none"], near, least))
        if correlation < CERTAINLY_MIXED:
            found.append(_between(widths["far"], selectivity, least))
        # A scan leaves a cluster for the next without a path between them; a walk may stay in the first.
        if correlation < CERTAINLY_MIXED or (walks and correlation > CERTAINLY_EVEN):
            found.append(_between(widths["islands"], selectivity, least))
        if not walks and correlation > PERHAPS_NEAR:
            found.append(_between(widths["near"], selectivity, least))
        if not found or any(ef is None for ef, _ in found):
            return None, math.inf
        return max(ef for ef, _ in found if ef is not None), max(cost for _, cost in found)


def _between(widths: _Widths, share: float, unfiltered: int) -> tuple[int | None, float]:
    """Return the worse of the two measured shares around `share`: (beam width, cost)."""
    if not widths or share < widths[0][0] / 2:
        return None, math.inf
    at = next((i for i, (measured, _, _) in enumerate(widths) if share <= measured), len(widths))
    around = widths[max(at - 1, 0) : at + 1]
    if any(ef is None for _, ef, _ in around):
        return None, math.inf
    ef = max(ef for _, ef, _ in around if ef is not None)
    return (max(ef, unfiltered) if at == len(widths) else ef), max(cost for _, _, cost in around)


def _candidates(calibration: Calibration, k: int, recall: float, kind: str) -> tuple[int, float]:
    """Return how many candidates to re-score for k, and the share of the true k that this may lose."""
    allowed = _LOSS_SHARE * (1 - recall)
    above = next((i for i, measured in enumerate(KS) if k <= measured), len(KS) - 1)
    below = above if KS[above] <= k else max(above - 1, 0)
    measured = calibration.lost[LOSSES.index(kind)]
    lost = np.maximum(measured[above], measured[below])
    enough = np.flatnonzero(lost <= allowed)
    at = int(enough[0]) if len(enough) else len(OVERSAMPLING) - 1
    return math.ceil(max(k, KS[0]) * OVERSAMPLING[at]), max(float(lost[at]), allowed)


def _us(cost_ns: float) -> str:
    return "no choice" if math.isinf(cost_ns) else f"{cost_ns / 1000:.0f} us"


@lru_cache(maxsize=1024)
def policy(
    calibration: Calibration, k: int, recall: float, ef: int | None, novel: bool, together: bool = False
) -> Policy:
    """Return the policy of a calibration; kept, since queries of one kind come in numbers."""
    return Policy(calibration, k, recall, ef, novel, together)
