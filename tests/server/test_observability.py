"""What a server tells of itself: metrics, pages, log lines, slow requests, spans and the dashboard."""

from __future__ import annotations

import io
import json
import logging
import math
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
from raw_call import raw

import vstore
import vstore_server
from vstore import F, errors
from vstore.storage.memory import MemoryStore
from vstore.storage.wrappers.counting import CountingStore
from vstore_server.codec import encode
from vstore_server.logs import JsonLines
from vstore_server.metrics import MAX_CHILDREN, Family, Registry
from vstore_server.observe import Observer, plan_of

ROOT = Path(__file__).resolve().parents[2]
X = np.random.default_rng(5).standard_normal((300, 4)).astype(np.float32)
SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\]|\\.)*",?)*)\})? (\S+)')


def parsed(text):
    """Samples by name and sorted labels, and the kind of each metric; raises for a line that is neither."""
    samples, kinds = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            kinds[line.split()[2]] = line.split()[3]
        elif not line.startswith("# HELP "):
            name, labels, value = SAMPLE.fullmatch(line).groups()
            pairs = re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', labels or "")
            assert (name, tuple(sorted(pairs))) not in samples
            samples[name, tuple(sorted(pairs))] = float(value)
    return samples, kinds


def letters(query, documents):
    return [float(len(document.text or "")) for document in documents]


@pytest.fixture
def logged():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    log = logging.getLogger("vstore_server")
    log.addHandler(handler)
    old = log.level
    log.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    log.removeHandler(handler)
    log.setLevel(old)


@pytest.fixture
def observed():
    """A server with one collection in a counted store, metrics on, and every request slow."""
    settings = vstore_server.ServerSettings(
        listen="127.0.0.1:0", metrics="127.0.0.1:0", slow_ms=0, refresh_s=3600
    )
    with vstore.connect(CountingStore(MemoryStore())) as database:
        made = database.create_collection("c", dim=4, metric="l2", fields={"a": "int"})
        made.upsert(range(300), X, {"a": range(300)}, [str(i) for i in range(300)])
        made.flush()
        with vstore_server.BackgroundServer(database, settings, rerankers={"letters": letters}) as server:
            yield server


