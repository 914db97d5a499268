"""Recall@10 against exact search, by distance, in every band of selectivity and correlation.

Budget: at least 0.95 on average over the queries of each cell, at default settings.
"""

from __future__ import annotations

import numpy as np
import pytest
from face_rows import queries, rows

import vstore
from vstore import F
from vstore.storage.memory import MemoryStore

N, DIM, K, N_QUERIES = 20_000, 24, 10, 40
SELECTIVITIES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.001)


@pytest.fixture(scope="module", params=["l2", "cosine", "dot"])
def world(request):
    """A collection whose field `near` ranks rows by distance from a pivot, `even` at random."""
    metric, vectors = request.param, rows(N, DIM)
    pivot = queries(200)[17]
    near = np.argsort(np.argsort(np.linalg.norm(vectors - pivot, axis=1)))
    even = np.random.default_rng(5).permutation(N)
    settings = vstore.Settings(n_threads=2, memtable_rows=N + 1)
    database = vstore.connect(MemoryStore(), settings=settings)
    fields = {"near": "int", "even": "int"}
    made = database.create_collection("c", dim=DIM, metric=metric, fields=fields)
    made.upsert(np.arange(N), vectors, {"near": near, "even": even})
    made.flush()
    index = vstore.IndexSettings(calibrate=False)
    graph = database.create_collection("graph", dim=DIM, metric=metric, fields=fields, index=index)
    graph.upsert(np.arange(N), vectors, {"near": near, "even": even})
    graph.flush()
    candidates = queries(200)
    order = np.argsort(np.linalg.norm(candidates - pivot, axis=1))
    return {
        "metric": metric,
        "vectors": vectors,
        "collection": made,
        "graph": graph,
        "near": near,
        "even": even,
        "near_queries": candidates[order[:N_QUERIES]],
        "any_queries": candidates[-N_QUERIES:],
    }


def exact(world, query):
    vectors = world["vectors"].astype(np.float64)
    q = query.astype(np.float64)
    if world["metric"] == "dot":
        return -(vectors @ q)
    if world["metric"] == "cosine":
        return 1 - vectors @ q / np.linalg.norm(vectors, axis=1) / np.linalg.norm(q)
    return np.linalg.norm(vectors - q, axis=1)


def mean_recall(world, search_queries, filter, matching):
    reached = []
    for query in search_queries:
        distances = exact(world, query)
        hits = world["collection"].search(query, k=K, filter=filter)
        true = np.sort(distances[matching])[:K]
        limit = true[-1] + 1e-5 * max(1.0, abs(true[-1]))
        assert len(hits) == len(true)
        assert matching[hits.ids].all()
        reached.append(np.mean(distances[hits.ids] <= limit))
    return float(np.mean(reached))


def test_unfiltered(world):
    assert mean_recall(world, world["any_queries"], None, np.ones(N, bool)) >= 0.95


@pytest.mark.parametrize("scans", [True, False], ids=["planned", "graph"])
@pytest.mark.parametrize("correlation", ["near", "none", "far"])
def test_every_cell(world, correlation, scans, monkeypatch):
    """`graph` takes the code scan away, so that cluster-seeded ACORN answers at this size."""
    if not scans:
        world = {**world, "collection": world["graph"]}
        monkeypatch.setattr("vstore.query.planner.SCAN_ROWS", 150)
    field = world["even" if correlation == "none" else "near"]
    for share in SELECTIVITIES:
        count = int(N * share)
        if correlation == "far":
            filter, matching = F.near >= N - count, field >= N - count
        else:
            name = F.even if correlation == "none" else F.near
            filter, matching = name < count, field < count
        searched = world["any_queries" if correlation == "none" else "near_queries"]
        reached = mean_recall(world, searched, filter, matching)
        assert reached >= 0.95, f"{correlation} {share:.1%}: recall {reached:.3f}"


def test_recall_1_is_exact(world):
    matching = world["even"] < N // 3
    for query in world["any_queries"][:5]:
        distances = np.where(matching, exact(world, query), np.inf)
        hits = world["collection"].search(query, k=K, filter=F.even < N // 3, recall=1.0)
        limit = np.sort(distances)[K - 1]
        assert (distances[hits.ids] <= limit + 1e-6 * abs(limit)).all()
