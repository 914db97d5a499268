"""A bulk load appears whole or not at all, in several shards, and answers as the same rows upserted do."""

from __future__ import annotations

import numpy as np
import pytest

import vstore
from vstore import F, errors
from vstore.ingest.bulk import filled
from vstore.ingest.flush import shard_rows
from vstore.ingest.inputs import row_batch
from vstore.storage import LocalStore, MemoryStore
from vstore.storage.wrappers import FaultStore, seeded_faults
from vstore.types import Schema

DIM = 12
INDEX = vstore.IndexSettings(M=6, ef_construction=40, cluster_rows=64, shard_rows=1000, calibrate=False)
FIELDS = {"year": "int", "topic": "str"}


def rows(n: int, seed: int = 1):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, DIM), dtype=np.float32)
    return vectors, {"year": np.arange(n) % 50, "topic": [f"t{i % 7}" for i in range(n)]}


def connect(store, **settings):
    return vstore.connect(store, settings=vstore.Settings(n_threads=1, background=False, **settings))


def created(store, **settings):
    return connect(store, **settings).create_collection("c", dim=DIM, metric="l2", fields=FIELDS, index=INDEX)


def shards_of(collection) -> list[int]:
    return [live.n_live for live in collection._view().shards]


@pytest.mark.parametrize("place", ["memory", "folder"])
def test_a_memory_map_becomes_shards_that_answer_as_exact_search(place, tmp_path, monkeypatch):
    monkeypatch.setattr("vstore.ingest.loading.BATCH_BYTES", 300 * 4 * DIM)
    store = MemoryStore() if place == "memory" else LocalStore(tmp_path / "store")
    vectors, columns = rows(2500)
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    collection, seen = created(store), []
    before = collection.version
    documents = [f"text {i}" for i in range(2500)]
    told = collection.bulk_load(
        np.arange(2500), mapped, columns, documents, progress=lambda done, total: seen.append((done, total))
    )
    assert told == len(collection) == 2500
    assert shards_of(collection) == [834, 834, 832]
    assert seen[-1] == (2500, 2500)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    # One commit, seen by a new connection, and nothing in the log.
    again = connect(store).collection("c")
    assert again.version == collection.version <= before + 2
    assert not connect(store).verify("c").problems
    for query in rows(20, 2)[0]:
        wanted = np.argsort(((vectors - query) ** 2).sum(axis=1), kind="stable")
        wanted = [i for i in wanted.tolist() if i % 50 < 25][:10]
        hits = again.search(query, k=10, filter=F.year < 25, ef=400)
        assert hits.ids == wanted
    assert again.get([1234])[0].document == {"text": "text 1234"}
    assert again.count(filter=F.topic == "t3") == len(range(3, 2500, 7))


def test_batches_of_any_size_and_what_was_there_before_stays():
    vectors, columns = rows(1500)
    collection = created(MemoryStore())
    collection.upsert([5000, 5001], vectors[:2])
    collection.flush()
    collection.upsert([6000], vectors[:1])

    def batches():
        for at in range(0, 1500, 130):
            part = slice(at, min(at + 130, 1500))
            ids = list(range(1500))[part]
            yield ids, vectors[part], {name: values[part] for name, values in columns.items()}
        yield [], np.empty((0, DIM))

    assert collection.bulk_load_batches(batches()) == 1500
    assert len(collection) == 1503
    assert sorted(shards_of(collection)) == [1, 2, 500, 1000]
    assert collection.get([6000])[0] is not None


def test_a_row_written_meanwhile_wins():
    vectors, _ = rows(600)
    collection = created(MemoryStore())

    def batches():
        yield list(range(300)), vectors[:300]
        collection.upsert([7], vectors[599:], {"year": [1999]})
        yield list(range(300, 600)), vectors[300:]

    assert collection.bulk_load_batches(batches()) == 600
    assert len(collection) == 600
    assert collection.get([7])[0].attributes == {"year": 1999}
    collection.flush()
    assert collection.count(filter=F.year == 1999) == 1


