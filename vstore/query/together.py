"""Answers to searches that came at the same time: one kernel call a shard for all, and hits for each.

Only from memory, and only where that takes no longer than the caller allows: a server answers so between two
looks at its sockets.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from vstore.cancel import current_check
from vstore.ingest.view import CollectionView
from vstore.query.alone import hits_of_one
from vstore.query.answers import Answered, hits_of_answer, search_resident
from vstore.query.batch import on_shard
from vstore.query.cost import work_us
from vstore.query.few import few_on_shard
from vstore.query.memtable import search_memtable
from vstore.query.planner import Plan
from vstore.query.request import SearchRequest
from vstore.query.resident import Found, PlannedShard, ReadyShard, ResidentShards
from vstore.query.search import Engine
from vstore.shard.reader import Shard
from vstore.types import Hits

View = CollectionView[Shard]


def search_together(
    view: View, requests: Sequence[SearchRequest], engine: Engine, resident: ResidentShards, most_us: float
) -> list[Hits | None] | None:
    """Answer requests that differ in nothing but the vector.

    Returns:
        Hits for each, None for one that needs what is not in memory; or None altogether, and nothing was
        done, where all of it is not, or one of them is estimated to take longer than `most_us` microseconds.
    """
    request = requests[0]
    if len(requests) == 1:
        return [search_resident(view, request, engine, resident, most_us)]
    started = time.perf_counter()
    ready = resident.ready(view.shards)
    planned = None if ready is None else resident.planned(view.shards, ready, request)
    if ready is None or planned is None:
        return None
    if len(ready) == 1 and not view.memtable.chunks and not engine.cache.evicts and current_check() is None:
        return _of_one_shard(view, requests, ready[0], planned[0], engine, resident, most_us, started)
    first = [shard.plans.plan(request.query) for shard in planned]
    if work_us(view, planned, first) > most_us:
        return None
    queries = np.stack([one.query for one in requests])
    planned_at = time.perf_counter()
    parts: list[Found] = []
    plans: list[Sequence[Plan]] = []
    for shard, own in zip(ready, planned, strict=True):
        found, chosen = on_shard(shard, own, queries, request.k, 1)
        parts.append(found)
        plans.append(chosen)
    lacking = np.zeros(len(requests), np.bool_)
    for part in parts:
        lacking |= part.lacks != 0
    if view.shards:
        resident.tell(view.shards, bool(lacking.any()))
    found_at = time.perf_counter()
    share = 1e3 / len(requests)
    spent_ms = {"filter": (planned_at - started) * share, "traverse": (found_at - planned_at) * share}
    merged: list[Hits | None] = []
    for i, one in enumerate(requests):
        if lacking[i]:
            merged.append(None)
            continue
        memtable = None
        if view.memtable.chunks:
            memtable = search_memtable(view.memtable, one, view.schema.metric)
        answered = Answered(
            ready,
            planned,
            [chosen[i] for chosen in plans],
            [part.part(slice(i, i + 1)) for part in parts],
            memtable,
            dict(spent_ms),
        )
        merged.append(hits_of_answer(view, one, answered, engine, resident, may_read=False))
    return merged


def _of_one_shard(
    view: View,
    requests: Sequence[SearchRequest],
    ready: ReadyShard,
    planned: PlannedShard,
    engine: Engine,
    resident: ResidentShards,
    most_us: float,
    started: float,
) -> list[Hits | None] | None:
    """As `search_together`, where there is nothing to merge."""
    queries = np.concatenate([request.query for request in requests]).reshape(len(requests), -1)
    plans, gaps = planned.plans.of_few(queries)
    kinds = {id(plan): plan for plan in plans}.values()
    if max(work_us(view, (planned,), (plan,)) for plan in kinds) > most_us:
        return None
    planned_at = time.perf_counter()
    found = few_on_shard(ready, planned, plans, queries, requests[0].k, gaps)
    resident.tell(view.shards, None in found)
    spent_s = (
        (planned_at - started) / len(requests),
        (time.perf_counter() - planned_at) / len(requests),
    )
    live = view.shards[0]
    return [
        None
        if one is None
        else hits_of_one(request.query, live, ready, planned, plan, one.found, engine, spent_s, one.shown)
        for request, plan, one in zip(requests, plans, found, strict=True)
    ]
