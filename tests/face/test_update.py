"""`update` changes attributes alone: against a dict, with good and bad input, and beside other writes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from face_data import FIELDS, attributes, clustered

import vstore
from vstore import F, errors
from vstore.storage.memory import MemoryStore

DIM = 5
N = 120


@pytest.fixture(params=["memory", "folder"])
def connect_again(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], vstore.Database]:
    place: Any = str(tmp_path / "s") if request.param == "folder" else f"memory://{request.node.nodeid}"
    return lambda: vstore.connect(place, settings=vstore.Settings(n_threads=1, memtable_rows=200))


def filled(
    db: vstore.Database, text_ids: bool = False
) -> tuple[vstore.Collection, dict[Any, dict[str, Any]]]:
    collection = db.create_collection("c", dim=DIM, metric="l2", fields=FIELDS)
    ids: list[Any] = [f"k{i}" for i in range(N)] if text_ids else list(range(N))
    rows = attributes(N, 1)
    collection.upsert(ids, clustered(N, DIM, 2), rows, [f"text {i}" for i in range(N)])
    return collection, {key: dict(row) for key, row in zip(ids, rows, strict=True)}


def check(collection: vstore.Collection, model: dict[Any, dict[str, Any]]) -> None:
    keys = list(model)
    vectors = clustered(N, DIM, 2)
    for record in collection.get(keys):
        assert record is not None
        number = int(str(record.id).removeprefix("k"))
        assert record.attributes == model[record.id]
        assert np.array_equal(record.vector, vectors[number])
        assert record.document == {"text": f"text {number}"}
    assert len(collection) == len(model)
    assert collection.count(F.year >= 2010) == sum(row.get("year", 0) >= 2010 for row in model.values())
    assert collection.count(F.topic == "bird") == sum(row.get("topic") == "bird" for row in model.values())


@pytest.mark.parametrize("text_ids", [False, True], ids=["int", "str"])
def test_random_updates_against_a_dict(connect_again: Callable[[], vstore.Database], text_ids: bool):
    rng = np.random.default_rng(5)
    with connect_again() as db:
        collection, model = filled(db, text_ids)
        keys = list(model)
        for step in range(12):
            chosen = [keys[i] for i in rng.permutation(N)[: rng.integers(1, 40)]]
            fields = [name for name in FIELDS if rng.integers(0, 2)] or ["year"]
            new = attributes(len(chosen), 100 + step)
            if step % 2:
                rows = [{name: row.get(name) for name in fields} for row in new]
                assert collection.update(chosen, rows) == len(chosen)
            else:
                columns = {name: [row.get(name) for row in new] for name in fields}
                assert collection.update(chosen, columns) == len(chosen)
            for key, row in zip(chosen, new, strict=True):
                model[key].update({name: row.get(name) for name in fields})
                model[key] = {name: value for name, value in model[key].items() if value is not None}
            if step == 4:
                collection.flush()
            if step == 8:
                collection.compact()
            check(collection, model)
    with connect_again() as db:
        check(db.collection("c"), model)


def test_rows_that_differ_in_what_they_change(connect_again: Callable[[], vstore.Database]):
    with connect_again() as db:
        collection, model = filled(db)
        collection.flush()
        assert collection.update([7, 3, 5], [{"year": 1, "tags": ["x"]}, None, {"topic": None}]) == 3
        model[7] |= {"year": 1, "tags": ["x"]}
        model[5].pop("topic", None)
        check(collection, model)


def test_ids_that_do_not_exist(connect_again: Callable[[], vstore.Database]):
    with connect_again() as db:
        collection, model = filled(db)
        collection.delete(ids=[4])
        del model[4]
        with pytest.raises(errors.InvalidInput, match=r"id 1 is 4, .*2 of 3 ids.*missing='ignore'"):
            collection.update([3, 4, 999], {"year": [1, 2, 3]})
        check(collection, model)
        assert collection.update([3, 4, 999], {"year": [1, 2, 3]}, missing="ignore") == 1
        model[3]["year"] = 1
        check(collection, model)
        assert collection.update([4], {"year": [1]}, missing="ignore") == 0
        assert collection.update([], []) == 0


@pytest.mark.parametrize(
    ("ids", "values", "options", "error"),
    [
        ([1, 1], {"year": [1, 2]}, {}, errors.DuplicateId),
        (["a"], {"year": [1]}, {}, errors.InvalidId),
        ([1], {"year": ["x"]}, {}, errors.FieldTypeError),
        ([1], {"yaer": [1]}, {}, errors.UnknownField),
        ([1], {"year": [1, 2]}, {}, errors.InvalidInput),
        ([1], [{"year": 1}, {}], {}, errors.InvalidInput),
        ([1], None, {}, errors.InvalidInput),
        ([1], {"year": [1]}, {"missing": "ingore"}, errors.InvalidSetting),
    ],
)
def test_bad_input_changes_nothing(ids: Any, values: Any, options: Any, error: type[Exception]):
    with vstore.connect("memory://bad-update", settings=vstore.Settings(n_threads=1)) as db:
        if "c" in db.collections():
            db.drop_collection("c")
        collection, model = filled(db)
        with pytest.raises(error):
            collection.update(ids, values, **options)
        check(collection, model)


def test_a_read_only_connection_refuses(tmp_path: Path):
    with vstore.connect(tmp_path) as db:
        filled(db)
    with vstore.connect(tmp_path, read_only=True) as db, pytest.raises(errors.ReadOnly):
        db.collection("c").update([1], {"year": [1]})


def test_no_write_comes_between_reading_and_writing(connect_again: Callable[[], vstore.Database]):
    with connect_again() as db:
        collection, _ = filled(db)
        fields = ["year", "price", "topic", "public"]
        values: dict[str, list[Any]] = {
            "year": list(range(20)),
            "price": [float(i) for i in range(20)],
            "topic": [f"t{i}" for i in range(20)],
            "public": [i % 2 == 0 for i in range(20)],
        }

        def work(name: str) -> None:
            for value in values[name]:
                collection.update([1, 2, 3], {name: [value] * 3})

        threads = [threading.Thread(target=work, args=(name,)) for name in fields]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for record in collection.get([1, 2, 3]):
            assert record is not None
            assert [record.attributes[name] for name in fields] == [values[name][-1] for name in fields]


@pytest.mark.parametrize("landed", [False, True], ids=["refused", "answer lost"])
def test_an_update_whose_put_fails_may_be_repeated(landed: bool, monkeypatch: pytest.MonkeyPatch):
    store = MemoryStore()
    with vstore.connect(store, settings=vstore.Settings(n_threads=1)) as db:
        collection, model = filled(db)
        put = store.put_if_absent

        def fails(key: str, data: bytes) -> None:
            if landed:
                put(key, data)
            raise errors.StoreUnavailable("no answer")

        with monkeypatch.context() as patch:
            patch.setattr(store, "put_if_absent", fails)
            with pytest.raises(errors.StoreUnavailable):
                collection.update([1, 2], {"year": [11, None]})
        check(collection, model)
        with vstore.connect(store) as other:
            if not landed:
                check(other.collection("c"), model)
        model[1]["year"] = 11
        model[2].pop("year", None)
        if landed:
            with vstore.connect(store) as other:
                check(other.collection("c"), model)
        assert collection.update([1, 2], {"year": [11, None]}) == 2
        check(collection, model)
    with vstore.connect(store) as other:
        check(other.collection("c"), model)
        assert other.verify("c").problems == []
