"""Answers to many queries at once: the kernel's own speed, over threads, keys mapped by arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from vstore.cancel import checking, current_check
from vstore.ingest.view import CollectionView
from vstore.query.account import Account
from vstore.query.cost import plan_us
from vstore.query.memtable import MemtableAnswer, MemtableWork, chunk_key, search_memtable
from vstore.query.near import Look
from vstore.query.planner import Plan, ShardPlans
from vstore.query.receipts import LaterReceipts
from vstore.query.request import SearchRequest
from vstore.query.resident import (
    Found,
    PlannedShard,
    ReadyShard,
    ResidentShards,
    Step,
    find,
    is_uncut,
    step_of,
)
from vstore.query.rounds import Rounds
from vstore.query.search import Engine, keys_of, rank, score_of, whole_round
from vstore.shard import sections
from vstore.shard.fetch import ReadMeter
from vstore.shard.reader import Shard
from vstore.shard.session import ShardSession
from vstore.types import BatchHits, Float32s, Int64s, Receipt
from vstore_kernels import layout
from vstore_kernels.scan_tile import TILE

View = CollectionView[Shard]
T = TypeVar("T")
R = TypeVar("R")

SLICES_A_THREAD: Final = 6
"""Kernel calls for each thread, where they are alike."""
SHARE: Final = 3
"""Of several threads, each takes this part of its share of what is left: large calls first, small ones at the
end, so that threads end together (guided self-scheduling, Polychronopoulos & Kuck 1987)."""
LEAST_SLICE: Final = 16
"""A kernel call answers at least this many queries: fewer, and threads wait for the interpreter's lock."""
GAPS_BYTES: Final = 32 << 20
"""Distances of clusters that are held at once; batches whose distances are more go piece by piece."""
BY_CLUSTERS: Final = (layout.ACORN, layout.CLUSTERS)
"""Modes that read the distances of the clusters."""
LOOK_EVERY_US: Final = 10_000.0
"""Where somebody may give up, a kernel call takes about as long at most, by the planner's estimate; queries
that scan together are estimated as if each scanned alone, so four may take four times that."""


def search_batch(
    view: View,
    request: SearchRequest,
    queries: Float32s,
    engine: Engine,
    resident: ResidentShards,
    n_threads: int,
) -> BatchHits:
    """Return the answers to many queries that differ in nothing but the vector.

    Args:
        view: what is searched.
        request: of every query; its own vector is not read.
        queries: float32[n, dim], C-contiguous, checked; receipts keep it.
        engine: its cache is used and filled.
        resident: remembered for the collection.
        n_threads: the most threads to use.
    """
    k = request.k
    text = view.id_kind == "str"
    ids = np.full((len(queries), k), None if text else -1, dtype=object if text else np.int64)
    scores = np.full(ids.shape, -np.inf, dtype=np.float32)
    batch = BatchHits(ids, scores, [])
    if not len(queries):
        return batch
    answered, accounts = _by_kernel(view, request, queries, engine, resident, n_threads, batch)
    batch.receipts = receipts = LaterReceipts(len(queries), partial(_receipt, accounts))
    left = np.flatnonzero(~answered).tolist()
    for i, receipt in _by_pipeline(view, request, queries, engine, n_threads, left, batch):
        receipts.put(i, receipt)
    return batch


def _receipt(accounts: _Accounts | None, i: int) -> Receipt:
    assert accounts is not None, "what no kernel answered brings its receipt"
    return Receipt.later(partial(accounts.values, i))


