"""vstore import: files in, rows out; bad rows are named."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_run import Shell

import vstore
from vstore.cli.importing import find_type
from vstore.errors import InvalidInput


def rows(n: int = 50) -> list[dict[str, Any]]:
    vectors = np.random.default_rng(5).standard_normal((n, 4)).round(3)
    return [
        {
            "id": i,
            "vector": vectors[i].tolist(),
            "text": f"row {i}",
            "year": 2000 + i,
            "price": i / 2 if i % 3 else 7,
            "tags": ["a", "b"] if i % 2 else [],
            "public": i % 2 == 0,
            "topic": None if i == 0 else f"t{i % 3}",
        }
        for i in range(n)
    ]


def write_jsonl(path: Path, written: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in written) + "\n\n")
    return path


def test_jsonl_makes_the_collection_with_the_fields_it_finds(shell: Shell, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", rows())
    ended = shell("import", tmp_path / "store", "rows", file, "--metric", "l2", "--batch-rows", 20, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["n_imported"] == ended.json["n_rows"] == 50
    assert ended.json["created"] is True
    collection = vstore.connect(tmp_path / "store").collection("rows")
    assert collection.schema.metric == "l2"
    assert dict(collection.schema.fields) == {
        "year": "int",
        "price": "float",
        "tags": "list[str]",
        "public": "bool",
        "topic": "str",
    }
    (record,) = collection.get([7])
    assert record is not None
    assert record.document == {"text": "row 7"}
    assert record.attributes["price"] == 3.5
    assert collection.count({"topic": {"$exists": False}}) == 1
    again = shell("import", tmp_path / "store", "rows", file)
    assert "50 rows into rows, now 50" in again.out


def test_parquet_keeps_its_types(shell: Shell, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="needs pyarrow; run: pip install 'vstore[parquet]'")
    import pyarrow.parquet as parquet

    given = rows()
    for i, row in enumerate(given):
        row["taken"] = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(days=i)
        row["name"] = f"r{row.pop('id')}"
    parquet.write_table(arrow.Table.from_pylist(given), tmp_path / "rows.parquet")
    ended = shell(
        "import", tmp_path / "store", "rows", tmp_path / "rows.parquet", "--id-key", "name", "--json"
    )
    assert ended.code == 0, ended.err
    collection = vstore.connect(tmp_path / "store").collection("rows")
    assert collection.schema.fields["taken"] == "datetime"
    assert collection.count({"taken": {"$lt": "2024-01-11"}}) == 10
    assert collection.get(["r3"])[0].attributes["tags"] == ["a", "b"]  # type: ignore[union-attr]


def test_npy_with_and_without_ids(shell: Shell, tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).standard_normal((30, 6)).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors)
    np.save(tmp_path / "ids.npy", np.array([f"k{i}" for i in range(30)]))
    assert shell("import", tmp_path / "store", "numbered", tmp_path / "v.npy", "--batch-rows", 7).code == 0
    named = shell("import", tmp_path / "store", "named", tmp_path / "v.npy", "--ids", tmp_path / "ids.npy")
    assert named.code == 0, named.err
    with vstore.connect(tmp_path / "store") as db:
        assert db.collection("numbered").search(vectors[4], k=1).ids == [4]
        assert db.collection("named").search(vectors[4], k=1).ids == ["k4"]
        np.testing.assert_array_equal(db.collection("named").get(["k4"])[0].vector, vectors[4])  # type: ignore[union-attr]


def test_fields_that_are_named_are_taken(shell: Shell, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "r.jsonl", [{"id": "a", "vector": [1, 0], "when": "2024-05-01T00:00:00"}])
    assert shell("import", tmp_path / "store", "c", file, "--field", "when=datetime").code == 0
    assert vstore.connect(tmp_path / "store").collection("c").schema.fields == {"when": "datetime"}


@pytest.mark.parametrize(
    ("line", "error", "words"),
    [
        ("{broken", "InvalidInput", ["line 2", "JSON"]),
        ("[1, 2]", "InvalidInput", ["line 2", "object"]),
        ('{"idd": 5, "vector": [1, 2, 3, 4]}', "InvalidInput", ["'id'", "did you mean 'idd'", "--id-key"]),
        ('{"id": 5, "vector": [1, 2]}', "DimensionMismatch", ["4"]),
        ('{"id": 0, "vector": [1, 2, 3, 4]}', "DuplicateId", ["0"]),
        ('{"id": 5, "vector": [1, 2, 3, 4], "yaer": 1}', "UnknownField", ["year"]),
        ('{"id": 5, "vector": [1, 2, 3, 4], "year": "soon"}', "FieldTypeError", ["year", "soon"]),
    ],
)
def test_a_bad_row_is_named_and_its_batch_rejected(
    shell: Shell, tmp_path: Path, line: str, error: str, words: list[str]
) -> None:
    store = tmp_path / "store"
    good = [{"id": 1000 + i, "vector": [1, 2, 3, i], "year": i} for i in range(5)]
    assert shell("import", store, "c", write_jsonl(tmp_path / "good.jsonl", good)).code == 0
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": 0, "vector": [1, 2, 3, 4], "year": 1}\n' + line + "\n")
    ended = shell("import", store, "c", bad)
    assert ended.code == 1
    assert ended.err.startswith(f"vstore: {error}: "), ended.err
    for word in words:
        assert word in ended.err
    assert vstore.connect(store).collection("c").count() == 5


def test_files_that_cannot_be_read(shell: Shell, tmp_path: Path) -> None:
    store = tmp_path / "store"
    for name, content in (("x.npy", b"none"), ("x.parquet", b"none"), ("x.jsonl", b"\n")):
        (tmp_path / name).write_bytes(content)
        ended = shell("import", store, "c", tmp_path / name)
        assert ended.code == 1, name
        assert ended.err.startswith("vstore: InvalidInput: ")
    np.save(tmp_path / "flat.npy", np.zeros(5))
    assert "matrix" in shell("import", store, "c", tmp_path / "flat.npy").err
    (tmp_path / "x.csv").write_text("a,b")
    assert shell("import", store, "c", tmp_path / "x.csv").code == 2
    assert shell("import", store, "c", tmp_path / "missing.jsonl").code == 2
    assert shell("import", store, "c", tmp_path / "x.npy", "--field", "year:int").code == 2
    assert not store.exists()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], "int"),
        ([1, 2.5], "float"),
        ([True], "bool"),
        (["a"], "str"),
        ([["a"], []], "list[str]"),
        ([[], [1]], "list[int]"),
        ([[]], "list[str]"),
        ([datetime.datetime(2024, 1, 1)], "datetime"),
    ],
)
def test_the_type_of_values(values: list[Any], kind: str) -> None:
    assert find_type("x", values) == kind


@pytest.mark.parametrize("values", [[1, "a"], [True, 1], [["a"], [1]], [[1.5]], [{"a": 1}]])
def test_values_that_no_type_holds_are_refused(values: list[Any]) -> None:
    with pytest.raises(InvalidInput, match="--field x=TYPE"):
        find_type("x", values)
