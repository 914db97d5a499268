"""The writer against a dict model: upsert, delete, flush, compact, reopen, and threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_fakes import Place, contents, model_of, rows_of

from vstore.errors import Closed, CollectionNotFound, DimensionMismatch, InvalidId, InvalidInput
from vstore.format.rows import RowBatch
from vstore.ingest.batches import concat_rows
from vstore.settings import IndexSettings

OPS = st.lists(
    st.one_of(
        st.tuples(st.just("upsert"), st.lists(st.integers(0, 40), min_size=1, max_size=15)),
        st.tuples(st.just("delete"), st.lists(st.integers(0, 40), max_size=10)),
        st.tuples(st.sampled_from(["flush", "compact", "reopen"]), st.just([])),
    ),
    max_size=25,
)


def as_keys(keys):
    return tuple(keys) if keys and isinstance(keys[0], str) else np.array(keys, np.int64)


@settings(max_examples=60, deadline=None)
@given(OPS, st.booleans())
def test_it_is_a_dict(ops, text):
    place, model = Place(), {}
    writer = place.writer()
    for stamp, (op, numbers) in enumerate(ops):
        keys = [f"k{n}" for n in numbers] if text else numbers
        if op == "upsert":
            assert writer.upsert(rows_of(keys, stamp)) == len(set(keys))
            model.update(model_of(rows_of(keys, stamp)))
        elif op == "delete":
            assert writer.delete(as_keys(keys)) == sum(model.pop(key, None) is not None for key in set(keys))
        elif op == "reopen":
            writer.close()
            writer = place.writer()
        else:
            getattr(writer, op)()
        assert contents(writer.view()) == model
    assert place.contents() == model


def test_the_view_is_a_snapshot():
    writer = Place().writer()
    writer.upsert(rows_of([1, 2, 3]))
    writer.flush()
    before = writer.view()
    expected = contents(before)
    writer.upsert(rows_of([2, 4], 1))
    writer.delete(np.array([1]))
    assert contents(before) == expected
    assert contents(writer.view()) == {**model_of(rows_of([3])), **model_of(rows_of([2, 4], 1))}


def test_locate_finds_rows_in_shards_and_memtable():
    writer = Place().writer()
    writer.upsert(rows_of([1, 2, 3]))
    writer.flush()
    writer.upsert(rows_of([3, 4], 1))
    view = writer.view()
    part, row = view.locate(np.array([1, 3, 4, 5]))
    assert part.tolist() == [0, 1, 1, -1]
    assert view.shards[0].shard.rows(row[:1]).keys.tolist() == [1]
    assert view.memtable.chunks[0].rows.keys[row[1:3]].tolist() == [3, 4]


def test_of_a_key_that_comes_twice_the_last_wins():
    place = Place()
    writer = place.writer()
    assert writer.upsert(concat_rows([rows_of([1, 2], 0), rows_of([1], 1)])) == 2
    expected = {**model_of(rows_of([2], 0)), **model_of(rows_of([1], 1))}
    assert contents(writer.view()) == place.contents() == expected


def test_deleting_what_is_not_there_writes_nothing():
    place = Place()
    writer = place.writer()
    n_objects = len(place.store.list())
    assert writer.delete(np.array([1, 2])) == 0
    assert writer.delete(np.array([], np.int64)) == 0
    assert writer.upsert(rows_of([])) == 0
    assert len(place.store.list()) == n_objects


def test_delete_where_selects_under_the_lock():
    writer = Place().writer()
    writer.upsert(rows_of([1, 2, 3]))
    assert writer.delete_where(lambda view: view.memtable.chunks[0].rows.keys[:2]) == 2
    assert list(contents(writer.view())) == [3]

    def fails(view):
        raise LookupError("no such filter")

    with pytest.raises(LookupError):
        writer.delete_where(fails)
    assert writer.upsert(rows_of([9])) == 1


def test_rows_of_another_collection_are_refused_and_nothing_is_written():
    place = Place()
    writer = place.writer()
    writer.upsert(rows_of([1]))
    n_objects = len(place.store.list())
    with pytest.raises(InvalidId, match=r"'a' is of kind str.*are int"):
        writer.upsert(rows_of(["a"]))
    with pytest.raises(InvalidId):
        writer.delete(("a",))
    with pytest.raises(InvalidId):
        writer.view().locate(("a",))
    wide = rows_of([2])
    with pytest.raises(DimensionMismatch, match=r"have 5 .* has 4"):
        writer.upsert(RowBatch(wide.keys, "int", np.zeros((1, 5), np.float32), wide.columns, None))
    assert len(place.store.list()) == n_objects
    writer.delete(np.array([1]))
    writer.compact()
    with pytest.raises(InvalidId):
        place.writer().upsert(rows_of(["a"]))


def test_a_closed_writer_refuses():
    place = Place()
    writer = place.writer()
    writer.upsert(rows_of([1]))
    writer.close()
    for act in (
        lambda: writer.upsert(rows_of([2])),
        lambda: writer.delete(np.array([1])),
        writer.flush,
        writer.compact,
    ):
        with pytest.raises(Closed):
            act()
    assert contents(writer.view()) == place.contents() == model_of(rows_of([1]))


def test_a_collection_that_does_not_exist():
    from ingest_fakes import build_shard, shard_opener

    from vstore.catalog import Catalog
    from vstore.ingest.reader import load_view
    from vstore.ingest.writer import Writer
    from vstore.settings import Settings

    place = Place()
    opener = shard_opener(place.store)
    with pytest.raises(CollectionNotFound, match="nope"):
        Writer.acquire(Catalog(place.store), "nope", Settings(), open_shard=opener, build_shard=build_shard)
    with pytest.raises(CollectionNotFound, match="nope"):
        load_view(Catalog(place.store), "nope", Settings(), open_shard=opener)


def test_a_full_memtable_is_flushed():
    place = Place(settings={"memtable_rows": 100})
    writer = place.writer()
    seen = []
    writer.upsert(rows_of(list(range(99))))
    assert not writer.view().shards
    writer.upsert(rows_of([99]), progress=lambda *at: seen.append(at))
    assert len(writer.view().shards) == 1
    assert writer.view().memtable.n_rows == 0
    assert seen[-1] == (100, 100)
    writer = place.writer(memtable_bytes=10)
    writer.upsert(rows_of([7], 1))
    assert len(writer.view().shards) == 2
    assert writer.view().n_live == 100


def test_a_log_of_deletes_is_flushed_too(monkeypatch):
    monkeypatch.setattr("vstore.ingest.publisher.MAX_UNFLUSHED", 5)
    place = Place()
    writer = place.writer()
    writer.upsert(rows_of(list(range(20))))
    writer.flush()
    for key in range(5):
        writer.delete(np.array([key]))
    view = writer.view()
    assert view.n_unflushed == 0
    assert view.manifest.shards[0].n_dead == 5
    assert place.contents() == model_of(rows_of(list(range(5, 20))))


def test_threads_write_beside_each_other():
    place = Place()
    writer = place.writer()
    errors = []

    def work(number: int) -> None:
        try:
            for step in range(10):
                key = number * 100 + step
                assert writer.upsert(rows_of([key])) == 1
                assert key in contents(writer.view())
                if step % 2:
                    assert writer.delete(np.array([key])) == 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    expected = [number * 100 + step for number in range(8) for step in range(0, 10, 2)]
    assert sorted(contents(writer.view())) == sorted(place.contents()) == expected


def test_waiting_writes_share_a_record_and_a_bad_one_fails_alone():
    place = Place()
    writer = place.writer()
    writer.upsert(rows_of([1]))
    results = {}

    def work(key) -> None:
        try:
            results[key] = writer.upsert(rows_of([key]))
        except InvalidId as error:
            results[key] = error

    seq = writer.view().seq
    with writer._lock:
        threads = [threading.Thread(target=work, args=(key,)) for key in (2, "bad", 3)]
        for thread in threads:
            thread.start()
        while len(writer._queue._waiting) < 3:
            pass
    for thread in threads:
        thread.join()
    assert results[2] == results[3] == 1
    assert writer.view().seq == seq + 1
    assert isinstance(results["bad"], InvalidId)
    assert sorted(place.contents()) == [1, 2, 3]


def test_opening_asks_each_shard_once_for_all_that_the_log_touches():
    place = Place()
    writer = place.writer()
    writer.upsert(rows_of(list(range(10))))
    writer.flush()
    for key in range(6):
        writer.upsert(rows_of([key], 1))
    view = place.view()
    assert view.shards[0].shard.n_lookups == 1
    assert view.shards[0].n_live == 4


def test_a_reader_refreshes_what_it_has():
    place = Place()
    writer = place.writer()
    writer.upsert(rows_of([1, 2]))
    writer.flush()
    first = place.view()
    writer.upsert(rows_of([2, 3], 1))
    second = place.view(previous=first)
    assert second.shards[0].shard is first.shards[0].shard
    assert contents(second) == contents(writer.view())
    reads = []
    original = place.store.get_many
    place.store.get_many = lambda ranges: (reads.append(list(ranges)), original(ranges))[1]
    assert contents(place.view(previous=second)) == contents(second)
    assert reads == []
    writer.compact()
    third = place.view(previous=second)
    assert contents(third) == contents(writer.view()) == contents(second)
    assert contents(first) == model_of(rows_of([1, 2]))


def test_shards_split_at_shard_rows():
    place = Place(index=IndexSettings(shard_rows=1_000))
    writer = place.writer()
    seen = []
    writer.upsert(rows_of(list(range(2_500))))
    writer.flush(progress=lambda *at: seen.append(at))
    assert [entry.n_rows for entry in writer.view().manifest.shards] == [834, 833, 833]
    assert seen == [(834, 2_500), (1_667, 2_500), (2_500, 2_500)]
    assert place.contents() == model_of(rows_of(list(range(2_500))))


def test_an_upsert_that_is_too_large_names_the_limit(monkeypatch):
    monkeypatch.setattr("vstore.ingest.groups.MAX_WRITE_BYTES", 100)
    place = Place()
    writer = place.writer()
    with pytest.raises(InvalidInput, match=r"at most 100.*split"):
        writer.upsert(rows_of(list(range(50))))
    assert place.contents() == {}
