"""Bitmaps of filters are remembered by shard and filter, under a byte limit, and change no answer."""

from __future__ import annotations

import numpy as np
import pytest
from face_rows import build_store, queries

import vstore
from vstore import F
from vstore.errors import FilterError, VstoreError
from vstore.filters import compile_filter
from vstore.query.passing import PassingRows
from vstore.query.request import REMEMBERED_FILTERS, CompiledFilters
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


def test_equal_filters_are_compiled_once_and_types_tell_them_apart():
    schema = Schema(3, "l2", {"a": "int", "b": "bool", "s": "str"})
    known = CompiledFilters(schema)
    first = known.get((F.a >= 2020) & F.s.startswith("x"))
    assert known.get((F.a >= 2020) & F.s.startswith("x")) is first
    assert known.get({"a": {"$gte": 2020}, "s": {"$startsWith": "x"}}) is first
    assert known.get(first) is first
    assert known.get(~(F.a >= 2020)) == compile_filter(~(F.a >= 2020), schema)
    assert known.get(F.a.isin([1, 2])) is known.get(F.a.isin([1, 2]))
    assert known.get(F.a.isin([1, 2])) is not known.get(F.a.isin([2, 1, 3]))
    assert known.get(None) is None
    assert known.get(F.a == 1) is not None
    for wrong in (F.a == True, F.a.isin([True]), F.b == 1, F.nothing == 1, F.a):  # noqa: E712
        with pytest.raises(VstoreError) as expected:
            compile_filter(wrong, schema)
        with pytest.raises(type(expected.value)) as found:
            known.get(wrong)
        assert str(found.value) == str(expected.value)


def test_filters_are_forgotten_and_deep_ones_are_answered():
    schema = Schema(3, "l2", {"a": "int"})
    known = CompiledFilters(schema)
    first = known.get(F.a > -1)
    for i in range(REMEMBERED_FILTERS):
        known.get(F.a > i)
    again = known.get(F.a > -1)
    assert again is not first
    assert again == first
    deep = F.a > 0
    for _ in range(900):
        deep = ~deep
    assert known.get(deep) == compile_filter(deep, schema)
    for _ in range(5000):
        deep = ~deep
    with pytest.raises(FilterError, match="deep"):
        known.get(deep)
