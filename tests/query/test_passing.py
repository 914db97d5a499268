"""Bitmaps of filters are remembered by shard and filter, under a byte limit, and change no answer."""

from __future__ import annotations

import numpy as np
from face_rows import build_store, queries

import vstore
from vstore import F
from vstore.filters import compile_filter
from vstore.query.passing import PassingRows
from vstore.types import Schema

SCHEMA = Schema(3, "l2", {"a": "int"})


def filters(n: int):
    return [compile_filter(F.a > i, SCHEMA) for i in range(n)]


def test_the_limit_holds_and_the_oldest_go_first():
    known = PassingRows(limit_bytes=80)
    for i, filter in enumerate(filters(10)):
        known.put("s", filter, np.full(2, i, dtype=np.uint64))
        assert known.get("s", filters(10)[0]) is not None, "used each time, so never the oldest"
    held = [known.get("s", filter) is not None for filter in filters(10)]
    assert sum(held) == 5
    assert held[0]
    assert held[-1]
    assert known.get("other", filters(1)[0]) is None


def test_putting_twice_weighs_once():
    known = PassingRows(limit_bytes=40)
    for _ in range(5):
        known.put("s", filters(1)[0], np.zeros(4, dtype=np.uint64))
    assert known.get("s", filters(1)[0]) is not None


def test_the_second_time_reads_no_columns_and_sees_deletes():
    settings = vstore.Settings(n_threads=1, cache_bytes=0)
    with vstore.connect(build_store(n=2_000), settings=settings) as database:
        collection = database.collection("c")
        first = collection.search(queries(1)[0], k=5, filter=F.bucket < 50)
        again = collection.search(queries(1)[0], k=5, filter=F.bucket < 50)
        assert again.ids == first.ids
        assert again.receipt.bytes_fetched < first.receipt.bytes_fetched
        collection.delete(ids=first.ids[:2])
        assert collection.search(queries(1)[0], k=3, filter=F.bucket < 50).ids == first.ids[2:]
        assert collection.count(F.bucket < 50) == 998
