"""The same promises with the shards that vstore builds, through the public face."""

from __future__ import annotations

import numpy as np
import pytest

import vstore
from vstore import F
from vstore.settings import IndexSettings, Settings

DIM = 8
FIELDS = {"year": "int", "topic": "str", "tags": "list[str]"}


def write(collection, keys, stamp: int) -> None:
    rng = np.random.default_rng(stamp)
    numbered = list(enumerate(keys))
    collection.upsert(
        keys,
        rng.standard_normal((len(keys), DIM)).astype(np.float32),
        [{"year": stamp, "tags": [str(key), "all"]} if n % 2 else {"topic": f"t{n}"} for n, key in numbered],
        [f"{key} at {stamp}" if n % 3 else None for n, key in numbered],
    )


def everything(collection, keys) -> list:
    found = [
        record and (record.id, record.vector.tolist(), record.attributes, record.document)
        for record in collection.get(keys)
    ]
    query = np.ones(DIM)
    for filter in (None, F.year >= 2, F.tags.contains("all") & (F.year < 3)):
        hits = collection.search(query, k=1_000, filter=filter, recall=1.0)
        found.append(sorted(zip(hits.ids, np.round(hits.scores, 5).tolist(), strict=True), key=str))
        found.append(collection.count(filter=filter))
    return found


@pytest.mark.parametrize("text", [False, True], ids=["int", "str"])
def test_flush_compact_and_reopening_change_nothing(tmp_path, text):
    keys = [f"k{n}" if text else n for n in range(120)]
    settings = Settings(n_threads=1, retention_s=0.0)
    db = vstore.connect(tmp_path, settings=settings)
    collection = db.create_collection(
        "c", dim=DIM, metric="l2", fields=FIELDS, index=IndexSettings(M=4, ef_construction=20)
    )
    steps = [
        lambda: write(collection, keys[:80], 1),
        collection.flush,
        lambda: write(collection, keys[60:100], 2),
        lambda: collection.delete(ids=keys[:10]),
        collection.flush,
        lambda: collection.delete(filter=F.topic == "t12"),
        lambda: write(collection, keys[5:15] + keys[110:], 3),
        collection.compact,
    ]
    for step in steps:
        before = everything(collection, keys)
        step()
        now = everything(collection, keys)
        if step in (collection.flush, collection.compact):
            assert now == before
        other = vstore.connect(tmp_path, settings=settings, read_only=True).collection("c")
        assert everything(other, keys) == now
    assert len(collection) == sum(record is not None for record in now[: len(keys)]) > 80
