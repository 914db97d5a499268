"""Uploads in pieces: the object is there whole at the end, and nothing of it after a failure."""

from __future__ import annotations

import numpy as np
import pytest

from vstore.errors import StorageError
from vstore.settings import Settings
from vstore.storage import LocalStore, MemoryStore, open_store
from vstore.storage import s3 as s3_module
from vstore.storage.upload import open_upload
from vstore.storage.wrappers import CountingStore

PART = 5 << 20
BODY = np.random.default_rng(1).bytes(3 * PART + 12_345)


def pieces(sizes=(1, 100_000, 7_000_000, 3)):
    at, turn = 0, 0
    while at < len(BODY):
        size = sizes[turn % len(sizes)]
        yield BODY[at : at + size]
        at, turn = at + size, turn + 1


@pytest.fixture(params=["memory", "folder", "wrapped", "seaweed", "ceph"])
def store(request, tmp_path, monkeypatch):
    monkeypatch.setattr(s3_module, "PART_BYTES", PART)
    if request.param in ("seaweed", "ceph"):
        name = "s3" if request.param == "seaweed" else "ceph"
        options = request.getfixturevalue(f"{name}_options")
        made = open_store(
            request.getfixturevalue(f"{name}_url"), settings=Settings(io_concurrency=4), **options
        )
    else:
        made = {
            "memory": MemoryStore,
            "folder": lambda: LocalStore(tmp_path / "store"),
            "wrapped": lambda: CountingStore(MemoryStore()),
        }[request.param]()
    yield made
    made.close()


def send(store, error=None) -> None:
    with open_upload(store, "a/large") as sink:
        for number, piece in enumerate(pieces()):
            sink(piece)
            if number == 3 and error is not None:
                raise error


def unfinished(store) -> list[str]:
    """What is left of uploads that did not end: parts in a bucket, temporary files in a folder."""
    if isinstance(store, s3_module.S3Store):
        found = store._client.list_multipart_uploads(Bucket=store._bucket, Prefix=store._root)
        return [item["Key"] for item in found.get("Uploads", [])]
    if isinstance(store, LocalStore):
        from pathlib import Path

        return [path.name for path in Path(store._root).rglob("*") if path.is_file() and path.name != "kept"]
    return []


@pytest.mark.s3
def test_a_body_in_pieces_arrives_whole(store):
    with open_upload(store, "a/large") as sink:
        for piece in pieces():
            sink(piece)
        assert store.head("a/large") is None
    assert store.get("a/large") == BODY
    assert store.get("a/large", PART - 5, 10) == BODY[PART - 5 : PART + 5]
    with open_upload(store, "a/small") as sink:
        sink(b"few")
        sink(b" bytes")
    assert store.get("a/small") == b"few bytes"


@pytest.mark.s3
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(store, error):
    store.put("kept", b"x")
    with pytest.raises(error):
        send(store, error)
    assert [info.key for info in store.list()] == ["kept"]
    assert unfinished(store) == []


@pytest.mark.s3
def test_a_part_that_fails_fails_the_upload(s3_url, s3_options, monkeypatch):
    monkeypatch.setattr(s3_module, "PART_BYTES", PART)
    store = open_store(s3_url, settings=Settings(n_retries=0), **s3_options)
    whole = store._client.upload_part

    def failing(**kwargs):
        if kwargs["PartNumber"] == 2:
            kwargs["Bucket"] = "no-such-bucket-here"
        return whole(**kwargs)

    monkeypatch.setattr(store._client, "upload_part", failing)
    with pytest.raises(StorageError):
        send(store)
    assert store.list() == []
    assert unfinished(store) == []
    store.close()
