"""The server's face is the embedded one: each test runs embedded, by the sync and by the async client."""

from __future__ import annotations

import importlib.util
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

import vstore
from vstore import F, errors

FIELDS = {
    "year": "int",
    "topic": "str",
    "tags": "list[str]",
    "price": "float",
    "public": "bool",
    "taken": "datetime",
    "sizes": "list[int]",
}
N, DIM = 400, 8


def _face_cases():
    path = Path(__file__).resolve().parent.parent / "face" / "test_bad_input.py"
    spec = importlib.util.spec_from_file_location("face_bad_input", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = _face_cases()


def vectors(n=N, seed=0):
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)


def attributes(n=N):
    return [
        {
            "year": 2000 + i % 30,
            "topic": f"t{i % 5}",
            "tags": [f"a{i % 3}", "b"] if i % 4 else None,
            "price": i / 7 if i % 2 else None,
            "public": i % 3 == 0,
            "taken": datetime(2020, 1, 1 + i % 28, 12, i % 60, 3, 456789, tzinfo=UTC),
            "sizes": [i, -i],
        }
        for i in range(n)
    ]


@pytest.fixture
def filled(db, new_name):
    made = db.create_collection(new_name, dim=DIM, metric="l2", fields=FIELDS)
    documents = [f"text {i}" if i % 2 else {"text": "é", "image": b"\x00\xff"} for i in range(N)]
    assert made.upsert(np.arange(N), vectors(), attributes(), documents) == N
    return made


def test_collections_come_and_go(db, new_name):
    made = db.create_collection(new_name, dim=3, metric="dot", fields={"a": "int"})
    assert made.name == new_name
    assert made.schema == vstore.types.Schema(3, "dot", {"a": "int"})
    assert len(made) == made.count() == 0
    assert new_name in db.collections()
    assert db.collection(new_name).schema == made.schema
    with pytest.raises(errors.CollectionExists, match=new_name):
        db.create_collection(new_name, dim=3)
    db.drop_collection(new_name)
    assert new_name not in db.collections()
    for call in (db.collection, db.drop_collection):
        with pytest.raises(errors.CollectionNotFound, match=f"no collection '{new_name}'"):
            call(new_name)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(dim=0), errors.InvalidSetting, "dim is 0"),
        (dict(dim=2.5), errors.InvalidSetting, "dim"),
        (dict(dim=3, metric="cosin"), errors.InvalidSetting, "did you mean 'cosine'"),
        (dict(dim=3, fields={"a": "integer"}), errors.FieldTypeError, "did you mean"),
        (dict(dim=3, fields={"$a": "int"}), errors.InvalidSetting, "begin with"),
    ],
)
def test_bad_collections_are_refused(db, new_name, arguments, error, message):
    with pytest.raises(error, match=message):
        db.create_collection(new_name, **arguments)
    with pytest.raises(errors.InvalidSetting):
        db.create_collection("bad/name", dim=3)


def test_index_settings_arrive(db, embedded, new_name):
    db.create_collection(new_name, dim=3, index=vstore.IndexSettings(M=4, block_rows=64, ef_construction=20))
    index = embedded._catalog.load(new_name).index
    assert (index.M, index.block_rows) == (4, 64)


def test_records_come_back_as_they_were(filled):
    found = filled.get([3, 10**12, 4])
    assert found[1] is None
    for record, i in ((found[0], 3), (found[2], 4)):
        assert record.id == i
        assert record.vector.dtype == np.float32
        np.testing.assert_array_equal(record.vector, vectors()[i])
        assert record.attributes == {k: v for k, v in attributes()[i].items() if v is not None}
    assert found[0].document == {"text": "text 3"}
    assert found[2].document == {"text": "é", "image": b"\x00\xff"}
    assert filled.get([]) == []


