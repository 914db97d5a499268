"""Warming reads what was asked for, once, within its budget, and searches then find it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from face_rows import DIM, queries, rows

import vstore
from vstore import F
from vstore.errors import CorruptData, InvalidInput, InvalidSetting
from vstore.storage.memory import MemoryStore
from vstore.storage.wrappers.counting import CountingStore
from vstore.storage.wrappers.faults import Fault, FaultStore

N = 4_000


@pytest.fixture(autouse=True)
def walks(monkeypatch):
    # A small scan limit makes the graph traversals run at this size.
    monkeypatch.setattr("vstore.query.planner.SCAN_ROWS", 50)


@pytest.fixture(scope="module")
def store():
    """Two shards of 2,000 rows; `side`: at one end of the space; `bucket`: key % 100."""
    made = MemoryStore()
    with vstore.connect(made, settings=vstore.Settings(n_threads=2, memtable_rows=N)) as database:
        index = vstore.IndexSettings(block_rows=128, ef_construction=80, cluster_rows=64, calibrate=False)
        fields = {"bucket": "int", "side": "bool"}
        collection = database.create_collection("c", dim=DIM, metric="l2", fields=fields, index=index)
        vectors = rows(N)
        axis = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)[2][0]
        along = (vectors - vectors.mean(0)) @ axis
        side = along > np.quantile(along, 0.85)
        for start in (0, N // 2):
            part = slice(start, start + N // 2)
            attributes = {"bucket": np.arange(N)[part] % 100, "side": side[part]}
            collection.upsert(np.arange(N)[part], vectors[part], attributes)
            collection.flush()
    return made


def collection_of(store, cache_dir=None, **settings):
    counted = CountingStore(store)
    database = vstore.connect(counted, settings=vstore.Settings(n_threads=1, **settings), cache_dir=cache_dir)
    return database.collection("c"), counted


def shard_ids(collection):
    return [live.shard.shard_id for live in collection._view().shards]


def held(collection):
    cache = collection._engine.cache
    return {key for shard_id in shard_ids(collection) for key in cache.resident(shard_id)}


def test_a_second_call_reads_nothing_and_bytes_are_those_of_the_store(store):
    collection, counted = collection_of(store)
    before = counted.snapshot()
    warmed = collection.warm(False)
    seen = counted.delta(before)
    assert (warmed, warmed.n_requests, warmed.n_left) == (seen.bytes_fetched, seen.n_requests, 0)
    assert warmed.n_blocks > 60
    assert collection.warm(False) == 0
    assert collection.search(queries(1)[0], filter=F.bucket < 50).receipt.n_round_trips == 1


def test_vectors_too_leave_nothing_to_read(store):
    collection, counted = collection_of(store)
    collection.warm(False, vectors=True)
    before = counted.snapshot()
    for filter in (None, F.bucket < 50, F.side == True, F.bucket == 3):  # noqa: E712
        assert collection.search(queries(1)[0], filter=filter).receipt.n_requests == 0
    assert counted.delta(before).n_requests == 0


@pytest.mark.parametrize("cache_dir", [False, True])
def test_a_budget_holds_and_later_calls_go_on(store, tmp_path: Path, cache_dir):
    whole, _ = collection_of(store)
    whole_bytes = whole.warm(False)
    collection, counted = collection_of(store, tmp_path if cache_dir else None)
    before = counted.snapshot()
    assert collection.warm(False, max_bytes=0) == 0
    budget = whole_bytes // 5
    calls = []
    while not calls or calls[-1].n_left:
        calls.append(collection.warm(False, max_bytes=budget))
        assert calls[-1] <= budget
        assert len(calls) < 12
    assert sum(calls) == counted.delta(before).bytes_fetched
    assert len(calls) >= 5
    assert held(collection) == held(whole)


def test_by_shard(store):
    collection, _ = collection_of(store)
    one, other = shard_ids(collection)
    assert collection.warm(False, shards=one) > 0
    assert {key.shard_id for key in held(collection)} == {one}
    assert collection.warm(False, shards=[one]) == 0
    assert collection.warm(False, shards=[one, other]) > 0
    with pytest.raises(InvalidInput, match=r"has no shard 'nobody'"):
        collection.warm(False, shards="nobody")
    for wrong in (-1, 2.5, True):
        with pytest.raises(InvalidSetting, match="max_bytes"):
            collection.warm(False, max_bytes=wrong)


def test_by_filter_reads_only_what_its_searches_want(store):
    filter = F.side == True  # noqa: E712
    whole, _ = collection_of(store)
    whole_bytes = whole.warm(False)
    collection, _ = collection_of(store)
    warmed = collection.warm(False, filter=filter)
    assert 0 < warmed < 0.75 * whole_bytes
    assert collection.warm(False, filter=filter) == 0
    sections = {key.section for key in held(collection)}
    assert "column:side" in sections
    assert not sections & {"column:bucket", "keys", "vectors"}
    for live in collection._view().shards:
        shard = live.shard
        cached = collection._engine.cache.resident(shard.shard_id)
        records = whole.get(shard.keys(np.arange(shard.n)))
        matching = np.flatnonzero([record.attributes["side"] for record in records])
        for section in ("lists", "codes"):
            resident = {key.block for key in cached if key.section == section}
            assert resident == set((matching // 128).tolist())
    cold, _ = collection_of(store)
    fetched = {}
    for name, handle in (("warm", collection), ("cold", cold)):
        receipts = [handle.search(query, filter=filter).receipt for query in queries(4)]
        fetched[name] = sum(receipt.bytes_fetched for receipt in receipts)
        if name == "warm":
            assert receipts[0].n_round_trips <= 2
    assert fetched["warm"] < fetched["cold"]


def test_by_a_filter_with_its_vectors_leaves_a_scan_nothing_to_read(store):
    collection, counted = collection_of(store)
    collection.warm(False, filter=F.bucket == 3, vectors=True)
    sections = {key.section for key in held(collection)}
    assert "lists" not in sections, "a scan of few rows goes by codes"
    before = counted.snapshot()
    assert len(collection.search(queries(1)[0], filter=F.bucket == 3)) == 10
    assert counted.delta(before).n_requests == 0
    assert collection.warm(False, filter=F.bucket == 1_000) == 0, "nobody matches, and the column is here"


def test_what_memory_cannot_hold_is_left_out_or_goes_to_disk(store, tmp_path: Path):
    limit = 150_000
    collection, _ = collection_of(store, cache_bytes=limit)
    warmed = collection.warm(False)
    stats = collection._engine.cache.stats()
    assert warmed.n_left > 0
    assert stats.n_evicted == 0, "warming pushes nothing out, least of all what it has just read"
    with_disk, counted = collection_of(store, tmp_path, cache_bytes=limit)
    warmed = with_disk.warm(False)
    assert warmed.n_left == 0
    assert with_disk._engine.cache.stats().n_evicted == 0
    before = counted.snapshot()
    assert with_disk.warm(False) == 0
    receipt = with_disk.search(queries(1)[0], filter=F.bucket < 50).receipt
    assert receipt.n_disk_hits > 0
    assert receipt.n_round_trips <= 2, "vectors and payload alone, of each shard"
    another, counted = collection_of(store, tmp_path)
    before = counted.snapshot()
    assert another.warm(False) == 0
    assert counted.delta(before).bytes_fetched == 0
    full, _ = collection_of(store, tmp_path / "small", cache_bytes=limit, disk_cache_bytes=100_000)
    assert full.warm(False).n_left > 0


def test_progress_ends_at_its_total(store):
    seen = []
    collection, _ = collection_of(store)
    collection.warm(lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_damaged_bytes_are_named_and_nothing_of_them_is_kept(store, tmp_path: Path):
    spoil = [False]
    broken = FaultStore(store, lambda method, key: Fault.FLIP if spoil[0] and method == "get_many" else None)
    for cache_bytes in (1 << 30, 20_000):
        folder = tmp_path / str(cache_bytes)
        settings = vstore.Settings(n_threads=1, cache_bytes=cache_bytes)
        collection = vstore.connect(broken, settings=settings, cache_dir=folder).collection("c")
        collection.count(F.bucket < 50)
        spoil[0] = True
        with pytest.raises(CorruptData, match="shards/"):
            collection.warm(False)
        spoil[0] = False
        assert collection.warm(False) > 0
        clean, _ = collection_of(store)
        for query in queries(3):
            assert (
                collection.search(query, filter=F.bucket < 50).ids
                == clean.search(query, filter=F.bucket < 50).ids
            )
