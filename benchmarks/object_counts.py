"""Round trips, requests and bytes of queries in every state of the cache: counted, so they repeat exactly."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import vstore
from vstore.storage.wrappers import LatencyStore, StoreLatency

from . import naive_graph
from .datasets import Dataset
from .filters import Filter, Grid
from .object_stores import NAME, Dependent, GuidesOnly, folder_store
from .recall import recall

K = 10
CACHE_BYTES = 4 << 30
ROUNDS = 25
"""In which a handle and one of everything in memory are asked in turns; a search may take 0.1 ms."""
DEFAULTS_ON_S3: dict[str, Any] = {"cold_plan": "clusters", "hydrate_bytes": 0}
"""What a folder needs to be searched as S3 is; without hydration, which reads after the answer."""
STATES = ("cold", "vectors remote", "all cached", "naive graph")


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked: queries float32[m, d] of the grid's group under a filter, and their exact answer."""

    name: str
    filter: Filter | None
    queries: Any
    truth: Any
    mask: Any

    @property
    def clause(self) -> tuple[str, int] | None:
        """The filter as (field, the largest value that passes)."""
        if self.filter is None:
            return None
        (clause,) = self.filter.clauses
        assert isinstance(clause.value, int)
        return clause.field, clause.value

    def expression(self) -> Any:
        """The filter as an F expression, or None."""
        return None if self.clause is None else vstore.F[self.clause[0]] <= self.clause[1]


def task_of(dataset: Dataset, grid: Grid, chosen: Filter | None, n: int) -> Task:
    """Return the task of a filter for the first `n` queries of the grid's group."""
    queries = dataset.queries[grid.group[:n]]
    if chosen is None:
        return Task("all", None, queries, dataset.truth(K)[grid.group[:n]], None)
    return Task(chosen.name, chosen, queries, grid.truth(dataset, chosen)[:n], chosen.mask(grid.columns))


def recall_of(dataset: Dataset, task: Task, ids: list[list[int]]) -> float:
    """Return recall@10 of answers, by distance."""
    found = np.full((len(ids), K), -1, np.int64)
    for i, row in enumerate(ids):
        found[i, : len(row)] = row
    return float(
        recall(dataset.points, task.queries[: len(ids)], found, task.truth[: len(ids)], K, task.mask)
    )


def settings_of(**more: Any) -> vstore.Settings:
    """Return the defaults, as they are on S3, with room for everything."""
    return vstore.Settings(**{**DEFAULTS_ON_S3, "cache_bytes": CACHE_BYTES, "n_threads": 1, **more})


