"""The memtable against a dict, and that old snapshots never change."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_fakes import Model, model_of, rows_of

from vstore.format.columns import column_from_values
from vstore.format.rows import RowBatch
from vstore.ingest import memtable as memtable_module
from vstore.ingest.batches import concat_rows, distinct_keys, last_rows, owned, take_rows
from vstore.ingest.memtable import MemtableView, memtable_of

KINDS = st.sampled_from(["int", "str"])
OPS = st.lists(
    st.tuples(st.sampled_from(["upsert", "delete"]), st.lists(st.integers(0, 30), min_size=0, max_size=12)),
    max_size=30,
)


def keys_of(numbers: list[int], kind: str) -> list:
    return [f"k{n}" for n in numbers] if kind == "str" else numbers


def as_keys(keys: list, kind: str):
    return tuple(keys) if kind == "str" else np.array(keys, np.int64)


def contents(view: MemtableView) -> Model:
    found: Model = {}
    for chunk in view.chunks:
        assert chunk.n_alive == chunk.alive.sum() > 0
        rows = model_of(chunk.live_rows())
        assert not found.keys() & rows.keys()
        found.update(rows)
    return found


@settings(max_examples=150, deadline=None)
@given(OPS, KINDS, st.sampled_from([4, 16, 4096]))
def test_it_is_a_dict_and_snapshots_stay(ops, kind, merge_rows):
    view, model = MemtableView(), {}
    snapshots = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memtable_module, "MERGE_ROWS", merge_rows)
        for stamp, (op, numbers) in enumerate(ops):
            keys = keys_of(numbers, kind)
            if op == "upsert":
                rows = owned(rows_of(keys, stamp)) if keys else rows_of([], stamp)
                known = len(model.keys() & set(keys))
                view, n_replaced = view.upserted(rows)
                assert n_replaced == known
                model.update(model_of(rows))
            else:
                view, n_died = view.without(as_keys(keys, kind))
                assert n_died == sum(model.pop(key, None) is not None for key in set(keys))
            snapshots.append((view, dict(model)))
    for snapshot, then in snapshots:
        assert contents(snapshot) == then
        assert snapshot.n_live == len(then)
        every = keys_of(list(range(31)), kind)
        where, rows = snapshot.lookup(as_keys(every, kind))
        for key, chunk, row in zip(every, where, rows, strict=True):
            assert (chunk >= 0) == (key in then)
            if chunk >= 0:
                assert snapshot.chunks[chunk].rows.keys[row] == key
                assert snapshot.chunks[chunk].alive[row]


def test_chunks_stay_few_and_small_writes_copy_little():
    view = MemtableView()
    for key in range(3_000):
        view, _ = view.upserted(rows_of([key]))
    assert len(view.chunks) <= 14
    assert sorted(contents(view)) == list(range(3_000))
    for start in range(3_000, 30_000, 1_000):
        view, _ = view.upserted(rows_of(list(range(start, start + 1_000))))
    assert len(view.chunks) <= 2 * 30_000 // memtable_module.MERGE_ROWS + 14
    assert view.n_live == view.n_rows == 30_000


def test_rewriting_the_same_rows_does_not_grow_it():
    view = MemtableView()
    for stamp in range(200):
        view, _ = view.upserted(rows_of(list(range(50)), stamp))
    assert view.n_live == 50
    assert view.n_rows <= 200


def test_keys_of_the_other_kind_are_not_found():
    view = memtable_of(rows_of([1, 2]))
    where, _ = view.lookup(("1", "2"))
    assert where.tolist() == [-1, -1]
    where, _ = memtable_of(rows_of(["1"])).lookup(np.array([1]))
    assert where.tolist() == [-1]


def test_extreme_int_keys():
    keys = [-(2**63), -1, 0, 2**63 - 1]
    view = memtable_of(rows_of(keys))
    where, rows = view.lookup(np.array([*keys, 1, -2], np.int64))
    assert where.tolist() == [0, 0, 0, 0, -1, -1]
    assert rows.tolist() == [0, 1, 2, 3, -1, -1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1), KINDS)
def test_the_last_of_equal_keys_stays(numbers, kind):
    keys = keys_of(numbers, kind)
    rows = owned(stamped(keys))
    expected = {key: place for place, key in enumerate(keys)}
    assert {key: vector[1] for key, (vector, *_) in model_of(rows).items()} == expected
    assert rows.n == len(expected) == len(distinct_keys(as_keys(keys, kind)))
    last = last_rows(as_keys(keys, kind))
    assert (last is None) == (len(expected) == len(keys))


def stamped(keys: list) -> RowBatch:
    return concat_rows([rows_of([key], place) for place, key in enumerate(keys)])


def test_owned_rows_do_not_follow_the_callers_arrays():
    rows = rows_of([1, 2, 4])
    kept = owned(rows)
    before = model_of(kept)
    rows.vectors[:] = 9
    rows.keys[:] = 7
    rows.columns["year"].values[:] = 0
    rows.documents[0]["text"] = "changed"
    assert model_of(kept) == before


def test_take_and_concat_keep_rows_whole():
    rows = rows_of(list(range(20)), 3)
    parts = [
        take_rows(rows, np.arange(0, 7)),
        take_rows(rows, np.array([], np.int64)),
        take_rows(rows, np.arange(7, 20)),
    ]
    assert model_of(concat_rows(parts)) == model_of(rows)
    bare = RowBatch(np.array([99]), "int", np.zeros((1, 4), np.float32), rows_of([99]).columns, None)
    assert concat_rows([bare, rows]).documents[0] is None


def test_a_thousand_rows_cost_a_few_milliseconds():
    rng = np.random.default_rng(0)
    view = MemtableView()
    costs_ms = []
    for start in range(0, 40_000, 1_000):
        years = column_from_values("int", np.arange(1_000), field="year")
        rows = RowBatch(
            np.arange(start, start + 1_000),
            "int",
            rng.random((1_000, 384), np.float32),
            {"year": years},
            None,
        )
        began = time.perf_counter()
        view, _ = view.upserted(owned(rows))
        costs_ms.append((time.perf_counter() - began) * 1e3)
    assert np.median(costs_ms) < 20
