"""Answers to searches that came at the same time: one kernel call a shard for all, and hits for each.

Only from memory, and only where that takes no longer than the caller allows: a server answers so between two
looks at its sockets.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from vstore.ingest.view import CollectionView
from vstore.query.alone import hits_of_one
from vstore.query.answers import Answered, hits_of_answer, search_resident
from vstore.query.batch import on_shard
from vstore.query.cost import work_us
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
    if len(parts) == 1 and not view.memtable.chunks and not engine.cache.evicts:
        answers = _of_one_shard(view, requests, ready[0], planned[0], plans[0], parts[0], engine, spent_ms)
        if answers is not None:
            return answers
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
    plans: Sequence[Plan],
    found: Found,
    engine: Engine,
    spent_ms: dict[str, float],
) -> list[Hits | None] | None:
    """As the general merge, where there is nothing to merge; None where payload of one is not resident."""
    spent_s = (spent_ms["filter"] / 1e3, spent_ms["traverse"] / 1e3)
    live = view.shards[0]
    answers: list[Hits | None] = []
    for request, plan, one in zip(requests, plans, found.each(), strict=True):
        if one.status:
            answers.append(None)
            continue
        hits = hits_of_one(request.query, live, ready, planned, plan, one, engine, spent_s)
        if hits is None:
            return None
        answers.append(hits)
    return answers
