"""Runs an experiment: cell by cell, in two processes, each cell's result in a file of its own.

A run that was broken off goes on where it was: a cell that has its file, of the same sources, is not run
again. The results become one tidy table, a row for each cell, policy, cache and store.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import multiprocessing
import os
import platform
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from vstore.lab import datasets, keep
from vstore.lab.asked import Asked, asked_of
from vstore.lab.driver import run_alone, run_query
from vstore.lab.experiment import Cell, Experiment, IndexChoice, Policy
from vstore.lab.gamma import build_gamma
from vstore.lab.graph import LabGraph
from vstore.lab.index import LabIndex, build_index
from vstore.lab.parts import cache_of, layout_of, order_of, traversal_of
from vstore.lab.replay import COUNTS, Cost, Server, StageCost, replay
from vstore.lab.trace import Trace, record, save
from vstore.progress import progress_of
from vstore.traverse.base import WalkParams
from vstore.types import Float32s

GAMMA_GRAPHS: Final = frozenset({"acorn_gamma"})
"""Traversals that walk a graph of their own."""
_WALKED: Final = ("n_distances", "n_hops", "n_filter_checks", "n_lists", "n_candidates", "n_rescored")


def run_experiment(
    experiment: Experiment,
    out: Path,
    n_processes: int = 2,
    progress: bool = True,
    traces: bool = False,
) -> list[dict[str, Any]]:
    """Run what is not done yet and write `table.csv` and `facts.json` to `out`; return the table.

    Args:
        experiment: from `read_experiment`.
        out: the folder of the results; made where it is not there.
        n_processes: cells that run at once.
        progress: shows a bar where there is a terminal.
        traces: also keeps the trace of every cell and policy.
    """
    cells = out / "cells"
    cells.mkdir(parents=True, exist_ok=True)
    sources = keep.sources_name()
    files = [cells / f"{_cell_name(experiment, cell, sources)}.json" for cell in experiment.cells]
    left = [i for i, file in enumerate(files) if not file.exists()]
    done = len(files) - len(left)
    with progress_of(progress, experiment.name, "cells") as report:
        # Built here, by one process with all threads, so that no two build the same.
        for cell in [experiment.cells[i] for i in left]:
            for gamma in {policy.traversal in GAMMA_GRAPHS for policy in experiment.policies}:
                index_of(experiment, out, cell, gamma)
        report(done, len(files))
        for _ in _each(experiment, [(i, files[i]) for i in left], out, n_processes, traces):
            done += 1
            report(done, len(files))
    table = [row for file in files for row in json.loads(file.read_text())]
    _write_table(table, out / "table.csv")
    facts = facts_of(experiment, sources)
    (out / "facts.json").write_text(json.dumps(facts, indent=2) + "\n")
    return table


def _each(
    experiment: Experiment, left: list[tuple[int, Path]], out: Path, n_processes: int, traces: bool
) -> Iterator[None]:
    if n_processes == 1 or len(left) < 2:
        for i, file in left:
            run_cell(experiment, i, file, out, traces)
            yield
        return
    # Processes of their own: numba's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_processes, mp_context=context) as pool:
        futures: list[Future[None]] = [
            pool.submit(run_cell, experiment, i, file, out, traces) for i, file in left
        ]
        try:
            for future in as_completed(futures):
                future.result()
                yield
        finally:
            for future in futures:
                future.cancel()


def run_cell(experiment: Experiment, number: int, file: Path, out: Path, traces: bool = False) -> None:
    """Run all policies, caches and stores over one cell and write its rows to `file`."""
    cell = experiment.cells[number]
    asked: dict[bool, list[Asked]] = {}
    rows = []
    for policy in experiment.policies:
        gamma = policy.traversal in GAMMA_GRAPHS
        index = index_of(experiment, out, cell, gamma)
        if gamma not in asked:
            stream = (cell.workload, index, queries_of(cell), experiment.n_queries, experiment.k, cell.seed)
            asked[gamma] = asked_of(*stream)
        graph = graph_of(index, cell.index.layout, experiment.folder)
        trace, recall = _walk_all(experiment, graph, policy, asked[gamma])
        if traces:
            (out / "traces").mkdir(exist_ok=True)
            save(trace, out / "traces" / f"{number}-{policy.name}-{policy.ef}.msgpack")
        for cache in experiment.caches:
            for store in experiment.stores:
                policies = cache_of(cache, experiment.folder)
                server = Server(graph.placement, policies, store, cell.seed, experiment.reads)
                costs = replay(trace, server, experiment.n_clients)
                named = {"cache": cache.name, "limit_bytes": cache.limit_bytes, "store": store.name}
                rows.append(_describe(cell, index) | _policy(policy) | named | _means(trace, costs, recall))
    part = file.with_suffix(".part")
    part.write_text(json.dumps(rows))
    part.replace(file)


def _walk_all(
    experiment: Experiment, graph: LabGraph, policy: Policy, asked: list[Asked]
) -> tuple[Trace, float]:
    """Return the trace of a cell's stream, and the mean recall."""
    traversal = traversal_of(policy.traversal, experiment.folder)
    params = params_of(policy, experiment.k)
    walks = [
        run_alone(run_query(graph, traversal, one.query, one.passing, params, experiment.k, place))
        for place, one in enumerate(asked)
    ]
    recalls = [one.recall(walk) for one, walk in zip(asked, walks, strict=True)]
    return record(walks, graph.placement.sizes), float(np.mean(recalls))


