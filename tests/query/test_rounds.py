"""A fetched block and a resident one give the same answer, and the receipt says what the store saw."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from face_rows import build_store, queries

import vstore
from vstore import F
from vstore.query import planner
from vstore.storage.wrappers.counting import CountingStore
from vstore.traverse import TRAVERSALS

FILTERS = {"all": None, "half": F.bucket < 50, "tenth": F.bucket < 10, "few": F.bucket == 3}


@pytest.fixture(scope="module")
def store():
    return build_store(n=6_000, dim=24, block_rows=128)


def connect(store, **settings):
    counted = CountingStore(store)
    return vstore.connect(counted, settings=vstore.Settings(n_threads=1, **settings)), counted


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("ef", [None, 40])
def test_nothing_resident_equals_all_resident(store, name, ef, monkeypatch):
    # A small scan limit makes the graph traversals run at this size.
    monkeypatch.setattr("vstore.query.planner.SCAN_ROWS", 100)
    cold, _ = connect(store, cache_bytes=0)
    warm, _ = connect(store)
    small, _ = connect(store, cache_bytes=300_000)
    collections = [database.collection("c") for database in (cold, warm, small)]
    collections[1].warm()
    for query in queries(12):
        answers = [c.search(query, k=10, filter=FILTERS[name], ef=ef) for c in collections]
        assert [a.ids for a in answers[1:]] == [answers[0].ids] * 2
        assert all(np.array_equal(a.scores, answers[0].scores) for a in answers)
        work = [(a.receipt.n_distances, a.receipt.n_hops, a.receipt.plan) for a in answers]
        assert work[1:] == work[:1] * 2


@pytest.mark.parametrize("name", FILTERS)
def test_the_receipt_is_what_the_store_saw(store, name, monkeypatch):
    monkeypatch.setattr("vstore.query.planner.SCAN_ROWS", 100)
    database, counted = connect(store)
    collection = database.collection("c")
    for query in queries(6):
        before = counted.snapshot()
        receipt = collection.search(query, k=10, filter=FILTERS[name]).receipt
        seen = counted.delta(before)
        assert receipt.n_round_trips == seen.n_round_trips
        assert receipt.n_requests == seen.n_requests
        assert receipt.bytes_fetched == seen.bytes_fetched
        assert receipt.estimated_cost_usd == pytest.approx(seen.n_gets * 0.0004 / 1000)


def test_a_repeated_query_reads_nothing(store):
    database, _ = connect(store)
    collection = database.collection("c")
    first = collection.search(queries(1)[0], filter=FILTERS["tenth"]).receipt
    again = collection.search(queries(1)[0], filter=FILTERS["tenth"]).receipt
    assert first.n_cache_misses > 0
    assert first.n_round_trips >= 2
    assert (again.n_round_trips, again.n_requests, again.bytes_fetched, again.n_cache_misses) == (0, 0, 0, 0)
    assert again.n_cache_hits > 0


def test_warm_leaves_only_vectors_and_payload_to_read(store):
    database, counted = connect(store)
    collection = database.collection("c")
    seen = []
    before = counted.snapshot()
    n_bytes = collection.warm(progress=lambda done, total: seen.append((done, total)))
    # Warming reads blocks as they lie; gaps between near ranges are not counted as warmed.
    assert 0 < n_bytes <= counted.delta(before).bytes_fetched
    assert seen[-1][0] == seen[-1][1]
    receipt = collection.search(queries(1)[0], k=10, filter=FILTERS["half"]).receipt
    assert receipt.n_round_trips == 1
    assert collection.warm() == 0


def test_explain_plans_without_searching(store):
    database, _ = connect(store)
    collection = database.collection("c")
    plan = collection.explain(queries(1)[0], filter=FILTERS["tenth"])
    answer = collection.search(queries(1)[0], filter=FILTERS["tenth"]).receipt
    assert plan.plan == answer.plan
    assert plan.plans == answer.plans
    assert (plan.n_matching, plan.selectivity) == (answer.n_matching, answer.selectivity)
    assert plan.n_distances == plan.n_rescored == 0


@pytest.mark.parametrize("name", ["hnsw", "result_filter", "acorn1", "cluster_acorn", "near_scan", "scan"])
def test_every_traversal_is_the_same_cold_and_warm(store, name, monkeypatch):
    """All shipped traversals, whatever the planner would have chosen, stop and resume alike."""
    assert name in TRAVERSALS
    plan = planner.choose

    def forced(**known):
        return dataclasses.replace(plan(**known), traversal=name)

    monkeypatch.setattr(planner, "choose", forced)
    filter = None if name == "hnsw" else FILTERS["half"]
    cold, warm = (connect(store, cache_bytes=limit)[0].collection("c") for limit in (0, 1 << 30))
    warm.warm()
    for query in queries(5):
        one, other = cold.search(query, filter=filter), warm.search(query, filter=filter)
        assert one.ids == other.ids
        assert one.receipt.n_hops == other.receipt.n_hops
        assert len(one) == 10


def test_damaged_blocks_are_named_and_never_cached(store):
    from vstore.storage.wrappers.faults import Fault, FaultStore

    spoil = [True]
    broken = FaultStore(store, lambda method, key: Fault.FLIP if spoil[0] and method == "get_many" else None)
    collection = vstore.connect(broken).collection("c")
    with pytest.raises(vstore.errors.CorruptData, match="shards/"):
        collection.search(queries(1)[0])
    spoil[0] = False
    clean = vstore.connect(store).collection("c")
    assert collection.search(queries(1)[0]).ids == clean.search(queries(1)[0]).ids
