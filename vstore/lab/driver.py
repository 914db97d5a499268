"""Runs one query of a traversal and says, round by round, which stored units it asked for.

The walk sees what this query has asked for and nothing else, whatever a cache may hold. So its rounds do not
depend on the cache, and a recorded query replays against any cache and any store with the counts that it
would have had live (`replay`). The engine lets a walk see what is cached; where that spares it a stop, its
rounds are fewer than the lab's.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from vstore.lab.graph import LabGraph
from vstore.lab.layouts import CODES, LISTS, UPPER, VECTORS
from vstore.lab.walks import LabTraversal
from vstore.query.planner import candidates_for
from vstore.traverse.base import Found, WalkParams, Wants
from vstore.types import Bitmap, Bools, Float32s, Int64s
from vstore_kernels.codes import prepare_query
from vstore_kernels.distance import exact_distances
from vstore_kernels.rescore import rescore, undecided
from vstore_kernels.scan import topk

T = TypeVar("T")


@dataclass(slots=True)
class QueryTrace:
    """What one query did."""

    query: int
    """Its number in the workload."""
    traversal: str
    rounds: list[Int64s] = field(default_factory=list)
    """Of each round that asked for anything: int64, the units not asked for before, ascending."""
    stages: list[str] = field(default_factory=list)
    """Of each round: "traverse" or "rescore"."""
    rows: Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    """int64[<= k]: the data set's rows that were found, nearest first."""
    distances: Float32s = field(default_factory=lambda: np.empty(0, np.float32))
    counters: dict[str, int] = field(default_factory=dict)
    """n_distances, n_hops, n_filter_checks, n_lists, n_candidates, n_rescored."""
    decisions: dict[str, int] = field(default_factory=dict)
    """What was chosen: ef, n_seeds, n_predicted."""
    keys: list[int | str] = field(default_factory=list)
    """Of a collection's query: the ids that were found, nearest first, in place of `rows`."""
    live: list[dict[str, int]] = field(default_factory=list)
    """Of a collection's query, for each round, as it was served then: n_hits, n_requests, bytes_fetched."""


Round = tuple[Int64s, str]
"""The units of a round, and its stage."""
Rounds = Generator[Round, None, QueryTrace]
"""Yields its rounds and is resumed when their units are there."""


def run_query(
    graph: LabGraph,
    traversal: LabTraversal,
    query: Float32s,
    passing: Bitmap | None,
    params: WalkParams,
    k: int,
    number: int = 0,
) -> Rounds:
    """Run one query: the traversal, then the exact vectors of the candidates that these can decide.

    Args:
        graph: what is searched; one query at a time.
        traversal: how.
        query: float32[d], raw.
        passing: rows that may be returned, or None for all.
        params: the search's width.
        k: rows wanted.
        number: the query's, for the trace.
    """
    trace = QueryTrace(number, traversal.name)
    seen = np.zeros(len(graph.placement.sizes), bool)
    graph.show(seen)
    walk = traversal.walk(graph, query, passing, params)
    try:
        wants = next(walk)
        while True:
            yield from _round(trace, seen, _units(graph, wants), "traverse")
            graph.show(seen)
            wants = walk.send(None)
    except StopIteration as stop:
        found: Found = stop.value
    finally:
        walk.close()
    everything = bool(getattr(traversal, "rescores_all", False))
    yield from _rescore(graph, trace, seen, query, found, k, everything)
    trace.counters |= {
        "n_distances": found.n_distances,
        "n_hops": found.n_hops,
        "n_filter_checks": found.n_filter_checks,
        "n_lists": found.n_lists,
    }
    trace.decisions |= {"ef": params.ef, "n_seeds": params.n_seeds, "n_predicted": params.n_predicted}
    return trace


def finish(generator: Generator[Any, None, T]) -> T:
    """Run a walk, or a query's rounds, with nothing brought to it, and return what it returns."""
    try:
        while True:
            next(generator)
    except StopIteration as stop:
        found: T = stop.value
        return found


def run_alone(rounds: Rounds) -> QueryTrace:
    """Run a query without a store and return its trace."""
    return finish(rounds)


def _units(graph: LabGraph, wants: Wants) -> Int64s:
    unit_of = graph.placement.unit_of
    parts = [unit_of[LISTS][wants.lists], unit_of[CODES][wants.codes]]
    if wants.upper:
        parts.append(unit_of[UPPER])
    return np.unique(np.concatenate(parts))


def _round(trace: QueryTrace, seen: Bools, units: Int64s, stage: str) -> Generator[Round, None, None]:
    """Ask for those of the units that were not asked for before, if any."""
    fresh = units[~seen[units]]
    if len(fresh):
        seen[fresh] = True
        trace.rounds.append(fresh)
        trace.stages.append(stage)
        yield fresh, stage


def _rescore(
    graph: LabGraph, trace: QueryTrace, seen: Bools, query: Float32s, found: Found, k: int, everything: bool
) -> Generator[Round, None, None]:
    index = graph.index
    m = len(found.node_ids) if everything else candidates_for(k)
    candidates, estimates = found.node_ids[:m], found.distances[:m]
    trace.counters["n_candidates"] = len(candidates)
    trace.counters["n_rescored"] = 0
    if not len(candidates):
        return
    if not everything:
        code = prepare_query(query, graph.code_params)
        kept, spreads = undecided(code, graph.tables, candidates, estimates, k)
        candidates, estimates = candidates[kept], estimates[kept]
    blocks = np.unique(candidates // index.vector_rows)
    yield from _round(trace, seen, graph.placement.unit_of[VECTORS][blocks], "rescore")
    vectors = np.ascontiguousarray(index.vectors[candidates])
    if everything:
        exact = exact_distances(query, vectors, None, index.metric)
        best = topk(exact, k)
        trace.rows, trace.distances = index.rows[candidates[best]], exact[best]
        trace.counters["n_rescored"] = len(candidates)
        return
    places, distances, n_rescored = rescore(query, vectors, index.metric, estimates, spreads, k)
    trace.rows, trace.distances = index.rows[candidates[places]], distances
    trace.counters["n_rescored"] = n_rescored
