"""A trace replays with the counts that a run has, over any cache and store; and survives its file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab_data import K, graph, index, passing, queries

from vstore.errors import CorruptData, InvalidInput, InvalidSetting
from vstore.lab.driver import QueryTrace, run_alone, run_query
from vstore.lab.layouts import LAYOUTS
from vstore.lab.replay import CacheChoice, Cost, ReadRule, Server, live, replay, request_bytes
from vstore.lab.stores import preset
from vstore.lab.trace import Trace, load, record, save
from vstore.lab.walks import TRAVERSALS
from vstore.storage.base import ByteRange
from vstore.storage.coalesce import plan_coalesce
from vstore.traverse.base import WalkParams

PARAMS = WalkParams(ef=30, n_seeds=16, n_predicted=3)
CACHES = (
    CacheChoice(),
    CacheChoice("lru", 60_000),
    CacheChoice("s3_fifo", 60_000, "s3_fifo", "second"),
    CacheChoice("hubs", 40_000, "pin_hubs", prefetch="adjacent"),
    CacheChoice("lists", 40_000, pinned=("lists", "upper")),
)
NAMES = ("cluster_acorn", "acorn1", "result_filter", "clusters", "exact")


def walks(layout: str, name: str):
    g = graph(layout=layout)
    for number, query in enumerate(np.repeat(queries(6), 2, axis=0)):
        yield number, run_query(g, TRAVERSALS[name], query, passing(0.2, number % 3), PARAMS, K, number)


def traced(layout: str, name: str) -> Trace:
    found = [run_alone(rounds) for _, rounds in walks(layout, name)]
    return record(found, graph(layout=layout).placement.sizes)


def counts(costs: list[Cost]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(cost) for cost in costs]


def server(cache: CacheChoice, layout: str = "separate", store: str = "s3_standard", **how) -> Server:
    return Server(LAYOUTS[layout](index()), cache, preset(store), seed=4, **how)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("cache", CACHES, ids=lambda cache: cache.name)
def test_a_replay_costs_what_the_run_costs(cache: CacheChoice, layout: str, name: str) -> None:
    traces, costs = live(walks(layout, name), server(cache, layout))
    recorded = traced(layout, name)
    assert [trace.rows.tolist() for trace in traces] == [trace.rows.tolist() for trace in recorded.queries]
    assert counts(replay(recorded, server(cache, layout))) == counts(costs)
    assert counts(replay(recorded, server(cache, layout))) == counts(costs)


def test_counts_add_up_and_do_not_depend_on_the_store() -> None:
    recorded = traced("separate", "cluster_acorn")
    none = replay(recorded, server(CacheChoice(), rule=ReadRule(gap_bytes=0, max_bytes=1)))
    for cost, query in zip(none, recorded.queries, strict=True):
        assert cost.n_round_trips == cost.n_rounds == len(query.rounds)
        assert cost.n_requests == cost.n_units == sum(map(len, query.rounds))
        assert cost.bytes_fetched == sum(int(recorded.sizes[units].sum()) for units in query.rounds)
        assert set(cost.by_stage) == set(query.stages)
        for name in ("n_rounds", "n_round_trips", "n_requests", "bytes_fetched", "n_units", "n_cache_hits"):
            assert getattr(cost, name) == sum(getattr(part, name) for part in cost.by_stage.values())
        assert cost.usd == pytest.approx(sum(part.usd for part in cost.by_stage.values()))
        assert cost.n_cache_hits == 0
    for store in ("s3_express", "nvme", "free"):
        other = replay(recorded, server(CacheChoice("lru", 60_000), store=store))
        same = replay(recorded, server(CacheChoice("lru", 60_000)))
        for a, b in zip(counts(other), counts(same), strict=True):
            assert without_time_and_price(a) == without_time_and_price(b)


def without_time_and_price(cost: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in cost.items() if name not in ("latency_ms", "usd")}
    kept["by_stage"] = {stage: {**part, "usd": 0.0} for stage, part in cost["by_stage"].items()}
    return kept


@pytest.mark.parametrize("rule", [ReadRule(0, 1), ReadRule(0, 40), ReadRule(12, 60), ReadRule(30, 10_000)])
def test_ranges_become_the_requests_that_the_engine_would_send(rule: ReadRule) -> None:
    rng = np.random.default_rng(3)
    for n in (1, 2, 9, 60):
        for _ in range(20):
            sizes = rng.integers(0, 30, n)
            # Holes of up to 24 bytes between ranges, none of which overlap.
            starts = np.cumsum(sizes + rng.integers(0, 25, n)) - sizes
            mixed = rng.permutation(n)
            ranges = [ByteRange("x", int(starts[i]), int(sizes[i])) for i in mixed]
            plan = plan_coalesce(ranges, rule.gap_bytes, rule.max_bytes)
            assert request_bytes(starts[mixed], sizes[mixed], rule) == [f.range.length for f in plan]


def test_a_cache_that_holds_all_reads_each_unit_once() -> None:
    recorded = traced("separate", "acorn1")
    costs = replay(recorded, server(CacheChoice("all", 1 << 30), rule=ReadRule(gap_bytes=0, max_bytes=1)))
    asked = {int(unit) for query in recorded.queries for units in query.rounds for unit in units}
    assert sum(cost.bytes_fetched for cost in costs) == int(recorded.sizes[sorted(asked)].sum())
    # The second of two equal queries under another filter still finds the first round there.
    assert costs[1].n_cache_hits > 0


def test_clients_at_once_wait_for_the_same_store() -> None:
    recorded = traced("separate", "result_filter")
    store = dataclasses.replace(preset("s3_standard"), concurrency=4)
    placement = LAYOUTS["separate"](index())
    alone = replay(recorded, Server(placement, CacheChoice(), store, 4))
    crowd = replay(recorded, Server(placement, CacheChoice(), store, 4), n_clients=6)
    assert sum(c.latency_ms for c in crowd) > sum(c.latency_ms for c in alone)
    assert [c.n_requests for c in crowd] == [c.n_requests for c in alone]


@pytest.mark.parametrize("name", ["trace.msgpack", "trace.parquet"])
def test_a_trace_survives_its_file(name: str, tmp_path: Path) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    recorded = traced("separate", "cluster_acorn")
    save(recorded, tmp_path / name)
    again = load(tmp_path / name)
    assert np.array_equal(again.sizes, recorded.sizes)
    for a, b in zip(again.queries, recorded.queries, strict=True):
        assert described(a) == described(b)
    cache = CACHES[1]
    assert counts(replay(again, server(cache))) == counts(replay(recorded, server(cache)))


def described(trace: QueryTrace) -> dict[str, object]:
    rounds = [units.tolist() for units in trace.rounds]
    found = (trace.rows.tolist(), trace.distances.tolist())
    return {"rounds": rounds, "stages": trace.stages, "found": found, "counters": trace.counters} | {
        "query": trace.query,
        "traversal": trace.traversal,
        "decisions": trace.decisions,
    }


def test_what_is_no_trace_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.msgpack"
    for data in (b"", b"\x01", b"\x81\xa6format\xa1x", b"nonsense"):
        path.write_bytes(data)
        with pytest.raises(CorruptData, match=r"x\.msgpack"):
            load(path)
    with pytest.raises(InvalidInput, match="layout"):
        replay(traced("separate", "exact"), server(CacheChoice(), "inline"))
    with pytest.raises(InvalidSetting, match="eviction"):
        server(CacheChoice("x", 10, "oldest"))
