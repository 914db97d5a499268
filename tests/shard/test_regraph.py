"""Graphs made from older ones: as good as built anew, the same on any number of threads, where it pays."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import vstore
from vstore.shard import builder
from vstore.shard.regraph import MAX_LOST_SHARE, OldGraph, extended_hnsw, worth_extending
from vstore.storage.memory import MemoryStore
from vstore_kernels import clusters
from vstore_kernels.build import HNSWGraph, build_hnsw

DIM, M, EF = 24, 8, 60


def drawn(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((30, DIM)) * 1.5
    return (centres[rng.integers(0, 30, n)] + rng.standard_normal((n, DIM))).astype(np.float32)


def merged(n_old: int, n_new: int, dead: float) -> tuple[np.ndarray, OldGraph, np.ndarray]:
    """The space of a merge in cluster order, the old graph, and where its live rows are now."""
    old = drawn(n_old, 1)
    old = np.ascontiguousarray(old[clusters.cluster_order(old, 64, 0, 1).order])
    graph = build_hnsw(old, M, EF)
    alive = np.flatnonzero(np.random.default_rng(2).random(n_old) >= dead)
    space = np.concatenate([old[alive], drawn(n_new, 3)])
    order = clusters.cluster_order(space, 64, 0, 1).order
    places = np.argsort(order)[: len(alive)]
    return np.ascontiguousarray(space[order]), OldGraph(graph, alive, n_old - len(alive)), places


def extended(space: np.ndarray, old: OldGraph, places: np.ndarray, **more: Any) -> HNSWGraph | None:
    return extended_hnsw(space, old, places, ef_construction=EF, seed=0, **{"n_threads": 1, **more})


def check_graph(graph: HNSWGraph, n: int) -> None:
    graph.upper.check(n)
    for node, row in enumerate(graph.neighbors):
        linked = row[row >= 0]
        assert (row[len(linked) :] == -1).all()
        assert len(set(linked.tolist())) == len(linked)
        assert node not in linked
        assert linked.max(initial=0) < n


@pytest.mark.parametrize(("n_new", "dead"), [(0, 0.05), (300, 0.0), (300, 0.1), (2_000, 0.1), (1, 0.0)])
def test_it_is_a_sound_graph_whatever_the_threads(n_new: int, dead: float):
    space, old, places = merged(2_000, n_new, dead)
    asked: list[np.ndarray] = []

    def on_prefix(graph: HNSWGraph, held_out: np.ndarray) -> None:
        asked.append(held_out)
        assert (graph.neighbors[held_out] == -1).all()
        assert not np.isin(graph.neighbors, held_out).any()

    graph = extended(space, old, places, n_held_out=40, on_prefix=on_prefix)
    assert graph is not None
    assert [len(held_out) for held_out in asked] == [40]
    check_graph(graph, len(space))
    again = extended(space, old, places, n_held_out=40, on_prefix=on_prefix, n_threads=3)
    assert again is not None
    assert np.array_equal(graph.neighbors, again.neighbors)
    assert np.array_equal(graph.upper_links, again.upper_links)
    assert (graph.neighbors[:, 0] >= 0).all()


def test_no_node_above_the_ground_is_left():
    space, old, _ = merged(400, 20, 0.0)
    above = np.isin(np.arange(400), old.graph.upper_nodes)
    rows = np.flatnonzero(~above)
    assert extended(space, OldGraph(old.graph, rows, 0), rows) is None


@pytest.mark.parametrize(
    ("n_live", "n_lost", "n_rows", "worth"),
    [(100, 0, 100, True), (30, 0, 100, True), (29, 0, 100, False), (90, 10, 100, True), (90, 11, 100, False)],
)
def test_where_it_pays(n_live: int, n_lost: int, n_rows: int, worth: bool):
    assert worth_extending(n_live, n_lost, n_rows) == worth


def recall(collection: vstore.Collection, rows: dict[int, np.ndarray], queries: np.ndarray) -> float:
    vectors = np.stack(list(rows.values()))
    found = 0
    for query in queries:
        limit = np.partition(np.linalg.norm(vectors - query, axis=1), 9)[9]
        hits = collection.search(query, k=10)
        found += sum(np.linalg.norm(rows[hit.id] - query) <= limit + 1e-5 for hit in hits)
    return found / (10 * len(queries))


def test_merges_begin_with_the_largest_shard_and_keep_recall(monkeypatch: pytest.MonkeyPatch):
    """Twelve rounds of change: graphs are reused until a tenth of one died, and then built anew."""
    made: list[tuple[int, bool]] = []

    def extend(space: np.ndarray, old: OldGraph, *args: Any, **more: Any) -> HNSWGraph | None:
        graph = extended_hnsw(space, old, *args, **more)
        made.append((old.n_lost, graph is not None))
        assert old.n_lost <= MAX_LOST_SHARE * (len(old.rows) + old.n_lost)
        return graph

    monkeypatch.setattr(builder, "extended_hnsw", extend)
    settings = vstore.Settings(memtable_rows=100_000, background=False, n_threads=1)
    db = vstore.connect(MemoryStore(), settings=settings)
    index = vstore.IndexSettings(M=M, ef_construction=EF, cluster_rows=64, block_rows=128)
    collection = db.create_collection("c", dim=DIM, metric="l2", index=index)
    vectors = drawn(3_000, 1)
    collection.upsert(np.arange(3_000), vectors)
    collection.compact(progress=False)
    rows, queries = dict(enumerate(vectors)), drawn(40, 9)
    before = recall(collection, rows, queries)
    rng = np.random.default_rng(4)
    for round in range(12):
        keys = rng.permutation(3_500)[:60].tolist()
        new = drawn(60, 100 + round)
        collection.upsert(keys, new)
        rows.update(zip(keys, new, strict=True))
        dead = rng.permutation(list(rows))[:30].tolist()
        collection.delete(ids=dead)
        for key in dead:
            del rows[key]
        collection.compact(progress=False)
        assert len(collection) == len(rows)
        assert recall(collection, rows, queries) >= min(before, 0.99) - 0.02
    lost = [n_lost for n_lost, _ in made]
    assert all(done for _, done in made)
    assert 6 <= len(made) < 12, "most merges reuse the graph, and one of twelve at least builds it anew"
    assert any(b < a for a, b in itertools.pairwise(lost))
    assert db.verify("c").ok