def _by_pipeline(
    view: View,
    request: SearchRequest,
    queries: Float32s,
    engine: Engine,
    n_threads: int,
    left: Sequence[int],
    batch: BatchHits,
) -> list[tuple[int, Receipt]]:
    """Answer those queries one by one, over threads where they wait for storage."""

    check = current_check()

    def answer(i: int) -> tuple[int, Receipt]:
        with nullcontext() if check is None else checking(check):
            ranked = rank(view, request._replace(query=queries[i]), engine)
        keys = keys_of(ranked, engine)
        batch.ids[i, : len(keys)] = keys
        batch.scores[i, : len(keys)] = score_of(ranked.distances, view.schema.metric)
        return i, ranked.receipt

    # A query that reads nothing is short Python between short kernels: threads would only pass the
    # interpreter's lock back and forth. One that waits for storage is what they are for.
    first = [answer(left[0])] if left else []
    if first and first[0][1].n_round_trips:
        with ThreadPoolExecutor(n_threads) as pool:
            return first + list(pool.map(answer, left[1:]))
    return first + [answer(i) for i in left[1:]]


def _by_kernel(
    view: View,
    request: SearchRequest,
    queries: Float32s,
    engine: Engine,
    resident: ResidentShards,
    n_threads: int,
    batch: BatchHits,
) -> tuple[npt.NDArray[np.bool_], _Accounts | None]:
    """Answer what needs nothing that is not resident; return which queries (bool[n]), and their accounts."""
    k = request.k
    ready = resident.ready(view.shards)
    planned = None if ready is None else resident.planned(view.shards, ready, request)
    if ready is None or planned is None:
        return np.zeros(len(queries), np.bool_), None
    parts, plans = [], []
    for shard, plan in zip(ready, planned, strict=True):
        found, own = on_shard(shard, plan, queries, k, n_threads)
        parts.append(found)
        plans.append(own)
    answered = np.ones(len(queries), np.bool_)
    for part in parts:
        answered &= part.lacks == 0
    if view.shards:
        resident.tell(view.shards, not answered.all())
    memtables: list[MemtableAnswer] = []
    if view.memtable.chunks:
        asked = (request._replace(query=query) for query in queries)
        memtables = [search_memtable(view.memtable, one, view.schema.metric) for one in asked]
    numbers, rows, distances = _merged(parts, memtables, len(queries), k)
    meter = _map_keys(view, numbers, rows, memtables, answered, engine, batch)
    batch.scores[answered] = score_of(distances[answered], view.schema.metric)
    batch.scores[numbers == _NOWHERE] = -np.inf
    accounts = _Accounts(
        queries, ready, planned, plans, parts, view.n_live, view.memtable.n_live, memtables, meter, engine
    )
    return answered, accounts


