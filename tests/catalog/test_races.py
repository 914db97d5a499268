"""What garbage collection, drops and listings must survive when somebody else acts at the wrong moment."""

from __future__ import annotations

import pytest
from test_catalog import manifest, shard

from vstore.catalog import Catalog, garbage, layout
from vstore.catalog.invariants import RESTORED
from vstore.catalog.pins import Lease, delete_tag, find_snapshot, list_snapshots, put_tag
from vstore.errors import CommitConflict, NotAStore, SnapshotNotFound, StoreUnavailable
from vstore.format.manifest_codec import encode_manifest
from vstore.settings import Settings
from vstore.storage.local import LocalStore
from vstore.storage.memory import MemoryStore


class Between(MemoryStore):
    """Does something once, before the n-th call of a kind on a key that begins so."""

    def __init__(self) -> None:
        super().__init__("between")
        self.when: tuple[str, str] = ("", "")
        self.act = lambda: None

    def _maybe(self, what: str, key: str) -> None:
        if self.when[0] == what and key.startswith(self.when[1]):
            self.when = ("", "")
            self.act()

    def get(self, key, start=0, length=None):
        self._maybe("get", key)
        return super().get(key, start, length)

    def list(self, prefix=""):
        self._maybe("list", prefix)
        return super().list(prefix)


@pytest.fixture
def store():
    return Between()


@pytest.fixture
def catalog(store):
    made = Catalog(store)
    made.create(manifest())
    return made


def test_garbage_leaves_a_version_that_is_being_restored(catalog, store):
    """Its lease is released, and its new manifest published, between the listing and the deletion."""
    old = shard("old")
    store.put(old.key, b"x")
    catalog.commit(manifest(2, shards=(old,), created_at=1100.0))
    catalog.commit(manifest(3, created_at=1200.0))
    restored = manifest(4, shards=(old,), created_at=9000.0, properties={RESTORED: "2 as 4"})
    store.when, store.act = ("list", layout.pin_prefix("c", "id1")), lambda: catalog.commit(restored)
    found = garbage.collect(catalog, "c", 0.0, lambda: 9000.0)
    assert found.manifests == tuple(layout.manifest_key("c", version) for version in (1, 2))
    assert store.head(old.key) is not None


def test_garbage_looks_past_a_listing_that_is_out_of_date(catalog, store, monkeypatch):
    old = shard("old")
    store.put(old.key, b"x")
    catalog.commit(manifest(2, shards=(old,), created_at=1100.0))
    catalog.commit(manifest(3, created_at=1200.0))
    stale = store.list("catalog/c/")
    catalog.commit(manifest(4, shards=(old,), created_at=1300.0, properties={RESTORED: "2 as 4"}))
    real = store.list
    monkeypatch.setattr(store, "list", lambda prefix="": stale if prefix == "catalog/c/" else real(prefix))
    garbage.collect(catalog, "c", 0.0, lambda: 9000.0)
    assert store.head(old.key) is not None
    store.delete([layout.manifest_key("c", version) for version in (1, 2, 3)])
    # All that is listed is gone: nobody knows what the latest is, so nothing goes.
    assert garbage.collect(catalog, "c", 0.0, lambda: 9000.0) == garbage.Collected()
    with pytest.raises(StoreUnavailable, match="listings are out of date"):
        catalog.require("c")


def test_a_late_writer_cannot_win_a_number_that_garbage_collection_forgot(catalog, store):
    """Its put was on its way for days: the number is free again, and what it wrote is never a version."""
    slept = manifest(3, shards=(shard("gone"),), created_at=1300.0, write_id="slept")
    for version in range(2, 7):
        catalog.commit(manifest(version, created_at=1000.0 * version))
    garbage.collect(catalog, "c", 100.0, lambda: 7000.0)
    assert catalog.versions("c") == [6]
    store.put_if_absent(layout.manifest_key("c", 3), encode_manifest(slept))
    assert catalog.versions("c") == [6]
    assert [m.version for m in catalog.history("c")] == [6]
    assert [s.version for s in list_snapshots(catalog, "c")] == [6]
    with pytest.raises(SnapshotNotFound, match="keeps nothing at 3"):
        find_snapshot(catalog, "c", 3)
    found = garbage.collect(catalog, "c", 100.0, lambda: 7000.0)
    assert found.manifests == (layout.manifest_key("c", 3),)
    assert catalog.stored_versions("c") == [6]


