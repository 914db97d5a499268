"""Answers without a wait: where all that a search reads is resident, one kernel call a shard.

The kernel walks, re-scores and returns the k best; Python sees no hop. What is remembered between searches
depends on the shards alone (`ReadyShard`) or on shards, filter, k, recall and ef (`PlannedShard`), never on
a query. Where anything is not resident the pipeline answers, with the same hits, scores and counters.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from vstore.cache import BlockCache, RowTables
from vstore.cancel import check_cancelled, current_check
from vstore.filters import Filter
from vstore.ingest.chunk_codes import NO_LEVELS
from vstore.ingest.view import LiveShard
from vstore.query.passing import PassingRows
from vstore.query.pipeline import passing_rows, plans_for
from vstore.query.planner import Plan, ShardPlans
from vstore.query.request import SearchRequest
from vstore.shard import sections
from vstore.shard.head import ShardHead
from vstore.shard.reader import Shard
from vstore.shard.session import ShardSession
from vstore.traverse import scan
from vstore.traverse.scratch import ScratchPool
from vstore.types import Bitmap, Float32s, Int32s, Int64s, UInt8s
from vstore_kernels import layout
from vstore_kernels.answer import AnswerScratch, Asked, OneAnswer, ResidentShard, answer, answer_one
from vstore_kernels.tables import BlockTables

MODES: Final = {
    "scan": layout.SCAN,
    "near_scan": layout.CLUSTERS,
    "hnsw": layout.HNSW,
    "result_filter": layout.HNSW_RESULT_FILTER,
    "cluster_acorn": layout.ACORN,
}
"""The traversals that the kernel knows; others run as generators."""
SCRATCH: ScratchPool[AnswerScratch] = ScratchPool(AnswerScratch)
"""The process's pool. Scratch has no meaning between searches, so sharing it is safe."""
SCANS: Final = (layout.SCAN, layout.CLUSTERS)
"""These read no lists and no upper levels."""
REMEMBERED_PLANS: Final = 256
REMEMBERED_BYTES: Final = 64 << 20
"""Of bitmaps that plans hold beside those that `PassingRows` remembers."""
PATIENCE: Final = 8
"""After so many searches in a row that lacked a vector, only one in so many tries the kernel first."""


@dataclass(frozen=True, slots=True, eq=False)
class ReadyShard:
    """One shard whose head and codes are resident, as a kernel takes it; `walks` where its graph is, too."""

    shard: Shard
    head: ShardHead
    rows: RowTables
    kernel: ResidentShard
    tables: BlockTables
    walks: bool


@dataclass(frozen=True, slots=True, eq=False)
class PlannedShard:
    """How one shard answers queries of the same filter, k, recall and ef."""

    plans: ShardPlans
    passing: Bitmap | None
    told: dict[tuple[int, ...], tuple[tuple[Plan, ...], dict[str, Any]]] = field(default_factory=dict)
    """Receipts' fields by the rows of the collection and the ids of the shards' plans, which are kept beside
    them; on the first of the shards that were planned together."""
    steps: dict[int, Step | None] = field(default_factory=dict)
    """By the id of a plan, which `plans` keeps; None where the kernel does not know the traversal."""


class Step(NamedTuple):
    """One kernel call: a plan in the kernel's terms."""

    plan: Plan
    passing: Bitmap | None
    mode: int
    width: int
    asked: Asked

    @property
    def wanted(self) -> tuple[int, ...]:
        """What it asks of the kernel, beside rows and k: equal for plans that ask the same for other
        reasons."""
        return self.mode, self.width, self.plan.n_seeds, self.plan.n_candidates


@dataclass(slots=True, eq=False)
class Planned:
    """What is remembered for a filter, k, recall and ef.

    It keeps the filter, so that its id stays its own.
    """

    filter: Filter | None
    shards: tuple[PlannedShard, ...]
    size_bytes: int


