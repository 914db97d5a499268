"""Serves rounds of reads through a cache from a store in virtual time, and counts what each query cost.

The rounds come from a walk that runs (`live`) or from a trace (`replay`): one code serves both, and the
counts are the same, because a walk's rounds do not depend on the cache (`driver`).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Final

import numpy as np

from vstore.cache import BlockKey
from vstore.cache.policies import (
    ADMISSIONS,
    EVICTIONS,
    PREFETCHES,
    Admission,
    Eviction,
    Prefetch,
    Residency,
    policy_of,
)
from vstore.lab.driver import QueryTrace, Round, Rounds
from vstore.lab.layouts import Placement
from vstore.lab.stores import Clock, SimulatedStore, StoreModel, run_clients
from vstore.lab.trace import Trace, check_units
from vstore.types import Int64s


@dataclass(frozen=True, slots=True)
class CacheChoice:
    """A cache: its limit, and its three policies by name or as what makes them."""

    name: str = "none"
    limit_bytes: int = 0
    eviction: str | Callable[[], Eviction[BlockKey]] = "lru"
    admission: str | Callable[[], Admission[BlockKey]] = "all"
    prefetch: str | Callable[[], Prefetch[BlockKey]] = "none"
    pinned: tuple[str, ...] = ()
    """Sections that are resident from the start and weigh nothing: lists in memory, say."""


@dataclass(frozen=True, slots=True)
class ReadRule:
    """How units become requests: those of a round with at most `gap_bytes` between are read as one."""

    gap_bytes: int = 64 << 10
    max_bytes: int = 8 << 20


@dataclass(slots=True)
class StageCost:
    """What serving one stage of a query took. Counts repeat exactly."""

    n_rounds: int = 0
    """Rounds in which it asked for anything."""
    n_round_trips: int = 0
    """Those that the store had to serve."""
    n_requests: int = 0
    bytes_fetched: int = 0
    n_units: int = 0
    n_cache_hits: int = 0
    usd: float = 0.0


COUNTS: Final = tuple(part.name for part in fields(StageCost) if part.name != "usd")
"""The counts of a stage, by name."""


@dataclass(slots=True)
class Cost(StageCost):
    """What serving one query took. The time is virtual, and repeats with its seed."""

    query: int = 0
    """Its number."""
    latency_ms: float = 0.0
    by_stage: dict[str, StageCost] = field(default_factory=dict)
    """The same, time apart, of each stage: "traverse" and "rescore"; of a collection's query "filter" and
    "payload", too."""

    def add(self, stage: str, **counts: int) -> None:
        """Add to counts, in all and of a stage."""
        part = self.by_stage.setdefault(stage, StageCost())
        for name, count in counts.items():
            for of in (self, part):
                setattr(of, name, getattr(of, name) + count)


class Server:
    """A cache in front of a simulated store.

    Args:
        placement: of the units.
        cache: the cache.
        model: the store.
        seed: of the store's latencies.
        rule: how units become requests.
    """

    def __init__(
        self,
        placement: Placement,
        cache: CacheChoice,
        model: StoreModel,
        seed: int = 0,
        rule: ReadRule | None = None,
    ) -> None:
        self.clock = Clock()
        self.model = model
        self.store = SimulatedStore(model, self.clock, np.random.default_rng(seed))
        self.placement = placement
        self._unit_of_key = {key: unit for unit, key in enumerate(placement.keys)}
        self._pinned = np.array([key.section in cache.pinned for key in placement.keys], bool)
        self._rule = rule or ReadRule()
        self._ahead: Prefetch[BlockKey] = policy_of(cache.prefetch, PREFETCHES, "prefetch")()
        admission: Admission[BlockKey] = policy_of(cache.admission, ADMISSIONS, "admission")()
        eviction: Callable[[], Eviction[BlockKey]] = policy_of(cache.eviction, EVICTIONS, "eviction")
        self.residency: Residency[BlockKey] = Residency(cache.limit_bytes, eviction, admission)
        self._keeps = cache.limit_bytes > 0

    def serve(self, queries: Iterable[tuple[int, Iterator[Round]]], n_clients: int) -> list[Cost]:
        """Serve queries in order, `n_clients` at a time; return their costs in order.

        Args:
            queries: of each, its number and its rounds: units (int64) and stage.
            n_clients: each takes the next query when it has finished one.
        """
        waiting = deque(queries)
        costs: list[Cost] = []

        def client() -> Generator[list[int], None, None]:
            while waiting:
                number, rounds = waiting.popleft()
                cost = Cost(query=number)
                costs.append(cost)
                started_ms = self.clock.now_ms
                for units, stage in rounds:
                    yield from self._round(units, stage, cost)
                cost.latency_ms = self.clock.now_ms - started_ms
                for of in (cost, *cost.by_stage.values()):
                    of.usd = self.model.cost_usd(of.n_requests, of.bytes_fetched)

        run_clients(self.store, self.clock, [client() for _ in range(n_clients)])
        return costs

    def _round(self, units: Int64s, stage: str, cost: Cost) -> Generator[list[int], None, None]:
        keys, sizes = self.placement.keys, self.placement.sizes
        lacking: list[int] = units[~self._pinned[units]].tolist()
        if self._keeps:
            lacking = [unit for unit in lacking if not self.residency.ask(keys[unit])]
        cost.add(stage, n_rounds=1, n_units=len(units), n_cache_hits=len(units) - len(lacking))
        if not lacking:
            return
        lacking += self._read_ahead(lacking)
        requests = self._requests(np.array(lacking, np.int64))
        cost.add(stage, n_round_trips=1, n_requests=len(requests), bytes_fetched=sum(requests))
        yield requests
        if self._keeps:
            for unit in lacking:
                self.residency.offer(keys[unit], int(sizes[unit]))

    def _read_ahead(self, lacking: list[int]) -> list[int]:
        keys = self.placement.keys
        known = set(lacking)
        found = []
        for key in self._ahead.ahead([keys[unit] for unit in lacking]):
            unit = self._unit_of_key.get(key)
            if unit is not None and unit not in known and key not in self.residency:
                known.add(unit)
                found.append(unit)
        return found

    def _requests(self, units: Int64s) -> list[int]:
        """Return the bytes of each request that reads these units (int64[m >= 1])."""
        return request_bytes(self.placement.starts[units], self.placement.sizes[units], self._rule)


def request_bytes(starts: Int64s, sizes: Int64s, rule: ReadRule) -> list[int]:
    """Return the bytes of each request, in order of offset, that reads ranges of one object.

    What `storage.coalesce.plan_coalesce` makes of ranges that do not overlap, without an object for each.

    Args:
        starts: int64[m], in any order.
        sizes: int64[m], bytes; empty ranges need no request.
        rule: which ranges are read as one.
    """
    order = np.argsort(starts, kind="stable")
    order = order[sizes[order] > 0]
    if not len(order):
        return []
    first, ends = starts[order], starts[order] + sizes[order]
    breaks = np.flatnonzero(first[1:] - ends[:-1] > rule.gap_bytes) + 1
    found = []
    for low, high in itertools.pairwise([0, *breaks.tolist(), len(order)]):
        while ends[high - 1] - first[low] > rule.max_bytes:
            # The first range is read however long it is; what follows only while the limit holds.
            cut = low + int(np.searchsorted(ends[low:high], first[low] + rule.max_bytes, side="right"))
            cut = max(cut, low + 1)
            found.append(int(ends[cut - 1] - first[low]))
            if cut == high:
                break
            low = cut
        else:
            found.append(int(ends[high - 1] - first[low]))
    return found


def replay(trace: Trace, server: Server, n_clients: int = 1) -> list[Cost]:
    """Serve recorded queries; return what each cost, in order.

    Raises:
        InvalidInput: the trace was recorded over another layout.
    """
    check_units(trace, server.placement.sizes)
    return server.serve(((query.query, _recorded(query)) for query in trace.queries), n_clients)


def live(
    queries: Iterable[tuple[int, Rounds]], server: Server, n_clients: int = 1
) -> tuple[list[QueryTrace], list[Cost]]:
    """Run queries and serve their rounds as they come; return traces and costs, in the order of their ends.

    With more than one client, walks are interleaved: each needs a graph of its own.
    """
    traces: list[QueryTrace] = []

    def rounds_of(rounds: Rounds) -> Iterator[Round]:
        try:
            while True:
                yield next(rounds)
        except StopIteration as stop:
            traces.append(stop.value)

    costs = server.serve(((number, rounds_of(rounds)) for number, rounds in queries), n_clients)
    return traces, costs


def _recorded(query: QueryTrace) -> Iterator[Round]:
    return zip(query.rounds, query.stages, strict=True)