def test_str_ids_and_odd_values(db, new_name):
    made = db.create_collection(
        new_name, dim=2, metric="l2", fields={"t": "datetime", "f": "float", "n": "int"}
    )
    rows = [
        {"t": date(1, 1, 1), "f": -0.0, "n": 2**63 - 1},
        {"t": datetime(9999, 12, 31, 23, 59, 59, 999999)},
    ]
    rows += [{"t": "2024-05-31T12:00:00+02:00", "f": float("inf"), "n": np.int64(-(2**63))}]
    assert made.upsert(["ä", "b" * 1024, "\U0001f426"], [[1, 2], [3, 4], [5, 6]], rows) == 3
    found = made.get(["ä", "b" * 1024, "\U0001f426"])
    assert [r.attributes["t"] for r in found] == [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2024, 5, 31, 10, tzinfo=UTC),
    ]
    assert found[0].attributes["n"] == 2**63 - 1
    assert found[2].attributes == {"t": found[2].attributes["t"], "f": float("inf"), "n": -(2**63)}
    batch = made.search_batch([[1, 2], [5, 6]], k=4)
    assert batch.ids.dtype == object
    assert batch.ids[1].tolist() == ["\U0001f426", "b" * 1024, "ä", None]
    assert batch.scores[0, 3] == -np.inf


FILTERS = [
    None,
    F.year >= 2020,
    {"year": {"$gte": 2020}, "topic": "t1"},
    (F.tags.contains("a1") & ~(F.price > 10)) | F.topic.isin(["t1", "t3"]),
    F.taken < datetime(2020, 1, 9, tzinfo=UTC),
    F.public == True,  # noqa: E712
    ~F.price.exists(),
    F.topic.startswith("t4"),
    F.year == 1,
    {"$not": {"sizes": {"$contains": 3}}},
    F.year.isin([2001, 2002, 2003]) & (F.topic != "t0"),
]


@pytest.mark.parametrize("filter", FILTERS, ids=str)
@pytest.mark.parametrize("flushed", [False, True], ids=["memtable", "shard"])
def test_searches_answer_as_the_embedded_store_does(filled, embedded, filter, flushed):
    if flushed:
        filled.flush()
    twin = embedded.collection(filled.name)
    query = vectors(1, seed=9)[0]
    hits, wanted = filled.search(query, 7, filter), twin.search(query, 7, filter)
    assert type(hits) is vstore.Hits
    assert hits.hits == wanted.hits
    assert hits.scores.dtype == np.float32
    timeless = [r.as_dict() | {"timings_ms": 0, "n_cache_hits": 0, "n_cache_misses": 0, "n_requests": 0,
                "n_round_trips": 0, "bytes_fetched": 0, "estimated_cost_usd": 0}
                for r in (hits.receipt, wanted.receipt)]  # fmt: skip
    assert timeless[0] == timeless[1]
    assert filled.count(filter) == twin.count(filter)
    assert filled.explain(query, 7, filter).plan == twin.explain(query, 7, filter).plan
    batch, expected = (c.search_batch(vectors(70, seed=3), 5, filter) for c in (filled, twin))
    assert batch.ids.dtype == np.int64
    assert batch.ids.shape == (70, 5)
    np.testing.assert_array_equal(batch.ids, expected.ids)
    np.testing.assert_array_equal(batch.scores, expected.scores)
    assert len(batch.receipts) == 70
    assert batch.receipts[0].n_matching == expected.receipts[0].n_matching


def test_settings_of_a_search_arrive(filled):
    filled.flush()
    query = vectors(1, seed=2)[0]
    assert (
        filled.search(query, k=3, recall=1, ef=77).receipt.plan
        == filled.explain(query, k=3, recall=1, ef=77).plan
    )
    assert len(filled.search(query, k=1000)) == N
    assert filled.search_batch(np.empty((0, DIM)), k=4).ids.shape == (0, 4)


