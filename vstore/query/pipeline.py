"""One shard's part of an answer, as a generator of the blocks that it needs.

Rounds on a shard of which nothing is cached: head and filter columns; lists and codes of the
predicted clusters (again where the walk leaves them); exact vectors and payload of the candidates.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np

from vstore.filters import Filter
from vstore.ingest.view import LiveShard
from vstore.query.matching import matching_rows
from vstore.query.passing import PassingRows
from vstore.query.planner import Plan, ShardPlans, cold_plan, few_plan, sketched_plan
from vstore.query.policy import CERTAINLY_MIXED
from vstore.query.request import SearchRequest
from vstore.query.rounds import Pipeline
from vstore.shard import sections
from vstore.shard.head import ShardHead
from vstore.shard.reader import Shard
from vstore.shard.session import ShardSession
from vstore.traverse import TRAVERSALS, Found, Walk, WalkParams
from vstore.traverse.clusters import choose_blocks, code_bytes_of, reach_of
from vstore.traverse.sketches import blocks_read, n_ranges
from vstore.types import Bitmap, Float32s, Int32s
from vstore_kernels import bitmap
from vstore_kernels.codes import prepare_query
from vstore_kernels.distance import exact_distances
from vstore_kernels.rescore import rescore, undecided
from vstore_kernels.scan import topk

EXACT_ROWS = 16_384
"""An exact scan pins the vectors of at most this many rows at once."""
FEW_ROWS: Final = 64
"""Of so few the payload is read with the exact vectors, whichever are the nearest."""

SKETCHED_SHARE: Final = 0.5
"""Of `ColdReads.code_bytes`: where more codes would be read, sketches are in their place."""
VECTORS_SHARE: Final = 0.5
"""Of `ColdReads.code_bytes`, what the exact vectors of rows that sketches have chosen may take, and the gaps
between their blocks."""
CODED_VECTORS_SHARE: Final = 0.3
"""The same, of rows that codes have chosen in clusters near the query."""
JOINED_BYTES: Final = 64 << 10
"""A gap that stores read rather than ask twice, at default settings."""


class Planned(NamedTuple):
    """The plan of a shard, the rows that pass, and the blocks of codes that a scan would read, if asked."""

    plan: Plan
    passing: Bitmap | None
    chosen: Int32s | None = None


@dataclass(slots=True)
class ShardAnswer:
    """A shard's best rows, nearest first, by exact distance, and what finding them took.

    `node_ids` is int32[m] and `distances` float32[m], m at most k.
    """

    session: ShardSession
    plan: Plan
    node_ids: Int32s
    distances: Float32s
    n_rescored: int = 0
    n_skipped: int = 0
    found: Found = field(default_factory=Found.nothing)
    timings_ms: dict[str, float] = field(default_factory=dict)


def unanswered(session: ShardSession) -> ShardAnswer:
    """Return the answer of a shard that was stopped before it had one."""
    plan = Plan("none", 0, 0, 0, 0.0, None, 0, "stopped before it answered")
    return ShardAnswer(session, plan, np.empty(0, np.int32), np.empty(0, np.float32))


@dataclass(frozen=True, slots=True)
class ColdReads:
    """How shards are searched whose codes are not all resident."""

    clusters: bool = False
    """By a scan of the query's nearest clusters, read in one round; else by the walk of a warm search."""
    code_bytes: int = 8 << 20
    """The most codes that such a scan reads for one shard."""


WALKING: Final = ColdReads()


def passing_rows(
    session: ShardSession, live: LiveShard[Shard], filter: Filter | None, known: PassingRows
) -> Pipeline[Bitmap | None]:
    """Pin the shard's head and return the rows that are alive and pass, or None where all do."""
    head = session.key(sections.HEAD)
    if filter is None:
        yield [head]
        return live.live
    reading_id = session.shard.reading_id(filter.fields)
    passing = known.get(reading_id, filter)
    if passing is None:
        passing = bitmap.pack((yield from matching_rows(session, filter)))
        known.put(reading_id, filter, passing)
    else:
        yield [head]
    return passing if live.live is None else bitmap.both(passing, live.live)


