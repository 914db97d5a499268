"""Warming in the background: small shards whole after their first query, merged shards as their forerunners
were."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from vstore.cache import BlockKey
from vstore.errors import VstoreError
from vstore.ingest.view import LiveShard
from vstore.query.search import Engine
from vstore.query.successors import hot_clusters, successor_keys
from vstore.query.warming import Cancelled, Warming, whole_keys
from vstore.shard.reader import Shard

log = logging.getLogger(__name__)

DEFAULT_BYTES: Final = 32 << 20
"""On S3; elsewhere nothing is far enough away to be fetched ahead."""

Shards = Sequence[LiveShard[Shard]]


def limit_of(hydrate_bytes: int | None, url: str) -> int:
    """Return the size, in bytes, up to which shards of the store at `url` are hydrated."""
    if hydrate_bytes is None:
        return DEFAULT_BYTES if url.startswith("s3://") else 0
    return hydrate_bytes


@dataclass(slots=True)
class HydrationStats:
    """Totals: shards hydrated whole, shards warmed after a merge, failures, and bytes read for all of it."""

    n_hydrated: int = 0
    n_succeeded: int = 0
    n_failed: int = 0
    bytes_fetched: int = 0


class Hydration:
    """What a connection reads in the background: one thread at most, while there is something to do.
    Thread-safe.

    What it reads is in no receipt: no answer waits for it. A failure is told once a shard, in the log, and a
    query that needs the blocks reads them itself.

    Args:
        engine: its cache is filled, as long as that pushes nothing out.
        limit_bytes: shards of at most this size are hydrated whole; 0 does nothing at all, after merges
            neither.
    """

    def __init__(self, engine: Engine, limit_bytes: int) -> None:
        self._engine = engine
        self._limit_bytes = limit_bytes
        self._changed = threading.Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        self._asked: set[str] = set()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._stats = HydrationStats()

    def stats(self) -> HydrationStats:
        """Return what was done until now."""
        with self._changed:
            stats = self._stats
            return HydrationStats(stats.n_hydrated, stats.n_succeeded, stats.n_failed, stats.bytes_fetched)

    def saw(self, before: Shards | None, now: Shards) -> None:
        """Take note of the shards that a query was answered from; returns at once.

        Args:
            before: those of the handle's query before, None where this was the first.
            now: those of this one.
        """
        if not self._limit_bytes:
            return
        known = {live.shard.shard_id for live in before or ()}
        named = {live.shard.shard_id for live in now}
        came = [live.shard for live in now if live.shard.shard_id not in known]
        gone = [live.shard for live in before or () if live.shard.shard_id not in named]
        large = [shard for shard in came if shard.entry.size_bytes > self._limit_bytes]
        small = [shard for shard in came if shard.entry.size_bytes <= self._limit_bytes]
        jobs: list[Callable[[], None]] = []
        with self._changed:
            if gone:
                jobs.append(partial(self._succeed, gone, large))
            jobs += [partial(self._hydrate, shard) for shard in small if shard.shard_id not in self._asked]
            self._asked.update(shard.shard_id for shard in small)
            self._asked.difference_update(shard.shard_id for shard in gone)
            if not jobs or self._closed:
                return
            self._jobs.extend(jobs)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="vstore-hydration", daemon=True)
                self._thread.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing is left to do; whether that was so in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None, timeout_s)

    def close(self) -> None:
        """Give up what was not begun, stop after the round of reads that is under way, and wait for that."""
        with self._changed:
            self._closed = True
            self._jobs.clear()
        self.wait()

    def _work(self) -> None:
        try:
            while (job := self._next()) is not None:
                job()
        finally:
            with self._changed:
                if self._thread is threading.current_thread():
                    self._thread = None
                self._changed.notify_all()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            if self._jobs:
                return self._jobs.popleft()
            # Under the same lock, so that a job that comes now starts another thread.
            self._thread = None
            self._changed.notify_all()
            return None

    def _hydrate(self, shard: Shard) -> None:
        """Read the whole of a shard, as far as memory and disk have room."""
        if self._warmed(shard, lambda warming: self._whole(warming, shard)) is not None:
            self._count(n_hydrated=1)

    def _whole(self, warming: Warming, shard: Shard) -> list[BlockKey]:
        session = warming.head(shard)
        return [] if session is None else whole_keys(session, vectors=True)

    def _succeed(self, gone: Sequence[Shard], came: Sequence[Shard]) -> None:
        """Give new shards what those that they replace had in memory, at most as many bytes."""
        cache = self._engine.cache
        hot = [found for shard in gone if (found := hot_clusters(shard, cache)) is not None]
        for shard in gone:
            # No query of a newer view wants it; what is still running holds its blocks.
            cache.drop_shard(shard.shard_id)
        left_bytes = sum(found.stored_bytes for found in hot)
        for shard in came if left_bytes else ():
            n_bytes = self._warmed(shard, partial(successor_keys, shard=shard, hot=hot), left_bytes)
            if n_bytes is not None:
                left_bytes = max(0, left_bytes - n_bytes)
                self._count(n_succeeded=1)

    def _warmed(
        self, shard: Shard, keys: Callable[[Warming], list[BlockKey]], max_bytes: int | None = None
    ) -> int | None:
        """Warm blocks of a shard; return the bytes read, or None where that failed or was given up."""
        warming = Warming(self._engine, max_bytes, lambda: self._closed)
        try:
            warming.run([(shard, keys(warming))], None)
        except Cancelled:
            return None
        except VstoreError as error:
            self._count(n_failed=1)
            if not self._closed:
                log.warning("shard %s was not read ahead: %s", shard.shard_id, error)
            return None
        finally:
            self._count(bytes_fetched=warming.meter.bytes_fetched)
        return warming.meter.bytes_fetched

    def _count(self, **counts: int) -> None:
        with self._changed:
            for name, count in counts.items():
                setattr(self._stats, name, getattr(self._stats, name) + count)
