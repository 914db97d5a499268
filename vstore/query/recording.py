"""A search that writes down what it asked for, round by round, whatever the cache holds.

A recorded search sees what it has asked for and nothing else. So its rounds do not depend on what is cached:
they can be served again, through other caches and from other stores, by `vstore.lab`. What it asks for comes
from the cache all the same, and goes there; the answer is that of any other search. Which traversal is taken
is decided by what is truly resident, as always.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from vstore.cache import BlockCache, BlockKey, DiskTier
from vstore.cancel import check_cancelled
from vstore.query.passing import PassingRows
from vstore.query.rounds import Pipeline, Rounds
from vstore.shard import sections
from vstore.shard.reader import Shard
from vstore.shard.session import ShardSession
from vstore.storage.base import ByteRange, ObjectStore
from vstore.traverse.base import Found
from vstore.types import Hits
from vstore_kernels.search import BlockTables

T = TypeVar("T")

STAGES = ("filter", "traverse", "rescore", "payload")
_STAGE_OF = {
    sections.LISTS: "traverse",
    sections.CODES: "traverse",
    sections.SKETCHES: "traverse",
    sections.UPPER: "traverse",
    sections.VECTORS: "rescore",
    sections.PAYLOAD: "payload",
    sections.KEYS: "payload",
}


@dataclass(slots=True)
class RecordedRound:
    """What a search asked for at once, of all shards."""

    stage: str = ""
    """"filter", "traverse", "rescore" or "payload": the first of these that wanted anything of it."""
    blocks: list[tuple[BlockKey, ByteRange]] = field(default_factory=list)
    """None of them was asked for before by this search."""
    n_hits: int = 0
    """Blocks that were there already, in memory or in the disk tier."""
    n_requests: int = 0
    bytes_fetched: int = 0


class Recorded(NamedTuple):
    """An answer, and how it was come by."""

    hits: Hits
    rounds: list[RecordedRound]


class Recording:
    """The rounds of one search; makes the sessions and the rounds that write to it."""

    def __init__(self) -> None:
        self.rounds: list[RecordedRound] = []
        self.passing = PassingRows()
        """Nothing is remembered of other searches: filter columns are asked for, too."""
        self._now = RecordedRound()

    def session(self, shard: Shard, cache: BlockCache) -> ShardSession:
        """Return a session that writes down what is asked of a shard."""
        return _RecordedSession(shard, cache, self)

    def rounds_over(self, store: ObjectStore, disk: DiskTier | None) -> Rounds:
        """Return rounds that are written down."""
        return _RecordedRounds(store, disk, self)

    @property
    def n_asked(self) -> int:
        """Blocks of the round that is not closed yet."""
        return len(self._now.blocks)

    def ask(self, blocks: Sequence[tuple[BlockKey, ByteRange]]) -> None:
        """Add blocks to the round."""
        self._now.blocks += blocks

    def close(self, n_read: int, n_requests: int, bytes_fetched: int) -> None:
        """End the round, of which the store was asked so much."""
        now, self._now = self._now, RecordedRound()
        wanted = {_STAGE_OF.get(key.section, "filter") for key, _ in now.blocks}
        now.stage = next(stage for stage in STAGES if stage in wanted)
        now.n_hits = len(now.blocks) - n_read
        now.n_requests, now.bytes_fetched = n_requests, bytes_fetched
        self.rounds.append(now)


class _RecordedRounds(Rounds):
    """Every pipeline goes on by one round at a time, also where nothing has to be read for it."""

    def __init__(self, store: ObjectStore, disk: DiskTier | None, recording: Recording) -> None:
        super().__init__(store, disk)
        self._recording = recording

    def _next(self, session: ShardSession, pipeline: Pipeline[T]) -> list[BlockKey]:
        before = self._recording.n_asked
        while True:
            check_cancelled()
            missing = session.missing(next(pipeline))
            if self._recording.n_asked > before:
                return missing

    def _fetch(self, wanted: Sequence[tuple[ShardSession, list[BlockKey]]]) -> None:
        meter = self.meter
        n_requests, n_bytes, n_disk = meter.n_requests, meter.bytes_fetched, meter.n_disk_hits
        lacking = [(session, keys) for session, keys in wanted if keys]
        if lacking:
            super()._fetch(lacking)
        # What the cache's prefetch read beside is no part of what was asked for.
        n_read = sum(len(keys) for _, keys in lacking) - (meter.n_disk_hits - n_disk)
        self._recording.close(max(n_read, 0), meter.n_requests - n_requests, meter.bytes_fetched - n_bytes)


class _VeiledTables(BlockTables):
    """Tables that show some of the blocks of others, which they keep alive."""

    __slots__ = ("_under",)

    def __init__(self, under: BlockTables) -> None:
        super().__init__(under.n, under.M0, under.row_bytes, under.block_shift)
        self._under = under

    def show(self, under: BlockTables, lists: list[int], codes: list[int]) -> None:
        """Show blocks of `under`, which has what was shown before, too."""
        self._under = under
        self.list_table[lists] = under.list_table[lists]
        self.code_table[codes] = under.code_table[codes]

    @property
    def codes_resident(self) -> bool:
        """As `BlockTables.codes_resident`."""
        return bool(self.code_table.all())

    @property
    def resident(self) -> bool:
        """As `BlockTables.resident`."""
        return bool(self.list_table.all() and self.code_table.all())


class _RecordedSession(ShardSession):
    """What the search asked for, before a session that has what the cache has."""

    def __init__(self, shard: Shard, cache: BlockCache, recording: Recording) -> None:
        super().__init__(shard, BlockCache(0))
        self._inner = ShardSession(shard, cache)
        self._recording = recording
        self._veiled: _VeiledTables | None = None
        self._due: list[BlockKey] = []

    @property
    def tables(self) -> BlockTables:
        """As `ShardSession.tables`."""
        if self._veiled is None:
            self._veiled = _VeiledTables(self._inner.tables)
        return self._veiled

    @property
    def codes_known(self) -> bool:
        """As `ShardSession.codes_known`."""
        return self._inner.codes_known

    def missing(self, keys: Sequence[BlockKey]) -> list[BlockKey]:
        """As `ShardSession.missing`; what was not asked for before is written down."""
        asked = list(dict.fromkeys(super().missing(keys)))
        lacking = self._inner.missing(asked)
        self.n_cache_hits = self._inner.n_cache_hits
        self._recording.ask([(key, self._inner.range_of(key)) for key in asked])
        absent = set(lacking)
        self._show([key for key in asked if key not in absent])
        self._due = lacking
        return lacking

    def receive(
        self,
        keys: Sequence[BlockKey],
        stored: Sequence[bytes],
        doubtful: Container[BlockKey] = (),
        again: Callable[[ShardSession, BlockKey], bytes] | None = None,
    ) -> None:
        """As `ShardSession.receive`; what was read ahead stays unseen."""
        self._inner.receive(keys, stored, doubtful, again)
        self._show(self._due)

    def _show(self, keys: Sequence[BlockKey]) -> None:
        lists = [key.block for key in keys if key.section == sections.LISTS]
        codes = [key.block for key in keys if key.section == sections.CODES]
        for key in keys:
            if key.section not in sections.TABLED:
                self._held[key] = self._inner.get(key.section, key.block)
        if lists or codes:
            veiled = self.tables
            assert isinstance(veiled, _VeiledTables)
            veiled.show(self._inner.tables, lists, codes)

    def range_of(self, key: BlockKey) -> ByteRange:
        """As `ShardSession.range_of`."""
        return self._inner.range_of(key)

    def ahead(self, missing: Sequence[BlockKey]) -> list[BlockKey]:
        """As `ShardSession.ahead`."""
        return self._inner.ahead(missing)

    def used(self, found: Found) -> None:
        """As `ShardSession.used`: nothing was used that was not asked for."""

    def _meet(self, resident: Sequence[BlockKey]) -> None:
        """Count nothing: what is there was asked for, and counted then."""

    def release(self, section: str) -> None:
        """As `ShardSession.release`."""
        super().release(section)
        self._inner.release(section)
