"""Reading ahead of searches what they will want: of a collection, of some shards, or for one filter."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from vstore.cache import BlockKey
from vstore.errors import InvalidInput, nearest
from vstore.filters import Filter
from vstore.ingest.view import CollectionView, LiveShard
from vstore.progress import progress_of
from vstore.query.passing import PassingRows
from vstore.query.pipeline import passing_rows, plans_for
from vstore.query.request import SearchRequest
from vstore.query.rounds import Rounds
from vstore.query.search import Engine
from vstore.settings import require
from vstore.shard import sections
from vstore.shard.fetch import ReadMeter, fetch
from vstore.shard.reader import Shard
from vstore.shard.session import ShardSession
from vstore.storage.coalesce import plan_of
from vstore.types import Bitmap, Int32s, Warmed
from vstore_kernels import bitmap, layout

View = CollectionView[Shard]

BATCH_BYTES = 16 << 20
"""Warming reads about this much a round, so that progress moves and memory stays bounded."""
DECODED_SHARE = 4
"""How much larger than stored the decoded form of columns, keys and payload is taken to be."""


class Cancelled(Exception):
    """Whoever asked for a warming no longer wants it."""


class Warming:
    """One warming: what it may read, and what it has read.

    Args:
        engine: its cache is filled.
        max_bytes: the most that may be read from the store; None for no limit.
        cancelled: asked between rounds.

    Raises:
        InvalidSetting: a negative budget.
    """

    def __init__(
        self, engine: Engine, max_bytes: int | None = None, cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        whole = max_bytes is None or (isinstance(max_bytes, int) and not isinstance(max_bytes, bool))
        require(whole and (max_bytes or 0) >= 0, f"max_bytes is {max_bytes!r}; it must be an int, 0 or more")
        self._engine = engine
        self._max_bytes = max_bytes
        self._cancelled = cancelled
        self._n_left = 0
        self.meter = ReadMeter()

    def warmed(self) -> Warmed:
        """Return what was read, and how many blocks were left out."""
        meter = self.meter
        return Warmed(meter.bytes_fetched, meter.n_blocks, meter.n_requests, self._n_left)

    def run(
        self, parts: Sequence[tuple[Shard, Sequence[BlockKey]]], report: Callable[[int, int], None] | None
    ) -> None:
        """Read those of the blocks that no tier holds, in order, until the budget or the room ends.

        Args:
            parts: shards whose head is resident, and blocks of each.
            report: called with (bytes done, bytes in all).

        Raises:
            Cancelled: between two rounds.
            CorruptData, StorageError: reading failed; what came before is kept.
        """
        batches = [batch for shard, keys in parts for batch in self._batches(shard, keys)]
        done, total = 0, sum(size for _, _, size in batches)
        if self._max_bytes is not None:
            total = min(total, self._max_bytes)
        for number, (shard, keys, size) in enumerate(batches):
            if self._cancelled():
                raise Cancelled
            taken = self._take(shard, keys)
            done = min(done + size, total)
            if report is not None:
                report(done, total)
            if taken < len(keys):
                self._n_left += len(keys) - taken + sum(len(rest) for _, rest, _ in batches[number + 1 :])
                return

    def head(self, shard: Shard) -> ShardSession | None:
        """Return a session that holds the shard's head, or None where the budget does not allow for it."""
        session = ShardSession(shard, self._engine.cache)
        key = session.key(sections.HEAD)
        if session.missing([key]) and not self._affordable(session, [key]):
            self._n_left += 1
            return None
        return self._open(shard)

    def _open(self, shard: Shard) -> ShardSession:
        session = ShardSession(shard, self._engine.cache, evict=False)
        self._fetch(session, session.missing([session.key(sections.HEAD)]))
        return session

    def _fetch(self, session: ShardSession, keys: Sequence[BlockKey]) -> None:
        if keys:
            fetch(self._engine.store, self._engine.cache.disk, [(session, keys)], self.meter, ahead=False)

    def passing(self, session: ShardSession, live: LiveShard[Shard], filter: Filter | None) -> Bitmap | None:
        """Return the live rows that pass, reading of the columns what a search with the filter reads."""
        rounds = Rounds(self._engine.store, self._engine.cache.disk)
        rounds.meter = self.meter
        # Rows remembered from earlier searches would spare the columns, which are to be warm too.
        (passing,) = rounds.run([(session, passing_rows(session, live, filter, PassingRows()))])
        return passing

    def _batches(self, shard: Shard, keys: Sequence[BlockKey]) -> Iterator[tuple[Shard, list[BlockKey], int]]:
        """Yield what is to be read in rounds, without what memory or a full memory's disk tier holds."""
        cache = self._engine.cache
        session = self._open(shard)
        held = set(cache.resident(shard.shard_id))
        batch: list[BlockKey] = []
        weight = 0
        for key in dict.fromkeys(keys):
            if key in held or key._replace(block=sections.WHOLE) in held:
                continue
            batch.append(key)
            weight += session.range_of(key).length or 0
            if weight >= BATCH_BYTES:
                yield shard, batch, weight
                batch, weight = [], 0
        if batch:
            yield shard, batch, weight

    def _take(self, shard: Shard, keys: Sequence[BlockKey]) -> int:
        """Make the first of some blocks resident, or at least put them on disk; return how many had room."""
        cache, store = self._engine.cache, self._engine.store
        # A session for each batch, so that no more than a batch is pinned at once.
        session = self._open(shard)
        n_taken = self._n_affordable(session, keys)
        wanted = list(keys[:n_taken])
        if self._fits_memory(session, wanted):
            n_refused = cache.stats().n_refused
            self._fetch(session, wanted)
            if cache.disk is None:
                # What decoded to more than was thought, or what admission turned away.
                self._n_left += cache.stats().n_refused - n_refused
            return n_taken
        disk = cache.disk
        if disk is None or not disk.writable:
            return 0
        lacking = [key for key, there in zip(wanted, disk.has_many(wanted), strict=True) if not there]
        ranges = [session.range_of(key) for key in lacking]
        stats = disk.stats()
        if stats.size_bytes + sum(part.length or 0 for part in ranges) > stats.limit_bytes:
            return 0
        if lacking:
            stored = store.get_many(ranges)
            for key, data in zip(lacking, stored, strict=True):
                shard.decode(key, data, session.head)
            disk.put_many(list(zip(lacking, stored, strict=True)))
            requests = plan_of(store, ranges)
            self.meter.n_requests += len(requests)
            self.meter.bytes_fetched += sum(request.range.length or 0 for request in requests)
            self.meter.n_blocks += len(lacking)
        return n_taken

    def _n_affordable(self, session: ShardSession, keys: Sequence[BlockKey]) -> int:
        if self._affordable(session, keys):
            return len(keys)
        return bisect_left(range(len(keys)), True, key=lambda n: not self._affordable(session, keys[: n + 1]))

    def _affordable(self, session: ShardSession, keys: Sequence[BlockKey]) -> bool:
        if self._max_bytes is None:
            return True
        disk = self._engine.cache.disk
        there = [False] * len(keys) if disk is None else disk.has_many(keys)
        ranges = [session.range_of(key) for key, held in zip(keys, there, strict=True) if not held]
        cost_bytes = sum(request.range.length or 0 for request in plan_of(self._engine.store, ranges))
        return self.meter.bytes_fetched + cost_bytes <= self._max_bytes

    def _fits_memory(self, session: ShardSession, keys: Sequence[BlockKey]) -> bool:
        stats = self._engine.cache.stats()
        return stats.size_bytes + sum(_decoded_bytes(session, key) for key in keys) <= stats.limit_bytes


