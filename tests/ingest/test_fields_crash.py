"""Fields that come and go while calls fail, processes die, two writers race and threads write on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from ingest_fakes import FailingStore, Place, rows_of

import vstore
from vstore.catalog import layout
from vstore.errors import (
    CommitConflict,
    CorruptData,
    FieldError,
    FilterError,
    InvalidInput,
    StorageError,
    UnknownField,
    WriterFenced,
)
from vstore.ingest.schema import without_field
from vstore.storage.memory import MemoryStore

State = tuple[dict[str, str], dict[int, dict[str, Any]]]
Step = tuple[str, Any, Any]

SCRIPT: list[Step] = [
    ("upsert", range(12), {"year": 1}),
    ("flush", None, None),
    ("upsert", range(8, 16), {"year": 2}),
    ("drop", "year", None),
    ("upsert", [3, 20], {}),
    ("add", "year", "str"),
    ("upsert", [4, 9, 21], {"year": "x"}),
    ("flush", None, None),
    ("add", "more", "int"),
    ("upsert", [5, 22], {"year": "y", "more": 7}),
    ("drop", "year", None),
    ("compact", None, None),
    ("add", "year", "int"),
    ("upsert", [1], {"year": 9}),
]
SETTINGS = vstore.Settings(n_threads=1, io_concurrency=1, background=False, retention_s=0.0)
START: State = ({"year": "int"}, {})


def effect(state: State, step: Step) -> State:
    """What a step that landed leaves."""
    (op, what, value), (fields, rows) = step, state
    if op == "upsert":
        return fields, {**rows, **{key: dict(value) for key in what}}
    if op == "add":
        return {**fields, what: value}, rows
    if op == "drop":
        left = {name: kind for name, kind in fields.items() if name != what}
        return left, {key: {n: v for n, v in row.items() if n != what} for key, row in rows.items()}
    return state


def run(collection: vstore.Collection, step: Step) -> None:
    op, what, value = step
    if op == "upsert":
        collection.upsert(list(what), np.ones((len(what), 2)), [value] * len(what), progress=False)
    elif op == "add":
        collection.add_field(what, value)
    elif op == "drop":
        collection.drop_field(what)
    else:
        getattr(collection, op)(progress=False)


def state_of(collection: vstore.Collection) -> State:
    ids = [hit.id for hit in collection.search(np.ones(2), k=100, recall=1.0)]
    rows = {record.id: record.attributes for record in collection.get(ids) if record is not None}
    assert len(rows) == len(collection)
    return dict(collection.schema.fields), rows


def place() -> MemoryStore:
    store = MemoryStore()
    index = vstore.IndexSettings(M=2, ef_construction=4)
    vstore.connect(store).create_collection("c", dim=2, metric="l2", fields=START[0], index=index)
    return store


def opened(store: Any) -> vstore.Collection:
    return vstore.connect(store, settings=SETTINGS).collection("c")


def n_calls() -> int:
    store, state = FailingStore(place()), START
    collection = opened(store)
    for step in SCRIPT:
        run(collection, step)
        state = effect(state, step)
        assert state_of(opened(store.store)) == state
    return store.n_calls


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_process_that_dies_at_any_call(after: bool):
    for n in range(n_calls()):
        store = place()
        states, state = [START], START
        with suppress(StorageError):
            collection = opened(FailingStore(store, n, after=after, dead=True))
            for step in SCRIPT:
                states = [state, effect(state, step)]
                run(collection, step)
                state = effect(state, step)
                states = [state]
        left = opened(store)
        assert state_of(left) in states
        assert left._parts.catalog.load("c") is not None
        assert vstore.connect(store).verify("c").ok


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_writer_goes_on_after_a_failure_at_any_call(after: bool):
    for n in range(n_calls()):
        store = place()
        failing = FailingStore(store, n, after=after)
        try:
            collection = opened(failing)
        except StorageError:
            continue
        state = START
        for step in SCRIPT:
            for _ in range(3):
                try:
                    run(collection, step)
                except StorageError:
                    continue
                except (InvalidInput, UnknownField):
                    # The first attempt landed; its answer was lost.
                    assert step[0] in ("add", "drop")
                break
            state = effect(state, step)
        failing.n = -1
        assert state_of(collection) == state_of(opened(store)) == state
        assert vstore.connect(store).verify("c").ok


def test_two_writers_race_for_a_field():
    """Exactly one of two changes of the same version is published, and who lost says so."""
    store = place()
    first, second = opened(store), opened(store)
    run(first, SCRIPT[0])
    put, at = store.put_if_absent, []

    def overtaken(key: str, data: bytes) -> None:
        if key.startswith(layout.CATALOG) and not at:
            at.append(key)
            run(second, ("add", "b", "int"))
        put(key, data)

    store.put_if_absent = overtaken  # type: ignore[method-assign]
    with pytest.raises(WriterFenced):
        first.add_field("a", "int")
    assert at
    assert state_of(opened(store)) == state_of(second)
    assert set(second.schema.fields) == {"year", "b"}


def test_a_commit_whose_answer_was_lost_is_not_made_twice(monkeypatch: pytest.MonkeyPatch):
    """The retry of a lost answer finds its own manifest, and returns its version."""
    store = place()
    collection = opened(store)
    run(collection, SCRIPT[0])
    from vstore.ingest import publisher

    commit, times = publisher.commit, []

    def lost(catalog: Any, manifest: Any) -> None:
        commit(catalog, manifest)
        times.append(manifest.version)
        if len(times) == 1:
            raise CommitConflict("as a store that answers 412 to its own retry")

    monkeypatch.setattr(publisher, "commit", lost)
    assert collection.add_field("more", "int") == times[0]
    assert len(times) == 1
    assert state_of(collection) == effect(effect(START, SCRIPT[0]), ("add", "more", "int"))


def test_threads_write_while_fields_come_and_go():
    """A row written beside a change has the field or the named error; nothing else."""
    store = place()
    collection = opened(store)
    stop, refused, odd = threading.Event(), [], []

    def write(first: int) -> None:
        stamp = 0
        while not stop.is_set():
            stamp += 1
            try:
                collection.upsert([first], np.ones((1, 2)), [{"year": 5}], progress=False)
                collection.search(np.ones(2), k=3, filter={"year": {"$gte": 0}})
            except (FieldError, FilterError) as error:
                # The field may be of another type, or gone, between the two calls.
                refused.append(str(error))
            except Exception as error:
                odd.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for round in range(30):
        collection.drop_field("year")
        if round % 5 == 0:
            collection.flush(progress=False)
        collection.add_field("year", "int" if round % 2 else "str")
    collection.drop_field("year")
    collection.add_field("year", "int")
    stop.set()
    for thread in threads:
        thread.join()
    assert not odd
    assert all("year" in message for message in refused)
    assert state_of(opened(store)) == state_of(collection)
    assert vstore.connect(store).verify("c").ok


@pytest.mark.parametrize("text", ["[]", "7", "nonsense", '{"year": "x"}', '{"year": null}'])
def test_a_damaged_list_of_fields_is_named(text: str):
    from dataclasses import replace

    from vstore.ingest.schema import PROPERTY, since_of

    store = place()
    manifest = vstore.connect(store)._catalog.require("c")
    with pytest.raises(CorruptData, match="fields_since"):
        since_of(replace(manifest, properties={PROPERTY: text}))


def test_a_commit_that_changes_a_type_is_refused_before_it_is_published():
    from dataclasses import replace

    from vstore.catalog.invariants import check_succession

    store = place()
    collection = opened(store)
    run(collection, SCRIPT[0])
    run(collection, SCRIPT[1])
    now = collection._parts.catalog.require("c")
    following = replace(now, version=now.version + 1)
    wrong: list[tuple[str, Callable[[], Any]]] = [
        ("the type of field 'year'", lambda: replace(now.schema, fields={"year": "str"})),
        ("dimension or metric in its schema", lambda: replace(now.schema, dim=3)),
        ("dimension or metric in its schema", lambda: replace(now.schema, metric="dot")),
    ]
    for message, schema in wrong:
        with pytest.raises(CorruptData, match=message):
            check_succession(now, replace(following, schema=schema()))
    collection.drop_field("year")
    dropped = collection._parts.catalog.require("c")
    with pytest.raises(CorruptData, match="brings sections"):
        check_succession(dropped, replace(dropped, version=dropped.version + 1, shards=now.shards))


@pytest.mark.parametrize("n", range(5))
def test_whatever_fails_after_a_change_of_fields_the_next_write_knows_of_it(n):
    """The calls are those of the commit, and the opening of the shard under its new fields."""
    place = Place()
    store = FailingStore(place.store)
    writer = place.writer(store)
    writer.upsert(rows_of([1, 2, 3]))
    writer.flush()
    store.n = store.n_calls + n
    with suppress(StorageError):
        writer.change_schema(lambda manifest, seq: without_field(manifest, "topic"))
    assert writer.delete(np.array([1])) == 1
    latest = place.view()
    assert writer.view().schema == latest.schema
    assert writer.view().n_live == latest.n_live == 2


def test_a_reader_that_missed_a_field_go_and_come_back_sees_it_empty():
    """Its own rows of the log hold values of the field that was dropped."""
    store = place()
    writer, reader = opened(store), opened(store)
    writer.upsert([1, 2], np.ones((2, 2)), [{"year": 1}, {"year": 2}], progress=False)
    reader.refresh()
    assert [record.attributes for record in reader.get([1, 2])] == [{"year": 1}, {"year": 2}]
    writer.drop_field("year")
    writer.add_field("year", "int")
    writer.upsert([3], np.ones((1, 2)), [{"year": 3}], progress=False)
    reader.refresh()
    assert state_of(reader) == ({"year": "int"}, {1: {}, 2: {}, 3: {"year": 3}})
    assert reader.count(vstore.F.year.exists()) == 1
