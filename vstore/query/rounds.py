"""Drives the pipelines of many shards in lockstep: one parallel round of reads for all of them.

A pipeline yields the keys of the blocks that it needs and is resumed when they are resident. So the
number of dependent round trips of an answer is the largest of its shards', not their sum.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import Any, TypeVar

from vstore.cache import BlockKey, DiskTier
from vstore.cancel import check_cancelled
from vstore.errors import QueryStopped
from vstore.shard.fetch import ReadMeter, fetch
from vstore.shard.session import ShardSession
from vstore.storage.base import ObjectStore

T = TypeVar("T")

Pipeline = Generator[Sequence[BlockKey], None, T]


class Rounds:
    """Runs pipelines over one store and meters what they read.

    Args:
        store: holds the shards.
        disk: the disk tier of the cache, asked before the store, if any.
        partial: a query that is stopped has the results of the pipelines that had ended, None for others.
    """

    def __init__(self, store: ObjectStore, disk: DiskTier | None = None, *, partial: bool = False) -> None:
        self.meter = ReadMeter()
        self.stopped: QueryStopped | None = None
        """What ended the rounds early, where that is no error."""
        self._partial = partial
        self._store = store
        self._disk = disk

    def run(self, pipelines: Sequence[tuple[ShardSession, Pipeline[T]]]) -> list[T]:
        """Run every pipeline to its end and return their results, in order.

        Raises: what a pipeline or the store raises; all pipelines are closed.
        """
        results: list[Any] = [None] * len(pipelines)
        running = list(range(len(pipelines)))
        try:
            while running:
                wanted: dict[int, list[BlockKey]] = {}
                for position in running:
                    session, pipeline = pipelines[position]
                    try:
                        wanted[position] = self._next(session, pipeline)
                    except StopIteration as stop:
                        results[position] = stop.value
                if wanted:
                    self._fetch([(pipelines[position][0], keys) for position, keys in wanted.items()])
                running = list(wanted)
        except QueryStopped as error:
            if not self._partial:
                raise
            self.stopped = error
        finally:
            for _, pipeline in pipelines:
                pipeline.close()
        return results

    def _next(self, session: ShardSession, pipeline: Pipeline[T]) -> list[BlockKey]:
        """Run a pipeline until it lacks blocks, and return these."""
        while True:
            check_cancelled()
            missing = session.missing(next(pipeline))
            if missing:
                return missing

    def _fetch(self, wanted: Sequence[tuple[ShardSession, list[BlockKey]]]) -> None:
        started = time.perf_counter()
        fetch(self._store, self._disk, wanted, self.meter)
        self.meter.read_ms += (time.perf_counter() - started) * 1e3
