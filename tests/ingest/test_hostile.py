"""Hostile surroundings: named errors, nothing acknowledged lost, and all is well when they end."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vstore
from vstore.errors import (
    AccessDenied,
    BucketNotFound,
    CollectionNotFound,
    SnapshotNotFound,
    StorageError,
    StoreFull,
)

sys.path.insert(0, str(Path(__file__).parent.parent / "storage"))
from fault_proxy import DENIED, FaultProxy
from rights import as_somebody

INDEX = vstore.IndexSettings(M=4, ef_construction=20)
DIM = 8


def made(uri: Any, rows: int = 40, **settings: Any) -> tuple[vstore.Database, vstore.Collection]:
    options = settings.pop("options", {})
    chosen = vstore.Settings(n_threads=1, background=False, n_retries=0, **settings)
    db = vstore.connect(uri, settings=chosen, **options)
    collection = db.create_collection("c", dim=DIM, metric="l2", fields={"v": "int"}, index=INDEX)
    write(collection, range(rows))
    return db, collection


def write(collection: vstore.Collection, ids: range) -> None:
    collection.upsert(list(ids), np.full((len(ids), DIM), ids[0] + 1.0), {"v": list(ids)}, progress=False)


def holds(uri: Any, ids: set[int], **options: Any) -> None:
    with vstore.connect(uri, read_only=True, **options) as db:
        hits = db.collection("c").search(np.zeros(DIM), k=10**6, recall=1.0)
        assert {hit.id for hit in hits} == ids
        assert {hit.attributes["v"] for hit in hits} == ids
        assert db.verify("c").problems == []


@contextlib.contextmanager
def small_disk() -> Iterator[Path]:
    """A folder on a file system of 4 MiB; skips where none can be mounted."""
    folder = tempfile.mkdtemp(prefix="vstore-small-")
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs mount")
    if done.returncode:
        os.rmdir(folder)
        pytest.skip(f"needs the right to mount a small file system: {done.stderr.strip()}")
    try:
        yield Path(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=False)
        os.rmdir(folder)


def test_a_disk_that_is_really_full():
    with small_disk() as disk:
        uri = str(disk / "store")
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * (3 << 20))
        db, collection = made(uri)
        acknowledged = set(range(40))

        def fill() -> None:
            for first in range(1_000, 100_000, 1_000):
                write(collection, range(first, first + 1_000))
                acknowledged.update(range(first, first + 1_000))

        with pytest.raises(StoreFull, match="free some space"):
            fill()
        assert len(acknowledged) > 1_000
        assert {hit.id for hit in collection.search(np.zeros(DIM), k=10**6, recall=1.0)} == acknowledged
        with pytest.raises(StoreFull):
            collection.flush(progress=False)
        holds(uri, acknowledged)
        ballast.unlink()
        write(collection, range(500_000, 500_010))
        collection.flush(progress=False)
        db.close()
        holds(uri, acknowledged | set(range(500_000, 500_010)))


def test_a_folder_that_may_no_longer_be_written_and_then_not_even_read():
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        uri = str(Path(name) / "store")
        db, collection = made(uri, cache_bytes=0)
        collection.flush(progress=False)
        write(collection, range(40, 50))
        folders = [path for path in Path(uri).rglob("*") if path.is_dir()]
        for mode in (0o555, 0o000):
            for folder in reversed(folders):
                os.chmod(folder, mode)
            with as_somebody():
                for act in (
                    lambda: write(collection, range(90, 95)),
                    lambda: collection.flush(progress=False),
                    lambda: collection.tag("t"),
                ):
                    with pytest.raises(AccessDenied, match="give this user the right"):
                        act()
                if mode == 0:
                    with pytest.raises(AccessDenied):
                        vstore.connect(uri).collection("c")
            for folder in folders:
                os.chmod(folder, 0o755)
            # It was not acknowledged, and was settled as not having been.
            assert collection.get([90]) == [None]
        write(collection, range(95, 100))
        db.close()
        holds(uri, {*range(50), *range(95, 100)})


def test_a_folder_that_is_removed_under_its_users(tmp_path):
    uri = tmp_path / "store"
    db, writer = made(uri, cache_bytes=0)
    writer.flush(progress=False)
    writer.tag("t")
    reader_db = vstore.connect(uri, settings=vstore.Settings(cache_bytes=0), read_only=True)
    reader, tagged = reader_db.collection("c"), reader_db.collection("c", at="t")
    assert len(reader.search(np.zeros(DIM), k=3)) == 3
    shutil.rmtree(uri)
    for handle in (reader, tagged):
        with pytest.raises(StorageError):
            handle.search(np.ones(DIM), k=3, recall=1.0, filter={"v": {"$gte": 7}})
    for act in (reader.refresh, lambda: reader_db.collection("c"), lambda: reader_db.collection("c", at="t")):
        with pytest.raises(CollectionNotFound):
            act()
    assert reader_db.collections() == []
    # Nothing is acknowledged into a folder that nobody will find anything in.
    with pytest.raises(StorageError):
        write(writer, range(100, 105))
    with pytest.raises(BucketNotFound, match="was removed while it was in use"):
        db._store.put_if_absent("data/c/log/9", b"x")
    assert not uri.exists()
    db.close()
    made(uri)[0].close()
    holds(uri, set(range(40)))


def test_a_clock_that_is_set_back_and_forth(tmp_path):
    now = [1_000_000.0]
    settings = {"clock": lambda: now[0], "retention_s": 100.0, "lease_s": 50.0}
    db, collection = made(tmp_path, **settings)
    collection.flush(progress=False)
    first = collection.tag("first")
    expected = set(range(40))
    for step, jump in enumerate((-86_400.0, 10.0, 200_000.0, -3_600.0, 1.0, 7_200.0)):
        now[0] += jump
        ids = range(1_000 * (step + 1), 1_000 * (step + 1) + 5)
        write(collection, ids)
        expected |= set(ids)
        collection.delete(ids=[step])
        expected.discard(step)
        collection.compact(progress=False)
        db.collect_garbage("c")
        assert {hit.id for hit in collection.search(np.zeros(DIM), k=10**6, recall=1.0)} == expected
        with db.collection("c", at="first") as tagged:
            assert len(tagged) == 40
        with db.collection("c", at=db.snapshots("c")[-1].version) as latest:
            assert len(latest) == len(expected)
    assert first in {snapshot.version for snapshot in db.snapshots("c")}
    db.close()
    holds(tmp_path, expected)


def test_a_lease_holds_though_its_readers_clock_was_set_back(tmp_path):
    now, true = [1_000_000.0], [1_000_000.0]
    db, collection = made(tmp_path, clock=lambda: true[0], retention_s=0.0)
    collection.flush(progress=False)
    version = db.snapshots("c")[-1].version
    other = vstore.connect(
        tmp_path, settings=vstore.Settings(clock=lambda: now[0], lease_s=100.0, cache_bytes=0)
    )
    snapshot = other.collection("c", at=version)
    now[0] -= 10_000.0
    for _ in range(20):
        now[0] += 60.0
        true[0] += 60.0
        assert len(snapshot.search(np.zeros(DIM), k=5, recall=1.0)) == 5
        collection.delete(ids=[int(true[0]) % 40])
        collection.compact(progress=False)
    assert len(snapshot.search(np.zeros(DIM), k=100, recall=1.0)) == 40
    snapshot.close()
    collection.compact(progress=False)
    with pytest.raises(SnapshotNotFound):
        other.collection("c", at=version)
    other.close()
    db.close()


@pytest.mark.s3
def test_credentials_that_are_revoked_midway(s3_url, s3_options):
    proxy = FaultProxy(s3_options["endpoint_url"])
    try:
        far = {**s3_options, "endpoint_url": proxy.endpoint_url}
        db, collection = made(s3_url, options=far, cache_bytes=0)
        collection.flush(progress=False)
        write(collection, range(40, 50))
        proxy.script = {method: [DENIED] * 10_000 for method in ("GET", "PUT", "HEAD", "POST", "DELETE")}
        for act in (
            lambda: write(collection, range(90, 95)),
            lambda: collection.delete(ids=[1]),
            lambda: collection.flush(progress=False),
            lambda: collection.search(np.ones(DIM), k=3, filter={"v": {"$gte": 7}}),
            lambda: vstore.connect(s3_url, **far),
            lambda: db.collections(),
        ):
            with pytest.raises(AccessDenied, match="credentials"):
                act()
        proxy.script.clear()
        holds(s3_url, set(range(50)), **s3_options)
        # What failed was not acknowledged; the same handle goes on.
        write(collection, range(95, 100))
        collection.flush(progress=False)
        db.close()
        holds(s3_url, {*range(50), *range(95, 100)}, **s3_options)
    finally:
        proxy.close()
