"""The traversals shipped as baselines, each with its source. A traversal is a generator, as in the engine:
it yields the blocks that it lacks, and returns candidates.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np

from vstore.lab import expansions
from vstore.lab.beam import expansion_walk, mode_walk
from vstore.lab.expand import compile_walk
from vstore.lab.graph import LabGraph
from vstore.lab.seeds import EntryPoint, FirstInClusters, Seeds
from vstore.traverse.base import NO_BLOCKS, Found, Walk, WalkParams, Wants
from vstore.types import Bitmap, Float32s, Int32s
from vstore_kernels import bitmap, layout
from vstore_kernels.codes import prepare_query
from vstore_kernels.scan import scan_codes


class LabTraversal(Protocol):
    """Finds the candidates of one query: `vstore.traverse.Traversal`, and it may see a `LabGraph`.

    Where `rescores_all` is true, all that it finds is scored exactly, not the best only.
    """

    @property
    def name(self) -> str:
        """The name by which experiments know it."""
        ...

    def walk(self, graph: LabGraph, query: Float32s, passing: Bitmap | None, params: WalkParams) -> Walk:
        """Yield what it lacks until it is done, then return candidates, all of them passing."""
        ...


class BeamTraversal:
    """A beam of passing nodes: seeds of one's choice, an expansion of one's choice.

    Args:
        name: for experiments.
        expand: an `expand.expansion`; compiled at the first walk.
        seeds: where the beam starts.
    """

    def __init__(self, name: str, expand: Any, seeds: Seeds | None = None) -> None:
        self.name = name
        self._expand, self._kernel = expand, None
        self._seeds: Seeds = EntryPoint() if seeds is None else seeds

    def walk(self, graph: LabGraph, query: Float32s, passing: Bitmap | None, params: WalkParams) -> Walk:
        """As `LabTraversal.walk`."""
        if self._kernel is None:
            self._kernel = compile_walk(self._expand)
        allowed = bitmap.full(graph.n) if passing is None else passing
        code = prepare_query(query, graph.code_params)
        picking = self._seeds.pick(graph, query, code, allowed, params)
        seeds, n_distances = yield from _with_predicted(picking, graph, query, params)
        if not len(seeds):
            return Found.nothing()
        found: Found = yield from expansion_walk(graph, code, seeds, allowed, self._kernel, params)
        found.n_distances += n_distances
        return found


class PostFilter:
    """HNSW without the filter, its candidates filtered afterwards: `oversampling` times as wide a beam.

    Args:
        oversampling: how many times wider.
    """

    name = "post_filter"

    def __init__(self, oversampling: int = 4) -> None:
        self._oversampling = oversampling

    def walk(self, graph: LabGraph, query: Float32s, passing: Bitmap | None, params: WalkParams) -> Walk:
        """As `LabTraversal.walk`."""
        allowed = bitmap.full(graph.n) if passing is None else passing
        width = min(params.ef * self._oversampling, layout.MAX_BEAM)
        found = yield from _plain(graph, query, None, layout.HNSW, params, width)
        kept = bitmap.unpack(allowed, graph.n)[found.node_ids]
        found.n_filter_checks += len(kept)
        found.node_ids, found.distances = found.node_ids[kept], found.distances[kept]
        return found


class ResultFilter:
    """HNSW through every node, the best passing ones kept apart, until none nearer can come (as hnswlib)."""

    name = "result_filter"

    def walk(self, graph: LabGraph, query: Float32s, passing: Bitmap | None, params: WalkParams) -> Walk:
        """As `LabTraversal.walk`."""
        allowed = bitmap.full(graph.n) if passing is None else passing
        return (yield from _plain(graph, query, allowed, layout.HNSW_RESULT_FILTER, params, params.ef))


class Clusters:
    """Inverted clusters alone, after SPANN (Chen et al. 2021): the passing rows of the nearest clusters are
    scored, no graph. Clusters without a passing row are not read: the filter is known before.

    Args:
        n_probe: clusters read.
    """

    name = "clusters"

    def __init__(self, n_probe: int = 16) -> None:
        self._n_probe = n_probe

    def walk(self, graph: LabGraph, query: Float32s, passing: Bitmap | None, params: WalkParams) -> Walk:
        """As `LabTraversal.walk`."""
        flags = np.ones(graph.n, bool) if passing is None else bitmap.unpack(passing, graph.n)
        parts: list[Int32s] = []
        for cluster in graph.nearest(query).tolist():
            members = graph.members(cluster)
            inside = members[flags[members]]
            if len(inside):
                parts.append(inside)
            if len(parts) == self._n_probe:
                break
        if not parts:
            return Found.nothing()
        rows = np.sort(np.concatenate(parts))
        yield Wants(codes=layout.blocks_of(rows, graph.tables.block_shift))
        code = prepare_query(query, graph.code_params)
        node_ids, distances = scan_codes(code, graph.tables, rows, params.ef)
        return Found(node_ids, distances, n_distances=len(rows) + len(graph.centroids))


class ExactScan:
    """Every passing row's exact vector: the truth, and its price."""

    name = "exact"
    rescores_all = True

    def walk(self, graph: LabGraph, query: Float32s, passing: Bitmap | None, params: WalkParams) -> Walk:
        """As `LabTraversal.walk`."""
        rows = np.arange(graph.n, dtype=np.int32) if passing is None else bitmap.indices(passing)
        yield from ()
        return Found(rows, np.zeros(len(rows), np.float32))


