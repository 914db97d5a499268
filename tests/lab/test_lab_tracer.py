"""Queries of a collection, traced: the answers of untraced ones, and the same rounds whatever is cached."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lab_data import D, points, queries

import vstore
from vstore import F
from vstore.errors import CorruptData
from vstore.lab.replay import CacheChoice, ReadRule, Server, replay
from vstore.lab.stores import preset
from vstore.lab.trace import Trace, load, save
from vstore.lab.tracer import Tracer

N = 1800
# A folder reads each range by a request of its own.
ONE_BY_ONE = ReadRule(gap_bytes=0, max_bytes=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of a collection in two shards and a memtable."""
    path = tmp_path_factory.mktemp("traced")
    with vstore.connect(str(path)) as db:
        photos = db.create_collection("photos", dim=D, fields={"year": "int"})
        rows = points(N, 1)
        for start, stop in ((0, 1100), (1100, 1750), (1750, N)):
            years = {"year": [2000 + i % 20 for i in range(start, stop)]}
            photos.upsert(list(range(start, stop)), rows[start:stop], years)
            if stop < N:
                photos.flush(progress=False)
    return path


def opened(folder: Path, memory_bytes: int) -> vstore.Database:
    settings = vstore.Settings(cache_bytes=memory_bytes, hydrate_bytes=0)
    return vstore.connect(str(folder), read_only=True, settings=settings)


def asked(number: int) -> dict[str, object]:
    filters = (None, F.year >= 2004, F.year == 2003)
    return {"k": 5, "filter": filters[number % 3], "ef": 40 if number % 2 else None}


def traced(photos: vstore.Collection, n: int = 9) -> tuple[Trace, list[vstore.Hits]]:
    tracer = Tracer(photos)
    hits = [tracer.search(query, **asked(number)) for number, query in enumerate(queries(n))]
    return tracer.trace, hits


def named_rounds(trace: Trace) -> list[list[set[object]]]:
    assert trace.placement is not None
    keys = trace.placement.keys
    return [[{keys[unit] for unit in units} for units in query.rounds] for query in trace.queries]


def served(trace: Trace, limit_bytes: int) -> list[tuple[int, ...]]:
    assert trace.placement is not None
    # Opening a collection reads the heads of its shards, where they may be kept.
    cache = CacheChoice("lru", limit_bytes, pinned=("head",) if limit_bytes else ())
    costs = replay(trace, Server(trace.placement, cache, preset("s3_standard"), 3, ONE_BY_ONE))
    return [(c.n_round_trips, c.n_requests, c.bytes_fetched, c.n_cache_hits) for c in costs]


def paid(hits: list[vstore.Hits]) -> list[tuple[int, ...]]:
    receipts = [found.receipt for found in hits]
    return [(r.n_round_trips, r.n_requests, r.bytes_fetched, r.n_cache_hits) for r in receipts]


def test_a_traced_query_answers_as_an_untraced_one(folder: Path) -> None:
    with opened(folder, 1 << 28) as db:
        photos = db.collection("photos")
        trace, hits = traced(photos)
        for number, (query, found) in enumerate(zip(queries(9), hits, strict=True)):
            plain = photos.search(query, **asked(number))
            assert found.hits == plain.hits
            for name in ("n_distances", "n_hops", "n_filter_checks", "n_rescored", "n_matching"):
                assert getattr(found.receipt, name) == getattr(plain.receipt, name)
            recorded = trace.queries[number]
            assert recorded.keys == [hit.id for hit in plain]
            assert recorded.counters["n_hops"] == plain.receipt.n_hops
            assert sum(each["bytes_fetched"] for each in recorded.live) == found.receipt.bytes_fetched
            assert sum(each["n_hits"] for each in recorded.live) == found.receipt.n_cache_hits
    assert {stage for query in trace.queries for stage in query.stages} >= {"filter", "traverse", "rescore"}


def test_rounds_do_not_depend_on_the_cache(folder: Path) -> None:
    found = []
    for memory_bytes in (0, 150_000, 1 << 28):
        with opened(folder, memory_bytes) as db:
            photos = db.collection("photos")
            found.append(named_rounds(traced(photos)[0]))
            # Warm, as far as the cache goes, and after queries that were not traced.
            for query in queries(9):
                photos.search(query, k=5)
            found.append(named_rounds(traced(photos)[0]))
    assert all(rounds == found[0] for rounds in found)
    # Nothing is asked for twice by one query.
    for rounds in found[0]:
        assert sum(map(len, rounds)) == len(set().union(*rounds))


@pytest.mark.parametrize("memory_bytes", [0, 1 << 28])
def test_a_replay_costs_what_the_collection_paid(folder: Path, memory_bytes: int) -> None:
    with opened(folder, memory_bytes) as db:
        trace, hits = traced(db.collection("photos"))
    # Recorded over the other cache: nothing but the cache changes.
    with opened(folder, (1 << 28) - memory_bytes) as db:
        other, _ = traced(db.collection("photos"))
    assert served(trace, memory_bytes) == served(other, memory_bytes) == paid(hits)


@pytest.mark.parametrize("name", ["engine.msgpack", "engine.parquet"])
def test_a_collections_trace_survives_its_file(folder: Path, name: str, tmp_path: Path) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    with opened(folder, 150_000) as db:
        trace, _ = traced(db.collection("photos"), 4)
    save(trace, tmp_path / name)
    again = load(tmp_path / name)
    assert served(again, 60_000) == served(trace, 60_000)
    assert [q.keys for q in again.queries] == [q.keys for q in trace.queries]
    assert [q.live for q in again.queries] == [q.live for q in trace.queries]
    assert [q.decisions for q in again.queries] == [q.decisions for q in trace.queries]


def test_units_without_a_place_are_refused(tmp_path: Path, folder: Path) -> None:
    import msgpack

    with opened(folder, 0) as db:
        trace, _ = traced(db.collection("photos"), 1)
    save(trace, tmp_path / "x.msgpack")
    stored = msgpack.unpackb((tmp_path / "x.msgpack").read_bytes())
    stored["placement"]["starts"].pop()
    (tmp_path / "x.msgpack").write_bytes(msgpack.packb(stored))
    with pytest.raises(CorruptData, match="places"):
        load(tmp_path / "x.msgpack")


def test_rounds_of_the_engine_are_numbered_from_the_filter_to_the_payload(folder: Path) -> None:
    with opened(folder, 0) as db:
        recorded = db.collection("photos").record(queries(1)[0], 5, F.year >= 2004)
    assert recorded.rounds[0].stage == "filter"
    assert recorded.rounds[-1].stage in ("rescore", "payload")
    sizes = [sum(part.length or 0 for _, part in each.blocks) for each in recorded.rounds]
    assert sizes == [each.bytes_fetched for each in recorded.rounds]
    assert np.sum(sizes) == recorded.hits.receipt.bytes_fetched