@dataclass(slots=True, eq=False)
class Found:
    """The k best rows of m queries in one shard.

    `node_ids` int32[m, k] is -1 and `distances` float32[m, k] infinite where fewer match; `counters` is
    int64[m, N_COUNTERS]; `lacks` bool-like uint8[m] is not 0 where a vector was not resident.
    """

    node_ids: Int32s
    distances: Float32s
    counters: Int64s
    lacks: UInt8s

    @classmethod
    def of_one(cls, one: OneAnswer, k: int) -> Found:
        """Return the answer to one query as arrays."""
        found = cls.room(1, k)
        n = len(one.ids)
        found.node_ids[0, :n], found.distances[0, :n] = one.ids, one.distances
        found.counters[0], found.lacks[0] = one.counters, one.status
        return found

    @classmethod
    def room(cls, m: int, k: int) -> Found:
        """Return room for m queries, with nothing found."""
        return cls(
            np.full((m, k), layout.NO_NODE, np.int32),
            np.full((m, k), np.inf, np.float32),
            np.zeros((m, layout.N_COUNTERS), np.int64),
            np.zeros(m, np.uint8),
        )

    def one(self) -> OneAnswer:
        """Return the answer to the first query."""
        return next(self.part(slice(1)).each())

    def each(self) -> Iterator[OneAnswer]:
        """Yield the answer to each query."""
        columns = (
            self.lacks.tolist(),
            self.node_ids.tolist(),
            self.distances.tolist(),
            self.counters.tolist(),
        )
        for lacks, ids, distances, counters in zip(*columns, strict=True):
            if ids[-1] < 0:
                n = ids.index(layout.NO_NODE)
                ids, distances = ids[:n], distances[:n]
            yield OneAnswer(lacks, ids, distances, counters)

    def part(self, part: slice) -> Found:
        """Return a run of the queries; it shares the arrays."""
        return Found(self.node_ids[part], self.distances[part], self.counters[part], self.lacks[part])


class _Moment:
    """The shards of one view, and what is remembered for them."""

    def __init__(self, shards: tuple[LiveShard[Shard], ...]) -> None:
        self.shards = shards
        self.plans: OrderedDict[tuple[Any, ...], Planned] = OrderedDict()
        self.plans_bytes = 0
        self.n_live = sum(live.n_live for live in shards)
        self.n_lacking = 0
        """Searches in a row for which an exact vector was not resident."""


