"""What a server tells of itself: metrics, log lines with request ids, slow requests and receipts, spans."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import vstore
from vstore import Database
from vstore.storage.wrappers.counting import CountingStore
from vstore_server import errors
from vstore_server.logs import event
from vstore_server.methods import Call, Method
from vstore_server.metrics import Family, Labels, Registry
from vstore_server.tracing import Tracing

_TOGETHER = 64
"""Receipts and ends of requests are counted when so many wait, or someone looks."""


class Observer:
    """Records what requests did. Thread-safe.

    Args:
        slow_ms: a request that took longer is logged, with the receipt of its search.
        log_requests: log every request.
        tracing: makes a span of each request; None makes none.
    """

    def __init__(self, slow_ms: float, log_requests: bool = False, tracing: Tracing | None = None) -> None:
        self._slow_ms = slow_ms
        self._log_requests = log_requests
        self._tracing = tracing
        registry = self.registry = Registry()
        self._n_requests = registry.counter(
            "vstore_requests_total", "Requests by method and gRPC status.", "method", "status"
        )
        self._request_s = registry.histogram(
            "vstore_request_seconds", "Seconds from a request's arrival to its answer.", "method"
        )
        self._stage_s = registry.histogram(
            "vstore_search_stage_seconds", "Seconds of the stages of searches.", "stage", "plan"
        )
        self._n_searches = registry.counter("vstore_searches_total", "Searches by plan.", "plan")
        self._cache = registry.counter(
            "vstore_search_blocks_total", "Blocks that searches needed, by where they were found.", "tier"
        )
        self._work = registry.counter(
            "vstore_search_work_total", "What searches counted: the counters of their receipts.", "counter"
        )
        self._rerank_s = registry.histogram("vstore_rerank_seconds", "Seconds of re-ranking stages.", "model")
        self._rerank = registry.counter(
            "vstore_rerank_work_total",
            "What re-rankers did: pairs, cached pairs, batches, failed documents.",
            "model",
            "counter",
        )
        self._rows = registry.counter(
            "vstore_rows_written_total", "Rows upserted, updated and deleted.", "method"
        )
        self._unseen: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
        """Receipts in two parts; the first is the same map for all of a kind."""
        self._ended: list[tuple[str, str, float]] = []
        """Method, status and seconds of each request."""
        registry.before_text = self._record
        started_at = time.time_ns() / 1e9
        registry.ask(
            Family("vstore_build_info", "The version that runs.", "gauge", ("version",)),
            lambda: [((vstore.__version__,), 1.0)],
        )
        registry.ask(
            Family("process_start_time_seconds", "When the server started, since the epoch.", "gauge"),
            lambda: [((), started_at)],
        )
        registry.ask(Family("process_resident_memory_bytes", "Memory in use.", "gauge"), _resident_bytes)

    def watch_database(self, database: Database) -> None:
        """Tell of a database's cache, and of its store where that counts."""

        def cache(field: str) -> Callable[[], Iterable[tuple[Labels, float]]]:
            return lambda: [((), float(getattr(database.cache_stats, field)))]

        for name, help, kind, field in _CACHE:
            self.registry.ask(Family(name, help, kind), cache(field))
        store = database.store
        if not isinstance(store, CountingStore):
            return

        def requests() -> Iterable[tuple[Labels, float]]:
            now = store.snapshot()
            return [((kind,), float(getattr(now, field))) for kind, field in _STORE]

        self.registry.ask(
            Family("vstore_store_requests_total", "Requests to the object store.", "counter", ("kind",)),
            requests,
        )
        self.registry.ask(
            Family("vstore_store_bytes_total", "Bytes from and to it.", "counter", ("direction",)),
            lambda: [
                (("read",), float(store.snapshot().bytes_fetched)),
                (("written",), float(store.snapshot().bytes_written)),
            ],
        )

    def watch_lanes(self, lanes: Mapping[str, Any]) -> None:
        """Tell of the queues: `lanes` have `n_waiting`, `n_running` and `n_refused`."""

        def of(name: str) -> Callable[[], Iterable[tuple[Labels, float]]]:
            return lambda: [((lane,), float(getattr(one, name))) for lane, one in lanes.items()]

        for name, help, kind, field in _LANES:
            self.registry.ask(Family(name, help, kind, ("lane",)), of(field))

    def searched(self, receipts: Sequence[Mapping[str, Any]]) -> None:
        """Record the receipts of searches, as they travel."""
        with self.registry.lock:
            self._unseen += ((receipt, {}) for receipt in receipts)
            self._record_many()

    def answered(self, shared: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        """Record the receipt of one search, in the two parts of `vstore.serving.receipt_parts`."""
        with self.registry.lock:
            self._unseen.append((shared, own))
            self._record_many()

    def _record_many(self) -> None:
        if len(self._unseen) >= _TOGETHER or len(self._ended) >= _TOGETHER:
            self._record()

    def _record(self) -> None:
        """Count what waits for it; the registry's lock is held."""
        unseen, self._unseen = self._unseen, []
        ended, self._ended = self._ended, []
        kinds: dict[int, tuple[Mapping[str, Any], list[Mapping[str, Any]]]] = {}
        for shared, own in unseen:
            kinds.setdefault(id(shared), (shared, []))[1].append(own)
        totals = dict.fromkeys(_COUNTED, 0.0)
        for shared, owns in kinds.values():
            self._record_kind(shared, owns)
            for field in _COUNTED:
                totals[field] += (
                    shared[field] * len(owns) if field in shared else sum(own[field] for own in owns)
                )
        if kinds:
            for tier, field in _TIERS:
                self._cache.add(totals[field], tier)
            for field in _WORK:
                self._work.add(totals[field], field)
        took: dict[tuple[str, str], list[float]] = {}
        for method, status, took_s in ended:
            took.setdefault((method, status), []).append(took_s)
        for (method, status), spent_s in took.items():
            self._n_requests.add(len(spent_s), method, status)
            self._request_s.observe_all(spent_s, method)

    def _record_kind(self, shared: Mapping[str, Any], owns: list[Mapping[str, Any]]) -> None:
        """Count plans, stages and re-rankings of receipts that share one part."""
        plan = plan_of(shared)
        self._n_searches.add(len(owns), plan)
        stages: dict[str, list[float]] = {}
        for part in [shared] if "timings_ms" in shared else owns:
            for stage, spent_ms in part["timings_ms"].items():
                stages.setdefault(stage, []).append(spent_ms / 1e3)
        for stage, spent_s in stages.items():
            self._stage_s.observe_all(spent_s, stage, plan)
        for report in shared["rerank"]:
            self._reranked(report)

    def _reranked(self, report: Mapping[str, Any]) -> None:
        model = report["model"]
        self._rerank_s.observe(report["latency_ms"] / 1e3, model)
        for field in _RERANK:
            self._rerank.add(report[field], model, field)

    def wrote(self, method: str, n_rows: int) -> None:
        """Record rows that were written."""
        with self.registry.lock:
            self._rows.add(n_rows, method)

    def finished(
        self, method: Method, call: Call | None, started: float, failure: BaseException | None
    ) -> None:
        """Record the end of a request.

        Args:
            method: what was asked.
            call: None where nobody was let in.
            started: `time.perf_counter()` at its arrival.
            failure: what it ended with.
        """
        took_s = time.perf_counter() - started
        status = _status(failure)
        with self.registry.lock:
            self._ended.append((method.name, status, took_s))
            self._record_many()
        if call is None:
            return
        if self._tracing is not None:
            self._tracing.record(method.name, call, took_s, status)
        slow = took_s * 1e3 >= self._slow_ms
        if not slow and not self._log_requests:
            return
        fields: dict[str, Any] = {
            "method": method.name,
            "tenant": call.caller.tenant,
            "request": call.request_id,
        }
        fields |= {"status": status, "ms": round(took_s * 1e3, 3)}
        if call.collection is not None:
            fields["collection"] = call.collection
        if slow and call.receipt_parts:
            fields["receipt"] = call.receipt
        event(logging.WARNING if slow else logging.INFO, "slow" if slow else "request", **fields)


def plan_of(receipt: Mapping[str, Any]) -> str:
    """Return the traversals of a search's shards, "hnsw" or "hnsw+scan"; "memtable" where it had no shard."""
    plans = receipt["plans"]
    if len(plans) == 1:
        return str(plans[0]["traversal"])
    return "+".join(sorted({plan["traversal"] for plan in plans})) or "memtable"


def _status(failure: BaseException | None) -> str:
    if failure is None:
        return "OK"
    return "CANCELLED" if isinstance(failure, asyncio.CancelledError) else errors.status_of(failure)


def _resident_bytes() -> Iterable[tuple[Labels, float]]:
    try:
        with open("/proc/self/statm", "rb") as file:
            return [((), float(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")))]
    except OSError:
        return []


_TIERS = (("memory", "n_cache_hits"), ("disk", "n_disk_hits"), ("store", "n_cache_misses"))
_WORK = (
    "n_distances",
    "n_hops",
    "n_filter_checks",
    "n_rescored",
    "n_skipped",
    "n_round_trips",
    "n_requests",
    "bytes_fetched",
    "estimated_cost_usd",
)
_COUNTED = (*(field for _, field in _TIERS), *_WORK)
_RERANK = ("n_scored", "n_failed", "n_pairs", "n_cached", "n_batches", "n_tokens")
_STORE = (("get", "n_gets"), ("put", "n_puts"), ("list", "n_lists"), ("delete", "n_deletes"))
_CACHE: tuple[tuple[str, str, Any, str], ...] = (
    ("vstore_cache_bytes", "Bytes of decoded blocks in memory.", "gauge", "size_bytes"),
    ("vstore_cache_limit_bytes", "The limit of the same.", "gauge", "limit_bytes"),
    ("vstore_cache_blocks", "Decoded blocks in memory.", "gauge", "n_blocks"),
    ("vstore_cache_admitted_total", "Blocks taken into memory.", "counter", "n_admitted"),
    ("vstore_cache_evicted_total", "Blocks put out of memory.", "counter", "n_evicted"),
)
_LANES: tuple[tuple[str, str, Any, str], ...] = (
    ("vstore_queue_waiting", "Requests that wait for a thread.", "gauge", "n_waiting"),
    ("vstore_queue_running", "Requests that have a thread.", "gauge", "n_running"),
    ("vstore_queue_refused_total", "Requests refused because the queue was full.", "counter", "n_refused"),
)
