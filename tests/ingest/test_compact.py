"""Flush and compact change what is stored and nothing that a reader sees."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_fakes import Place, contents, model_of, rows_of

from vstore.errors import CorruptData
from vstore.ingest.flush import repacked


def n_rows(writer) -> list[tuple[int, int]]:
    return [(entry.n_rows, entry.n_dead) for entry in writer.view().manifest.shards]


def test_compaction_merges_small_shards_and_drops_dead_rows():
    place = Place()
    writer = place.writer()
    for start in range(0, 300, 100):
        writer.upsert(rows_of(list(range(start, start + 100))))
        writer.flush()
    writer.delete(np.arange(50, 150))
    writer.flush()
    assert n_rows(writer) == [(100, 50), (100, 50), (100, 0)]
    writer.upsert(rows_of([0, 999], 5))
    before = contents(writer.view())
    writer.compact()
    assert n_rows(writer) == [(201, 0)]
    assert contents(writer.view()) == place.contents() == before
    version = writer.view().manifest.version
    writer.compact()
    assert writer.view().manifest.version == version, "nothing to do, nothing published"


def test_full_clean_shards_are_left_alone():
    place = Place()
    writer = place.writer()
    writer.upsert(rows_of(list(range(900))))
    writer.flush()
    full = writer.view().manifest.shards[0]
    for key in (1_000, 1_001):
        writer.upsert(rows_of([key]))
        writer.flush()
    writer.compact()
    assert writer.view().manifest.shards[0] == full
    assert n_rows(writer) == [(900, 0), (2, 0)]


def test_a_shard_whose_rows_are_all_dead_goes_away():
    place = Place()
    writer = place.writer()
    writer.upsert(rows_of([1, 2]))
    writer.flush()
    writer.delete(np.array([1, 2]))
    writer.flush()
    assert n_rows(writer) == []
    assert place.contents() == {}
    writer.upsert(rows_of([1], 1))
    writer.compact()
    assert place.contents() == model_of(rows_of([1], 1))


def test_dead_rows_survive_flush_and_reopening():
    place = Place()
    writer = place.writer()
    writer.upsert(rows_of(list(range(100))))
    writer.flush()
    for stamp in range(1, 4):
        writer.delete(np.arange(stamp * 10, stamp * 10 + 5))
        writer.upsert(rows_of([stamp], stamp))
        writer.flush()
        assert place.contents() == contents(writer.view())
        writer = place.writer()
        assert place.contents() == contents(writer.view())


def test_compaction_deletes_what_nothing_names():
    place = Place(settings={"retention_s": 0.0})
    writer = place.writer()
    for start in range(5):
        writer.upsert(rows_of(list(range(start, start + 10)), start))
        writer.flush()
    writer.compact()
    view = writer.view()
    data = f"data/c/{view.manifest.collection_id}/"
    names = {info.key for info in place.store.list(data)}
    fences = [name for name in names if "/log/" in name]
    assert names - set(fences) == {view.manifest.shards[0].key}
    assert [int(name.rsplit("/", 1)[1]) for name in fences] == [1], "the fence outlives the log around it"
    assert place.contents() == contents(view)


def test_garbage_within_the_retention_stays():
    place = Place(settings={"retention_s": 3600.0})
    writer = place.writer()
    writer.upsert(rows_of([1]))
    writer.flush()
    old = place.view()
    key = writer.view().manifest.shards[0].key
    place.now += 86_400
    writer.upsert(rows_of([2]))
    writer.compact()
    # The reader of a minute ago holds a manifest that is a day old and was the latest until now.
    assert place.store.head(key) is not None
    assert contents(old) == model_of(rows_of([1]))
    place.now += 3_700
    writer.upsert(rows_of([3]))
    writer.compact()
    assert place.store.head(key) is None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 50))
def test_repacking_keeps_rows_and_evens_sizes(sizes, shard_rows):
    starts = np.cumsum([0, *sizes])
    parts = [rows_of(list(range(a, b))) for a, b in itertools.pairwise(starts) if b > a]
    n = int(starts[-1])
    batches = list(repacked(iter(parts), n, shard_rows))
    assert [key for batch in batches for key in batch.keys.tolist()] == list(range(n))
    assert len(batches) == -(-n // shard_rows)
    if batches:
        assert max(b.n for b in batches) <= shard_rows
        assert max(b.n for b in batches) - min(b.n for b in batches) <= 1


@pytest.mark.parametrize("claimed", [9, 11])
def test_repacking_notices_rows_that_are_missing(claimed):
    with pytest.raises(CorruptData, match=f"says {claimed}"):
        list(repacked(iter([rows_of(list(range(10)))]), claimed, 100))


def test_the_log_of_a_collection_that_nobody_compacts_is_cut_too():
    place = Place(settings={"retention_s": 0.0, "memtable_rows": 2})
    writer = place.writer()
    for key in range(100):
        writer.upsert(rows_of([key]))
    prefix = f"data/c/{writer.view().manifest.collection_id}/log/"
    assert len(place.store.list(prefix)) < 40
    assert sorted(place.contents()) == list(range(100))
