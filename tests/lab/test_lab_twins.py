"""Every traversal that ships, seeds and all, against a slow twin: lists, sets and sorting."""

from __future__ import annotations

import functools

import naive
import numpy as np
import pytest
from lab_data import N, index, passing, queries
from naive_walks import Naive

from vstore.lab.driver import finish
from vstore.lab.gamma import build_gamma
from vstore.lab.graph import LabGraph
from vstore.lab.layouts import separate
from vstore.lab.walks import TRAVERSALS
from vstore.traverse.base import WalkParams
from vstore_kernels import bitmap
from vstore_kernels.codes import prepare_query
from vstore_kernels.scan import scan_codes

PARAMS = WalkParams(ef=30, n_seeds=20)
EXPANDS = {"acorn1": "two_hop", "navix": "adaptive", "racorn1": "bridged", "racorn1_plus": "bridged"}
EXPANDS |= {"acorn_gamma": "compressed", "cluster_acorn": "switched"}


@functools.cache
def shown(gamma: bool) -> LabGraph:
    rows = build_gamma(index()) if gamma else index()
    graph = LabGraph(rows, separate(rows))
    graph.show_all()
    return graph


def estimates_of(graph: LabGraph, query: np.ndarray) -> np.ndarray:
    code = prepare_query(query, graph.code_params)
    order, distances = scan_codes(code, graph.tables, np.arange(N, dtype=np.int32), N)
    out = np.empty(N, np.float32)
    out[order] = distances
    return out


class Twin:
    """All traversals, by name, over one query and filter."""

    def __init__(self, graph: LabGraph, query: np.ndarray, flags: np.ndarray) -> None:
        self.graph, self.query, self.flags = graph, query, flags
        self.estimates = estimates_of(graph, query)
        upper = graph.index.upper
        rank = naive.descend(lambda r: self.estimates[upper.nodes[r]], upper)
        self.entry = int(upper.nodes[rank])

    def best(self, rows: list[int], count: int) -> list[int]:
        return sorted(rows, key=lambda row: (self.estimates[row], row))[:count]

    def clusters(self) -> list[list[int]]:
        """The passing rows of each cluster, nearest cluster first."""
        gaps = ((self.graph.centroids - self.query) ** 2).sum(axis=1)
        members = [np.flatnonzero(self.graph.index.cluster_of == c).tolist() for c in np.argsort(gaps)]
        return [[row for row in rows if self.flags[row]] for rows in members]

    def entry_seeds(self) -> list[int]:
        ring = [self.entry]
        for _ in range(3):
            found = [node for node in ring if self.flags[node]]
            if found:
                return found
            ring = sorted({x for node in ring for x in naive.row_of(self.graph.index.neighbors, node)})
        return np.flatnonzero(self.flags)[:1].tolist()

    def find(self, name: str) -> list[int]:
        rows = np.flatnonzero(self.flags).tolist()
        neighbors, ef = self.graph.index.neighbors, PARAMS.ef
        if name == "exact":
            return rows
        if name == "clusters":
            probed = [some for some in self.clusters() if some][:16]
            return self.best([row for some in probed for row in some], ef)
        if name == "racorn1_plus" and len(rows) <= 0.001 * N:
            return self.best(rows, ef)
        if name == "post_filter":
            wide = naive.walk(lambda x: self.estimates[x], neighbors, [self.entry], 4 * ef)
            return [node for _, node in wide if self.flags[node]]
        if name == "result_filter":
            walked = naive.walk_result_filter(
                lambda x: self.estimates[x], neighbors, [self.entry], ef, self.flags.tolist()
            )
            return [node for _, node in walked]
        seeds = self.entry_seeds()
        if name == "cluster_acorn":
            seeds = [row for some in self.clusters() for row in some][: PARAMS.n_seeds]
        twin = Naive(neighbors, self.flags, self.estimates)
        return twin.search(seeds, ef, getattr(twin, EXPANDS[name]))


@pytest.mark.parametrize("share", [1.0, 0.5, 0.15, 0.03, 0.0007])
@pytest.mark.parametrize("name", sorted(TRAVERSALS))
def test_a_traversal_finds_what_its_slow_twin_finds(name: str, share: float) -> None:
    graph = shown(name == "acorn_gamma")
    allowed = passing(share, seed=5)
    flags = bitmap.unpack(allowed, N)
    assert flags.any()
    for query in queries(6):
        found = finish(TRAVERSALS[name].walk(graph, query, allowed, PARAMS))
        twin = Twin(graph, query, flags)
        assert found.node_ids.tolist() == twin.find(name)
        if name != "exact":
            assert np.array_equal(found.distances, twin.estimates[found.node_ids])
