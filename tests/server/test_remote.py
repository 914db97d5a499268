"""What only a server has: named re-rankers, streams, idempotency, roles, limits, cancellation, drain."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading

import grpc
import numpy as np
import pytest
from raw_call import raw

import vstore
import vstore_server
from vstore import errors
from vstore_server import collection_calls, health
from vstore_server.codec import Limits, decode, encode
from vstore_server.errors import (
    Cancelled,
    DeadlineExceeded,
    LimitExceeded,
    ServerBusy,
    ServerUnavailable,
)
from vstore_server.lanes import Lane
from vstore_server.service import Call, Service

X = np.random.default_rng(5).standard_normal((100, 4)).astype(np.float32)


@pytest.fixture
def remote(served):
    with vstore_server.connect(served.url) as database:
        yield database


def test_named_rerankers_run_on_the_server(remote, new_name):
    made = remote.create_collection(new_name, dim=4, metric="l2")
    made.upsert(range(100), X, documents=[f"{i:b}" if i % 2 else None for i in range(100)])
    for rerank in ("letters", {"model": "letters", "depth": 12}, ["letters"]):
        hits = made.search(X[0], k=3, rerank=rerank, query_document="1")
        assert hits.receipt.rerank[0].n_failed > 0
        assert len(hits) == 3
    assert remote.welcome.rerankers == ("letters",)
    with pytest.raises(errors.InvalidSetting, match="did you mean 'letters'"):
        made.search(X[0], rerank="leters", query_document="1")
    with pytest.raises(errors.InvalidSetting, match="mixes"):
        made.search(X[0], rerank=["letters", lambda q, d: d], query_document="1")
    with pytest.raises(errors.InvalidInput, match="needs the query"):
        made.search(X[0], rerank="letters")
    with pytest.raises(LimitExceeded, match="1001"):
        made.search(X[0], rerank="letters", rerank_depth=1001, query_document="1")


def test_images_are_never_paths(served, remote, new_name, tmp_path):
    made = remote.create_collection(new_name, dim=4, metric="l2")
    for image in ("/etc/passwd", tmp_path / "x.png", "http://example.org/x.png"):
        with pytest.raises(errors.InvalidDocument, match="encoded bytes"):
            made.upsert([1], X[:1], documents=[{"image": image}])
    message = {"collection": new_name, "ids": [1], "vectors": X[:1], "documents": [{"image": "/etc/passwd"}]}
    assert raw(served, "Upsert", encode(message))[:2] == ("INVALID_ARGUMENT", "InvalidDocument")
    query = {
        "collection": new_name,
        "query": X[0],
        "rerank": ["letters"],
        "query_document": {"image": "/etc"},
    }
    assert raw(served, "Search", encode(query))[:2] == ("INVALID_ARGUMENT", "InvalidDocument")


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_streams_acknowledge_each_batch(faces, kind, new_name):
    made = faces[kind].create_collection(new_name, dim=4, metric="l2", fields={"a": "int"})
    batches = [(range(i, i + 20), X[i : i + 20], {"a": range(20)}) for i in range(0, 100, 20)]
    seen = []
    for n_written in made.upsert_stream(iter(batches)):
        seen.append(n_written)
        assert made.count() >= sum(seen)
    assert seen == [20] * 5
    with pytest.raises(errors.DuplicateId):
        list(made.upsert_stream([(range(100, 120), X[:20]), ([1, 1], X[:2])]))
    assert made.count() == 120
    with pytest.raises(errors.InvalidId, match="ids are int"):
        list(made.upsert_stream([(["x"], X[:1])]))


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_large_upsert_is_sent_in_parts(faces, kind, new_name, monkeypatch):
    monkeypatch.setattr(collection_calls, "PART_BYTES", 500)
    made = faces[kind].create_collection(new_name, dim=4, metric="l2", fields={"t": "list[str]"})
    attributes = [{"t": ["x" * i]} if i else None for i in range(100)]
    assert made.upsert(range(100), X, attributes, [{"image": b"1" * i} for i in range(100)]) == 100
    found = made.get(range(100))
    assert [r.attributes.get("t") for r in found] == [None] + [["x" * i] for i in range(1, 100)]
    assert [len(r.document["image"]) for r in found] == list(range(100))


def test_a_write_under_one_key_runs_once(served, remote, new_name):
    made = remote.create_collection(new_name, dim=4, metric="l2")
    made.upsert(range(10), X[:10])
    message = {"collection": new_name, "ids": [1, 2], "idempotency_key": f"key-{new_name}"}
    first, again = (raw(served, "Delete", encode(message)) for _ in range(2))
    assert first == again
    assert decode(first, Limits())["n_deleted"] == 2
    other = raw(served, "Delete", encode(message | {"ids": [3]}))
    assert other[:2] == ("INVALID_ARGUMENT", "InvalidInput")
    assert made.count() == 8


BAD = [
    (b"", "MalformedMessage"),
    (b"\xc1", "MalformedMessage"),
    (b"\x80\x00", "MalformedMessage"),
    (b"\x91" * 10_000, "LimitExceeded"),
    (b"\xdd\xff\xff\xff\xff", "LimitExceeded"),
    (b"\xdb\x7f\xff\xff\xff", "MalformedMessage"),
    (encode({"collection": "c", "query": X[0], "kk": 3}), "MalformedMessage"),
    (encode({"query": X[0]}), "MalformedMessage"),
    (encode({"collection": 3, "query": X[0]}), "MalformedMessage"),
    (encode({"collection": "c", "query": [1.0, 2.0]}), "MalformedMessage"),
    (encode({"collection": "c", "query": X.astype(np.float64)[0]}), "MalformedMessage"),
    (encode({"collection": "c", "query": X[0], "k": 10**6}), "LimitExceeded"),
    (encode({"collection": "c", "query": X[0], "ef": 10**6}), "LimitExceeded"),
    (encode({"collection": "c", "query": X[0], "k": True}), "MalformedMessage"),
    (encode({"collection": "c", "query": X[0], "filter": "year > 3"}), "MalformedMessage"),
    (encode({"collection": "no-such", "query": X[0]}), "CollectionNotFound"),
]


@pytest.mark.parametrize(("data", "name"), BAD, ids=range(len(BAD)))
def test_malformed_requests_get_a_named_error(served, remote, data, name):
    status, found, details = raw(served, "Search", data)
    assert found == name, details
    assert status == ("NOT_FOUND" if name == "CollectionNotFound" else "INVALID_ARGUMENT")
    assert remote.collections() is not None


@pytest.mark.parametrize("shape", [[3], [2, 2], [-4], [2**60, 2**10], [1, 1, 4], "4", [4.0]])
def test_arrays_must_be_their_bytes(served, new_name, shape):
    query = {"dtype": "float32", "shape": shape, "data": X[0].tobytes()}
    status = raw(served, "Search", encode({"collection": new_name, "query": query}))
    assert status[:2] == ("INVALID_ARGUMENT", "MalformedMessage")


def test_an_unknown_method_and_an_oversized_message(served):
    assert raw(served, "Sarch", b"\x80")[0] == "UNIMPLEMENTED"
    assert raw(served, "Search", b"\x00" * ((64 << 20) + 1))[0] == "RESOURCE_EXHAUSTED"


def test_messages_say_nothing_of_places_or_code(tmp_path):
    place = tmp_path / "secret-place"
    with vstore.connect(str(place)) as database, vstore_server.BackgroundServer(database) as server:
        remote = vstore_server.connect(server.url)
        made = remote.create_collection("c", dim=4, metric="l2")
        made.upsert(range(100), X)
        made.flush()
        for call in (lambda: remote.collection("d"), lambda: remote.create_collection("c", dim=4)):
            with pytest.raises(errors.VstoreError) as caught:
                call()
            assert "secret-place" not in str(caught.value)
        for shard in place.rglob("shards/*"):
            shard.write_bytes(b"\x00" * shard.stat().st_size)
        fresh = vstore.connect(str(place))
        damaged = pytest.raises(errors.FormatError, match=r"request [0-9a-f]{16}")
        with vstore_server.BackgroundServer(fresh) as other, damaged as caught:
            vstore_server.connect(other.url).collection("c").search(X[0])
        assert "shards" not in str(caught.value)
        assert "secret-place" not in str(caught.value)


def test_failures_that_nobody_meant_are_opaque(served, remote, new_name, monkeypatch):
    made = remote.create_collection(new_name, dim=4)
    monkeypatch.setattr(vstore.Collection, "count", lambda *a: {}["secret"])
    with pytest.raises(vstore_server.errors.ServerFailed) as caught:
        made.count()
    assert "secret" not in str(caught.value)


# Bounded work.


def test_a_full_lane_refuses_with_a_hint_and_takes_turns():
    async def scenario():
        lane, gate, order = Lane("search", 1, 4), threading.Event(), []
        first = asyncio.ensure_future(lane.run("a", gate.wait))
        await asyncio.sleep(0.01)
        rest = [asyncio.ensure_future(lane.run("a", lambda i=i: order.append(f"a{i}"))) for i in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ServerBusy) as caught:
            await lane.run("a", gate.wait)
        assert caught.value.retry_after_s > 0
        rest += [asyncio.ensure_future(lane.run("b", lambda i=i: order.append(f"b{i}"))) for i in range(2)]
        await asyncio.sleep(0)
        assert (lane.n_waiting, lane.n_running) == (4, 1)
        with pytest.raises(ServerBusy):
            await lane.run("c", gate.wait)
        rest[1].cancel()
        gate.set()
        await asyncio.gather(first, *rest, return_exceptions=True)
        assert order == ["a0", "b0", "b1"]
        assert (lane.n_waiting, lane.n_running) == (0, 0)
        await lane.close()
        with pytest.raises(ServerUnavailable):
            await lane.run("a", gate.wait)

    asyncio.run(scenario())


@pytest.fixture
def slow_server():
    """A server of one search thread whose re-ranker "slow" waits until it is let go."""
    gate, entered = threading.Event(), threading.Event()

    def slow(query, documents):
        entered.set()
        assert gate.wait(20)
        return [1.0] * len(documents)

    settings = vstore_server.ServerSettings(
        listen="127.0.0.1:0", n_search_threads=1, n_rerank_threads=1, max_waiting=2
    )
    with vstore.connect("memory://") as database:
        database.create_collection("c", dim=4, metric="l2").upsert(range(100), X)
        with vstore_server.BackgroundServer(database, settings, rerankers={"slow": slow}) as server:
            yield server, gate, entered
            gate.set()


def start(call):
    outcome = []

    def run():
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def test_a_busy_server_says_when_to_come_back(slow_server):
    server, gate, entered = slow_server
    held = vstore_server.connect(server.url, n_retries=0).collection("c")
    asked = {"query": X[0], "rerank": ["slow"], "query_document": "q"}

    def search(held=held):
        return held.search(X[0], rerank="slow", query_document="q")

    running = start(search)
    assert entered.wait(20), running[1]
    waiting = start(search)
    while not isinstance(refused := start_and_join(search), ServerBusy):
        assert refused is None
    assert refused.retry_after_s > 0
    status = raw(server, "Search", encode({"collection": "c", **asked}))
    assert status[:2] == ("RESOURCE_EXHAUSTED", "ServerBusy")
    assert held.count() == 100, "reads that wait for no model go on"
    patient = start(lambda: search(vstore_server.connect(server.url, n_retries=9).collection("c")))
    gate.set()
    for thread, _ in (running, waiting, patient):
        thread.join()
    # One of the probes may have been in the queue before `waiting`, which was refused then.
    assert isinstance(waiting[1][0], (ServerBusy, vstore.Hits))
    for _, outcome in (running, patient):
        assert not isinstance(outcome[0], BaseException), outcome


def start_and_join(call):
    thread, outcome = start(call)
    thread.join(0.3)
    return outcome[0] if outcome else None


def test_deadlines_and_cancellation_reach_the_queue_and_the_reranker(slow_server):
    server, gate, entered = slow_server
    held = vstore_server.connect(server.url, timeout_s=0.3, n_retries=0).collection("c")
    with pytest.raises(DeadlineExceeded):
        held.search(X[0], rerank="slow", query_document="q")
    assert entered.is_set()

    # The thread is still taken: what waits and is given up never runs.
    entered.clear()
    with pytest.raises(DeadlineExceeded):
        held.search(X[0], rerank="slow", query_document="q")
    gate.set()
    patient = vstore_server.connect(server.url).collection("c")
    assert patient.count() == 100
    assert not entered.is_set()


def test_a_cancelled_task_cancels_its_request(slow_server):
    server, gate, entered = slow_server

    async def scenario():
        async with await vstore_server.aio.connect(server.url) as database:
            held = await database.collection("c")
            task = asyncio.create_task(held.search(X[0], rerank="slow", query_document="q"))
            await asyncio.to_thread(entered.wait, 20)
            second = asyncio.create_task(held.search(X[0], rerank="slow", query_document="q"))
            await asyncio.sleep(0.1)
            entered.clear()
            for cancelled in (task, second):
                cancelled.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await cancelled
            await asyncio.sleep(0.1)
            gate.set()
            assert await held.count() == 100
            assert not entered.is_set()

    asyncio.run(scenario())


def test_a_cancelled_batch_stops_between_slices(embedded, new_name, monkeypatch):
    made = embedded.create_collection(new_name, dim=4, metric="l2")
    made.upsert(range(100), X)
    service, call = Service(embedded), Call(vstore_server.auth.ANYBODY)
    n_slices = []
    whole = vstore.Collection.search_batch

    def counted(self, *args, **kwargs):
        n_slices.append(1)
        call.cancel()
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(vstore.Collection, "search_batch", counted)
    with pytest.raises(Cancelled):
        service.answer("SearchBatch", encode({"collection": new_name, "queries": np.tile(X, (3, 1))}), call)
    assert len(n_slices) == 1


@pytest.mark.parametrize("limit", ["k", "batch_queries", "upsert_rows", "ids", "message_bytes"])
def test_limits_are_announced_and_kept(embedded, new_name, limit):
    embedded.create_collection(new_name, dim=4, metric="l2").upsert(range(100), X)
    limits = Limits(**{limit: 8192 if limit == "message_bytes" else 5})
    service, call = Service(embedded, limits), Call(vstore_server.auth.ANYBODY)
    over = {
        "k": ("Search", {"query": X[0], "k": 6}),
        "batch_queries": ("SearchBatch", {"queries": X[:6]}),
        "upsert_rows": ("Upsert", {"ids": list(range(6)), "vectors": X[:6]}),
        "ids": ("Get", {"ids": list(range(6))}),
        "message_bytes": ("SearchBatch", {"queries": X[:50], "k": 10}),
    }
    method, message = over[limit]
    with pytest.raises(LimitExceeded):
        service.answer(method, encode({"collection": new_name, **message}), call)
    welcome = decode(service.answer("Connect", encode({}), call), Limits())
    assert welcome["limits"][limit] == getattr(limits, limit)


# Life and death.


def test_another_process_is_seen(tmp_path):
    place = str(tmp_path / "store")
    with vstore.connect(place) as writer, vstore.connect(place, read_only=True) as reader:
        made = writer.create_collection("c", dim=4, metric="l2")
        made.upsert(range(10), X[:10])
        settings = vstore_server.ServerSettings(listen="127.0.0.1:0", refresh_s=0)
        with vstore_server.BackgroundServer(reader, settings) as server:
            held = vstore_server.connect(server.url).collection("c")
            assert held.count() == 10
            made.upsert(range(10, 20), X[10:20])
            assert held.count() == 20
            with pytest.raises(errors.ReadOnly) as caught:
                held.upsert([1], X[:1])
            assert str(tmp_path) not in str(caught.value)
            writer.drop_collection("c")
            with pytest.raises(errors.CollectionNotFound):
                held.count()


def test_health(served):
    with grpc.insecure_channel(served.address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        for service in ("", "vstore.v1.Store"):
            assert health.decode_response(check(health.encode_request(service))) == health.SERVING
        for bad, status in (
            (b"\x0a\x01x", "NOT_FOUND"),
            (b"\x0a\xff", "INVALID_ARGUMENT"),
            (b"\x10\x01",) * 2,
        ):
            with pytest.raises(grpc.RpcError) as caught:
                check(bad)
            assert caught.value.code().name == (status if isinstance(status, str) else "INVALID_ARGUMENT")


def test_a_drain_lets_requests_end_and_tells_watchers(slow_server):
    server, gate, entered = slow_server
    held = vstore_server.connect(server.url, n_retries=0).collection("c")
    running = start(lambda: held.search(X[0], rerank="slow", query_document="q"))
    assert entered.wait(20)
    with grpc.insecure_channel(server.address) as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert health.decode_response(next(watch)) == health.SERVING
        stopping = start(lambda: server.stop(20))
        assert health.decode_response(next(watch)) == health.NOT_SERVING
        assert list(watch) == []
        assert not stopping[0].join(0.2)
        with pytest.raises(ServerUnavailable):
            held.count()
        assert running[1] == []
        gate.set()
        for thread, _ in (running, stopping):
            thread.join(20)
            assert not thread.is_alive()
    assert len(running[1][0]) == 10


def test_the_command_serves_until_sigterm(tmp_path):
    command = [sys.executable, "-m", "vstore.cli", "serve"]
    command += [str(tmp_path / "data"), "--listen", "127.0.0.1:0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().split()[-1]
        assert "vstore.connect" in server.stdout.readline()
        with vstore_server.connect(f"vstore://{address}") as remote:
            made = remote.create_collection("c", dim=4, metric="l2")
            assert made.upsert(range(100), X) == 100
        server.send_signal(signal.SIGTERM)
        assert server.wait(300) == 0
    finally:
        server.kill()
        server.stdout.close()
    with vstore.connect(str(tmp_path / "data")) as database:
        assert database.collection("c").count() == 100


def test_the_command_refuses_and_explains(tmp_path):
    def run(*arguments, **environment):
        command = [sys.executable, "-m", "vstore_server", *arguments]
        ended = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | environment, check=False, timeout=300
        )
        return ended.returncode, ended.stdout, ended.stderr

    status, _, text = run("memory://", "--listen", "0.0.0.0:0")
    assert (status, "no TLS" in text) == (1, True)
    status, _, text = run("memory://", VSTORE_SERVER_LISTEN="nowhere")
    assert (status, "host:port" in text) == (1, True)
    config = tmp_path / "server.toml"
    config.write_text("listn = 'x'")
    status, _, text = run("--config", str(config))
    assert (status, "did you mean 'listen'" in text) == (1, True)
    status, entry, text = run("token", "--name", "n", "--role", "read", "--collection", "a*")
    assert status == 0
    (tmp_path / "tokens.toml").write_text(entry)
    token = text.split()[-1]
    assert vstore_server.load_tokens(tmp_path / "tokens.toml").identify(f"Bearer {token}").role == "read"
