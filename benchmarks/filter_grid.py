"""Filtered search: the grid of selectivity by correlation, and filters across attributes, one thread.

    python -m benchmarks.filter_grid --dataset fashion [--peers vstore,faiss-ivf] [--quick]

Selectivity is the share of rows that pass; correlation says where they lie: far from the queries, near them,
or anywhere (none). Prints, for each cell, vstore's recall@10 at default settings, its QPS at recall 0.95, the
best peer that reaches 0.95 there, and the ratio to numpy's product over rows that were gathered beforehand.
Writes JSON, and a PNG with recall and ratio as heat maps.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import arguments, plots
from .datasets import Dataset
from .filters import SHARES, Filter, Grid, crossed_filters, grid_filters, grid_of, share_name
from .frontier import median_ratio
from .peers.own import DEFAULT
from .report import calibration, document, number, print_table, summary, sweeps, write
from .runner import OWN, Plan, Task, measure

NAME = "filter_grid"
LEVEL = "0.95"
FLOOR = "numpy-exact"
PEERS = (
    "vstore",
    "hnswlib",
    "faiss-hnsw",
    "faiss-hnsw-sq8",
    "faiss-ivf",
    "zvec-fp32",
    "zvec-int8",
    "qdrant",
    "qdrant-int8",
    "qdrant-acorn",
    "lancedb",
    "numpy-exact",
)
QUICK_PEERS = ("vstore", "hnswlib", "faiss-hnsw-sq8", "faiss-ivf", "numpy-exact")
QUICK_SHARES = (0.5, 0.1, 0.01)
CORRELATIONS = ("far", "none", "near")


def tasks_of(dataset: Dataset, grid: Grid, filters: Sequence[Filter]) -> list[Task]:
    """Return the tasks of the filters; makes their exact neighbours where they are not kept."""
    tasks = []
    for each in filters:
        grid.truth(dataset, each)
        tasks.append(
            Task(
                each.name,
                dataset.folder / "Q.npy",
                grid.truth_path(each),
                grid.group.tolist(),
                each.to_json(),
            )
        )
    return tasks


def cells(
    rows: Sequence[dict[str, Any]], points: Sequence[dict[str, Any]], filters: Sequence[Filter], clock: str
) -> list[dict[str, Any]]:
    """Return for each filter: vstore's recall and QPS at default settings, at 0.95, and the others' QPS."""
    out = []
    for name in (each.name for each in filters):
        here = {row["peer"]: row["levels"][LEVEL]["qps"] for row in rows if row["filter"] == name}
        own = here.pop(OWN, None)
        # A product over rows that someone gathered beforehand is a floor to know, not a peer to choose.
        product = here.pop(FLOOR, None)
        reached = {peer: qps for peer, qps in here.items() if qps is not None}
        best = max(reached, key=lambda peer: reached[peer], default=None)
        default = [
            point
            for point in points
            if point["peer"] == OWN and point["filter"] == name and point["param"] == DEFAULT
            if "error" not in point
        ]
        out.append(
            {
                "filter": name,
                "default_recall": min((point["recall"] for point in default), default=None),
                "default_qps": max((point[clock] for point in default), default=None),
                "qps": own,
                "best_peer": best,
                "best_peer_qps": reached.get(best) if best else None,
                "ratio": own / reached[best] if own and best else None,
                "product_qps": product,
                "product_ratio": own / product if own and product else None,
                "best_peer_ratio_by_repeat": paired(points, best, name, clock) if best else None,
            }
        )
    return out


def paired(points: Sequence[dict[str, Any]], peer: str, task: str, clock: str) -> float | None:
    """Return vstore's QPS at 0.95 over a peer's in the same repeats, the median: outside load cancels."""
    ours, theirs = sweeps(points, OWN, task, clock), sweeps(points, peer, task, clock)
    shared = [key for key in theirs if key in ours]
    return median_ratio([ours[key] for key in shared], [theirs[key] for key in shared], float(LEVEL))


def heat(found: Sequence[dict[str, Any]], shares: Sequence[float]) -> dict[str, Any]:
    """Return the grid's cells as rows (selectivity, then crossed filters) by columns (correlation)."""
    by_name = {each["filter"]: each for each in found}
    grid: dict[str, Any] = {"rows": [share_name(share) for share in shares], "columns": list(CORRELATIONS)}
    for label, key in (("recall", "default_recall"), ("ratio", "ratio")):
        grid[label] = [
            [by_name[f"{correlation} {share_name(share)}"][key] for correlation in CORRELATIONS]
            for share in shares
        ]
    return grid


