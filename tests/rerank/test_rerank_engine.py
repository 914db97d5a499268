"""Batches across concurrent calls: budgets, likeness, no starvation, back-pressure, failures, deadlines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vstore.errors import InvalidSetting, RerankError
from vstore.rerank.engine import BatchLimits, Engine, Pair, choose
from vstore.rerank.work import DeadlinePassed, Work

lengths = st.lists(st.integers(1, 300), min_size=0, max_size=12)


def pairs_of(values: list[int]) -> list[Pair]:
    return [Pair(value, value) for value in values]


def scores_of(pairs: list[Pair]) -> list[float]:
    return [pair.score for pair in pairs]


class Gate:
    """A forward that stops until it is let on, and remembers its batches."""

    def __init__(self, score: Callable[[Any], float] = float) -> None:
        self.batches: list[list[Any]] = []
        self.entered = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self._score = score

    def __call__(self, payloads: list[Any]) -> Any:
        self.batches.append(list(payloads))
        self.entered.release()
        assert self.go.acquire(timeout=20)
        return np.array([self._score(each) for each in payloads], dtype=np.float32)


def started(engine: Engine, values: list[int]) -> tuple[threading.Thread, list[Pair], Work]:
    pairs, work = pairs_of(values), Work()
    thread = threading.Thread(target=engine.run, args=(pairs, work), daemon=True)
    thread.start()
    return thread, pairs, work


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.001)


@settings(max_examples=200, deadline=None)
@given(st.lists(lengths, max_size=5), st.integers(1, 600), st.integers(1, 9))
def test_a_batch_holds_its_limits_and_the_oldest_calls_longest(
    calls: list[list[int]], tokens: int, most: int
) -> None:
    limits = BatchLimits(tokens=tokens, pairs=most, small_tokens=100)
    pending = [pairs_of(values) for values in calls]
    batch = choose(pending, limits)
    oldest = next((call for call in pending if call), [])
    assert bool(batch) == bool(oldest)
    if not batch:
        return
    longest = max(pair.n_tokens for pair in oldest)
    assert batch[0] in oldest
    assert batch[0].n_tokens == longest
    assert max(pair.n_tokens for pair in batch) == longest
    assert len({id(pair) for pair in batch}) == len(batch) <= most
    assert len(batch) * longest <= tokens or len(batch) == 1
    assert len(batch) * longest <= 100 or all(p.n_tokens >= 0.75 * longest for p in batch)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=200), st.integers(2, 4))
def test_several_workers_take_smaller_batches_towards_the_end(values: list[int], n_workers: int) -> None:
    limits = BatchLimits(tokens=800, pairs=1000, pads=False)
    pending = pairs_of(values)
    while pending:
        left = sum(pair.n_tokens for pair in pending)
        batch = choose([pending], limits, n_workers)
        n = sum(pair.n_tokens for pair in batch)
        share = -(-left // n_workers)
        most = min(share, 800) if share >= 200 else 800
        # No more than its share, and no pair of 60 tokens less.
        assert min(most, left) - 60 < n <= most
        pending = [pair for pair in pending if pair not in batch]


@settings(max_examples=50, deadline=None)
@given(lengths.filter(bool))
def test_every_pair_is_scored_once_by_likeness(values: list[int]) -> None:
    seen: list[int] = []

    def forward(payloads: list[int]) -> Any:
        seen.extend(payloads)
        return np.array(payloads, dtype=np.float32)

    pairs, work = pairs_of(values), Work()
    Engine("m", forward, BatchLimits(tokens=500, pairs=4)).run(pairs, work)
    assert scores_of(pairs) == values
    assert sorted(seen) == sorted(values)
    assert (work.n_pairs, work.n_tokens) == (len(values), sum(values))
    assert work.n_padded_tokens >= work.n_tokens
    assert 1 <= work.n_batches <= len(values)


def test_calls_that_wait_share_a_batch() -> None:
    gate = Gate()
    engine = Engine("m", gate, BatchLimits(tokens=1000))
    first = started(engine, [10])
    assert gate.entered.acquire(timeout=20)
    others = []
    for place, n in enumerate((22, 21, 20), 1):
        others.append(started(engine, [n, n]))
        until(lambda place=place: engine._n_pending == 2 * place)
    gate.go.release(2)
    for thread, _, _ in (first, *others):
        thread.join(20)
    assert gate.batches == [[10], [22, 22, 21, 21, 20, 20]]
    assert [scores_of(pairs) for _, pairs, _ in others] == [[22, 22], [21, 21], [20, 20]]
    assert [work.n_queries_merged for _, _, work in (first, *others)] == [1, 3, 3, 3]
    assert all(work.wait_ms > 0 for _, _, work in others)


def test_a_small_call_is_not_starved_by_large_ones() -> None:
    gate = Gate()
    engine = Engine("m", gate, BatchLimits(tokens=200, pairs=2))
    large, _, _ = started(engine, [100] * 6)
    assert gate.entered.acquire(timeout=20)
    small, pairs, _ = started(engine, [3])
    until(lambda: engine._n_pending == 5)
    more, _, _ = started(engine, [100] * 8)
    until(lambda: engine._n_pending == 13)
    for _ in range(4):
        gate.go.release()
        assert gate.entered.acquire(timeout=20)
    gate.go.release()
    small.join(20)
    assert scores_of(pairs) == [3], "it comes after the call before it, and before the later one"
    gate.go.release(20)
    for thread in (large, small, more):
        thread.join(20)


def test_the_queue_is_bounded_and_first_come_first_served() -> None:
    gate = Gate()
    engine = Engine("m", gate, BatchLimits(tokens=10, pairs=1, pending_pairs=4))
    running, _, _ = started(engine, [1])
    assert gate.entered.acquire(timeout=20)
    threads = [running]
    for n in (3, 2, 1):
        before = len(engine._waiting)
        thread, _, _ = started(engine, [n] * n)
        threads.append(thread)
        until(lambda n=n, before=before: n == 3 or len(engine._waiting) > before)
        until(lambda: engine._n_pending == 3)
    assert engine._n_pending == 3, "the pair of 1 would fit, and comes after the two that wait"
    gate.go.release(20)
    for thread in threads:
        thread.join(20)
    assert [batch[0] for batch in gate.batches] == [1, 3, 3, 3, 2, 2, 1]


def test_a_call_larger_than_the_queue_is_served() -> None:
    engine = Engine("m", lambda p: np.array(p, dtype=np.float32), BatchLimits(pending_pairs=2))
    pairs = pairs_of(list(range(1, 30)))
    engine.run(pairs, Work())
    assert scores_of(pairs) == list(range(1, 30))


def test_out_of_memory_halves_the_batch_and_goes_on() -> None:
    sizes: list[int] = []

    def forward(payloads: list[int]) -> Any:
        sizes.append(len(payloads))
        if len(payloads) > 3:
            raise MemoryError("device")
        return np.array(payloads, dtype=np.float32)

    engine = Engine("m", forward, BatchLimits(tokens=160, pairs=100))
    pairs = pairs_of([10] * 40)
    work = Work()
    engine.run(pairs, work)
    assert scores_of(pairs) == [10.0] * 40
    assert sizes[0] == 16
    assert engine.limits.tokens == 20, "later batches are small from the start"
    assert sum(size > 3 for size in sizes) <= 7
    assert work.n_pairs == 40


def test_one_pair_that_a_model_falls_over_does_not_sink_the_rest() -> None:
    def forward(payloads: list[int]) -> Any:
        if 13 in payloads:
            raise ValueError("thirteen")
        return np.array(payloads, dtype=np.float32)

    pairs = pairs_of([11, 12, 13, 14])
    Engine("m", forward, BatchLimits()).run(pairs, Work())
    assert [pair.score for pair in pairs if pair.error is None] == [11, 12, 14]
    assert "thirteen" in str(pairs[2].error)


def test_a_model_that_fails_on_all_is_an_error_with_its_cause() -> None:
    def forward(payloads: list[int]) -> Any:
        raise ValueError("broken")

    engine = Engine("name", forward, BatchLimits())
    with pytest.raises(RerankError, match="name failed on all 3 documents: ValueError: broken") as info:
        engine.run(pairs_of([1, 2, 3]), Work())
    assert isinstance(info.value.__cause__, ValueError)
    with pytest.raises(RerankError, match=r"shape \(1,\) for a batch of 2"):
        Engine("m", lambda p: [1.0] if len(p) > 1 else [[1.0]], BatchLimits())._checked([1.0], 2)


def test_images_are_decoded_on_threads_while_the_device_works() -> None:
    events: list[str] = []
    decoded_ahead = threading.Event()

    def decode(payload: int) -> int:
        events.append(f"decode {payload}")
        if payload == 1:
            decoded_ahead.set()
        return -payload

    def forward(payloads: list[int]) -> Any:
        if payloads == [-9]:
            # The second batch is decoded before the first has been scored.
            assert decoded_ahead.wait(20)
        events.append(f"forward {payloads[0]}")
        return np.array(payloads, dtype=np.float32)

    engine = Engine("m", forward, BatchLimits(tokens=10, pairs=1), decode=decode)
    pairs, work = pairs_of([9, 1]), Work()
    engine.run(pairs, work)
    assert scores_of(pairs) == [-9, -1]
    assert events.index("decode 1") < events.index("forward -9")
    assert work.decode_ms >= 0


def test_a_document_that_cannot_be_decoded_fails_alone() -> None:
    def decode(payload: int) -> int:
        if payload == 2:
            raise OSError("bad bytes")
        return payload

    engine = Engine("m", lambda p: np.array(p, dtype=np.float32), BatchLimits(), decode=decode)
    pairs = pairs_of([1, 2, 3])
    engine.run(pairs, Work())
    assert [pair.error is None for pair in pairs] == [True, False, True]
    only = pairs_of([2])
    engine.run(only, Work())
    assert "bad bytes" in str(only[0].error)


def test_a_deadline_ends_the_wait_and_drops_what_was_not_begun() -> None:
    gate = Gate()
    engine = Engine("m", gate, BatchLimits(tokens=10, pairs=1))
    work = Work(deadline_s=time.perf_counter() + 0.05)
    with pytest.raises(DeadlinePassed):
        engine.run(pairs_of([5, 6, 7]), work)
    assert engine._n_pending == 0
    gate.go.release(5)
    pairs = pairs_of([4])
    engine.run(pairs, Work())
    assert scores_of(pairs) == [4]
    # Whether the first batch had begun is the scheduler's to say.
    assert gate.batches in ([[7], [4]], [[4]])


def test_many_threads_many_sizes() -> None:
    engine = Engine(
        "m", lambda p: np.array(p, dtype=np.float32), BatchLimits(tokens=700, pairs=9, pending_pairs=40)
    )

    def call(seed: int) -> None:
        values = np.random.default_rng(seed).integers(1, 200, 20).tolist()
        pairs = pairs_of(values)
        engine.run(pairs, Work())
        assert scores_of(pairs) == values

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(call, range(60)))
    assert engine._n_pending == 0
    assert not engine._owner


def test_an_idle_worker_ends_and_the_next_call_starts_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vstore.rerank.engine.IDLE_S", 0.01)
    engine = Engine("m", lambda p: np.array(p, dtype=np.float32), BatchLimits())
    engine.run(pairs_of([1]), Work())
    until(lambda: not engine._workers)
    pairs = pairs_of([2])
    engine.run(pairs, Work())
    assert scores_of(pairs) == [2]


@pytest.mark.parametrize("values", [{"tokens": 0}, {"pairs": 0}, {"pending_pairs": -1}, {"tokens": True}])
def test_limits_have_limits(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting, match="whole number of 1 or more"):
        BatchLimits(**values)
