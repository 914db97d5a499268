"""Small shards are read whole behind the first query; merged ones get what their forerunners had."""

from __future__ import annotations

import logging
import threading

import numpy as np
import pytest
from face_rows import DIM, queries, rows

import vstore
from vstore import F
from vstore.errors import InvalidSetting
from vstore.query.hydration import DEFAULT_BYTES, limit_of
from vstore.query.successors import hot_clusters
from vstore.shard.session import ShardSession
from vstore.storage.memory import MemoryStore
from vstore.storage.wrappers.counting import CountingStore
from vstore.storage.wrappers.faults import Fault, FaultStore
from vstore.storage.wrappers.forward import ForwardingStore

N = 4_000


@pytest.fixture(autouse=True)
def walks(monkeypatch):
    # A small scan limit makes the graph traversals run at this size.
    monkeypatch.setattr("vstore.query.planner.SCAN_ROWS", 50)


def build(sizes=(N // 2, N // 2)):
    """A store with a shard of each size; `side`: at one end of the space."""
    made = MemoryStore()
    with vstore.connect(made, settings=vstore.Settings(n_threads=2, memtable_rows=N + 1)) as database:
        index = vstore.IndexSettings(block_rows=128, ef_construction=80, cluster_rows=64, calibrate=False)
        collection = database.create_collection(
            "c", dim=DIM, metric="l2", fields={"side": "bool"}, index=index
        )
        vectors = rows(N)
        along = (vectors - vectors.mean(0)) @ np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)[
            2
        ][0]
        side = along > np.quantile(along, 0.94)
        start = 0
        for size in sizes:
            part = slice(start, start + size)
            collection.upsert(np.arange(N)[part], vectors[part], {"side": side[part]})
            collection.flush()
            start += size
    return made


@pytest.fixture(scope="module")
def store():
    return build((3_500, 500))


def connect(store, **settings):
    return vstore.connect(store, settings=vstore.Settings(n_threads=1, background=False, **settings))


def shards_of(collection):
    return [live.shard for live in collection._view().shards]


def wait(database):
    assert database._parts.hydration.wait(60), "the background thread did not end"
    assert not [thread for thread in threading.enumerate() if thread.name == "vstore-hydration"]


def test_only_shards_within_the_limit_are_hydrated_and_once(store):
    counted = CountingStore(store)
    large, small = sorted(
        (s.entry.size_bytes for s in shards_of(connect(store).collection("c"))), reverse=True
    )
    with connect(counted, hydrate_bytes=(large + small) // 2) as database:
        collection = database.collection("c")
        cache = collection._engine.cache
        big, little = sorted(shards_of(collection), key=lambda shard: -shard.n)
        collection.search(queries(1)[0], filter=F.side == True)  # noqa: E712
        wait(database)
        stats = database._parts.hydration.stats()
        assert (stats.n_hydrated, stats.n_failed) == (1, 0)
        sections = {key.section for key in cache.resident(little.shard_id)}
        assert {"lists", "codes", "vectors", "payload", "keys", "column:side"} <= sections
        assert "keys" not in {key.section for key in cache.resident(big.shard_id)}
        other = database.collection("c")
        before = counted.snapshot()
        other.search(queries(1)[0], filter=F.side == True)  # noqa: E712
        wait(database)
        assert database._parts.hydration.stats().n_hydrated == 1
        assert counted.delta(before).n_requests == 0


def test_everything_small_is_then_answered_without_a_request(store):
    counted = CountingStore(store)
    with connect(counted, hydrate_bytes=1 << 30) as database:
        collection = database.collection("c")
        first = collection.search(queries(2)[0])
        assert first.receipt.n_requests > 0
        wait(database)
        before = counted.snapshot()
        for filter in (None, F.side == True):  # noqa: E712
            receipt = collection.search(queries(2)[1], filter=filter).receipt
            assert receipt.n_requests == 0
        collection.search_batch(queries(3))
        assert counted.delta(before).n_requests == 0


def test_a_batch_sets_it_off_too(store):
    with connect(store, hydrate_bytes=1 << 30) as database:
        database.collection("c").search_batch(queries(3))
        wait(database)
        assert database._parts.hydration.stats().n_hydrated == 2


@pytest.mark.parametrize("hydrate_bytes", [None, 0])
def test_it_is_off_where_asked_and_off_s3(store, hydrate_bytes):
    counted = CountingStore(store)
    with connect(counted, hydrate_bytes=hydrate_bytes) as database:
        collection = database.collection("c")
        receipt = collection.search(queries(1)[0]).receipt
        wait(database)
        assert database._parts.hydration.stats().bytes_fetched == 0
        assert receipt.n_cache_misses > 0
    assert limit_of(None, "s3://bucket/prefix") == DEFAULT_BYTES
    assert limit_of(0, "s3://bucket/prefix") == limit_of(None, "file:///x") == 0
    with pytest.raises(InvalidSetting, match="hydrate_bytes is -1"):
        vstore.Settings(hydrate_bytes=-1)


class Gate(ForwardingStore):
    """Holds background reads back until it is opened."""

    def __init__(self, inner):
        super().__init__(inner)
        self.entered, self.opened = threading.Event(), threading.Event()
        self.n_reads = 0

    def get_many(self, ranges):
        if threading.current_thread().name == "vstore-hydration":
            self.n_reads += 1
            self.entered.set()
            assert self.opened.wait(60)
        return super().get_many(ranges)


def test_close_waits_for_the_round_under_way_and_begins_no_other(store):
    gate = Gate(store)
    database = connect(gate, hydrate_bytes=1 << 30)
    database.collection("c").search(queries(1)[0])
    assert gate.entered.wait(60)
    closing = threading.Thread(target=database.close)
    closing.start()
    # Nothing may end before the round does; opening it lets both end.
    assert not database._parts.hydration.wait(0)
    gate.opened.set()
    closing.join(60)
    assert not closing.is_alive()
    assert gate.n_reads == 1, "the other shard was given up"
    wait(database)


def test_searches_go_on_while_a_shard_is_hydrated(store):
    gate = Gate(store)
    with connect(gate, hydrate_bytes=1 << 30) as database:
        collection = database.collection("c")
        plain = connect(store).collection("c")
        for query in queries(3):
            assert collection.search(query).ids == plain.search(query).ids
        assert gate.entered.wait(60)
        gate.opened.set()
        wait(database)
        assert gate.n_reads > 1


def test_a_failure_is_told_once_and_fails_no_search(store, caplog):
    def decide(method, key):
        return Fault.ERROR if threading.current_thread().name == "vstore-hydration" else None

    with (
        caplog.at_level(logging.WARNING),
        connect(FaultStore(store, decide), hydrate_bytes=1 << 30) as database,
    ):
        collection = database.collection("c")
        plain = connect(store).collection("c")
        for query in queries(3):
            assert collection.search(query).ids == plain.search(query).ids
            wait(database)
        assert database._parts.hydration.stats().n_failed == 2
    assert sum("was not read ahead" in record.getMessage() for record in caplog.records) == 2, "once a shard"


def test_it_pushes_nothing_out(store):
    with connect(store, cache_bytes=400_000) as database:
        collection = database.collection("c")
        collection.search(queries(1)[0], filter=F.side == True)  # noqa: E712
        n_evicted = collection._engine.cache.stats().n_evicted
    with connect(store, hydrate_bytes=1 << 30, cache_bytes=400_000) as database:
        collection = database.collection("c")
        collection.search(queries(1)[0], filter=F.side == True)  # noqa: E712
        wait(database)
        assert collection._engine.cache.stats().n_evicted == n_evicted
        assert database._parts.hydration.stats().bytes_fetched > 0


def test_merged_shards_get_what_their_forerunners_had_in_memory(monkeypatch):
    with connect(CountingStore(build()), hydrate_bytes=1) as database:
        collection = database.collection("c")
        cache = collection._engine.cache
        collection.search(queries(1)[0], filter=F.side == True)  # noqa: E712
        wait(database)
        old = shards_of(collection)
        hot = set()
        for shard in old:
            cache.drop_shard(shard.shard_id)
            session = ShardSession(shard, cache)
            session.fetch([session.key("head"), session.key("column:side")])
            # The neighbourhood of one point, as its searches would leave it.
            offsets = session.head.cluster_offsets
            near = np.argsort(((session.head.centroids - queries(1)[0]) ** 2).sum(1))[:6]
            rows_near = np.concatenate([np.arange(offsets[c], offsets[c + 1]) for c in near])
            blocks = np.unique(rows_near // 128)
            session.fetch(session.keys("lists", blocks) + session.keys("codes", blocks))
            hot.update(session.shard.keys(rows_near))
        weighed = []

        def weigh(shard, cache):
            found = hot_clusters(shard, cache)
            weighed.append(found.stored_bytes)
            return found

        # When it is over: the merge itself reads through the cache.
        monkeypatch.setattr("vstore.query.hydration.hot_clusters", weigh)
        collection.compact()
        wait(database)
        stats = database._parts.hydration.stats()
        assert (stats.n_hydrated, stats.n_succeeded, stats.n_failed) == (0, 1, 0)
        assert len(weighed) == len(old)
        assert 0 < stats.bytes_fetched <= sum(weighed)
        assert [cache.resident(shard.shard_id) for shard in old] == [[], []]
        (new,) = shards_of(collection)
        resident = cache.resident(new.shard_id)
        assert "column:side" in {key.section for key in resident}
        blocks = {key.block for key in resident if key.section == "codes"}
        assert len({key.block for key in resident if key.section == "lists"} ^ blocks) <= 1
        there = {True: 0, False: 0}
        for row, key in enumerate(new.keys(np.arange(new.n))):
            there[key in hot] += row // 128 in blocks
        # Heads and keys count in the bytes, so a little less fits than there was.
        assert there[True] > 0.5 * len(hot)
        assert there[True] / len(hot) > 3 * there[False] / (N - len(hot)), "what was hot is, and little else"


def test_merges_off_or_unseen_read_nothing():
    counted = CountingStore(build())
    for settings in ({"hydrate_bytes": 0}, {"hydrate_bytes": 1}):
        with connect(counted, **settings) as database:
            collection = database.collection("c")
            if not settings["hydrate_bytes"]:
                collection.search(queries(1)[0])
            collection.compact()
            wait(database)
            assert database._parts.hydration.stats().bytes_fetched == 0
