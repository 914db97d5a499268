"""Policies change what a search costs and never what it answers; receipts count what each tier saw."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest
from face_rows import build_store, queries

import vstore
from vstore import F
from vstore.cache.policies import ADMISSIONS, EVICTIONS, LRU, PREFETCHES
from vstore.errors import InvalidSetting
from vstore.storage.wrappers.counting import CountingStore


@pytest.fixture(scope="module")
def store():
    return build_store(n=3_000, block_rows=128)


@pytest.fixture(autouse=True)
def walks(monkeypatch):
    # A small scan limit makes the graph traversals run at this size.
    monkeypatch.setattr("vstore.query.planner.SCAN_ROWS", 100)


def collection_of(store, cache_dir=None, **settings):
    counted = CountingStore(store)
    database = vstore.connect(counted, settings=vstore.Settings(n_threads=1, **settings), cache_dir=cache_dir)
    return database.collection("c"), counted


FILTERS = [None, F.bucket < 30, F.bucket < 5]


@pytest.mark.parametrize("eviction", EVICTIONS)
@pytest.mark.parametrize("prefetch", PREFETCHES)
@pytest.mark.parametrize("admission", ADMISSIONS)
def test_answers_are_the_same_under_every_policy(store, eviction, prefetch, admission):
    chosen = {"cache_eviction": eviction, "cache_prefetch": prefetch, "cache_admission": admission}
    expected, _ = collection_of(store)
    small, _ = collection_of(store, cache_bytes=120_000, **chosen)
    for number, query in enumerate(queries(6)):
        filter = FILTERS[number % 3]
        assert small.search(query, filter=filter).ids == expected.search(query, filter=filter).ids
    stats = small._engine.cache.stats()
    assert stats.size_bytes <= 120_000
    assert (stats.n_admitted == 0) == (admission == "none")


class Watcher(LRU):
    """Least recently used, and every use of any cache noted."""

    used_keys: ClassVar[Counter] = Counter()

    def used(self, key):
        Watcher.used_keys[key] += 1
        super().used(key)


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("cache_bytes", [1 << 30, 150_000])
def test_receipts_count_hits_as_each_tier_saw_them(store, tmp_path: Path, filter, cache_bytes, monkeypatch):
    # A section in one array is one key to the policy, and many blocks to the receipt.
    monkeypatch.setattr("vstore.cache.blocks.WHOLE_SHARE", 0)
    before_us, _ = collection_of(store, tmp_path)
    for query in queries(2):
        before_us.search(query, k=10, filter=filter)
    collection, counted = collection_of(store, tmp_path, cache_bytes=cache_bytes, cache_eviction=Watcher)
    disk = collection._engine.cache.disk
    n_hits = n_disk_hits = 0
    for query in [*queries(5), *queries(5)]:
        Watcher.used_keys.clear()
        before, disk_before = counted.snapshot(), disk.stats()
        receipt = collection.search(query, k=10, filter=filter).receipt
        seen, disk_after = counted.delta(before), disk.stats()
        assert receipt.n_disk_hits == disk_after.n_hits - disk_before.n_hits
        assert receipt.n_cache_misses == disk_after.n_misses - disk_before.n_misses
        assert receipt.n_requests == seen.n_requests
        if collection._engine.cache.evicts:
            # What a query pushes out itself it still holds: found in memory, and no more in the cache.
            assert receipt.n_cache_hits >= len(Watcher.used_keys)
        else:
            assert receipt.n_cache_hits == len(Watcher.used_keys)
        n_hits += receipt.n_cache_hits
        n_disk_hits += receipt.n_disk_hits
    assert n_hits > 0
    assert n_disk_hits > 0


def test_what_a_walk_reads_in_memory_stays_longest(store):
    collection, _ = collection_of(store, cache_eviction=Watcher)
    query = queries(1)[0]
    collection.search(query, k=10)
    tables = collection._engine.cache._tables
    assert not next(iter(tables.values())).resident, "the walk did not read everything"
    Watcher.used_keys.clear()
    again = collection.search(query, k=10)
    by_section = Counter(key.section for key in Watcher.used_keys)
    assert by_section["lists"] > 0
    assert by_section["codes"] > 0
    assert again.receipt.n_cache_misses == 0


def test_prefetch_reads_more_in_fewer_rounds(store):
    # Nothing is predicted beyond the nearest clusters, so a walk that leaves them stops and asks.
    counts = {}
    for prefetch in PREFETCHES:
        collection, counted = collection_of(store, cache_prefetch=prefetch)
        before = counted.snapshot()
        trips = sum(collection.search(query, k=10).receipt.n_round_trips for query in queries(6))
        blocks = collection._engine.cache.stats().n_admitted
        counts[prefetch] = trips, blocks, counted.delta(before).bytes_fetched
    assert counts["adjacent"][0] <= counts["none"][0]
    assert counts["adjacent"][1] > counts["none"][1] or counts["adjacent"][0] < counts["none"][0]


def test_an_unknown_policy_is_named_at_once(store):
    with pytest.raises(InvalidSetting, match=r"cache_eviction is 'lur'; did you mean 'lru'"):
        collection_of(store, cache_eviction="lur")
    for setting in ("cache_admission", "cache_prefetch", "disk_cache_admission"):
        with pytest.raises(InvalidSetting, match=rf"{setting} is 3; it must be one of"):
            collection_of(store, **{setting: 3})
