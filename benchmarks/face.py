"""What the Python face costs, what stays in memory, and how soon a fresh process answers: vstore alone.

    python -m benchmarks.face --dataset fashion [--quick]

One query a call, k=10: microseconds of `search` over the same queries in one `search_batch`, which is the
kernels' own time and little else; what `warm()` reads against the growth of a fresh process that does it;
seconds from import to the first answer, with kernels compiled before and never. Prints a table, writes JSON,
and draws the calls' spread.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import arguments, plots
from .datasets import Dataset
from .peers.own import Vstore
from .report import document, number, print_table, write
from .runner import ROOT, Measured, Plan, say

NAME = "face"
N_CALLS = 2000
ROUNDS = 5
ANSWER = """
import json, logging, sys, time
logging.basicConfig(level=logging.INFO)
started = time.perf_counter()
import numpy as np
import vstore
imported = time.perf_counter()
query = np.load(sys.argv[2])[0]
database = vstore.connect(sys.argv[1], read_only=True)
hits = database.collection("rows").search(query, k=10)
answered = time.perf_counter()
print(json.dumps({"import_s": imported - started, "answer_s": answered - started, "hits": len(hits)}))
"""
"""A caller's first lines, timed inside: the interpreter's own start is not ours."""
MEMORY = """
import gc, json, os, sys
import numpy as np
import vstore
def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
queries = np.load(sys.argv[2])
small = vstore.connect("memory://").create_collection("small", dim=queries.shape[1], metric="l2")
small.upsert(np.arange(500), queries[:500], progress=False)
small.flush(progress=False)
small.search_batch(queries[:20])
before = resident()
rows = vstore.connect(sys.argv[1], read_only=True).collection("rows")
warm = rows.warm(progress=False)
print(json.dumps({"warm_bytes": warm, "grown_bytes": resident() - before, "rows": len(rows)}))
"""
"""The small collection loads the kernels first, so that they do not count as the data's memory."""


def fresh(script: str, store: Path, queries: Path, cache: str | None = None) -> tuple[dict[str, Any], str]:
    """Run a script in a fresh process, `cache` being its kernel cache; return its figures and its messages.

    Raises:
        RuntimeError: the script failed.
    """
    done = subprocess.run(
        [sys.executable, "-c", script, str(store), str(queries)],
        cwd=ROOT,
        env=os.environ | ({"NUMBA_CACHE_DIR": cache} if cache else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"a fresh process failed: {done.stderr.strip()[-500:]}")
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures, done.stderr


def startup(store: Path, queries: Path, repeats: int) -> dict[str, Any]:
    """Return seconds from import to the first answer: kernels never compiled; compiled before (medians)."""
    with tempfile.TemporaryDirectory() as cache:
        cold, said = fresh(ANSWER, store, queries, cache)
        warm = [fresh(ANSWER, store, queries, cache)[0] for _ in range(repeats)]
    return {
        "cold_s": cold["answer_s"],
        "cold_says_so": "compil" in said.lower(),
        "warm_s": statistics.median(each["answer_s"] for each in warm),
        "import_s": statistics.median(each["import_s"] for each in warm),
    }


def calls(collection: Any, queries: Any, k: int) -> dict[str, Any]:
    """Return microseconds of one query a call and of one in a batch, medians of rounds that take turns."""
    collection.search_batch(queries, k)
    for query in queries[:200]:
        collection.search(query, k)
    alone, together, spread = [], [], []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        collection.search_batch(queries, k)
        together.append((time.perf_counter() - started) / len(queries) * 1e6)
        each_us = []
        for query in queries:
            begun = time.perf_counter()
            collection.search(query, k)
            each_us.append((time.perf_counter() - begun) * 1e6)
        alone.append(statistics.mean(each_us))
        spread += each_us
    # Means of a round on both sides, so that both meet the same queries; the median is over rounds.
    over = statistics.median(one - many for one, many in zip(alone, together, strict=True))
    return {
        "call_us": statistics.median(alone),
        "batch_us": statistics.median(together),
        "over_us": over,
        "percentiles_us": {str(p): float(np.percentile(spread, p)) for p in (1, 10, 50, 90, 99)},
    }


def run(dataset: Dataset, plan: Plan) -> dict[str, Any]:
    """Build the data set once, and measure calls, memory and starts on it."""
    measured = Measured()
    own = Vstore()
    try:
        started = time.perf_counter()
        own.build(dataset.points, {}, plan.build_threads)
        say(f"built in {time.perf_counter() - started:.1f} s")
        spent = calls(own.collection, dataset.queries[: plan.n_queries], plan.k)
        store, queries = own.folder / "store", dataset.folder / "Q.npy"
        memory, _ = fresh(MEMORY, store, queries)
        starts = startup(store, queries, plan.repeats)
    finally:
        shutil.rmtree(own.folder, ignore_errors=True)
    more = {"calls": spent, "memory": memory, "startup": starts}
    return document(NAME, dataset, plan, measured, clock="qps", **more)


def show(result: dict[str, Any]) -> None:
    """Print the table of a run."""
    shape, spent, memory = result["dataset"], result["calls"], result["memory"]
    starts = result["startup"]
    print(f"\n{shape['name']}, {shape['rows']:,} x {shape['dim']}, one query a call, k=10\n")
    growth = memory["grown_bytes"] / max(1, memory["warm_bytes"])
    rows = [
        ["search, one query a call", number(spent["call_us"], 1, " us"), ""],
        ["the same query in search_batch", number(spent["batch_us"], 1, " us"), ""],
        ["over the kernel's own time", number(spent["over_us"], 1, " us"), "40 us"],
        ["read by warm()", number(memory["warm_bytes"] / 2**20, 1, " MiB"), ""],
        ["a process grows by", number(memory["grown_bytes"] / 2**20, 1, " MiB"), ""],
        ["growth over what was read", number(growth, 2, "x"), "1.15x"],
        ["import", number(starts["import_s"], 2, " s"), ""],
        ["import to answer, kernels compiled", number(starts["warm_s"], 2, " s"), "1.5 s"],
        ["import to answer, never compiled", number(starts["cold_s"], 2, " s"), "20 s"],
    ]
    print_table(["what", "measured", "at most"], rows)
    print(f"\nit says that it compiles: {'yes' if starts['cold_says_so'] else 'no'}")


def main() -> None:
    """Measure, print, write, draw."""
    asked = arguments.parser(__doc__.splitlines()[0], NAME).parse_args()
    plan = Plan(
        repeats=1 if asked.quick else asked.repeats,
        n_queries=300 if asked.quick else N_CALLS,
        build_threads=asked.threads,
        cpu=asked.cpu,
    )
    result = run(arguments.chosen_dataset(asked), plan)
    out = arguments.out_path(asked, NAME)
    write(result, out)
    show(result)
    plots.spread(result, out.with_suffix(".png"))
    print(f"\nwritten: {out} and {out.with_suffix('.png').name}")


if __name__ == "__main__":
    main()
