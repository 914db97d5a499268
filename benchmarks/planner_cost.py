"""What the planner's choice costs against the best of its choices, in every cell of the grid.

    python -m benchmarks.planner_cost --dataset clustered --rows 60000

For each cell every way to search runs with the widths that the calibration gives it (ACORN, where it gives
none, with the least of a few widths that reaches the recall). The ratio is the time of the plan chosen over
that of the fastest way whose recall is at least the recall asked - 0.01. `--fit` also prints the constants of
`vstore.shard.calibration.costs` that fit these times best. Times are processor time of one thread, the least
of several repeats.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from vstore.query.planner import Plan, ShardPlans
from vstore.query.policy import policy
from vstore.settings import IndexSettings
from vstore.shard.calibration import costs
from vstore.shard.calibration.measure import seeds_for
from vstore_kernels import bitmap, layout

from .planning import CORRELATIONS, SHARES, Built, Cell, Searcher, build, cell_of, cells, recall
from .planning_data import NAMES, load_points

RESULTS = Path(__file__).parent / "results"
FILTERED = ("scan", "near_scan", "result_filter", "cluster_acorn")
ACORN_WIDTHS = (32, 64, 128, 256, 512, 1024)
SLACK = 0.01
K = 10
Sample = tuple[str, Any, float]
"""A traversal, its mean counters (with rows scanned under -1), and its nanoseconds a query."""


def main() -> None:
    """Build, search in every way, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=NAMES, default="fashion")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--queries", type=int, default=48, help="of a cell")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="10,000 rows, two repeats")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    points, queries, _ = load_points(asked.dataset, 10_000 if asked.quick else asked.rows)
    built = build(points, "l2", IndexSettings(), 1)
    run = _Run(built, 2 if asked.quick else asked.repeats)
    rows: list[dict[str, Any]] = []
    for wanted in (0.95, 0.99):
        rows.append(run.cell("unfiltered", 1.0, [cell_of(built, queries[: asked.queries], None)], wanted))
        for correlation in CORRELATIONS:
            for share in SHARES:
                found = list(cells(built, queries, correlation, share, asked.queries, asked.seed))
                rows.append(run.cell(correlation, share, found, wanted))
    worst = max(rows, key=lambda row: row["ratio"])
    print(f"worst: {worst['ratio']:.2f} in {worst['cell']} {worst['share']:.1%} at {worst['asked']}")
    if asked.fit:
        fit(built, run.samples)
    out = asked.out or RESULTS / f"planner_cost-{asked.dataset}{'-quick' if asked.quick else ''}.json"
    out.parent.mkdir(exist_ok=True)
    shape = {"dataset": asked.dataset, "rows": len(points), "dim": points.shape[1]}
    out.write_text(json.dumps({**shape, "row_bytes": built.head.code_params.row_bytes, "cells": rows}) + "\n")


class _Run:
    def __init__(self, built: Built, repeats: int) -> None:
        self.built, self.repeats, self.searcher = built, repeats, Searcher(built)
        self.samples: list[Sample] = []

    def cell(self, name: str, share: float, parts: list[Cell], wanted: float) -> dict[str, Any]:
        """Return the time of each way and of the planner's choice, in microseconds a query, and the ratio."""
        ways = ("scan", "hnsw") if parts[0].flags is None else FILTERED
        taken = {way: [0.0, 0.0] for way in (*ways, "chosen")}
        used: set[str] = set()
        total = sum(len(part.queries) for part in parts)
        for part in parts:
            passing = None if part.flags is None else bitmap.pack(part.flags)
            groups = ShardPlans(self.built.head, K, wanted, None, passing).split(part.queries)
            for plan, rows in groups:
                some = Cell(part.queries[rows], part.flags, part.truth[rows])
                used.add(plan.traversal)
                for way in ways:
                    ns, reached, chosen = self._way(some, passing, way, plan, wanted)
                    taken[way][0] += ns / total
                    taken[way][1] += reached * len(rows) / total
                    if chosen:
                        taken["chosen"][0] += ns / total
                        taken["chosen"][1] += reached * len(rows) / total
        enough = [ns for ns, reached in taken.values() if reached >= wanted - SLACK]
        ratio = taken["chosen"][0] / min(enough) if enough else math.nan
        line = " ".join(f"{way} {ns / 1000:.0f} us {reached:.3f}" for way, (ns, reached) in taken.items())
        chosen_by = ",".join(sorted(used))
        print(f"{name:>10} {share:>6.1%} {wanted}: {ratio:.2f} {line} {chosen_by}", flush=True)
        return {
            "cell": name,
            "share": share,
            "asked": wanted,
            "ratio": round(ratio, 3),
            "ways": {
                way: {"us": round(ns / 1000, 1), "recall": round(r, 4)} for way, (ns, r) in taken.items()
            },
            "used": sorted(used),
        }

    def _way(
        self, cell: Cell, passing: Any, way: str, plan: Plan, wanted: float
    ) -> tuple[float, float, bool]:
        """Return nanoseconds for all queries, the recall, and whether this is the planner's choice."""
        if way == plan.traversal:
            return *self._timed(cell, passing, way, plan), True
        calibration = self.built.head.calibration
        if calibration is None:
            raise SystemExit("the shard is too small to be calibrated: give more --rows")
        known = policy(calibration, K, wanted, None, False)
        if passing is None:
            own = known.unfiltered(10**9) if way == "hnsw" else known.ways(plan.n_matching, 1.0, 1.0)[0]
            return *self._timed(cell, passing, way, _as(plan, own)), False
        own = next(
            w for w in known.ways(plan.n_matching, plan.selectivity, plan.correlation) if w.traversal == way
        )
        if way not in ("cluster_acorn", "near_scan") or not math.isinf(own.cost_ns):
            return *self._timed(cell, passing, way, _as(plan, own)), False
        found = (math.inf, 0.0)
        for ef in ACORN_WIDTHS:
            wide = dataclasses.replace(own, ef=max(ef, own.n_candidates), n_seeds=seeds_for(ef))
            if way == "near_scan":
                wide = dataclasses.replace(own, n_seeds=8 * ef)
            found = self._timed(cell, passing, way, _as(plan, wide))
            if found[1] >= wanted - SLACK:
                break
        return *found, False

    def _timed(self, cell: Cell, passing: Any, way: str, plan: Plan) -> tuple[float, float]:
        least = math.inf
        for _ in range(self.repeats):
            started = time.thread_time_ns()
            ids, counters = self.searcher.run(cell.queries, passing, way, plan, K)
            least = min(least, time.thread_time_ns() - started)
        mean = counters.mean(axis=0)
        if way == "scan":
            mean[layout.N_DISTANCES] = plan.n_matching
        self.samples.append((way, mean, least / len(ids)))
        return least, recall(self.built, cell, ids, K)


