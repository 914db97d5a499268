"""Recall on the demo's own vectors, against exact search, by distance: 0.95 in every filter band.

Budget: default settings, 100 queries a band, k = 10. Queries are vectors of the corpus, slightly moved.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import vstore
from vstore.cli.demo_corpus import collect, source_files
from vstore.cli.demo_embedding import Embedding

N_QUERIES = 100
K = 10
N_ROWS = 20_000
# Selectivity -> the filter; `band` is uniform over 0..999 and independent of the vectors.
BANDS = {"all": None, "50 %": 500, "10 %": 100, "1 %": 10, "0.1 %": 1}


@pytest.fixture(scope="module")
def demo() -> tuple[vstore.Collection, np.ndarray, np.ndarray]:
    corpus = collect(source_files(), limit=N_ROWS)
    assert len(corpus) == N_ROWS
    texts = [one.document for one in corpus]
    vectors = Embedding.fit(texts).embed(texts)
    rng = np.random.default_rng(11)
    band = rng.integers(0, 1000, len(corpus))
    db = vstore.connect("memory://", settings=vstore.Settings(n_threads=2))
    collection = db.create_collection(
        "demo", dim=vectors.shape[1], fields={"band": "int", "package": "str", "kind": "str", "lines": "int"}
    )
    columns = {
        "band": band,
        **{name: [getattr(one, name) for one in corpus] for name in ("package", "kind", "lines")},
    }
    collection.upsert(np.arange(len(corpus)), vectors, columns)
    collection.flush()
    chosen = rng.choice(len(corpus), N_QUERIES, replace=False)
    noise = rng.standard_normal((N_QUERIES, vectors.shape[1])).astype(np.float32)
    queries = vectors[chosen] + 0.3 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    return collection, vectors, queries


def recall_by_distance(
    collection: vstore.Collection, queries: np.ndarray, filter: Any
) -> tuple[float, set[str]]:
    """Mean share of hits no farther than the k-th of the exact answer, and the plans that ran."""
    n_found, n_wanted, plans = 0, 0, set()
    for query in queries:
        hits = collection.search(query, K, filter)
        exact = collection.search(query, K, filter, recall=1)
        assert len(hits) == len(exact) == min(K, exact.receipt.n_matching)
        limit = max(hit.distance for hit in exact) + 1e-5
        n_found += sum(hit.distance <= limit for hit in hits)
        n_wanted += len(exact)
        plans.update(plan["traversal"] for plan in hits.receipt.plans)
    return n_found / n_wanted, plans


@pytest.mark.parametrize("band", list(BANDS))
def test_recall_in_every_band(demo: Any, band: str) -> None:
    collection, _, queries = demo
    limit = BANDS[band]
    recall, plans = recall_by_distance(
        collection, queries, None if limit is None else {"band": {"$lt": limit}}
    )
    assert recall >= 0.95, f"recall {recall:.3f} with {plans}"


def test_recall_under_filters_that_go_with_the_text(demo: Any) -> None:
    collection, _, queries = demo
    for given in (
        {"package": "numpy"},
        {"kind": "method"},
        {"kind": {"$ne": "method"}, "lines": {"$lt": 60}},
    ):
        recall, plans = recall_by_distance(collection, queries, given)
        assert recall >= 0.95, f"recall {recall:.3f} under {given} with {plans}"


def test_exact_search_is_exact(demo: Any) -> None:
    collection, vectors, queries = demo
    for query in queries[:20]:
        scores = vectors @ (query / np.linalg.norm(query))
        hits = collection.search(query, K, recall=1)
        np.testing.assert_allclose(hits.scores, np.sort(scores)[::-1][:K], atol=1e-5)
