"""Failures at every storage call: what was acknowledged is there, what was not is whole or absent.

Each scenario runs once to count its storage calls, then once for each call n and each way to fail:
the call does nothing, or it does its work and the answer is lost; the process goes on, or dies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np
import pytest
from ingest_fakes import FailingStore, Model, Place, contents, model_of, rows_of

from vstore.errors import StorageError, StoreUnavailable
from vstore.storage.local import LocalStore

Step = tuple[str, list[int], int]

SCRIPT: list[Step] = [
    ("upsert", list(range(12)), 0),
    ("upsert", [3, 4, 20, 21], 1),
    ("delete", [0, 4, 99], 0),
    ("flush", [], 0),
    ("upsert", [1, 20, 30], 2),
    ("delete", [2, 30, 3], 0),
    ("upsert", [3], 3),
    ("flush", [], 0),
    ("upsert", [40, 41, 5], 4),
    ("delete", [6], 0),
    ("compact", [], 0),
    ("upsert", [50, 7], 5),
    ("delete", [41], 0),
]
SETTINGS = {"retention_s": 0.0}


def effect(model: Model, step: Step) -> Model:
    """The model after a step that landed."""
    op, keys, stamp = step
    if op == "upsert":
        return {**model, **model_of(rows_of(keys, stamp))}
    if op == "delete":
        return {key: row for key, row in model.items() if key not in keys}
    return model


def run(writer, step: Step) -> None:
    op, keys, stamp = step
    if op == "upsert":
        writer.upsert(rows_of(keys, stamp))
    elif op == "delete":
        writer.delete(np.array(keys, np.int64))
    else:
        getattr(writer, op)()


def count_calls(scenario: Callable[[FailingStore, Place], None]) -> int:
    place = Place(settings=SETTINGS)
    store = FailingStore(place.store)
    scenario(store, place)
    return store.n_calls


def plain(store: FailingStore, place: Place) -> None:
    writer = place.writer(store)
    for step in SCRIPT:
        run(writer, step)


def test_the_script_itself():
    place, model = Place(settings=SETTINGS), {}
    writer = place.writer()
    for step in SCRIPT:
        run(writer, step)
        model = effect(model, step)
        assert contents(writer.view()) == place.contents() == model


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_process_that_dies_at_any_call(after):
    """The store answers nothing any more from call n on; a new process opens what is there."""
    for n in range(count_calls(plain)):
        place = Place(settings=SETTINGS)
        store = FailingStore(place.store, n, after=after, dead=True)
        possible: list[Model] = [{}]
        try:
            writer = place.writer(store)
            for step in SCRIPT:
                before = possible[-1]
                possible = [before, effect(before, step)]
                run(writer, step)
                possible = possible[1:]
        except StorageError:
            pass
        found = place.contents()
        assert found in possible, f"call {n}"
        again = place.writer()
        assert contents(again.view()) == found, f"call {n}"
        again.upsert(rows_of([77], 9))
        again.compact()
        assert place.contents() == effect(found, ("upsert", [77], 9)), f"call {n}"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_writer_goes_on_after_a_failure_at_any_call(after):
    """One call fails; the same writer goes on with the rest, and repeats what failed."""
    for n in range(count_calls(plain)):
        place, model = Place(settings=SETTINGS), {}
        store = FailingStore(place.store, n, after=after)
        try:
            writer = place.writer(store)
        except StorageError:
            writer = place.writer(store)
        for step in SCRIPT:
            before = contents(writer.view())
            assert before == model, f"call {n}: {step}"
            try:
                run(writer, step)
            except StorageError:
                assert contents(writer.view()) in (before, effect(before, step))
                seen = place.contents()
                assert seen in (before, effect(before, step)), f"call {n}: {step}"
                run(writer, step)
            model = effect(model, step)
        assert contents(writer.view()) == place.contents() == model, f"call {n}"
        assert contents(place.writer().view()) == model, f"call {n}"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_failed_write_that_is_not_repeated_is_whole_or_absent_for_ever(after):
    """Memory and store agree on its fate from the next write on."""
    for n in range(count_calls(plain)):
        place = Place(settings=SETTINGS)
        store = FailingStore(place.store, n, after=after)
        try:
            writer = place.writer(store)
        except StorageError:
            continue
        possible: list[Model] = [{}]
        for step in SCRIPT:
            landed = [effect(model, step) for model in possible]
            try:
                run(writer, step)
            except StorageError:
                possible = [*possible, *landed]
            else:
                possible = landed
                assert contents(writer.view()) == place.contents(), f"call {n}: {step}"
            assert contents(writer.view()) in possible
            assert place.contents() in possible


def test_a_lost_answer_is_found_out_without_reopening():
    place = Place()
    store = FailingStore(place.store)
    writer = place.writer(store)
    writer.upsert(rows_of([1, 2]))
    store.n, store.after = store.n_calls, True
    with pytest.raises(StoreUnavailable) as raised:
        writer.delete(np.array([1]))
    assert "settles" in raised.value.__notes__[0]
    assert 1 in contents(writer.view()), "memory is unchanged while the fate is unknown"
    assert 1 not in place.contents()
    writer.upsert(rows_of([3]))
    assert contents(writer.view()) == place.contents() == model_of(rows_of([2, 3]))


def test_a_flush_that_fails_behind_an_upsert_does_not_fail_the_upsert(caplog):
    place = Place(settings={"memtable_rows": 10})
    store = FailingStore(place.store)
    writer = place.writer(store)
    writer.upsert(rows_of(list(range(9))))
    original, store.put = store.put, refuse
    assert writer.upsert(rows_of([9])) == 1
    assert "could not be flushed" in caplog.text
    assert place.contents() == model_of(rows_of(list(range(10))))
    writer.upsert(rows_of(list(range(10, 20))))
    with pytest.raises(StoreUnavailable, match="refused"):
        writer.upsert(rows_of([99]))
    store.put = original
    writer.upsert(rows_of([99]))
    assert len(writer.view().shards) == 1
    assert place.contents() == model_of(rows_of([*range(20), 99]))


def refuse(key: str, data: bytes) -> None:
    raise StoreUnavailable("refused")


def test_an_interrupt_between_log_and_memory_loses_nothing(monkeypatch):
    place = Place()
    writer = place.writer()
    writer.upsert(rows_of([1]))

    def interrupt(view, record):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writer, "_show", interrupt)
        with pytest.raises(KeyboardInterrupt):
            writer.upsert(rows_of([2]))
    assert writer.delete(np.array([1])) == 1
    assert contents(writer.view()) == place.contents() == model_of(rows_of([2]))


@pytest.mark.parametrize("moment", ["before the log moves on", "within confirm", "after it"])
def test_an_interrupt_between_showing_a_write_and_confirming_it(monkeypatch, moment):
    place = Place()
    writer = place.writer()
    writer.upsert(rows_of([1]))
    confirm = writer._wal.confirm

    def interrupt():
        if moment == "within confirm":
            # As far as it gets before what is pending is forgotten.
            writer._wal._seq += 1
        elif moment == "after it":
            confirm()
        raise KeyboardInterrupt

    for at, frozen in [(2, False), (3, True)]:
        if frozen:
            writer._freeze()
        with monkeypatch.context() as patch:
            patch.setattr(writer._wal, "confirm", interrupt)
            with pytest.raises(KeyboardInterrupt):
                writer.upsert(rows_of([at]))
        writer.upsert(rows_of([10 * at]))
        if frozen:
            seqs = [record.seq for record in writer._tail.records if record.batches]
            assert seqs == [writer.view().seq - 2, writer.view().seq - 1]
    writer.flush()
    assert contents(writer.view()) == place.contents() == model_of(rows_of([1, 2, 20, 3, 30]))


def test_on_a_folder_whose_temporary_files_were_left_behind(tmp_path):
    def places() -> Iterator[Place]:
        for number in range(3):
            folder = tmp_path / str(number)
            folder.mkdir()
            yield Place(store=LocalStore(str(folder)), settings=SETTINGS)

    total = count_calls(plain)
    for place, n in zip(places(), (total // 3, total // 2, total - 3), strict=True):
        store = FailingStore(place.store, n, after=True, dead=True)
        possible: list[Model] = [{}]
        writer = place.writer(store)
        with suppress(StorageError):
            for step in SCRIPT:
                possible = [possible[-1], effect(possible[-1], step)]
                run(writer, step)
                possible = possible[1:]
        assert len(possible) == 2, "the store died before the script's end"
        assert place.contents() in possible


class LateCommits(FailingStore):
    """Says that a manifest's put failed, and does it when the test says so."""

    late: Callable[[], None] | None = None

    def put_if_absent(self, key, data):
        if key.startswith("catalog/") and self.n_calls > self.n >= 0:
            self.n = -1
            self.late = lambda: self.store.put_if_absent(key, data)
            raise StoreUnavailable("the answer was lost on cue")
        super().put_if_absent(key, data)


def test_orphans_of_a_commit_that_may_land_yet_are_left_alone():
    place = Place(settings=SETTINGS)
    store = LateCommits(place.store)
    writer = place.writer(store)
    writer.upsert(rows_of([1, 2, 3]))
    store.n = 0
    with pytest.raises(StoreUnavailable):
        writer.flush()
    assert writer.collect().orphans == ()
    store.late()
    assert place.contents() == model_of(rows_of([1, 2, 3])), "the shard that it names is there"
    writer.upsert(rows_of([4]))
    writer.flush()
    assert contents(writer.view()) == place.contents() == model_of(rows_of([1, 2, 3, 4]))
    assert len(writer.collect().orphans) == 1, "the shard of the flush that met the late commit"
    assert place.contents() == model_of(rows_of([1, 2, 3, 4]))
