"""vstore.open: one round trip before the first search, whose reads do not wait for a look at the log."""

from __future__ import annotations

import contextlib
import threading

import pytest
from face_rows import build_store, queries

import vstore
from vstore.catalog import layout
from vstore.errors import CollectionNotFound, CorruptData, NotAStore, StoreUnavailable
from vstore.storage.memory import MemoryStore
from vstore.storage.wrappers.counting import CountingStore
from vstore.storage.wrappers.faults import Fault, FaultStore
from vstore.storage.wrappers.forward import ForwardingStore


@pytest.fixture
def store():
    return build_store(n=2_000)


def expected(store, query):
    return vstore.connect(store).collection("c").search(query).ids


class LogWaits(ForwardingStore):
    """Holds back every look at the log until a shard was read."""

    def __init__(self, inner):
        super().__init__(inner)
        self.shard_read = threading.Event()
        self.in_time = []

    def list(self, prefix=""):
        if "/log/" in prefix:
            self.in_time.append(self.shard_read.wait(30))
        return self.inner.list(prefix)

    def get_many(self, ranges):
        if any(asked.key.endswith(".shard") for asked in ranges):
            self.shard_read.set()
        return self.inner.get_many(ranges)


def test_the_first_search_does_not_wait_for_the_log(store):
    waits = LogWaits(store)
    query = queries(1)[0]
    with vstore.open(waits, "c") as collection:
        assert collection.search(query).ids == expected(store, query)
    assert waits.in_time == [True]


def test_opening_is_one_round_of_three_reads(store):
    counted = CountingStore(LogWaits(store))
    with vstore.open(counted, "c") as collection:
        seen = counted.snapshot()
        assert (seen.n_gets, seen.n_puts) == (2, 0)
        collection.search(queries(1)[0])
    # The listings: of manifests, of the log, and of manifests again.
    assert counted.snapshot().n_lists == 3


@pytest.mark.parametrize("copy", ["missing", "damaged", "old", "of another"])
def test_the_copy_of_the_manifest_is_only_a_copy(store, copy):
    key = layout.latest_key("c")
    if copy == "missing":
        store.delete([key])
    elif copy == "damaged":
        store.put(key, store.get(key)[:-1] + b"?")
    elif copy == "old":
        store.put(key, store.get(layout.manifest_key("c", 1)))
    else:
        with vstore.connect(store) as database:
            database.create_collection("d", dim=3)
        store.put(key, store.get(layout.latest_key("d")))
    query = queries(1)[0]
    with vstore.open(store, "c") as collection:
        assert collection.search(query).ids == expected(store, query)
        assert len(collection) == 2_000


def test_what_the_log_holds_beyond_the_manifest_is_found(store):
    query = queries(1)[0]
    with vstore.connect(store) as database:
        writer = database.collection("c")
        gone = writer.search(query).ids[:3]
        writer.delete(gone)
        writer.upsert([9_999], [query], {"bucket": [1]})
        with vstore.open(store, "c") as collection:
            found = collection.search(query)
            assert found.ids[0] == 9_999
            assert not set(gone) & set(found.ids)
            assert len(collection) == 1_998


def test_dead_rows_stay_dead(store):
    query = queries(1)[0]
    with vstore.connect(store) as database:
        writer = database.collection("c")
        gone = writer.search(query).ids[:3]
        writer.delete(gone)
        writer.flush()
    with vstore.open(store, "c") as collection:
        assert not set(gone) & set(collection.search(query).ids)


def test_with_dead_rows_the_first_search_does_not_wait_for_the_log_either(store):
    """They are read in one round before it, and once."""
    query = queries(1)[0]
    with vstore.connect(store) as database:
        writer = database.collection("c")
        writer.delete(writer.search(query).ids[:3])
        writer.flush()
    waits = LogWaits(CountingStore(store))
    with vstore.open(waits, "c") as collection:
        # The marker, the manifest, and the dead rows.
        assert waits.inner.snapshot().n_gets == 3
        assert collection.search(query).ids == expected(store, query)
        assert collection._loaded.view().shards[0].live is not None
    assert waits.in_time == [True]


def test_dead_rows_that_are_gone_are_those_of_an_older_manifest(store):
    """Collected between the look at the manifest and the reading of what it names: a newer one is there."""
    query = queries(1)[0]
    with vstore.connect(store) as database:
        writer = database.collection("c")
        gone = writer.search(query).ids[:3]
        writer.delete(gone)
        writer.flush()

        class Collected(ForwardingStore):
            def get_many(self, ranges):
                if not done and any("/dead/" in asked.key for asked in ranges):
                    done.append(True)
                    writer.compact()
                    database.collect_garbage("c")
                return self.inner.get_many(ranges)

        done = []
        with vstore.open(Collected(store), "c") as collection:
            assert not set(gone) & set(collection.search(query).ids)
            assert len(collection) == 1_997
        assert done


def test_it_writes_and_refreshes_as_any_handle(store):
    with vstore.open(store, "c") as collection:
        collection.upsert([5_000], queries(1), {"bucket": [2]})
        assert collection.search(queries(1)[0]).ids[0] == 5_000
    with vstore.open(store, "c", read_only=True) as collection:
        collection.refresh()
        assert collection.get([5_000])[0] is not None


def test_errors_are_those_of_connect_and_collection(store):
    with pytest.raises(CollectionNotFound, match="no collection 'C'"):
        vstore.open(store, "C")
    with pytest.raises(CollectionNotFound):
        vstore.open(MemoryStore(), "c")
    other = MemoryStore()
    other.put("letter", b"dear reader")
    with pytest.raises(NotAStore):
        vstore.open(other, "c")
    with vstore.connect(store) as database:
        database.drop_collection("c")
    with pytest.raises(CollectionNotFound):
        vstore.open(store, "c")


def test_a_log_that_cannot_be_read_fails_the_search_until_it_can(store):
    broken = [True]

    def decide(method, key):
        return Fault.ERROR if broken[0] and method == "list" and "/log/" in key else None

    collection = vstore.open(FaultStore(store, decide), "c")
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            collection.search(queries(1)[0])
    broken[0] = False
    query = queries(1)[0]
    # The look that began with the last failure may have failed too, or come after the mending.
    with contextlib.suppress(StoreUnavailable):
        collection.search(query)
    assert collection.search(query).ids == expected(store, query)


def test_a_damaged_shard_is_named(store):
    key = next(info.key for info in store.list() if info.key.endswith(".shard"))
    data = bytearray(store.get(key))
    data[-200] ^= 1
    store.put(key, bytes(data))
    with pytest.raises(CorruptData, match="shard"):
        vstore.open(store, "c").search(queries(1)[0])
