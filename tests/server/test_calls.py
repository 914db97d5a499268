"""Reads over streams that stay open, answers from memory together, and work that ends when nobody waits."""

from __future__ import annotations

import asyncio
import socket
import threading

import numpy as np
import pytest

import vstore
import vstore_server
from vstore import F
from vstore.cancel import checking
from vstore.errors import CollectionNotFound, InvalidSetting
from vstore.query import pipeline
from vstore.serving import answer_from_memory, checked_search
from vstore_server.auth import ANYBODY, Token, Tokens, hash_token
from vstore_server.codec import Limits, decode, encode
from vstore_server.errors import Cancelled, DeadlineExceeded, ServerBusy, Unauthenticated
from vstore_server.http2 import MessageStream, StreamEnded
from vstore_server.messages import path_of
from vstore_server.methods import Call
from vstore_server.searches import MOST_TOGETHER, Searches
from vstore_server.service import Service

DIM = 8
X = np.random.default_rng(3).standard_normal((600, DIM)).astype(np.float32)
FIELDS = {"year": "int"}


@pytest.fixture(scope="module")
def database():
    with vstore.connect("memory://") as made:
        held = made.create_collection("c", dim=DIM, metric="l2", fields=FIELDS)
        held.upsert(range(500), X[:500], {"year": [i % 7 for i in range(500)]})
        held.flush()
        held.warm(False)
        held.search(X[0], k=500, recall=1.0)
        yield made


@pytest.fixture(scope="module")
def server(database):
    with vstore_server.BackgroundServer(database) as running:
        yield running


def stream_to(server, method="Calls", metadata=()):
    host, port = server.address.rsplit(":", 1)
    return MessageStream(
        socket.create_connection((host, int(port)), 20),
        scheme="http",
        authority=server.address,
        path=path_of(method),
        metadata=metadata,
        max_message_bytes=1 << 30,
    )


def asked(stream, **message):
    return decode(stream.ask(encode(message), 20), Limits())


def test_one_stream_carries_calls_and_their_errors(server):
    stream = stream_to(server)
    query = X[1]
    hits = asked(stream, method="Search", collection="c", query=query, k=3, timeout_ms=20_000)
    assert hits["ids"][0] == 1
    assert asked(stream, method="Count", collection="c")["count"] == 500
    for message, name in (
        ({"method": "Count", "collection": "d"}, "CollectionNotFound"),
        ({"method": "Search", "collection": "c", "query": query, "k": 0}, "InvalidSetting"),
        ({"method": "Upsert", "collection": "c"}, "MalformedMessage"),
        ({"collection": "c"}, "MalformedMessage"),
        ({"method": "Count", "collection": "c", "timeout_ms": -1}, "MalformedMessage"),
        ({"method": "Count", "collection": "c", "unknown": 1}, "MalformedMessage"),
        ({"method": "Get", "collection": "c", "ids": ["x" * 70_000]}, "LimitExceeded"),
    ):
        error = asked(stream, **message)["error"]
        assert error["vstore-error"] == name
        assert error["status"] in ("NOT_FOUND", "INVALID_ARGUMENT")
        assert error["vstore-request-id"]
    assert decode(stream.ask(b"\xc1", 20), Limits())["error"]["vstore-error"] == "MalformedMessage"
    assert asked(stream, method="Count", collection="c")["count"] == 500
    stream.close()


def test_more_than_a_window_goes_either_way(server):
    """HTTP/2 lets 65,535 bytes go before the other end says that it took some."""
    stream = stream_to(server)
    for _ in range(20):
        found = asked(stream, method="Get", collection="c", ids=list(range(6000)))
        assert len(found["ids"]) == 500
    stream.close()


def test_a_stream_of_another_method_or_none_ends(server):
    with pytest.raises(StreamEnded):
        stream_to(server, "NoSuchMethod").ask(b"\x80", 20)


def test_an_answer_that_comes_in_the_same_bytes_as_the_end_is_an_answer():
    here, there = socket.socketpair()
    stream = MessageStream(
        here, scheme="http", authority="localhost", path="/p", metadata=[], max_message_bytes=1 << 20
    )
    answer = b"\0\0\0\0\2ok"
    data = len(answer).to_bytes(3, "big") + bytes((0, 0)) + (1).to_bytes(4, "big") + answer
    trailers = (0).to_bytes(3, "big") + bytes((1, 0x4 | 0x1)) + (1).to_bytes(4, "big")
    there.sendall(data + trailers)
    assert stream.ask(b"a", 20) == b"ok"
    assert stream.is_last
    with pytest.raises(StreamEnded, match="ended the stream"):
        stream.ask(b"b", 20)
    stream.close()
    there.close()


def test_the_client_sends_reads_over_streams_and_raises_what_a_call_raises(server, monkeypatch):
    remote = vstore_server.connect(server.url).collection("c")

    def refused(*arguments, **named):
        raise AssertionError("a call of its own")

    monkeypatch.setattr(remote._wire._channel, "unary_unary", refused)
    assert remote.search(X[5], k=1).ids == [5]
    assert remote.count(F.year == 3) == sum(i % 7 == 3 for i in range(500))
    with pytest.raises(InvalidSetting):
        remote.search(X[5], k=0)
    remote._wire.close()


def test_a_client_of_a_server_without_streams_makes_calls(database, monkeypatch):
    monkeypatch.setattr("vstore_server.express.METHOD", "NoSuchMethod")
    with vstore_server.BackgroundServer(database) as running, vstore_server.connect(running.url) as client:
        assert client.collection("c").search(X[5], k=1).ids == [5]
        with pytest.raises(CollectionNotFound):
            client.collection("d")


