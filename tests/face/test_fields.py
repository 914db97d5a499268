"""Fields added and dropped, against a dict: in shards, memtable and log, old versions, other connections."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vstore
from vstore import F, errors
from vstore.storage.memory import MemoryStore

DIM = 4
INDEX = vstore.IndexSettings(M=4, ef_construction=20, cluster_rows=16, block_rows=64)
VALUES: dict[str, Callable[[int], Any]] = {
    "int": lambda n: n % 7,
    "float": lambda n: n / 4,
    "bool": lambda n: n % 3 == 0,
    "str": lambda n: f"t{n % 5}",
    "datetime": lambda n: dt.datetime(2020, 1, 1 + n % 28, tzinfo=dt.UTC),
    "list[str]": lambda n: [f"a{n % 3}", "b"],
    "list[int]": lambda n: [n % 4, 9],
}
Model = dict[int, dict[str, Any]]


def vectors_of(ids: list[int]) -> np.ndarray:
    return np.stack([np.random.default_rng(i).standard_normal(DIM) for i in ids]).astype(np.float32)


def upsert(collection: vstore.Collection, model: Model, ids: list[int], stamp: int = 0) -> None:
    """Write rows that have a value in each field of the schema, but for every fourth."""
    rows = [
        {name: VALUES[kind](i + stamp) for name, kind in collection.schema.fields.items() if (i + stamp) % 4}
        for i in ids
    ]
    collection.upsert(ids, vectors_of(ids), rows, progress=False)
    model.update(zip(ids, rows, strict=True))


def drop(collection: vstore.Collection, model: Model, name: str) -> None:
    collection.drop_field(name)
    for row in model.values():
        row.pop(name, None)


def check(collection: vstore.Collection, model: Model) -> None:
    """Everything that reads rows agrees with the dict."""
    assert len(collection) == len(model)
    ids = list(model)
    for key, record in zip(ids, collection.get(ids), strict=True):
        assert record is not None
        assert record.attributes == model[key]
    for warm in range(2):
        hits = collection.search(np.zeros(DIM), k=len(ids), recall=1.0 if warm else 0.95, ef=400)
        assert {hit.id: hit.attributes for hit in hits} == model
    for name, kind in collection.schema.fields.items():
        present = {key for key, row in model.items() if name in row}
        assert collection.count(F[name].exists()) == len(present)
        assert collection.count(F[name].exists(False)) == len(model) - len(present)
        if kind in ("int", "str"):
            value = VALUES[kind](3)
            equal = {key for key, row in model.items() if row.get(name) == value}
            for _ in range(2):
                hits = collection.search(np.zeros(DIM), k=max(len(equal), 1), filter=F[name] == value)
                assert set(hits.ids) == equal
            assert collection.count(F[name] != value) == collection.count(~(F[name] == value))


@pytest.fixture(params=["memory", "folder"])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], vstore.Database]:
    place: Any = str(tmp_path / "s") if request.param == "folder" else f"memory://{request.node.nodeid}"
    settings = vstore.Settings(n_threads=1, memtable_rows=150, background=False)
    return lambda: vstore.connect(place, settings=settings)


def made(db: vstore.Database, **fields: Any) -> vstore.Collection:
    return db.create_collection("c", dim=DIM, metric="l2", fields=fields, index=INDEX)


def test_a_field_is_null_in_every_row_until_it_is_written(connect):
    with connect() as db:
        collection, model = made(db, year="int"), Model()
        upsert(collection, model, list(range(100)))
        collection.flush(progress=False)
        upsert(collection, model, list(range(90, 120)), 1)
        collection.add_field("topic", "str")
        assert collection.schema.fields == {"year": "int", "topic": "str"}
        check(collection, model)
        upsert(collection, model, list(range(40, 60)), 2)
        assert collection.update([0, 100], {"topic": ["new", "newer"]}) == 2
        model[0]["topic"], model[100]["topic"] = "new", "newer"
        check(collection, model)
    with connect() as db:
        collection = db.collection("c")
        check(collection, model)
        assert db.verify("c").ok
        collection.compact(progress=False)
        check(collection, model)
        assert db.verify("c").ok


def test_a_dropped_name_that_comes_back_brings_no_old_value_back(connect):
    with connect() as db:
        collection, model = made(db, year="int", topic="str"), Model()
        upsert(collection, model, list(range(100)))
        collection.flush(progress=False)
        upsert(collection, model, list(range(80, 130)), 1)
        check(collection, model)
        drop(collection, model, "year")
        check(collection, model)
        with pytest.raises(errors.UnknownField, match="'year'"):
            collection.search(np.zeros(DIM), filter=F.year == 3)
        with pytest.raises(errors.UnknownField, match="'year'"):
            collection.upsert([1], vectors_of([1]), [{"year": 1}])
        collection.add_field("year", "int")
        check(collection, model)
        upsert(collection, model, list(range(125, 140)), 2)
        check(collection, model)
        drop(collection, model, "year")
        collection.add_field("year", "str")
        upsert(collection, model, [3, 7], 3)
        check(collection, model)
    with connect() as db:
        collection = db.collection("c")
        check(collection, model)
        report = db.verify("c")
        assert report.ok, report.problems
        collection.compact(progress=False)
        check(collection, model)
        assert db.verify("c").ok


def test_random_changes_against_a_dict(connect):
    rng = np.random.default_rng(3)
    kinds = list(VALUES)
    db = connect()
    collection, model = made(db, f0="int"), Model()
    for step in range(40):
        action = rng.integers(0, 8)
        fields = collection.schema.fields
        name = f"f{rng.integers(0, 4)}"
        if action < 3:
            upsert(collection, model, rng.permutation(150)[: rng.integers(1, 40)].tolist(), step)
        elif action == 3 and name not in fields:
            collection.add_field(name, kinds[rng.integers(0, len(kinds))])
        elif action == 4 and name in fields:
            drop(collection, model, name)
        elif action == 5:
            collection.flush(progress=False)
        elif action == 6 and step % 2:
            collection.compact(progress=False)
        elif action == 7:
            db.close()
            db = connect()
            collection = db.collection("c")
        if model:
            check(collection, model)
    assert db.verify("c").ok
    db.close()


def test_an_old_version_shows_the_fields_that_it_had(connect):
    with connect() as db:
        collection, model = made(db, year="int", topic="str"), Model()
        upsert(collection, model, list(range(60)))
        before = {key: dict(row) for key, row in model.items()}
        version = collection.tag("before", progress=False)
        drop(collection, model, "year")
        collection.add_field("price", "float")
        upsert(collection, model, list(range(50, 70)), 1)
        collection.compact(progress=False)
        for at in (version, "before"):
            snapshot = db.collection("c", at=at)
            assert snapshot.schema.fields == {"year": "int", "topic": "str"}
            check(snapshot, before)
            with pytest.raises(errors.UnknownField):
                snapshot.count(F.price > 1)
        check(collection, model)
        with pytest.raises(errors.InvalidInput, match="other fields"):
            collection.restore("before")
        check(collection, model)


def test_a_version_restored_under_the_same_fields_has_its_values_again(connect):
    with connect() as db:
        collection, model = made(db, year="int"), Model()
        upsert(collection, model, list(range(60)))
        before = {key: dict(row) for key, row in model.items()}
        version = collection.tag("before", progress=False)
        drop(collection, model, "year")
        collection.add_field("year", "int")
        check(collection, model)
        assert collection.restore(version) > version
        check(collection, before)
    with connect() as db:
        check(db.collection("c"), before)
        assert db.verify("c").ok


def test_another_connection_reads_both_before_and_after_it_looks_again(connect):
    with connect() as db, connect() as other:
        collection, model = made(db, year="int"), Model()
        upsert(collection, model, list(range(60)))
        collection.flush(progress=False)
        upsert(collection, model, [70, 71])
        reader = other.collection("c")
        before = {key: dict(row) for key, row in model.items()}
        check(reader, before)
        drop(collection, model, "year")
        collection.add_field("year", "str")
        upsert(collection, model, [2, 71, 72])
        check(reader, before)
        reader.refresh()
        assert reader.schema.fields == {"year": "str"}
        check(reader, model)
        # It takes the collection over, with the fields as they are.
        upsert(reader, model, [5, 73], 1)
        reader.add_field("more", "int")
        upsert(reader, model, [6, 74], 2)
        check(reader, model)
        with pytest.raises(errors.WriterFenced):
            collection.add_field("less", "int")
        with pytest.raises(errors.WriterFenced):
            collection.drop_field("year")
        again = db.collection("c")
        again.refresh()
        check(again, model)


def test_what_cannot_be_is_refused_and_changes_nothing(connect):
    with connect() as db:
        collection, model = made(db, year="int"), Model()
        upsert(collection, model, list(range(20)))
        wrong: list[tuple[type[Exception], str, Callable[[], Any]]] = [
            (errors.FieldTypeError, "of type int; a field's type does not change",
             lambda: collection.add_field("year", "str")),
            (errors.InvalidInput, "already", lambda: collection.add_field("year", "int")),
            (errors.FieldTypeError, "did you mean 'float'", lambda: collection.add_field("x", "flot")),
            (errors.InvalidSetting, r"'\$x'", lambda: collection.add_field("$x", "int")),
            (errors.InvalidSetting, "names are", lambda: collection.add_field("", "int")),
            (errors.InvalidSetting, "names are", lambda: collection.add_field("x" * 257, "int")),
            (errors.InvalidSetting, "names are", lambda: collection.add_field("\ud800", "int")),
            (errors.InvalidSetting, "names are", lambda: collection.add_field(7, "int")),
            (errors.UnknownField, "did you mean 'year'", lambda: collection.drop_field("yeer")),
            (errors.UnknownField, "no field None", lambda: collection.drop_field(None)),
        ]  # fmt: skip
        n_versions = len(db.snapshots("c"))
        for kind, message, call in wrong:
            with pytest.raises(kind, match=message):
                call()
        assert len(db.snapshots("c")) == n_versions
        check(collection, model)
        snapshot = db.collection("c", at=n_versions)
        with pytest.raises(errors.ReadOnly):
            snapshot.add_field("x", "int")
    store = vstore.connect(MemoryStore())
    full = store.create_collection("d", dim=1, fields={f"f{i}": "int" for i in range(1000)})
    with pytest.raises(errors.InvalidSetting, match="at most 1000"):
        full.add_field("one_more", "int")


def test_an_export_has_the_present_fields(connect, tmp_path):
    with connect() as db:
        collection, model = made(db, year="int", topic="str"), Model()
        upsert(collection, model, list(range(60)))
        collection.flush(progress=False)
        drop(collection, model, "year")
        collection.add_field("year", "float")
        upsert(collection, model, list(range(55, 75)), 1)
        db.export("c", tmp_path / "out")
        back = db.import_collection(tmp_path / "out", "back")
        assert back.schema == collection.schema
        check(back, model)
