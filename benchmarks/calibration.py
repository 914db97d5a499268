"""Recall asked for against recall reached, in every cell of the grid, on queries that the build never saw.

    python -m benchmarks.calibration --dataset clustered --rows 60000

Prints a table and writes benchmarks/results/calibration-<dataset>.json.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from vstore.settings import IndexSettings

from .planning import CORRELATIONS, SHARES, Built, Cell, Floats, Searcher, build, cell_of, cells, recall
from .planning_data import NAMES, load_points

ASKED = (0.90, 0.95, 0.98, 0.99, 0.995, 0.999)
KS = (1, 10, 50, 100)
RESULTS = Path(__file__).parent / "results"
SLACK = 0.01


def main() -> None:
    """Build, search, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=NAMES, default="fashion")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--metric", choices=("l2", "cosine", "dot"), default="l2")
    parser.add_argument("--queries", type=int, default=80, help="of a cell")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--codes", default="8")
    parser.add_argument("--quick", action="store_true", help="10,000 rows, one k")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    points, queries, strange = load_points(asked.dataset, 10_000 if asked.quick else asked.rows)
    codes: Any = asked.codes if asked.codes == "auto" else int(asked.codes)
    built = build(points, asked.metric, IndexSettings(codes=codes), 1)
    shape_text = f"{asked.dataset}: {len(points)} x {points.shape[1]}, {asked.metric}"
    print(f"{shape_text}, built in {built.build_s:.1f} s of processor time")
    rows = measure(built, queries, strange, asked.queries, (10,) if asked.quick else KS, asked.seed)
    report(rows)
    out = asked.out or RESULTS / f"calibration-{asked.dataset}{'-quick' if asked.quick else ''}.json"
    out.parent.mkdir(exist_ok=True)
    bits = built.head.code_params.bits
    shape = {"dataset": asked.dataset, "rows": len(points), "dim": points.shape[1], "metric": asked.metric}
    out.write_text(
        json.dumps({**shape, "bits": bits, "build_s": built.build_s, "cells": rows}, indent=1) + "\n"
    )


def measure(
    built: Built, queries: Floats, strange: dict[str, Floats], n_queries: int, ks: tuple[int, ...], seed: int
) -> list[dict[str, Any]]:
    """Return a row for each (cell, k, recall asked) with the recall reached."""
    searcher = Searcher(built)
    out: list[dict[str, Any]] = []
    rng = np.random.default_rng(seed)
    some = queries[rng.choice(len(queries), min(len(queries), 4 * n_queries), replace=False)]
    groups: list[tuple[str, float, list[Cell]]] = [("unfiltered", 1.0, [cell_of(built, some, None)])]
    groups += [(f"strange: {name}", 1.0, [cell_of(built, found, None)]) for name, found in strange.items()]
    for correlation in CORRELATIONS:
        for share in SHARES:
            groups.append(
                (correlation, share, list(cells(built, queries, correlation, share, n_queries, seed)))
            )
    for name, share, parts in groups:
        for k in ks:
            for wanted in ASKED:
                reached, used, weights = [], Counter[str](), []
                for part in parts:
                    ids, plans = searcher.planned(part, k, wanted)
                    reached.append(recall(built, part, ids, k))
                    weights.append(len(ids))
                    used.update(plan.traversal for plan in plans)
                found = float(np.average(reached, weights=weights))
                out.append(
                    {
                        "cell": name,
                        "share": share,
                        "k": k,
                        "asked": wanted,
                        "reached": round(found, 4),
                        "traversals": dict(used),
                        "ef": plans[-1].ef,
                    }
                )
    return out


def report(rows: list[dict[str, Any]]) -> None:
    """Print a line for each cell and k: the recall reached for each recall asked, and what fell short."""
    short = 0
    print(f"{'cell':>20} {'share':>6} {'k':>4} " + " ".join(f"{wanted:>7}" for wanted in ASKED))
    for key in dict.fromkeys((row["cell"], row["share"], row["k"]) for row in rows):
        line = [row for row in rows if (row["cell"], row["share"], row["k"]) == key]
        marks = [
            f"{row['reached']:.4f}{'!' if row['reached'] < row['asked'] - SLACK else ' '}" for row in line
        ]
        short += sum("!" in mark for mark in marks)
        used = ",".join(sorted({name for row in line for name in row["traversals"]}))
        print(f"{key[0]:>20} {key[1]:>6.1%} {key[2]:>4} " + " ".join(marks) + f" {used} ef {line[1]['ef']}")
    print(f"{short} of {len(rows)} reached less than asked - {SLACK}")


if __name__ == "__main__":
    main()