class Counter:
    """Counts the queries of a data set's kept store.

    Args:
        dataset: searched.
        folder: of the kept store.
        latency_ms: of every call, slept; 0 for counting alone.
    """

    def __init__(self, dataset: Dataset, folder: Path, latency_ms: float) -> None:
        self._dataset, self._folder = dataset, folder
        self._latency = StoreLatency(latency_ms, latency_ms, latency_ms, 0.0)
        self._sleeps = latency_ms > 0

    def store(self, settings: vstore.Settings) -> Dependent:
        """Return the store, counted."""
        inner = folder_store(self._folder, settings)
        return Dependent(LatencyStore(inner, self._latency) if self._sleeps else inner)

    def cold(self, task: Task, param: dict[str, Any]) -> dict[str, Any]:
        """Every query by a new handle with an empty cache: from `vstore.open` to the answer."""
        ids, seen, times = [], [], []
        for query in task.queries:
            settings = settings_of()
            store = self.store(settings)
            started = time.perf_counter()
            with vstore.open(store, NAME, settings=settings, read_only=True) as collection:
                hits = collection.search(query, k=K, filter=task.expression(), **param)
                times.append((time.perf_counter() - started) * 1e3)
                ids.append(list(hits.ids))
                counted = store.snapshot()
                rounds = store.n_round_trips_of_opened()
            seen.append((rounds, counted.n_requests, counted.bytes_fetched))
        return self._row("cold", task, param, ids, seen, times)

    def vectors_remote(
        self, task: Task, warmed: tuple[Any, Dependent], param: dict[str, Any]
    ) -> dict[str, Any]:
        """Queries of a handle that has everything but exact vectors and payload."""
        collection, store = warmed
        ids, seen, times = [], [], []
        for query in task.queries:
            before, started = store.snapshot(), time.perf_counter()
            hits = collection.search(query, k=K, filter=task.expression(), **param)
            times.append((time.perf_counter() - started) * 1e3)
            ids.append(list(hits.ids))
            counted = store.delta(before)
            seen.append((counted.n_round_trips, counted.n_requests, counted.bytes_fetched))
        return self._row("vectors remote", task, param, ids, seen, times)

    def warmed(self, **more: Any) -> tuple[Any, Dependent]:
        """Return a warm handle and its store."""
        settings = settings_of(**more)
        store = self.store(settings)
        collection = vstore.connect(store, settings=settings, read_only=True).collection(NAME)
        collection.warm(progress=False)
        return collection, store

    def in_memory(self) -> Any:
        """Return a handle of the engine as it is on a local folder, with everything in memory."""
        settings = vstore.Settings(cache_bytes=CACHE_BYTES, n_threads=1, hydrate_bytes=0)
        collection = vstore.connect(self._folder, settings=settings, read_only=True).collection(NAME)
        collection.warm(vectors=True, progress=False)
        return collection

    def guides_only(self) -> tuple[Any, Dependent]:
        """Return a handle whose cache has no exact vector and no payload, ever."""
        return self.warmed(cache_admission=GuidesOnly)

    def all_cached(
        self, task: Task, warmed: tuple[Any, Dependent], near: Any, param: dict[str, Any]
    ) -> dict[str, Any]:
        """Queries asked once before: what they read, and their time over that of `in_memory`."""
        collection, store = warmed
        filter = task.expression()
        for each in (collection, near):
            for query in task.queries:
                each.search(query, k=K, filter=filter, **param)
        before = store.snapshot()
        ids, ratios, times = [], [], []
        for _ in range(ROUNDS):
            far_s = clock(lambda: ids.append(self._ids(collection, task, filter, param)))
            near_s = clock(lambda: self._ids(near, task, filter, param))
            ratios.append(far_s / near_s)
            times.append(far_s * 1e3 / len(task.queries))
        counted = store.delta(before)
        seen = [(counted.n_round_trips, counted.n_requests, counted.bytes_fetched)]
        row = self._row("all cached", task, param, ids[0], seen, times)
        return {**row, "to_in_memory": statistics.median(ratios)}

    def _ids(self, collection: Any, task: Task, filter: Any, param: dict[str, Any]) -> list[list[int]]:
        return [list(collection.search(query, k=K, filter=filter, **param).ids) for query in task.queries]

    def naive(self, task: Task, wanted: float) -> dict[str, Any]:
        """Queries by a graph read hop by hop."""
        settings = settings_of()
        store = self.store(settings)
        ids, seen, times, hops = [], [], [], []
        with vstore.open(store, NAME, settings=settings, read_only=True) as collection:
            compiled = collection._filters.get(task.expression())
            for query in task.queries:
                started = time.perf_counter()
                found, rounds, n_hops = naive_graph.search(collection, query, K, compiled, wanted)
                times.append((time.perf_counter() - started) * 1e3)
                meter = rounds.meter
                ids.append(found)
                hops.append(n_hops)
                seen.append((meter.n_round_trips, meter.n_requests, meter.bytes_fetched))
        row = self._row("naive graph", task, {"recall": wanted}, ids, seen, times)
        return {**row, "hops_mean": statistics.mean(hops)}

    def _row(
        self,
        state: str,
        task: Task,
        param: dict[str, Any],
        ids: list[list[int]],
        seen: list[tuple[int, int, int]],
        times: list[float],
    ) -> dict[str, Any]:
        rounds, requests, sizes = zip(*seen, strict=True)
        return {
            "state": state,
            "filter": task.name,
            "param": param,
            "recall": recall_of(self._dataset, task, ids),
            "n_queries": len(ids),
            "round_trips": max(rounds),
            "round_trips_mean": statistics.mean(rounds),
            "requests": max(requests),
            "requests_mean": statistics.mean(requests),
            "megabytes": max(sizes) / 1e6,
            "megabytes_mean": statistics.mean(sizes) / 1e6,
            "ms": statistics.median(times),
        }


def clock(call: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def sweep(wanted: tuple[float, ...]) -> Iterator[dict[str, Any]]:
    """Yield what a caller asks, from little to much."""
    for each in wanted:
        yield {"recall": each}
