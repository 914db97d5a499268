"""Bad input gets a named error with value, limit and remedy, and leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import vstore
from vstore import F, errors

FIELDS = {"year": "int", "topic": "str", "tags": "list[str]", "price": "float", "public": "bool"}


@pytest.fixture
def collection():
    made = vstore.connect("memory://").create_collection("c", dim=3, metric="cosine", fields=FIELDS)
    made.upsert([1, 2], [[1, 0, 0], [0, 1, 0]], [{"year": 2000}, {"year": 2010}])
    return made


UPSERTS = [
    ("wrong dimension", dict(ids=[3], vectors=[[1, 2]]), errors.DimensionMismatch, r"\(n, 3\)"),
    ("ragged", dict(ids=[3, 4], vectors=[[1, 2, 3], [1]]), errors.DimensionMismatch, "vector 1 has 1 comp"),
    ("one vector", dict(ids=[3], vectors=[1, 2, 3]), errors.DimensionMismatch, "one row"),
    ("NaN", dict(ids=[3, 4], vectors=[[1, 2, 3], [1, np.nan, 3]]), errors.InvalidVector, "vector 1 has nan"),
    ("infinite", dict(ids=[3], vectors=[[1, np.inf, 3]]), errors.InvalidVector, "vector 0 has inf"),
    ("past float32", dict(ids=[3], vectors=[[1, 1e300, 3]]), errors.InvalidVector, "float32"),
    (
        "zero under cosine",
        dict(ids=[3, 4], vectors=[[1, 2, 3], [0, 0, 0]]),
        errors.InvalidVector,
        "vector 1 is z",
    ),
    ("text as vector", dict(ids=[3], vectors=[["a", "b", "c"]]), errors.InvalidVector, "real numbers"),
    ("duplicate ids", dict(ids=[3, 4, 3], vectors=np.eye(3)), errors.DuplicateId, "rows 0 and 2"),
    ("id of the other kind", dict(ids=["x"], vectors=[[1, 2, 3]]), errors.InvalidId, "ids are int"),
    ("mixed ids", dict(ids=[3, "x"], vectors=np.eye(3)[:2]), errors.InvalidId, "id 1 is 'x'"),
    ("bool id", dict(ids=[True], vectors=[[1, 2, 3]]), errors.InvalidId, "bool"),
    ("float id", dict(ids=[1.5], vectors=[[1, 2, 3]]), errors.InvalidId, "float"),
    ("huge id", dict(ids=[2**70], vectors=[[1, 2, 3]]), errors.InvalidId, "use str ids"),
    ("one id", dict(ids=3, vectors=[[1, 2, 3]]), errors.InvalidId, "give a list"),
    ("fewer vectors", dict(ids=[3, 4], vectors=[[1, 2, 3]]), errors.InvalidInput, "2 ids and 1 vectors"),
    (
        "unknown field",
        dict(ids=[3], vectors=[[1, 2, 3]], attributes=[{"yaer": 1}]),
        errors.UnknownField,
        "did you mean 'year'",
    ),
    (
        "ill-typed field",
        dict(ids=[3, 4], vectors=np.eye(3)[:2], attributes=[{"year": 1}, {"year": "two"}]),
        errors.FieldTypeError,
        "year.*1.*two",
    ),
    (
        "bool in an int field",
        dict(ids=[3], vectors=[[1, 2, 3]], attributes=[{"year": True}]),
        errors.FieldTypeError,
        "year",
    ),
    (
        "short column",
        dict(ids=[3, 4], vectors=np.eye(3)[:2], attributes={"year": [1]}),
        errors.InvalidInput,
        "1 values; there are 2 ids",
    ),
    (
        "attributes of another length",
        dict(ids=[3], vectors=[[1, 2, 3]], attributes=[{}, {}]),
        errors.InvalidInput,
        "2 rows; there are 1 ids",
    ),
    (
        "unknown part of a document",
        dict(ids=[3], vectors=[[1, 2, 3]], documents=[{"txt": "a"}]),
        errors.InvalidDocument,
        "did you mean 'text'",
    ),
    (
        "a number as document",
        dict(ids=[3], vectors=[[1, 2, 3]], documents=[7]),
        errors.InvalidDocument,
        "int",
    ),
    (
        "one document",
        dict(ids=[3], vectors=[[1, 2, 3]], documents="t"),
        errors.InvalidDocument,
        "give a list",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "error", "message"), [c[1:] for c in UPSERTS], ids=[c[0] for c in UPSERTS]
)
def test_a_bad_upsert_is_refused_whole(collection, arguments, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        collection.upsert(**arguments)
    assert collection.count() == 2
    assert collection.get([3, 4]) == [None, None]


def test_text_ids_have_limits():
    collection = vstore.connect("memory://").create_collection("c", dim=1, metric="l2")
    for bad, message in (("", "0 bytes"), ("x" * 1025, "1025 bytes"), ("\ud800", "Unicode")):
        with pytest.raises(errors.InvalidId, match=message):
            collection.upsert([bad], [[1]])
    collection.upsert(["x" * 1024], [[1]])
    with pytest.raises(errors.InvalidId, match="ids are str"):
        collection.get([1])


SEARCHES = [
    ("wrong dimension", dict(query=[1, 2]), errors.DimensionMismatch, r"\(3,\)"),
    ("many queries", dict(query=np.eye(3)), errors.DimensionMismatch, "search_batch"),
    ("NaN", dict(query=[1, np.nan, 0]), errors.InvalidVector, "nan"),
    ("zero under cosine", dict(query=[0, 0, 0]), errors.InvalidVector, "zero"),
    ("k = 0", dict(query=[1, 0, 0], k=0), errors.InvalidSetting, "k is 0"),
    ("k is no number", dict(query=[1, 0, 0], k=2.5), errors.InvalidSetting, "2.5"),
    ("recall = 0", dict(query=[1, 0, 0], recall=0), errors.InvalidSetting, "above 0"),
    ("recall above 1", dict(query=[1, 0, 0], recall=1.2), errors.InvalidSetting, "at most 1"),
    ("ef = 0", dict(query=[1, 0, 0], ef=0), errors.InvalidSetting, "ef is 0"),
    ("unknown field", dict(query=[1, 0, 0], filter=F.yeer > 3), errors.UnknownField, "did you mean 'year'"),
    (
        "unknown operator",
        dict(query=[1, 0, 0], filter={"year": {"$gtr": 3}}),
        errors.UnknownOperator,
        r"\$gtr.*did you mean|\$gt",
    ),
    ("a filter that cannot be typed", dict(query=[1, 0, 0], filter=F.topic > 3), errors.FilterError, "topic"),
    ("no filter at all", dict(query=[1, 0, 0], filter="year > 3"), errors.FilterError, "str"),
    ("no re-ranker", dict(query=[1, 0, 0], rerank=3), errors.InvalidInput, "score"),
    ("depth alone", dict(query=[1, 0, 0], rerank_depth=3), errors.InvalidInput, "rerank"),
    (
        "no query for the re-ranker",
        dict(query=[1, 0, 0], rerank=lambda query, documents: [1.0] * len(documents)),
        errors.InvalidInput,
        "query_document",
    ),
    (
        "too few scores",
        dict(query=[1, 0, 0], rerank=lambda query, documents: [1.0], query_document="q"),
        errors.RerankError,
        "2",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "error", "message"), [c[1:] for c in SEARCHES], ids=[c[0] for c in SEARCHES]
)
def test_a_bad_search_is_refused(collection, arguments, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        collection.search(**arguments)


def test_k_larger_than_what_matches_gives_all(collection):
    assert len(collection.search([1, 0, 0], k=10_000)) == 2
    assert len(collection.search([1, 0, 0], k=10_000, filter=F.year > 2005)) == 1


def test_delete_takes_ids_or_a_filter(collection):
    for arguments in ({}, {"ids": [1], "filter": F.year > 0}):
        with pytest.raises(errors.InvalidInput, match="one of them"):
            collection.delete(**arguments)
    with pytest.raises(errors.FilterError):
        collection.delete(filter={})
    assert collection.count() == 2


def test_collections_that_exist_or_do_not():
    db = vstore.connect("memory://")
    db.create_collection("photos", dim=3)
    with pytest.raises(errors.CollectionExists, match="drop_collection"):
        db.create_collection("photos", dim=3)
    with pytest.raises(errors.CollectionNotFound, match="did you mean 'photos'"):
        db.collection("fotos")
    with pytest.raises(KeyError):
        db.drop_collection("fotos")
    for name in ("", "a/b", "../x", ".hidden", "x" * 129, 3):
        with pytest.raises(errors.InvalidSetting, match="collection name"):
            db.create_collection(name, dim=3)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (dict(dim=0), errors.InvalidSetting),
        (dict(dim=2.5), errors.InvalidSetting),
        (dict(dim=10**9), errors.InvalidSetting),
        (dict(dim=3, metric="cosin"), errors.InvalidSetting),
        (dict(dim=3, fields={"a": "string"}), errors.FieldTypeError),
        (dict(dim=3, fields={"$a": "str"}), errors.InvalidSetting),
        (dict(dim=3, fields={"": "str"}), errors.InvalidSetting),
    ],
)
def test_a_schema_out_of_limits(arguments, error):
    db = vstore.connect("memory://")
    with pytest.raises(error):
        db.create_collection("c", **arguments)
    assert db.collections() == []


def test_settings_out_of_limits():
    for settings in (dict(cache_bytes=-1), dict(io_concurrency=0), dict(n_threads=0), dict(retention_s=-1)):
        with pytest.raises(errors.InvalidSetting, match=next(iter(settings))):
            vstore.Settings(**settings)
    for index in (dict(M=1), dict(ef_construction=3), dict(block_rows=1000), dict(shard_rows=1)):
        with pytest.raises(errors.InvalidSetting, match=next(iter(index))):
            vstore.IndexSettings(**index)


def test_places_that_are_no_store(tmp_path: Path):
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(errors.NotAStore, match="no vstore store"):
        vstore.connect(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]
    with pytest.raises(errors.NotAStore):
        vstore.connect(tmp_path / "letter.txt")
    with pytest.raises(errors.InvalidSetting, match="gs"):
        vstore.connect("gs://bucket")


def test_a_store_of_a_newer_format(tmp_path: Path):
    vstore.connect(tmp_path / "s").create_collection("c", dim=1)
    marker = tmp_path / "s" / "vstore.json"
    marker.write_text(json.dumps({"format": "vstore", "version": 99}))
    with pytest.raises(errors.UnsupportedVersion, match="99"):
        vstore.connect(tmp_path / "s")


def test_connecting_writes_nothing(tmp_path: Path):
    db = vstore.connect(tmp_path / "new")
    assert db.collections() == []
    assert not (tmp_path / "new").exists()


@pytest.mark.s3
def test_a_bucket_that_is_missing_or_forbidden(s3_options):
    with pytest.raises(errors.BucketNotFound, match="no-such-bucket"):
        vstore.connect("s3://no-such-bucket-here", **s3_options)
    wrong = {**s3_options, "secret_access_key": "wrong"}
    with pytest.raises(errors.AccessDenied):
        vstore.connect("s3://vstore-tests/x", **wrong)
    with pytest.raises(errors.StoreUnavailable):
        vstore.connect(
            "s3://vstore-tests/x",
            settings=vstore.Settings(n_retries=0),
            **{**s3_options, "endpoint_url": "http://127.0.0.1:9"},
        )