def test_tokens_are_looked_at_for_every_stream(database):
    tokens = Tokens([Token("a", hash_token("secret"), "read")])
    with vstore_server.BackgroundServer(database, tokens=tokens) as running:
        with pytest.raises(StreamEnded):
            stream_to(running, metadata=[("authorization", "Bearer wrong")]).ask(b"\x80", 20)
        with pytest.raises(Unauthenticated):
            vstore_server.connect(running.url, token="wrong", n_retries=0)
        stream = stream_to(running, metadata=[("authorization", "Bearer secret")])
        assert asked(stream, method="Count", collection="c")["count"] == 500
        stream.close()


def test_a_late_call_ends_and_its_stream_goes_on(database):
    gate = threading.Event()

    def slow(query, documents):
        assert gate.wait(20)
        return [0.0] * len(documents)

    with vstore_server.BackgroundServer(database, rerankers={"slow": slow}) as running:
        stream = stream_to(running)
        search = {
            "method": "Search",
            "collection": "c",
            "query": X[0],
            "rerank": ["slow"],
            "query_document": "q",
        }
        error = asked(stream, **search, timeout_ms=50)["error"]
        assert (error["status"], error["vstore-error"]) == ("DEADLINE_EXCEEDED", "DeadlineExceeded")
        assert asked(stream, method="Count", collection="c")["count"] == 500
        held = vstore_server.connect(running.url, timeout_s=0.05, n_retries=0).collection
        with pytest.raises(DeadlineExceeded):
            held("c").search(X[0], rerank="slow", query_document="q")
        gate.set()


def test_answers_together_are_those_of_one_by_one(database):
    """Hits, scores and counters; over shard and memtable, with and without a filter."""
    held = database.create_collection("t", dim=DIM, metric="l2", fields=FIELDS)
    held.upsert(range(500), X[:500], {"year": [i % 7 for i in range(500)]})
    held.flush()
    held.warm(False)
    held.search(X[0], k=500, recall=1.0)
    for rows in (range(0), range(500, 600)):
        if rows:
            held.upsert(rows, X[rows.start : rows.stop], {"year": [3] * len(rows)})
        for filter in (None, {"year": 3}):
            searches = [checked_search(held, q, 5, filter, 0.95, None) for q in X[:9]]
            assert len({search.group for search in searches}) == 1
            for search, hits in zip(searches, answer_from_memory(searches, 1e9), strict=True):
                alone = held.search(search.request.query, 5, filter)
                assert hits is not None
                assert hits.hits == alone.hits
                assert (hits.receipt.n_distances, hits.receipt.plan) == (
                    alone.receipt.n_distances,
                    alone.receipt.plan,
                )
                assert hits.columns()["ids"] == alone.ids
    assert answer_from_memory(searches, 0.0) == [None] * len(searches)


def test_searches_wait_for_their_turn_and_are_answered_together(database):
    held = database.collection("c")

    async def scenario():
        searches = Searches(max_waiting=40)
        searches.n_under_way = 20
        checked = [checked_search(held, q, 2, None, 0.95, None) for q in X[:20]]
        answers = await asyncio.gather(*(searches.answer(str(i % 2), one) for i, one in enumerate(checked)))
        assert [hits.ids[0] for hits in answers] == list(range(20))
        assert searches.n_together == 20 > MOST_TOGETHER
        gone = asyncio.ensure_future(searches.answer("a", checked[0]))
        await asyncio.sleep(0)
        gone.cancel()
        first, second = await asyncio.gather(*(searches.answer("b", one) for one in checked[:2]))
        assert (first.ids[0], second.ids[0]) == (0, 1)
        queue = [asyncio.ensure_future(searches.answer("greedy", checked[0])) for _ in range(25)]
        ended = await asyncio.gather(*queue, return_exceptions=True)
        busy = [error for error in ended if isinstance(error, ServerBusy)]
        assert len(busy) == 5
        assert busy[0].retry_after_s > 0

    asyncio.run(scenario())


def test_a_cancelled_search_ends_between_its_steps(database, monkeypatch):
    """An exact search scores its rows in parts, and looks between them."""
    parts = []
    monkeypatch.setattr(pipeline, "EXACT_ROWS", 50)
    score = pipeline.exact_distances
    call = Call(ANYBODY)

    def counted(*arguments):
        parts.append(1)
        if len(parts) == 3:
            call.cancel()
        return score(*arguments)

    monkeypatch.setattr(pipeline, "exact_distances", counted)
    service = Service(database)
    request = encode({"collection": "c", "query": X[0], "recall": 1.0})
    with pytest.raises(Cancelled):
        service.answer("Search", request, call)
    assert len(parts) == 3
    parts.clear()
    service.answer("Search", request, Call(ANYBODY))
    assert len(parts) == 10
    service.close()


def test_who_waits_for_a_model_can_be_called_off():
    from vstore.rerank.engine import BatchLimits, Engine, Pair
    from vstore.rerank.work import Work

    gate, entered, given_up = threading.Event(), threading.Event(), threading.Event()

    def forward(pairs):
        entered.set()
        assert gate.wait(20)
        return [0.0] * len(pairs)

    engine = Engine("model", forward, BatchLimits())

    def check():
        if given_up.is_set():
            raise Cancelled("the caller gave up")

    outcome = []

    def run():
        with checking(check):
            try:
                engine.run([Pair(1, "d")], Work())
            except Cancelled as error:
                outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert entered.wait(20)
    given_up.set()
    thread.join(20)
    assert outcome
    assert not gate.is_set()
    gate.set()