BAD = {
    "twice in a batch": (lambda v: [([*range(10), 3], v[:11])], errors.DuplicateId),
    "twice in a shard": (lambda v: [(range(10), v[:10]), ([3], v[:1])], errors.DuplicateId),
    "twice in two shards": (lambda v: [(range(1000), v), ([5000, 3], v[:2])], errors.DuplicateId),
    "there already": (lambda v: [(range(1000), v), ([90_000], v[:1])], errors.DuplicateId),
    "not a number": (lambda v: [(range(1000), v), ([1001], v[:1] * np.nan)], errors.InvalidVector),
    "another kind of id": (lambda v: [(range(1000), v), (["x"], v[:1])], errors.InvalidId),
    "no batch": (lambda v: [(range(1000), v), "x"], errors.InvalidInput),
    "an unknown field": (lambda v: [(range(1000), v), ([1001], v[:1], {"yeer": [1]})], errors.UnknownField),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_leaves_nothing_behind(name):
    make, kind = BAD[name]
    vectors, _ = rows(1000)
    store = MemoryStore()
    collection = created(store)
    collection.upsert([90_000], vectors[:1])
    collection.flush()
    before = [info.key for info in store.list()]
    with pytest.raises(kind):
        collection.bulk_load_batches(make(vectors))
    assert [info.key for info in store.list()] == before
    assert len(collection) == 1
    # And the next one is taken.
    assert collection.bulk_load(range(10), vectors[:10]) == 10


def test_an_interrupt_leaves_nothing_behind(tmp_path):
    vectors, _ = rows(1000)
    store = LocalStore(tmp_path)
    collection = created(store)
    collection.upsert([90_000], vectors[:1])
    collection.flush()
    before = sorted(path for path in tmp_path.rglob("*"))

    def batches():
        yield range(1000), vectors
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collection.bulk_load_batches(batches())
    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert len(collection) == 1


@pytest.mark.parametrize("seed", range(6))
def test_a_failing_store_adds_all_or_nothing(seed):
    vectors, _ = rows(1000)
    inner = MemoryStore()
    created(inner).upsert([90_000], vectors[:1])
    faulty = FaultStore(inner, seeded_faults(seed, error_rate=0.04, lost_rate=0.04))
    added = 0
    for attempt in range(40):
        try:
            collection = connect(faulty).collection("c")
            added = collection.bulk_load(range(1000), vectors)
            break
        except (errors.StorageError, errors.WriterFenced):
            there = len(connect(inner).collection("c"))
            assert there in (1, 1001), (attempt, there)
        except errors.DuplicateId:
            # The answer of the commit before was lost.
            break
    collection = connect(inner).collection("c")
    assert len(collection) == 1001
    assert added in (0, 1000)
    assert sorted(hit for hit in collection.search(vectors[17], k=1).ids) == [17]


def test_the_size_of_a_shard():
    schema = Schema(768, "l2", {})
    assert shard_rows(schema, vstore.IndexSettings(), 1 << 30) == 1_000_000
    wide = shard_rows(Schema(4096, "l2", {}), vstore.IndexSettings(codes=8), 1 << 30)
    assert 200_000 < wide < 300_000
    assert shard_rows(schema, vstore.IndexSettings(shard_rows=5000), 1 << 30) == 5000
    with pytest.raises(errors.InvalidSetting, match="shard_bytes"):
        vstore.Settings(shard_bytes=10)


def test_flushes_and_merges_keep_to_the_size_of_a_shard():
    vectors, _ = rows(2000)
    settings = vstore.Settings(shard_bytes=1 << 16, background=False)
    with vstore.connect(MemoryStore(), settings=settings) as database:
        collection = database.create_collection("c", dim=vectors.shape[1], metric="l2")
        most = shard_rows(collection.schema, collection.index, 1 << 16)
        assert most < 2000
        sizes = []
        for start in (0, 1000):
            collection.upsert(range(start, start + 1000), vectors[start : start + 1000])
            collection.flush()
            sizes.append([live.n_live for live in collection._view().shards])
        assert all(max(size) <= most for size in sizes)
        collection.compact()
        after = [live.n_live for live in collection._view().shards]
        assert sum(after) == 2000
        assert max(after) <= most
        # Shards more than half full are full by this measure too, so nothing is merged for ever.
        version = collection.version
        collection.compact()
        assert collection.version == version
        assert sorted(hit for hit in collection.search(vectors[17], k=1).ids) == [17]


def test_rows_keep_their_order_however_they_are_cut():
    schema = Schema(2, "l2", {})
    parts = [
        row_batch(range(a, b), np.arange(2 * (b - a)).reshape(-1, 2), None, None, schema=schema, kind=None)
        for a, b in ((0, 3), (3, 3), (3, 20), (20, 21))
    ]
    for most, n_rows in ((1, None), (4, None), (4, 21), (7, 21), (100, 21), (21, None)):
        found = list(filled(iter(parts), most, n_rows))
        assert np.concatenate([part.keys for part in found]).tolist() == list(range(21))
        assert max(part.n for part in found) <= most
        assert n_rows is None or len(found) == -(-21 // most)
