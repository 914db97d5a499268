"""A whole answer: shards in parallel rounds, the memtable, one merge by exact distance."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from vstore.cache import BlockCache
from vstore.ingest.view import CollectionView
from vstore.query.limits import WatchedStore
from vstore.query.memtable import MemtableAnswer, MemtableWork, chunk_key, chunk_row, search_memtable
from vstore.query.passing import PassingRows
from vstore.query.pipeline import WALKING, ColdReads, ShardAnswer, plan_shard, search_shard, unanswered
from vstore.query.planner import Plan
from vstore.query.recording import Recording
from vstore.query.request import SearchRequest
from vstore.query.rounds import Pipeline, Rounds
from vstore.settings import Prices, QueryLimits
from vstore.shard import sections
from vstore.shard.fetch import ReadMeter
from vstore.shard.payload import PayloadRow, unpack_attributes
from vstore.shard.reader import Shard
from vstore.shard.session import ShardSession
from vstore.storage.base import ObjectStore
from vstore.types import Float32s, Hit, Key, Metric, Receipt


@dataclass(frozen=True, slots=True)
class Engine:
    """What searching needs beside the rows: where bytes come from, are kept, and what they cost."""

    store: ObjectStore
    cache: BlockCache
    prices: Prices
    passing: PassingRows = field(default_factory=PassingRows)
    cold: ColdReads = WALKING

    def cold_of(self, n_shards: int) -> ColdReads:
        """Return how each of so many shards is searched where its codes are not resident."""
        return replace(self.cold, code_bytes=self.cold.code_bytes // max(n_shards, 1))


@dataclass(slots=True)
class Ranked:
    """The k nearest matching rows of a whole view.

    `parts` int64[m] says where a row is (shard number, or -1 for the memtable), `rows` int64[m] its
    node id, or its place among the memtable's answer; `distances` float32[m] ascending.
    """

    parts: Any
    rows: Any
    distances: Float32s
    shards: Sequence[ShardAnswer]
    memtable: MemtableAnswer
    rounds: Rounds
    receipt: Receipt


def score_of(distances: Float32s, metric: Metric) -> Float32s:
    """Return higher-is-better scores: cosine similarity, inner product, or minus the L2 distance."""
    if metric == "cosine":
        return np.float32(1) - distances
    if metric == "dot":
        return -distances
    return -np.sqrt(np.maximum(distances, 0))


def distance_of(distances: Float32s, metric: Metric) -> Float32s:
    """Return the metric's own distances: L2 (not squared), 1 - cosine, or minus the inner product."""
    return np.sqrt(np.maximum(distances, 0)) if metric == "l2" else distances


def rank(
    view: CollectionView[Shard],
    request: SearchRequest,
    engine: Engine,
    limits: QueryLimits | None = None,
    recording: Recording | None = None,
) -> Ranked:
    """Find the k nearest matching rows of a view and account for the work.

    Args:
        view: what is searched.
        request: what for.
        engine: by what means.
        limits: of the search.
        recording: gets its rounds, and what is asked for in each; those of `hits_of`, too.

    Raises:
        QueryStopped: the limits ended it, and do not ask for what was found until then.
    """
    store, partial = engine.store, False
    if limits is not None and limits.bind:
        store, partial = WatchedStore(store, limits), limits.partial
    if recording is None:
        passing, rounds = engine.passing, Rounds(store, engine.cache.disk, partial=partial)
        sessions = [ShardSession(live.shard, engine.cache) for live in view.shards]
    else:
        passing, rounds = recording.passing, recording.rounds_over(store, engine.cache.disk)
        sessions = [recording.session(live.shard, engine.cache) for live in view.shards]
    cold = engine.cold_of(len(sessions))
    answers = rounds.run(
        [
            (session, search_shard(session, live, request, passing, cold))
            for session, live in zip(sessions, view.shards, strict=True)
        ]
    )
    answers = [answer or unanswered(session) for answer, session in zip(answers, sessions, strict=True)]
    started = time.perf_counter()
    memtable = search_memtable(view.memtable, request, view.schema.metric)
    memtable_ms = (time.perf_counter() - started) * 1e3
    parts = np.concatenate(
        [np.full(len(answer.node_ids), i, np.int64) for i, answer in enumerate(answers)]
        + [np.full(len(memtable.rows), -1, np.int64)]
    )
    rows = np.concatenate(
        [answer.node_ids.astype(np.int64) for answer in answers] + [np.arange(len(memtable.rows))]
    )
    distances = np.concatenate([answer.distances for answer in answers] + [memtable.distances])
    order = np.argsort(distances, kind="stable")[: request.k]
    receipt = _receipt(view, answers, memtable)
    if view.memtable.n_live:
        receipt.timings_ms["memtable"] = memtable_ms
    return Ranked(parts[order], rows[order], distances[order], answers, memtable, rounds, receipt)


