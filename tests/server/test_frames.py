"""Many calls in one message: answers in any order, errors one by one, cancellation, limits, a drain."""

from __future__ import annotations

import asyncio
import itertools
import threading

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vstore
import vstore_server
from vstore.errors import Closed, InvalidSetting
from vstore_server import frames, framestream
from vstore_server.auth import Caller, Token, Tokens, hash_token
from vstore_server.codec import Limits, decode, encode
from vstore_server.errors import DeadlineExceeded, MalformedMessage
from vstore_server.messages import path_of
from vstore_server.methods import Call
from vstore_server.plain import plain_search
from vstore_server.searches import Searches
from vstore_server.server import Server
from vstore_server.service import Service
from vstore_server.settings import ServerSettings

DIM = 8
X = np.random.default_rng(3).standard_normal((600, DIM)).astype(np.float32)


class Gate:
    """A re-ranker that scores when it is let, and tells when it was reached."""

    def __init__(self):
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, query, documents):
        self.reached.set()
        assert self.open.wait(20)
        return [0.0] * len(documents)


@pytest.fixture(scope="module")
def database():
    with vstore.connect("memory://") as made:
        held = made.create_collection("c", dim=DIM, metric="l2", fields={"year": "int"})
        held.upsert(range(500), X[:500], {"year": [i % 7 for i in range(500)]})
        held.flush()
        held.warm(False)
        held.search(X[0], k=500, recall=1.0)
        yield made


def served(database, scenario, gate=None, **options):
    """Run a scenario(url) on a loop of its own beside a server."""
    rerankers = {"slow": gate} if gate is not None else {}
    with vstore_server.BackgroundServer(database, rerankers=rerankers, **options) as running:
        asyncio.run(asyncio.wait_for(scenario(running), 60))


def search(query=X[1], **fields):
    return encode({"method": "Search", "collection": "c", "query": query, "k": 3, **fields})


SLOW = {"rerank": ["slow"], "query_document": "q"}


def stream_to(running, metadata=()):
    channel = grpc.aio.insecure_channel(running.address)
    return channel, channel.stream_stream(path_of(frames.METHOD))(metadata=metadata)


async def answers_of(stream, n):
    found = {}
    while len(found) < n:
        for number, data in zip(*frames.unpack_answers(await stream.read()), strict=True):
            assert number not in found
            found[number] = decode(data, Limits())
    return found


def test_one_message_carries_many_calls_and_each_fails_alone(database):
    requests = [search(q) for q in X[:20]]
    requests += [
        b"\xc1",
        encode({"method": "Upsert", "collection": "c"}),
        search(k=0),
        search(timeout_ms=0),
        encode({"method": "Count", "collection": "d"}),
        encode({"method": "Count", "collection": "c"}),
        encode({"method": "Get", "collection": "c", "ids": ["x" * 70_000]}),
    ]

    async def scenario(running):
        channel, stream = stream_to(running)
        numbers = range(100, 100 + len(requests))
        await stream.write(frames.pack_requests(list(numbers), requests))
        found = await answers_of(stream, len(requests))
        assert [found[100 + i]["ids"][0] for i in range(20)] == list(range(20))
        names = [found[120 + i].get("error", {}).get("vstore-error") for i in range(7)]
        assert names == [
            "MalformedMessage",
            "MalformedMessage",
            "InvalidSetting",
            "MalformedMessage",
            "CollectionNotFound",
            None,
            "LimitExceeded",
        ]
        assert found[125]["count"] == 500
        await channel.close()

    served(database, scenario)


def test_a_handle_that_goes_as_a_lone_search_comes_is_opened_again(database, monkeypatch):
    asked = []

    def gone(searches, search):
        asked.append(search)
        raise Closed("the handle went")

    async def scenario(running):
        channel, stream = stream_to(running)
        # A thread opens the handle, which the next search finds.
        await stream.write(frames.pack_requests([1], [search(X[5])]))
        assert (await answers_of(stream, 1))[1]["ids"][0] == 5
        monkeypatch.setattr(Searches, "now", gone)
        await stream.write(frames.pack_requests([2], [search(X[7])]))
        assert (await answers_of(stream, 1))[2]["ids"][0] == 7
        assert len(asked) == 1
        await channel.close()

    served(database, scenario)