def test_deletes(filled):
    assert filled.delete([0, 1, 10**9]) == 2
    assert filled.delete(filter=F.topic == "t2") == 80 - 0
    assert filled.delete(filter={"topic": "t2"}) == 0
    assert filled.count() == N - 82
    for arguments in ({}, {"ids": [1], "filter": F.year == 1}):
        with pytest.raises(errors.InvalidInput, match="one of them"):
            filled.delete(**arguments)
    assert filled.delete([]) == 0


def test_upkeep_reports_progress(filled):
    for method in (filled.flush, filled.compact, filled.warm):
        seen = []
        method(lambda done, total, seen=seen: seen.append((done, total)))
        assert all(0 <= done <= total for done, total in seen)
        if seen:
            assert seen[-1][0] == seen[-1][1]
    filled.upsert([1], vectors(1))
    assert filled.flush() is None
    assert filled.compact() is None
    assert isinstance(filled.warm(progress=False), int)
    assert filled.refresh() is None
    assert filled.count() == N


def test_an_upsert_of_nothing(filled):
    assert filled.upsert([], np.empty((0, DIM))) == 0


def test_rerankers_that_are_objects(filled):
    def by_id(query, documents):
        return [float(document.id) if document.text else np.nan for document in documents]

    hits = filled.search(vectors(1)[0], k=3, rerank=by_id, rerank_depth=20, query_document="q")
    assert hits.ids == sorted(hits.ids, reverse=True)
    (report,) = hits.receipt.rerank
    assert report.n_scored == 20
    assert "rerank" in hits.receipt.timings_ms

    def fails(query, documents):
        raise OSError("disk")

    with pytest.raises(errors.RerankError, match="disk"):
        filled.search(vectors(1)[0], rerank=fails, query_document="q")


@pytest.fixture
def small(db, new_name):
    made = db.create_collection(new_name, dim=3, metric="cosine", fields=CASES.FIELDS)
    made.upsert([1, 2], [[1, 0, 0], [0, 1, 0]], [{"year": 2000}, {"year": 2010}])
    return made


