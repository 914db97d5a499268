"""Drives the pipelines of many shards in lockstep: one parallel round of reads for all of them.

A pipeline yields the keys of the blocks that it needs and is resumed when they are resident. So the
number of dependent round trips of an answer is the largest of its shards', not their sum.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from vstore.cache import BlockKey
from vstore.shard.session import ShardSession
from vstore.storage.base import ObjectStore
from vstore.storage.coalesce import plan_of

T = TypeVar("T")

Pipeline = Generator[Sequence[BlockKey], None, T]


@dataclass(slots=True)
class ReadMeter:
    """What the rounds of one answer cost on storage."""

    n_round_trips: int = 0
    n_requests: int = 0
    bytes_fetched: int = 0
    n_blocks: int = 0
    read_ms: float = 0.0


class Rounds:
    """Runs pipelines over one store and meters what they read."""

    def __init__(self, store: ObjectStore) -> None:
        self.meter = ReadMeter()
        self._store = store

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
                        wanted[position] = _next_missing(session, pipeline)
                    except StopIteration as stop:
                        results[position] = stop.value
                if wanted:
                    self._fetch([(pipelines[position][0], keys) for position, keys in wanted.items()])
                running = list(wanted)
        finally:
            for _, pipeline in pipelines:
                pipeline.close()
        return results

    def _fetch(self, wanted: Sequence[tuple[ShardSession, list[BlockKey]]]) -> None:
        started = time.perf_counter()
        ranges = [part for session, keys in wanted for part in session.ranges(keys)]
        stored = self._store.get_many(ranges)
        requests = plan_of(self._store, ranges)
        self.meter.n_round_trips += 1
        self.meter.n_requests += len(requests)
        self.meter.bytes_fetched += sum(request.range.length or 0 for request in requests)
        at = 0
        for session, keys in wanted:
            session.receive(keys, stored[at : at + len(keys)])
            at += len(keys)
            self.meter.n_blocks += len(keys)
        self.meter.read_ms += (time.perf_counter() - started) * 1e3


def _next_missing(session: ShardSession, pipeline: Pipeline[T]) -> list[BlockKey]:
    while True:
        missing = session.missing(next(pipeline))
        if missing:
            return missing