class Workers:
    """The calling thread and up to `n` - 1 others, started when they are needed and ended with the block."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *about: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run(self, function: Callable[[T], R], tasks: Sequence[T]) -> list[R]:
        """Return the results of all tasks, in their order; threads take one after the other as they come."""
        if self.n == 1 or len(tasks) < 2:
            return [function(task) for task in tasks]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.n - 1)
        results: dict[int, R] = {}
        numbers = iter(range(len(tasks)))

        def work() -> None:
            try:
                for number in numbers:
                    results[number] = function(tasks[number])
            except BaseException:
                for _ in numbers:
                    pass  # What is left nobody needs any more.
                raise

        others = [self._pool.submit(work) for _ in range(min(self.n, len(tasks)) - 1)]
        try:
            work()
        finally:
            wait(others)
        for other in others:
            other.result()
        return [results[number] for number in range(len(tasks))]


class _Call(NamedTuple):
    """One kernel call."""

    step: Step
    queries: Float32s
    room: Found
    gaps: Float32s | None


class _Accounts(NamedTuple):
    """What the answers of a batch took, to make the receipt of any of them."""

    queries: Float32s
    ready: Sequence[ReadyShard]
    planned: Sequence[PlannedShard]
    plans: Sequence[Sequence[Plan]]
    parts: Sequence[Found]
    n_live: int
    n_memtable: int
    memtables: Sequence[MemtableAnswer]
    meter: ReadMeter
    engine: Engine

    def values(self, i: int) -> dict[str, Any]:
        """Return every field of receipt i by name."""
        account = Account(
            self.queries[i],
            self.ready,
            self.planned,
            [own[i] for own in self.plans],
            [part.counters[i] for part in self.parts],
            self.n_live,
            self.n_memtable,
            self.memtables[i].work if self.memtables else MemtableWork(),
            2 * len(self.ready),
            # Who comes first pays for what all need, as where each is answered by itself.
            self.meter if i == 0 else None,
            {},
            self.engine,
        )
        return account.values()


def on_shard(
    shard: ReadyShard, planned: PlannedShard, queries: Float32s, k: int, n_threads: int
) -> tuple[Found, list[Plan]]:
    """Return what one shard has for each query, and each query's plan."""
    found = Found.room(len(queries), k)
    plans = np.empty(len(queries), object)
    at_once = max(LEAST_SLICE * n_threads, GAPS_BYTES // (4 * len(shard.head.centroids)))
    with Workers(n_threads if len(queries) > LEAST_SLICE else 1) as workers:
        for start in range(0, len(queries), at_once):
            part = slice(start, start + at_once)
            _some_on_shard(shard, planned, queries[part], k, workers, found.part(part), plans[part])
    return found, plans.tolist()


def _some_on_shard(
    shard: ReadyShard,
    planned: PlannedShard,
    queries: Float32s,
    k: int,
    workers: Workers,
    found: Found,
    plans: npt.NDArray[np.object_],
) -> None:
    """Write to `found` and `plans` what one shard has for each query, and each query's plan."""
    groups: list[tuple[Int64s, Found]] = []
    calls: list[_Call] = []
    most = _whole_tiles(len(queries) / (SLICES_A_THREAD * workers.n))
    check = current_check()
    split, gaps = _split(planned.plans, queries, workers, most)
    alike: dict[tuple[int, ...], tuple[Step, list[Int64s]]] = {}
    for plan, own in split:
        step = step_of(shard, planned, plan)
        plans[own] = plan
        if step is None or is_uncut(step):
            found.lacks[own] = 1
            continue
        # Plans that ask the same for other reasons: together they fill the tiles of a scan.
        alike.setdefault(step.wanted, (step, []))[1].append(own)
    for step, rows in alike.values():
        own = rows[0] if len(rows) == 1 else np.sort(np.concatenate(rows))
        size = len(own) if workers.n > 1 else most
        if check is not None:
            size = min(size, _between_looks(plan_us(planned, step.plan)))
        whole = len(own) == len(queries)
        asked, room = (queries, found) if whole else (queries[own], Found.room(len(own), k))
        near = gaps if gaps is not None and step.mode in BY_CLUSTERS else None
        if near is not None and not whole:
            near = near[own]
        if not whole:
            groups.append((own, room))
        calls.extend(
            _Call(step, asked[part], room.part(part), None if near is None else near[part])
            for part in _slices(len(own), size, workers.n)
        )

    def call(task: _Call) -> None:
        if check is not None:
            check()
        find(shard, task.step, task.queries, k, task.room, task.gaps)

    # The widest first: what is left for the end is short.
    calls.sort(key=lambda task: -task.step.width * len(task.queries))
    workers.run(call, calls)
    for own, room in groups:
        found.node_ids[own], found.distances[own] = room.node_ids, room.distances
        found.counters[own], found.lacks[own] = room.counters, room.lacks


def _slices(m: int, most: int, n_threads: int) -> Iterator[slice]:
    """Yield runs of m queries, at most `most` in each, for threads that take them in turn."""
    start = 0
    while start < m:
        size = most
        if n_threads > 1:
            size = min(most, _whole_tiles((m - start) / (SHARE * n_threads)))
        yield slice(start, min(start + size, m))
        start += size


def _whole_tiles(m: float) -> int:
    return max(LEAST_SLICE, math.ceil(m / TILE) * TILE)


def _split(
    plans: ShardPlans, queries: Float32s, workers: Workers, most: int
) -> tuple[list[tuple[Plan, Int64s]], Float32s | None]:
    """Return each plan with its queries' rows, and the distances of the clusters where they were asked."""
    fixed = plans.fixed_for(len(queries))
    if fixed is not None:
        return [(fixed, np.arange(len(queries)))], None
    parts = [queries[start : start + most] for start in range(0, len(queries), most)]
    looks = workers.run(plans.look, parts)
    look = (
        looks[0]
        if len(looks) == 1
        else Look(*(np.concatenate(column) for column in zip(*looks, strict=True)))
    )
    return plans.split_by(look), look.gaps if look.gaps.shape[1] else None


def _between_looks(query_us: float) -> int:
    """Return how many queries a kernel call answers that may be called off; always one at least."""
    many = int(LOOK_EVERY_US / max(query_us, 1.0))
    return many if many >= 4 else max(1, min(4, int(4 * LOOK_EVERY_US / query_us)))


_MEMTABLE: Final = -1
_NOWHERE: Final = -2


def _merged(
    parts: Sequence[Found], memtables: Sequence[MemtableAnswer], n: int, k: int
) -> tuple[Int64s, Int64s, Float32s]:
    """Return, each [n, k] and best first: shard number, _MEMTABLE or _NOWHERE; row there; distance."""
    if len(parts) == 1 and not memtables:
        ids = parts[0].node_ids.astype(np.int64)
        return np.where(ids < 0, _NOWHERE, 0), ids, parts[0].distances
    numbers = [np.where(part.node_ids < 0, _NOWHERE, s) for s, part in enumerate(parts)]
    rows = [part.node_ids.astype(np.int64) for part in parts]
    distances = [part.distances for part in parts]
    for i, answer in enumerate(memtables):
        if i == 0:
            numbers.append(np.full((n, k), _NOWHERE))
            rows.append(np.full((n, k), -1, np.int64))
            distances.append(np.full((n, k), np.inf, np.float32))
        m = len(answer.rows)
        numbers[-1][i, :m], rows[-1][i, :m] = _MEMTABLE, np.arange(m)
        distances[-1][i, :m] = answer.distances
    if not numbers:
        return np.full((n, k), _NOWHERE), np.full((n, k), -1, np.int64), np.full((n, k), np.inf, np.float32)
    number, row, distance = (np.concatenate(part, axis=1) for part in (numbers, rows, distances))
    # What is nowhere comes last, behind an infinite distance too.
    order = np.lexsort((distance, number == _NOWHERE), axis=1)[:, :k]
    return tuple(np.take_along_axis(part, order, axis=1) for part in (number, row, distance))  # type: ignore[return-value]


def _map_keys(
    view: View,
    numbers: Int64s,
    rows: Int64s,
    memtables: Sequence[MemtableAnswer],
    answered: npt.NDArray[np.bool_],
    engine: Engine,
    batch: BatchHits,
) -> ReadMeter:
    """Write the keys of the rows that were found; return what reading the shards' keys cost."""
    rounds = Rounds(engine.store, engine.cache.disk)
    places = numbers[answered]
    used = [s for s in range(len(view.shards)) if (places == s).any()]
    sessions = {s: ShardSession(view.shards[s].shard, engine.cache) for s in used}
    rounds.run([(session, whole_round(session, sections.KEYS)) for session in sessions.values()])
    for number, session in sessions.items():
        held, here = session.get(sections.KEYS), (numbers == number) & answered[:, None]
        if isinstance(held, np.ndarray):
            batch.ids[here] = held[rows[here]]
        else:
            batch.ids[here] = [held[row] for row in rows[here].tolist()]
    for i, answer in enumerate(memtables):
        for j in np.flatnonzero(numbers[i] == _MEMTABLE).tolist() if answered[i] else ():
            row = int(rows[i, j])
            batch.ids[i, j] = chunk_key(answer.view.chunks[int(answer.chunks[row])], int(answer.rows[row]))
    return rounds.meter