def params_of(policy: Policy, k: int) -> WalkParams:
    """Return the walk's parameters; a beam is never narrower than k."""
    return WalkParams(max(policy.ef, k), policy.n_seeds, policy.lookahead or None, policy.n_predicted)


def queries_of(cell: Cell) -> Float32s:
    """Return float32[m, d]: the queries of a cell's data set."""
    return _load(json.dumps(cell.data)).queries


def index_of(experiment: Experiment, out: Path, cell: Cell, gamma: bool) -> LabIndex:
    """Return the index of a cell, built, or kept in `out`; that of ACORN-gamma where `gamma` is set."""
    plain = _index(out, json.dumps(cell.data), dataclasses.replace(cell.index, order="cluster"), gamma)
    return _ordered(plain, cell.index.order, experiment.folder)


@functools.lru_cache(maxsize=2)
def _load(data: str) -> datasets.Dataset:
    return datasets.load(json.loads(data))


@functools.lru_cache(maxsize=4)
def _index(out: Path, data: str, choice: IndexChoice, gamma: bool) -> LabIndex:
    """Return an index in cluster order, built or kept."""
    built = {k: v for k, v in dataclasses.asdict(choice).items() if k not in ("order", "layout")}
    key = {"data": json.loads(data), "index": built, "gamma": gamma, "sources": keep.build_sources_name()}

    def make() -> LabIndex:
        loaded = _load(data)
        if gamma:
            return build_gamma(_index(out, data, choice, False))
        return build_index(loaded.vectors, loaded.metric, **built)

    return keep.kept(out / "indexes" / f"{keep.name_of(key)}.npz", make)


@functools.lru_cache(maxsize=2)
def graph_of(index: LabIndex, layout: str, folder: Path) -> LabGraph:
    """Return an index as traversals see it: laying it out means compressing all of its lists once."""
    return LabGraph(index, layout_of(layout, folder)(index))


@functools.lru_cache(maxsize=4)
def _ordered(index: LabIndex, order: str, folder: Path) -> LabIndex:
    return index if order == "cluster" else index.renumbered(order_of(order, folder)(index))


def _cell_name(experiment: Experiment, cell: Cell, sources: str) -> str:
    described = dataclasses.asdict(experiment) | {"cells": None, "folder": None, "text": None}
    described |= {"name": None, "title": None, "drawings": None}
    return keep.name_of(json.loads(json.dumps([described, dataclasses.asdict(cell), sources], default=str)))


def _describe(cell: Cell, index: LabIndex) -> dict[str, Any]:
    workload = cell.workload
    return {
        "data": cell.data.get("kind", ""),
        "n": index.n,
        "d": index.vectors.shape[1],
        "order": cell.index.order,
        "layout": cell.index.layout,
        "block_shift": cell.index.block_shift,
        "workload": workload.name,
        "selectivity": workload.selectivity,
        "correlation": workload.correlation,
        "seed": cell.seed,
    }


def _policy(policy: Policy) -> dict[str, Any]:
    return {"policy": policy.name, "ef": policy.ef, "n_seeds": policy.n_seeds}


def _means(trace: Trace, costs: list[Cost], recall: float) -> dict[str, Any]:
    """Return recall, the mean counts of a query, and the quantiles of its virtual time."""
    walked = trace.queries
    out: dict[str, Any] = {"n_queries": len(walked), "recall": recall}
    for name in _WALKED:
        out[name] = float(np.mean([query.counters.get(name, 0) for query in walked]))
    for name in COUNTS:
        out[name] = float(np.mean([getattr(cost, name) for cost in costs]))
    for stage in ("traverse", "rescore"):
        parts = [cost.by_stage.get(stage, StageCost()) for cost in costs]
        for name in COUNTS:
            short = name.removeprefix("n_").removesuffix("_fetched")
            out[f"{short}_{stage}"] = float(np.mean([getattr(part, name) for part in parts]))
        out[f"usd_per_1000_{stage}"] = float(np.mean([part.usd for part in parts])) * 1000
    asked = sum(cost.n_units for cost in costs)
    out["hit_rate"] = sum(cost.n_cache_hits for cost in costs) / asked if asked else 0.0
    out["usd_per_1000"] = float(np.mean([cost.usd for cost in costs])) * 1000
    times: Any = [cost.latency_ms for cost in costs]
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        out[f"latency_{name}_ms"] = float(np.quantile(times, share))
    return out


def _write_table(table: list[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def facts_of(experiment: Experiment, sources: str) -> dict[str, Any]:
    """Return what the results depend on: versions, machine, commit."""
    try:
        asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        commit = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {
        "name": experiment.name,
        "title": experiment.title,
        "experiment": experiment.text,
        "commit": commit,
        "sources": sources,
        "versions": {name: version(name) for name in ("vstore", "numpy", "numba")},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