def hits_of(ranked: Ranked, engine: Engine, metric: Metric) -> list[Hit]:
    """Return the ranked rows as hits, with attributes and documents, read in at most one round."""
    started = time.perf_counter()
    by_shard = {int(part): ranked.rows[ranked.parts == part] for part in np.unique(ranked.parts) if part >= 0}
    ranked.rounds.run(
        [
            (ranked.shards[part].session, payload_round(ranked.shards[part].session, rows))
            for part, rows in by_shard.items()
        ]
    )
    if ranked.rounds.stopped is not None:
        _drop_unread(ranked)
    scores = score_of(ranked.distances, metric).tolist()
    own = distance_of(ranked.distances, metric).tolist()
    hits = []
    for position, (part, row) in enumerate(zip(ranked.parts.tolist(), ranked.rows.tolist(), strict=True)):
        if part < 0:
            chunk = ranked.memtable.view.chunks[int(ranked.memtable.chunks[row])]
            key, attributes, document = chunk_row(chunk, int(ranked.memtable.rows[row]))
        else:
            session = ranked.shards[part].session
            block, offset = divmod(row, session.head.payload_block_rows)
            payload: PayloadRow = session.get(sections.PAYLOAD, block)[offset]
            key, document = payload.key, payload.document
            attributes = unpack_attributes(payload, session.shard.shown(session.head))
        score = scores[position]
        hits.append(Hit(key, score, own[position], attributes, document, score, position))
    ranked.receipt.timings_ms["payload"] = (time.perf_counter() - started) * 1e3
    settle(ranked, engine)
    return hits


