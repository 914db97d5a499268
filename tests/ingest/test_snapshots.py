"""Versions, tags, leases and restoring, through the public face; and what garbage collection leaves alone."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

import vstore
from vstore import F
from vstore.errors import InvalidInput, InvalidSetting, ReadOnly, SnapshotNotFound
from vstore.settings import IndexSettings, Settings
from vstore.storage.memory import MemoryStore

DIM = 4


class Place:
    def __init__(self, **settings):
        self.now = 1_000.0
        self.store = MemoryStore()
        self.options = {
            "n_threads": 1,
            "retention_s": 0.0,
            "background": False,
            "clock": self.clock,
            **settings,
        }
        self.db = self.connect()
        self.collection = self.db.create_collection(
            "c", dim=DIM, metric="l2", fields={"v": "int"}, index=IndexSettings(M=4, ef_construction=20)
        )

    def clock(self):
        self.now += 0.01
        return self.now

    def connect(self, **options):
        return vstore.connect(self.store, settings=Settings(**self.options), **options)

    def write(self, keys, stamp):
        vectors = [[key, stamp, 1, 2] for key in keys]
        self.collection.upsert(keys, vectors, {"v": [stamp] * len(keys)})

    def collect(self):
        """Make another version, so that those before it expire, and collect."""
        self.now += 1_000
        self.write([10_000], 9)
        self.collection.compact()
        return self.db.collect_garbage("c")


def rows(collection):
    hits = collection.search(np.zeros(DIM), k=1_000, recall=1.0)
    return {hit.id: hit.attributes["v"] for hit in hits}


def test_a_version_a_time_and_a_tag_open_what_was_there():
    place = Place(retention_s=3600.0)
    place.write([1, 2, 3], 1)
    version = place.collection.tag("first")
    then = place.now
    place.now += 100
    place.write([2, 4], 2)
    place.collection.delete(ids=[3])
    place.collection.flush()
    assert rows(place.collection) == {1: 1, 2: 2, 4: 2}
    for at in (version, "first", then, then + 50, datetime.fromtimestamp(then, UTC)):
        with place.db.collection("c", at=at) as snapshot:
            assert rows(snapshot) == {1: 1, 2: 1, 3: 1}
            assert snapshot.count(F.v == 1) == len(snapshot) == 3
            assert snapshot.get([4]) == [None]
    listed = {found.version: found for found in place.db.snapshots("c")}
    assert listed[version].tags == ("first",)
    assert listed[version].n_rows == 3
    assert listed[max(listed)].n_rows == 3


def test_a_snapshot_cannot_be_written_to_and_does_not_change():
    place = Place(retention_s=3600.0)
    place.write([1], 1)
    version = place.collection.tag("t")
    snapshot = place.db.collection("c", at=version)
    place.write([2], 2)
    snapshot.refresh()
    assert rows(snapshot) == {1: 1}
    for act in (
        lambda: snapshot.upsert([5], [[0] * DIM]),
        lambda: snapshot.delete(ids=[1]),
        snapshot.flush,
        lambda: snapshot.tag("x"),
        lambda: snapshot.restore("t"),
    ):
        with pytest.raises(ReadOnly, match="does not change"):
            act()


@pytest.mark.parametrize("at", [99, "nope", 1.0])
def test_a_snapshot_that_is_not_there(at):
    place = Place()
    place.write([1], 1)
    place.collection.flush()
    with pytest.raises(SnapshotNotFound):
        place.db.collection("c", at=at)


@pytest.mark.parametrize("at", [True, [1], object()])
def test_what_is_no_snapshot(at):
    with pytest.raises(InvalidInput, match="give a version"):
        Place().db.collection("c", at=at)


def test_a_tag_keeps_its_version_until_it_is_untagged():
    place = Place()
    place.write(list(range(20)), 1)
    version = place.collection.tag("keep")
    place.write(list(range(10)), 2)
    place.collect()
    with pytest.raises(SnapshotNotFound):
        place.db.collection("c", at=version)
    assert rows(place.db.collection("c", at="keep")) == dict.fromkeys(range(20), 1)
    with pytest.raises(InvalidInput, match="already"):
        place.collection.tag("keep")
    with pytest.raises(InvalidSetting):
        place.collection.tag("no/name")
    place.collection.untag("keep")
    place.collect()
    with pytest.raises(SnapshotNotFound, match="no tag"):
        place.db.collection("c", at="keep")
    manifest = place.db._catalog.load("c")
    shards = [info.key for info in place.store.list("data/") if "/shards/" in info.key]
    assert shards == [entry.key for entry in manifest.shards]


def test_a_lease_keeps_a_version_while_the_handle_is_used():
    place = Place(lease_s=100.0)
    place.write(list(range(20)), 1)
    place.collection.flush()
    version = place.db.snapshots("c")[-1].version
    reader = place.connect().collection("c", at=version)
    for _ in range(5):
        place.now += 60
        assert rows(reader) == dict.fromkeys(range(20), 1)
        place.write([3], 2)
        place.collection.compact()
        place.db.collect_garbage("c")
    # Only a reader that reads nothing is left behind.
    place.collect()
    assert not place.db.collect_garbage("c").leases
    old = place.connect().collection("c", at=place.db.snapshots("c")[-1].version)
    pins = [info.key for info in place.store.list("data/") if "/pins/" in info.key]
    assert len(pins) == 1, "the lease that ended is gone"
    old.close()
    assert not [info.key for info in place.store.list("data/") if "/pins/" in info.key]


def test_restoring_brings_a_version_back_and_can_be_undone():
    place = Place(retention_s=3600.0)
    place.write([1, 2, 3], 1)
    first = place.collection.tag("first")
    place.write([2, 4], 2)
    place.collection.delete(ids=[3])
    place.collection.flush()
    place.write([5], 3)
    second = place.collection.tag("second")
    assert place.collection.restore("first") > second
    assert rows(place.collection) == rows(place.connect().collection("c")) == {1: 1, 2: 1, 3: 1}
    place.write([1], 4)
    place.collection.delete(ids=[2])
    assert rows(place.connect().collection("c")) == {1: 4, 3: 1}
    place.collection.restore(second)
    assert rows(place.collection) == {1: 1, 2: 2, 4: 2, 5: 3}
    place.collection.restore(first)
    place.collection.compact()
    assert rows(place.collection) == rows(place.connect().collection("c")) == {1: 1, 2: 1, 3: 1}
    assert place.db.verify("c").ok


def test_a_dry_run_says_what_would_go_and_orphans_are_the_writers_to_delete():
    place = Place()
    place.write(list(range(20)), 1)
    place.collection.flush()
    manifest = place.db._catalog.load("c")
    orphan = f"data/c/{manifest.collection_id}/shards/{'0' * 32}.shard"
    place.store.put(orphan, b"left by a process that died")
    before = {info.key for info in place.store.list()}
    planned = place.db.collect_garbage("c", dry_run=True)
    assert {info.key for info in place.store.list()} == before
    assert planned.orphans == (orphan,)
    reader = place.connect(read_only=True)
    assert reader.collect_garbage("c", dry_run=True).orphans == ()
    with pytest.raises(ReadOnly):
        reader.collect_garbage("c")
    assert place.connect().collect_garbage("c").orphans == ()
    assert place.store.head(orphan) is not None, "only the writer knows that it is not about to be named"
    assert place.db.collect_garbage("c").orphans == (orphan,)
    assert place.store.head(orphan) is None
    assert rows(place.connect().collection("c")) == dict.fromkeys(range(20), 1)
