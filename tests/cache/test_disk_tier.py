"""The disk tier: shared, bounded, and never trusted with the truth."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from face_rows import build_store, queries

import vstore
from vstore import F
from vstore.cache import BlockKey, DiskTier
from vstore.cache.disk import FOLDER, LEDGER
from vstore.cache.policies import AdmitSecond
from vstore.storage.wrappers.counting import CountingStore


def key(block: int, section: str = "lists", shard: str = "s") -> BlockKey:
    return BlockKey(shard, section, block)


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != LEDGER)


def test_what_was_put_is_there_in_another_process_too(tmp_path: Path):
    DiskTier(tmp_path, 1000).put_many([(key(0), b"zero"), (key(1, "column:ü/../x"), b"one")])
    other = DiskTier(tmp_path, 1000)
    assert other.get_many([key(0), key(1, "column:ü/../x"), key(2)]) == [b"zero", b"one", None]
    other.drop(key(0))
    other.drop(key(77))
    assert DiskTier(tmp_path, 1000).get_many([key(0)]) == [None]


def test_the_limit_holds_and_the_oldest_go_first(tmp_path: Path):
    tier = DiskTier(tmp_path, 1000)
    for block in range(10):
        tier.put_many([(key(block), bytes(100))])
        os.utime(tier._path(key(block)), (block, block))
    assert tier.get_many([key(0)]) == [bytes(100)], "this touches it"
    tier.put_many([(key(10), bytes(100))])
    assert tier.get_many([key(1), key(2)]) == [None, None]
    assert tier.get_many([key(0), key(10)]) == [bytes(100)] * 2
    assert sum(path.stat().st_size for path in files_of(tmp_path)) <= 1000
    tier.put_many([(key(11), bytes(2000))])
    assert tier.get_many([key(11)]) == [None], "a block over the limit is not kept"


def test_leftovers_of_a_killed_process_count_and_go(tmp_path: Path):
    tier = DiskTier(tmp_path, 1000)
    tier.put_many([(key(0), bytes(100))])
    leftover = tier._path(key(0)).parent / "x.tmp"
    leftover.write_bytes(bytes(950))
    os.utime(leftover, (1, 1))
    DiskTier(tmp_path, 1000).put_many([(key(1), bytes(100))])
    assert not leftover.exists()


def test_a_full_disk_turns_the_tier_off_with_one_warning(tmp_path: Path, monkeypatch, caplog):
    tier = DiskTier(tmp_path, 1000)
    tier.put_many([(key(0), b"zero")])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with caplog.at_level(logging.WARNING):
        tier.put_many([(key(1), b"one")])
        tier.put_many([(key(2), b"two")])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No space left" in caplog.text
    assert not tier.writable
    assert tier.stats().n_failures == 1
    assert tier.get_many([key(0), key(1)]) == [b"zero", None], "what is there still serves"
    assert [path.suffix for path in files_of(tmp_path)] == [".0"], "nothing half-written stays"


def test_a_file_is_no_folder(tmp_path: Path):
    (tmp_path / "f").write_text("x")
    with pytest.raises(vstore.errors.InvalidSetting, match=r"cache_dir.*is a file"):
        vstore.connect("memory://", cache_dir=tmp_path / "f")


@pytest.fixture(scope="module")
def store():
    return build_store(n=3_000, block_rows=128)


def ask(store, cache_dir: Path, query):
    counted = CountingStore(store)
    with vstore.connect(counted, cache_dir=cache_dir) as database:
        collection = database.collection("c")
        before = counted.snapshot()
        hits = collection.search(query, k=10, filter=F.bucket < 40)
        return hits, counted.delta(before)


def test_a_second_process_reads_nothing_from_the_store(store, tmp_path: Path):
    for query in queries(4):
        first, _ = ask(store, tmp_path, query)
        again, seen = ask(store, tmp_path, query)
        assert again.ids == first.ids
        assert seen.n_requests == 0
        receipt = again.receipt
        assert (receipt.n_round_trips, receipt.bytes_fetched, receipt.n_cache_misses) == (0, 0, 0)
        assert receipt.n_disk_hits > 0


def test_damaged_files_are_dropped_and_read_again(store, tmp_path: Path):
    query = queries(1)[0]
    first, _ = ask(store, tmp_path, query)
    spoiled = files_of(tmp_path)
    for number, path in enumerate(spoiled):
        data = bytearray(path.read_bytes())
        if number % 3 == 0:
            data[len(data) // 2] ^= 0x40
        elif number % 3 == 1:
            del data[number % 7 :]
        path.write_bytes(bytes(data))
    mended, seen = ask(store, tmp_path, query)
    assert mended.ids == first.ids
    assert seen.n_requests > 0
    assert mended.receipt.n_requests == seen.n_requests
    clean, seen = ask(store, tmp_path, query)
    assert clean.ids == first.ids


def test_threads_share_it(tmp_path: Path):
    tier = DiskTier(tmp_path, 5_000)

    def work(seed: int) -> None:
        for block in range(60):
            tier.put_many([(key((block * 7 + seed) % 80), bytes([block]) * 200)])
            for data in tier.get_many([key(b) for b in range(0, 80, 9)]):
                assert data is None or len(set(data)) == 1, "never half a file"

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tier.writable
    assert sum(path.stat().st_size for path in files_of(tmp_path)) <= 5_000


def test_processes_share_it_and_its_limit(tmp_path: Path):
    child = str(Path(__file__).parent / "disk_child.py")
    running = [
        subprocess.Popen(
            [sys.executable, child, str(tmp_path), "20000", str(seed), "120"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(3)
    ]
    seen = []
    for process in running:
        assert process.stdin is not None
        process.stdin.close()
    for process in running:
        assert process.stdout is not None
        seen.append(json.loads(process.stdout.read()))
        assert process.wait() == 0
    assert max(one["most"] for one in seen) <= 20_000, "the limit is that of all together"
    assert sum(one["wrong"] for one in seen) == 0
    assert all(one["hits"] > 0 for one in seen)
    assert sum(one["evicted"] for one in seen) > 0
    assert sum(path.stat().st_size for path in files_of(tmp_path)) <= 20_000


def test_a_spoiled_ledger_is_counted_anew(tmp_path: Path):
    DiskTier(tmp_path, 1000).put_many([(key(block), bytes(300)) for block in range(3)])
    for text in (b"", b"not a number at all!", b"-0000000000000000001", bytes(20)):
        (tmp_path / FOLDER / LEDGER).write_bytes(text)
        tier = DiskTier(tmp_path, 1000)
        tier.put_many([(key(len(text) + text.count(0) + 10), bytes(300))])
        assert sum(path.stat().st_size for path in files_of(tmp_path)) <= 1000
        assert tier.stats().size_bytes <= 1000
    (tmp_path / FOLDER / LEDGER).write_bytes(b"0" * 12 + b"99999999")
    tier = DiskTier(tmp_path, 1000)
    tier.put_many([(key(99), bytes(300))])
    assert tier.get_many([key(99)]) == [bytes(300)], "what a dead process had reserved is free again"


def test_an_admission_spares_the_disk(tmp_path: Path):
    tier = DiskTier(tmp_path, 1000, AdmitSecond())
    tier.put_many([(key(block), bytes(100)) for block in range(10)])
    assert tier.get_many([key(9)]) == [bytes(100)], "what fits is kept at once"
    tier.put_many([(key(10), bytes(100))])
    assert tier.get_many([key(10)]) == [None]
    tier.put_many([(key(10), bytes(100))])
    assert tier.get_many([key(10)]) == [bytes(100)]
    assert tier.stats().n_refused == 1


def test_a_folder_that_cannot_be_made_fails_no_search(store, tmp_path: Path, caplog):
    (tmp_path / "file").write_text("x")
    plain, _ = ask(store, tmp_path / "good", queries(3)[0])
    with caplog.at_level(logging.WARNING, logger="vstore.cache.disk"):
        counted = CountingStore(store)
        with vstore.connect(counted, cache_dir=tmp_path / "file" / "below") as database:
            collection = database.collection("c")
            answers = [collection.search(query, k=10, filter=F.bucket < 40) for query in queries(3)]
    assert answers[0].ids == plain.ids
    assert sum("is off" in record.getMessage() for record in caplog.records) == 1


def test_a_disk_that_fills_up_during_a_search_fails_no_search(store, tmp_path: Path, monkeypatch, caplog):
    expected = [ask(store, tmp_path / "good", query)[0].ids for query in queries(3)]
    left = [4]
    replace = os.replace

    def filling(source: str, target: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", filling)
    with (
        caplog.at_level(logging.WARNING, logger="vstore.cache.disk"),
        vstore.connect(CountingStore(store), cache_dir=tmp_path / "full") as database,
    ):
        collection = database.collection("c")
        found = [collection.search(query, k=10, filter=F.bucket < 40).ids for query in queries(3)]
    assert found == expected
    assert sum("No space left" in record.getMessage() for record in caplog.records) == 1
    assert len(files_of(tmp_path / "full")) == 4


def test_what_was_mended_is_kept_again(store, tmp_path: Path):
    query = queries(1)[0]
    ask(store, tmp_path, query)
    for path in files_of(tmp_path):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
    _, seen = ask(store, tmp_path, query)
    assert seen.n_requests > 0
    again, seen = ask(store, tmp_path, query)
    assert seen.n_requests == 0
    assert again.receipt.n_disk_hits > 0
