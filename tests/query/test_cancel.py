"""Who gives up ends the work: counted in calls of kernels that begin afterwards, never in time."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

import vstore
import vstore_server
from vstore import Cancellation, QueryLimits
from vstore.cancel import checking
from vstore.errors import QueryCancelled, QueryTimeout
from vstore.query import answers, batch, memtable
from vstore_server.settings import ServerSettings

DIM = 8
X = np.random.default_rng(5).standard_normal((900, DIM)).astype(np.float32)


@pytest.fixture
def database():
    with vstore.connect("memory://", settings=vstore.Settings(n_threads=1)) as made:
        held = made.create_collection("c", dim=DIM, metric="l2")
        for start in (0, 300, 600):
            held.upsert(range(start, start + 300), X[start : start + 300])
            held.flush()
        held.warm(False)
        held.search(X[0], k=900, recall=1.0)
        yield made


class Counted:
    """Stands before a function, counts its calls, and has something done at one of them."""

    def __init__(self, function, at=0, then=lambda: None):
        self.function, self.at, self.then, self.sizes = function, at, then, []

    def __call__(self, *arguments, **named):
        self.sizes.append(len(arguments[2]))
        if len(self.sizes) == self.at:
            self.then()
        return self.function(*arguments, **named)


def test_a_search_ends_between_shards(database, monkeypatch):
    cancel = Cancellation()
    find = Counted(answers.find_one, 1, cancel.cancel)
    monkeypatch.setattr(answers, "find_one", find)
    held = database.collection("c")
    n_shards = len(held.search(X[0]).receipt.plans)
    assert (n_shards, len(find.sizes)) == (3, 3)
    find.sizes.clear()
    with pytest.raises(QueryCancelled):
        held.search(X[0], limits=QueryLimits(cancel=cancel))
    assert len(find.sizes) == 0
    find.sizes.clear()
    again = Cancellation()
    find.then = again.cancel
    with pytest.raises(QueryCancelled):
        held.search(X[0], limits=QueryLimits(cancel=again))
    assert len(find.sizes) == 1
    with pytest.raises(QueryTimeout):
        held.search(X[0], limits=QueryLimits(deadline_ms=1e-6))
    assert len(find.sizes) == 1


def test_a_search_ends_within_the_memtable(database, monkeypatch):
    """Parts give what the whole gives, and none begins after the cancellation."""
    held = database.create_collection("m", dim=DIM, metric="l2")
    held.upsert(range(600), X[:600])
    whole = held.search(X[1], 20, recall=1.0)
    cancel = Cancellation()
    monkeypatch.setattr(memtable, "EXACT_BYTES", 4 * DIM * 50)
    scored = Counted(memtable.exact_distances, 3, cancel.cancel)
    monkeypatch.setattr(memtable, "exact_distances", scored)
    with pytest.raises(QueryCancelled):
        held.search(X[1], 20, recall=1.0, limits=QueryLimits(cancel=cancel))
    assert scored.sizes == [50] * 3
    scored.sizes.clear()
    assert held.search(X[1], 20, recall=1.0).hits == whole.hits
    assert scored.sizes == [50] * 12


def test_a_batch_is_cut_by_its_estimate_where_it_may_be_called_off(database, monkeypatch):
    """The answers are those of the whole."""
    held = database.collection("c")
    find = Counted(batch.find)
    monkeypatch.setattr(batch, "find", find)
    whole = held.search_batch(X[:40], 5)
    assert find.sizes == [16, 16, 8] * 3
    for query_us, size in ((1.0, 16), (1e3, 10), (2.5e3, 4), (9e3, 4), (1.5e4, 2), (1e6, 1)):
        find.sizes.clear()
        monkeypatch.setattr(batch, "plan_us", lambda *_, us=query_us: us)
        with checking(lambda: None):
            cut = held.search_batch(X[:40], 5)
        assert max(find.sizes) == size
        assert sum(find.sizes) == 120
        assert np.array_equal(cut.ids, whole.ids)
        assert np.array_equal(cut.scores, whole.scores)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_batch_ends_between_its_kernel_calls(database, monkeypatch, n_threads):
    monkeypatch.setattr(batch, "plan_us", lambda *_: 1e6)
    given_up = threading.Event()
    find = Counted(batch.find, 5, given_up.set)
    monkeypatch.setattr(batch, "find", find)
    held = database.collection("c")

    def check():
        if given_up.is_set():
            raise QueryCancelled("given up")

    view, engine, resident = held._view(), held._engine, held._resident
    request = held._request(view, X[0], 5, None, 0.95, None)
    with checking(check), pytest.raises(QueryCancelled):
        batch.search_batch(view, request, X[:40], engine, resident, n_threads)
    # Each thread may be within one call, of one query.
    assert 5 <= len(find.sizes) < 5 + n_threads
    assert set(find.sizes) == {1}


def test_a_batch_over_the_server_ends_when_its_caller_goes(database, monkeypatch):
    """No kernel call begins once the server knows that nobody waits."""
    monkeypatch.setattr(batch, "plan_us", lambda *_: 1e6)
    entered, known = threading.Event(), threading.Event()

    def wait():
        entered.set()
        assert known.wait(60)

    find = Counted(batch.find, 5, wait)
    monkeypatch.setattr(batch, "find", find)
    cancel = vstore_server.methods.Call.cancel
    monkeypatch.setattr(vstore_server.methods.Call, "cancel", lambda call: (cancel(call), known.set())[0])

    async def scenario(url):
        remote = await vstore.aio.connect(url)
        held = await remote.collection("c")
        asked = asyncio.ensure_future(held.search_batch(X[:40], 5))
        assert await asyncio.to_thread(entered.wait, 60)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        # There is one thread: answers when it left the batch.
        assert (await held.get([1]))[0].id == 1
        await remote.close()

    with vstore_server.BackgroundServer(
        database, ServerSettings("127.0.0.1:0", n_search_threads=1)
    ) as server:
        asyncio.run(scenario(server.url))
    assert find.sizes == [1] * 5