def plan_shard(
    session: ShardSession,
    live: LiveShard[Shard],
    request: SearchRequest,
    known: PassingRows,
    cold: ColdReads = WALKING,
) -> Pipeline[Planned]:
    """Return the plan for a shard whose matching rows are known exactly, and those rows."""
    passing = yield from passing_rows(session, live, request.filter, known)
    plans = plans_for(session.head, request, passing)
    chosen = None
    plan = replace(plans.plan(request.query), correlation=plans.correlation(request.query))
    if cold.clusters and request.ef is None and plan.traversal != "exact" and not session.codes_known:
        plan = cold_plan(plan, session.head, request.k, request.recall)
        if plan.n_matching:
            params = _params(plan, request, cold)
            chosen = choose_blocks(session, request.query, passing, params).blocks
            code_bytes = code_bytes_of(session, chosen)
            if session.head.sketch_params is not None:
                plan = sketched_plan(plan, code_bytes, int(SKETCHED_SHARE * cold.code_bytes))
            if plan.n_matching <= FEW_ROWS:
                vectors = vector_reads(_rows(session.n, passing), session.head)
                plan = few_plan(plan, vectors, code_bytes + JOINED_BYTES * n_ranges(chosen))
    return Planned(plan, passing, chosen)


def plans_for(head: ShardHead, request: SearchRequest, passing: Bitmap | None) -> ShardPlans:
    """Return the plans of a shard for every query of the request's filter, k, recall and ef."""
    return ShardPlans(head, request.k, request.recall, request.ef, passing)


def search_shard(
    session: ShardSession,
    live: LiveShard[Shard],
    request: SearchRequest,
    known: PassingRows,
    cold: ColdReads = WALKING,
) -> Pipeline[ShardAnswer]:
    """Return the shard's k best rows for a request; fewer only where fewer match."""
    clock = _Stopwatch()
    plan, passing, chosen = yield from plan_shard(session, live, request, known, cold)
    clock.lap("filter")
    answer = ShardAnswer(session, plan, np.empty(0, np.int32), np.empty(0, np.float32), timings_ms=clock.laps)
    if plan.n_matching == 0:
        return answer
    if plan.traversal == "exact":
        yield from (_few if plan.n_matching <= FEW_ROWS else _exact)(answer, request, passing)
        clock.lap("exact")
        return answer
    params = replace(_params(plan, request, cold), chosen=chosen)
    found = yield from _walk(session, plan.traversal, request, passing, params)
    if len(found.node_ids) < min(request.k, plan.n_matching):
        # The graph does not reach enough of the passing rows: look at every one of them.
        first = found
        found = yield from _walk(session, "scan", request, passing, params)
        found.n_distances += first.n_distances
    clock.lap("traverse")
    answer.found = found
    if found.spreads is None:
        coded_bytes = int(CODED_VECTORS_SHARE * cold.code_bytes * params.reach)
        most_bytes = coded_bytes if plan.traversal == "clusters" else None
        yield from _rescore(answer, request, found, plan.n_candidates, most_bytes)
    else:
        n_bytes = int(VECTORS_SHARE * cold.code_bytes * params.reach)
        n = n_within(found.node_ids, session.head, n_bytes, request.k)
        yield from _rescore_rows(
            answer, request, found.node_ids[:n], found.distances[:n], found.spreads[:n], len(found.node_ids)
        )
    clock.lap("rescore")
    return answer


def _params(plan: Plan, request: SearchRequest, cold: ColdReads) -> WalkParams:
    return WalkParams(
        max(plan.ef, plan.n_candidates),
        plan.n_seeds,
        k=request.k,
        reach=reach_of(request.recall),
        apart=plan.correlation is not None and plan.correlation < CERTAINLY_MIXED,
        code_bytes=cold.code_bytes,
    )


def _walk(
    session: ShardSession, name: str, request: SearchRequest, passing: Bitmap | None, params: WalkParams
) -> Pipeline[Found]:
    walk: Walk = TRAVERSALS[name].walk(session, request.query, passing, params)
    try:
        wants = next(walk)
        while True:
            yield session.wanted(wants)
            wants = walk.send(None)
    except StopIteration as stop:
        found: Found = stop.value
        session.used(found)
        return found
    finally:
        walk.close()


def _rescore(
    answer: ShardAnswer, request: SearchRequest, found: Found, n_candidates: int, most_bytes: int | None
) -> Pipeline[None]:
    session, k = answer.session, request.k
    candidates, estimates = found.node_ids[:n_candidates], found.distances[:n_candidates]
    # What cannot be among the k, by the error of its estimate, is not worth reading.
    code = prepare_query(request.query, session.code_params)
    kept, spreads = undecided(code, session.tables, candidates, estimates, k)
    rows = candidates[kept]
    n = len(rows) if most_bytes is None else n_within(rows, session.head, most_bytes, k)
    yield from _rescore_rows(answer, request, rows[:n], estimates[kept][:n], spreads[:n], len(candidates))


