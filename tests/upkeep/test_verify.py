"""Verification finds a flipped byte in every kind of object, and parts that contradict each other."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from face_data import FIELDS, attributes, clustered

import vstore
from vstore import errors
from vstore.format.log_record import decode_log_record, encode_log_record
from vstore.format.manifest import Manifest, ShardEntry
from vstore.format.manifest_codec import decode_manifest, encode_manifest
from vstore.format.shard_file import ShardFileWriter
from vstore.storage.memory import MemoryStore

DIM = 6
INDEX = vstore.IndexSettings(block_rows=64, ef_construction=40, cluster_rows=32, shard_rows=1000)


def filled(metric: Any = "l2", text_ids: bool = False) -> MemoryStore:
    """Two shards, one with dead rows, and log records beyond them: an upsert, an update, a delete."""
    store = MemoryStore()
    with vstore.connect(store, settings=vstore.Settings(n_threads=1)) as db:
        collection = db.create_collection("c", dim=DIM, metric=metric, fields=FIELDS, index=INDEX)
        rows, values = clustered(500, DIM, 1), attributes(500, 2)
        ids: list[Any] = [f"k{i}" for i in range(500)] if text_ids else list(range(500))
        texts = [f"text {i}" for i in range(500)]
        for start, end in ((0, 200), (150, 400)):
            collection.upsert(ids[start:end], rows[start:end], values[start:end], texts[start:end])
            collection.flush()
        collection.upsert(ids[390:], rows[390:], values[390:], texts[390:])
        collection.update(ids[:5], {"year": [1] * 5})
        collection.delete(ids=ids[20:30])
    return store


def verify(store: MemoryStore) -> vstore.VerifyReport:
    with vstore.connect(store, read_only=True) as db:
        return db.verify("c")


def keys_of(store: MemoryStore, part: str) -> list[str]:
    return [info.key for info in store.list() if part in info.key]


def latest(store: MemoryStore) -> tuple[str, Manifest]:
    key = keys_of(store, "catalog/")[-1]
    return key, decode_manifest(store.get(key), "test")


@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
@pytest.mark.parametrize("text_ids", [False, True], ids=["int", "str"])
def test_a_sound_store_has_no_problems(metric: str, text_ids: bool):
    store = filled(metric, text_ids)
    report = verify(store)
    assert report.problems == []
    assert report.ok
    assert report.collections == ["c"]
    assert (report.n_shards, report.n_rows, report.n_dead_bitmaps) == (2, 450, 1)
    assert report.n_manifests == len(keys_of(store, "catalog/"))
    assert report.n_records == len(keys_of(store, "/log/"))
    assert report.bytes_read >= sum(info.size_bytes for info in store.list("data/"))


def test_it_goes_on_to_hold_after_compaction_and_drop():
    store = filled()
    with vstore.connect(store, settings=vstore.Settings(n_threads=1, retention_s=0.0)) as db:
        done: list[tuple[int, int]] = []
        db.collection("c").compact()
        report = db.verify(progress=lambda *at: done.append(at))
        assert report.problems == []
        assert done[-1][0] == done[-1][1]
        db.drop_collection("c")
        assert db.verify().collections == []
        with pytest.raises(errors.CollectionNotFound):
            db.verify("c")
        db.create_collection("c", dim=2)
        assert db.verify().problems == []
        with pytest.raises(errors.CollectionNotFound, match="did you mean 'c'"):
            db.verify("cc")


@pytest.mark.parametrize("part", ["catalog/", "/log/", "/dead/", "/shards/"])
def test_a_flipped_byte_is_found(part: str):
    store = filled()
    rng = np.random.default_rng(3)
    for key in keys_of(store, part):
        whole = store.get(key)
        ends = [0, 9, 17, len(whole) // 2, len(whole) - 1]
        for at in {*ends, *rng.integers(0, len(whole), 12).tolist()}:
            damaged = bytearray(whole)
            damaged[at] ^= 1 << int(rng.integers(0, 8))
            store.put(key, bytes(damaged))
            found = verify(store).problems
            assert [problem for problem in found if problem.object == key], (key, at, found)
        store.put(key, whole)
    assert verify(store).ok


def test_every_damaged_object_is_reported_at_once():
    store = filled()
    keys = [keys_of(store, part)[0] for part in ("/log/", "/dead/", "/shards/")]
    keys += keys_of(store, "/shards/")[1:]
    for key in keys:
        data = bytearray(store.get(key))
        data[len(data) // 2] ^= 1
        store.put(key, bytes(data))
    assert {problem.object for problem in verify(store).problems} == set(keys)


@pytest.mark.parametrize("part", ["/dead/", "/shards/", "/log/", "catalog/"])
def test_a_missing_or_truncated_object_is_found(part: str):
    store = filled()
    # The last log record may be missing without a trace; the one before it may not.
    keys = keys_of(store, part)
    key = keys[-2] if len(keys) > 1 else keys[0]
    whole = store.get(key)
    store.put(key, whole[:-1])
    assert key in {problem.object for problem in verify(store).problems}
    store.delete([key])
    assert key in {problem.object for problem in verify(store).problems}
    store.put(key, whole)
    assert verify(store).ok


def test_the_newest_manifest_may_be_damaged():
    store = filled()
    key, _ = latest(store)
    store.put(key, store.get(key)[:-3])
    with vstore.connect(store) as db:
        report = db.verify()
    assert report.problems[0].object == key
    assert report.n_shards >= 1


def republish(store: MemoryStore, change: Any) -> None:
    key, manifest = latest(store)
    store.put(key, encode_manifest(change(manifest)))


def test_wrong_counts_in_the_manifest_are_found():
    def fewer_dead(manifest: Manifest) -> Manifest:
        shards = tuple(
            dataclasses.replace(entry, n_dead=entry.n_dead - 1) if entry.dead_key else entry
            for entry in manifest.shards
        )
        return dataclasses.replace(manifest, shards=shards)

    store = filled()
    republish(store, fewer_dead)
    assert any("marks 50 rows as dead; the manifest says 49" in p.reason for p in verify(store).problems)


def test_a_key_that_is_alive_twice_is_found():
    def none_dead(manifest: Manifest) -> Manifest:
        shards = tuple(dataclasses.replace(entry, n_dead=0, dead_key=None) for entry in manifest.shards)
        return dataclasses.replace(manifest, shards=shards)

    for text_ids in (False, True):
        store = filled(text_ids=text_ids)
        republish(store, none_dead)
        reasons = [problem.reason for problem in verify(store).problems]
        assert sum("is alive here and in" in reason for reason in reasons) == 50


def test_a_log_record_under_another_number_is_found():
    store = filled()
    first, second = keys_of(store, "/log/")[-2:]
    record = decode_log_record(store.get(first), "test")
    store.put(second, encode_log_record(record))
    assert any(problem.object == second for problem in verify(store).problems)


def rewritten(store: MemoryStore, monkeypatch: pytest.MonkeyPatch, section: str, change: Any) -> None:
    """Compact into one shard whose section is changed before its checksums are computed."""
    add = ShardFileWriter.add

    def changed(self: ShardFileWriter, name: str, blocks: Any, *, compress: bool = True) -> None:
        add(self, name, change(list(blocks)) if name == section else blocks, compress=compress)

    with monkeypatch.context() as patch:
        patch.setattr(ShardFileWriter, "add", changed)
        with vstore.connect(store, settings=vstore.Settings(n_threads=1)) as db:
            db.collection("c").compact()


def swapped(blocks: list[bytes]) -> list[bytes]:
    half = bytearray(blocks[0])
    half[0], half[-1] = half[-1] ^ 0x40, half[0]
    return [bytes(half), *blocks[1:]]


@pytest.mark.parametrize(
    ("section", "change", "reason"),
    [
        ("codes", swapped, "codes 0 are not those of the vectors"),
        ("vectors", swapped, "not those of the vectors"),
        ("payload", lambda blocks: [blocks[1], blocks[0], *blocks[2:]], "payload 0 has other keys"),
        ("payload", lambda blocks: blocks[:-1], "needs? "),
        ("key_index", lambda blocks: [blocks[0][::-1]], "key index"),
        ("column:year", lambda blocks: [b"\x80"], "KeyError|missing or of the wrong kind"),
        ("lists", lambda blocks: [b"\xff" * 400, *blocks[1:]], "neighbour lists|lists 0"),
    ],
)
def test_parts_that_contradict_each_other_are_found(
    section: str, change: Any, reason: str, monkeypatch: pytest.MonkeyPatch
):
    store = filled()
    rewritten(store, monkeypatch, section, change)
    reasons = [problem.reason for problem in verify(store).problems]
    assert any(re.search(reason, one) for one in reasons), reasons


def test_an_object_that_nothing_names_is_no_problem():
    store = filled()
    shard = keys_of(store, "/shards/")[0]
    store.put(shard.replace(".shard", "x.shard"), b"left by a crash")
    report = verify(store)
    assert (report.ok, report.n_unnamed) == (True, 1)


def test_a_writer_may_compact_and_collect_meanwhile(monkeypatch: pytest.MonkeyPatch):
    store = filled()
    now = [1e10]
    settings = vstore.Settings(n_threads=1, retention_s=0.0, clock=lambda: now[0])
    with vstore.connect(store, settings=settings) as db, vstore.connect(store, settings=settings) as other:
        get, done = store.get, []

        def get_and_compact(key: str, *at: Any) -> bytes:
            if "/log/" in key and not done:
                done.append(key)
                now[0] += 10
                other.collection("c").compact()
                now[0] += 10
                other.collection("c").upsert([1], clustered(1, DIM, 5))
                other.collection("c").compact()
            return get(key, *at)

        monkeypatch.setattr(store, "get", get_and_compact)
        assert db.verify("c").problems == []
        assert done


def test_entries_are_values() -> None:
    assert dataclasses.is_dataclass(ShardEntry)
    report = vstore.VerifyReport(problems=[vstore.Problem("key", "why")])
    assert report.as_dict()["problems"] == [{"object": "key", "reason": "why"}]
    assert report.as_dict()["ok"] is False