def _decoded_bytes(session: ShardSession, key: BlockKey) -> int:
    head = session.head
    if key.section == sections.LISTS:
        return head.block_of(key.block) * head.M0 * 4
    if key.section == sections.CODES:
        return head.block_of(key.block) * head.code_params.row_bytes
    if key.section == sections.VECTORS:
        return head.vector_block_rows * head.dim * 4
    return DECODED_SHARE * (session.range_of(key).length or 0)


def warm(
    view: View,
    engine: Engine,
    progress: bool | Callable[[int, int], None],
    filter: Filter | None = None,
    shards: str | Sequence[str] | None = None,
    max_bytes: int | None = None,
    vectors: bool = False,
) -> Warmed:
    """Read what searching needs into the cache; what any tier holds is not read again.

    Args:
        view: the rows to warm for.
        engine: its cache is filled.
        progress: True for a bar on a terminal, or a callable of (bytes done, bytes in all).
        filter: only what a search with it would want: its columns, and blocks that hold matching rows.
        shards: only these, by their ids.
        max_bytes: the most to read from the store.
        vectors: exact vectors and payload too, so that a search reads nothing at all.

    Raises:
        InvalidInput: an unknown shard, or a budget that is none.
        CorruptData, StorageError: reading failed; what came before is kept.
    """
    warming = Warming(engine, max_bytes)
    chosen = chosen_shards(view, shards)
    parts: list[tuple[Shard, list[BlockKey]]] = []
    with progress_of(progress, f"warming {view.manifest.name}", unit="bytes") as report:
        for live in chosen:
            session = warming.head(live.shard)
            if session is None:
                continue
            if filter is None:
                parts.append((live.shard, whole_keys(session, vectors)))
            else:
                passing = warming.passing(session, live, filter)
                parts.append((live.shard, filtered_keys(session, filter, passing, vectors)))
        warming.run(parts, report)
    return warming.warmed()


