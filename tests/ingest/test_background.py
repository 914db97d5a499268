"""Flush and compaction beside reads and writes: nothing waits, and nothing written meanwhile is lost."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_fakes import FailingStore, Place, build_shard, contents, model_of, rows_of

from vstore.errors import StoreUnavailable, WriterFenced
from vstore.ingest.background import Background
from vstore.ingest.flush import FANOUT

WRITES = st.lists(
    st.tuples(st.sampled_from(["upsert", "delete"]), st.lists(st.integers(0, 30), min_size=1, max_size=12)),
    max_size=12,
)


def write(writer, model, op, keys, stamp):
    if op == "upsert":
        writer.upsert(rows_of(keys, stamp))
        model.update(model_of(rows_of(keys, stamp)))
    else:
        writer.delete(np.array(keys, np.int64))
        for key in keys:
            model.pop(key, None)


@settings(max_examples=80, deadline=None)
@given(WRITES, WRITES, WRITES, st.sampled_from(["flush", "compact", "maintain"]))
def test_writes_during_a_build_are_on_top_of_it(first, second, during, act):
    place, model = Place(settings={"memtable_rows": 300}), {}
    building = []

    def build(rows, *args, **kwargs):
        if building:
            for stamp, (op, keys) in enumerate(building.pop(), 200):
                write(writer, model, op, keys, stamp)
                assert contents(writer.view()) == model
                assert place.contents() == model
        return build_shard(rows, *args, **kwargs)

    # A thread that never runs: memtables are flushed where the test says so.
    writer = place.writer(build=build, background=Never())
    for stamp, (op, keys) in enumerate(first):
        write(writer, model, op, keys, stamp)
    writer.flush()
    for stamp, (op, keys) in enumerate(second, 100):
        write(writer, model, op, keys, stamp)
    if act == "maintain":
        write(writer, model, "upsert", list(range(1_000, 1_300)), 99)
    building.append(during)
    getattr(writer, act)()
    assert contents(writer.view()) == model
    assert place.contents() == model
    assert writer.view().n_unflushed <= len(during)
    writer.flush()
    writer.compact()
    assert contents(writer.view()) == place.contents() == contents(place.writer().view()) == model


class Never(Background):
    def submit(self, owner, job):
        pass


class Gate:
    """Builds shards when it is opened."""

    def __init__(self):
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, *args, **kwargs):
        self.entered.set()
        assert self.opened.wait(30)
        return build_shard(*args, **kwargs)


def test_a_full_memtable_is_flushed_behind_the_writes():
    place, gate, background = Place(), Gate(), Background()
    writer = place.writer(build=gate, background=background, memtable_rows=20)
    writer.upsert(rows_of(list(range(20))))
    assert gate.entered.wait(30)
    writer.upsert(rows_of([5, 100], 1))
    writer.delete(np.array([6]))
    view = writer.view()
    assert not view.shards, "the shard is not there yet, and the writes did not wait for it"
    expected = contents(view)
    assert place.contents() == expected
    gate.opened.set()
    background.wait()
    assert len(writer.view().shards) == 1
    assert writer.view().memtable.n_live == 2
    assert contents(writer.view()) == place.contents() == expected
    assert contents(view) == expected, "a view is for ever"


def test_a_memtable_of_one_and_a_half_times_its_limit_makes_writes_wait():
    place, gate, background = Place(), Gate(), Background()
    writer = place.writer(build=gate, background=background, memtable_rows=10)
    writer.upsert(rows_of(list(range(15))))
    assert gate.entered.wait(30)
    waiting = threading.Thread(target=lambda: writer.upsert(rows_of([99])))
    waiting.start()
    assert 99 not in contents(writer.view())
    gate.opened.set()
    waiting.join(30)
    background.wait()
    assert place.contents() == model_of(rows_of([*range(15), 99]))
    assert writer.view().memtable.n_rows <= 10


def test_a_failure_behind_the_writes_is_logged_and_tried_again(caplog):
    place, background = Place(), Background()
    store = FailingStore(place.store)
    writer = place.writer(store, background=background, memtable_rows=10)
    original, store.put = store.put, refuse
    assert writer.upsert(rows_of(list(range(12)))) == 12
    background.wait()
    assert "could not be flushed" in caplog.text
    assert not writer.view().shards
    store.put = original
    for key in range(100, 120):
        writer.upsert(rows_of([key]))
        background.wait()
    assert writer.view().shards
    assert place.contents() == model_of(rows_of([*range(12), *range(100, 120)]))


def refuse(key, data):
    raise StoreUnavailable("refused")


def test_shards_are_merged_by_tiers():
    place, background = Place(), Background()
    writer = place.writer(background=background, memtable_rows=8)
    most = 0
    for start in range(0, 8 * 64, 8):
        writer.upsert(rows_of(list(range(start, start + 8))))
        background.wait()
        most = max(most, len(writer.view().shards))
    assert most <= 3 * FANOUT, "64 flushes, tiers of 8, 32, 128 and 512 rows"
    assert place.contents() == model_of(rows_of(list(range(512))))


def test_a_shard_of_mostly_dead_rows_is_rewritten_by_itself():
    place = Place()
    writer = place.writer()
    writer.upsert(rows_of(list(range(100))))
    writer.flush()
    writer.delete(np.arange(51))
    writer.maintain()
    assert [(entry.n_rows, entry.n_dead) for entry in writer.view().manifest.shards] == [(49, 0)]
    version = writer.view().manifest.version
    writer.maintain()
    assert writer.view().manifest.version == version


def test_a_writer_that_is_fenced_during_a_build_publishes_nothing():
    place = Place()
    others = []

    def build(*args, **kwargs):
        others.append(place.writer())
        others[0].upsert(rows_of([2], 1))
        return build_shard(*args, **kwargs)

    writer = place.writer(build=build)
    writer.upsert(rows_of([1, 2]))
    with pytest.raises(WriterFenced):
        writer.flush()
    expected = {**model_of(rows_of([1])), **model_of(rows_of([2], 1))}
    assert place.contents() == contents(others[0].view()) == expected


def test_closing_waits_for_the_build_and_drops_what_waits():
    place, gate, background = Place(), Gate(), Background()
    writer = place.writer(build=gate, background=background, memtable_rows=10)
    writer.upsert(rows_of(list(range(15))))
    assert gate.entered.wait(30)
    closing = threading.Thread(target=background.close)
    closing.start()
    assert closing.is_alive()
    gate.opened.set()
    closing.join(30)
    background.submit(writer, lambda: pytest.fail("it was closed"))
    background.wait()
    assert len(writer.view().shards) == 1


def test_threads_write_while_the_thread_flushes_and_merges():
    place, background = Place(), Background()
    writer = place.writer(background=background, memtable_rows=40)
    models = [{} for _ in range(4)]

    def work(number):
        rng = np.random.default_rng(number)
        for stamp in range(60):
            keys = (rng.permutation(50)[:7] * 4 + number).tolist()
            write(writer, models[number], "delete" if stamp % 4 == 3 else "upsert", keys, stamp)
            found = contents(writer.view())
            mine = {key: row for key, row in found.items() if key % 4 == number}
            assert mine == models[number]

    failures = []

    def run(number):
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    background.close()
    assert not failures
    model = {key: row for part in models for key, row in part.items()}
    assert contents(writer.view()) == place.contents() == model
    assert writer.view().shards