def _rescore_rows(
    answer: ShardAnswer,
    request: SearchRequest,
    rows: Int32s,
    estimates: Float32s,
    spreads: Float32s,
    n_candidates: int,
) -> Pipeline[None]:
    session, k = answer.session, request.k
    vectors = session.keys(sections.VECTORS, _blocks(rows, session.head.vector_block_rows))
    # The payload comes in the same round as the vectors that decide who needs it: a round costs more.
    yield vectors + session.keys(sections.PAYLOAD, _blocks(rows, session.head.payload_block_rows))
    places, distances, n_rescored = rescore(
        request.query, session.vector_rows(rows), session.metric, estimates, spreads, k
    )
    answer.node_ids, answer.distances = rows[places], distances
    answer.n_rescored, answer.n_skipped = n_rescored, n_candidates - n_rescored


def _few(answer: ShardAnswer, request: SearchRequest, passing: Bitmap | None) -> Pipeline[None]:
    rows = _rows(answer.session.n, passing)
    # Nothing is known of any: each could be the nearest.
    estimates, spreads = np.zeros(len(rows), np.float32), np.full(len(rows), np.inf, np.float32)
    yield from _rescore_rows(answer, request, rows, estimates, spreads, len(rows))
    answer.found.n_distances = len(rows)


def _exact(answer: ShardAnswer, request: SearchRequest, passing: Bitmap | None) -> Pipeline[None]:
    session = answer.session
    rows = _rows(session.n, passing)
    ids, distances = np.empty(0, np.int32), np.empty(0, np.float32)
    for start in range(0, len(rows), EXACT_ROWS):
        part = rows[start : start + EXACT_ROWS]
        yield session.keys(sections.VECTORS, np.unique(part // session.head.vector_block_rows))
        exact = exact_distances(request.query, session.vector_rows(part), None, session.metric)
        ids, distances = np.concatenate([ids, part]), np.concatenate([distances, exact])
        best = topk(distances, request.k)
        ids, distances = ids[best], distances[best]
        session.release(sections.VECTORS)
    answer.node_ids, answer.distances = ids, distances
    answer.n_rescored = len(rows)
    answer.found.n_distances = len(rows)


def n_within(rows: Int32s, head: ShardHead, n_bytes: int, k: int) -> int:
    """Return how many of the first of these rows (int32[m]) have exact vectors in blocks of `n_bytes` in
    all, the gaps that are joined included; at least as many as answers are wanted, twice.
    """
    blocks, block_bytes, join = _vector_blocks(rows, head)
    least, most = min(2 * k, len(rows)), len(rows)
    while least < most:
        n = (least + most + 1) // 2
        fits = blocks_read(blocks[:n], join) * block_bytes <= n_bytes
        least, most = (n, most) if fits else (least, n - 1)
    return least


def vector_reads(rows: Int32s, head: ShardHead) -> int:
    """Return what reading the exact vectors of rows (int32[m], ascending) costs, in bytes: each request of
    its own counts as the gap that stores read rather than ask twice.
    """
    blocks, block_bytes, join = _vector_blocks(rows, head)
    return blocks_read(blocks, join) * block_bytes + JOINED_BYTES * n_ranges(blocks, join)


def _vector_blocks(rows: Int32s, head: ShardHead) -> tuple[Int32s, int, int]:
    """Return the block of exact vectors of each row (int32[m]), the bytes of one, and how many in a gap are
    read rather than asked around.
    """
    block_bytes = head.vector_block_rows * head.dim * 4
    return rows // head.vector_block_rows, block_bytes, JOINED_BYTES // block_bytes


def _rows(n: int, passing: Bitmap | None) -> Int32s:
    return np.arange(n, dtype=np.int32) if passing is None else bitmap.indices(passing)


def _blocks(rows: Int32s, block_rows: int) -> list[int]:
    return sorted(set((rows // block_rows).tolist()))


class _Stopwatch:
    """Milliseconds of each stage, reads included."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.laps[stage] = (now - self._since) * 1e3
        self._since = now