class ResidentShards:
    """What one collection's handle remembers of resident shards. Thread-safe.

    It refers to shards, never to a memtable or to a cached block: those it asks the cache for.

    Args:
        cache: holds the blocks.
        known: bitmaps of filters.
    """

    def __init__(self, cache: BlockCache, known: PassingRows) -> None:
        self._cache = cache
        self._known = known
        self._lock = threading.Lock()
        self._moment = _Moment(())

    def ready(self, shards: tuple[LiveShard[Shard], ...]) -> list[ReadyShard] | None:
        """Return the shards as kernels take them, or None where one is not wholly resident."""
        moment = self._at(shards)
        if moment.n_lacking >= PATIENCE and moment.n_lacking % PATIENCE:
            moment.n_lacking += 1
            return None
        found: list[ReadyShard] = []
        for live in shards:
            ready = self._cache.attached(live.shard.entry.shard_id)
            if ready is None or (not ready.walks and ready.tables.resident):
                ready = self._make(live.shard) or ready
            if ready is None:
                return None
            found.append(ready)
        return found

    def tell(self, shards: tuple[LiveShard[Shard], ...], lacking: bool) -> None:
        """Say whether a search lacked vectors; where most do, trying first only costs time."""
        moment = self._at(shards)
        moment.n_lacking = moment.n_lacking + 1 if lacking else 0

    def n_live(self, shards: tuple[LiveShard[Shard], ...]) -> int:
        """Return the rows of the shards that are alive."""
        return self._at(shards).n_live

    def planned(
        self, shards: tuple[LiveShard[Shard], ...], ready: Sequence[ReadyShard], request: SearchRequest
    ) -> tuple[PlannedShard, ...] | None:
        """Return each shard's plans, or None where a column that the filter reads is not resident.

        Args:
            shards: of the view.
            ready: from `ready`.
            request: its query is not read.
        """
        moment = self._at(shards)
        key = (id(request.filter), request.k, request.recall, request.ef)
        planned = moment.plans.get(key)
        if planned is not None:
            return planned.shards
        made = self._plan(shards, ready, request)
        if made is None:
            return None
        with self._lock:
            if key not in moment.plans:
                moment.plans[key] = made
                moment.plans_bytes += made.size_bytes
            while len(moment.plans) > REMEMBERED_PLANS or moment.plans_bytes > REMEMBERED_BYTES:
                moment.plans_bytes -= moment.plans.popitem(last=False)[1].size_bytes
        return made.shards

    def _at(self, shards: tuple[LiveShard[Shard], ...]) -> _Moment:
        moment = self._moment
        if moment.shards is not shards:
            moment = self._moment = _Moment(shards)
        return moment

    def _make(self, shard: Shard) -> ReadyShard | None:
        session = ShardSession(shard, self._cache)
        head_key, upper_key = session.key(sections.HEAD), session.key(sections.UPPER)
        if session.missing([head_key]):
            return None
        head, tables, rows = session.head, session.tables, session.row_tables
        vector_shift = head.vector_block_rows.bit_length() - 1
        if not tables.codes_resident or 1 << vector_shift != head.vector_block_rows:
            return None
        walks = tables.resident and not session.missing([upper_key])
        kernel = ResidentShard(
            tables if walks else codes_alone(tables),
            session.upper.levels if walks else NO_LEVELS,
            session.upper.codes if walks else np.zeros((1, tables.row_bytes), np.uint8),
            head.centroids,
            head.cluster_offsets,
            head.code_params,
            rows.vector_table,
            vector_shift,
        )
        guides = [head_key, *([upper_key] if walks else [])]
        guides += [
            key
            for key in map(session.key, (sections.LISTS, sections.CODES))
            if self._cache.get(key) is not None
        ]
        ready = ReadyShard(shard, head, rows, kernel, tables, walks)
        self._cache.attach(ready, guides, tables, rows)
        return ready

    def _plan(
        self, shards: tuple[LiveShard[Shard], ...], ready: Sequence[ReadyShard], request: SearchRequest
    ) -> Planned | None:
        planned: list[PlannedShard] = []
        size_bytes = 0
        for live, held in zip(shards, ready, strict=True):
            resident, passing = self._passing(live, request.filter)
            if not resident:
                return None
            planned.append(PlannedShard(plans_for(held.head, request, passing), passing))
            if passing is not None and live.live is not None and request.filter is not None:
                size_bytes += passing.nbytes
        return Planned(request.filter, tuple(planned), size_bytes)

    def _passing(self, live: LiveShard[Shard], filter: Filter | None) -> tuple[bool, Bitmap | None]:
        """Return whether all was resident that the filter reads, and the rows that pass."""
        session = ShardSession(live.shard, self._cache)
        pipeline = passing_rows(session, live, filter, self._known)
        try:
            while not session.missing(next(pipeline)):
                pass
        except StopIteration as stop:
            passing: Bitmap | None = stop.value
            return True, passing
        finally:
            pipeline.close()
        return False, None


def codes_alone(tables: BlockTables) -> BlockTables:
    """Return tables of the same codes under lists without links, for scans of a shard whose lists are absent.

    Args:
        tables: with every code block resident.
    """
    scanned = tables.copy()
    block_rows = 1 << tables.block_shift
    nothing = np.full((min(block_rows, tables.n), tables.M0), layout.NO_NODE, np.int32)
    for block in np.flatnonzero(scanned.list_table == 0).tolist():
        scanned.set_lists(block, nothing[: tables.n - block * block_rows])
    return scanned


def step_of(ready: ReadyShard, planned: PlannedShard, plan: Plan) -> Step | None:
    """Return the kernel call of a plan; None where the kernel does not know its traversal, or lacks lists.

    Args:
        ready: the shard.
        planned: remembers the call.
        plan: one that the plans in `planned` gave.
    """
    try:
        step = planned.steps[id(plan)]
    except KeyError:
        step = planned.steps[id(plan)] = _step(ready, planned, plan)
    return step if ready.walks or step is None or step.mode in SCANS else None


