"""Draws single queries as they walked: the rows in two dimensions, and what they met in which round."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

import numpy as np

from vstore.lab.beam import WatchedParams
from vstore.lab.driver import run_alone, run_query
from vstore.lab.experiment import Cell, Experiment, Policy
from vstore.lab.graph import LabGraph
from vstore.lab.parts import layout_of, traversal_of
from vstore.lab.plots import Picture, _png, pyplot
from vstore.lab.runner import GAMMA_GRAPHS, index_of, params_of, queries_of
from vstore.lab.workload import Filters, stream_of
from vstore.types import Bitmap, Float32s, Float64s, Int32s
from vstore_kernels import bitmap

_COLUMNS: Final = 4
_MAX_POINTS: Final = 6000


def drawings(experiment: Experiment, out: Path) -> list[Picture]:
    """Return a picture for each of the first queries of the experiment's last workload.

    Args:
        experiment: `drawings` says how many.
        out: the folder of its results, with the indexes.
    """
    if not experiment.drawings:
        return []
    cell = experiment.cells[-1]
    return [draw(experiment, cell, place, out) for place in range(experiment.drawings)]


def draw(experiment: Experiment, cell: Cell, place: int, out: Path) -> Picture:
    """Return the walks of the query at a place of the stream, side by side."""
    plt = pyplot()
    queries = queries_of(cell)
    index = index_of(experiment, out, cell, False)
    number = int(stream_of(cell.workload, queries, index, experiment.n_queries, cell.seed)[place])
    query = queries[number]
    passing = Filters(cell.workload, index, cell.seed).of(place, query)
    flags = np.ones(index.n, bool) if passing is None else bitmap.unpack(passing, index.n)
    flat, star = projected(index.vectors, query)
    policies = list({policy.name: policy for policy in experiment.policies}.values())
    walked = [(policy, _walked(experiment, cell, policy, query, passing, out)) for policy in policies]
    walked = [(policy, walk) for policy, walk in walked if walk[0]]
    columns, lines = min(_COLUMNS, len(walked)), -(-len(walked) // _COLUMNS)
    figure, axes = plt.subplots(lines, columns, figsize=(4.2 * columns, 4.2 * lines), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    some = np.random.default_rng(0).permutation(index.n)[:_MAX_POINTS]
    for axis, (policy, (rounds, found)) in zip(axes.flat, walked, strict=False):
        axis.set_axis_on()
        for chosen, colour, size in ((some[~flags[some]], "#dddddd", 2), (some[flags[some]], "#7fb2e5", 4)):
            axis.scatter(flat[chosen, 0], flat[chosen, 1], s=size, c=colour, linewidths=0)
        seen = np.concatenate(rounds)
        when = np.repeat(np.arange(1, len(rounds) + 1), [len(nodes) for nodes in rounds])
        for chosen, marker, size in ((~flags[seen], "x", 9), (flags[seen], "o", 13)):
            at, width = flat[seen[chosen]], 0.6 if marker == "x" else 0
            how: dict[str, Any] = {"cmap": "plasma", "vmin": 1, "vmax": len(rounds), "marker": marker}
            dots = axis.scatter(at[:, 0], at[:, 1], s=size, c=when[chosen], linewidths=width, **how)
        hits = np.flatnonzero(np.isin(index.rows, found))
        axis.scatter(
            flat[hits, 0], flat[hits, 1], s=46, facecolors="none", edgecolors="green", linewidths=1.2
        )
        axis.scatter(*star, marker="*", s=110, c="red", edgecolors="black", linewidths=0.5)
        n_passing = int(flags[seen].sum())
        met = f"{n_passing} passing, {len(seen) - n_passing} failing"
        axis.set_title(f"{policy.name}: {met}, {len(rounds)} rounds", fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
        ticks = sorted({int(tick) for tick in np.linspace(1, len(rounds), 5)})
        figure.colorbar(dots, ax=axis, shrink=0.6, label="round", ticks=ticks)
    caption = (
        f"Query {number} under the filter {cell.workload.name}: the two main directions of the data. Blue "
        "rows pass, grey ones fail. What was scored or stepped over is coloured by round: a dot where it "
        "passes, a cross where it fails. Rings: the answer. Star: the query."
    )
    return Picture(f"walk-{place}", caption, _png(figure))


def projected(vectors: Float32s, query: Float32s) -> tuple[Float64s, Float64s]:
    """Return float64[n, 2] and float64[2]: rows and a query along the two main directions of the rows."""
    sample = vectors[np.random.default_rng(0).permutation(len(vectors))[:2000]].astype(np.float64)
    middle = sample.mean(axis=0)
    _, _, directions = np.linalg.svd(sample - middle, full_matrices=False)
    # Signs of singular vectors are arbitrary: their largest component is made positive.
    main = directions[:2]
    main *= np.sign(main[np.arange(2), np.abs(main).argmax(axis=1)])[:, None]
    return (vectors - middle) @ main.T, (query - middle) @ main.T


def _walked(
    experiment: Experiment, cell: Cell, policy: Policy, query: Float32s, passing: Bitmap | None, out: Path
) -> tuple[list[Int32s], Any]:
    """Return what each round met first, and the rows found; no rounds where a traversal has no beam."""
    index = index_of(experiment, out, cell, policy.traversal in GAMMA_GRAPHS)
    graph = LabGraph(index, layout_of(cell.index.layout, experiment.folder)(index))
    seen: list[Int32s] = []
    plain = params_of(policy, experiment.k)
    params = WatchedParams(**dataclasses.asdict(plain), watch=seen.append)
    traversal = traversal_of(policy.traversal, experiment.folder)
    trace = run_alone(run_query(graph, traversal, query, passing, params, experiment.k))
    rounds = []
    before = np.empty(0, np.int32)
    for nodes in seen:
        fresh = np.setdiff1d(nodes, before)
        before = nodes
        if len(fresh):
            rounds.append(fresh.astype(np.int32))
    return rounds, trace.rows