def test_a_long_call_holds_up_no_short_one_and_one_that_is_cancelled_has_no_answer(database):
    gate = Gate()

    async def scenario(running):
        channel, stream = stream_to(running)
        await stream.write(frames.pack_requests([1, 2, 3], [search(**SLOW), search(**SLOW), search()]))
        assert set(await answers_of(stream, 1)) == {3}
        await asyncio.to_thread(gate.reached.wait, 20)
        await stream.write(frames.pack_requests([4], [search()], cancel=[1, 77]))
        assert set(await answers_of(stream, 1)) == {4}
        # Its number is free again.
        await stream.write(frames.pack_requests([1], [search(X[9])]))
        assert (await answers_of(stream, 1))[1]["ids"][0] == 9
        gate.open.set()
        assert set(await answers_of(stream, 1)) == {2}
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK
        await channel.close()

    served(database, scenario, gate)


def test_a_late_call_is_told_so_and_the_stream_goes_on(database):
    gate = Gate()

    async def scenario(running):
        channel, stream = stream_to(running)
        await stream.write(frames.pack_requests([1], [search(timeout_ms=30, **SLOW)]))
        error = (await answers_of(stream, 1))[1]["error"]
        assert (error["status"], error["vstore-error"]) == ("DEADLINE_EXCEEDED", "DeadlineExceeded")
        await stream.write(frames.pack_requests([2], [search()]))
        assert set(await answers_of(stream, 1)) == {2}
        gate.open.set()
        await channel.close()

    served(database, scenario, gate)


@pytest.mark.parametrize(
    "frame",
    [
        b"\xc1",
        encode({"numbers": [1], "requests": []}),
        encode({"numbers": [1, 1], "requests": [b"", b""]}),
        encode({"numbers": ["1"], "requests": [b""]}),
        encode({"numbers": [1], "requests": ["text"]}),
        encode({"numbers": [], "requests": [], "cancel": ["x"]}),
        encode({"numbers": [], "requests": [], "unknown": 1}),
        encode({"numbers": list(range(300)), "requests": [b""] * 300}),
        encode({"numbers": [[[1]]], "requests": [b""]}),
    ],
)
def test_a_frame_that_is_none_ends_the_stream(database, frame):
    async def scenario(running):
        channel, stream = stream_to(running)
        await stream.write(frame)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stream.read()
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await channel.close()

    served(database, scenario)


def test_a_number_is_used_once_at_a_time(database):
    gate = Gate()

    async def scenario(running):
        channel, stream = stream_to(running)
        await stream.write(frames.pack_requests([1], [search(**SLOW)]))
        await asyncio.to_thread(gate.reached.wait, 20)
        await stream.write(frames.pack_requests([1], [search()]))
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stream.read()
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        gate.open.set()
        await channel.close()

    served(database, scenario, gate)


def test_searches_alike_fail_each_alone(database, monkeypatch):
    """Of searches that differ in the vector alone, which are begun together, one may be at fault."""
    begun = []
    begin_alike = framestream._Stream._begin_alike

    def counted(self, kind, alike, caller):
        together = begin_alike(self, kind, alike, caller)
        begun.append((len(alike), together))
        return together

    monkeypatch.setattr(framestream._Stream, "_begin_alike", counted)
    wrong = X[:7].copy()
    wrong[3, 2] = np.nan

    async def scenario(running):
        channel, stream = stream_to(running)
        await stream.write(frames.pack_requests([0], [search()]))
        await answers_of(stream, 1)
        for base, vectors in ((10, X[:7]), (20, wrong)):
            numbers = list(range(base, base + 7))
            await stream.write(frames.pack_requests(numbers, [search(q) for q in vectors]))
            found = await answers_of(stream, 7)
            failed = [i for i in range(7) if "error" in found[base + i]]
            assert failed == ([] if vectors is not wrong else [3])
            assert all(found[base + i]["ids"][0] == i for i in range(7) if i not in failed)
        assert found[23]["error"]["vstore-error"] == "InvalidVector"
        assert begun == [(7, True), (7, False)]
        await channel.close()

    # Handles stay fresh, so that no thread has to look first.
    served(database, scenario, settings=ServerSettings(listen="127.0.0.1:0", refresh_s=60.0))


