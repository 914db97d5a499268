"""Two writers: the second takes over, the first stops, and nothing acknowledged is lost."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_fakes import FailingStore, Place, contents, model_of, rows_of

from vstore.catalog import Catalog
from vstore.errors import StorageError, WriterFenced


def test_the_second_writer_takes_over():
    place = Place()
    first = place.writer()
    first.upsert(rows_of([1, 2]))
    second = place.writer()
    assert contents(second.view()) == model_of(rows_of([1, 2]))
    for act in (
        lambda: first.upsert(rows_of([3])),
        lambda: first.delete(np.array([1])),
        first.flush,
        first.compact,
    ):
        with pytest.raises(WriterFenced, match="reopen"):
            act()
    second.upsert(rows_of([4]))
    assert contents(second.view()) == place.contents() == model_of(rows_of([1, 2, 4]))
    assert contents(first.view()) == model_of(rows_of([1, 2])), "its view stays readable"
    third = place.writer()
    with pytest.raises(WriterFenced):
        second.flush()
    assert contents(third.view()) == place.contents()


def test_a_writer_that_slept_through_flushes_and_garbage_collection_is_still_fenced():
    place = Place(settings={"retention_s": 0.0})
    sleeper = place.writer()
    sleeper.upsert(rows_of([1]))
    for stamp in range(1, 4):
        other = place.writer()
        other.upsert(rows_of([1, stamp + 10], stamp))
        other.compact()
        place.now += 10_000
        other.upsert(rows_of([50 + stamp], stamp))
        other.compact()
    expected = place.contents()
    with pytest.raises(WriterFenced):
        sleeper.upsert(rows_of([99]))
    assert place.contents() == expected


def test_a_writer_that_slept_cannot_publish_where_its_successors_manifests_were_collected():
    place = Place(settings={"retention_s": 0.0})
    sleeper = place.writer()
    sleeper.upsert(rows_of([1]))
    for stamp in range(1, 5):
        other = place.writer()
        other.upsert(rows_of([stamp], stamp))
        other.compact()
    version = sleeper.view().manifest.version + 1
    catalog = Catalog(place.store)
    assert catalog.load("c", version) is None, "its number is free again"
    with pytest.raises(WriterFenced):
        sleeper.flush()
    assert catalog.versions("c")[-1] == other.view().manifest.version
    assert contents(place.writer().view()) == place.contents() == contents(other.view())


def test_a_fenced_writer_collects_no_garbage_of_its_successor():
    place = Place(settings={"retention_s": 0.0})
    first = place.writer()
    first.upsert(rows_of([1]))
    first.flush()
    second = place.writer()
    # An object of the second writer's that no manifest names yet.
    name = f"data/c/{second.view().manifest.collection_id}/shards/unpublished.shard"
    place.store.put(name, b"x")
    first._collect()
    assert place.store.head(name) is not None


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_takeover_between_a_failed_put_and_its_settling(after):
    place = Place()
    store = FailingStore(place.store)
    first = place.writer(store)
    first.upsert(rows_of([1]))
    store.n, store.after = store.n_calls, after
    with pytest.raises(StorageError):
        first.upsert(rows_of([2]))
    second = place.writer()
    expected = model_of(rows_of([1, 2] if after else [1]))
    assert contents(second.view()) == expected
    for _ in range(2):
        with pytest.raises(WriterFenced):
            first.upsert(rows_of([3]))
    assert contents(second.view()) == place.contents() == expected


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["write a", "write b", "open a", "open b", "flush a", "compact b"]), max_size=25)
)
def test_whoever_writes_in_turn_nothing_acknowledged_is_lost(steps):
    place, model = Place(settings={"retention_s": 0.0}), {}
    writers = {"a": place.writer(), "b": place.writer()}
    owner = "b"
    for stamp, step in enumerate(steps):
        op, name = step.split()
        rows = rows_of([stamp % 7, stamp], stamp)
        if op == "open":
            writers[name], owner = place.writer(), name
            continue
        act = partial(writers[name].upsert, rows) if op == "write" else getattr(writers[name], op)
        if name == owner:
            act()
            model.update(model_of(rows) if op == "write" else {})
        elif op == "write" or writers[name].view().n_unflushed:
            with pytest.raises(WriterFenced):
                act()
        assert place.contents() == model
        assert contents(writers[owner].view()) == model


class Overtaken(FailingStore):
    """Lets another writer take the collection over just before the log is listed."""

    def list(self, prefix=""):
        if "/log/" in prefix and self.place is not None:
            place, self.place = self.place, None
            self.other = place.writer()
        return super().list(prefix)


def test_a_writer_that_is_overtaken_while_it_opens_does_not_fence_its_successor():
    place = Place()
    store = Overtaken(place.store)
    store.place = place
    with pytest.raises(WriterFenced, match="while this one"):
        place.writer(store)
    store.other.upsert(rows_of([1]))
    assert place.contents() == contents(store.other.view()) == model_of(rows_of([1]))
