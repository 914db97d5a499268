"""The memtable scanned by codes: recall against exact search, filters, dead rows, and when codes are made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import vstore
from vstore import F
from vstore.ingest.chunk_codes import CODED_ROWS, SCANS_BEFORE_CODES
from vstore.storage.memory import MemoryStore

DIM, N, K = 48, 9_000, 10


def vectors_of(n: int, clustered: bool, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((n, DIM))
    if clustered:
        found = np.random.default_rng(0).standard_normal((20, DIM))[rng.integers(0, 20, n)] + 0.3 * found
    return found.astype(np.float32)


def filled(metric: Any, clustered: bool) -> tuple[vstore.Collection, dict[int, np.ndarray]]:
    """A collection whose rows are all in the memtable, upserted in batches, some replaced, some deleted."""
    settings = vstore.Settings(memtable_rows=10 * N, background=False, n_threads=1)
    db = vstore.connect(MemoryStore(), settings=settings)
    collection = db.create_collection("c", dim=DIM, metric=metric, fields={"v": "int"})
    rows: dict[int, np.ndarray] = {}
    vectors = vectors_of(N, clustered, 1)
    for start in range(0, N, 900):
        ids = np.arange(start, start + 900)
        collection.upsert(ids, vectors[start : start + 900], {"v": ids % 100})
        rows.update(zip(ids.tolist(), vectors[start : start + 900], strict=True))
    for _ in range(SCANS_BEFORE_CODES + 1):
        collection.search(vectors[0], k=K)
    again = np.arange(0, N, 7)
    new = vectors_of(len(again), clustered, 2)
    collection.upsert(again, new, {"v": again % 100})
    rows.update(zip(again.tolist(), new, strict=True))
    dead = np.arange(1, N, 5)
    collection.delete(ids=dead)
    for key in dead.tolist():
        rows.pop(key, None)
    return collection, rows


def distances(query: np.ndarray, vectors: np.ndarray, metric: str) -> np.ndarray:
    if metric == "l2":
        return np.linalg.norm(vectors - query, axis=1)
    inner = vectors @ query
    return -inner if metric == "dot" else 1 - inner / (
        np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    )  # fmt: skip


@pytest.mark.parametrize("clustered", [False, True], ids=["plain", "clustered"])
@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_recall_and_distances_counted(metric: str, clustered: bool):
    collection, rows = filled(metric, clustered)
    keys = np.array(list(rows))
    vectors = np.stack(list(rows.values()))
    place = {key: at for at, key in enumerate(rows)}
    queries = vectors_of(20, clustered, 3)
    for filter, passing in [
        (None, np.ones(len(keys), bool)),
        (F.v < 50, keys % 100 < 50),
        (F.v == 3, keys % 100 == 3),
    ]:
        found = n_exact = 0
        for query in queries:
            hits = collection.search(query, k=K, filter=filter)
            assert len(hits) == K
            assert filter is None or all(bool(passing[place[hit.id]]) for hit in hits)
            true = distances(query, vectors[passing], metric)
            limit = np.partition(true, K - 1)[K - 1]
            own = distances(query, np.stack([rows[hit.id] for hit in hits]), metric)
            found += int((own <= limit + 1e-4).sum())
            assert np.allclose([hit.distance for hit in hits], own, atol=1e-3)
            receipt = hits.receipt
            assert receipt.n_matching == passing.sum()
            assert receipt.n_distances == receipt.n_matching
            n_exact += receipt.n_rescored
        assert found / (K * len(queries)) >= 0.95
        if filter is None:
            assert "scanned by codes" in hits.receipt.plan
            assert n_exact / len(queries) < 0.05 * passing.sum()
    sure = collection.search(queries[0], k=K, recall=1.0)
    assert "scored exactly" in sure.receipt.plan
    true = distances(queries[0], vectors, metric)
    assert set(sure.ids) == set(keys[np.argsort(true)[:K]].tolist())


def test_codes_are_made_once_where_scans_have_paid_for_them(monkeypatch: pytest.MonkeyPatch):
    from vstore.ingest import chunk_codes

    made: list[int] = []
    coded = chunk_codes.coded

    def counted(vectors: np.ndarray, metric: Any) -> Any:
        made.append(len(vectors))
        return coded(vectors, metric)

    monkeypatch.setattr(chunk_codes, "coded", counted)
    settings = vstore.Settings(memtable_rows=100_000, background=False, n_threads=1)
    collection = vstore.connect(MemoryStore(), settings=settings).create_collection("c", dim=8, metric="l2")
    rng = np.random.default_rng(1)
    collection.upsert(np.arange(3_000), rng.standard_normal((3_000, 8)))
    collection.upsert(np.arange(3_000, 3_000 + CODED_ROWS // 8), rng.standard_normal((CODED_ROWS // 8, 8)))
    for _ in range(SCANS_BEFORE_CODES):
        collection.search(np.zeros(8))
    assert made == []
    collection.search(np.zeros(8), recall=1.0)
    assert made == []
    for _ in range(5):
        collection.search(np.zeros(8))
    assert made == [3_000]
    # Rows that die change nothing about the vectors.
    collection.delete(ids=np.arange(0, 3_000, 3))
    hits = collection.search(np.zeros(8), k=20)
    assert all(key % 3 or key >= 3_000 for key in hits.ids)
    assert "scanned by codes" in hits.receipt.plan
    assert made == [3_000]


def test_batches_and_single_searches_agree():
    collection, _ = filled("l2", True)
    queries = vectors_of(12, True, 4)
    batch = collection.search_batch(queries, k=K, filter=F.v < 60)
    for i, query in enumerate(queries):
        hits = collection.search(query, k=K, filter=F.v < 60)
        assert batch.ids[i].tolist() == hits.ids
        assert np.array_equal(batch.scores[i], hits.scores)
        assert batch.receipts[i].n_rescored == hits.receipt.n_rescored
