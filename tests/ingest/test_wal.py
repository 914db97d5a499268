"""The log: numbering, replay, fences, and what became of a put whose answer was lost."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ingest_fakes import FailingStore, rows_of

from vstore.errors import CorruptData, StoreUnavailable, WriterFenced
from vstore.format.log_record import DeleteBatch, UpsertBatch
from vstore.ingest import wal as wal_module
from vstore.ingest.wal import WriteAheadLog, log_key, replay
from vstore.storage.memory import MemoryStore

PREFIX = "collections/c/1/log/"
numbers = itertools.count()


def new_id() -> str:
    return f"{next(numbers):032x}"


def wal_of(store, epoch=1, seq=0) -> WriteAheadLog:
    return WriteAheadLog(store, PREFIX, epoch=epoch, seq=seq, new_id=new_id)


def delete_of(*keys: int) -> list[DeleteBatch]:
    return [DeleteBatch(np.array(keys, np.int64))]


def write(wal: WriteAheadLog, *keys: int) -> None:
    wal.append(delete_of(*keys))
    wal.confirm()


def keys_in(store, from_seq=0) -> list:
    return [
        [key for batch in record.batches for key in batch.keys.tolist()]
        for record in replay(store, PREFIX, from_seq)
    ]


@pytest.mark.parametrize("read_records", [1, 3, 256])
def test_replay_gives_back_what_was_appended(monkeypatch, read_records):
    monkeypatch.setattr(wal_module, "READ_RECORDS", read_records)
    store = MemoryStore()
    wal = wal_of(store)
    wal.append([UpsertBatch(rows_of([1, 2])), *delete_of(7)])
    wal.confirm()
    for key in range(9):
        write(wal, key)
    records = list(replay(store, PREFIX, 0))
    assert [record.seq for record in records] == list(range(10)) == [*range(wal.seq)]
    assert isinstance(records[0].batches[0], UpsertBatch)
    assert records[0].batches[1].keys.tolist() == [7]
    assert keys_in(store, from_seq=8) == [[7], [8]]
    assert keys_in(store, from_seq=10) == []


def test_a_hole_is_corruption_not_a_shorter_log():
    store = MemoryStore()
    wal = wal_of(store)
    for key in range(5):
        write(wal, key)
    store.delete([log_key(PREFIX, 2)])
    with pytest.raises(CorruptData, match=r"00002' is missing, yet record 3 exists"):
        keys_in(store)
    assert keys_in(store, from_seq=3) == [[3], [4]]


def test_a_damaged_record_is_named():
    store = MemoryStore()
    write(wal_of(store), 1)
    key = log_key(PREFIX, 0)
    data = bytearray(store.get(key))
    data[len(data) // 2] ^= 1
    store.put(key, bytes(data))
    with pytest.raises(CorruptData, match=r"log/0+"):
        keys_in(store)


def test_a_fence_stops_the_older_writer_and_keeps_what_it_wrote():
    store = MemoryStore()
    old = wal_of(store, epoch=1)
    write(old, 1)
    new = wal_of(store, epoch=2, seq=1)
    write(old, 2)
    met = new.fence()
    assert [record.kind for record in met] == ["write", "fence"]
    assert new.seq == 3
    for _ in range(2):
        with pytest.raises(WriterFenced, match=r"epoch 2.*epoch 1.*reopen"):
            old.append(delete_of(3)) if not old.unsettled else old.settle()
    write(new, 4)
    assert keys_in(store) == [[1], [2], [], [4]]


def test_the_older_of_two_takeovers_is_fenced():
    store = MemoryStore()
    slow, fast = wal_of(store, epoch=2), wal_of(store, epoch=3)
    fast.fence()
    with pytest.raises(WriterFenced):
        slow.fence()


def test_a_lost_answer_is_settled_as_landed():
    store = MemoryStore()
    wal = wal_of(FailingStore(store, 0, after=True))
    with pytest.raises(StoreUnavailable):
        wal.append(delete_of(1))
    assert wal.unsettled
    landed = wal.settle()
    assert landed.batches[0].keys.tolist() == [1]
    wal.confirm()
    write(wal, 2)
    assert keys_in(store) == [[1], [2]]


def test_a_put_that_never_arrived_can_never_land_later():
    store = MemoryStore()
    wal = wal_of(FailingStore(store, 0))
    with pytest.raises(StoreUnavailable):
        wal.append(delete_of(1))
    assert wal.settle().batches == ()
    wal.confirm()
    write(wal, 2)
    assert keys_in(store) == [[], [2]]


@pytest.mark.parametrize("after", [False, True])
def test_settling_may_fail_and_be_repeated(after):
    store = MemoryStore()
    failing = FailingStore(store, 0)
    wal = wal_of(failing)
    with pytest.raises(StoreUnavailable):
        wal.append(delete_of(1))
    failing.n, failing.after = 1, after
    with pytest.raises(StoreUnavailable):
        wal.settle()
    assert wal.settle().batches == ()
    wal.confirm()
    assert wal.settle() is None
    write(wal, 2)
    assert keys_in(store) == [[], [2]]


def test_append_before_settle_is_refused():
    wal = wal_of(MemoryStore())
    wal.append(delete_of(1))
    with pytest.raises(RuntimeError, match="settle"):
        wal.append(delete_of(2))