def test_searches_alike_of_a_collection_out_of_reach_are_refused(database):
    tokens = Tokens([Token("a", hash_token("secret"), "read", ("c",))])

    async def scenario(running):
        channel, stream = stream_to(running, [("authorization", "Bearer secret")])
        await stream.write(frames.pack_requests([1], [search()]))
        await answers_of(stream, 1)
        tokens._tokens = (Token("a", hash_token("secret"), "read", ("other",)),)
        await stream.write(frames.pack_requests([2, 3, 4], [search(), search(X[5]), search(X[6])]))
        found = await answers_of(stream, 3)
        assert {answer["error"]["vstore-error"] for answer in found.values()} == {"PermissionRefused"}
        await channel.close()

    served(database, scenario, tokens=tokens)


def test_credentials_are_looked_at_for_every_frame(database):
    tokens = Tokens([Token("a", hash_token("secret"), "read", ("c",))])

    async def scenario(running):
        channel, stream = stream_to(running, [("authorization", "Bearer secret")])
        other = encode({"method": "Count", "collection": "other"})
        await stream.write(frames.pack_requests([1, 2], [search(), other]))
        found = await answers_of(stream, 2)
        assert found[2]["error"]["vstore-error"] == "PermissionRefused"
        tokens._tokens = (Token("b", hash_token("other"), "read"),)
        await stream.write(frames.pack_requests([3], [search()]))
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stream.read()
        assert failure.value.code() is grpc.StatusCode.UNAUTHENTICATED
        await channel.close()

    served(database, scenario, tokens=tokens)


def on_one_loop(database, gate, scenario):
    """Run a scenario(server, stream) on the server's own loop."""

    async def run():
        server = Server(database, ServerSettings(listen="127.0.0.1:0"), rerankers={"slow": gate})
        channel = grpc.aio.insecure_channel(await server.start())
        await scenario(server, channel.stream_stream(path_of(frames.METHOD))())
        await channel.close()
        await server.stop()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_nothing_is_counted_as_under_way_when_streams_are_gone(database):
    """Whoever counts on it would batch for ever: a client that vanishes leaves no count behind."""
    gate = Gate()

    async def scenario(server, stream):
        await stream.write(frames.pack_requests([1, 2], [search(**SLOW), search()]))
        await asyncio.to_thread(gate.reached.wait, 20)
        assert server._searches.n_under_way >= 1
        stream.cancel()
        gate.open.set()
        while server._searches.n_under_way:
            await asyncio.sleep(0)

    on_one_loop(database, gate, scenario)


def test_a_server_that_stops_answers_what_it_was_asked(database):
    gate = Gate()

    async def scenario(server, stream):
        await stream.write(frames.pack_requests([1], [search(**SLOW)]))
        await asyncio.to_thread(gate.reached.wait, 20)
        ending = asyncio.ensure_future(server.stop())
        while server._serving:
            await asyncio.sleep(0)
        gate.open.set()
        assert set(await answers_of(stream, 1)) == {1}
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stream.read()
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        await ending

    on_one_loop(database, gate, scenario)


def test_the_asynchronous_client_shares_one_stream(database, monkeypatch):
    gate = Gate()

    async def scenario(running):
        remote = await vstore.aio.connect(running.url, n_retries=0)
        wire, held = remote._wire, await remote.collection("c")

        def refused(*arguments, **named):
            raise AssertionError("a call of its own")

        with monkeypatch.context() as patched:
            patched.setattr(wire._channel, "unary_unary", refused)
            found = await asyncio.gather(*(held.search(q, k=1) for q in X[:100]))
            assert [hits.ids for hits in found] == [[i] for i in range(100)]
            with pytest.raises(InvalidSetting):
                await held.search(X[5], k=0)
            given_up = asyncio.ensure_future(held.search(X[0], rerank="slow", query_document="q"))
            await asyncio.to_thread(gate.reached.wait, 20)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            assert await held.count() == 500
            gate.open.set()
            both = await asyncio.gather(
                held.search(X[0], k=2, rerank="slow", query_document="q"), held.search(X[3], k=2)
            )
            assert both[0].receipt.rerank[0].model == "Gate"
            assert both[0].columns()["first_ranks"] == [hit.first_rank for hit in both[0]]
            assert both[1].receipt.rerank == []
        gate.open.clear()
        late = await (await vstore.aio.connect(running.url, n_retries=0, timeout_s=0.05)).collection("c")
        with pytest.raises(DeadlineExceeded):
            await late.search(X[0], rerank="slow", query_document="q")
        gate.open.set()
        await late._wire.close()
        await remote.close()
        with pytest.raises(Closed):
            await held.count()

    served(database, scenario, gate)