def run(
    dataset: Dataset, peers: Sequence[str], plan: Plan, clock: str, shares: Sequence[float]
) -> dict[str, Any]:
    """Measure the grid on a data set; return the run as JSON."""
    grid = grid_of(dataset)
    filters = grid_filters(tuple(shares)) + crossed_filters(grid)
    columns = {name: grid.folder / f"{name}.npy" for name in grid.columns}
    tasks = tasks_of(dataset, grid, filters)
    with tempfile.TemporaryDirectory() as logs:
        measured = measure(peers, dataset.folder / "X.npy", columns, tasks, plan, Path(logs))
    rows = summary(measured.points, peers, [task.name for task in tasks], clock)
    found = cells(rows, measured.points, filters, clock)
    passing = {each.name: int(each.mask(grid.columns).sum()) for each in filters}
    return document(
        NAME,
        dataset,
        plan,
        measured,
        clock=clock,
        passing=passing,
        cells=found,
        grid=heat(found, shares),
        summary=rows,
        calibration=calibration(measured.points),
    )


def show(result: dict[str, Any]) -> None:
    """Print the table of a run."""
    shape = result["dataset"]
    print(f"\n{shape['name']}, {shape['rows']:,} x {shape['dim']}, L2, k=10, one thread, {result['clock']}\n")
    rows = [
        [
            each["filter"],
            f"{result['passing'][each['filter']]:,}",
            number(each["default_recall"], 4),
            number(each["default_qps"]),
            number(each["qps"]),
            each["best_peer"] or "none reaches it",
            number(each["best_peer_qps"]),
            number(each["ratio"], 2, "x"),
            number(each["product_ratio"], 2, "x"),
        ]
        for each in result["cells"]
    ]
    header = ["filter", "passing", "recall, default", "QPS, default", "QPS at 0.95", "best peer", "its QPS"]
    print_table([*header, "ratio", "to numpy-exact"], rows)
    for peer, reason in result["absent"].items():
        print(f"\nabsent: {peer}: {reason}")
    without = [peer for peer, built in result["builds"].items() if not built["filters"]]
    if without:
        print(f"\nno filter in their Python APIs: {', '.join(without)}")


def main() -> None:
    """Measure, print, write, draw."""
    asked = arguments.parser(__doc__.splitlines()[0], NAME).parse_args()
    peers = arguments.chosen_peers(asked, QUICK_PEERS if asked.quick else PEERS)
    plan = Plan(
        python=asked.python,
        repeats=1 if asked.quick else asked.repeats,
        n_queries=100 if asked.quick else 500,
        build_threads=asked.threads,
        cpu=asked.cpu,
        point_s=0.05 if asked.quick else 0.2,
        sweep_s=1.0 if asked.quick else 8.0,
        group=asked.group,
    )
    dataset = arguments.chosen_dataset(asked)
    shares = QUICK_SHARES if asked.quick else SHARES[::-1]
    result = run(dataset, peers, plan, arguments.clock_key(asked), shares)
    out = arguments.out_path(asked, NAME)
    write(result, out)
    show(result)
    plots.heat_maps(result, out.with_suffix(".png"))
    print(f"\nwritten: {out} and {out.with_suffix('.png').name}")


if __name__ == "__main__":
    main()
