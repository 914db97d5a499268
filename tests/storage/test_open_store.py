"""From what a user types to a store, and errors that say what to type instead."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vstore.errors import BucketNotFound, InvalidSetting, MissingDependency, StorageError
from vstore.storage import LocalStore, MemoryStore, open_store
from vstore.storage.probe import probe_create_only
from vstore.storage.wrappers import ForwardingStore


def test_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    open_store("./data").put("a", b"relative")
    assert open_store(tmp_path / "data").get("a") == b"relative"
    assert open_store(f"file://{tmp_path}/data").get("a") == b"relative"
    assert open_store("~/data").get("a") == b"relative"
    open_store(f"file://{tmp_path}/with%20space").put("a", b"x")
    assert (tmp_path / "with space" / "a").exists()
    assert isinstance(open_store("data"), LocalStore)


def test_a_relative_folder_stays_where_it_was_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = open_store("data")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.put("a", b"x")
    assert (tmp_path / "data" / "a").exists()


def test_memory():
    first = open_store("memory://shelf")
    first.put("a", b"x")
    first.close()
    assert open_store("memory://shelf").get("a") == b"x"
    assert open_store("memory://other").list() == []
    assert open_store("memory://") is not open_store("memory://")
    MemoryStore.forget("shelf")
    assert open_store("memory://shelf").list() == []
    for name in ("shelf", "other"):
        MemoryStore.forget(name)


@pytest.mark.parametrize(
    ("uri", "options", "message"),
    [
        ("s4://bucket", {}, "did you mean 's3'"),
        ("gs://bucket", {}, "scheme 'gs'"),
        ("", {}, "must be a folder"),
        (b"./data", {}, "must be a folder"),
        ("file://host/data", {}, "names a host"),
        ("./data", {"endpoint_url": "http://x"}, "no option 'endpoint_url'"),
        ("memory://", {"create": True}, "no option 'create'"),
        ("s3://bucket", {"endpoint": "http://x"}, "did you mean 'endpoint_url'"),
        ("s3://", {}, "the bucket is ''"),
        ("s3://bbb/../c", {}, "the prefix is"),
        ("s3://buck et/x", {}, "the bucket is"),
        ("s3://bucket", {"access_key_id": "x"}, "belong together"),
        ("s3://bucket", {"session_token": "x"}, "pass all three"),
        ("s3://bucket", {"addressing_style": "paht"}, "addressing_style is 'paht'"),
        ("s3://bucket", {"endpoint_url": "127.0.0.1:9000"}, "http://"),
    ],
)
def test_what_cannot_be(uri, options, message):
    with pytest.raises(InvalidSetting, match=message):
        open_store(uri, **options)


def test_create_false(tmp_path):
    with pytest.raises(BucketNotFound):
        open_store(tmp_path / "x", create=False)


def test_boto3_is_imported_for_s3_only():
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
import vstore.storage, vstore.storage.wrappers
vstore.storage.open_store("memory://")
print("boto3" in sys.modules, "botocore" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["False", "False"]


def test_a_missing_boto3_says_what_to_install(monkeypatch):
    for name in [n for n in sys.modules if n.startswith("vstore.storage.s3")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingDependency, match="pip install"):
        open_store("s3://bucket")


def test_the_probe_finds_a_store_that_ignores_the_condition():
    class Careless(ForwardingStore):
        def put_if_absent(self, key, data):
            self.inner.put(key, data)

    inner = MemoryStore()
    with pytest.raises(StorageError, match="ignores If-None-Match"):
        probe_create_only(Careless(inner))
    assert inner.list() == []
