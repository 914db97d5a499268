"""A filter on columns in blocks finds the same rows, and reads a small part of their bytes."""

from __future__ import annotations

import numpy as np
import pytest

import vstore
from vstore import F
from vstore.shard import sections
from vstore.storage import MemoryStore
from vstore.storage.wrappers import CountingStore

N, DIM = 6_000, 4
INDEX = vstore.IndexSettings(
    M=4, ef_construction=20, cluster_rows=64, block_rows=64, calibrate=False, codes=8
)
FIELDS = {"place": "float", "user": "int", "name": "str", "seldom": "int"}


@pytest.fixture(scope="module")
def filled():
    """Rows along a line: `place` follows the vectors, and so the numbering of the rows; users do not."""
    rng = np.random.default_rng(3)
    store = MemoryStore()
    along = np.sort(rng.random(N)).astype(np.float32)
    vectors = np.stack([along * 100, *rng.random((DIM - 1, N), dtype=np.float32)], axis=1)
    columns = {
        "place": along.astype(np.float64),
        "user": rng.integers(0, 1 << 50, N),
        "name": [f"{value:x}" for value in rng.integers(0, 1 << 60, N)],
        "seldom": [i if i % 1000 == 0 else None for i in range(N)],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sections, "COLUMN_BLOCK_ROWS", 128)
        with vstore.connect(store, settings=vstore.Settings(n_threads=1)) as db:
            collection = db.create_collection("c", dim=DIM, metric="l2", fields=FIELDS, index=INDEX)
            collection.upsert(np.arange(N), vectors, columns)
            collection.flush()
    return store, vectors, columns


def shard_sections(store):
    from vstore.format.manifest_codec import decode_manifest

    key = [info.key for info in store.list("catalog/")][-1]
    return decode_manifest(store.get(key), "test").shards[0].sections


def filters(columns):
    low = float(columns["place"][3000])
    return {
        "range": ((F.place >= low) & (F.place < float(columns["place"][3006])), "place"),
        "number": (F.user == int(columns["user"][17]), "user"),
        "text": (F.name == columns["name"][99], "name"),
        "null": (F.seldom.exists() & (F.place > 0.5), "seldom"),
    }


@pytest.mark.parametrize("name", ["range", "number", "text", "null"])
def test_the_same_rows_by_fewer_bytes(filled, name, monkeypatch):
    store, vectors, columns = filled
    filter, field = filters(columns)[name]
    extents = shard_sections(store)
    found, seen = {}, {}
    for whole in (0, 1 << 30):
        monkeypatch.setattr(sections, "WHOLE_COLUMN_BYTES", whole)
        counted = CountingStore(store)
        with vstore.connect(counted, settings=vstore.Settings(n_threads=1, coalesce_gap_bytes=0)) as db:
            collection = db.collection("c")
            before = counted.snapshot()
            hits = collection.search(vectors[5], k=5, filter=filter)
            found[whole] = (collection.count(filter=filter), hits.ids)
            first = counted.delta(before)
            before = counted.snapshot()
            assert collection.count(filter=filter) == found[whole][0]
            assert counted.delta(before).n_requests == 0
        seen[whole] = first.bytes_fetched
    assert found[0] == found[1 << 30]
    assert 0 < found[0][0] < N / 2
    column_bytes = extents[sections.column_section(field)].length
    spared = seen[1 << 30] - seen[0]
    assert spared > 0.5 * column_bytes, (spared, column_bytes)


def test_a_thousandth_reads_well_under_the_column(filled, monkeypatch):
    store, _, columns = filled
    filter, _ = filters(columns)["range"]
    extents = shard_sections(store)
    monkeypatch.setattr(sections, "WHOLE_COLUMN_BYTES", 0)
    counted = CountingStore(store)
    with vstore.connect(counted, settings=vstore.Settings(n_threads=1)) as db:
        collection = db.collection("c")
        before = counted.snapshot()
        assert collection.count() == N
        assert collection.count(filter=F.seldom.exists()) == 6
        head = counted.delta(before).bytes_fetched
        before = counted.snapshot()
        assert collection.count(filter=filter) == 6
        read = counted.delta(before)
    # The head was there; zones in one round, a block or two in the next.
    assert read.n_round_trips == 2
    assert head > 0
    assert read.bytes_fetched < 0.2 * extents["column:place"].length


def test_columns_in_blocks_are_sound(filled):
    store, _, columns = filled
    with vstore.connect(store, settings=vstore.Settings(n_threads=1)) as db:
        assert not db.verify("c").problems
        collection = db.collection("c")
        assert collection.get([17])[0].attributes["name"] == columns["name"][17]


def test_a_wrong_summary_is_found_by_verify(filled):
    from vstore.format.zones import summarize
    from vstore.shard import columns as shard_columns

    store = MemoryStore()

    def lying(column, starts):
        zones = summarize(column, starts)
        zones.n_present[0] = 0
        zones.n_full[0] = 0
        return zones

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sections, "COLUMN_BLOCK_ROWS", 64)
        patch.setattr(shard_columns, "summarize", lying)
        with vstore.connect(store, settings=vstore.Settings(n_threads=1)) as db:
            collection = db.create_collection("c", dim=DIM, metric="l2", fields=FIELDS, index=INDEX)
            collection.upsert(np.arange(200), filled[1][:200], {"user": np.arange(200)})
            collection.flush()
            problems = [str(problem) for problem in db.verify("c").problems]
    assert len(problems) == 1
    assert "summary of column 'user'" in problems[0]
