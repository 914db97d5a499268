"""A server that stops ends what is open at once: clients learn that it goes, and none is waited for."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

import vstore
import vstore_server
from vstore_server.errors import ServerUnavailable, error_from, retry_delay_s

X = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
LONG_S = 3000.0
"""A server that waited so long would fail the joins."""


@pytest.fixture
def database():
    with vstore.connect("memory://") as made:
        held = made.create_collection("c", dim=8, metric="l2")
        held.upsert(range(200), X)
        held.flush()
        held.warm(False)
        held.search(X[0], k=200, recall=1.0)
        yield made


def stopped(server):
    thread = threading.Thread(target=server.stop, args=(LONG_S,))
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


def test_an_upload_whose_client_sends_nothing_more_is_ended(database):
    gate = threading.Event()

    def batches():
        yield range(10), X[:10]
        gate.wait(60)
        yield range(10, 20), X[10:20]

    with vstore_server.BackgroundServer(database) as server, vstore.connect(server.url) as remote:
        made = remote.create_collection("up", dim=8, metric="l2")
        acknowledged = made.upsert_stream(batches())
        assert next(acknowledged) == 10
        stopped(server)
        gate.set()
        with pytest.raises(ServerUnavailable, match="shutting down"):
            next(acknowledged)
    assert database.collection("up").count() == 10


@pytest.mark.parametrize("own_calls", [False, True])
def test_clients_that_never_stop_asking_are_told_and_do_not_hold_it_up(database, monkeypatch, own_calls):
    """Over streams of calls, and by a call each: every search is answered, or fails as UNAVAILABLE."""
    if own_calls:
        monkeypatch.setattr(vstore_server.calls, "QUICK_METHODS", frozenset())
    ended, begun = [], threading.Semaphore(0)

    def ask(server, number):
        with vstore_server.connect(server.url, n_retries=0) as remote:
            held = remote.collection("c")
            try:
                while True:
                    assert held.search(X[number], k=1).ids == [number]
                    begun.release()
            except Exception as error:
                ended.append(error)

    async def ask_many(server):
        remote = await vstore.aio.connect(server.url, n_retries=0)
        held = await remote.collection("c")

        async def one(number):
            try:
                while True:
                    assert (await held.search(X[number], k=1)).ids == [number]
                    begun.release()
            except Exception as error:
                ended.append(error)

        await asyncio.gather(*map(one, range(100, 104)))
        await remote.close()

    with vstore_server.BackgroundServer(database) as server:
        clients = [threading.Thread(target=ask, args=(server, number)) for number in range(4)]
        clients.append(threading.Thread(target=lambda: asyncio.run(ask_many(server))))
        for client in clients:
            client.start()
        for _ in range(80):
            assert begun.acquire(timeout=60)
        stopped(server)
        for client in clients:
            client.join(60)
            assert not client.is_alive()
    assert len(ended) == 8
    assert {type(error) for error in ended} == {ServerUnavailable}


def test_a_call_that_the_server_reset_is_asked_again_where_that_does_no_harm():
    reset = error_from("CANCELLED", "CANCELLED", {})
    assert isinstance(reset, ServerUnavailable)
    assert retry_delay_s(reset, 0, True, 3) is not None
    assert retry_delay_s(reset, 0, False, 3) is None
    own = error_from("CANCELLED", "Channel closed!", {})
    assert not isinstance(own, ServerUnavailable)