def _drop_unread(ranked: Ranked) -> None:
    """Leave out the hits whose payload was not read any more."""

    def there(part: int, row: int) -> bool:
        if part < 0:
            return True
        session = ranked.shards[part].session
        key = session.key(sections.PAYLOAD, row // session.head.payload_block_rows)
        return not session.missing([key])

    places = zip(ranked.parts.tolist(), ranked.rows.tolist(), strict=True)
    kept = [i for i, (part, row) in enumerate(places) if there(part, row)]
    ranked.parts, ranked.rows = ranked.parts[kept], ranked.rows[kept]
    ranked.distances = ranked.distances[kept]


def keys_of(ranked: Ranked, engine: Engine) -> list[Key]:
    """Return the ranked rows' keys alone: what a batch answers with."""
    by_shard = {int(part) for part in np.unique(ranked.parts) if part >= 0}
    ranked.rounds.run(
        [
            (ranked.shards[part].session, whole_round(ranked.shards[part].session, sections.KEYS))
            for part in by_shard
        ]
    )
    keys: list[Key] = []
    for part, row in zip(ranked.parts.tolist(), ranked.rows.tolist(), strict=True):
        if part < 0:
            chunk = ranked.memtable.view.chunks[int(ranked.memtable.chunks[row])]
            keys.append(chunk_key(chunk, int(ranked.memtable.rows[row])))
        else:
            key = ranked.shards[part].session.get(sections.KEYS)[row]
            keys.append(key if isinstance(key, str) else int(key))
    settle(ranked, engine)
    return keys


def explain(view: CollectionView[Shard], request: SearchRequest, engine: Engine) -> Receipt:
    """Return the receipt's plan part without running the search; reads filter columns where needed."""
    rounds = Rounds(engine.store, engine.cache.disk)
    sessions = [ShardSession(live.shard, engine.cache) for live in view.shards]
    cold = engine.cold_of(len(sessions))
    plans = rounds.run(
        [
            (session, plan_shard(session, live, request, engine.passing, cold))
            for session, live in zip(sessions, view.shards, strict=True)
        ]
    )
    empty = np.empty(0, np.float32)
    answers = [
        ShardAnswer(session, plan, empty.astype(np.int32), empty)
        for session, (plan, _, _) in zip(sessions, plans, strict=True)
    ]
    memtable = search_memtable(view.memtable, request, view.schema.metric)
    receipt = _receipt(view, answers, memtable)
    receipt.n_distances = 0
    nothing = np.empty(0, np.int64)
    settle(Ranked(nothing, nothing, empty, answers, memtable, rounds, receipt), engine)
    return receipt


def settle(ranked: Ranked, engine: Engine) -> None:
    """Write what the rounds cost into the receipt: after the last of them."""
    n_cache_hits = sum(answer.session.n_cache_hits for answer in ranked.shards)
    write_reads(ranked.receipt, ranked.rounds.meter, n_cache_hits, engine.prices)
    if (stopped := ranked.rounds.stopped) is not None:
        ranked.receipt.partial, ranked.receipt.stopped = True, str(stopped)


def write_reads(receipt: Receipt, meter: ReadMeter, n_cache_hits: int, prices: Prices) -> None:
    """Write what was read, and what was not, into a receipt."""
    receipt.n_round_trips = meter.n_round_trips
    receipt.n_requests = meter.n_requests
    receipt.n_retries = meter.n_retries
    receipt.bytes_fetched = meter.bytes_fetched
    receipt.n_cache_misses = meter.n_blocks
    receipt.n_disk_hits = meter.n_disk_hits
    receipt.n_cache_hits = n_cache_hits
    receipt.estimated_cost_usd = (
        meter.n_requests * prices.get_usd + meter.bytes_fetched / (1 << 30) * prices.gibibyte_out_usd
    )
    if meter.read_ms:
        receipt.timings_ms["read"] = meter.read_ms


class Work(NamedTuple):
    """What finding one shard's candidates took."""

    n_distances: int
    n_hops: int
    n_filter_checks: int
    n_rescored: int
    n_skipped: int


def receipt_of(
    *,
    n_live: int,
    n_memtable: int,
    memtable: MemtableWork,
    plans: Sequence[tuple[str, Plan]],
    work: Sequence[Work],
) -> Receipt:
    """Return the receipt of an answer before its reads and timings are written into it.

    Args:
        n_live: rows of the collection.
        n_memtable: of them, those in the memtable.
        memtable: what searching them took.
        plans: id and plan of each shard.
        work: of each shard.
    """
    receipt = Receipt(n_rows=n_live)
    receipt.plans = [{"shard": shard_id, **plan.as_dict()} for shard_id, plan in plans]
    if n_memtable:
        receipt.plans.append(
            {
                "shard": "memtable",
                "traversal": "scan" if memtable.n_coded else "exact",
                "n_matching": memtable.n_matching,
                "reason": _memtable_reason(n_memtable, memtable),
            }
        )
    receipt.plan = _summary(receipt.plans)
    receipt.n_matching = memtable.n_matching + sum(plan.n_matching for _, plan in plans)
    receipt.selectivity = receipt.n_matching / n_live if n_live else 0.0
    known = [plan for _, plan in plans if plan.correlation is not None]
    if known:
        weights = [max(plan.n_matching, 1) for plan in known]
        receipt.correlation = float(np.average([plan.correlation for plan in known], weights=weights))
    receipt.ef = max((plan.ef for _, plan in plans), default=0)
    receipt.n_distances = memtable.n_matching + sum(part.n_distances for part in work)
    receipt.n_hops = sum(part.n_hops for part in work)
    receipt.n_filter_checks = sum(part.n_filter_checks for part in work)
    receipt.n_rescored = memtable.n_rescored + sum(part.n_rescored for part in work)
    receipt.n_skipped = memtable.n_skipped + sum(part.n_skipped for part in work)
    return receipt


def _memtable_reason(n_rows: int, work: MemtableWork) -> str:
    if not work.n_coded:
        return f"{n_rows} rows not yet flushed are scored exactly"
    return f"of {n_rows} rows not yet flushed, {work.n_coded} are scanned by codes, the others scored exactly"


def _receipt(
    view: CollectionView[Shard],
    answers: Sequence[ShardAnswer],
    memtable: MemtableAnswer,
) -> Receipt:
    receipt = receipt_of(
        n_live=view.n_live,
        n_memtable=view.memtable.n_live,
        memtable=memtable.work,
        plans=[(answer.session.shard.shard_id, answer.plan) for answer in answers],
        work=[
            Work(a.found.n_distances, a.found.n_hops, a.found.n_filter_checks, a.n_rescored, a.n_skipped)
            for a in answers
        ],
    )
    for answer in answers:
        for stage, spent in answer.timings_ms.items():
            receipt.timings_ms[stage] = receipt.timings_ms.get(stage, 0.0) + spent
    return receipt


def _summary(plans: Sequence[dict[str, Any]]) -> str:
    if not plans:
        return "empty: the collection has no rows"
    names = [plan["traversal"] for plan in plans]
    if len(plans) == 1:
        return f"{names[0]}: {plans[0]['reason']}"
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    return " + ".join(f"{name} on {n} parts" if n > 1 else name for name, n in counts.items())


def payload_round(session: ShardSession, rows: Any) -> Pipeline[None]:
    """Make the payload of rows (integers[m]) resident in a session."""
    yield [session.key(sections.HEAD)]
    yield session.keys(sections.PAYLOAD, np.unique(rows // session.head.payload_block_rows))


def whole_round(session: ShardSession, section: str) -> Pipeline[None]:
    """Make a section of one piece resident in a session."""
    yield [session.key(sections.HEAD)]
    yield [session.key(section)]