def chosen_shards(view: View, shards: str | Sequence[str] | None) -> list[LiveShard[Shard]]:
    """Return the shards of a view that have these ids; None is all.

    Raises:
        InvalidInput: the view has no such shard.
    """
    if shards is None:
        return list(view.shards)
    by_id = {live.shard.shard_id: live for live in view.shards}
    wanted = [shards] if isinstance(shards, str) else list(shards)
    for shard_id in wanted:
        if shard_id not in by_id:
            raise InvalidInput(
                f"{view.manifest.name!r} has no shard {shard_id!r}{nearest(str(shard_id), by_id)}; "
                "a receipt's plans name a collection's shards"
            )
    return [by_id[shard_id] for shard_id in dict.fromkeys(wanted)]


def whole_keys(session: ShardSession, vectors: bool) -> list[BlockKey]:
    """Return what any search wants of a shard, the most useful first."""
    shard = session.shard
    keys = [session.key(sections.UPPER), session.key(sections.KEYS), session.key(sections.KEY_INDEX)]
    keys += [session.key(sections.column_section(name)) for name, _ in shard.fields if shard.has_column(name)]
    keys += guide_keys(session, np.arange(len(session.tables.list_table), dtype=np.int32))
    if vectors:
        for section in (sections.VECTORS, sections.PAYLOAD):
            keys += session.keys(section, range(session.head.file.n_blocks(section)))
    return keys


def filtered_keys(
    session: ShardSession, filter: Filter, passing: Bitmap | None, vectors: bool
) -> list[BlockKey]:
    """Return what a search with a filter wants of a shard beside the columns, which told who passes."""
    head = session.head
    rows = np.arange(head.n) if passing is None else bitmap.indices(passing)
    if not len(rows):
        return []
    middle = np.ascontiguousarray(head.centroids[0, : head.dim])
    plan = plans_for(head, SearchRequest(middle, 10, filter, 0.95, None), passing).plan(middle)
    blocks = layout.blocks_of(rows, session.tables.block_shift)
    # A scan reads codes alone; a walk goes by lists too, and an unseeded one by the upper levels.
    keys = [] if plan.traversal in ("scan", "cluster_acorn") else [session.key(sections.UPPER)]
    keys += session.keys(sections.CODES, blocks) if plan.traversal == "scan" else guide_keys(session, blocks)
    if vectors:
        keys += session.keys(sections.VECTORS, np.unique(rows // head.vector_block_rows))
        keys += session.keys(sections.PAYLOAD, np.unique(rows // head.payload_block_rows))
    return keys


def guide_keys(session: ShardSession, blocks: Int32s) -> list[BlockKey]:
    """Return the lists and codes of each block in turn: what a budget cuts short is whole neighbourhoods."""
    pairs = zip(session.keys(sections.LISTS, blocks), session.keys(sections.CODES, blocks), strict=True)
    return [key for pair in pairs for key in pair]
