"""Queries on object storage: what they read, counted, and how long they take on a real S3 server far away.

    python -m benchmarks.object_storage --dataset clustered
    python -m benchmarks.object_storage --quick

Counted: dependent round trips, requests, bytes and recall of every filter, cold (a new handle, from
`vstore.open` to the answer), with all but exact vectors cached, with everything cached, and by the same graph
read hop by hop. Timed: new processes and warm ones on SeaweedFS behind a proxy that adds 20 ms, beside
LanceDB on the same server. Each finished task is kept, and a run that was interrupted goes on when it is
asked again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import vstore

from . import object_plots
from .arguments import QUICK_ROWS
from .datasets import NAMES, Dataset, load
from .datasets.cache import root
from .filters import Grid, grid_filters, grid_of
from .object_counts import STATES, Counter, Task, sweep, task_of
from .object_kept import Kept, source_digest
from .object_s3 import TIMED, Bucket, Timed
from .object_stores import kept_store
from .report import RESULTS, command, machine, print_table, versions, write

SHARES = (0.1, 0.01, 0.001)
RECALLS = (0.8, 0.9, 0.95, 0.99)
LATENCY_MS = 20.0
N_QUERIES, N_NAIVE, N_SWEPT = 20, 3, 5
"""Queries of a task counted; by the naive graph; and of a point of the picture."""
MAX_ROUND_TRIPS, MAX_MEGABYTES, MAX_REQUESTS, MIN_RECALL, MIN_RATIO = 4, 12.0, 64, 0.95, 3.0


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.object_storage",
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--dataset", choices=NAMES, default="fashion")
    made.add_argument("--rows", type=int, help="its first so many rows; by default all")
    made.add_argument("--quick", action="store_true", help="few rows and queries: minutes, not figures")
    made.add_argument("--queries", type=int, help=f"of each task; by default {N_QUERIES}, 5 with --quick")
    made.add_argument(
        "--only", nargs="+", help='these filters alone, as "none 1%%"; writes no result by itself'
    )
    made.add_argument("--peers", default="lancedb", help="lancedb, or none")
    made.add_argument("--no-s3", action="store_true", help="count alone, without a server")
    made.add_argument("--latency-ms", type=float, default=LATENCY_MS, help="added to every request")
    made.add_argument("--threads", type=int, default=os.cpu_count(), help="of a build")
    made.add_argument(
        "--python",
        default=os.environ.get("VSTORE_BENCH_PYTHON", sys.executable),
        help="the peers' interpreter",
    )
    made.add_argument("--out", type=Path, help="JSON file; a .png of the same name lies beside it")
    return made


def tasks_of(dataset: Dataset, grid: Grid, n: int, quick: bool) -> list[Task]:
    """Return the unfiltered task and one for each filter."""
    chosen = grid_filters(SHARES[:2] if quick else SHARES)
    return [task_of(dataset, grid, filter, n) for filter in (None, *chosen)]


def count_all(counter: Counter, tasks: list[Task], n_naive: int, kept: Kept) -> list[dict[str, Any]]:
    """Count every task in every state, at default settings."""
    handles: list[Any] = []

    def counted(task: Task) -> list[dict[str, Any]]:
        if not handles:
            handles.extend([counter.guides_only(), counter.warmed(), counter.in_memory()])
        guides, warm, near = handles
        rows = []
        for row in (
            counter.cold(task, {}),
            counter.vectors_remote(task, guides, {}),
            counter.all_cached(task, warm, near, {}),
            counter.naive(short(task, n_naive), MIN_RECALL),
        ):
            rows.append(row)
            print(line_of(row), flush=True)
        return rows

    return [row for task in tasks for row in kept.part(f"counted {task.name}", partial(counted, task))]


def sweep_all(counter: Counter, tasks: list[Task], n_naive: int, kept: Kept) -> list[dict[str, Any]]:
    """Count some tasks at several recalls, with the latency slept: what the picture shows."""
    handles: list[Any] = []

    def swept(task: Task, param: dict[str, Any]) -> list[dict[str, Any]]:
        if not handles:
            handles.append(counter.guides_only())
        print(f"sweeping {task.name} at recall {param['recall']}", flush=True)
        return [
            counter.cold(task, param),
            counter.vectors_remote(task, handles[0], param),
            counter.naive(short(task, n_naive), param["recall"]),
        ]

    return [
        row
        for task in tasks
        for param in sweep(RECALLS)
        for row in kept.part(f"swept {task.name} {param['recall']}", partial(swept, task, param))
    ]


def short(task: Task, n: int) -> Task:
    """Return the first queries of a task."""
    return Task(task.name, task.filter, task.queries[:n], task.truth[:n], task.mask)


def line_of(row: dict[str, Any]) -> str:
    """Return one counted row as text."""
    return (
        f"{row['filter']:10} {row['state']:14} recall {row['recall']:.3f}  rounds {row['round_trips']:4d}  "
        f"requests {row['requests']:4d}  {row['megabytes']:6.2f} MB (mean {row['megabytes_mean']:.2f})  "
        f"{row['ms']:.1f} ms"
    )


def floors(rows: list[dict[str, Any]], timed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return every floor, whether it holds, and which tasks miss it."""
    by_state = {state: [row for row in rows if row["state"] == state] for state in STATES}

    def floor(name: str, checked: list[dict[str, Any]], holds: Any) -> dict[str, Any]:
        missed = [row["filter"] for row in checked if not holds(row)]
        return {"floor": name, "holds": bool(checked) and not missed, "missed_by": missed}

    found = [
        floor(
            "cold: at most 4 dependent round trips",
            by_state["cold"],
            lambda r: r["round_trips"] <= MAX_ROUND_TRIPS,
        ),
        floor("cold: at most 12 MB", by_state["cold"], lambda r: r["megabytes"] <= MAX_MEGABYTES),
        floor("cold: recall@10 of 0.95", by_state["cold"], lambda r: r["recall"] >= MIN_RECALL),
        floor("vectors remote: 1 round trip", by_state["vectors remote"], lambda r: r["round_trips"] <= 1),
        floor(
            "vectors remote: at most 64 requests",
            by_state["vectors remote"],
            lambda r: r["requests"] <= MAX_REQUESTS,
        ),
        floor(
            "vectors remote: recall@10 of 0.95",
            by_state["vectors remote"],
            lambda r: r["recall"] >= MIN_RECALL,
        ),
        floor("all cached: 0 requests", by_state["all cached"], lambda r: r["requests"] == 0),
        floor(
            "all cached: within 1.3x of in memory", by_state["all cached"], lambda r: r["to_in_memory"] <= 1.3
        ),
    ]
    compared = [row for row in timed if row.get("ratio") is not None]
    for state in TIMED:
        of_state = [row for row in compared if row["state"] == state]
        if of_state:
            found.append(floor(f"{state}: 3x LanceDB", of_state, lambda r: r["ratio"] >= MIN_RATIO))
    return found


