"""A search ends at its limits: by a named error, or by an answer that says it is partial. Never silently."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from face_rows import DIM, queries, rows

import vstore
from vstore import Cancellation, F, QueryLimits
from vstore.errors import InvalidSetting, QueryCancelled, QueryLimitExceeded, QueryStopped, QueryTimeout
from vstore.storage.memory import MemoryStore
from vstore.storage.wrappers import RetryStore
from vstore.storage.wrappers.counting import CountingStore
from vstore.storage.wrappers.faults import Fault, FaultStore
from vstore.storage.wrappers.forward import ForwardingStore

N = 3_000


@pytest.fixture(scope="module")
def store():
    """Two shards and one row in the log."""
    made = MemoryStore()
    with vstore.connect(made, settings=vstore.Settings(n_threads=2)) as database:
        index = vstore.IndexSettings(block_rows=128, cluster_rows=64, ef_construction=60)
        collection = database.create_collection(
            "c", dim=DIM, metric="l2", fields={"bucket": "int"}, index=index
        )
        for part in (slice(0, N // 2), slice(N // 2, N)):
            keys = np.arange(N)[part]
            collection.upsert(keys, rows(N)[part], {"bucket": keys % 100})
            collection.flush()
        collection.upsert([N], queries(1), {"bucket": [1]})
    return made


class Gate(ForwardingStore):
    """Reads wait until they are let through."""

    def __init__(self, inner):
        super().__init__(inner)
        self.waiting, self.open = threading.Event(), threading.Event()
        self.closed = False

    def collection(self, **settings):
        """Open the collection, then close the gate."""
        made = vstore.connect(self, settings=vstore.Settings(**settings)).collection("c")
        self.closed = True
        return made

    def get_many(self, ranges):
        if self.closed:
            self.waiting.set()
            assert self.open.wait(30)
        return self.inner.get_many(ranges)


@pytest.fixture
def gate(store):
    made = Gate(store)
    yield made
    made.open.set()


def test_a_store_that_does_not_answer_ends_in_a_timeout(gate):
    collection = gate.collection()
    with pytest.raises(QueryTimeout, match="deadline_ms=20"):
        collection.search(queries(1)[0], limits=QueryLimits(deadline_ms=20))
    gate.open.set()
    assert len(collection.search(queries(1)[0], limits=QueryLimits(deadline_ms=60_000))) == 10


def test_settings_hold_the_limits_of_searches_that_bring_none(gate):
    collection = gate.collection(limits=QueryLimits(deadline_ms=20))
    with pytest.raises(QueryTimeout):
        collection.search(queries(1)[0])


def test_a_partial_answer_says_so(gate):
    """Neither shard answers, the memtable does."""
    collection = gate.collection()
    answer = collection.search(queries(1)[0], limits=QueryLimits(deadline_ms=20, partial=True))
    assert answer.ids == [N]
    assert answer.receipt.partial
    assert "deadline_ms=20" in answer.receipt.stopped
    assert answer.receipt.plan == "none on 2 parts + exact"


def test_a_cancelled_search_ends_while_it_waits(gate):
    cancel, ended = Cancellation(), []
    collection = gate.collection()

    def search():
        try:
            collection.search(queries(1)[0], limits=QueryLimits(cancel=cancel))
        except QueryStopped as error:
            ended.append(error)

    thread = threading.Thread(target=search)
    thread.start()
    assert gate.waiting.wait(30)
    cancel.cancel()
    cancel.cancel()
    thread.join(30)
    assert [type(error) for error in ended] == [QueryCancelled]
    with pytest.raises(QueryCancelled):
        collection.search(queries(1)[0], limits=QueryLimits(cancel=cancel))


@pytest.mark.parametrize("name", ["max_requests", "max_bytes"])
def test_a_round_beyond_the_limit_is_not_sent(store, name):
    query = queries(1)[0]
    free = vstore.connect(store).collection("c").search(query).receipt
    spent = {"max_requests": free.n_requests, "max_bytes": free.bytes_fetched}[name]
    enough = vstore.connect(store).collection("c").search(query, limits=QueryLimits(**{name: spent}))
    assert not enough.receipt.partial
    counted = CountingStore(store)
    collection = vstore.connect(counted).collection("c")
    before = counted.snapshot()
    with pytest.raises(QueryLimitExceeded, match=f"{name}={spent - 1}"):
        collection.search(query, limits=QueryLimits(**{name: spent - 1}))
    seen = counted.delta(before)
    assert {"max_requests": seen.n_requests, "max_bytes": seen.bytes_fetched}[name] < spent


def test_everything_resident_needs_no_limit(store):
    collection = vstore.connect(store).collection("c")
    query = queries(1)[0]
    collection.search(query, filter=F.bucket < 50)
    again = collection.search(query, filter=F.bucket < 50, limits=QueryLimits(max_requests=1))
    assert again.receipt.n_requests == 0


@pytest.mark.parametrize("value", [0, -1, True, "soon"])
@pytest.mark.parametrize("name", ["deadline_ms", "max_requests", "max_bytes"])
def test_a_limit_is_a_number_above_0(name, value):
    with pytest.raises(InvalidSetting, match=name):
        QueryLimits(**{name: value})


def test_retries_are_counted_and_paid(store):
    """Every second read of shards fails once."""
    n_calls = [0]

    def decide(method, key):
        if method != "get_many":
            return None
        n_calls[0] += 1
        return Fault.ERROR if n_calls[0] % 2 else None

    counted = CountingStore(FaultStore(store, decide))
    retried = RetryStore(counted, sleep=lambda seconds: None)
    collection = vstore.connect(retried).collection("c")
    before = counted.snapshot()
    receipt = collection.search(queries(1)[0]).receipt
    seen = counted.delta(before)
    assert receipt.n_retries > 0
    # Requests that failed were sent, and are paid for.
    assert receipt.n_requests == seen.n_requests
    assert receipt.estimated_cost_usd == pytest.approx(seen.n_gets * 0.0004 / 1000)
    plain = vstore.connect(store).collection("c").search(queries(1)[0]).receipt
    assert receipt.n_requests == plain.n_requests + receipt.n_retries
    assert receipt.bytes_fetched == plain.bytes_fetched


@pytest.mark.parametrize("plan", ["walk", "clusters"])
@pytest.mark.parametrize("state", ["cold", "warm"])
def test_the_receipt_is_what_the_store_saw_over_several_shards(store, plan, state):
    counted = CountingStore(store)
    settings = vstore.Settings(cold_plan=plan, n_threads=1)
    collection = vstore.connect(counted, settings=settings).collection("c")
    if state == "warm":
        collection.warm()
    for query in queries(4):
        before = counted.snapshot()
        receipt = collection.search(query, filter=F.bucket < 30).receipt
        seen = counted.delta(before)
        assert receipt.n_round_trips == seen.n_round_trips
        assert receipt.n_requests == seen.n_requests
        assert receipt.bytes_fetched == seen.bytes_fetched
        assert receipt.n_cache_hits > 0
        if state == "warm":
            assert receipt.n_round_trips <= 1
