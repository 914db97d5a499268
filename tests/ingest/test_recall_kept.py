"""Answers after many deletes and after rounds of change: as many hits as asked for, and as good as before."""

from __future__ import annotations

import numpy as np
import pytest

import vstore
from vstore import F
from vstore.storage.memory import MemoryStore

N, DIM, K = 3_000, 16, 10


def recall(collection, rows: dict[int, np.ndarray], queries: np.ndarray) -> float:
    """The share of the true k nearest, by distance, that searches find; each must give k hits."""
    vectors = np.stack(list(rows.values()))
    found = 0
    for query in queries:
        hits = collection.search(query, k=K)
        assert len(hits) == K
        assert all(hit.id in rows for hit in hits)
        limit = np.partition(np.linalg.norm(vectors - query, axis=1), K - 1)[K - 1]
        found += sum(np.linalg.norm(rows[hit.id] - query) <= limit + 1e-5 for hit in hits)
    return found / (K * len(queries))


@pytest.fixture
def place():
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((30, DIM)) * 2

    def draw(n: int) -> np.ndarray:
        return (centres[rng.integers(0, 30, n)] + rng.standard_normal((n, DIM))).astype(np.float32)

    settings = vstore.Settings(memtable_rows=400, n_threads=1, background=False)
    db = vstore.connect(MemoryStore(), settings=settings)
    index = vstore.IndexSettings(M=8, ef_construction=60, cluster_rows=64, block_rows=128)
    collection = db.create_collection("c", dim=DIM, metric="l2", fields={"v": "int"}, index=index)
    vectors = draw(N)
    collection.upsert(np.arange(N), vectors, {"v": np.arange(N) % 10})
    collection.compact()
    return db, collection, dict(enumerate(vectors)), draw, rng


def test_half_of_the_rows_deleted_still_gives_k_hits(place):
    _, collection, rows, draw, rng = place
    dead = rng.permutation(N)[: N // 2].tolist()
    assert collection.delete(ids=dead) == N // 2
    for key in dead:
        del rows[key]
    queries = draw(30)
    assert recall(collection, rows, queries) >= 0.95
    for query in queries[:10]:
        hits = collection.search(query, k=K, filter=F.v < 5)
        assert len(hits) == K
        assert all(hit.id in rows and hit.attributes["v"] < 5 for hit in hits)


def test_ten_rounds_of_upserts_deletes_and_merges_keep_recall(place):
    db, collection, rows, draw, rng = place
    queries = draw(30)
    before = recall(collection, rows, queries)
    for round in range(10):
        keys = rng.permutation(N + 200 * round)[:300].tolist()
        vectors = draw(300)
        collection.upsert(keys, vectors, {"v": [round] * 300})
        rows.update(zip(keys, vectors, strict=True))
        dead = [key for key in rng.permutation(N)[:200].tolist() if key in rows]
        assert collection.delete(ids=dead) == len(dead)
        for key in dead:
            del rows[key]
        db._writers.acquire("c").maintain()
    assert len(collection) == len(rows)
    assert recall(collection, rows, queries) >= min(before, 0.99) - 0.02
    collection.compact()
    assert len(db._catalog.load("c").shards) == 1
    assert recall(collection, rows, queries) >= min(before, 0.99) - 0.02