def test_a_client_of_a_server_without_frames_makes_calls(database, monkeypatch):
    """By the version that the server says, and by what it does where that says nothing."""

    async def scenario(running):
        for minor in (1, frames.MINOR):
            remote = await vstore.aio.connect(running.url)
            remote._wire.frames.is_known = minor >= frames.MINOR
            assert (await (await remote.collection("c")).search(X[5], k=1)).ids == [5]
            assert bool(remote._wire.frames._rests_until_s) == (minor == frames.MINOR)
            await remote.close()

    monkeypatch.setattr("vstore_server.aio_frames.METHOD", "NoSuchMethod")
    served(database, scenario)


def test_a_client_whose_stream_breaks_asks_again(database):
    """The stream ends under calls that wait: they take the ordinary way."""
    gate = Gate()

    async def scenario(running):
        remote = await vstore.aio.connect(running.url)
        held = await remote.collection("c")
        waiting = asyncio.ensure_future(held.search(X[4], k=1, rerank="slow", query_document="q"))
        await asyncio.to_thread(gate.reached.wait, 20)
        remote._wire.frames._stream.cancel()
        gate.open.set()
        assert (await waiting).ids == [4]
        assert (await held.search(X[6], k=1)).ids == [6]
        await remote.close()

    served(database, scenario, gate)


_VALUES = st.sampled_from(
    [None, "c", "d", 0, 1, 3, -1, True, 0.5, 2.0, "x", b"x", {}, [], {"year": 3}, 10**9, float("nan")]
)
_VECTOR = {"dtype": "float32", "shape": [DIM], "data": X[1].tobytes()}
_QUERIES = st.sampled_from(
    [
        _VECTOR,
        {**_VECTOR, "shape": [DIM, 1]},
        {**_VECTOR, "shape": [DIM - 1]},
        {**_VECTOR, "shape": [True]},
        {**_VECTOR, "dtype": "float64"},
        {**_VECTOR, "data": "text"},
        {**_VECTOR, "more": 1},
        None,
        "text",
    ]
)
_NAMES = st.sampled_from(["k", "recall", "ef", "filter", "at_least", "collection", "nothing", "rerank"])


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(_NAMES, _VALUES, max_size=3), _QUERIES)
def test_a_plain_search_is_read_as_any_other(plain_pair, fields, query):
    """The quick reading gives the request, or the error, of the general one."""
    quick, general = plain_pair
    message = {"collection": "c", "query": query, **fields}
    outcomes = []
    for service in (quick, general):
        try:
            found = service.search_of(dict(message), Call(Caller("t", "read", ("c",))))
        except vstore.errors.VstoreError as error:
            outcomes.append((type(error), str(error)))
        else:
            request = None if found is None else found.request
            outcomes.append(request and (request.query.tolist(), *request[1:]))
    assert outcomes[0] == outcomes[1]


@pytest.fixture(scope="module")
def plain_pair(database):
    quick, general = Service(database), Service(database)
    general.reads_plainly = False
    for service in (quick, general):
        service._handles.get("c")
        service._handles._refresh_s = 1e9
    yield quick, general
    quick.close()
    general.close()


def test_most_searches_are_plain():
    message = {"collection": "c", "query": _VECTOR, "k": 3, "recall": 0.95}
    read = plain_search(message, Limits())
    assert read is not None
    assert read.query.tolist() == X[1].tolist()
    assert plain_search({**message, "k": 10**6}, Limits()) is None


def test_frames_come_back_as_they_went():
    numbers, requests = list(itertools.islice(itertools.count(3), 5)), [b"a", b"", b"\0" * 70_000, b"c", b"d"]
    assert frames.unpack_requests(frames.pack_requests(numbers, requests, [9])) == (numbers, requests, [9])
    assert frames.unpack_answers(frames.pack_answers(numbers, requests)) == (numbers, requests)
    with pytest.raises(MalformedMessage):
        frames.unpack_answers(encode({"numbers": [1]}))


def test_the_bytes_are_those_that_clients_of_other_languages_were_told():
    assert frames.pack_requests([1, 2], [b"a", b"b"], [3]).hex() == (
        "83a76e756d62657273920102a8726571756573747392c40161c40162a663616e63656c9103"
    )
    assert frames.pack_answers([2], [b"x"]).hex() == "82a76e756d626572739102a7616e737765727391c40178"
