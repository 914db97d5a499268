"""Readers beside a writer: every view is one that existed, also while garbage is collected."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from ingest_fakes import FailingStore, Place, contents, model_of, rows_of

from vstore.errors import CorruptData, ObjectNotFound, StorageError


def test_a_writer_that_publishes_and_collects_at_any_call_of_an_opening_reader():
    """Between any two calls of the reader, the writer flushes, compacts and deletes the old objects."""

    def scene(n: int) -> int:
        place = Place(settings={"retention_s": 0.0})
        writer = place.writer()
        writer.upsert(rows_of(list(range(10))))
        writer.flush()
        writer.delete(np.array([3]))
        writer.upsert(rows_of([1], 1))
        store = FailingStore(place.store)
        call = store._call

        def meddle(act):
            if store.n_calls == n:
                writer.upsert(rows_of([2], 2))
                writer.compact()
            return call(act)

        store._call = meddle
        before = contents(writer.view())
        found = contents(place.view(store))
        assert found in (before, contents(writer.view())), f"call {n}"
        return store.n_calls

    for n in range(scene(-1)):
        scene(n)


def test_a_reader_beside_a_busy_writer():
    place = Place(settings={"retention_s": 0.0, "memtable_rows": 30})
    writer = place.writer()
    writer.upsert(rows_of([0]))
    stop = threading.Event()
    errors = []

    def read() -> None:
        view = None
        try:
            while not stop.is_set():
                view = place.view(previous=view)
                found = contents(view)
                # Every write adds the next key and nothing is deleted: a view is a prefix.
                assert sorted(found) == list(range(len(found)))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for key in range(1, 150):
        writer.upsert(rows_of([key]))
        if key % 40 == 0:
            writer.compact()
    stop.set()
    thread.join()
    assert not errors
    assert sorted(place.contents()) == list(range(150))


@pytest.mark.parametrize("part", ["shards", "dead", "log"])
def test_a_missing_object_is_an_error_not_a_smaller_answer(part):
    place = Place()
    writer = place.writer()
    writer.upsert(rows_of([1, 2, 3]))
    writer.flush()
    writer.delete(np.array([1]))
    writer.flush()
    for key in (4, 5, 6):
        writer.upsert(rows_of([key]))
    data = f"data/c/{writer.view().manifest.collection_id}/{part}/"
    names = [info.key for info in place.store.list(data)]
    place.store.delete([names[-2] if part == "log" else names[0]])
    with pytest.raises((CorruptData, ObjectNotFound), match=part):
        place.view()


def test_a_dead_bitmap_that_disagrees_with_the_manifest():
    place = Place()
    writer = place.writer()
    writer.upsert(rows_of([1, 2, 3]))
    writer.flush()
    writer.delete(np.array([1]))
    writer.flush()
    first = writer.view().manifest.shards[0].dead_key
    writer.delete(np.array([2]))
    writer.flush()
    second = writer.view().manifest.shards[0].dead_key
    place.store.put(second, place.store.get(first))
    with pytest.raises(CorruptData, match=r"marks 1 .* says 2"):
        place.view()


def test_reading_writes_nothing_and_opening_survives_any_failure():
    place = Place()
    writer = place.writer()
    writer.upsert(rows_of([1, 2, 3]))
    writer.flush()
    writer.upsert(rows_of([1], 1))
    before = {info.key: info.size_bytes for info in place.store.list()}
    store = FailingStore(place.store)
    place.view(store)
    for n in range(store.n_calls):
        with pytest.raises(StorageError):
            place.view(FailingStore(place.store, n))
    assert {info.key: info.size_bytes for info in place.store.list()} == before
    assert place.contents() == {**model_of(rows_of([2, 3])), **model_of(rows_of([1], 1))}
