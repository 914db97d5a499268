"""Unfiltered search: queries a second against recall, one thread, each peer through its own best call.

    python -m benchmarks.unfiltered --dataset fashion [--peers hnswlib,vstore] [--quick]

Prints QPS at recall@10 of 0.95 and 0.99, read off each peer's frontier, with ratios to hnswlib and to vstore;
what vstore reached for each recall that it was asked; writes JSON, and a PNG of the frontiers.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import arguments, plots
from .datasets import TRUTH_K, Dataset
from .report import calibration, document, number, print_table, summary, write
from .runner import Plan, Task, measure

NAME = "unfiltered"
TASK = "none"


def plan_of(asked: argparse.Namespace) -> Plan:
    """Return the plan of a run."""
    return Plan(
        python=asked.python,
        repeats=1 if asked.quick else asked.repeats,
        n_queries=300 if asked.quick else 1000,
        build_threads=asked.threads,
        cpu=asked.cpu,
        point_s=0.1 if asked.quick else 0.5,
        sweep_s=5.0 if asked.quick else 30.0,
        group=asked.group,
        one=asked.one,
    )


def run(dataset: Dataset, peers: Sequence[str], plan: Plan, clock: str) -> dict[str, Any]:
    """Measure the peers on a data set; return the run as JSON."""
    dataset.truth()
    task = Task(TASK, dataset.folder / "Q.npy", dataset.folder / f"truth-{TRUTH_K}.npy")
    with tempfile.TemporaryDirectory() as logs:
        measured = measure(peers, dataset.folder / "X.npy", {}, [task], plan, Path(logs))
    return document(
        NAME,
        dataset,
        plan,
        measured,
        clock=clock,
        summary=summary(measured.points, peers, [TASK], clock),
        calibration=calibration(measured.points),
    )


def show(result: dict[str, Any]) -> None:
    """Print the tables of a run."""
    shape = result["dataset"]
    print(f"\n{shape['name']}, {shape['rows']:,} x {shape['dim']}, L2, k=10, one thread, {result['clock']}\n")
    rows = []
    for row in result["summary"]:
        cells = [row["peer"], result["builds"][row["peer"]]["version"]]
        for level in row["levels"].values():
            cells += [
                number(level["qps"]),
                number(level["to_base"], 2, "x"),
                number(level["to_vstore"], 2, "x"),
            ]
        rows.append([*cells, f"{row['best_recall']:.4f}"])
    rows.sort(key=lambda cells: -float(cells[2].replace(",", "").replace("-", "0")))
    header = ["peer", "version"]
    for level in ("0.95", "0.99"):
        header += [f"QPS at {level}", "/hnswlib", "/vstore"]
    print_table([*header, "best recall"], rows)
    if result["calibration"]:
        print("\nvstore: recall asked and reached (worst repeat)\n")
        print_table(
            ["asked", "reached"],
            [[f"{each['asked']}", f"{each['reached']:.4f}"] for each in result["calibration"]],
        )
    for peer, reason in result["absent"].items():
        print(f"\nabsent: {peer}: {reason}")


def main() -> None:
    """Measure, print, write, draw."""
    parser = arguments.parser(__doc__.splitlines()[0], NAME)
    parser.add_argument("--one", action="store_true", help="one query a call, for every peer")
    asked = parser.parse_args()
    peers = arguments.chosen_peers(asked)
    dataset = arguments.chosen_dataset(asked)
    result = run(dataset, peers, plan_of(asked), arguments.clock_key(asked))
    out = arguments.out_path(asked, NAME)
    write(result, out)
    show(result)
    plots.frontiers(result, out.with_suffix(".png"))
    print(f"\nwritten: {out} and {out.with_suffix('.png').name}")


if __name__ == "__main__":
    main()