def _step(ready: ReadyShard, planned: PlannedShard, plan: Plan) -> Step | None:
    mode, width = MODES.get(plan.traversal), max(plan.ef, plan.n_candidates)
    if mode == layout.HNSW_RESULT_FILTER and planned.passing is None:
        mode = layout.HNSW
    if mode is None or width > layout.MAX_BEAM:
        return None
    asked = _asked(ready, plan, planned.passing, mode, planned.plans.k)
    return Step(plan, planned.passing, mode, width, asked)


def _asked(ready: ReadyShard, plan: Plan, passing: Bitmap | None, mode: int, k: int) -> Asked:
    return Asked(
        ready.kernel.n,
        passing,
        mode,
        ef=plan.ef,
        n_seeds=plan.n_seeds,
        n_candidates=plan.n_candidates,
        k=k,
        n_matching=plan.n_matching,
    )


def is_uncut(step: Step) -> bool:
    """Whether a step's kernel call would be a long scan of which somebody may want to call off the rest.

    The pipeline scans in pieces, and finds the same.
    """
    rows = step.plan.n_matching
    return step.mode == layout.SCAN and rows > scan.PIECE_ROWS and current_check() is not None


def find_one(ready: ReadyShard, step: Step, query: Float32s, k: int) -> OneAnswer:
    """Answer one query on one shard, as `find` does; its status is not 0 where a vector was not resident.

    Args:
        ready: the shard.
        step: the plan of the query.
        query: float32[d], C-contiguous, checked.
        k: answers wanted.
    """
    if step.plan.n_matching == 0:
        return OneAnswer(layout.ANSWERED, [], [], [0] * layout.N_COUNTERS)
    scratch = SCRATCH.take()
    try:
        found = answer_one(ready.kernel, query, step.asked, scratch)
        if found.status != layout.TOO_FEW:
            return found
        # The graph does not reach enough of the passing rows: look at every one of them.
        check_cancelled()
        if is_uncut(step._replace(mode=layout.SCAN)):
            return found
        asked = _asked(ready, step.plan, step.passing, layout.SCAN, k)
        again = answer_one(ready.kernel, query, asked, scratch)
        again.counters[layout.N_DISTANCES] += found.counters[layout.N_DISTANCES]
        return again
    finally:
        SCRATCH.give(scratch)


def find(
    ready: ReadyShard, step: Step, queries: Float32s, k: int, found: Found, gaps: Float32s | None = None
) -> None:
    """Answer queries on one shard; releases the interpreter's lock while the kernel runs.

    Args:
        ready: the shard.
        step: the plan of all these queries.
        queries: float32[m, d], C-contiguous, checked.
        k: answers wanted.
        found: of the size for m queries, written.
        gaps: float32[m, K], the distances of the clusters (`Look`), or None where nobody asked for them.
    """
    if step.plan.n_matching == 0:
        found.node_ids[:], found.distances[:] = layout.NO_NODE, np.inf
        found.counters[:], found.lacks[:] = 0, 0
        return
    _call(ready, step, queries, k, found, gaps)
    if not (found.lacks == layout.TOO_FEW).any():
        return
    # The graph does not reach enough of the passing rows: look at every one of them.
    check_cancelled()
    if is_uncut(step._replace(mode=layout.SCAN)):
        return
    few = np.flatnonzero(found.lacks == layout.TOO_FEW)
    again = Found.room(len(few), k)
    _call(ready, step._replace(mode=layout.SCAN), queries[few], k, again)
    again.counters[:, layout.N_DISTANCES] += found.counters[few, layout.N_DISTANCES]
    found.node_ids[few], found.distances[few] = again.node_ids, again.distances
    found.counters[few], found.lacks[few] = again.counters, again.lacks


def _call(
    ready: ReadyShard, step: Step, queries: Float32s, k: int, found: Found, gaps: Float32s | None = None
) -> None:
    scratch = SCRATCH.take()
    try:
        answer(
            ready.kernel,
            queries,
            step.passing,
            step.mode,
            ef=step.width,
            n_seeds=step.plan.n_seeds,
            n_candidates=step.plan.n_candidates,
            k=k,
            n_matching=step.plan.n_matching,
            scratch=scratch,
            out_ids=found.node_ids,
            out_distances=found.distances,
            counters=found.counters,
            status=found.lacks,
            gaps=gaps,
        )
    finally:
        SCRATCH.give(scratch)
