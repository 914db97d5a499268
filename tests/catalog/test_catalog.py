"""Commit is one create-only put; manifests succeed each other by rule; garbage is what no kept one names."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from vstore.catalog import Catalog, garbage, layout
from vstore.catalog.fences import with_fences
from vstore.errors import (
    CollectionExists,
    CollectionNotFound,
    CommitConflict,
    CorruptData,
    InvalidSetting,
    NotAStore,
    UnsupportedVersion,
)
from vstore.format.manifest import Extent, Manifest, ShardEntry
from vstore.settings import IndexSettings
from vstore.storage.memory import MemoryStore
from vstore.types import Schema


def manifest(version: int = 1, **changes) -> Manifest:
    first = Manifest(
        version=version,
        collection_id="id1",
        name="c",
        schema=Schema(3, "l2", {"year": "int"}),
        index=IndexSettings(),
        writer_epoch=1,
        log_start=1,
        created_at=1000.0,
        write_id=f"w{version}",
    )
    return dataclasses.replace(first, **changes)


def shard(name: str, n_dead: int = 0) -> ShardEntry:
    dead = layout.dead_key("c", "id1", name, f"d{n_dead}") if n_dead else None
    return ShardEntry(name, layout.shard_key("c", "id1", name), 100, 10, Extent(10, 5), {}, dead, n_dead)


@pytest.fixture
def catalog():
    made = Catalog(MemoryStore())
    made.create(manifest())
    return made


def test_create_load_and_list(catalog):
    assert catalog.load("c").write_id == "w1"
    assert catalog.load("other") is None
    catalog.create(manifest(name="b"))
    assert catalog.collections() == ["b", "c"]
    with pytest.raises(CollectionExists, match="drop_collection"):
        catalog.create(manifest(write_id="w9"))
    with pytest.raises(CollectionNotFound, match="did you mean 'c'"):
        catalog.require("cc")


def test_a_commit_follows_the_version_before_it(catalog):
    catalog.commit(manifest(2))
    assert catalog.load("c").version == 2
    assert catalog.load("c", 1).version == 1
    assert catalog.versions("c") == [1, 2]
    with pytest.raises(CommitConflict, match="version 2"):
        catalog.commit(manifest(2, write_id="late"))
    assert catalog.load("c").write_id == "w2"


def test_a_commit_whose_answer_was_lost_is_no_conflict(catalog):
    catalog.commit(manifest(2))
    catalog.commit(manifest(2))
    assert catalog.versions("c") == [1, 2]


def test_of_many_committers_exactly_one_wins(catalog):
    for version in range(2, 12):
        won, barrier = [], threading.Barrier(8)

        def commit(me: int, version=version, won=won, barrier=barrier) -> None:
            barrier.wait()
            try:
                catalog.commit(manifest(version, write_id=f"{version}-{me}"))
                won.append(me)
            except CommitConflict:
                pass

        threads = [threading.Thread(target=commit, args=(me,)) for me in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert catalog.load("c").write_id == f"{version}-{won[0]}"


FORBIDDEN = [
    ("a shard twice", dict(shards=(shard("s"), shard("s"))), "names a shard twice"),
    ("dead rows without a name", dict(shards=(dataclasses.replace(shard("s"), n_dead=1),)), "dead rows"),
    ("an older epoch", dict(writer_epoch=0), "older writer epoch"),
    ("a log that begins earlier", dict(log_start=0), "log"),
    ("another schema", dict(schema=Schema(4, "l2", {})), "schema"),
    ("another collection", dict(collection_id="id2"), "not dropped"),
    ("dropped with shards", dict(dropped=True, shards=(shard("s"),)), "dropped"),
]


@pytest.mark.parametrize(("changes", "message"), [c[1:] for c in FORBIDDEN], ids=[c[0] for c in FORBIDDEN])
def test_what_a_commit_may_not_do(catalog, changes, message):
    with pytest.raises(CorruptData, match=message):
        catalog.commit(manifest(2, **changes))
    assert catalog.versions("c") == [1]


def test_rows_do_not_come_back_to_life_and_shards_do_not_move(catalog):
    catalog.commit(manifest(2, id_kind="int", shards=(shard("s", n_dead=3),)))
    with pytest.raises(CorruptData, match="back to life"):
        catalog.commit(manifest(3, id_kind="int", shards=(shard("s", n_dead=2),)))
    with pytest.raises(CorruptData, match="kind of ids"):
        catalog.commit(manifest(3, id_kind="str", shards=(shard("s", n_dead=3),)))
    with pytest.raises(CorruptData, match="moves or resizes shard"):
        catalog.commit(
            manifest(3, id_kind="int", shards=(dataclasses.replace(shard("s", n_dead=3), key="elsewhere"),))
        )


def test_drop_and_create_again(catalog):
    key = layout.shard_key("c", "id1", "s")
    catalog.store.put(key, b"x")
    catalog.drop("c", 2000.0)
    assert catalog.load("c") is None
    assert catalog.collections() == []
    assert catalog.store.head(key) is None
    with pytest.raises(CollectionNotFound):
        catalog.drop("c", 2000.0)
    catalog.create(manifest(collection_id="id2", write_id="new"))
    assert catalog.load("c").version == 3
    with pytest.raises(CorruptData, match=r"was dropped|not dropped"):
        catalog.commit(manifest(4, collection_id="id1"))


def test_places_that_are_no_store():
    store = MemoryStore()
    store.put("letter", b"dear reader")
    with pytest.raises(NotAStore, match="no vstore"):
        Catalog(store).check_marker()
    for marker, error in (
        (b"not json", NotAStore),
        (b'{"format": "other", "version": 1}', NotAStore),
        (b'{"format": "vstore"}', NotAStore),
        (b'{"format": "vstore", "version": 0}', NotAStore),
        (b'{"format": "vstore", "version": Infinity}', NotAStore),
        (b'["vstore", 1]', NotAStore),
        (b"[" * 100_000, NotAStore),
        (b'{"format": "vstore", "version": 2}', UnsupportedVersion),
    ):
        other = MemoryStore()
        other.put(layout.MARKER, marker)
        with pytest.raises(error):
            Catalog(other).check_marker()
    assert Catalog(MemoryStore()).check_marker() is False


@pytest.mark.parametrize("name", ["", "a/b", "..", ".a", "x" * 129, None, "ä"])
def test_names_of_collections(catalog, name):
    with pytest.raises(InvalidSetting, match="collection name"):
        catalog.load(name)


def test_a_manifest_under_another_name_is_found_out(catalog):
    data = catalog.store.get(layout.manifest_key("c", 1))
    catalog.store.put(layout.manifest_key("c", 2), data)
    with pytest.raises(CorruptData, match="mixed up"):
        catalog.load("c")


def test_garbage_is_what_no_kept_manifest_names(catalog):
    store = catalog.store
    objects = [layout.shard_key("c", "id1", name) for name in ("old", "both", "new")]
    objects += [layout.dead_key("c", "id1", "both", "d1")]
    prefix = layout.log_prefix("c", "id1")
    log = [f"{prefix}{seq:020d}" for seq in range(1, 9)]
    for key in [*objects, *log]:
        store.put(key, b"x")
    fences = with_fences({}, [2])
    catalog.commit(manifest(2, created_at=1100.0, shards=(shard("old"), shard("both")), log_start=3))
    catalog.commit(
        manifest(
            3,
            created_at=5000.0,
            shards=(shard("both", n_dead=1), shard("new")),
            log_start=6,
            properties=fences,
        )
    )
    # Version 2 was the latest until 5000: at 5500 it is kept, at 9000 it is not.
    early = garbage.collect(catalog, "c", 3600.0, lambda: 5500.0)
    assert early.manifests == (layout.manifest_key("c", 1),)
    assert early.data == (log[0],), "record 2 is a fence"
    planned = garbage.collect(catalog, "c", 3600.0, lambda: 9000.0, dry_run=True)
    assert store.head(objects[0]) is not None, "a dry run deletes nothing"
    late = garbage.collect(catalog, "c", 3600.0, lambda: 9000.0)
    assert late == planned
    assert late.manifests == (layout.manifest_key("c", 2),)
    assert set(late.data) == {objects[0], *log[2:5]}
    left = {info.key for info in store.list("data/")}
    assert left == {*objects[1:], log[1], *log[5:]}
    assert catalog.load("c").version == 3
    assert garbage.collect(catalog, "c", 0.0, lambda: 1e9).manifests == ()


def test_a_commit_that_slept_until_its_number_was_collected_is_a_conflict(catalog):
    for version in range(2, 6):
        catalog.commit(manifest(version, created_at=1000.0 * version))
    garbage.collect(catalog, "c", 100.0, lambda: 6000.0)
    assert catalog.versions("c") == [5]
    with pytest.raises(CommitConflict, match="published long ago"):
        catalog.commit(manifest(3, write_id="slept"))
    assert catalog.versions("c") == [5]


def test_a_clock_that_was_set_back_makes_no_hole(catalog):
    for version, created_at in ((2, 5000.0), (3, 1100.0), (4, 6000.0)):
        catalog.commit(manifest(version, created_at=created_at))
    assert garbage.collect(catalog, "c", 0.0, lambda: 2000.0).manifests == ()
    assert catalog.versions("c") == [1, 2, 3, 4]


def test_the_manifests_of_a_dropped_collection_are_garbage_and_its_fences_are_not(catalog):
    store = catalog.store
    fence = f"{layout.log_prefix('c', 'id1')}{2:020d}"
    store.put(fence, b"x")
    catalog.drop("c", 2000.0, fences=[2])
    assert garbage.collect(catalog, "c", 100.0, lambda: 9000.0).manifests == (layout.manifest_key("c", 1),)
    assert catalog.load("c") is None
    catalog.create(manifest(collection_id="id2", created_at=3000.0))
    garbage.collect(catalog, "c", 100.0, lambda: 9000.0)
    assert catalog.versions("c") == [3], "the tombstone went with what it buried"
    assert catalog.load("c").collection_id == "id2"
    assert store.head(fence) is not None


def test_what_could_not_be_read_back_is_not_published(catalog):
    with pytest.raises(InvalidSetting, match=r"M is 16.0; it must be a whole number"):
        IndexSettings(M=16.0)
    index = IndexSettings()
    object.__setattr__(index, "M", 16.0)
    changed = [
        dict(index=index),
        dict(created_at=float("nan")),
        dict(properties={"n": 1}),
        dict(shards=(dataclasses.replace(shard("s"), head=Extent(99, 5)),)),
    ]
    for changes in changed:
        with pytest.raises(CorruptData, match=r"memory://.*: catalog/c/"):
            catalog.commit(manifest(2, **changes))
    assert catalog.versions("c") == [1]


def test_stray_files_are_no_versions(catalog):
    for stray in ("catalog/c/7", "catalog/c/notes.txt", "catalog/readme"):
        catalog.store.put(stray, b"x")
    assert catalog.versions("c") == [1]
    assert catalog.collections() == ["c"]
    assert catalog.load("c").version == 1
