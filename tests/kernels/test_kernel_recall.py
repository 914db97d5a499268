"""Recall of the kernels alone, by distance, against exact search: unfiltered, and in every filter band."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from kernel_data import Shard, clustered

from vstore_kernels import acorn, bitmap, clusters, codes, distance, layout, scan, search

N, D, K = 6000, 32, 10


@functools.cache
def data() -> tuple[Shard, np.ndarray]:
    vectors = clustered(N + 200, D, seed=3, n_clusters=60, intrinsic=16)
    return Shard.of(vectors[:N], M=16, ef=100, block_shift=10, rows=256), vectors[N:]


def recall(answers: list[np.ndarray], queries: np.ndarray, passing: np.ndarray) -> float:
    own, _ = data()
    hits = total = 0
    for query, nodes in zip(queries, answers, strict=True):
        exact = distance.exact_distances(query, own.vectors, passing, "l2")
        wanted = min(K, exact.size)
        kth = np.partition(exact, wanted - 1)[wanted - 1]
        assert np.isin(nodes, passing).all()
        hits += int((distance.exact_distances(query, own.vectors, nodes, "l2") <= kth * (1 + 1e-6)).sum())
        total += wanted
    return hits / total


def answer(query: np.ndarray, ef: int, passing: np.ndarray | None = None) -> np.ndarray:
    own, _ = data()
    code, scratch = codes.prepare_query(query, own.params), search.SearchScratch()
    if passing is None:
        seeds, mode = np.array([search.descend(code, own.upper_codes, own.upper)]), layout.HNSW
    else:
        order = clusters.nearest_clusters(query, own.order.centroids, "l2")
        seeds, mode = acorn.pick_seeds(order, own.order.offsets, passing, 256), layout.ACORN
    search.begin(scratch, own.tables, seeds, ef, mode)
    assert search.step(scratch, own.tables, code, passing) == layout.DONE
    nodes, _ = search.results(scratch)
    return nodes[scan.topk(distance.exact_distances(query, own.vectors, nodes, "l2"), K)]


@pytest.mark.parametrize(("ef", "budget"), [(16, 0.85), (32, 0.95), (64, 0.99)])
def test_unfiltered(ef: int, budget: float) -> None:
    _, queries = data()
    assert recall([answer(q, ef) for q in queries], queries, np.arange(N)) >= budget


@pytest.mark.parametrize("correlation", ["far", "none", "near"])
@pytest.mark.parametrize("selectivity", [0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.001])
def test_cluster_seeded_acorn_in_every_band(selectivity: float, correlation: str) -> None:
    own, queries = data()
    rng = np.random.default_rng(7)
    direction = rng.standard_normal(D).astype(np.float32)
    if correlation == "none":
        flags = rng.random(N) < selectivity
    else:
        along = own.vectors @ direction
        flags = along > np.quantile(along, 1 - selectivity)
        side = queries @ direction
        queries = queries[
            side < np.quantile(side, 0.3) if correlation == "far" else side > np.quantile(side, 0.7)
        ]
    passing = bitmap.pack(flags)
    answers = [answer(q, 64, passing) for q in queries]
    assert recall(answers, queries, np.flatnonzero(flags)) >= 0.95


def test_copies_do_not_cut_the_rest_off() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2000, 8)).astype(np.float32)
    vectors[rng.permutation(2000)[:1000]] = 0
    own = Shard.of(vectors, M=8, ef=60, block_shift=8, rows=100)
    found = 0
    for query in rng.standard_normal((60, 8)).astype(np.float32):
        code, scratch = codes.prepare_query(query, own.params), search.SearchScratch()
        entry = search.descend(code, own.upper_codes, own.upper)
        search.begin(scratch, own.tables, np.array([entry]), 64, layout.HNSW)
        search.step(scratch, own.tables, code, None)
        nodes, _ = search.results(scratch)
        exact = distance.exact_distances(query, own.vectors, None, "l2")
        kth = np.partition(exact, K - 1)[K - 1]
        found += int(min(K, (exact[nodes] <= kth).sum()))
    assert found / 600 >= 0.95