def test_a_drop_that_was_overtaken_is_refused(catalog):
    catalog.commit(manifest(2, writer_epoch=2))
    with pytest.raises(CommitConflict, match="epoch 2 while one of epoch 1 dropped it"):
        catalog.drop("c", 2000.0, epoch=1)
    assert catalog.load("c") is not None
    catalog.drop("c", 2000.0, epoch=2)
    assert catalog.load("c") is None


def test_what_a_crash_left_of_a_dropped_collection_is_garbage(catalog, store):
    """Its fences stay, for a writer that sleeps; all else goes, even what lands after its manifest went."""
    log = layout.log_prefix("c", "id1")
    left = [layout.shard_key("c", "id1", "s"), layout.tag_key("c", "id1", "t"), layout.log_key(log, 1)]
    gone = manifest(2, dropped=True, writer_epoch=2, properties={"fences": "2"}, created_at=1100.0)
    catalog.commit(gone)
    for key in [*left, layout.log_key(log, 2)]:
        store.put(key, b"x")
    assert set(garbage.collect(catalog, "c", 100.0, lambda: 1200.0).data) == set(left)
    assert [info.key for info in store.list("data/")] == [layout.log_key(log, 2)]
    catalog.create(manifest(collection_id="id2", created_at=3000.0))
    garbage.collect(catalog, "c", 100.0, lambda: 9000.0)
    assert catalog.versions("c") == [3]
    late = layout.lease_key("c", "id1", "late")
    mine = layout.lease_key("c", "id2", "mine")
    for key in (late, layout.shard_key("c", "id2", "about-to-be-named")):
        store.put(key, b"x")
    Lease(catalog, catalog.require("c"), Settings(clock=lambda: 9000.0), "mine")
    assert garbage.collect(catalog, "c", 100.0, lambda: 9000.0).data == (late,)
    assert store.head(mine) is not None


def test_a_lease_on_a_tag_asks_whether_the_tag_is_there(catalog, store):
    catalog.commit(manifest(2, shards=(shard("s"),), created_at=1100.0))
    tagged = catalog.require("c")
    put_tag(catalog, tagged, "t")
    catalog.commit(manifest(3, created_at=1200.0))
    garbage.collect(catalog, "c", 0.0, lambda: 9000.0)
    now = [9000.0]
    settings = Settings(clock=lambda: now[0], lease_s=10.0)
    lease = Lease(catalog, tagged, settings, "one", tag="t")
    delete_tag(catalog, "c", "t")
    lease.hold()
    now[0] += 1000.0
    with pytest.raises(SnapshotNotFound, match="version 2 of collection 'c' was collected"):
        lease.renew()
    with pytest.raises(SnapshotNotFound):
        Lease(catalog, tagged, settings, "two", tag="t")


def test_collections_are_listed_while_garbage_goes(catalog, store):
    catalog.create(manifest(name="d", collection_id="id2"))

    def act() -> None:
        catalog.commit(manifest(2, created_at=1100.0))
        garbage.collect(catalog, "c", 0.0, lambda: 9000.0)

    store.when, store.act = ("get", "catalog/c/"), act
    assert catalog.collections() == ["c", "d"]


class Huge:
    """A foreign bucket of which nobody can wait for the whole listing."""

    url = "huge://"

    def __init__(self, inner: MemoryStore) -> None:
        self._inner = inner
        self.get = inner.get
        self.first = lambda prefix="": next(iter(inner.list(prefix)), None)

    def list(self, prefix=""):
        raise AssertionError("listed whole")


def test_whether_a_place_is_empty_is_asked_without_listing_it(tmp_path):
    inner = MemoryStore()
    assert not Catalog(Huge(inner)).check_marker()
    inner.put("somebody/elses", b"x")
    with pytest.raises(NotAStore, match="holds files"):
        Catalog(Huge(inner)).check_marker()
    folder = LocalStore(tmp_path)
    assert folder.first() is None
    folder.put("a/b/c", b"x")
    assert folder.first().key == folder.first("a/").key == folder.first("a/b").key == "a/b/c"
    assert folder.first("b") is None


def test_the_next_version_may_be_read_without_a_listing(catalog):
    for version in range(2, 5):
        catalog.commit(manifest(version))
    assert [m.version for m in catalog.newer("c", 1)] == [2, 3, 4]
    assert catalog.newer("c", 4) == []
    catalog.store.delete([layout.manifest_key("c", 1)])
    assert [m.version for m in catalog.newer("c", 1)] == [2, 3, 4]
    with pytest.raises(StoreUnavailable, match="was collected while"):
        catalog.newer("c", 7)
