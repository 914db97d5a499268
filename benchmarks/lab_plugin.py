"""What an expansion of one's own costs over the engine's built-in one: the same search, resident, in turn.

    python benchmarks/lab_plugin.py [--rows 60000] [--repeats 15]

Both walks make the same answers (checked); the plug-in is `lab.expansions.switched`. Written down: the median
over repeats of the ratio of two neighbouring runs over all queries.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np

from benchmarks.datasets import load
from vstore.lab.beam import expansion_walk
from vstore.lab.driver import finish
from vstore.lab.expand import compile_walk
from vstore.lab.expansions import switched
from vstore.lab.graph import LabGraph
from vstore.lab.index import build_index
from vstore.lab.layouts import separate
from vstore.traverse.base import Found, WalkParams
from vstore.traverse.walk import beam_walk
from vstore_kernels import bitmap, layout
from vstore_kernels.acorn import pick_seeds
from vstore_kernels.codes import prepare_query

RESULT = Path(__file__).parent / "results" / "lab_plugin.json"
LIMIT = 1.10


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="fashion")
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    data = load(asked.data, asked.rows)
    index = build_index(data.points)
    graph = LabGraph(index, separate(index))
    graph.show_all()
    kernel = compile_walk(switched)
    params = WalkParams(ef=96)
    rows = []
    for share in (0.5, 0.2, 0.05):
        allowed = bitmap.pack(np.random.default_rng(1).random(index.n) < share)
        prepared = []
        for query in data.queries[:300]:
            seeds = pick_seeds(graph.nearest(query), graph.cluster_offsets, allowed, params.n_seeds)
            prepared.append((prepare_query(query, graph.code_params), seeds))

        def built_in(prepared: list = prepared, allowed: np.ndarray = allowed) -> list[Found]:
            return [finish(beam_walk(graph, c, s, allowed, layout.ACORN, params)) for c, s in prepared]

        def plug_in(prepared: list = prepared, allowed: np.ndarray = allowed) -> list[Found]:
            return [finish(expansion_walk(graph, c, s, allowed, kernel, params)) for c, s in prepared]

        for a, b in zip(built_in(), plug_in(), strict=True):
            assert np.array_equal(a.node_ids, b.node_ids)
            assert a.n_distances == b.n_distances
        ratios, base = [], []
        for i in range(asked.repeats):
            took = {}
            for run in (built_in, plug_in) if i % 2 else (plug_in, built_in):
                started = time.perf_counter()
                run()
                took[run.__name__] = time.perf_counter() - started
            ratios.append(took["plug_in"] / took["built_in"])
            base.append(took["built_in"] / len(prepared) * 1e6)
        row = {"share": share, "ratio": statistics.median(ratios), "built_in_us": statistics.median(base)}
        rows.append(row)
        ratio, base_us = row["ratio"], row["built_in_us"]
        print(f"{share:>5.0%} pass: plug-in / built-in {ratio:.3f} of {base_us:.0f} us a query")
    worst = max(row["ratio"] for row in rows)
    print(f"worst {worst:.3f}; the limit is {LIMIT}: {'holds' if worst <= LIMIT else 'does not hold'}")
    report = {"data": asked.data, "rows": asked.rows, "ef": params.ef, "shares": rows, "worst": worst}
    report |= {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    asked.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
