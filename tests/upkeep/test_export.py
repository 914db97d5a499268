"""Export and import give back every row, bit by bit; a damaged or unfinished export is refused."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from face_data import FIELDS, attributes, clustered

import vstore
from vstore import errors
from vstore.upkeep import export as export_module
from vstore.upkeep import importing as import_module

DIM = 5
N = 300
INDEX = vstore.IndexSettings(block_rows=64, ef_construction=40, cluster_rows=32, M=8, seed=3)


def connect(place: Any) -> vstore.Database:
    return vstore.connect(place, settings=vstore.Settings(n_threads=1))


def documents() -> list[Any]:
    kinds: list[Any] = [
        None,
        "plain",
        {"text": "a\nb\u2028c \u00e9\U0001f600", "image": bytes(range(256))},
        {"image": "a/path.png"},
        {"image": b""},
        {},
    ]
    return [kinds[i % len(kinds)] for i in range(N)]


def filled(db: vstore.Database, text_ids: bool, metric: Any = "dot") -> vstore.Collection:
    made = db.create_collection("c", dim=DIM, metric=metric, fields=FIELDS, index=INDEX)
    ids: list[Any] = [f"id {i} \u00fc" for i in range(N)] if text_ids else [i - 2**62 for i in range(N)]
    rows = attributes(N, 3)
    rows[0] |= {"price": float("inf"), "year": 2**63 - 1, "tags": [], "codes": None, "topic": '\n\u2029"'}
    rows[1] |= {"price": -0.0, "taken": dt.datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=dt.UTC)}
    rows[2] |= {"price": float("-inf"), "taken": dt.datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=dt.UTC)}
    vectors, texts = clustered(N, DIM, 4), documents()
    made.upsert(ids[:200], vectors[:200], rows[:200], texts[:200])
    made.flush()
    made.upsert(ids[150:], vectors[150:], rows[150:], texts[150:])
    made.delete(ids=ids[10:15])
    return made


def content(collection: vstore.Collection, keys: list[Any]) -> list[Any]:
    return [
        None if record is None else (record.id, record.vector.tobytes(), record.attributes, record.document)
        for record in collection.get(keys)
    ]


@pytest.mark.parametrize("text_ids", [False, True], ids=["int", "str"])
@pytest.mark.parametrize("folder", [False, True], ids=["memory", "folder"])
def test_a_round_trip(text_ids: bool, folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(export_module, "MAX_BATCH_ROWS", 64)
    monkeypatch.setattr(import_module, "MAX_BATCH_ROWS", 50)
    with connect(tmp_path / "a" if folder else "memory://") as db:
        made = filled(db, text_ids)
        ids = [f"id {i} \u00fc" for i in range(N)] if text_ids else [i - 2**62 for i in range(N)]
        done: list[tuple[int, int]] = []
        assert db.export("c", tmp_path / "out", progress=lambda *at: done.append(at)) == N - 5
        assert done[-1] == (N - 5, N - 5)
        assert len(done) > 4
        again = db.import_collection(tmp_path / "out", "again", progress=lambda *at: done.append(at))
        assert done[-1] == (N - 5, N - 5)
        assert again.name == "again"
        assert (again.schema, len(again)) == (made.schema, len(made))
        assert content(again, ids) == content(made, ids)
        assert db.verify().problems == []
        # The second export is the first, but for the order of rows, and its settings are the same.
        db.export("again", tmp_path / "out2")
        told = [json.loads((tmp_path / out / "collection.json").read_text()) for out in ("out", "out2")]
        for key in ("dim", "metric", "fields", "index", "n_rows"):
            assert told[0][key] == told[1][key]
        assert sorted((tmp_path / "out" / "rows.jsonl").read_bytes().splitlines()) == sorted(
            (tmp_path / "out2" / "rows.jsonl").read_bytes().splitlines()
        )
        with pytest.raises(errors.CollectionExists):
            db.import_collection(tmp_path / "out", "c")
        with pytest.raises(errors.InvalidInput, match="not empty"):
            db.export("c", tmp_path / "out")


def test_the_files_are_plain(tmp_path: Path):
    with connect("memory://") as db:
        filled(db, False)
        db.export("c", tmp_path / "out")
    vectors = np.load(tmp_path / "out" / "vectors.npy")
    assert (vectors.shape, vectors.dtype) == ((N - 5, DIM), np.float32)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    with open(tmp_path / "out" / "rows.jsonl", "rb") as file:
        rows = [json.loads(line, parse_constant=refuse) for line in file]
    assert len(rows) == N - 5
    assert set(rows[0]) == {"id", "attributes", "document"}
    assert set(rows[0]["attributes"]) == set(FIELDS)


def test_an_empty_collection(tmp_path: Path):
    with connect("memory://") as db:
        db.create_collection("c", dim=3, metric="cosine")
        assert db.export("c", tmp_path / "out") == 0
        again = db.import_collection(tmp_path / "out", "d")
        assert len(again) == 0
        assert again.schema == db.collection("c").schema
        again.upsert(["text ids"], [[1, 2, 3]])


@pytest.mark.parametrize("name", ["vectors.npy", "rows.jsonl", "collection.json"])
def test_a_damaged_export_creates_nothing(name: str, tmp_path: Path):
    with connect("memory://") as db:
        filled(db, False)
        db.export("c", tmp_path / "out")
        file = tmp_path / "out" / name
        whole = file.read_bytes()
        for damaged in (whole[:-9], bytes([whole[0] ^ 1]) + whole[1:]):
            file.write_bytes(damaged)
            with pytest.raises(errors.CorruptData, match=name):
                db.import_collection(tmp_path / "out", "d")
        file.unlink()
        with pytest.raises((errors.CorruptData, errors.InvalidInput), match=name):
            db.import_collection(tmp_path / "out", "d")
        file.write_bytes(whole)
        assert db.collections() == ["c"]
        assert len(db.import_collection(tmp_path / "out", "d")) == N - 5


def test_an_import_that_fails_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with connect("memory://") as db:
        filled(db, False)
        db.export("c", tmp_path / "out")
        monkeypatch.setattr(import_module, "MAX_BATCH_ROWS", 50)
        upsert, calls = vstore.Collection.upsert, []

        def fails_later(self: vstore.Collection, *given: Any) -> int:
            calls.append(1)
            if len(calls) == 3:
                raise errors.StoreUnavailable("gone")
            return upsert(self, *given)

        monkeypatch.setattr(vstore.Collection, "upsert", fails_later)
        with pytest.raises(errors.StoreUnavailable):
            db.import_collection(tmp_path / "out", "d")
        assert db.collections() == ["c"]


def test_what_cannot_be_exported_or_imported(tmp_path: Path):
    with connect("memory://") as db:
        with pytest.raises(errors.CollectionNotFound):
            db.export("c", tmp_path / "out")
        db.create_collection("c", dim=3)
        (tmp_path / "file").write_text("x")
        with pytest.raises(errors.InvalidInput):
            db.export("c", tmp_path / "file")
        with pytest.raises(errors.InvalidInput, match="no export"):
            db.import_collection(tmp_path, "d")


def test_a_tag_is_exported_as_it_was_under_the_fields_of_its_time(tmp_path: Path):
    with connect(tmp_path / "store") as db:
        c = db.create_collection("c", dim=2, metric="l2", fields={"year": "int"})
        c.upsert([1, 2, 3], np.eye(3, 2), {"year": [1, 2, 3]})
        c.tag("then")
        c.delete([2])
        c.drop_field("year")
        c.add_field("name", "str")
        c.upsert([4], np.ones((1, 2)), {"name": ["four"]})
        assert db.export("c", tmp_path / "then", at="then") == 3
        assert db.export("c", tmp_path / "now") == 3
        with pytest.raises(errors.SnapshotNotFound):
            db.export("c", tmp_path / "never", at="never")
        assert not (tmp_path / "never").exists()
        then = db.import_collection(tmp_path / "then", "then")
        now = db.import_collection(tmp_path / "now", "now")
        with db.collection("c", at="then") as tagged:
            assert then.schema == tagged.schema
            assert content(then, [1, 2, 3, 4]) == content(tagged, [1, 2, 3, 4])
        assert now.schema == c.schema
        assert content(now, [1, 2, 3, 4]) == content(c, [1, 2, 3, 4])