def show(result: dict[str, Any]) -> None:
    """Print the tables."""
    print()
    header = ["filter", "state", "recall", "round trips", "requests", "MB", "ms"]
    print_table(
        header,
        [
            [
                row["filter"],
                row["state"],
                f"{row['recall']:.3f}",
                str(row["round_trips"]),
                str(row["requests"]),
                f"{row['megabytes']:.2f}",
                f"{row['ms']:.1f}" + (f" ({row['to_in_memory']:.2f}x)" if "to_in_memory" in row else ""),
            ]
            for row in result["points"]
        ],
    )
    if result["timed"]:
        print()
        print_table(
            ["filter", "state", "store", "recall", "ms", "ratio"],
            [
                [
                    row["filter"],
                    row["state"],
                    row["store"],
                    f"{row['recall']:.3f}",
                    f"{row['ms']:.0f}",
                    f"{row['ratio']:.2f}x" if row.get("ratio") else "",
                ]
                for row in result["timed"]
            ],
        )
    print()
    for row in result["floors"]:
        missed = f": missed by {', '.join(row['missed_by'])}" if row["missed_by"] else ""
        print(f"{'holds ' if row['holds'] else 'MISSED'} {row['floor']}{missed}")


def time_all(
    asked: argparse.Namespace, dataset: Dataset, folder: Path, grid: Grid, tasks: list[Task], kept: Kept
) -> list[dict[str, Any]]:
    """Time every task on a server far away; what a run timed before it was interrupted is not timed again."""
    if all(kept.has(f"timed {task.name}") for task in tasks):
        return [row for task in tasks for row in kept.part(f"timed {task.name}", list)]
    timer = Timed(dataset, asked.python if asked.peers == "lancedb" else None, asked.quick, kept)
    try:
        with Bucket(asked.latency_ms) as bucket:
            return timer.run(bucket, folder, grid, tasks)
    except (FileNotFoundError, subprocess.SubprocessError) as error:
        print(f"no timing on S3: {error}", file=sys.stderr)
        return []


