"""A collection goes from a folder to a bucket and back, bit by bit; versions, tags and leases hold there."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from face_data import FIELDS, attributes, clustered

import vstore
from vstore.errors import SnapshotNotFound

pytestmark = pytest.mark.s3
DIM, N = 6, 240
INDEX = vstore.IndexSettings(block_rows=64, ef_construction=40, cluster_rows=32, M=8, seed=3)


def filled(db: vstore.Database) -> vstore.Collection:
    made = db.create_collection("c", dim=DIM, metric="cosine", fields=FIELDS, index=INDEX)
    vectors, rows = clustered(N, DIM, 4), attributes(N, 3)
    texts: list[Any] = [None if i % 3 else {"text": f"row {i}", "image": bytes([i])} for i in range(N)]
    made.upsert(range(N), vectors, rows, texts)
    made.tag("whole", progress=False)
    made.update([3, 4], [{"topic": "changed"}, {"year": None}])
    made.delete(ids=range(10, 40))
    made.flush(progress=False)
    made.upsert([10], vectors[:1], rows[:1])
    return made


def content(collection: vstore.Collection) -> list[Any]:
    return [
        None if record is None else (record.id, record.vector.tobytes(), record.attributes, record.document)
        for record in collection.get(range(N))
    ]


def test_a_folder_a_bucket_and_a_folder_hold_the_same(
    tmp_path: Path, s3_url: str, s3_options: dict[str, str]
):
    settings = vstore.Settings(n_threads=1)
    with (
        vstore.connect(tmp_path / "a", settings=settings) as first,
        vstore.connect(s3_url, settings=settings, **s3_options) as second,
        vstore.connect(tmp_path / "b", settings=settings) as third,
    ):
        expected = content(filled(first))
        first.export("c", tmp_path / "one")
        assert content(second.import_collection(tmp_path / "one", "c")) == expected
        assert second.verify().problems == []
        second.export("c", tmp_path / "two")
        back = third.import_collection(tmp_path / "two", "c")
        assert content(back) == expected
        assert third.verify().problems == []
        assert back.schema == first.collection("c").schema
        query = np.ones(DIM)
        for one in (first, second):
            hits = one.collection("c").search(query, k=20, recall=1.0)
            assert hits.ids == back.search(query, k=20, recall=1.0).ids


def test_tags_restore_leases_and_garbage_on_a_bucket(s3_url: str, s3_options: dict[str, str]):
    now = [1_000_000.0]
    settings = vstore.Settings(
        n_threads=1, retention_s=0.0, lease_s=100.0, clock=lambda: now[0], background=False
    )
    other = dataclasses.replace(settings, cache_bytes=0)
    with (
        vstore.connect(s3_url, settings=settings, **s3_options) as db,
        vstore.connect(s3_url, settings=other, **s3_options) as reader,
    ):
        made = filled(db)
        made.flush(progress=False)
        latest = content(made)
        version = db.snapshots("c")[-1].version
        held = reader.collection("c", at=version)
        made.delete(ids=range(100))
        made.flush(progress=False)
        now[0] += 10.0
        made.compact(progress=False)
        # The reader's version is older than the retention, and only its lease keeps it.
        assert version not in [snapshot.version for snapshot in db.snapshots("c")]
        assert content(held) == latest
        assert made.restore("whole")
        assert made.count() == N
        made.untag("whole")
        now[0] += 1_000.0
        made.compact(progress=False)
        assert made.count() == N
        assert db.verify().problems == []
        with pytest.raises(SnapshotNotFound):
            held.search(np.ones(DIM), k=1, recall=1.0)
        # Where the lease has ended, garbage collection takes what it kept, and leaves all else.
        report = db.verify()
        assert (report.problems, report.n_unnamed) == ([], 0)
