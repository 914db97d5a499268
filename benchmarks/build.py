"""Builds: vectors a second at equal threads, M=16, ef_construction=200; memory, and the recall they buy.

    python -m benchmarks.build --dataset fashion [--peers hnswlib,vstore] [--threads 1] [--quick]

A peer's build runs from arrays in memory to an index that answers; files that it keeps are in its time.
Repeats start a fresh process each, peers in turn. Recall is taken at ef 64 (or the peer's like), so that a
fast build of a poor graph shows. Prints a table with ratios to hnswlib, writes JSON, and draws bars.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import arguments, plots
from .datasets import TRUTH_K, Dataset
from .report import document, number, print_table, write
from .runner import BASE, Measured, Plan, Process, say

NAME = "build"
PEERS = (
    "hnswlib",
    "vstore",
    "symphonyqg",
    "rabitq-hnsw8",
    "glass-sq8",
    "svs-vamana",
    "usearch",
    "faiss-hnsw",
    "faiss-hnsw-sq8",
    "faiss-ivf",
    "pynndescent",
    "zvec-int8",
    "qdrant-int8",
    "lancedb",
)
QUICK_PEERS = ("hnswlib", "vstore", "symphonyqg", "faiss-hnsw-sq8")
RECALL_EF = 64


def run(dataset: Dataset, peers: Sequence[str], plan: Plan) -> dict[str, Any]:
    """Build each peer `plan.repeats` times; return the run as JSON."""
    dataset.truth()
    measured = Measured()
    builds: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as logs:
        for repeat in range(plan.repeats):
            for peer in peers:
                if peer in measured.absent:
                    continue
                built = build_once(dataset, peer, plan, Path(logs), repeat, measured)
                if built is not None:
                    builds.setdefault(peer, []).append(built)
    for peer, runs in builds.items():
        measured.builds[peer] = {key: value for key, value in runs[0].items() if key != "params"}
    return document(NAME, dataset, plan, measured, clock="qps", summary=rows_of(dataset, builds))


def build_once(
    dataset: Dataset, peer: str, plan: Plan, logs: Path, repeat: int, measured: Measured
) -> dict[str, Any] | None:
    """Build one peer in a fresh process and take its recall; None where it fails, which is written down."""
    process = Process(peer, plan, logs / f"{peer}.log")
    try:
        built = process.ask(
            do="build", points=str(dataset.folder / "X.npy"), columns={}, threads=plan.build_threads
        )
        if "error" in built:
            measured.absent[peer] = built["error"]
            say(f"{peer:16} absent: {built['error']}")
            return None
        say(f"{peer:16} built in {built['build_s']:.1f} s")
        answer = process.ask(
            do="measure",
            queries=str(dataset.folder / "Q.npy"),
            truth=str(dataset.folder / f"truth-{TRUTH_K}.npy"),
            rows=None,
            filter=None,
            k=plan.k,
            n_queries=plan.n_queries,
            cpu=plan.cpu,
            point_s=plan.point_s,
            one=False,
            param=usual(built["params"]["none"]),
        )
        measured.points.append({"peer": peer, "filter": "none", "group": 0, "repeat": repeat, **answer})
        return built | {"recall": answer.get("recall")}
    finally:
        process.end()


def usual(params: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the parameter that stands nearest ef 64; where there is no ef, the middle of the sweep."""
    with_ef = [param for param in params if "ef" in param]
    if with_ef:
        return min(with_ef, key=lambda param: abs(int(param["ef"]) - RECALL_EF))
    return params[len(params) // 2]


def rows_of(dataset: Dataset, builds: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return one row for each peer, medians over its repeats, ratios to the base."""
    n = len(dataset.points)
    rows = []
    for peer, runs in builds.items():
        ratios = [
            base["build_s"] / run["build_s"] for run, base in zip(runs, builds.get(BASE, []), strict=False)
        ]
        cpu = [
            base["build_cpu_s"] / run["build_cpu_s"]
            for run, base in zip(runs, builds.get(BASE, []), strict=False)
        ]
        rows.append(
            {
                "peer": peer,
                "build_s": statistics.median(run["build_s"] for run in runs),
                "build_cpu_s": statistics.median(run["build_cpu_s"] for run in runs),
                "vectors_per_s": n / statistics.median(run["build_s"] for run in runs),
                "to_base": statistics.median(ratios) if ratios else None,
                "to_base_cpu": statistics.median(cpu) if cpu else None,
                "recall": runs[0]["recall"],
                "grown_bytes": statistics.median(run["grown_bytes"] for run in runs),
                "peak_bytes": statistics.median(run["peak_bytes"] for run in runs),
                "size_bytes": runs[0]["size_bytes"],
            }
        )
    return rows


def show(result: dict[str, Any]) -> None:
    """Print the table of a run."""
    shape, threads = result["dataset"], result["plan"]["build_threads"]
    print(f"\n{shape['name']}, {shape['rows']:,} x {shape['dim']}, {threads} thread(s)\n")
    rows = [
        [
            row["peer"],
            number(row["build_s"], 1),
            number(row["build_cpu_s"], 1),
            number(row["vectors_per_s"]),
            number(row["to_base"], 2, "x"),
            number(row["to_base_cpu"], 2, "x"),
            number(row["recall"], 4),
            number(row["grown_bytes"] / 2**20),
            number(row["peak_bytes"] / 2**20),
            number(None if row["size_bytes"] is None else row["size_bytes"] / 2**20),
        ]
        for row in sorted(result["summary"], key=lambda row: -row["vectors_per_s"])
    ]
    header = ["peer", "seconds", "CPU s", "vectors/s", "/hnswlib", "/hnswlib by CPU", "recall at ef 64"]
    print_table([*header, "growth MiB", "peak MiB", "size MiB"], rows)
    for peer, reason in result["absent"].items():
        print(f"\nabsent: {peer}: {reason}")


def main() -> None:
    """Measure, print, write, draw."""
    asked = arguments.parser(__doc__.splitlines()[0], NAME).parse_args()
    peers = arguments.chosen_peers(asked, QUICK_PEERS if asked.quick else PEERS)
    plan = Plan(
        python=asked.python,
        repeats=1 if asked.quick else asked.repeats,
        n_queries=300 if asked.quick else 1000,
        build_threads=asked.threads,
        cpu=asked.cpu,
        point_s=0.05,
    )
    if BASE not in peers:
        peers = [BASE, *peers]
    result = run(arguments.chosen_dataset(asked), peers, replace(plan, group=1))
    out = arguments.out_path(asked, NAME)
    write(result, out)
    show(result)
    plots.bars(result, out.with_suffix(".png"))
    print(f"\nwritten: {out} and {out.with_suffix('.png').name}")


if __name__ == "__main__":
    main()
