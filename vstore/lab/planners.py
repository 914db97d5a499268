"""Planners: which traversal a query gets. A plug point; `Planned` makes a traversal of one."""

from __future__ import annotations

from typing import Protocol

from vstore.lab.graph import LabGraph
from vstore.lab.walks import TRAVERSALS, LabTraversal
from vstore.query.planner import choose
from vstore.traverse import CodeScan
from vstore.traverse.base import Walk, WalkParams
from vstore.types import Bitmap, Float32s
from vstore_kernels import bitmap


class Planner(Protocol):
    """Chooses for one query."""

    def plan(
        self, graph: LabGraph, query: Float32s, passing: Bitmap | None, params: WalkParams
    ) -> LabTraversal:
        """Return the traversal for a query (float32[d]) under a filter; nothing may be read for it."""
        ...


class BySelectivity:
    """By the share of passing rows: a scan of few, the engine's walk for some, a plain walk for most.

    Args:
        scan_rows: up to so many passing rows are scanned.
        plain_share: from this share on, the walk goes through failing rows too.
    """

    def __init__(self, scan_rows: int = 1000, plain_share: float = 0.8) -> None:
        self._scan_rows, self._plain_share = scan_rows, plain_share

    def plan(
        self, graph: LabGraph, query: Float32s, passing: Bitmap | None, params: WalkParams
    ) -> LabTraversal:
        """As `Planner.plan`."""
        n = graph.n if passing is None else bitmap.popcount(passing)
        if n <= self._scan_rows:
            return CodeScan()
        return TRAVERSALS["result_filter" if n >= self._plain_share * graph.n else "cluster_acorn"]


class EngineRules:
    """The engine's rules for shards without a calibration (`query.planner.choose`)."""

    def plan(
        self, graph: LabGraph, query: Float32s, passing: Bitmap | None, params: WalkParams
    ) -> LabTraversal:
        """As `Planner.plan`."""
        n = graph.n if passing is None else bitmap.popcount(passing)
        plan = choose(
            n_rows=graph.n, n_matching=n, filtered=passing is not None, k=10, recall=0.95, ef=params.ef
        )
        if plan.traversal == "scan":
            return CodeScan()
        return TRAVERSALS["cluster_acorn" if plan.traversal == "cluster_acorn" else "result_filter"]


class Planned:
    """The traversal of whatever a planner chooses.

    Args:
        name: for experiments.
        planner: asked for each query.
    """

    def __init__(self, name: str, planner: Planner) -> None:
        self.name, self._planner = name, planner

    def walk(self, graph: LabGraph, query: Float32s, passing: Bitmap | None, params: WalkParams) -> Walk:
        """As `LabTraversal.walk`."""
        chosen = self._planner.plan(graph, query, passing, params)
        return (yield from chosen.walk(graph, query, passing, params))


PLANNED: dict[str, LabTraversal] = {
    "plan_by_selectivity": Planned("plan_by_selectivity", BySelectivity()),
    "plan_as_engine": Planned("plan_as_engine", EngineRules()),
}
"""The traversals of the shipped planners, by name."""
