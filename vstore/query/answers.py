"""Whole answers from resident shards: merged, shown, and accounted for when someone looks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vstore.cancel import check_cancelled
from vstore.ingest.view import CollectionView
from vstore.query.account import Account
from vstore.query.alone import hits_of_one
from vstore.query.cost import work_us
from vstore.query.memtable import MemtableAnswer, MemtableWork, chunk_row, search_memtable
from vstore.query.planner import Plan
from vstore.query.request import SearchRequest
from vstore.query.resident import (
    Found,
    PlannedShard,
    ReadyShard,
    ResidentShards,
    Step,
    find_one,
    is_uncut,
    step_of,
)
from vstore.query.rounds import Rounds
from vstore.query.search import Engine, payload_round
from vstore.query.shown import Rows, ShownRow, ShownRows
from vstore.shard import sections
from vstore.shard.fetch import ReadMeter
from vstore.shard.payload import Shown, unpack_attributes
from vstore.shard.reader import Shard
from vstore.shard.session import ShardSession
from vstore.types import Float32s, Hits, Metric, Receipt
from vstore_kernels.answer import OneAnswer

View = CollectionView[Shard]


class AnswerRows(ShownRows):
    """The rows of one answer, best first, that hits are made of when someone looks (`HitRows`)."""

    __slots__ = ("_distances", "_fields", "_metric", "_rows")

    def __init__(self, rows: Rows, distances: Float32s, metric: Metric, fields: Shown) -> None:
        self._rows, self._distances, self._metric, self._fields = rows, distances, metric, fields

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> Rows:
        """As `ShownRows.rows`."""
        return self._rows

    @property
    def distances(self) -> Float32s:
        """As `ShownRows.distances`."""
        return self._distances

    @property
    def metric(self) -> Metric:
        """As `ShownRows.metric`."""
        return self._metric

    @property
    def fields(self) -> Shown:
        """As `ShownRows.fields`."""
        return self._fields


def search_resident(
    view: View,
    request: SearchRequest,
    engine: Engine,
    resident: ResidentShards,
    most_us: float | None = None,
) -> Hits | None:
    """Answer a search by one kernel call a shard, or return None where something is not resident.

    Payload that is not resident is read, in one round; it is part of the receipt as everywhere. With
    `most_us` nothing is read, and None is returned also where that would be needed, or where the search is
    estimated to take longer.
    """
    started = time.perf_counter()
    shards, k = view.shards, request.k
    ready = resident.ready(shards)
    planned = None if ready is None else resident.planned(shards, ready, request)
    if ready is None or planned is None:
        return None
    steps: list[Step] = []
    for shard, plan in zip(ready, planned, strict=True):
        step = step_of(shard, plan, plan.plans.plan(request.query))
        if step is None or is_uncut(step):
            return None
        steps.append(step)
    if most_us is not None and work_us(view, planned, [step.plan for step in steps]) > most_us:
        return None
    planned_at = time.perf_counter()
    parts: list[OneAnswer] = []
    for shard, step in zip(ready, steps, strict=True):
        check_cancelled()
        found = find_one(shard, step, request.query, k)
        if found.status:
            resident.tell(shards, True)
            return None
        parts.append(found)
    resident.tell(shards, False)
    found_at = time.perf_counter()
    memtable = None
    if view.memtable.chunks:
        memtable = search_memtable(view.memtable, request, view.schema.metric)
    elif len(parts) == 1 and not engine.cache.evicts:
        spent_s = (planned_at - started, found_at - planned_at)
        used, live = steps[0].plan, shards[0]
        hits = hits_of_one(request.query, live, ready[0], planned[0], used, parts[0], engine, spent_s)
        if hits is not None:
            return hits
    timings_ms = {"filter": (planned_at - started) * 1e3, "traverse": (found_at - planned_at) * 1e3}
    if memtable is not None:
        timings_ms["memtable"] = (time.perf_counter() - found_at) * 1e3
    arrays = [Found.of_one(part, k) for part in parts]
    answered = Answered(ready, planned, [step.plan for step in steps], arrays, memtable, timings_ms)
    return hits_of_answer(view, request, answered, engine, resident, most_us is None)


class Answered(NamedTuple):
    """The best rows of each shard and of the memtable for one query, and how they were found."""

    ready: Sequence[ReadyShard]
    planned: Sequence[PlannedShard]
    plans: Sequence[Plan]
    parts: Sequence[Found]
    memtable: MemtableAnswer | None
    timings_ms: dict[str, float]


def hits_of_answer(
    view: View,
    request: SearchRequest,
    answered: Answered,
    engine: Engine,
    resident: ResidentShards,
    may_read: bool = True,
) -> Hits | None:
    """Merge what was found, as hits; None where payload is not resident and nothing may be read."""
    started = time.perf_counter()
    ready, parts, memtable = answered.ready, answered.parts, answered.memtable
    if len(parts) == 1 and memtable is None and not engine.cache.evicts:
        spent_s = (answered.timings_ms["filter"] / 1e3, answered.timings_ms["traverse"] / 1e3)
        live, planned, plan, one = view.shards[0], answered.planned[0], answered.plans[0], parts[0].one()
        hits = hits_of_one(request.query, live, ready[0], planned, plan, one, engine, spent_s)
        if hits is not None:
            return hits
    places, distances = _merged(parts, memtable, request.k)
    shown = _shown(view, ready, places, memtable, engine, may_read)
    if shown is None:
        return None
    rows, n_blocks, meter = shown
    answered.timings_ms["payload"] = (time.perf_counter() - started) * 1e3
    n_memtable = 0 if memtable is None else view.memtable.n_live
    account = Account(
        request.query,
        ready,
        answered.planned,
        answered.plans,
        [part.counters[0] for part in parts],
        resident.n_live(view.shards) + n_memtable,
        n_memtable,
        memtable.work if memtable is not None else MemtableWork(),
        2 * len(ready) + n_blocks,
        meter,
        answered.timings_ms,
        engine,
    )
    named: Shown = tuple(view.schema.fields.items())
    made = AnswerRows(rows, distances, view.schema.metric, named)
    return Hits(made, Receipt.later(account.values))


def _merged(
    parts: Sequence[Found], memtable: MemtableAnswer | None, k: int
) -> tuple[list[tuple[int, int]], Float32s]:
    """Return (shard number or -1, node id or place in the memtable's answer) and distances, best first."""
    numbers, places, distances = [], [], []
    for number, part in enumerate(parts):
        there = part.node_ids[0] >= 0
        places.append(part.node_ids[0][there].astype(np.int64))
        distances.append(part.distances[0][there])
        numbers.append(np.full(len(places[-1]), number, np.int64))
    if memtable is not None:
        places.append(np.arange(len(memtable.rows)))
        distances.append(memtable.distances)
        numbers.append(np.full(len(memtable.rows), -1, np.int64))
    if not numbers:
        return [], np.empty(0, np.float32)
    merged: Float32s = np.concatenate(distances)
    order = np.argsort(merged, kind="stable")[:k]
    chosen = zip(np.concatenate(numbers)[order].tolist(), np.concatenate(places)[order].tolist(), strict=True)
    return list(chosen), merged[order]


def _shown(
    view: View,
    ready: Sequence[ReadyShard],
    places: Sequence[tuple[int, int]],
    memtable: MemtableAnswer | None,
    engine: Engine,
    may_read: bool,
) -> tuple[Rows, int, ReadMeter | None] | None:
    """Return what the hits show, how many payload blocks were resident, and what reading others cost.

    None where others must be read and may not be.
    """
    rows: list[Any] = [None] * len(places)
    used: set[tuple[int, int]] = set()
    lacking: dict[int, list[int]] = {}
    for position, (number, row) in enumerate(places):
        if number < 0:
            assert memtable is not None
            chunk = memtable.view.chunks[int(memtable.chunks[row])]
            rows[position] = ShownRow(*chunk_row(chunk, int(memtable.rows[row])))
            continue
        shard = ready[number]
        block, offset = divmod(row, shard.head.payload_block_rows)
        held = shard.rows.payload[block]
        if held is None:
            lacking.setdefault(number, []).append(position)
        else:
            used.add((number, block))
            rows[position] = held[offset]
    if engine.cache.evicts:
        _keep_in_use(ready, places, used, engine)
    if not lacking:
        _show_present_fields(view, ready, places, rows)
        return rows, len(used), None
    if not may_read:
        return None
    rounds = Rounds(engine.store, engine.cache.disk)
    sessions = {number: ShardSession(view.shards[number].shard, engine.cache) for number in lacking}
    wanted = {n: np.array([places[position][1] for position in lacking[n]]) for n in lacking}
    rounds.run([(session, payload_round(session, wanted[number])) for number, session in sessions.items()])
    for number, positions in lacking.items():
        for position in positions:
            block, offset = divmod(places[position][1], ready[number].head.payload_block_rows)
            rows[position] = sessions[number].get(sections.PAYLOAD, block)[offset]
    _show_present_fields(view, ready, places, rows)
    return rows, len(used), rounds.meter


def _show_present_fields(
    view: View, ready: Sequence[ReadyShard], places: Sequence[tuple[int, int]], rows: list[Any]
) -> None:
    """Replace the rows of shards that were built with other fields than the collection has now."""
    present = tuple(view.schema.fields.items())
    others = {
        number: shown
        for number, (live, held) in enumerate(zip(view.shards, ready, strict=True))
        if (shown := live.shard.shown(held.head)) != present
    }
    for position, (number, _) in enumerate(places if others else ()):
        if number in others:
            row = rows[position]
            rows[position] = ShownRow(row.key, unpack_attributes(row, others[number]), row.document)


def _keep_in_use(
    ready: Sequence[ReadyShard], places: Sequence[tuple[int, int]], used: set[tuple[int, int]], engine: Engine
) -> None:
    """Mark the blocks of the hits used: the kernel's own reads nobody sees."""
    for number, shard in enumerate(ready):
        session = ShardSession(shard.shard, engine.cache)
        block_rows = shard.head.vector_block_rows
        vectors = {row // block_rows for part, row in places if part == number}
        payload = {block for part, block in used if part == number}
        keys = session.keys(sections.VECTORS, vectors) + session.keys(sections.PAYLOAD, payload)
        engine.cache.use(keys)