def kept_run(asked: argparse.Namespace, dataset: Dataset, n: int, result: dict[str, Any]) -> Kept:
    """Return what an interrupted run of the same question finished; says how much that is."""
    of = {name: result[name] for name in ("settings", "dataset", "versions")}
    question = {**of, "queries": n, "quick": asked.quick, "peers": asked.peers, "source": source_digest()}
    kept = Kept(root() / f"os-run-{dataset.name}-{len(dataset.points)}.json", question)
    if kept.n_parts:
        print(f"going on after {kept.n_parts} finished parts of a run that was interrupted")
    return kept


def main() -> None:
    """Measure, print, write the JSON and the picture."""
    asked = parser().parse_args()
    rows = asked.rows or (QUICK_ROWS[asked.dataset] if asked.quick else None)
    n = asked.queries or (5 if asked.quick else N_QUERIES)
    dataset = load(asked.dataset, rows)
    grid = grid_of(dataset)
    folder = kept_store(dataset, grid, asked.threads)
    tasks = tasks_of(dataset, grid, n, asked.quick)
    if asked.only:
        tasks = [task for task in tasks if task.name in asked.only]
    result: dict[str, Any] = {
        "schema": 1,
        "benchmark": "object_storage",
        "command": command("object_storage"),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "settings": {"cold_bytes": vstore.Settings().cold_bytes, "latency_ms": asked.latency_ms},
        "dataset": {
            "name": dataset.name, "rows": len(dataset.points), "dim": dataset.points.shape[1], "metric": "l2"
        },
    }  # fmt: skip
    kept = kept_run(asked, dataset, n, result)
    print("counted, at default settings")
    counted = count_all(Counter(dataset, folder, 0.0), tasks, min(n, N_NAIVE), kept)
    timed = [] if asked.no_s3 else time_all(asked, dataset, folder, grid, tasks, kept)
    result["versions"] |= kept.notes.get("versions", {})
    result["receipt"] = kept.notes.get("receipt")
    shown = [short(task, min(n, N_SWEPT)) for task in tasks if task.name in ("all", "none 1%", "far 1%")]
    swept = [] if asked.only else sweep_all(Counter(dataset, folder, asked.latency_ms), shown, 2, kept)
    result |= {"points": counted, "timed": timed, "sweep": swept, "floors": floors(counted, timed)}
    show(result)
    if asked.only:
        # What was measured is kept for a whole run.
        return
    out = asked.out or RESULTS / f"object_storage-{asked.dataset}{'-quick' if asked.quick else ''}.json"
    write(result, out)
    object_plots.draw(result, out.with_suffix(".png"))
    kept.done()
    print(f"\nwritten: {out.name}, {out.with_suffix('.png').name}")


if __name__ == "__main__":
    main()