def get(server, path, method="GET"):
    request = urllib.request.Request(f"http://{server.metrics_address}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def value(samples, name, **labels):
    return samples.get((name, tuple(sorted(labels.items()))), 0.0)


def test_metrics_count_what_was_done(observed):
    with vstore.connect(observed.url) as remote:
        held = remote.collection("c")
        for _ in range(3):
            hits = held.search(X[0], k=5, filter=F.a < 200)
        held.search_batch(X[:7], k=2)
        held.search(X[0], rerank="letters", rerank_depth=20, query_document="q")
        held.upsert([1000], X[:1])
        held.delete([1000])
        assert raw(observed, "Search", encode({"collection": "c"}))[0] == "INVALID_ARGUMENT"
        samples, kinds = parsed(get(observed, "/metrics")[2])
    assert value(samples, "vstore_requests_total", method="Search", status="OK") == 4
    assert value(samples, "vstore_requests_total", method="Search", status="INVALID_ARGUMENT") == 1
    assert value(samples, "vstore_request_seconds_count", method="Search") == 5
    assert sum(n for (name, _), n in samples.items() if name == "vstore_searches_total") == 11
    plan = plan_of(hits.receipt.as_dict())
    assert plan in ("scan", "hnsw", "result_filter", "cluster_acorn", "clusters", "codes")
    assert value(samples, "vstore_searches_total", plan=plan) >= 3
    for stage in hits.receipt.timings_ms:
        labels = {"stage": stage, "plan": plan}
        assert value(samples, "vstore_search_stage_seconds_count", **labels) >= 3
    assert value(samples, "vstore_search_work_total", counter="n_distances") >= 3 * hits.receipt.n_distances
    assert value(samples, "vstore_search_blocks_total", tier="memory") > 0
    assert value(samples, "vstore_rerank_work_total", model="letters", counter="n_scored") == 20
    assert value(samples, "vstore_rerank_seconds_count", model="letters") == 1
    assert value(samples, "vstore_rows_written_total", method="upsert") == 1
    assert value(samples, "vstore_rows_written_total", method="delete") == 1
    assert value(samples, "vstore_store_requests_total", kind="put") > 0
    assert value(samples, "vstore_store_bytes_total", direction="written") > X.nbytes
    assert value(samples, "vstore_cache_bytes") > 0
    assert value(samples, "vstore_queue_waiting", lane="search") == 0
    assert value(samples, "process_resident_memory_bytes") > 1e6
    assert set(kinds.values()) == {"counter", "gauge", "histogram"}


def test_receipts_in_two_parts_count_as_whole_ones():
    timings_ms = {"filter": 0.25, "traverse": 3.0}
    plans = [{"traversal": "hnsw"}]
    shared = dict.fromkeys(
        ("n_disk_hits", "n_cache_misses", "n_round_trips", "n_requests", "bytes_fetched"), 2
    )
    shared |= {"plans": plans, "rerank": [], "estimated_cost_usd": 0.5}
    names = ("n_distances", "n_hops", "n_filter_checks", "n_rescored", "n_skipped", "n_cache_hits")
    owns = [dict.fromkeys(names, i) | {"timings_ms": timings_ms} for i in range(70)]
    parts, whole = Observer(1e9), Observer(1e9)
    for own in owns:
        parts.answered(shared, own)
    whole.searched([shared | own for own in owns])
    text = parts.registry.text()
    assert "vstore_search" in text
    for line, other in zip(text.splitlines(), whole.registry.text().splitlines(), strict=True):
        assert line == other or line.startswith("process_")


def test_histograms_are_cumulative_and_label_values_are_bounded():
    registry = Registry()
    histogram = registry.histogram("h_seconds", 'quoted "help"\n', "who")
    counter = registry.counter("c_total", "c", "who")
    for seconds in (0.0001, 0.003, 0.003, 99.0):
        histogram.observe(seconds, 'a "b"\\\n')
    for number in range(MAX_CHILDREN + 50):
        counter.add(2, str(number))
    registry.ask(Family("g", "g", "gauge"), lambda: [((), math.inf)])
    samples, _ = parsed(registry.text())
    buckets = [n for (name, _), n in samples.items() if name == "h_seconds_bucket"]
    assert buckets == sorted(buckets)
    assert buckets[0] == 1
    assert buckets[-1] == 4
    assert value(samples, "c_total", who="other") == 100
    assert sum(n for (name, _), n in samples.items() if name == "c_total") == 2 * (MAX_CHILDREN + 50)
    assert value(samples, "g") == math.inf


def test_the_plan_of_a_metric_has_no_numbers_in_it():
    """Labels are few: the reasons that a receipt gives, with their numbers, are none of them."""
    assert plan_of({"plans": []}) == "memtable"
    assert (
        plan_of({"plans": [{"traversal": "scan"}, {"traversal": "hnsw"}, {"traversal": "scan"}]})
        == "hnsw+scan"
    )


def test_pages_for_orchestrators(observed):
    assert get(observed, "/livez")[::2] == (200, "alive\n")
    assert get(observed, "/readyz?x=1")[::2] == (200, "ready\n")
    assert get(observed, "/etc/passwd")[0] == 404
    assert get(observed, "/metrics", method="POST")[0] == 405
    status, kind, body = get(observed, "/metrics", method="HEAD")
    assert (status, body) == (200, "")
    assert "version=0.0.4" in kind
    host, port = observed.metrics_address.split(":")
    for nonsense in (b"\x00" * 20_000, b"GET\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(nonsense)
            connection.shutdown(socket.SHUT_WR)
            assert b"200" not in connection.recv(100)
    assert get(observed, "/livez")[0] == 200


def test_the_metrics_port_is_not_public_by_accident():
    with pytest.raises(errors.InvalidSetting, match="neither TLS nor tokens"):
        vstore_server.ServerSettings(metrics="0.0.0.0:9464")
    with pytest.raises(errors.InvalidSetting, match="host:port"):
        vstore_server.ServerSettings(metrics="9464")
    vstore_server.ServerSettings(metrics="0.0.0.0:9464", metrics_public=True)


def test_slow_requests_are_logged_with_their_receipt(observed, logged):
    with grpc.insecure_channel(observed.address) as channel:
        call = channel.unary_unary("/vstore.v1.Store/Search")
        call(encode({"collection": "c", "query": X[0], "k": 3}), metadata=(("x-request-id", "mine-7"),))
    (line,) = [line for line in logged() if line["event"] == "slow"]
    wanted = {"method": "Search", "request": "mine-7", "collection": "c", "status": "OK", "level": "warning"}
    assert {name: line[name] for name in wanted} == wanted
    assert line["receipt"]["n_matching"] == 300
    assert line["ms"] > 0
    assert line["time"].endswith("+00:00")


def test_failures_have_an_id_that_the_log_knows(observed, logged, monkeypatch):
    monkeypatch.setattr(vstore.Collection, "count", lambda *a: {}["secret"])
    with vstore.connect(observed.url) as remote, pytest.raises(vstore_server.errors.ServerFailed) as caught:
        remote.collection("c").count()
    request_id = re.search(r"request ([0-9a-f]{16})", str(caught.value))[1]
    (failed,) = [line for line in logged() if line["event"] == "failed"]
    assert (failed["request"], failed["error"]) == (request_id, "KeyError('secret')")


def test_quiet_and_chatty_logs(logged):
    for log_requests, lines in ((False, 0), (True, 1)):
        settings = vstore_server.ServerSettings(listen="127.0.0.1:0", slow_ms=1e9, log_requests=log_requests)
        with (
            vstore.connect("memory://") as database,
            vstore_server.BackgroundServer(database, settings) as server,
        ):
            vstore.connect(server.url).close()
        assert len([line for line in logged() if line["event"] == "request"]) == lines


def test_every_query_of_the_dashboard_names_a_metric_that_exists(observed):
    _, kinds = parsed(get(observed, "/metrics")[2])
    known = set(kinds) | {
        f"{name}_{part}" for name, kind in kinds.items() if kind == "histogram"
        for part in ("bucket", "sum", "count")
    }  # fmt: skip
    dashboard = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    named = {name for query in queries for name in re.findall(r"\b(?:vstore|process)_[a-z_]+\b", query)}
    assert named - known == set()
    shown = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in named}
    assert set(kinds) - shown == set()
    page = (ROOT / "docs" / "SERVER.md").read_text()
    assert [name for name in kinds if f"`{name}`" not in page] == []


def test_spans():
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with vstore.connect("memory://") as database:
        database.create_collection("c", dim=4, metric="l2").upsert(range(300), X)
        with vstore_server.BackgroundServer(database, tracing=vstore_server.Tracing(provider)) as server:
            with grpc.insecure_channel(server.address) as channel:
                search = channel.unary_unary("/vstore.v1.Store/Search")
                search(encode({"collection": "c", "query": X[0]}), metadata=(("traceparent", parent),))
            assert raw(server, "Count", encode({"collection": "no"}))[0] == "NOT_FOUND"
    search, count = exporter.get_finished_spans()
    assert search.name == "vstore.v1.Store/Search"
    assert f"{search.context.trace_id:032x}" == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert f"{search.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert search.attributes["vstore.n_matching"] == 300
    assert search.attributes["vstore.collection"] == "c"
    assert search.end_time > search.start_time
    assert (count.status.status_code.name, count.status.description) == ("ERROR", "NOT_FOUND")
