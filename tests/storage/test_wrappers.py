"""Each wrapper does its one thing."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from vstore.errors import AccessDenied, InvalidSetting, ObjectExists, ObjectNotFound, StoreUnavailable
from vstore.storage import ByteRange, MemoryStore
from vstore.storage.coalesce import plan_coalesce
from vstore.storage.wrappers import (
    CountingStore,
    Fault,
    FaultStore,
    ForwardingStore,
    LatencyStore,
    RetryStore,
    StoreCounters,
    StoreLatency,
    seeded_faults,
)


class Coalescing(ForwardingStore):
    """A store that reads near ranges as one, as S3Store does."""

    def plan(self, ranges):
        return plan_coalesce(ranges, 10, 1000)


def test_counters():
    store = CountingStore(Coalescing(MemoryStore()))
    store.put("a", bytes(100))
    store.put_if_absent("b", bytes(50))
    before = store.snapshot()
    assert before == StoreCounters(2, 2, 0, 2, 0, 0, 0, 150)
    store.get("a", 10, 20)
    store.get("a", 10, 0)
    assert store.delta(before) == StoreCounters(n_round_trips=1, n_requests=1, n_gets=1, bytes_fetched=20)
    before = store.snapshot()
    ranges = [ByteRange("a", 0, 10), ByteRange("a", 15, 10), ByteRange("a", 60, 10), ByteRange("b")]
    store.get_many(ranges)
    # Two near ranges are one request of 25 bytes, with the gap; the open one brings 50.
    assert store.delta(before) == StoreCounters(n_round_trips=1, n_requests=3, n_gets=3, bytes_fetched=85)
    before = store.snapshot()
    store.head("a")
    store.list()
    store.delete([f"k{i}" for i in range(1001)])
    assert store.delta(before) == StoreCounters(3, 4, 1, 0, 1, 2, 0, 0)
    before = store.snapshot()
    store.delete([])
    store.get_many([])
    assert store.delta(before) == StoreCounters()
    assert (before - before) + before == before


def test_pages_of_a_listing_are_requests():
    inner = MemoryStore()
    for i in range(2001):
        inner.put(f"k{i}", b"x")
    store = CountingStore(inner)
    store.list()
    assert store.snapshot() == StoreCounters(n_round_trips=1, n_requests=3, n_lists=3)


def test_counters_under_threads_and_failures():
    store = CountingStore(MemoryStore())
    store.put("a", b"x")

    def work(i):
        store.get("a")
        with pytest.raises(ObjectNotFound):
            store.get("absent")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(500)))
    assert store.snapshot().n_gets == 1000
    assert store.snapshot().bytes_fetched == 500


def test_retry_waits_longer_each_time_with_jitter():
    faults = iter([Fault.ERROR] * 4 + [None])
    waits = []
    store = RetryStore(
        FaultStore(MemoryStore(), lambda method, key: next(faults)),
        n_retries=4,
        first_wait_s=1.0,
        longest_wait_s=4.0,
        sleep=waits.append,
        rng=random.Random(1),
    )
    store.put("a", b"x")
    assert len(waits) == 4
    assert all(0 <= wait <= most for wait, most in zip(waits, (1, 2, 4, 4), strict=True))
    assert len(set(waits)) == 4


def test_retry_gives_up_and_passes_other_errors():
    waits = []
    store = RetryStore(FaultStore(MemoryStore(), lambda m, k: Fault.ERROR), n_retries=3, sleep=waits.append)
    with pytest.raises(StoreUnavailable):
        store.get("a")
    assert len(waits) == 3
    for error in (ObjectNotFound, AccessDenied):

        def decide(method, key, error=error):
            raise error("x")

        store = RetryStore(FaultStore(MemoryStore(), decide), sleep=waits.append)
        with pytest.raises(error):
            store.get("a")
    assert len(waits) == 3


def test_a_lost_create_is_settled_by_the_retry():
    faults = iter([Fault.LOST, None, None])
    inner = MemoryStore()
    store = RetryStore(FaultStore(inner, lambda m, k: next(faults)), sleep=lambda s: None)
    store.put_if_absent("a", b"mine")
    assert inner.get("a") == b"mine"
    with pytest.raises(ObjectExists):
        store.put_if_absent("a", b"other")


def test_a_lost_answer_leaves_its_write_and_an_error_none():
    faults = iter([Fault.LOST, Fault.ERROR])
    inner = MemoryStore()
    store = FaultStore(inner, lambda m, k: next(faults))
    with pytest.raises(StoreUnavailable):
        store.put("a", b"x")
    with pytest.raises(StoreUnavailable):
        store.put("b", b"x")
    assert [info.key for info in inner.list()] == ["a"]
    assert store.n_faults(Fault.LOST) == store.n_faults(Fault.ERROR) == 1


def test_spoilt_bodies():
    data = bytes(range(200))
    inner = MemoryStore()
    inner.put("a", data)
    flips = FaultStore(inner, lambda m, k: Fault.FLIP)
    shorts = FaultStore(inner, lambda m, k: Fault.SHORT)
    for _ in range(50):
        got = flips.get("a")
        difference = [x ^ y for x, y in zip(got, data, strict=True) if x != y]
        assert len(difference) == 1
        assert difference[0].bit_count() == 1
        short = shorts.get("a")
        assert len(short) < 200
        assert data.startswith(short)
        many = flips.get_many([ByteRange("a", 0, 50), ByteRange("a", 50, 50)])
        assert sum(one != data[i * 50 : i * 50 + 50] for i, one in enumerate(many)) == 1
    assert inner.get("a") == data


def test_a_stale_list_is_the_one_before():
    faults = iter([Fault.STALE, None, Fault.STALE, Fault.STALE, None])
    store = FaultStore(MemoryStore(), lambda m, k: next(faults) if m == "list" else None)

    def keys():
        return [info.key for info in store.list()]

    store.put("a", b"1")
    # There was none before.
    assert keys() == ["a"]
    assert keys() == ["a"]
    store.put("b", b"2")
    assert keys() == keys() == ["a"]
    assert keys() == ["a", "b"]
    stale = seeded_faults(4, stale_rate=0.5)
    drawn = [stale("list", "") for _ in range(1000)]
    assert set(drawn) == {None, Fault.STALE}
    assert {stale("get", "k") for _ in range(100)} == {None}


def test_seeded_faults_repeat_and_keep_their_rates():
    def run(seed):
        decide = seeded_faults(seed, error_rate=0.1, lost_rate=0.2, short_rate=0.05, flip_rate=0.15)
        return [decide(("get", "put", "list")[i % 3], "k") for i in range(9000)]

    first = run(1)
    assert first == run(1)
    assert first != run(2)
    gets, puts, lists = first[::3], first[1::3], first[2::3]
    assert set(lists) == {None, Fault.ERROR}
    assert set(puts) == {None, Fault.ERROR, Fault.LOST}
    for found, fault, rate in (
        (gets, Fault.SHORT, 0.05),
        (gets, Fault.FLIP, 0.15),
        (gets, Fault.ERROR, 0.1),
        (puts, Fault.LOST, 0.2),
    ):
        assert abs(found.count(fault) / 3000 - rate) < 0.03
    with pytest.raises(InvalidSetting):
        seeded_faults(0, error_rate=0.8, lost_rate=0.3)


def test_latency_is_that_of_parallel_requests():
    inner = MemoryStore()
    inner.put("a", bytes(10_000))
    waits = []
    latency = StoreLatency(get_ms=10, put_ms=30, list_ms=50, sigma=0, bytes_per_s=1_000_000, concurrency=4)
    store = LatencyStore(inner, latency, sleep=waits.append)
    store.get("a", 0, 1000)
    store.get_many([ByteRange("a", 1000 * i, 1000) for i in range(4)])
    store.get_many([ByteRange("a", 1000 * i, 1000) for i in range(9)])
    store.put("b", bytes(1000))
    store.head("b")
    store.list()
    store.get_many([])
    assert waits == pytest.approx([0.011, 0.011, 0.033, 0.031, 0.010, 0.050])


def test_latency_is_lognormal_and_seeded():
    def run(seed):
        waits = []
        store = LatencyStore(
            MemoryStore(), StoreLatency(get_ms=20, sigma=0.4), sleep=waits.append, rng=random.Random(seed)
        )
        for _ in range(500):
            store.head("a")
        return waits

    waits = run(3)
    assert waits == run(3)
    assert sorted(waits)[250] == pytest.approx(0.02, rel=0.1)
    assert min(waits) < 0.012
    assert max(waits) > 0.04


def test_settings_outside_their_limits():
    for options in ({"get_ms": -1}, {"bytes_per_s": 0}, {"concurrency": 0}):
        with pytest.raises(InvalidSetting):
            StoreLatency(**options)
    with pytest.raises(InvalidSetting):
        RetryStore(MemoryStore(), n_retries=-1)
    with pytest.raises(InvalidSetting):
        RetryStore(MemoryStore(), first_wait_s=2, longest_wait_s=1)