@pytest.mark.parametrize(
    ("arguments", "error", "message"), [c[1:] for c in CASES.UPSERTS], ids=[c[0] for c in CASES.UPSERTS]
)
def test_every_bad_upsert_of_the_face(small, arguments, error, message):
    with pytest.raises(error, match=f"(?s){message}") as caught:
        small.upsert(**arguments)
    assert type(caught.value) is error
    assert small.count() == 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"), [c[1:] for c in CASES.SEARCHES], ids=[c[0] for c in CASES.SEARCHES]
)
def test_every_bad_search_of_the_face(small, arguments, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        small.search(**arguments)


def test_bad_batches_gets_and_counts(small):
    with pytest.raises(errors.DimensionMismatch):
        small.search_batch([[1, 2]])
    with pytest.raises(errors.InvalidSetting, match="k is 0"):
        small.search_batch(np.eye(3), k=0)
    with pytest.raises(errors.InvalidSetting, match="recall"):
        small.search_batch(np.eye(3), recall=2)
    with pytest.raises(errors.InvalidId, match="ids are int"):
        small.get(["x"])
    with pytest.raises(errors.InvalidId, match="give a list"):
        small.get(1)
    with pytest.raises(errors.InvalidId, match="ids are int"):
        small.delete(["x"])
    with pytest.raises(errors.UnknownField, match="did you mean 'year'"):
        small.count(F.yeer > 1)
    with pytest.raises(errors.FilterError):
        small.explain([1, 0, 0], filter={})


def test_a_closed_handle(filled):
    filled.close()
    with pytest.raises(errors.Closed, match=re.escape(filled.name)):
        filled.count()


def test_updates(filled):
    assert filled.update([1, 2], [{"topic": "new"}, {"price": None, "tags": ["x"]}]) == 2
    first, second = filled.get([1, 2])
    assert first.attributes == {**attributes()[1], "topic": "new"}
    assert second.attributes["tags"] == ["x"]
    assert "price" not in second.attributes
    assert filled.update([3, 10**9], {"year": [7, 8]}, missing="ignore") == 1
    assert filled.count(F.year == 7) == 1
    for arguments, message in (
        (dict(ids=[10**9], attributes=[{"year": 1}]), "does not have"),
        (dict(ids=[1], attributes=None), "update needs attributes"),
        (dict(ids=[1, 1], attributes=[{}, {}]), "id 1"),
        (dict(ids=[1], attributes=[{}], missing="drop"), "missing is 'drop'"),
    ):
        with pytest.raises(errors.InvalidInput, match=message):
            filled.update(**arguments)
    with pytest.raises(errors.UnknownField, match="did you mean 'year'"):
        filled.update([1], [{"yeer": 1}])


@pytest.mark.parametrize("flushed", [False, True], ids=["memtable", "shard"])
def test_scans(filled, flushed):
    if flushed:
        filled.flush()
        filled.delete([0])
        filled.upsert([1, 5000], vectors(2, seed=4))
    for filter in (None, F.year >= 2020, F.year == 1):
        rows = {record.id: record for record in filled.scan(filter)}
        assert len(rows) == filled.count(filter)
        found = {record.id: record for record in filled.get(list(rows))}
        for key, record in rows.items():
            assert (record.attributes, record.document) == (found[key].attributes, found[key].document)
            np.testing.assert_array_equal(record.vector, found[key].vector)
    with pytest.raises(errors.UnknownField):
        list(filled.scan(F.yeer > 1))


def test_a_scan_reads_one_moment(filled):
    seen = iter(filled.scan())
    ids = [next(seen).id]
    filled.delete(filter=F.year >= 2000)
    assert filled.count() == 0
    assert len(ids + [record.id for record in seen]) == N


def test_snapshots(db, filled):
    name = filled.name
    first = filled.tag("first")
    filled.upsert([10**6], vectors(1, seed=8))
    filled.delete([0, 1, 2])
    assert filled.tag("second", progress=False) > first
    listed = {snapshot.version: snapshot for snapshot in db.snapshots(name)}
    assert (listed[first].n_rows, listed[first].tags) == (N, ("first",))
    assert max(listed) == filled.version
    made_at = listed[first].created_at
    # A datetime has microseconds, which may round down.
    for at in (first, "first", made_at, datetime.fromtimestamp(made_at, UTC) + timedelta(microseconds=1)):
        old = db.collection(name, at=at)
        assert (old.version, old.count(), len(list(old.scan()))) == (first, N, N)
        assert old.get([0])[0].id == 0
        assert old.search(vectors()[0], k=1).ids == [0]
        assert old.search_batch(vectors()[:2], k=1).ids[:, 0].tolist() == [0, 1]
        assert old.explain(vectors()[0]).n_rows == N
        assert old.refresh() is None
        for write in (lambda old=old: old.delete([3]), old.flush, lambda old=old: old.restore(first)):
            with pytest.raises(errors.ReadOnly, match="which does not change"):
                write()
        old.close()
    assert filled.count() == N - 2
    assert filled.restore("first") > max(listed)
    assert filled.count() == N
    with pytest.raises(errors.InvalidInput, match="has a tag 'first' already"):
        filled.tag("first")
    with pytest.raises(errors.InvalidSetting):
        filled.tag("no/name")
    filled.untag("first")
    filled.untag("never-there")
    for at in ("first", 10**6, 1.5, datetime(2001, 1, 1, tzinfo=UTC)):
        with pytest.raises(errors.SnapshotNotFound):
            db.collection(name, at=at)
        with pytest.raises(errors.SnapshotNotFound):
            filled.restore(at)
    for call in (db.snapshots, db.collect_garbage):
        with pytest.raises(errors.CollectionNotFound):
            call("nothing-here")
    assert type(db.collect_garbage(name, dry_run=True)) is type(db.collect_garbage(name))


def test_version_tokens(db, filled):
    before = filled.version_token
    filled.upsert([10**7], vectors(1))
    token = filled.version_token
    assert token != before
    other = db.collection(filled.name)
    other.refresh(at_least=token)
    assert other.count() == N + 1
    assert other.version_token == token
    with pytest.raises(errors.InvalidSetting, match="no version token"):
        other.refresh(at_least="yesterday")
    assert other.index == vstore.IndexSettings()


def test_fields_come_and_go(db, filled):
    other = db.collection(filled.name)
    before = filled.version_token
    assert filled.add_field("weight", "float") > 0
    assert filled.schema.fields["weight"] == "float"
    assert filled.version_token != before
    # A handle that read the schema before finds the field by itself.
    assert other.count(F.weight > 1) == 0
    assert other.upsert([1], vectors(1), [{"weight": 2.5}]) == 1
    assert filled.get([1])[0].attributes == {"weight": 2.5}
    for call, error, message in (
        (lambda: filled.add_field("weight", "float"), errors.InvalidInput, "weight"),
        (lambda: filled.add_field("year", "str"), errors.FieldTypeError, "year"),
        (lambda: filled.add_field("x", "decimal"), errors.FieldTypeError, "decimal"),
        (lambda: filled.add_field("$x", "int"), errors.InvalidSetting, "begin"),
        (lambda: filled.drop_field("wieght"), errors.UnknownField, "did you mean 'weight'"),
    ):
        with pytest.raises(error, match=message):
            call()
    assert filled.drop_field("weight") > 0
    assert "weight" not in filled.schema.fields
    with pytest.raises(errors.UnknownField):
        filled.count(F.weight > 1)


def test_warming_in_parts(filled):
    filled.flush()
    whole = filled.warm(progress=False, filter=F.year > 2010, vectors=True)
    assert type(whole) is vstore.types.Warmed
    assert filled.warm(False, shards=[]).n_blocks == 0
    with pytest.raises(errors.UnknownField):
        filled.warm(filter=F.yeer > 1)
    assert filled.warm(False, max_bytes=1) >= 0


def test_exports_and_imports(db, embedded, filled, tmp_path):
    filled.tag("whole")
    filled.delete([0])
    seen = []
    assert db.export(filled.name, tmp_path / "new", progress=lambda *at: seen.append(at)) == N - 1
    assert seen[-1] == (N - 1, N - 1)
    for path in (tmp_path / "new", tmp_path / "new" / "rows.jsonl"):
        with pytest.raises(errors.InvalidInput, match="needs a new or empty folder"):
            db.export(filled.name, path)
    with pytest.raises(errors.CollectionNotFound):
        db.export("nothing-here", tmp_path / "other")
    assert db.export(filled.name, tmp_path / "whole", at="whole") == N
    with pytest.raises(errors.SnapshotNotFound):
        db.export(filled.name, tmp_path / "other", at="never")
    copy = db.import_collection(tmp_path / "new", f"{filled.name}-copy")
    assert (copy.schema, copy.index) == (filled.schema, filled.index)
    kept = {record.id: record for record in filled.scan()}
    for record in copy.scan():
        assert (record.attributes, record.document) == (kept[record.id].attributes, kept[record.id].document)
        np.testing.assert_array_equal(record.vector, kept.pop(record.id).vector)
    assert not kept
    with pytest.raises(errors.CollectionExists):
        db.import_collection(tmp_path / "new", filled.name)
    with pytest.raises(errors.InvalidInput):
        db.import_collection(tmp_path / "nowhere", "anything")


def test_verifying(db, filled):
    filled.flush()
    report = db.verify(filled.name)
    assert type(report) is vstore.VerifyReport
    assert report.ok
    assert (report.collections, report.n_rows) == ([filled.name], N)
    with pytest.raises(errors.CollectionNotFound):
        db.verify("nothing-here")