def _as(plan: Plan, way: Any) -> Plan:
    return dataclasses.replace(
        plan,
        traversal=way.traversal,
        ef=way.ef,
        n_seeds=way.n_seeds,
        n_candidates=min(way.n_candidates, plan.n_matching),
    )


def fit(built: Built, samples: list[Sample]) -> None:
    """Print the constants that explain the times best, in relative error, none below 0."""
    row_bytes, centroids = built.head.code_params.row_bytes, built.head.centroids.nbytes
    for kind in ("scan", "hnsw,cluster_acorn", "result_filter"):
        chosen = [sample for sample in samples if sample[0] in kind.split(",")]
        rows, times = [], np.array([ns for _, _, ns in chosen])
        for name, n, _ in chosen:
            if kind == "scan":
                rows.append([1.0, n[layout.N_DISTANCES]])
                continue
            beyond = max(n[layout.N_LISTS] - n[layout.N_HOPS], 0)
            seeding = centroids if name == "cluster_acorn" else 0
            counted = (layout.N_DISTANCES, layout.N_HOPS, layout.N_FILTER_CHECKS)
            rows.append([1.0, *(n[i] for i in counted), beyond, seeding])
        found = _nonnegative(np.array(rows) / times[:, None], np.ones(len(times)))
        left = np.array(rows) @ found / times
        names = (
            ("fixed", "row")
            if kind == "scan"
            else ("fixed", "distance", "hop", "check", "list", "centroid_byte")
        )
        constants = " ".join(f"{a} {b:.3f}" for a, b in zip(names, found, strict=True))
        print(f"fit {kind} (row_bytes {row_bytes}): {constants}")
        print(f"   predicted / measured: {np.percentile(left, [0, 10, 50, 90, 100]).round(2)}")
    model = [(name, _model(name, n, row_bytes, centroids) / ns) for name, n, ns in samples]
    for name in sorted({name for name, _ in model}):
        ratios = np.percentile([ratio for other, ratio in model if other == name], [0, 10, 50, 90, 100])
        print(f"constants in use, {name}: predicted / measured {ratios.round(2)}")


def _model(name: str, n: Any, row_bytes: int, centroids: int) -> float:
    if name == "scan":
        return costs.scan_ns(n[layout.N_DISTANCES], row_bytes, 60)
    if name == "near_scan":
        return costs.near_scan_ns(n[layout.N_DISTANCES], row_bytes, centroids, 60)
    counted = (layout.N_DISTANCES, layout.N_HOPS, layout.N_FILTER_CHECKS, layout.N_LISTS)
    ns = costs.walk_ns([float(n[i]) for i in counted], row_bytes)
    factor = costs.RESULT_FILTER if name == "result_filter" else 1.0
    return factor * ns + (costs.seeding_ns(centroids) if name == "cluster_acorn" else 0.0)


def _nonnegative(rows: Any, values: Any) -> Any:
    """Return the least-squares solution without negative parts, by leaving out what would be negative."""
    kept = list(range(rows.shape[1]))
    found = np.zeros(rows.shape[1])
    while kept:
        part = np.linalg.lstsq(rows[:, kept], values, rcond=None)[0]
        if (part >= 0).all():
            found[kept] = part
            break
        kept.pop(int(part.argmin()))
    return found


if __name__ == "__main__":
    main()