class ExactFallback:
    """RACORN-1+ (Kim & Choe 2026): a traversal, and where few rows pass, their exact scan instead.

    Args:
        inner: the traversal.
        share: up to this selectivity the scan takes over.
    """

    def __init__(self, name: str, inner: LabTraversal, share: float = 0.001) -> None:
        self.name = name
        self._inner, self._share = inner, share

    def walk(self, graph: LabGraph, query: Float32s, passing: Bitmap | None, params: WalkParams) -> Walk:
        """As `LabTraversal.walk`."""
        if passing is not None and bitmap.popcount(passing) <= self._share * graph.n:
            rows = bitmap.indices(passing)
            yield Wants(codes=layout.blocks_of(rows, graph.tables.block_shift))
            code = prepare_query(query, graph.code_params)
            node_ids, distances = scan_codes(code, graph.tables, rows, params.ef)
            return Found(node_ids, distances, n_distances=len(rows))
        return (yield from self._inner.walk(graph, query, passing, params))


def _plain(
    graph: LabGraph, query: Float32s, passing: Bitmap | None, mode: int, params: WalkParams, width: int
) -> Walk:
    """HNSW's own walk from its own entry point."""
    code = prepare_query(query, graph.code_params)
    every = bitmap.full(graph.n)
    picking = EntryPoint().pick(graph, query, code, every, params)
    seeds, n_distances = yield from _with_predicted(picking, graph, query, params)
    found: Found = yield from mode_walk(graph, code, seeds, passing, mode, width, params)
    found.n_distances += n_distances
    return found


def _with_predicted(picking: Any, graph: LabGraph, query: Float32s, params: WalkParams) -> Any:
    """Run a picking; its first round also reads the blocks of the clusters nearest to the query."""
    predicted = predicted_blocks(graph, query, params)
    first = True
    try:
        wants = next(picking)
        while True:
            if first:
                lists = np.union1d(wants.lists, predicted).astype(np.int32)
                codes = np.union1d(wants.codes, predicted).astype(np.int32)
                wants, first = Wants(lists, codes, wants.upper), False
            yield wants
            wants = picking.send(None)
    except StopIteration as stop:
        seeds, n_distances = stop.value
        if first and len(seeds):
            own = layout.blocks_of(seeds, graph.tables.block_shift)
            blocks = np.union1d(own, predicted).astype(np.int32)
            yield Wants(lists=blocks, codes=blocks)
        return seeds, n_distances


def predicted_blocks(graph: LabGraph, query: Float32s, params: WalkParams) -> Int32s:
    """Return the blocks of the query's nearest clusters, in whatever order the ids are."""
    if graph.tables.resident or not params.n_predicted:
        return NO_BLOCKS
    near = graph.nearest(query)[: params.n_predicted].tolist()
    return layout.blocks_of(np.concatenate([graph.members(c) for c in near]), graph.tables.block_shift)


def shipped() -> dict[str, LabTraversal]:
    """Return every shipped traversal by name, new; `acorn_gamma` is meant for a graph of `gamma`."""
    found: list[LabTraversal] = [
        PostFilter(),
        ResultFilter(),
        BeamTraversal("acorn1", expansions.two_hop),
        BeamTraversal("navix", expansions.adaptive),
        BeamTraversal("racorn1", expansions.bridged),
        ExactFallback("racorn1_plus", BeamTraversal("racorn1", expansions.bridged)),
        BeamTraversal("acorn_gamma", expansions.compressed),
        BeamTraversal("cluster_acorn", expansions.switched, FirstInClusters()),
        Clusters(),
        ExactScan(),
    ]
    return {traversal.name: traversal for traversal in found}


TRAVERSALS: Final[dict[str, LabTraversal]] = shipped()
"""Every shipped traversal by name."""
